//! What the tests of this crate share.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use axum_taskflow_core::{
    Backend, Batch, Change, IdSource, Instance, InstanceId, Task, Timestamp, Written,
};
use axum_taskflow_sqlite::Sqlite;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

/// A backend that an instance has joined.
pub(crate) struct Boot {
    pub(crate) backend: Sqlite,
    pub(crate) ids: IdSource,
    pub(crate) me: InstanceId,
}

impl Boot {
    pub(crate) async fn of(backend: Sqlite) -> Self {
        let ids = IdSource::default();
        let me = ids.instance(NOW);
        let mut instance = Instance::new(me, NOW);
        instance.host = "test".to_owned();
        backend.join(instance).await.unwrap();
        Self { backend, ids, me }
    }

    pub(crate) async fn at(path: &Path) -> Self {
        Self::of(Sqlite::open(path).unwrap()).await
    }

    /// A task that this instance holds.
    pub(crate) fn owned(&self) -> Task {
        let mut task = Task::new(self.ids.task(NOW), "f", "[]");
        task.life.owner = Some(self.me);
        task
    }

    pub(crate) async fn add(&self, tasks: &[&Task]) -> Written {
        let mut batch = Batch::at(NOW);
        batch.tasks = tasks.iter().map(|task| Arc::new((*task).clone())).collect();
        self.backend.write(Arc::new(batch)).await.unwrap()
    }

    pub(crate) async fn change(&self, change: Change) -> Written {
        let mut batch = Batch::at(NOW);
        batch.changes.push(change);
        self.backend.write(Arc::new(batch)).await.unwrap()
    }
}

/// What a test does in a process of its own: the test runs once more, and finds this in its environment.
const ROLE: &str = "TASKFLOW_TEST_CHILD";

/// What the parent gave along, if this is the child.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A process that plays the child's part of the test `name`.
pub(crate) struct Played {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The child ends when this is closed, so that none outlives a test that failed.
    _stdin: ChildStdin,
}

impl Played {
    pub(crate) fn start(mut command: Command, name: &str, role: &str) -> Self {
        let mut child = command
            .args(["--exact", name, "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        Self {
            _stdin: child.stdin.take().unwrap(),
            lines: BufReader::new(stdout).lines(),
            child,
        }
    }

    /// The rest of the next line that begins with this word.
    pub(crate) fn said(&mut self, word: &str) -> String {
        loop {
            let line = self.lines.next().expect("the child lives").unwrap();
            // The test harness may have written before us on the same line.
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Lets the child come to its end.
    pub(crate) fn end(self) {
        let Self {
            mut child, _stdin, ..
        } = self;
        drop(_stdin);
        child.wait().unwrap();
    }

    /// Whatever the child said and nobody has read, until it is dead.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.map_while(Result::ok).collect()
    }
}

/// Blocks until the parent is gone or closes our standard input.
pub(crate) fn wait_for_the_parent() {
    // Whatever comes, an end or an error: there is nobody left to play for.
    let _ = std::io::stdin().read_line(&mut String::new());
}
