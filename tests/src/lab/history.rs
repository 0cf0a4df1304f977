//! What happened in a laboratory.

use std::{collections::HashMap, path::Path};

use axum_taskflow::{Backend, ListQuery, Sqlite, Task, TaskId};

use super::{
    LabError,
    effects::{self, Effect, Moment},
    errand::{Cancel, Errand},
    process::Process,
};

/// What happened, for the checker.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was ordered, by number.
    pub errands: HashMap<u64, Errand>,
    /// The answers to orders: the errand and the task.
    pub accepted: Vec<(u64, TaskId)>,
    /// Orders without an answer: a task may be there or not.
    pub unknown: u64,
    /// What came of wishes to cancel a task, and when that was known.
    pub cancels: Vec<(TaskId, Cancel, Moment)>,
    /// The processes that came to listen.
    pub lives: Vec<Life>,
    /// From when to when a process was stopped.
    pub stops: Vec<(Moment, Moment)>,
    /// Processes that were killed.
    pub n_kills: u64,
    /// Processes that were told to end.
    pub n_terms: u64,
    /// Processes that were stopped for a while.
    pub n_stops: u64,
    /// Processes that ended by themselves: a task or a crash point aborted them.
    pub n_aborts: u64,
    /// What tasks did.
    pub effects: Vec<Effect>,
    /// What is stored.
    pub stored: Vec<Task>,
}

/// One process, from the moment when it listened.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its number.
    pub pid: u32,
    /// Since when it listened.
    pub from: Moment,
    /// When it was killed or told to end; nothing if it ended by itself.
    pub told: Option<Moment>,
    /// When it was seen to be gone, and how it went.
    pub gone: Option<(Moment, Gone)>,
}

/// How a process went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// By `SIGKILL`: it was dead soon after it was sent.
    Killed,
    /// By `SIGTERM`: it may have lived until it was seen to be gone.
    Ended,
    /// By itself: it was dead some time before it was seen to be gone.
    Fell,
}

impl History {
    pub(super) fn begins(&mut self, process: &Process) {
        self.lives.push(Life {
            pid: process.pid,
            from: Moment::now(),
            told: None,
            gone: None,
        });
    }

    pub(super) fn is_told(&mut self, pid: u32, told: Moment) {
        if let Some(life) = self.latest(pid) {
            life.told = Some(told);
        }
    }

    pub(super) fn is_gone(&mut self, pid: u32, how: Gone) {
        match how {
            Gone::Killed => self.n_kills += 1,
            Gone::Ended => self.n_terms += 1,
            Gone::Fell => self.n_aborts += 1,
        }
        if let Some(life) = self.latest(pid) {
            life.gone = Some((Moment::now(), how));
        }
    }

    /// Numbers come back: the process that has this one now.
    fn latest(&mut self, pid: u32) -> Option<&mut Life> {
        self.lives.iter_mut().rfind(|life| life.pid == pid)
    }

    /// Adds what one caller has seen.
    pub(super) fn add(&mut self, of_caller: Self) {
        self.errands.extend(of_caller.errands);
        self.accepted.extend(of_caller.accepted);
        self.unknown += of_caller.unknown;
        self.cancels.extend(of_caller.cancels);
    }

    /// Adds what is on disk. No process runs any more.
    pub(super) async fn read(&mut self, folder: &Path) -> Result<(), LabError> {
        self.effects = effects::read(folder)?;
        self.stored = stored(folder).await?;
        Ok(())
    }
}

async fn stored(folder: &Path) -> Result<Vec<Task>, LabError> {
    let file = Sqlite::open(folder.join("tasks.db"))?;
    let mut query = ListQuery::default();
    query.limit = 10_000;
    let mut stored = Vec::new();
    loop {
        let page = file.list(query.clone()).await?;
        stored.extend(page.tasks);
        query.before = page.next;
        if query.before.is_none() {
            return Ok(stored);
        }
    }
}
