//! A process whose default VFS is not one that ours knows. Alone in its process, which it changes.

#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "this is test code, and a default is set by C"
)]

use rusqlite::{Connection, OpenFlags, ffi};

#[test]
fn before_a_vfs_of_somebody_else_there_is_none() {
    // SAFETY: the name ends with a zero.
    let other = unsafe { ffi::sqlite3_vfs_find(c"unix-dotfile".as_ptr()) };
    assert!(!other.is_null());
    // SAFETY: it is registered already, and stays.
    let outcome = unsafe { ffi::sqlite3_vfs_register(other, 1) };
    assert_eq!(outcome, ffi::SQLITE_OK);

    assert_eq!(axum_taskflow_wal::vfs(), None);

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let named = Connection::open_with_flags_and_vfs("own.db", flags, c"axum-taskflow-wal");
    let error = named.unwrap_err();
    assert!(error.to_string().contains("no such vfs"), "{error}");
}
