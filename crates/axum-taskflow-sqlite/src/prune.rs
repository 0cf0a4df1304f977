//! What is old enough is deleted, a bounded part at a time.

use axum_taskflow_core::{Prune, Pruned, Tags, TaskId, TaskStatus, Timestamp};
use rusqlite::{Connection, Statement};

use crate::{
    fault::Fault,
    row,
    transaction::{Transaction, at_most},
};

#[derive(Debug)]
pub(crate) struct PruneVerb<'c> {
    oldest: Statement<'c>,
    delete_task: Statement<'c>,
    delete_attempts: Statement<'c>,
    delete_logs: Statement<'c>,
    delete_tag: Statement<'c>,
    /// Each deletes at most `?2` of what is older than `?1`.
    delete_minutes: Statement<'c>,
    delete_audit: Statement<'c>,
    delete_keys: Statement<'c>,
    delete_instances: Statement<'c>,
}

/// What a task must tell before it is deleted.
struct Old {
    id: TaskId,
    func: i64,
    status: i64,
    finished_at: Option<Timestamp>,
    tags: Tags,
}

impl<'c> PruneVerb<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            oldest: conn.prepare(
                "SELECT id, func, status, finished_at, tags FROM task
                 WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
            )?,
            delete_task: conn.prepare("DELETE FROM task WHERE id = ?1")?,
            delete_attempts: conn.prepare("DELETE FROM attempt WHERE task = ?1")?,
            delete_logs: conn.prepare("DELETE FROM log WHERE task = ?1")?,
            delete_tag: conn
                .prepare("DELETE FROM task_tag WHERE key = ?1 AND value = ?2 AND task = ?3")?,
            delete_minutes: conn.prepare(
                "DELETE FROM minute WHERE (at, func, status) IN (
                     SELECT at, func, status FROM minute WHERE at < ?1 ORDER BY at LIMIT ?2)",
            )?,
            delete_audit: conn.prepare(
                "DELETE FROM audit WHERE id IN (
                     SELECT id FROM audit WHERE id < ?1 ORDER BY id LIMIT ?2)",
            )?,
            delete_keys: conn.prepare(
                "DELETE FROM idempotency WHERE key IN (
                     SELECT key FROM idempotency WHERE until <= ?1 ORDER BY until LIMIT ?2)",
            )?,
            // The ids of tasks are smaller than 17 bytes of ones.
            delete_instances: conn.prepare(
                "DELETE FROM instance WHERE gone <
                     coalesce((SELECT min(id) FROM task), x'ffffffffffffffffffffffffffffffffff')",
            )?,
        })
    }

    pub(crate) fn run(&mut self, tx: &mut Transaction<'c>, prune: &Prune) -> Result<Pruned, Fault> {
        let limit = prune.limit.max(1);
        let old = self.oldest(prune, limit)?;
        let mut deleted = 0;
        for task in &old {
            let before = match row::status_of(task.status)? {
                TaskStatus::Success | TaskStatus::Cancelled => prune.finished_before,
                TaskStatus::Failed | TaskStatus::Interrupted => prune.failed_before,
                _ => continue,
            };
            if task.finished_at.is_some_and(|at| at < before) {
                self.delete(task)?;
                tx.went(task.func, task.status);
                deleted += 1;
            }
        }
        let rest_is_full = self.prune_rest(tx, prune, limit)?;
        let is_over = old.len() < limit && !rest_is_full;
        if is_over && self.delete_instances.execute([])? > 0 {
            tx.interned.clear();
        }
        let last = old.last().map(|task| task.id).or(prune.from);
        Ok(Pruned {
            deleted,
            next: (!is_over).then(|| last.unwrap_or(TaskId::floor(Timestamp::default()))),
        })
    }

    /// The next tasks that are old enough by their ids; nothing finishes before it is created.
    fn oldest(&mut self, prune: &Prune, limit: usize) -> Result<Vec<Old>, Fault> {
        let from = prune.from.map_or([0; 16], |id| *id.as_bytes());
        let until = TaskId::floor(prune.finished_before.max(prune.failed_before));
        let mut rows = self
            .oldest
            .query((from, until.as_bytes(), at_most(limit)))?;
        let mut old = Vec::new();
        while let Some(row) = rows.next()? {
            old.push(Old {
                id: row::read_id(row, 0)?,
                func: row.get(1)?,
                status: row.get(2)?,
                finished_at: row::time(row.get(3)?),
                tags: row::json(row, 4)?.unwrap_or_default(),
            });
        }
        Ok(old)
    }

    fn delete(&mut self, task: &Old) -> Result<(), Fault> {
        let id = task.id.as_bytes();
        self.delete_attempts.execute([id])?;
        self.delete_logs.execute([id])?;
        for (key, value) in &task.tags {
            self.delete_tag.execute((key, value, id))?;
        }
        self.delete_task.execute([id])?;
        Ok(())
    }

    /// Minutes, audit entries and keys whose time has passed; true if there may be more of them.
    fn prune_rest(
        &mut self,
        tx: &Transaction<'c>,
        prune: &Prune,
        limit: usize,
    ) -> Result<bool, Fault> {
        let series_before = prune.series_before;
        let n_minutes = self
            .delete_minutes
            .execute((series_before.as_unix_ms(), at_most(limit)))?;
        let n_entries = self
            .delete_audit
            .execute((TaskId::floor(series_before).as_bytes(), at_most(limit)))?;
        // A key says itself until when it is taken; whoever deletes the future's tasks does not free their keys.
        let n_keys = self.delete_keys.execute((
            prune.finished_before.min(tx.latest).as_unix_ms(),
            at_most(limit),
        ))?;
        Ok([n_minutes, n_entries, n_keys].contains(&limit))
    }
}
