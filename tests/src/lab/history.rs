//! What happened in a laboratory.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use axum_taskflow::{Task, TaskId};

use super::{
    LabError,
    effects::{self, Effect, Moment},
    errand::{Cancel, Errand},
    process::Process,
    store::Opened,
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
    /// When processes were stopped.
    pub stops: Vec<Pause>,
    /// When the server, or the link of a process to it, did not work.
    pub outages: Vec<Pause>,
    /// How long an instance counts as alive that says nothing; nothing where the kernel knows who is dead.
    pub lease: Option<Duration>,
    /// Processes that were killed.
    pub n_kills: u64,
    /// Processes that were told to end.
    pub n_terms: u64,
    /// Processes that were stopped for a while.
    pub n_stops: u64,
    /// Processes that ended by themselves: a task or a crash point aborted them.
    pub n_aborts: u64,
    /// How often the server did not answer for long though nobody had hurt it.
    pub n_silences: u64,
    /// What was done to the server and to links, and how often.
    pub server_faults: BTreeMap<&'static str, u64>,
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

/// A time in which a process could not do its work.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// Its number; nothing if it was so for all.
    pub pid: Option<u32>,
    /// Since when.
    pub from: Moment,
    /// Until when.
    pub until: Moment,
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

    /// Adds the times in which the server did not answer.
    pub(super) fn was_silent(&mut self, silences: Vec<Pause>) {
        let was_hurt = |silence: &&Pause| {
            self.outages.iter().any(|hurt| {
                hurt.pid.is_none()
                    && hurt.from.mono_us <= silence.until.mono_us
                    && silence.from.mono_us <= hurt.until.mono_us
            })
        };
        let n_hurt = silences.iter().filter(was_hurt).count();
        self.n_silences += (silences.len() - n_hurt) as u64;
        self.outages.extend(silences);
    }

    /// Adds what one caller has seen.
    pub(super) fn add(&mut self, of_caller: Self) {
        self.errands.extend(of_caller.errands);
        self.accepted.extend(of_caller.accepted);
        self.unknown += of_caller.unknown;
        self.cancels.extend(of_caller.cancels);
    }

    /// Adds what is stored. No process runs any more.
    pub(super) async fn read(&mut self, folder: &Path, store: &Opened) -> Result<(), LabError> {
        self.effects = effects::read(folder)?;
        self.stored = store.tasks(folder).await?;
        Ok(())
    }
}
