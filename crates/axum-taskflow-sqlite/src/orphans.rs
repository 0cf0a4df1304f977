//! Live tasks whose instance is dead, and what the dead leave behind.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum_taskflow_core::{InstanceId, Task};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    fault::{Fault, say},
    interned::{Interned, NOBODY},
    lock::LockFolder,
    row,
};

#[derive(Debug, Default)]
pub(crate) struct Orphaned {
    pub(crate) tasks: Vec<Task>,
    /// The dead to whom nothing belongs any more.
    pub(crate) to_bury: Vec<InstanceId>,
}

/// Of which tasks it was said that they cannot be read, and of which of the dead that they cannot be cleared away: they
/// are found again three times a second. A std mutex: held for one look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<BTreeSet<[u8; 16]>>>);

impl Told {
    /// So many are remembered // more: nothing is said of them
    const MAX: usize = 1_000;

    /// True the first time.
    pub(crate) fn is_new(&self, id: &[u8; 16]) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < Self::MAX && told.insert(*id)
    }
}

/// Looks without writing: a few rows and locks as long as nobody died, however often it is asked.
pub(crate) fn find(
    conn: &Connection,
    interned: &mut Interned,
    locks: &LockFolder,
    told: &Told,
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
            read(conn, interned, told, owner, limit, &mut orphaned.tasks)?;
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
    // An instance that has left, or never joined, does not beat.
    let mut known = conn.prepare_cached(
        "SELECT superseded IS NOT NULL, iif(gone IS NULL, coalesce(beat_at, started_at), NULL)
         FROM instance WHERE no = ?1",
    )?;
    let known = known
        .query_row([no], |row| Ok((row.get(0)?, row::time(row, 1)?)))
        .optional()?;
    let Some((is_superseded, beat_at)) = known else {
        return Ok(true); // a repair of the file has lost it: nobody can be it
    };
    Ok(is_superseded || locks.is_dead(interned.instance_id(conn, no)?, beat_at)?)
}

fn read(
    conn: &Connection,
    interned: &mut Interned,
    told: &Told,
    owner: i64,
    limit: usize,
    tasks: &mut Vec<Task>,
) -> Result<(), Fault> {
    let columns = row::TASK_COLUMNS;
    let mut owned = conn.prepare_cached(&format!(
        "SELECT {columns} FROM task WHERE owner = ?1 ORDER BY id"
    ))?;
    let mut rows = owned.query([owner])?;
    // Counted here: those that cannot be read must not hide the others.
    while tasks.len() < limit
        && let Some(row) = rows.next()?
    {
        match row::read_task(row, usize::MAX, conn, interned) {
            Ok(task) => tasks.push(task),
            // It must not keep all others from being taken over; it stays with the dead.
            Err(Fault::Unreadable(_)) if !told.is_new(row::read_id(row, 0)?.as_bytes()) => {}
            Err(Fault::Unreadable(why)) => {
                say(
                    || tracing::error!(owner, %why, "a task of an instance that died cannot be read; it is left alone"),
                );
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
