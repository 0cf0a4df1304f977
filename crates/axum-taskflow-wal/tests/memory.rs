//! What is gathered is freed with its connection. Alone in its process, whose memory it looks at.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::fs;

use rusqlite::{Connection, OpenFlags};

#[test]
fn connections_that_were_closed_keep_no_memory() {
    /// Of this process, in kilobytes.
    fn memory() -> u64 {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let figure = line.unwrap().trim().trim_end_matches(" kB");
        figure.parse().unwrap()
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.db");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let use_some = || {
        let vfs = axum_taskflow_wal::vfs().unwrap();
        let conn = Connection::open_with_flags_and_vfs(&path, flags, vfs).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = off;
             CREATE TABLE IF NOT EXISTS t (v BLOB);
             BEGIN; INSERT INTO t VALUES (randomblob(200000)); COMMIT; DELETE FROM t;",
        )
        .unwrap();
    };
    (0..20).for_each(|_| use_some());
    let before = memory();

    (0..200).for_each(|_| use_some());

    // Each of them gathers a hundred kilobytes.
    let grown = memory().saturating_sub(before);
    assert!(grown < 6_000, "{grown} kB more after 200 connections");
}
