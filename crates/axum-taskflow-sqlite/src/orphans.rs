//! Live tasks whose instance is dead, and what the dead leave behind.

use axum_taskflow_core::{InstanceId, Task};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    fault::Fault,
    interned::{Interned, NOBODY},
    lock::LockFolder,
    row,
    transaction::at_most,
};

#[derive(Debug, Default)]
pub(crate) struct Orphaned {
    pub(crate) tasks: Vec<Task>,
    /// The dead to whom nothing belongs any more.
    pub(crate) to_bury: Vec<InstanceId>,
}

/// Looks without writing: a few rows and locks as long as nobody died, however often it is asked.
pub(crate) fn find(
    conn: &Connection,
    interned: &mut Interned,
    locks: &LockFolder,
    limit: usize,
) -> Result<Orphaned, Fault> {
    let mut orphaned = Orphaned::default();
    let mut owners = Vec::new();
    let mut next_owner =
        conn.prepare_cached("SELECT owner FROM task WHERE owner > ?1 ORDER BY owner LIMIT 1")?;
    let mut last_owner = NOBODY;
    while let Some(owner) = next_owner
        .query_row([last_owner], |row| row.get(0))
        .optional()?
    {
        last_owner = owner;
        owners.push(owner);
        if orphaned.tasks.len() < limit && is_dead(conn, interned, locks, owner)? {
            read(conn, interned, owner, limit, &mut orphaned.tasks)?;
        }
    }
    let mut present = conn
        .prepare_cached("SELECT no FROM instance WHERE gone IS NULL AND started_at IS NOT NULL")?;
    let mut rows = present.query([])?;
    while let Some(row) = rows.next()? {
        let no = row.get(0)?;
        if !owners.contains(&no) && is_dead(conn, interned, locks, no)? {
            orphaned.to_bury.push(interned.instance_id(conn, no)?);
        }
    }
    Ok(orphaned)
}

fn is_dead(
    conn: &Connection,
    interned: &mut Interned,
    locks: &LockFolder,
    no: i64,
) -> Result<bool, Fault> {
    let mut superseded =
        conn.prepare_cached("SELECT 1 FROM instance WHERE no = ?1 AND superseded IS NOT NULL")?;
    Ok(superseded.exists([no])? || locks.is_dead(interned.instance_id(conn, no)?)?)
}

fn read(
    conn: &Connection,
    interned: &mut Interned,
    owner: i64,
    limit: usize,
    tasks: &mut Vec<Task>,
) -> Result<(), Fault> {
    let columns = row::TASK_COLUMNS;
    let mut owned = conn.prepare_cached(&format!(
        "SELECT {columns} FROM task WHERE owner = ?1 ORDER BY id LIMIT ?2"
    ))?;
    let mut rows = owned.query((owner, at_most(limit - tasks.len())))?;
    while let Some(row) = rows.next()? {
        match row::read_task(row, usize::MAX, conn, interned) {
            Ok(task) => tasks.push(task),
            // It must not keep all others from being taken over; it stays with the dead.
            Err(Fault::Unreadable(why)) => {
                tracing::error!(owner, %why, "a task of an instance that died cannot be read; it is left alone");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
