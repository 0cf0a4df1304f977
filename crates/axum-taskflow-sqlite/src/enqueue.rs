//! New tasks, each with its key in one step.

use axum_taskflow_core::{Enqueued, Task, TaskId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Statement};

use crate::{
    connection::kept,
    fault::Fault,
    row::{self, LifeRow},
    transaction::Transaction,
};

#[derive(Debug)]
pub(crate) struct Enqueue<'c> {
    insert: Statement<'c>,
    insert_plain: Statement<'c>,
    is_stored: Statement<'c>,
    holder: Statement<'c>,
    take_key: Statement<'c>,
    tag: Statement<'c>,
    tracking: Statement<'c>,
}

impl<'c> Enqueue<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: kept(conn, include_str!("enqueue.sql"))?,
            insert_plain: kept(conn, include_str!("enqueue_plain.sql"))?,
            is_stored: kept(conn, "SELECT 1 FROM task WHERE id = ?1")?,
            holder: kept(
                conn,
                "SELECT task, func FROM idempotency WHERE key = ?1 AND (until IS NULL OR until > ?2)",
            )?,
            take_key: kept(
                conn,
                "INSERT INTO idempotency (key, task, func) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET task = ?2, func = ?3, until = NULL",
            )?,
            tag: kept(
                conn,
                "INSERT INTO task_tag (key, value, task) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            )?,
            tracking: kept(
                conn,
                "INSERT INTO task_tracking (tracking_id, task) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            )?,
        })
    }

    pub(crate) fn run(
        &mut self,
        tx: &mut Transaction<'c>,
        task: &Task,
        now: Timestamp,
    ) -> Result<Enqueued, Fault> {
        if let Some(key) = &task.idempotency_key
            && let Some((id, func)) = self.holder_of(&key.key, now)?
            // A batch that is written again finds its own task, even if another one has the key by now.
            && !self.is_stored.exists([task.id.as_bytes()])?
        {
            let name = tx.interned.name(tx.conn, func)?;
            return Ok(Enqueued::Exists { id, name });
        }
        let func = tx.interned.function(tx.conn, &task.name)?;
        let life = LifeRow::new(&task.life, now, tx.conn, &mut tx.interned)?;
        let insert = if row::is_plain(task) {
            row::bind_plain(&mut self.insert_plain, task, func, &life)?;
            &mut self.insert_plain
        } else {
            row::bind_task(&mut self.insert, task, func, &life)?;
            &mut self.insert
        };
        if insert.raw_execute()? == 0 {
            return Ok(Enqueued::Created);
        }
        if task.life.owner.is_some() {
            tx.rows.remember(task.id, tx.conn.last_insert_rowid());
        }
        if let Some(key) = &task.idempotency_key {
            self.take_key
                .execute((&key.key, task.id.as_bytes(), func))?;
        }
        for (key, value) in &task.tags {
            self.tag.execute((key, value, task.id.as_bytes()))?;
        }
        if let Some(tracking_id) = &task.tracking_id {
            self.tracking
                .execute((&**tracking_id, task.id.as_bytes()))?;
        }
        tx.came(func, life.status);
        Ok(Enqueued::Created)
    }

    fn holder_of(&mut self, key: &str, now: Timestamp) -> Result<Option<(TaskId, i64)>, Fault> {
        let holder = self
            .holder
            .query_row((key, now.as_unix_ms()), |row| {
                Ok((row::read_id(row, 0)?, row.get(1)?))
            })
            .optional()?;
        Ok(holder)
    }
}
