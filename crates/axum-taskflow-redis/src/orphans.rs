//! Tasks of the dead, and those among them that this program cannot read.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum_taskflow_core::{BackendError, Task};
use tokio::time::Instant;

use crate::{
    TASKS_MAX, answer,
    link::{Link, ORPHANS},
    record::Stored,
};

/// Then those that could not be read are read again: somebody may have repaired them.
const AGAIN_IN: Duration = Duration::from_secs(60);
/// Tasks of which it was said that they cannot be read // more: nothing is said of them
const TOLD_MAX: usize = 1_000;

#[derive(Default)]
pub(crate) struct Orphans {
    /// A std mutex: held for one look.
    unreadable: Mutex<Unreadable>,
}

#[derive(Default)]
struct Unreadable {
    /// Up to where nothing of an owner can be read here: one call looks at so many, and they must not hide what is behind
    /// them. At most one for each of the dead.
    passed: HashMap<String, Passed>,
    told: BTreeSet<String>,
}

struct Passed {
    id: String,
    until: Instant,
}

impl Orphans {
    pub(crate) async fn find(&self, link: &Link, limit: usize) -> Result<Vec<Task>, BackendError> {
        let mut call = link.call(&ORPHANS);
        call.though_full().arg(limit.min(TASKS_MAX));
        for (owner, passed) in self.unreadable().still_passed() {
            call.arg(owner).arg(&passed.id);
        }
        let answers = answer::list(link.send(&call).await?)?;
        let mut orphans = Vec::new();
        for [owner, tasks] in answer::groups::<2>(answers) {
            let ((owner, _), n_before) = (answer::text_in_part(owner)?, orphans.len());
            for [id, life, body, progress] in answer::groups::<4>(answer::list(tasks)?) {
                let read = Stored::of([id.clone(), life, body, progress]);
                // An error also if there is text that is none: the others are to be read all the same.
                match read.and_then(|stored| stored.task(usize::MAX)) {
                    Ok(task) => orphans.push(task),
                    Err(why) => {
                        let is_first = orphans.len() == n_before; // behind one for us nothing is passed
                        let owner = is_first.then_some(&owner);
                        let (id, _) = answer::text_in_part(id)?;
                        self.unreadable().note(id, owner, &why);
                    }
                }
            }
        }
        Ok(orphans)
    }

    fn unreadable(&self) -> MutexGuard<'_, Unreadable> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unreadable {
    fn still_passed(&mut self) -> &HashMap<String, Passed> {
        let now = Instant::now();
        self.passed.retain(|_, passed| passed.until > now);
        &self.passed
    }

    /// `owner` if nothing of it can be read up to this task.
    fn note(&mut self, id: String, owner: Option<&String>, why: &BackendError) {
        if self.told.len() < TOLD_MAX && self.told.insert(id.clone()) {
            tracing::error!(task = id, %why, "the task of an instance that died waits for a program that can read it");
        }
        if let Some(owner) = owner {
            // From the last step: however many they are, the way behind them is not begun anew before its end.
            let until = Instant::now() + AGAIN_IN;
            self.passed.insert(owner.clone(), Passed { id, until });
        }
    }
}
