//! The transaction that everything is written in, and the sums that are written once at its end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum_taskflow_core::{InstanceId, Life, TaskId, Timestamp};
use rusqlite::{Connection, Statement};

use crate::{connection::kept, fault::Fault, interned::Interned};

/// How long the writer waited for other processes. An atomic, in microseconds: written by the writer, read by anybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockWaits(Arc<AtomicU64>);

impl LockWaits {
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, wait: Duration) {
        let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_max(us, Ordering::Relaxed);
    }
}

/// Where the rows of live tasks lie that were written here, so that they are not looked for by their ids. A hint: the
/// row is asked whether it is the one, since SQLite may give a row another rowid when somebody vacuums the file.
#[derive(Debug, Default)]
pub(crate) struct Rows(HashMap<TaskId, i64>);

impl Rows {
    /// How many are known // more: all are forgotten, and found by their ids
    const MAX: usize = 16_384;

    pub(crate) fn remember(&mut self, id: TaskId, rowid: i64) {
        if self.0.len() >= Self::MAX {
            self.0.clear();
        }
        self.0.insert(id, rowid);
    }

    pub(crate) fn get(&self, id: TaskId) -> Option<i64> {
        self.0.get(&id).copied()
    }

    pub(crate) fn forget(&mut self, id: TaskId) {
        self.0.remove(&id);
    }
}

/// What the verbs of the writer share.
#[derive(Debug)]
pub(crate) struct Transaction<'c> {
    pub(crate) conn: &'c Connection,
    pub(crate) interned: Interned,
    pub(crate) rows: Rows,
    /// The latest time that anything was written at: what was due then lies with the waiting tasks.
    pub(crate) latest: Timestamp,
    /// By function and status.
    counts: BTreeMap<(i64, i64), i64>,
    /// By minute, function and status: how many, and how long they ran in milliseconds.
    minutes: BTreeMap<(i64, i64, i64), (i64, i64)>,
    waits: LockWaits,
    begin: Statement<'c>,
    is_present: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    add_count: Statement<'c>,
    add_minute: Statement<'c>,
}

impl<'c> Transaction<'c> {
    pub(crate) fn prepare(conn: &'c Connection, waits: LockWaits) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            interned: Interned::default(),
            rows: Rows::default(),
            latest: Timestamp::default(),
            counts: BTreeMap::new(),
            minutes: BTreeMap::new(),
            waits,
            // Not deferred: a transaction that reads first and then finds another writer ahead must fail.
            begin: kept(conn, "BEGIN IMMEDIATE")?,
            is_present: kept(
                conn,
                "SELECT 1 FROM instance WHERE id = ?1 AND gone IS NULL",
            )?,
            commit: kept(conn, "COMMIT")?,
            rollback: kept(conn, "ROLLBACK")?,
            add_count: kept(
                conn,
                "INSERT INTO counter (func, status, n) VALUES (?1, ?2, ?3)
                 ON CONFLICT (func, status) DO UPDATE SET n = n + ?3",
            )?,
            add_minute: kept(
                conn,
                "INSERT INTO minute (at, func, status, n, run_ms) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (at, func, status) DO UPDATE SET n = n + ?4, run_ms = run_ms + ?5",
            )?,
        })
    }

    pub(crate) fn begin(&mut self) -> Result<(), Fault> {
        let asked = Instant::now();
        let begun = self.begin.raw_execute();
        self.waits.add(asked.elapsed());
        begun?;
        Ok(())
    }

    /// Makes sure that an instance that writes here can be found as the owner of what it writes. Others may have taken it
    /// for dead while this process slept, cleared it away, and pruned it in the end: it is superseded, and they take that
    /// over too.
    pub(crate) fn keep_instance(&mut self, id: InstanceId) -> Result<(), Fault> {
        if self.is_present.exists([id.as_bytes()])? {
            return Ok(());
        }
        self.interned.clear();
        self.conn
            .prepare_cached(
                "INSERT INTO instance (id, superseded) VALUES (?1, 1)
                 ON CONFLICT (id) DO UPDATE SET superseded = 1, gone = NULL",
            )?
            .execute([id.as_bytes()])?;
        Ok(())
    }

    pub(crate) fn commit(&mut self) -> Result<(), Fault> {
        for ((func, status), n) in std::mem::take(&mut self.counts) {
            if n != 0 {
                self.add_count.execute((func, status, n))?;
            }
        }
        for ((at, func, status), (n, run_ms)) in std::mem::take(&mut self.minutes) {
            self.add_minute.execute((at, func, status, n, run_ms))?;
        }
        self.commit.raw_execute()?;
        Ok(())
    }

    /// Undoes whatever was written since [`Transaction::begin`].
    pub(crate) fn rollback(&mut self) -> Result<(), Fault> {
        self.counts.clear();
        self.minutes.clear();
        self.interned.clear();
        self.rows.0.clear();
        // After some errors, such as a full disk, SQLite has undone it already.
        if !self.conn.is_autocommit() {
            self.rollback.raw_execute()?;
        }
        Ok(())
    }

    /// A task of this function came to this status.
    pub(crate) fn came(&mut self, func: i64, status: i64) {
        *self.counts.entry((func, status)).or_default() += 1;
    }

    /// A task of this function left this status.
    pub(crate) fn went(&mut self, func: i64, status: i64) {
        *self.counts.entry((func, status)).or_default() -= 1;
    }

    /// A task of this function ended.
    pub(crate) fn ended(&mut self, func: i64, status: i64, life: &Life, now: Timestamp) {
        const MINUTE_MS: i64 = 60_000;
        let finished_at = life.finished_at.unwrap_or(now);
        let at = finished_at.as_unix_ms() / MINUTE_MS * MINUTE_MS;
        let run = life
            .started_at
            .map(|started_at| finished_at.since(started_at));
        let run_ms = i64::try_from(run.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        let sum = self.minutes.entry((at, func, status)).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(run_ms));
    }
}

/// A number of rows as SQLite takes it.
pub(crate) fn at_most(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
