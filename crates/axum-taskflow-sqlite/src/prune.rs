//! What is old enough is deleted, a bounded part at a time.

use std::sync::Arc;

use axum_taskflow_core::{Prune, Pruned, Tags, TaskId, TaskStatus, Timestamp};
use rusqlite::{Connection, Row, Statement};

use crate::{
    connection::kept,
    fault::Fault,
    row::{self, Tracked},
    transaction::{Transaction, at_most},
};

/// A part of the work ends after this many rows, or pages of large ones, even if few tasks were looked at: others wait
/// to write.
const ROWS_MAX: usize = 10_000;
const PAGE_BYTES: u32 = 4_096;

#[derive(Debug)]
pub(crate) struct PruneVerb<'c> {
    oldest: Statement<'c>,
    found_by: Statement<'c>,
    delete_task: Statement<'c>,
    delete_attempts: Statement<'c>,
    delete_logs: Statement<'c>,
    delete_tag: Statement<'c>,
    delete_tracking: Statement<'c>,
    /// These three delete at most `?2` of what is older than `?1`.
    delete_minutes: Statement<'c>,
    delete_audit: Statement<'c>,
    delete_keys: Statement<'c>,
    delete_instances: Statement<'c>,
}

/// What tells whether a task is to be deleted, and how large it is.
struct Old {
    func: i64,
    status: TaskStatus,
    finished_at: Option<Timestamp>,
    n_pages: u32,
}

impl Old {
    fn read(row: &Row<'_>) -> Result<Self, Fault> {
        Ok(Self {
            func: row.get(1)?,
            status: row::status_of(row.get(2)?)?,
            finished_at: row::time(row, 3)?,
            n_pages: row.get::<_, u32>(4)? / PAGE_BYTES,
        })
    }
}

/// By what a task is found, besides its id.
#[derive(Default)]
struct FoundBy {
    tags: Tags,
    tracking_id: Option<Arc<str>>,
}

impl FoundBy {
    fn read(row: &Row<'_>) -> Result<Self, Fault> {
        Ok(Self {
            tags: row::json(row, 0)?.unwrap_or_default(),
            tracking_id: row::json::<Tracked>(row, 1)?
                .unwrap_or_default()
                .tracking_id,
        })
    }
}

impl<'c> PruneVerb<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            oldest: kept(
                conn,
                // Most of these are kept. A length is known without its value; what lies behind large arguments, as tags
                // do, is not.
                "SELECT id, func, status, finished_at,
                     octet_length(args) + coalesce(octet_length(result), 0) + coalesce(octet_length(error), 0)
                 FROM task WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
            )?,
            found_by: kept(conn, "SELECT tags, options FROM task WHERE id = ?1")?,
            delete_task: kept(conn, "DELETE FROM task WHERE id = ?1")?,
            delete_attempts: kept(conn, "DELETE FROM attempt WHERE task = ?1")?,
            delete_logs: kept(conn, "DELETE FROM log WHERE task = ?1")?,
            delete_tag: kept(
                conn,
                "DELETE FROM task_tag WHERE key = ?1 AND value = ?2 AND task = ?3",
            )?,
            delete_tracking: kept(
                conn,
                "DELETE FROM task_tracking WHERE tracking_id = ?1 AND task = ?2",
            )?,
            delete_minutes: kept(
                conn,
                "DELETE FROM minute WHERE (at, func, status) IN (
                     SELECT at, func, status FROM minute WHERE at < ?1 ORDER BY at LIMIT ?2)",
            )?,
            delete_audit: kept(
                conn,
                "DELETE FROM audit WHERE id IN (
                     SELECT id FROM audit WHERE id < ?1 ORDER BY id LIMIT ?2)",
            )?,
            delete_keys: kept(
                conn,
                "DELETE FROM idempotency WHERE key IN (
                     SELECT key FROM idempotency WHERE until <= ?1 ORDER BY until LIMIT ?2)",
            )?,
            // The ids of tasks are smaller than 17 bytes of ones.
            delete_instances: kept(
                conn,
                "DELETE FROM instance WHERE gone <
                     coalesce((SELECT min(id) FROM task), x'ffffffffffffffffffffffffffffffffff')",
            )?,
        })
    }

    /// The next part of the tasks.
    pub(crate) fn tasks(
        &mut self,
        tx: &mut Transaction<'c>,
        prune: &Prune,
    ) -> Result<Pruned, Fault> {
        let limit = prune.limit.max(1);
        let old = self.oldest(prune, limit)?;
        let mut next = match old.last() {
            Some((id, _)) if old.len() == limit => Some(*id),
            _ => None,
        };
        let (mut deleted, mut n_rows) = (0, 0);
        for (id, task) in &old {
            let Some(task) = task else {
                continue; // whoever can read it deletes it, with all that hangs on it
            };
            let before = match task.status {
                TaskStatus::Success | TaskStatus::Cancelled => prune.finished_before,
                TaskStatus::Failed | TaskStatus::Interrupted => prune.failed_before,
                _ => continue,
            };
            if task.finished_at.is_none_or(|at| at >= before) {
                continue;
            }
            let found_by = match self.found_by(*id) {
                Err(Fault::Unreadable(_)) => continue, // as above
                found_by => found_by?,
            };
            n_rows += task.n_pages as usize + self.delete(*id, &found_by)?;
            tx.went(task.func, row::status_no(task.status)?);
            deleted += 1;
            if n_rows >= ROWS_MAX {
                next = Some(*id);
                break;
            }
        }
        if next.is_none() && self.delete_instances.execute([])? > 0 {
            tx.interned.clear();
        }
        Ok(Pruned { deleted, next })
    }

    /// The next tasks that are old enough by their ids; nothing finishes before it is created. Of one that this program
    /// cannot read, only the id.
    fn oldest(&mut self, prune: &Prune, limit: usize) -> Result<Vec<(TaskId, Option<Old>)>, Fault> {
        let from = prune.from.map_or([0; 16], |id| *id.as_bytes());
        let until = TaskId::floor(prune.finished_before.max(prune.failed_before));
        let mut rows = self
            .oldest
            .query((from, until.as_bytes(), at_most(limit)))?;
        let mut old = Vec::new();
        while let Some(row) = rows.next()? {
            let task = match Old::read(row) {
                Err(Fault::Unreadable(_)) => None,
                read => Some(read?),
            };
            old.push((row::read_id(row, 0)?, task));
        }
        Ok(old)
    }

    fn found_by(&mut self, id: TaskId) -> Result<FoundBy, Fault> {
        let mut rows = self.found_by.query([id.as_bytes()])?;
        let row = rows.next()?;
        row.map_or_else(|| Ok(FoundBy::default()), FoundBy::read)
    }

    /// Deletes a task and what hangs on it; how many rows that were.
    fn delete(&mut self, id: TaskId, task: &FoundBy) -> Result<usize, Fault> {
        let id = id.as_bytes();
        let mut n_rows = self.delete_attempts.execute([id])?;
        n_rows += self.delete_logs.execute([id])?;
        for (key, value) in &task.tags {
            n_rows += self.delete_tag.execute((key, value, id))?;
        }
        if let Some(tracking_id) = &task.tracking_id {
            n_rows += self.delete_tracking.execute((&**tracking_id, id))?;
        }
        n_rows += self.delete_task.execute([id])?;
        Ok(n_rows)
    }

    /// A part of the minutes, audit entries and keys whose time has passed; true if there may be more.
    pub(crate) fn rest(&mut self, tx: &Transaction<'c>, prune: &Prune) -> Result<bool, Fault> {
        let (before, limit) = (prune.series_before, prune.limit.max(1));
        let n = at_most(limit);
        let n_minutes = self.delete_minutes.execute((before.as_unix_ms(), n))?;
        let n_entries = self
            .delete_audit
            .execute((TaskId::floor(before).as_bytes(), n))?;
        // A key says itself until when it is taken; whoever deletes tasks of the future does not free their keys.
        let passed = prune.finished_before.min(tx.latest);
        let n_keys = self.delete_keys.execute((passed.as_unix_ms(), n))?;
        Ok([n_minutes, n_entries, n_keys].contains(&limit))
    }
}
