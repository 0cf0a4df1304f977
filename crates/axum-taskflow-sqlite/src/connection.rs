//! Connections to the file, each pragma with its reason.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum_taskflow_core::BackendError;
use rusqlite::{Connection, ErrorCode, OpenFlags, PrepFlags, Statement, config::DbConfig};

use crate::{
    Durability,
    checkpoints::OTHERS_WAITED_FOR,
    fault::Fault,
    place,
    schema::{self, Found},
};

/// What is wrong with a path that names no file, wherever it is looked for.
pub(crate) fn complaint(path: &Path) -> Option<String> {
    let why = if path.as_os_str().is_empty() {
        "the path of the database is empty; name a file, such as \"tasks.db\""
    } else if path.as_os_str() == ":memory:" {
        "a database in memory cannot be shared by several connections and loses its tasks with the process; \
         name a file, or use the memory backend"
    } else {
        return None;
    };
    Some(format!("cannot open {path:?}: {why}"))
}

/// Where the file would lie, if there can be one.
pub(crate) fn place(path: &Path) -> Result<PathBuf, BackendError> {
    let cannot = |why: String| {
        Err(BackendError::refused(format!(
            "cannot open {path:?}: {why}"
        )))
    };
    if let Some(complaint) = complaint(path) {
        return Err(BackendError::refused(complaint));
    }
    if path.is_dir() {
        return cannot("it is a folder; name a file inside it, such as \"tasks.db\"".into());
    }
    let Some(name) = path.file_name() else {
        return cannot("the path does not end with the name of a file".into());
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if fs::canonicalize(path).is_ok_and(|path| place::is_mounted(&path)) {
        return cannot(
            "this file is mounted by itself; its log and its locks lie beside it, where other processes must find them \
             and where they must be kept: mount the folder"
                .into(),
        );
    }
    // Absolute, so that neither a later change of the working folder nor a name such as "file:x" means another file.
    match fs::canonicalize(folder) {
        Ok(folder) if folder.is_dir() => Ok(folder.join(name)),
        Ok(_) => cannot(format!("{folder:?} is not a folder")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => cannot(format!(
            "the folder {folder:?} does not exist; create it first"
        )),
        Err(error) => cannot(format!("the folder {folder:?} cannot be used: {error}")),
    }
}

/// The connection that writes, with the newest schema. Leaves a file alone that is not ours.
pub(crate) fn open_writer(
    path: &Path,
    durability: Durability,
    lock_wait: Duration,
) -> Result<Connection, BackendError> {
    let explain = |fault: Fault| explain_opening(fault, path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX; // one thread uses it
    // What is written is written with one call for each commit, where that can be had.
    let conn = match axum_taskflow_wal::vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    };
    let mut conn = conn.map_err(|e| explain(e.into()))?;
    conn.busy_handler(Some(patience(lock_wait)))
        .map_err(|e| explain(e.into()))?;

    // Looked at before anything is written: not even the journal mode of a foreign file is touched.
    let found = look(&conn).map_err(|e| explain(e.into()))?;
    match found {
        Found::Empty | Found::Ours(_) => {}
        Found::Foreign => {
            return Err(BackendError::refused(format!(
                "cannot open {path:?}: it is a database of another program; it is left as it is, give the tasks a file of their own"
            )));
        }
        Found::Newer(version) => {
            return Err(BackendError::refused(format!(
                "cannot open {path:?}: its schema has version {version} and this program knows {}; \
                 it is left as it is, use the newer program",
                schema::NEWEST
            )));
        }
    }
    // SQLite falls back to reading when it may not write, and would say so at the first task only.
    if conn.is_readonly("main").map_err(|e| explain(e.into()))? {
        return Err(BackendError::refused(format!(
            "cannot open {path:?}: the file is read-only for this process; allow it to write the file and its folder"
        )));
    }
    set_up_writer(&conn, durability, lock_wait)
        .and_then(|()| match found {
            Found::Ours(schema::NEWEST) => Ok(()),
            _ => schema::migrate(&conn),
        })
        .map_err(explain)?;
    Ok(conn)
}

fn look(conn: &Connection) -> rusqlite::Result<Found> {
    let snapshot = conn.unchecked_transaction()?;
    let found = schema::look(&snapshot)?;
    snapshot.finish()?;
    Ok(found)
}

fn set_up_writer(
    conn: &Connection,
    durability: Durability,
    lock_wait: Duration,
) -> Result<(), Fault> {
    // The log: readers and the writer do not wait for each other, and a commit is one append. SQLite does not wait
    // by itself when several connections set it on a new file at once.
    let mut patience = patience(lock_wait);
    let mut n_tries = 0;
    while let Err(fault) = set(conn, "journal_mode", "wal", "wal") {
        if !fault.is_busy() || !patience(n_tries) {
            return Err(fault);
        }
        n_tries += 1;
    }
    match durability {
        // The log is flushed at checkpoints only: what was committed survives the process, not the power.
        Durability::Process => set(conn, "synchronous", "NORMAL", "1")?,
        // The log is flushed at every commit.
        Durability::PowerLoss => set(conn, "synchronous", "FULL", "2")?,
    }
    // Not within a commit, but by a thread of its own: see `checkpoints`.
    set(conn, "wal_autocheckpoint", "0", "0")?;
    // A log that grew behind a long reader is cut back.
    set(conn, "journal_size_limit", "67108864", "67108864")?;
    // 8 MB: the inner pages of the indexes, the live tasks and the end of the table.
    set(conn, "cache_size", "-8000", "-8000")?;
    // A statement is planned once, not again for each value that is compared with the condition of an index.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    set_up_any(conn)
}

/// Two more connections that can write, for checkpoints only.
pub(crate) fn open_checkpointers(path: &Path) -> Result<[Connection; 2], Fault> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags)?;
        conn.busy_handler(Some(patience(OTHERS_WAITED_FOR)))?;
        // The log is flushed before it is carried over, and the file after that, whatever an accepted task survives.
        set(&conn, "synchronous", "NORMAL", "1")?;
        set_up_any(&conn)?;
        Ok::<_, Fault>(conn)
    };
    Ok([open()?, open()?])
}

/// The one name of a file that is open: those who came by a link must find each other's locks.
pub(crate) fn real_path(path: &Path) -> Result<PathBuf, BackendError> {
    fs::canonicalize(path).map_err(|error| Fault::from(error).explain("open", path))
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path, lock_wait: Duration) -> Result<Connection, BackendError> {
    let explain = |error: rusqlite::Error| explain_opening(error.into(), path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(explain)?;
    conn.busy_handler(Some(patience(lock_wait)))
        .map_err(explain)?;
    set_up_any(&conn).map_err(|fault| explain_opening(fault, path))?;
    Ok(conn)
}

fn set_up_any(conn: &Connection) -> Result<(), Fault> {
    // Sorting and the like never touch the disk; what we sort is bounded.
    set(conn, "temp_store", "MEMORY", "2")?;
    // The file may come from anywhere: functions in its schema are not run.
    set(conn, "trusted_schema", "OFF", "0")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// A statement that is kept as long as its connection. SQLite is told so, and then takes the memory for it elsewhere
/// than that for what comes and goes with each row: that is little, and without it a row costs a dozen allocations.
pub(crate) fn kept<'c>(conn: &'c Connection, sql: &str) -> rusqlite::Result<Statement<'c>> {
    conn.prepare_with_flags(sql, PrepFlags::SQLITE_PREPARE_PERSISTENT)
}

/// Sets a pragma and reads it back, since SQLite does not complain about one that has no effect.
fn set(conn: &Connection, pragma: &str, value: &str, expected: &str) -> Result<(), Fault> {
    conn.pragma_update(None, pragma, value)?;
    let is: rusqlite::types::Value = conn.pragma_query_value(None, pragma, |row| row.get(0))?;
    let is = match is {
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => format!("{other:?}"),
    };
    if is == expected {
        return Ok(());
    }
    Err(Fault::unreadable(format!(
        "SQLite keeps {pragma} at {is} although it was told {value} (is the file on a network share?)"
    )))
}

/// Waits for a lock of another process in short, uneven steps: SQLite's own steps grow to 100 ms, and whoever
/// waits longest is then served last.
fn patience(lock_wait: Duration) -> impl FnMut(i32) -> bool + Send + 'static {
    let mut begun = Instant::now();
    move |n_tries| {
        if n_tries == 0 {
            begun = Instant::now();
        }
        if begun.elapsed() >= lock_wait {
            return false;
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(50..400)));
        true
    }
}

fn explain_opening(fault: Fault, path: &Path) -> BackendError {
    if let Fault::Sql(error) = &fault
        && error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
        && !path.exists()
    {
        return BackendError::refused(format!(
            "cannot open {path:?}: the file cannot be created; this process must be allowed to write in its folder"
        ))
        .with_source(fault);
    }
    fault.explain("open", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pragma(conn: &Connection, name: &str) -> String {
        conn.pragma_query_value(None, name, |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                other => other.as_str()?.to_owned(),
            })
        })
        .unwrap()
    }

    #[test]
    fn each_durability_is_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");

        for (durability, synchronous) in [(Durability::Process, "1"), (Durability::PowerLoss, "2")]
        {
            let conn = open_writer(&path, durability, Duration::ZERO).unwrap();

            assert_eq!(pragma(&conn, "synchronous"), synchronous);
            assert_eq!(pragma(&conn, "journal_mode"), "wal");
        }
    }

    #[test]
    fn a_pragma_without_effect_is_an_error() {
        // A database in memory has no log.
        let conn = Connection::open_in_memory().unwrap();

        let fault = set(&conn, "journal_mode", "wal", "wal").unwrap_err();

        assert!(
            fault.to_string().contains("keeps journal_mode at memory"),
            "{fault}"
        );
    }

    #[test]
    fn a_reader_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        let _writer = open_writer(&path, Durability::Process, Duration::ZERO).unwrap();
        let reader = open_reader(&path, Duration::ZERO).unwrap();

        let error = reader.execute("DELETE FROM task", []).unwrap_err();

        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
    }

    #[test]
    fn opening_waits_while_somebody_else_looks_at_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN").unwrap();
        assert_eq!(schema::look(&other).unwrap(), Found::Empty);
        let (opened, is_opened) = std::sync::mpsc::channel();

        let opener = std::thread::spawn(move || {
            let outcome = open_writer(&path, Durability::Process, Duration::from_secs(60));
            opened.send(outcome.map(drop)).unwrap();
        });

        let at_first = is_opened.recv_timeout(Duration::from_millis(50));
        assert!(at_first.is_err(), "it did not wait: {at_first:?}");
        other.execute_batch("COMMIT").unwrap();
        is_opened.recv().unwrap().unwrap();
        opener.join().unwrap();
    }

    #[test]
    fn patience_ends_and_begins_anew_for_each_lock() {
        let lock_wait = Duration::from_millis(20);
        let mut patience = patience(lock_wait);

        let begun = Instant::now();
        let n_tries = (0..).take_while(|n| patience(*n)).count();
        let waited = begun.elapsed();

        assert!(waited >= lock_wait, "{waited:?}");
        assert!((1..=400).contains(&n_tries), "{n_tries} tries");
        assert!(patience(0), "the next lock is waited for as long");
        std::thread::sleep(lock_wait); // a try that takes its time counts too
        assert!(!patience(1), "what counts is the time that has passed");
    }
}
