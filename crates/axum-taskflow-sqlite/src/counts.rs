//! The sums that the writer keeps.

use std::time::Duration;

use axum_taskflow_core::{Count, Minute, Timestamp};
use rusqlite::Connection;

use crate::{fault::Fault, interned::Interned, row};

pub(crate) fn counts(conn: &Connection, interned: &mut Interned) -> Result<Vec<Count>, Fault> {
    let mut statement = conn
        .prepare_cached("SELECT func, status, n FROM counter WHERE n > 0 ORDER BY func, status")?;
    let mut rows = statement.query([])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(status) = row::status_of(row.get(1)?) else {
            continue; // of a newer program: the other sums are told all the same
        };
        counts.push(Count {
            name: interned.name(conn, row.get(0)?)?,
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
        let Ok(status) = row::status_of(row.get(2)?) else {
            continue; // as above
        };
        minutes.push(Minute {
            at: Timestamp::from_unix_ms(row.get(0)?),
            name: interned.name(conn, row.get(1)?)?,
            status,
            n: row::whole(row, 3)?,
            run: Duration::from_millis(row::whole(row, 4)?),
        });
    }
    Ok(minutes)
}
