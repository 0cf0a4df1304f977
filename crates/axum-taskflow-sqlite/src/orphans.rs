//! Live tasks whose instance is dead, and what the dead leave behind.

use axum_taskflow_core::{InstanceId, Task};
use rusqlite::{Connection, OptionalExtension, Statement};

use crate::{
    fault::Fault,
    interned::NOBODY,
    lock::Locks,
    row,
    transaction::{Transaction, at_most},
};

#[derive(Debug)]
pub(crate) struct Orphans<'c> {
    next_owner: Statement<'c>,
    owned: Statement<'c>,
    present: Statement<'c>,
    gone: Statement<'c>,
}

impl<'c> Orphans<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        let columns = row::TASK_COLUMNS;
        Ok(Self {
            next_owner: conn.prepare(
                "SELECT owner FROM task WHERE owner > ?1 ORDER BY owner LIMIT 1",
            )?,
            owned: conn.prepare(&format!(
                "SELECT {columns} FROM task WHERE owner = ?1 ORDER BY id LIMIT ?2"
            ))?,
            present: conn.prepare(
                "SELECT id FROM instance WHERE gone IS NULL AND started_at IS NOT NULL",
            )?,
            gone: conn.prepare(
                "UPDATE instance SET gone = coalesce((SELECT max(id) FROM task), x'') WHERE no = ?1",
            )?,
        })
    }

    pub(crate) fn run(
        &mut self,
        tx: &mut Transaction<'c>,
        locks: &mut Locks,
        limit: usize,
    ) -> Result<Vec<Task>, Fault> {
        let mut tasks = Vec::new();
        let mut last_owner = NOBODY;
        while tasks.len() < limit
            && let Some(owner) = self.owner_after(last_owner)?
        {
            last_owner = owner;
            if !locks.is_dead(tx.interned.instance_id(tx.conn, owner)?)? {
                continue;
            }
            let mut rows = self.owned.query((owner, at_most(limit - tasks.len())))?;
            while let Some(row) = rows.next()? {
                tasks.push(row::read_task(row, usize::MAX, tx.conn, &mut tx.interned)?);
            }
        }
        self.bury(tx, locks)?;
        Ok(tasks)
    }

    /// Marks an instance as gone if nothing belongs to it any more; true if so.
    pub(crate) fn leave(
        &mut self,
        tx: &mut Transaction<'c>,
        id: InstanceId,
    ) -> Result<bool, Fault> {
        let no = tx.interned.instance(tx.conn, id)?;
        if self.owner_after(no - 1)? == Some(no) {
            return Ok(false);
        }
        self.gone.execute([no])?;
        Ok(true)
    }

    /// Removes the lock files of the dead that own nothing any more.
    fn bury(&mut self, tx: &mut Transaction<'c>, locks: &mut Locks) -> Result<(), Fault> {
        let mut present = Vec::new();
        let mut rows = self.present.query([])?;
        while let Some(row) = rows.next()? {
            present.push(InstanceId::from_bytes(row.get(0)?));
        }
        drop(rows);
        for id in present {
            if locks.is_dead(id)? && self.leave(tx, id)? {
                locks.remove(id)?;
            }
        }
        Ok(())
    }

    fn owner_after(&mut self, owner: i64) -> rusqlite::Result<Option<i64>> {
        self.next_owner
            .query_row([owner], |row| row.get(0))
            .optional()
    }
}
