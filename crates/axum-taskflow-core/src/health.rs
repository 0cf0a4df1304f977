//! What does not work at the moment, since when and why.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::clock::Timestamp;

/// Whether a manager does its work, from [`TaskManager::health`](crate::TaskManager::health).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What is wrong; empty if nothing is. [`Duty::Orphan`] alone leaves the manager ready.
    pub troubles: Vec<Trouble>,
}

impl Health {
    /// True if tasks can be added and run.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut duties = self.troubles.iter().map(|trouble| trouble.duty);
        duties.all(|duty| duty == Duty::Orphan)
    }
}

/// A duty that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trouble {
    /// Which.
    pub duty: Duty,
    /// Since when.
    pub since: Timestamp,
    /// Why, in the words of the last failure. May name files and servers.
    pub why: String,
}

/// What a manager does all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Duty {
    /// Storing new tasks, and what became of others.
    Write,
    /// Taking tasks that nobody holds.
    Claim,
    /// Taking over from instances that died.
    Rescue,
    /// Taking over single tasks that the store refuses to change. All others are taken over.
    Orphan,
    /// Showing the others that this instance is alive.
    Beat,
    /// Firing schedules.
    Schedule,
    /// Taking more tasks: it is shutting down.
    Serve,
}

impl Duty {
    /// What it means that the duty cannot be done, for people.
    #[must_use]
    pub fn complaint(self) -> &'static str {
        match self {
            Self::Write => "the task store cannot be written",
            Self::Claim => "no tasks can be taken from the task store",
            Self::Rescue => "tasks of instances that died cannot be taken over",
            Self::Orphan => {
                "the task store refuses to let tasks of instances that died be taken over"
            }
            Self::Beat => "this instance cannot show that it is alive",
            Self::Schedule => "schedules cannot be fired",
            Self::Serve => "the task manager is shutting down",
        }
    }
}

/// What is wrong now.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// A std mutex: held for one map operation.
    now: Mutex<BTreeMap<Duty, Trouble>>,
    /// What the store was asked for and has not answered. A std mutex, as above.
    asked: Mutex<BTreeMap<Duty, (Instant, Timestamp)>>,
}

impl Troubles {
    pub(crate) fn begin(&self, duty: Duty, since: Timestamp, why: &impl fmt::Display) {
        let why = why.to_string();
        self.lock()
            .entry(duty)
            .and_modify(|trouble| trouble.why.clone_from(&why))
            .or_insert(Trouble { duty, since, why });
    }

    /// The duty was done.
    pub(crate) fn end(&self, duty: Duty) {
        self.lock().remove(&duty);
    }

    /// The store is asked, and [`Troubles::answered`] follows, whatever it says.
    pub(crate) fn asked(&self, duty: Duty, now: Timestamp) {
        let since = (Instant::now(), now);
        self.lock_asked().entry(duty).or_insert(since);
    }

    pub(crate) fn answered(&self, duty: Duty) {
        self.lock_asked().remove(&duty);
    }

    /// Why the duty could not be done the last time, if it could not.
    pub(crate) fn why(&self, duty: Duty) -> Option<String> {
        self.lock().get(&duty).map(|trouble| trouble.why.clone())
    }

    /// What is wrong. A store that does not answer for longer than `patience` is no better than one that fails.
    pub(crate) fn health(&self, patience: Duration) -> Health {
        let mut troubles = self.lock().clone();
        for (duty, (asked, since)) in &*self.lock_asked() {
            if asked.elapsed() > patience {
                troubles.entry(*duty).or_insert_with(|| Trouble {
                    duty: *duty,
                    since: *since,
                    why: format!("the task store has not answered for {patience:?}"),
                });
            }
        }
        Health {
            troubles: troubles.into_values().collect(),
        }
    }

    fn lock_asked(&self) -> MutexGuard<'_, BTreeMap<Duty, (Instant, Timestamp)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Duty, Trouble>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_trouble_keeps_its_beginning_and_tells_its_last_reason() {
        let troubles = Troubles::default();
        let at = Timestamp::from_unix_ms;

        troubles.begin(Duty::Write, at(1), &"locked");
        troubles.begin(Duty::Write, at(2), &"full");
        troubles.begin(Duty::Beat, at(3), &"full");
        troubles.end(Duty::Beat);

        let health = troubles.health(PATIENCE);
        assert!(!health.is_ready());
        let [trouble] = &health.troubles[..] else {
            panic!("{health:?}");
        };
        assert_eq!((trouble.since, &*trouble.why), (at(1), "full"));
        troubles.end(Duty::Write);
        assert!(troubles.health(PATIENCE).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_a_trouble_from_when_it_was_asked_until_it_answers() {
        let troubles = Troubles::default();
        let at = Timestamp::from_unix_ms(1);
        troubles.asked(Duty::Write, at);
        tokio::time::advance(PATIENCE).await;
        assert!(troubles.health(PATIENCE).is_ready());

        tokio::time::advance(Duration::from_millis(1)).await;

        let health = troubles.health(PATIENCE);
        let [trouble] = &health.troubles[..] else {
            panic!("{health:?}");
        };
        assert_eq!((trouble.duty, trouble.since), (Duty::Write, at));
        troubles.answered(Duty::Write);
        assert!(troubles.health(PATIENCE).is_ready());
    }
}
