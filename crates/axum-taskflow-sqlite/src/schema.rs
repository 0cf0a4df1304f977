//! The shape of the file, and how an older one becomes the newest.

use rusqlite::Connection;

use crate::fault::Fault;

/// `TASK` in ASCII: tells our files from those of other programs (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x5441_534b;

/// One step for each schema there ever was. A step is never changed once it was released; a new one is added.
const STEPS: [&str; 1] = [include_str!("schema/0001_first.sql")];

/// What kind of file lies at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was ever written to it.
    Empty,
    /// One of ours, with this version of the schema.
    Ours(usize),
    /// A database of somebody else.
    Foreign,
    /// One of ours, written by a newer program.
    Newer(i64),
}

/// The version that this program writes.
pub(crate) const NEWEST: usize = STEPS.len();

/// Looks at a file without changing it.
pub(crate) fn look(conn: &Connection) -> rusqlite::Result<Found> {
    let application_id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let n_tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application_id, n_tables, usize::try_from(version)) {
        (0, 0, Ok(0)) => Found::Empty,
        (APPLICATION_ID, _, Ok(version)) if version <= NEWEST => Found::Ours(version),
        (APPLICATION_ID, _, _) => Found::Newer(version),
        _ => Found::Foreign,
    })
}

/// Brings an empty or older file to the newest schema, in one transaction: a process that dies in between leaves
/// the file as it was.
pub(crate) fn migrate(conn: &Connection) -> Result<(), Fault> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    match steps_from_here(conn) {
        Ok(()) => Ok(conn.execute_batch("COMMIT")?),
        Err(fault) => {
            if !conn.is_autocommit() {
                conn.execute_batch("ROLLBACK")?;
            }
            Err(fault)
        }
    }
}

fn steps_from_here(conn: &Connection) -> Result<(), Fault> {
    // Once more, now that nobody else can write: another process may have been faster.
    let version = match look(conn)? {
        Found::Empty => 0,
        Found::Ours(version) => version,
        Found::Foreign | Found::Newer(_) => {
            return Err(Fault::unreadable("another program took the file meanwhile"));
        }
    };
    for step in &STEPS[version..] {
        conn.execute_batch(step)?;
    }
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(
        None,
        "user_version",
        i64::try_from(NEWEST).unwrap_or(i64::MAX),
    )?;
    Ok(())
}
