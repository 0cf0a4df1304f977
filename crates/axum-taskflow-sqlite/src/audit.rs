//! Who did what.

use axum_taskflow_core::{AuditEntry, TaskId, Timestamp};
use rusqlite::{Connection, Statement};

use crate::{
    connection::kept,
    fault::Fault,
    row,
    transaction::{Transaction, at_most},
};

#[derive(Debug)]
pub(crate) struct Audit<'c> {
    insert: Statement<'c>,
}

impl<'c> Audit<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: kept(
                conn,
                "INSERT INTO audit (id, at, actor, action, task, detail)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
            )?,
        })
    }

    pub(crate) fn run(
        &mut self,
        _tx: &mut Transaction<'c>,
        entry: &AuditEntry,
    ) -> Result<(), Fault> {
        self.insert.execute((
            entry.id.as_bytes(),
            entry.at.as_unix_ms(),
            &entry.actor,
            &entry.action,
            entry.task.as_ref().map(TaskId::as_bytes),
            row::to_json(&entry.detail)?,
        ))?;
        Ok(())
    }
}

/// At most `limit` entries, newest first.
pub(crate) fn audit(
    conn: &Connection,
    before: Option<TaskId>,
    limit: usize,
) -> Result<Vec<AuditEntry>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT id, at, actor, action, task, detail FROM audit
         WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let before = before
        .as_ref()
        .map_or(row::ABOVE_ALL_IDS, |id| id.as_bytes());
    let mut rows = statement.query((before, at_most(limit)))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let detail: String = row.get(5)?;
        entries.push(AuditEntry {
            id: row::read_id(row, 0)?,
            at: Timestamp::from_unix_ms(row.get(1)?),
            actor: row.get(2)?,
            action: row.get(3)?,
            task: row.get::<_, Option<[u8; 16]>>(4)?.map(TaskId::from_bytes),
            detail: serde_json::from_str(&detail).map_err(|error| {
                Fault::unreadable(format!("a stored audit entry is unreadable: {error}"))
            })?,
        });
    }
    Ok(entries)
}
