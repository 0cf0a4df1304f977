//! What the living instances can run together: whether a task that waits will ever be taken.

use std::{collections::HashSet, sync::Arc};

use axum_taskflow_core::{Error, InstanceId, Life, Peer, Task, TaskManager, TaskStatus};

/// The living instances that run tasks. Without any, what can be run is what can be run here.
#[derive(Debug, Default)]
pub(crate) struct Runners {
    ids: HashSet<InstanceId>,
    /// The functions that they know.
    names: HashSet<Arc<str>>,
}

impl Runners {
    pub(crate) fn of(peers: &[Peer]) -> Self {
        let mut runners = Self::default();
        for peer in peers {
            if peer.alive && peer.instance.role.runs_tasks() {
                runners.ids.insert(peer.instance.id);
                runners
                    .names
                    .extend(peer.instance.functions.iter().cloned());
            }
        }
        runners
    }

    /// What is needed to tell of these tasks whether they can be run. The store is asked once, and only if one of
    /// them waits and cannot be run here.
    pub(crate) async fn of_tasks(manager: &TaskManager, tasks: &[Task]) -> Result<Self, Error> {
        let here = Self::default();
        let must_ask = tasks.iter().any(|task| {
            task.life.status == TaskStatus::Pending
                && !here.can_run(manager, &task.name, &task.life)
        });
        match must_ask {
            true => Ok(Self::of(&manager.instances().await?)),
            false => Ok(here),
        }
    }

    /// True if somebody can run the task, as far as functions go.
    pub(crate) fn can_run(&self, manager: &TaskManager, name: &str, life: &Life) -> bool {
        let is_run_here = || manager.instance().role.runs_tasks() && manager.knows(name);
        // An instance says once what it knows. A function that it came to know later is its own, as are its tasks.
        let is_held = || life.owner.is_some_and(|owner| self.ids.contains(&owner));
        self.names.contains(name) || is_run_here() || is_held()
    }
}
