#![allow(clippy::unwrap_used, reason = "this is test code")]
//! The suite that every backend must pass, on a new file for each check.

use axum_taskflow_core::{conformance::Opened, conformance_tests};
use axum_taskflow_sqlite::Sqlite;

async fn open() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let backend = Sqlite::open(folder.path().join("tasks.db")).unwrap();
    Opened::new(backend).keeping(folder)
}

conformance_tests!(open);
