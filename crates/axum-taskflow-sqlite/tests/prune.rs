//! Deletion in parts that stay small, whatever there is to delete.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{
    AuditEntry, Backend, Batch, Change, Epoch, IdempotencyKey, LogLevel, LogLine, Note, Outcome,
    Prune, RetryPolicy, Said, Timestamp,
};
use rusqlite::Connection;
use support::{Boot, NOW};
use tempfile::tempdir;

fn after(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn everything_before(before: Timestamp) -> Prune {
    Prune {
        finished_before: before,
        failed_before: before,
        series_before: before,
        from: None,
        limit: 10,
    }
}

#[tokio::test]
async fn a_part_ends_early_when_tasks_have_said_much() {
    let folder = tempdir().unwrap();
    let boot = Boot::at(&folder.path().join("tasks.db")).await;
    let mut batch = Batch::at(NOW);
    for _ in 0..3 {
        let task = boot.owned();
        batch.notes.extend((0..6_000).map(|seq| Note {
            id: task.id,
            epoch: Epoch::ZERO,
            what: Said::Log(LogLine {
                seq,
                attempt: 1,
                at: NOW,
                level: LogLevel::Info,
                message: "x".to_owned(),
            }),
        }));
        batch.changes.push(Change::cancelled(&task, NOW).unwrap());
        batch.tasks.push(Arc::new(task));
    }
    boot.backend.write(Arc::new(batch)).await.unwrap();
    let mut prune = everything_before(after(1));

    let first = boot.backend.prune(prune).await.unwrap();

    assert_eq!(first.deleted, 2);
    prune.from = first.next;
    assert!(prune.from.is_some());
    let second = boot.backend.prune(prune).await.unwrap();
    assert_eq!((second.deleted, second.next), (1, None));
}

#[tokio::test]
async fn a_part_ends_early_when_tasks_are_large() {
    let folder = tempdir().unwrap();
    let boot = Boot::at(&folder.path().join("tasks.db")).await;
    let large = format!("[\"{}\"]", "x".repeat(24_000_000)); // 5,860 pages
    let mut batch = Batch::at(NOW);
    for _ in 0..3 {
        let mut task = boot.owned();
        task.args = large.as_str().into();
        batch.changes.push(Change::cancelled(&task, NOW).unwrap());
        batch.tasks.push(Arc::new(task));
    }
    boot.backend.write(Arc::new(batch)).await.unwrap();

    let first = boot.backend.prune(everything_before(after(1))).await;

    assert_eq!(first.unwrap().deleted, 2);
}

#[tokio::test]
async fn minutes_entries_and_keys_go_however_small_a_part_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    for n in 0..25 {
        let at = after(60 * n);
        let mut batch = Batch::at(at);
        let mut task = boot.owned();
        task.idempotency_key = Some(IdempotencyKey {
            key: n.to_string(),
            ttl: Duration::from_secs(60),
        });
        batch.tasks.push(Arc::new(task.clone()));
        let change = Change::started(&task, boot.me, at).unwrap();
        task.life = change.life.clone();
        batch.changes.push(change);
        let policy = RetryPolicy::default();
        let change = Change::finished(&task, Outcome::Done(None), &policy, 0.0, at);
        batch.changes.push(change.unwrap());
        batch.audit.push(AuditEntry {
            id: boot.ids.task(at),
            at,
            actor: "somebody".to_owned(),
            action: "retry".to_owned(),
            task: None,
            detail: serde_json::Value::Null,
        });
        boot.backend.write(Arc::new(batch)).await.unwrap();
    }
    let n_rows = |table: &str| -> i64 {
        let conn = Connection::open(&path).unwrap();
        let count = format!("SELECT count(*) FROM {table}");
        conn.query_row(&count, [], |row| row.get(0)).unwrap()
    };

    let begun =
        |minute: u64| Timestamp::from_unix_ms(after(60 * minute).as_unix_ms() / 60_000 * 60_000);

    // 23 minutes and as many entries; no key yet.
    let mut prune = everything_before(begun(23));
    prune.finished_before = NOW;
    boot.backend.prune(prune).await.unwrap();
    assert_eq!(n_rows("minute"), 2);
    assert_eq!(n_rows("audit"), 2);
    assert_eq!(n_rows("idempotency"), 25);

    // The keys, each of which was kept for a minute longer.
    boot.backend
        .prune(everything_before(begun(23)))
        .await
        .unwrap();
    assert_eq!(n_rows("idempotency"), 3);
}

#[tokio::test]
async fn nothing_by_which_a_task_was_found_outlives_it() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let mut task = boot.owned();
    task.tags.insert("a".to_owned(), "b".to_owned());
    task.tracking_id = Some("r-1".into());
    let mut batch = Batch::at(NOW);
    batch.changes.push(Change::cancelled(&task, NOW).unwrap());
    batch.tasks.push(Arc::new(task));
    boot.backend.write(Arc::new(batch)).await.unwrap();
    let conn = Connection::open(&path).unwrap();
    let n_rows = || {
        ["task_tag", "task_tracking"].map(|table| {
            let count = format!("SELECT count(*) FROM {table}");
            conn.query_row(&count, [], |row| row.get::<_, i64>(0))
                .unwrap()
        })
    };
    assert_eq!(n_rows(), [1, 1]);

    let prune = everything_before(after(1));
    boot.backend.prune(prune).await.unwrap();

    assert_eq!(n_rows(), [0, 0]);
}
