//! Tasks of axum-taskflow in an SQLite file.
//!
//! Nothing to install: SQLite is compiled in. One thread writes, in transactions that everything shares that waits
//! at that moment; another one carries the log over into the file; a few others read. Several processes of one machine may
//! use one file on a local disk.
//!
//! ```
//! # fn main() -> Result<(), axum_taskflow_core::BackendError> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("tasks.db");
//! use axum_taskflow_sqlite::{Durability, SqliteOptions};
//!
//! let backend = SqliteOptions::new(path)
//!     .durability(Durability::PowerLoss)
//!     .open()?;
//! # Ok(())
//! # }
//! ```
//!
//! Beside `tasks.db` lie `tasks.db-wal` and `tasks.db-shm`, which belong to SQLite, and the folder
//! `tasks.db-instances`, with one lock file for each running process. A backup is made with SQLite's own means
//! (`sqlite3 tasks.db ".backup copy.db"`), never by copying the file alone.

/// Ends the process here if a test wants it (feature `failpoints`).
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}

mod ahead;
mod apply;
mod audit;
mod checkpoints;
mod claim;
mod connection;
mod counts;
mod enqueue;
mod fault;
mod get;
mod instances;
mod interned;
mod list;
mod lock;
mod logs;
mod orphans;
mod place;
mod prune;
mod readers;
mod row;
mod schema;
mod steps;
mod transaction;
mod watcher;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    AheadPage, AheadQuery, AuditEntry, Backend, BackendError, BackendFuture, Batch, Claim, Claimed,
    Count, Instance, InstanceId, ListQuery, LogLine, Minute, NextBatch, Page, Peer, Prune, Pruned,
    Record, RecordQuery, Standing, Step, Stepped, Task, TaskId, Timestamp, Written,
};

use crate::{lock::LockFolder, orphans::Told, readers::Readers, writer::Writer};

/// What an accepted task survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The death of the process, however it dies. After a loss of power the last moments may be missing; the file
    /// is whole. SQLite calls it `synchronous=NORMAL`.
    #[default]
    Process,
    /// A loss of power too: every commit waits for the disk. SQLite calls it `synchronous=FULL`.
    PowerLoss,
}

/// How to open a file of tasks.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    path: PathBuf,
    durability: Durability,
    lock_wait: Duration,
}

impl SqliteOptions {
    /// The file at `path`, which is created if it is missing; its folder must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            lock_wait: Duration::from_secs(5),
        }
    }

    /// What an accepted task survives; the default is [`Durability::Process`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a write waits while another process writes, before it fails; the default is 5 s.
    #[must_use]
    pub fn lock_wait(mut self, lock_wait: Duration) -> Self {
        self.lock_wait = lock_wait;
        self
    }

    /// Everything that is wrong with what was said, which [`open`](SqliteOptions::open) refuses; no file is looked for.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        connection::complaint(&self.path).into_iter().collect()
    }

    /// Opens the file, and brings it to the newest schema.
    ///
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`BackendError`] names the file, what is wrong with it and what to do. A file that is not ours is not touched.
    pub fn open(self) -> Result<Sqlite, BackendError> {
        let path = connection::place(&self.path)?;
        let writer = connection::open_writer(&path, self.durability, self.lock_wait)?;
        let path = connection::real_path(&path)?;
        // Readers last: only now is there a file with a schema.
        let n_readers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
        let readers = (0..n_readers)
            .map(|_| connection::open_reader(&path, self.lock_wait))
            .collect::<Result<_, _>>()?;
        Ok(Sqlite {
            given_path: self.path,
            locks: LockFolder::beside(&path),
            told: Told::default(),
            claimed_something: AtomicBool::new(false),
            readers: Readers::start(readers, path.clone())?,
            writer: Writer::start(writer, path)?,
        })
    }
}

/// Tasks in an SQLite file.
///
/// Dropping it waits until the file is closed. What was not [closed](Backend::close) is found dead by the next one.
#[derive(Debug)]
pub struct Sqlite {
    given_path: PathBuf,
    locks: LockFolder,
    told: Told,
    /// The last claim brought something, so the next one need not look first whether that is worth the lock. An
    /// atomic: either value is right, one is faster.
    claimed_something: AtomicBool,
    // In this order: the last connection to be closed must be one that can write, or SQLite leaves its log behind.
    readers: Readers,
    writer: Writer,
}

impl Sqlite {
    /// Opens the file at `path` with the default options.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BackendError> {
        SqliteOptions::new(path.as_ref()).open()
    }

    /// The longest that this process has waited until it could write, while others wrote.
    #[must_use]
    pub fn longest_lock_wait(&self) -> Duration {
        self.writer.waits.longest()
    }
}

impl Backend for Sqlite {
    fn describe(&self) -> String {
        format!("sqlite {}", self.given_path.display())
    }

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        Box::pin(self.writer.call(move |session| session.join(&instance)))
    }

    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        Box::pin(self.writer.call(move |session| session.beat(id, now)))
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        let locks = self.locks.clone();
        Box::pin(
            self.readers
                .call(move |conn, _| instances::all(conn, &locks)),
        )
    }

    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        Box::pin(
            self.writer
                .call(move |session| session.supersede(id, seen_beat_at)),
        )
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        Box::pin(self.writer.call(move |session| session.bury(id)))
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        Box::pin(self.writer.call(move |session| session.write(&batch)))
    }

    fn pulls(&self) -> bool {
        true
    }

    fn pull(&self, next: NextBatch) -> BackendFuture<'_, Written> {
        let (mut next, mut batch) = (Some(next), None);
        Box::pin(self.writer.call_late(move |session| {
            if let Some(next) = next.take() {
                batch = next();
            }
            match &batch {
                Some(batch) => session.write(batch),
                None => Ok(Written::default()),
            }
        }))
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        Box::pin(self.writer.call(move |session| session.step(&step)))
    }

    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        Box::pin(
            self.readers
                .call(move |conn, _| steps::records(conn, &query)),
        )
    }

    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        Box::pin(async move {
            if !self.claimed_something.load(Ordering::Relaxed) {
                let claim = claim.clone();
                let look = move |conn: &_, interned: &mut _| claim::look(conn, interned, &claim);
                if let Some(nothing) = self.readers.call(look).await? {
                    return Ok(nothing);
                }
            }
            let claimed = self
                .writer
                .call(move |session| session.claim(&claim))
                .await?;
            let something = !claimed.tasks.is_empty();
            self.claimed_something.store(something, Ordering::Relaxed);
            Ok(claimed)
        })
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        Box::pin(async move {
            let (locks, told) = (self.locks.clone(), self.told.clone());
            let orphaned = self
                .readers
                .call(move |conn, interned| orphans::find(conn, interned, &locks, &told, limit))
                .await?;
            for id in orphaned.to_bury {
                // What the dead leave is more urgent than that they are forgotten.
                if let Err(error) = self.writer.call(move |session| session.bury(id)).await
                    && self.told.is_new(id.as_bytes())
                {
                    tracing::warn!(%id, %error, "an instance that died cannot be cleared away");
                }
            }
            Ok(orphaned.tasks)
        })
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        Box::pin(
            self.readers
                .call(move |conn, interned| get::get(conn, interned, id)),
        )
    }

    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        Box::pin(
            self.readers
                .call(move |conn, interned| list::list(conn, interned, &query)),
        )
    }

    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        Box::pin(async move {
            let from = query.place()?;
            let read = move |conn: &_, interned: &mut _| ahead::ahead(conn, interned, &query, from);
            self.readers.call(read).await
        })
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        Box::pin(
            self.readers
                .call(move |conn, _| logs::logs(conn, id, skip, limit)),
        )
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        Box::pin(self.readers.call(counts::counts))
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        Box::pin(
            self.readers
                .call(move |conn, interned| counts::series(conn, interned, since)),
        )
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        Box::pin(
            self.readers
                .call(move |conn, _| audit::audit(conn, before, limit)),
        )
    }

    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        Box::pin(async move {
            let is_first = prune.from.is_none();
            // In transactions of their own, so that others can write in between.
            while is_first
                && self
                    .writer
                    .call(move |session| session.prune_rest(&prune))
                    .await?
            {}
            self.writer
                .call(move |session| session.prune_tasks(&prune))
                .await
        })
    }

    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        Box::pin(async move { Ok(self.writer.news.since(seen).await) })
    }

    fn close(&self) -> BackendFuture<'_, ()> {
        Box::pin(async {
            self.readers.close();
            self.writer.close().await
        })
    }
}

#[cfg(test)]
mod tests {
    use axum_taskflow_core::{Enqueued, IdSource};

    use super::*;
    use crate::fault::Fault;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

    #[tokio::test]
    async fn a_batch_that_was_taken_late_is_written_once_though_what_shares_its_transaction_fails()
    {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("tasks.db")).unwrap();
        let mut batch = Batch::at(NOW);
        let task = Task::new(IdSource::default().task(NOW), "f", "[]");
        let id = task.id;
        batch.tasks.push(Arc::new(task));
        let (open_gate, gate) = std::sync::mpsc::channel::<()>();
        let held_up = store.writer.call(move |_| Ok(gate.recv().is_ok()));
        let taken = store.pull(Box::new(|| Some(Arc::new(batch))));
        let mut n_tries = 0;
        let fails = store.writer.call(move |_| -> Result<(), Fault> {
            n_tries += 1;
            Err(Fault::unreadable(n_tries.to_string()))
        });
        // When all three are asked.
        let open = async { open_gate.send(()) };

        let (_, taken, failed, _) = tokio::join!(biased; held_up, taken, fails, open);

        let failed = failed.unwrap_err().to_string();
        assert!(failed.ends_with(": 2"), "together and alone: {failed}");
        assert_eq!(taken.unwrap().tasks, [Enqueued::Created]);
        assert!(store.get(id).await.unwrap().is_some());
    }
}
