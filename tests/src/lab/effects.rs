//! What tasks do, on disk: a line each, appended in one write and flushed, so that it outlives whoever wrote it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum_taskflow::{TaskContext, TaskId};
use serde::{Deserialize, Serialize};

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
    /// When, in microseconds of the machine's clock.
    pub at_us: u64,
    /// What happened: `began`, `ended`, `failed`, `aborting`, and whatever else a task wants to say.
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
            at_us: now_us(),
            what: what.to_owned(),
            label: label.to_owned(),
        };
        let mut line = serde_json::to_vec(&effect)?;
        line.push(b'\n');
        let mut file = &*self.0;
        file.write_all(&line)?;
        file.sync_data()
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
    effects.sort_by_key(|effect| effect.at_us);
    Ok(effects)
}

/// The time now, in microseconds of the machine's clock.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
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
            at_us: 4,
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
