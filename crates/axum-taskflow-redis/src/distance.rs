//! How far away the server is.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A server is far if no answer comes sooner. One on this machine needs half of it while both are busy; any answer may
/// wait, there or here, so the fastest counts.
const FAR: Duration = Duration::from_micros(400);
/// Of so many answers. Fewer say nothing: on a busy machine most take longer than this.
const ANSWERS: usize = 12;

/// What the last answers to small questions took.
#[derive(Default)]
pub(crate) struct Distance {
    /// A std mutex: held for one look.
    answers: Mutex<VecDeque<Duration>>,
}

impl Distance {
    pub(crate) fn answered_after(&self, time: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        answers.push_back(time);
    }

    /// False if it is not known yet.
    pub(crate) fn is_far(&self) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.len() == ANSWERS && answers.iter().all(|time| *time > FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_far_while_none_of_the_last_answers_was_fast() {
        let distance = Distance::default();
        for _ in 0..ANSWERS {
            assert!(!distance.is_far());
            distance.answered_after(FAR * 2);
        }
        assert!(distance.is_far());

        distance.answered_after(FAR / 2);
        for _ in 1..ANSWERS {
            assert!(!distance.is_far());
            distance.answered_after(FAR * 2);
        }
        assert!(!distance.is_far());
        distance.answered_after(FAR * 2);
        assert!(distance.is_far(), "the fast one is long ago");
    }
}
