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
            delete_minutes: conn.prepare("DELETE FROM minute WHERE at < ?1")?,
            delete_audit: conn.prepare("DELETE FROM audit WHERE id < ?1")?,
            delete_keys: conn.prepare("DELETE FROM idempotency WHERE until <= ?1")?,
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
        // At the beginning of a round, which comes often: there is little of it at a time.
        if prune.from.is_none() {
            self.prune_rest(tx, prune)?;
        }
        let next = match old.last() {
            Some(last) if old.len() == limit => Some(last.id),
            _ => None,
        };
        if next.is_none() && self.delete_instances.execute([])? > 0 {
            tx.interned.clear();
        }
        Ok(Pruned { deleted, next })
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
                finished_at: row::time(row, 3)?,
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

    /// Minutes, audit entries and keys whose time has passed.
    fn prune_rest(&mut self, tx: &Transaction<'c>, prune: &Prune) -> Result<(), Fault> {
        let series_before = prune.series_before;
        self.delete_minutes.execute([series_before.as_unix_ms()])?;
        self.delete_audit
            .execute([TaskId::floor(series_before).as_bytes()])?;
        // A key says itself until when it is taken; whoever deletes tasks of the future does not free their keys.
        let passed = prune.finished_before.min(tx.latest);
        self.delete_keys.execute([passed.as_unix_ms()])?;
        Ok(())
    }
}
