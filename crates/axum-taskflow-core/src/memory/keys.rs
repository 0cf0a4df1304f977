//! Which idempotency keys are taken, by which tasks, and until when.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{clock::Timestamp, id::TaskId};

/// How many keys whose time has passed are forgotten at one write, so that none of them takes long.
const FORGOTTEN_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Keys {
    taken: HashMap<Arc<str>, Key>,
    /// Those with an end.
    ending: BTreeSet<(Timestamp, Arc<str>)>,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: TaskId,
    /// Kept here, since a key outlives its task.
    pub(super) name: Arc<str>,
    until: Option<Timestamp>,
}

impl Keys {
    /// Who has the key at `now`.
    pub(super) fn holder(&self, key: &str, now: Timestamp) -> Option<&Key> {
        self.taken
            .get(key)
            .filter(|taken| taken.until.is_none_or(|until| now < until))
    }

    /// Gives the key to a task, without an end, whoever had it.
    pub(super) fn take(&mut self, key: &str, id: TaskId, name: Arc<str>) {
        let key: Arc<str> = key.into();
        let before = self.taken.insert(
            key.clone(),
            Key {
                id,
                name,
                until: None,
            },
        );
        if let Some(until) = before.and_then(|before| before.until) {
            self.ending.remove(&(until, key));
        }
    }

    /// Frees the key if it is this task's.
    pub(super) fn free(&mut self, key: &str, id: TaskId) {
        if self.taken.get(key).is_some_and(|taken| taken.id == id)
            && let Some((key, taken)) = self.taken.remove_entry(key)
            && let Some(until) = taken.until
        {
            self.ending.remove(&(until, key));
        }
    }

    /// Gives the key an end if it is this task's.
    pub(super) fn keep_until(&mut self, key: &str, id: TaskId, until: Timestamp) {
        let Some(taken) = self.taken.get_mut(key).filter(|taken| taken.id == id) else {
            return;
        };
        let key: Arc<str> = key.into();
        if let Some(before) = taken.until.replace(until) {
            self.ending.remove(&(before, key.clone()));
        }
        self.ending.insert((until, key));
    }

    /// Lets go of some keys whose time has passed at `now`.
    pub(super) fn forget_ended(&mut self, now: Timestamp) {
        for _ in 0..FORGOTTEN_MAX {
            let Some((_, key)) = self
                .ending
                .first()
                .filter(|(until, _)| *until <= now)
                .cloned()
            else {
                return;
            };
            self.ending.pop_first();
            self.taken.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdSource;

    #[test]
    fn ended_keys_leave_memory_whether_or_not_anybody_asks_for_them() {
        let ids = IdSource::default();
        let mut keys = Keys::default();
        for n in 0..3_000_u32 {
            let id = ids.task(Timestamp::default());
            keys.take(&n.to_string(), id, "f".into());
            keys.keep_until(&n.to_string(), id, Timestamp::from_unix_ms(500));
        }
        keys.take("live", ids.task(Timestamp::default()), "f".into());

        for _ in 0..4 {
            keys.forget_ended(Timestamp::from_unix_ms(500));
        }

        assert_eq!((keys.taken.len(), keys.ending.len()), (1, 0));
    }

    #[test]
    fn a_key_that_is_taken_again_does_not_end_with_its_first_task() {
        let ids = IdSource::default();
        let mut keys = Keys::default();
        let first = ids.task(Timestamp::default());
        keys.take("k", first, "f".into());
        keys.keep_until("k", first, Timestamp::from_unix_ms(5));
        let second = ids.task(Timestamp::default());
        keys.take("k", second, "f".into());

        keys.free("k", first);
        keys.keep_until("k", first, Timestamp::from_unix_ms(6));
        keys.forget_ended(Timestamp::MAX);

        let holder = keys.holder("k", Timestamp::MAX).map(|key| key.id);
        assert_eq!(holder, Some(second));
    }
}
