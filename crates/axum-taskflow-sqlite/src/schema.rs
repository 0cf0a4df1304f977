//! The shape of the file, and how an older one becomes the newest.

use rusqlite::Connection;

use crate::fault::Fault;

/// `TASK` in ASCII: tells our files from those of other programs (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x5441_534b;

/// One step for each schema there ever was. A step is never changed once it was released; a new one is added.
const STEPS: [&str; 4] = [
    include_str!("schema/0001_first.sql"),
    include_str!("schema/0002_instances.sql"),
    include_str!("schema/0003_records.sql"),
    include_str!("schema/0004_tracking.sql"),
];

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

/// Looks at a file without changing it. To be called in a transaction: another process may be making the file
/// just now, and half of its marks would be those of a foreign one.
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

/// A file in which somebody has analyzed so many tasks of this owner, as some tools do by themselves: for SQLite there are
/// that many for ever, however it grows.
#[cfg(test)]
pub(crate) fn analyzed(n_tasks: u8, owner: Option<i64>) -> Connection {
    const SQL: &str = "
        INSERT INTO task (id, func, status, epoch, attempt, owner, priority, run_at, source, executor, requeue, args)
        VALUES (?1, 1, 2, 0, 0, ?2, 0, 0, 0, 0, 0, '[]')";
    let conn = Connection::open_in_memory().unwrap();
    migrate(&conn).unwrap();
    for n in 0..n_tasks {
        conn.execute(SQL, ([n; 16], owner)).unwrap();
    }
    conn.execute_batch("ANALYZE").unwrap();
    conn
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables, indexes and their columns.
    fn shape(conn: &Connection) -> Vec<(String, String, Option<String>)> {
        conn.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    /// A file as the program that wrote this version left it.
    fn of_version(version: usize) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        for step in &STEPS[..version] {
            conn.execute_batch(step).unwrap();
        }
        conn.pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        conn.pragma_update(None, "user_version", version as i64)
            .unwrap();
        conn
    }

    #[test]
    fn every_older_schema_becomes_the_newest() {
        let newest = Connection::open_in_memory().unwrap();
        migrate(&newest).unwrap();

        for version in 1..=NEWEST {
            let conn = of_version(version);
            migrate(&conn).unwrap();

            assert_eq!(look(&conn).unwrap(), Found::Ours(NEWEST));
            assert_eq!(shape(&conn), shape(&newest), "from version {version}");
        }
    }

    #[test]
    fn a_file_is_told_by_what_is_in_it() {
        let newer = of_version(1);
        newer.pragma_update(None, "user_version", 99).unwrap();
        let foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE t (x)").unwrap();
        let versioned = Connection::open_in_memory().unwrap();
        versioned.pragma_update(None, "user_version", 1).unwrap();

        assert_eq!(look(&newer).unwrap(), Found::Newer(99));
        assert_eq!(look(&foreign).unwrap(), Found::Foreign);
        assert_eq!(look(&versioned).unwrap(), Found::Foreign);
        assert_eq!(look(&of_version(1)).unwrap(), Found::Ours(1));
        assert_eq!(
            look(&Connection::open_in_memory().unwrap()).unwrap(),
            Found::Empty
        );
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let conn = Connection::open_in_memory().unwrap();
        conn.pragma_update(None, "max_page_count", 10).unwrap(); // too few for all tables

        let fault = migrate(&conn).unwrap_err();

        assert!(fault.to_string().contains("full"), "{fault}");
        assert_eq!(look(&conn).unwrap(), Found::Empty);
        assert!(conn.is_autocommit(), "no transaction is left open");
    }
}
