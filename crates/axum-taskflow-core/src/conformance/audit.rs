//! Who did what.

use serde_json::json;

use super::bench::Bench;
use crate::{backend::AuditEntry, id::TaskId};

fn entry(bench: &Bench<'_>, actor: &str) -> AuditEntry {
    AuditEntry {
        id: bench.id(),
        at: bench.now(),
        actor: actor.to_owned(),
        action: "retry".to_owned(),
        task: None,
        detail: serde_json::Value::Null,
    }
}

async fn write(bench: &Bench<'_>, entries: &[AuditEntry]) {
    let mut batch = bench.batch();
    batch.audit.extend_from_slice(entries);
    bench.write(batch).await;
}

async fn read(bench: &Bench<'_>, before: Option<TaskId>, limit: usize) -> Vec<AuditEntry> {
    let entries = bench.backend.audit(before, limit).await;
    entries.expect("audit entries can be read")
}

pub(super) async fn entries_are_kept_as_they_are_given(bench: &Bench<'_>) {
    let mut given = entry(bench, "öse \0 'x' 🦀");
    given.action = String::new();
    given.task = Some(bench.id());
    given.detail = json!({"n": [1, null, -2.5, "ß"], "": {"deep": true}});
    write(bench, std::slice::from_ref(&given)).await;

    assert_eq!(read(bench, None, 10).await, [given]);
}

pub(super) async fn the_newest_entry_comes_first(bench: &Bench<'_>) {
    assert_eq!(read(bench, None, 10).await, []);
    let mut entries: Vec<AuditEntry> = (0..5).map(|_| entry(bench, "a")).collect();
    entries.swap(1, 3);
    write(bench, &entries[..2]).await;
    write(bench, &entries[2..]).await;

    entries.sort_by_key(|entry| std::cmp::Reverse(entry.id));
    assert_eq!(read(bench, None, usize::MAX).await, entries);
    assert_eq!(read(bench, None, 2).await, entries[..2]);
    assert_eq!(read(bench, Some(entries[1].id), 2).await, entries[2..4]);
    assert_eq!(read(bench, Some(entries[4].id), 2).await, []);
    assert_eq!(read(bench, None, 0).await, []);
}

pub(super) async fn an_entry_that_is_written_again_is_kept_once(bench: &Bench<'_>) {
    let given = entry(bench, "a");

    write(bench, &[given.clone(), given.clone()]).await;
    write(bench, std::slice::from_ref(&given)).await;

    assert_eq!(read(bench, None, 10).await, [given]);
}
