//! Records, and steps that are taken only if everything stands as it was seen.

use axum_taskflow_core::{
    Becomes, Enqueued, Record, RecordChange, RecordQuery, Step, Stepped, Task, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Statement};

use crate::{
    apply::Apply,
    connection::kept,
    fault::Fault,
    transaction::{Transaction, at_most},
};

#[derive(Debug)]
pub(crate) struct Steps<'c> {
    read: Statement<'c>,
    next_version: Statement<'c>,
    put: Statement<'c>,
    delete: Statement<'c>,
    has_task: Statement<'c>,
}

impl<'c> Steps<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            read: kept(conn, "SELECT version, value FROM record WHERE key = ?1")?,
            next_version: kept(
                conn,
                "UPDATE record_version SET last = last + 1 RETURNING last",
            )?,
            put: kept(
                conn,
                "INSERT INTO record (key, version, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET version = ?2, value = ?3",
            )?,
            delete: kept(conn, "DELETE FROM record WHERE key = ?1")?,
            has_task: kept(conn, "SELECT 1 FROM task WHERE id = ?1")?,
        })
    }

    /// Takes the step, except for its audit entries; new tasks are stored by `enqueue`.
    pub(crate) fn run(
        &mut self,
        tx: &mut Transaction<'c>,
        step: &Step,
        apply: &mut Apply<'c>,
        mut enqueue: impl FnMut(&mut Transaction<'c>, &Task, Timestamp) -> Result<Enqueued, Fault>,
    ) -> Result<Stepped, Fault> {
        let Some(is_new) = self.stands(tx, step, apply)? else {
            return Ok(Stepped::Stale);
        };
        if is_new {
            for change in &step.records {
                self.change(change)?;
            }
            for change in &step.changes {
                apply.run(tx, change, step.now)?;
            }
        }
        let tasks = step.tasks.iter();
        let tasks = tasks
            .map(|task| enqueue(tx, task, step.now))
            .collect::<Result<_, _>>()?;
        let versions = step.records.iter();
        let versions = versions
            .map(|change| Ok(self.find(&change.key)?.0))
            .collect::<Result<_, Fault>>()?;
        Ok(Stepped::Done { versions, tasks })
    }

    /// True if everything stands as the step expects it, false if it was taken before.
    fn stands(
        &mut self,
        tx: &mut Transaction<'c>,
        step: &Step,
        apply: &mut Apply<'c>,
    ) -> Result<Option<bool>, Fault> {
        let (mut is_new, mut was_taken) = (true, true);
        for change in &step.records {
            let (version, value) = self.find(&change.key)?;
            is_new &= version == change.expects;
            was_taken &= match &change.becomes {
                Becomes::Same => version == change.expects,
                Becomes::Value(wanted) => value.as_deref() == Some(&**wanted),
                Becomes::Gone => value.is_none(),
            };
        }
        for change in &step.changes {
            is_new &= apply.would_apply(tx, change)?;
            was_taken &= apply.was_applied(tx, change, step.now)?;
        }
        for task in &step.tasks {
            if is_new || was_taken {
                break;
            }
            was_taken = self.has_task.exists([task.id.as_bytes()])?;
        }
        Ok((is_new || was_taken).then_some(is_new))
    }

    /// The version and the value of a record; 0 and nothing if there is none.
    fn find(&mut self, key: &str) -> Result<(u64, Option<String>), Fault> {
        let found = self.read.query_row([key], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), Some(row.get(1)?)))
        });
        Ok(found.optional()?.unwrap_or_default())
    }

    fn change(&mut self, change: &RecordChange) -> Result<(), Fault> {
        if change.becomes == Becomes::Same {
            return Ok(());
        }
        let version: i64 = self.next_version.query_row([], |row| row.get(0))?;
        match &change.becomes {
            Becomes::Value(value) => self.put.execute((&change.key, version, &**value))?,
            _ => self.delete.execute([&change.key])?,
        };
        Ok(())
    }
}

/// Records in the order of their names.
pub(crate) fn records(conn: &Connection, query: &RecordQuery) -> Result<Vec<Record>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT key, version, value FROM record
         WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) ORDER BY key LIMIT ?3",
    )?;
    let from = query
        .after
        .as_ref()
        .map_or(&query.prefix, |after| after.max(&query.prefix));
    let mut rows = statement.query((from, &query.after, at_most(query.limit)))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(&query.prefix) {
            break;
        }
        records.push(Record {
            key,
            version: row.get::<_, i64>(1)?.unsigned_abs(),
            value: row.get::<_, String>(2)?.into(),
        });
    }
    Ok(records)
}
