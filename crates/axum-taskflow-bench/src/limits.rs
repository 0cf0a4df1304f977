//! What the store itself can do with the same rows: the limit of every other figure.

use std::{error::Error, path::Path, time::Instant};

use rusqlite::{Connection, params};

use crate::report::Figure;

/// L1: one connection, WAL, `synchronous=NORMAL`, 16-byte ordered ids, a 40-byte payload, one partial index, in
/// transactions of 1, 64 and 512 rows.
pub(crate) fn sqlite(
    path: &Path,
    tasks: usize,
) -> Result<Vec<Figure>, Box<dyn Error + Send + Sync>> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         CREATE TABLE task (id BLOB PRIMARY KEY, status INTEGER NOT NULL, owner INTEGER, args TEXT NOT NULL) WITHOUT ROWID;
         CREATE INDEX owned ON task (owner) WHERE owner IS NOT NULL;",
    )?;
    let payload = "a".repeat(40);
    let mut next: u128 = 0;
    let mut figures = Vec::new();
    for (rows, n) in [(1, tasks / 10), (64, tasks), (512, tasks)] {
        let begun = Instant::now();
        for _ in 0..n / rows {
            let transaction = connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO task (id, status, owner, args) VALUES (?, 0, 1, ?)",
                )?;
                for _ in 0..rows {
                    next += 1;
                    insert.execute(params![next.to_be_bytes(), payload])?;
                }
            }
            transaction.commit()?;
        }
        let rate = n as f64 / begun.elapsed().as_secs_f64();
        figures.push(Figure::new(format!("insert in {rows}s"), "rows/s", rate));
    }
    let (rows, mut done) = (512, 0_u128);
    let begun = Instant::now();
    for _ in 0..tasks / rows {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO task (id, status, owner, args) VALUES (?, 0, 1, ?)")?;
            let mut update = transaction
                .prepare_cached("UPDATE task SET status = 2, owner = NULL WHERE id = ?")?;
            for _ in 0..rows {
                next += 1;
                insert.execute(params![next.to_be_bytes(), payload])?;
                update.execute(params![next.to_be_bytes()])?;
                done += 1;
            }
        }
        transaction.commit()?;
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    figures.push(Figure::new("insert + update in 512s", "rows/s", rate));
    Ok(figures)
}
