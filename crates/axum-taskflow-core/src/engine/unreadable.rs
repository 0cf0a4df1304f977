//! Tasks that this program cannot read: they wait for an instance that can, and are not claimed again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Engine;
use crate::{clock::Timestamp, error::Error, id::TaskId, task::Task};

/// How many are remembered // more: they wait a minute between two tries
const REMEMBERED_MAX: usize = 1_000;
/// For how long: most are run by somebody else meanwhile, and one that is not is tried again.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    /// With the time until which each is remembered. A std mutex: held for one look.
    tasks: Mutex<BTreeMap<TaskId, Timestamp>>,
}

impl Unreadable {
    /// True if the task will not be claimed again for a while.
    pub(crate) fn remember(&self, id: TaskId, now: Timestamp) -> bool {
        let mut tasks = self.lock();
        if tasks.len() >= REMEMBERED_MAX && !tasks.contains_key(&id) {
            return false;
        }
        tasks.insert(id, now.saturating_add(REMEMBERED_FOR));
        true
    }

    /// Those that are not to be claimed.
    pub(crate) fn ids(&self, now: Timestamp) -> Arc<BTreeSet<TaskId>> {
        let mut tasks = self.lock();
        if tasks.is_empty() {
            return Arc::default();
        }
        tasks.retain(|_, until| *until > now);
        Arc::new(tasks.keys().copied().collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Timestamp>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// A task that is to be changed or repeated. Of one that the store can read only in part, the rest would be lost.
    pub(crate) async fn readable(&self, id: TaskId) -> Result<Option<Task>, Error> {
        let task = self.backend.get(id).await?;
        match task.as_ref().and_then(Task::unreadable) {
            Some(why) => Err(Error::conflict(format!(
                "task {id} is left to another program: {why}"
            ))),
            None => Ok(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdSource;

    #[test]
    fn a_bounded_number_is_remembered_and_for_a_bounded_time() {
        let (unreadable, ids) = (Unreadable::default(), IdSource::default());
        let at = Timestamp::from_unix_ms;

        let n_remembered = (0..1_500)
            .filter(|_| unreadable.remember(ids.task(at(0)), at(0)))
            .count();

        assert_eq!(n_remembered, 1_000);
        assert_eq!(unreadable.ids(at(1)).len(), 1_000);
        let later = at(0).saturating_add(REMEMBERED_FOR);
        assert_eq!(unreadable.ids(later).len(), 0);
        assert!(unreadable.remember(ids.task(later), later));
    }
}
