//! The sums that the writer keeps.

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{Count, Minute, TaskStatus, Timestamp};
use rusqlite::Connection;

use crate::{fault::Fault, interned::Interned, row};

pub(crate) fn counts(conn: &Connection, interned: &mut Interned) -> Result<Vec<Count>, Fault> {
    let mut statement = conn
        .prepare_cached("SELECT func, status, n FROM counter WHERE n > 0 ORDER BY func, status")?;
    let mut rows = statement.query([])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        let Some((name, status)) = of_whom(conn, interned, row.get(0)?, row.get(1)?)? else {
            continue;
        };
        counts.push(Count {
            name,
            status,
            n: row::whole(row, 2)?,
        });
    }
    Ok(counts)
}

pub(crate) fn series(
    conn: &Connection,
    interned: &mut Interned,
    since: Timestamp,
) -> Result<Vec<Minute>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT at, func, status, n, run_ms FROM minute WHERE at >= ?1 ORDER BY at, func, status",
    )?;
    let mut rows = statement.query([since.as_unix_ms()])?;
    let mut minutes = Vec::new();
    while let Some(row) = rows.next()? {
        let Some((name, status)) = of_whom(conn, interned, row.get(1)?, row.get(2)?)? else {
            continue;
        };
        minutes.push(Minute {
            at: Timestamp::from_unix_ms(row.get(0)?),
            name,
            status,
            n: row::whole(row, 3)?,
            run: Duration::from_millis(row::whole(row, 4)?),
        });
    }
    Ok(minutes)
}

/// Whose sum this is. None if it cannot be read, as that of a newer program, or after a repair of the file: the other sums
/// are told all the same.
fn of_whom(
    conn: &Connection,
    interned: &mut Interned,
    func: i64,
    status: i64,
) -> Result<Option<(Arc<str>, TaskStatus)>, Fault> {
    let Ok(status) = row::status_of(status) else {
        return Ok(None);
    };
    match interned.name(conn, func) {
        Err(Fault::Unreadable(_)) => Ok(None),
        name => Ok(Some((name?, status))),
    }
}
