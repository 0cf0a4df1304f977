//! New tasks, each with its key in one step.

use std::sync::Arc;

use axum_taskflow_core::{Enqueued, Task, TaskId, Timestamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Statement};

use crate::{
    connection::kept,
    fault::Fault,
    row::{self, Binder, LifeRow},
    transaction::Transaction,
};

/// So many rows go with one statement, if a batch has as many: it finds the end of each index once, and not for each row.
const MANY: usize = 16;

#[derive(Debug)]
pub(crate) struct Enqueue<'c> {
    insert: Statement<'c>,
    insert_plain: Statement<'c>,
    /// Not before it is needed: most services add few at a time.
    insert_many: Option<Statement<'c>>,
    is_stored: Statement<'c>,
    holder: Statement<'c>,
    take_key: Statement<'c>,
    tag: Statement<'c>,
    tracking: Statement<'c>,
}

const PLAIN: &str = include_str!("enqueue_plain.sql");

/// The same with so many rows. An id that is there already is an error of the whole, which is undone: of one that is passed
/// over the others could not be told.
fn many() -> String {
    let (head, row) = PLAIN.split_once("VALUES").unwrap_or_default();
    let (row, _) = row.split_once("ON CONFLICT").unwrap_or_default();
    format!("{head} VALUES {}", vec![row; MANY].join(","))
}

impl<'c> Enqueue<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: kept(conn, include_str!("enqueue.sql"))?,
            insert_plain: kept(conn, PLAIN)?,
            insert_many: None,
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

    /// The tasks of a batch, one after the other.
    pub(crate) fn run_all(
        &mut self,
        tx: &mut Transaction<'c>,
        tasks: &[Arc<Task>],
        now: Timestamp,
    ) -> Result<Vec<Enqueued>, Fault> {
        let mut answers = Vec::with_capacity(tasks.len());
        let mut rest = tasks;
        while !rest.is_empty() {
            let first = rest.iter().take(MANY);
            let n_plain = first.take_while(|task| row::is_plain(task)).count();
            // With the one that is not plain, if there is one: it has been looked at.
            let (now_due, later) = rest.split_at((n_plain + 1).min(MANY).min(rest.len()));
            rest = later;
            if n_plain == MANY && self.run_many(tx, now_due, now)? {
                answers.resize(answers.len() + MANY, Enqueued::Created);
                continue;
            }
            for task in now_due {
                answers.push(self.run(tx, task, now)?);
            }
        }
        Ok(answers)
    }

    /// Plain tasks with one statement; false if one of them is stored already, and then none was stored by this.
    fn run_many(
        &mut self,
        tx: &mut Transaction<'c>,
        tasks: &[Arc<Task>],
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let insert = match &mut self.insert_many {
            Some(insert) => insert,
            none => none.insert(kept(tx.conn, &many())?),
        };
        let mut came = Vec::with_capacity(tasks.len());
        let mut row = Binder::new(insert);
        for task in tasks {
            let func = tx.interned.function(tx.conn, &task.name)?;
            let life = LifeRow::new(&task.life, now, tx.conn, &mut tx.interned)?;
            row = row::bind_plain(row, task, func, &life)?;
            came.push((func, life.status));
        }
        if let Err(error) = insert.raw_execute() {
            return match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => Ok(false), // SQLite has undone the statement
                _ => Err(error.into()),
            };
        }
        // SQLite gives the rows of one statement numbers one after the other. If it did not, those that were remembered
        // would not be found under them, and be looked for by their ids.
        let mut row = tx.conn.last_insert_rowid() - tasks.len() as i64;
        for (task, (func, status)) in tasks.iter().zip(came) {
            row += 1;
            if task.life.owner.is_some() {
                tx.rows.remember(task.id, row);
            }
            tx.came(func, status);
        }
        Ok(true)
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
            row::bind_plain(Binder::new(&mut self.insert_plain), task, func, &life)?;
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
