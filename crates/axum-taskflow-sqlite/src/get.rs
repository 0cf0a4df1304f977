//! One task with its past.

use axum_taskflow_core::{Task, TaskId};
use rusqlite::Connection;

use crate::{fault::Fault, interned::Interned, row};

pub(crate) fn get(
    conn: &Connection,
    interned: &mut Interned,
    id: TaskId,
) -> Result<Option<Task>, Fault> {
    let columns = row::TASK_COLUMNS;
    let mut statement =
        conn.prepare_cached(&format!("SELECT {columns} FROM task WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_bytes()])?;
    let Some(found) = rows.next()? else {
        return Ok(None);
    };
    let mut task = row::show_task(found, usize::MAX, conn, interned)?;

    let mut statement = conn.prepare_cached(
        "SELECT number, epoch, instance, started_at, finished_at, outcome, error
         FROM attempt WHERE task = ?1 ORDER BY epoch",
    )?;
    let mut rows = statement.query([id.as_bytes()])?;
    while let Some(found) = rows.next()? {
        match row::read_attempt(found, conn, interned) {
            Ok(attempt) => task.past_attempts.push(attempt),
            Err(Fault::Unreadable(_)) => {} // of a newer program: the rest is shown all the same
            Err(fault) => return Err(fault),
        }
    }
    Ok(Some(task))
}
