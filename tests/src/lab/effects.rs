//! What tasks do, on disk: a line each, appended in one write and flushed, so that it outlives whoever wrote it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum_taskflow::{TaskContext, TaskId};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// When something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Microseconds of the clock that all processes of this machine share and nobody can set: it tells what was first.
    pub mono_us: u64,
    /// Microseconds of the clock on the wall, to compare with what is stored.
    pub wall_us: u64,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let mono = clock_gettime(ClockId::Monotonic);
        let mono_us = mono.tv_sec * 1_000_000 + mono.tv_nsec / 1_000;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            mono_us: u64::try_from(mono_us).unwrap_or(0),
            wall_us: wall.map_or(0, |it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The task.
    pub id: TaskId,
    /// Its attempt.
    pub attempt: u32,
    /// The attempt's fencing token.
    pub epoch: u32,
    /// The process.
    pub pid: u32,
    /// When. Flat, since what a torn line leaves is told by the last brace that opens.
    #[serde(flatten)]
    pub at: Moment,
    /// What happened: `began`, `ended`, `failed`, `dropped`, `aborting`, and whatever else a task wants to say.
    pub what: String,
    /// What for.
    pub label: String,
}

/// The file that tasks append to.
#[derive(Clone, Debug)]
pub struct Effects(Arc<File>);

impl Effects {
    /// The file in this folder, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true);
        Ok(Self(Arc::new(file.open(folder.join("effects"))?)))
    }

    /// Appends a line in one write, so that no two lines mix and none is torn.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note(&self, ctx: &TaskContext, what: &str, label: &str) -> io::Result<()> {
        let effect = Effect {
            id: ctx.id(),
            attempt: ctx.attempt(),
            epoch: ctx.epoch().get(),
            pid: std::process::id(),
            at: Moment::now(),
            what: what.to_owned(),
            label: label.to_owned(),
        };
        let mut line = serde_json::to_vec(&effect)?;
        line.push(b'\n');
        let mut file = &*self.0;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Notes that a function begins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&self, ctx: &TaskContext, label: &str) -> io::Result<Call> {
        self.note(ctx, "began", label)?;
        Ok(Call {
            effects: self.clone(),
            ctx: ctx.clone(),
            label: label.to_owned(),
            is_over: false,
        })
    }
}

/// A call of a function, from its first line on. Notes `dropped` if it is cut off, as at a shutdown: whatever runs
/// elsewhere from then on does not run beside it.
#[derive(Debug)]
pub struct Call {
    effects: Effects,
    ctx: TaskContext,
    label: String,
    is_over: bool,
}

impl Call {
    /// Notes something on the way.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note(&self, what: &str) -> io::Result<()> {
        self.effects.note(&self.ctx, what, &self.label)
    }

    /// Notes how the function ends: `ended` or `failed`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(mut self, what: &str) -> io::Result<()> {
        self.is_over = true;
        self.note(what)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.note("dropped"); // without it the checker is only stricter
        }
    }
}

/// All lines that are whole, oldest first.
///
/// # Errors
/// If the file cannot be read, or holds something else.
pub fn read(folder: &Path) -> io::Result<Vec<Effect>> {
    let text = match std::fs::read_to_string(folder.join("effects")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let n_whole = text.matches('\n').count();
    let lines = text.lines().take(n_whole);
    // A process that is killed while it writes over the end of a page leaves a part of its line, and the next one
    // follows it at once.
    let whole = lines.filter_map(|line| line.get(line.rfind('{')?..));
    let effects = whole.map(|line| serde_json::from_str(line).map_err(io::Error::from));
    let mut effects: Vec<Effect> = effects.collect::<io::Result<_>>()?;
    effects.sort_by_key(|effect| effect.at.mono_us);
    Ok(effects)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "this is test code")]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_torn_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let effect = Effect {
            id: TaskId::floor(axum_taskflow::Timestamp::default()),
            attempt: 1,
            epoch: 2,
            pid: 3,
            at: Moment::default(),
            what: "began".to_owned(),
            label: "5".to_owned(),
        };
        let line = serde_json::to_string(&effect).unwrap();
        let torn = &line[..30];
        let text = format!("{line}\n{torn}{line}\n{torn}");
        std::fs::write(folder.path().join("effects"), text).unwrap();

        assert_eq!(read(folder.path()).unwrap(), [effect.clone(), effect]);
    }
}
