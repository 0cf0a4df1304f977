//! Databases that are written by way of our VFS, and looked at by way of SQLite's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "this is test code"
)]

use std::{fs, path::Path};

use fastrand::Rng;
use rusqlite::{Connection, OpenFlags};

fn ours(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let vfs = axum_taskflow_wal::vfs().expect("SQLite has a VFS");
    let conn = Connection::open_with_flags_and_vfs(path, flags, vfs).unwrap();
    set_up(&conn);
    conn
}

fn set_up(conn: &Connection) {
    // A small cache: large transactions write pages before they commit, some of them twice.
    conn.execute_batch(
        "PRAGMA journal_mode = wal; PRAGMA synchronous = normal; PRAGMA cache_size = 20;
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 100000;",
    )
    .unwrap();
}

/// All that is in the table.
fn sum(conn: &Connection) -> (i64, i64, i64) {
    let sql = "SELECT count(*), coalesce(sum(k * 31 + length(v)), 0), coalesce(sum(unicode(v)), 0) FROM t";
    conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
}

/// One of many histories of the same kind.
struct History {
    rng: Rng,
}

impl History {
    fn transaction(&mut self, conn: &Connection) {
        let rng = &mut self.rng;
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let n = if rng.u8(0..10) == 0 {
            rng.u32(50..400)
        } else {
            rng.u32(1..8)
        };
        for _ in 0..n {
            let k = rng.u32(0..2_000);
            let v = char::from(rng.u8(97..123))
                .to_string()
                .repeat(rng.usize(1..900));
            match rng.u8(0..10) {
                0 => conn.execute("DELETE FROM t WHERE k % 7 = ? % 7 AND k > ?", [k, 1_500]),
                1 => conn.execute("UPDATE t SET v = v || 'x' WHERE k < ?", [k % 100]),
                _ => conn.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (k, v)),
            }
            .unwrap();
            if rng.u8(0..20) == 0 {
                sum(conn); // reads what may be in the log already, and not on the disk
            }
            match rng.u8(0..30) {
                0 => conn.execute_batch("SAVEPOINT s").unwrap(),
                1 => drop(conn.execute_batch("ROLLBACK TO s")), // if there is one
                _ => {}
            }
        }
        match rng.u8(0..5) {
            0 => conn.execute_batch("ROLLBACK").unwrap(),
            _ => conn.execute_batch("COMMIT").unwrap(),
        }
    }

    fn between(&mut self, conn: &Connection) {
        let sql = match self.rng.u8(0..40) {
            0 => "PRAGMA wal_checkpoint(PASSIVE)",
            1 => "PRAGMA wal_checkpoint(RESTART)",
            2 => "PRAGMA wal_checkpoint(TRUNCATE)",
            3 => "VACUUM",
            4 => "PRAGMA synchronous = full",
            5 => "PRAGMA synchronous = normal",
            _ => return,
        };
        let mut statement = conn.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        while rows.next().unwrap().is_some() {}
    }
}

/// The same with and without, and others see what was committed as soon as it is.
#[test]
fn random_histories_leave_what_they_leave_without() {
    const TABLE: &str = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t (v);";
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let (path, twin) = (folder.path().join("ours.db"), folder.path().join("twin.db"));
        let mut conn = ours(&path);
        let twin = Connection::open(&twin).unwrap();
        set_up(&twin);
        for conn in [&conn, &twin] {
            conn.execute_batch(TABLE).unwrap();
        }
        let other = Connection::open(&path).unwrap();
        let [mut history, mut again] = [(); 2].map(|()| History {
            rng: Rng::with_seed(seed),
        });
        for n in 0..60 {
            history.transaction(&conn);
            again.transaction(&twin);
            let expected = sum(&twin);
            assert_eq!(sum(&other), expected, "seed {seed}, transaction {n}");
            history.between(&conn);
            again.between(&twin);
            if n % 20 == 19 {
                // Who opens it anew, and who had it open, see the same.
                let check = |conn: &Connection| -> String {
                    conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))
                        .unwrap()
                };
                assert_eq!(check(&other), "ok", "seed {seed}, transaction {n}");
                drop(conn);
                conn = ours(&path);
                assert_eq!(sum(&conn), expected, "seed {seed}, transaction {n}");
            }
            if n % 15 == 14 {
                other
                    .execute_batch("BEGIN IMMEDIATE; DELETE FROM t WHERE k = 1; COMMIT")
                    .unwrap();
                twin.execute_batch("BEGIN IMMEDIATE; DELETE FROM t WHERE k = 1; COMMIT")
                    .unwrap();
            }
        }
    }
}

/// What is in the log is what a process leaves that is killed.
#[test]
fn after_a_commit_its_log_has_all_of_it_and_before_nothing_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.db");
    let conn = ours(&path);
    conn.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
        .unwrap();
    let killed = |n: u32| {
        let copy = folder.path().join(format!("{n}.db"));
        for suffix in ["", "-wal"] {
            let name = |path: &Path| format!("{}{suffix}", path.display());
            fs::copy(name(&path), name(&copy)).unwrap();
        }
        sum(&Connection::open(copy).unwrap())
    };

    for n in 0..50 {
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        for k in 0..n * 4 {
            conn.execute(
                "INSERT OR REPLACE INTO t VALUES (?, ?)",
                (k, "x".repeat(500)),
            )
            .unwrap();
        }
        let before = killed(2 * n);
        conn.execute_batch("COMMIT").unwrap();
        let after = killed(2 * n + 1);
        assert_eq!(before.0, i64::from(n.saturating_sub(1)) * 4);
        assert_eq!(after, sum(&conn));
    }
}

/// No call of SQLite's own is as long.
#[test]
fn pages_of_every_size_are_written() {
    for size in [512, 4_096, 32_768, 65_536] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.db");
        Connection::open(&path)
            .and_then(|conn| conn.execute_batch(&format!("PRAGMA page_size = {size}; VACUUM")))
            .unwrap();
        let conn = ours(&path);
        conn.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
            .unwrap();
        for n in [1_i64, 10, 300] {
            conn.execute_batch("BEGIN").unwrap();
            for k in 0..n {
                conn.execute(
                    "INSERT OR REPLACE INTO t VALUES (?, ?)",
                    (k, "x".repeat(5_000)),
                )
                .unwrap();
            }
            conn.execute_batch("COMMIT").unwrap();
            let other = Connection::open(&path).unwrap();
            assert_eq!(sum(&other), sum(&conn));
            assert_eq!(sum(&other).0, n, "pages of {size}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_commit_of_many_pages_is_one_call() {
    /// Calls that wrote, of this thread.
    fn calls() -> u64 {
        let text = fs::read_to_string("/proc/thread-self/io").unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("syscw: "))
            .unwrap();
        line.parse().unwrap()
    }
    let folder = tempfile::tempdir().unwrap();
    let plain = Connection::open(folder.path().join("plain.db")).unwrap();
    set_up(&plain);
    let counted = [ours(&folder.path().join("ours.db")), plain].map(|conn| {
        conn.execute_batch("PRAGMA cache_size = 2000; CREATE TABLE t (v TEXT)")
            .unwrap();
        let mut n = 0;
        for _ in 0..10 {
            let before = calls();
            conn.execute_batch("BEGIN").unwrap();
            for _ in 0..20 {
                conn.execute("INSERT INTO t VALUES (?)", ["x".repeat(3_000)])
                    .unwrap();
            }
            conn.execute_batch("COMMIT").unwrap();
            n += calls() - before;
            // The next one begins the log anew.
            conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .unwrap();
        }
        n
    });

    let [ours, plain] = counted;
    assert!(
        ours <= 22,
        "{ours} calls for ten commits, and the header of each log"
    );
    assert!(plain > 300, "{plain} without");
}

/// A transaction that has written pages before it was given up leaves them nowhere: where they would have been, others
/// write meanwhile.
#[test]
fn what_was_rolled_back_is_never_written_over_what_others_commit() {
    for n in 12..40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.db");
        let conn = ours(&path);
        conn.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
            .unwrap();
        // As long as before: neither the first page nor the shape of the tree changes.
        let update = |conn: &Connection, n: i64, v: &str| {
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            conn.execute("UPDATE t SET v = ? WHERE k < ?", (v.repeat(3_000), n))
                .unwrap();
        };
        for k in 0..100 {
            conn.execute("INSERT INTO t VALUES (?, ?)", (k, "x".repeat(3_000)))
                .unwrap();
        }
        // What is in the file is read without a look at the log.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        update(&conn, 1, "a"); // the log begins
        conn.execute_batch("COMMIT").unwrap();
        let other = Connection::open(&path).unwrap();

        update(&conn, n, "b");
        conn.execute_batch("ROLLBACK").unwrap();
        update(&other, 100, "c");
        other.execute_batch("COMMIT").unwrap();

        let expected = (100, 453_450, 9_900);
        assert_eq!(sum(&conn), expected, "{n} rows were rolled back");
        let new = Connection::open(&path).unwrap();
        assert_eq!(sum(&new), expected, "{n} rows were rolled back");
    }
}

/// Where a sector may be lost with what was in it before, SQLite fills it with copies of the last frame, and flushes in the
/// middle of one.
#[test]
fn a_commit_that_is_flushed_in_parts_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.db");
    Connection::open(&path)
        .and_then(|conn| conn.execute_batch("PRAGMA page_size = 512; VACUUM"))
        .unwrap();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?psow=0", path.display());
    let vfs = axum_taskflow_wal::vfs().expect("SQLite has a VFS");
    let conn = Connection::open_with_flags_and_vfs(uri, flags, vfs).unwrap();
    set_up(&conn);
    conn.execute_batch("PRAGMA synchronous = full; CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
        .unwrap();

    for k in 0..600 {
        conn.execute("INSERT INTO t VALUES (?, ?)", (k, "x".repeat(70)))
            .unwrap();
        let other = Connection::open(&path).unwrap();
        assert_eq!(sum(&other), sum(&conn), "{k} rows");
    }
}

/// SQLite takes no locks in the shared memory then, so nobody says when others may write again.
#[test]
fn what_was_rolled_back_in_exclusive_mode_is_not_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.db");
    let conn = ours(&path);
    conn.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
        .unwrap();
    for k in 0..100 {
        conn.execute("INSERT INTO t VALUES (?, ?)", (k, "x".repeat(3_000)))
            .unwrap();
    }
    for n in 12..40 {
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        conn.execute_batch(
            "PRAGMA locking_mode = exclusive; UPDATE t SET v = v WHERE k = 1; BEGIN",
        )
        .unwrap();
        conn.execute("UPDATE t SET v = ? WHERE k < ?", ("a".repeat(3_000), n))
            .unwrap();
        conn.execute_batch("ROLLBACK; PRAGMA locking_mode = normal; SELECT 1 FROM t LIMIT 1")
            .unwrap();
        let other = Connection::open(&path).unwrap();
        let v = char::from(b'A' + n);
        other
            .execute("UPDATE t SET v = ?", [v.to_string().repeat(3_000)])
            .unwrap();

        let expected = (100, 453_450, 100 * i64::from(u32::from(v)));
        assert_eq!(sum(&conn), expected, "{n} rows were rolled back");
        let new = Connection::open(&path).unwrap();
        assert_eq!(sum(&new), expected, "{n} rows were rolled back");
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_and_the_next_one_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.db");
    let log = folder.path().join("own.db-wal");
    ours(&path).execute_batch("CREATE TABLE t (k)").unwrap();
    let vfs = axum_taskflow_wal::vfs().expect("SQLite has a VFS");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let open = |path: &Path| Connection::open_with_flags_and_vfs(path, flags, vfs);

    assert!(open(&folder.path().join("nowhere").join("own.db")).is_err());
    let conn = open(&path).unwrap();
    fs::create_dir(&log).unwrap();
    conn.execute("INSERT INTO t VALUES (1)", []).unwrap_err();
    fs::remove_dir(&log).unwrap();

    conn.execute("INSERT INTO t VALUES (2)", []).unwrap();
    let other = Connection::open(&path).unwrap();
    let n: i64 = other
        .query_row("SELECT sum(k) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(n, 2);
}
