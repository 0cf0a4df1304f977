//! Rows that this program cannot read, as a newer one writes them: they wait for it, and harm no other.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use axum_taskflow_core::{
    AheadQuery, Backend, Batch, Change, Claim, Epoch, FailureKind, ListQuery, LogLevel, LogLine,
    Note, Prune, Said, Task, TaskId, TaskStatus, Timestamp,
};
use rusqlite::Connection;
use support::{Boot, NOW};
use tempfile::tempdir;

fn task(boot: &Boot) -> Task {
    Task::new(boot.ids.task(NOW), "f", "[]")
}

/// As a newer program would: with something in the row that this one does not know.
fn rewrite(path: &Path, id: TaskId, source: i64) {
    let conn = Connection::open(path).unwrap();
    let n = conn
        .execute(
            "UPDATE task SET source = ?1 WHERE id = ?2",
            (source, id.as_bytes()),
        )
        .unwrap();
    assert_eq!(n, 1);
}

async fn claim(boot: &Boot, limit: usize, now: Timestamp) -> Vec<TaskId> {
    let claim = Claim {
        owner: boot.me,
        names: Arc::from([Arc::from("f")]),
        except: Arc::default(),
        limit,
        now,
        reserve: None,
    };
    let claimed = boot.backend.claim(claim).await.unwrap();
    claimed.tasks.iter().map(|task| task.id).collect()
}

#[tokio::test]
async fn a_row_of_a_newer_program_is_claimed_by_one_that_can_read_it() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (old, new) = (Boot::at(&path).await, Boot::at(&path).await);
    let tasks = [task(&old), task(&old)];
    old.add(&tasks.each_ref()).await;
    tasks.iter().for_each(|task| rewrite(&path, task.id, 99));

    assert_eq!(claim(&old, 9, NOW).await, []);
    assert_eq!(claim(&old, 9, NOW).await, []);
    tasks.iter().for_each(|task| rewrite(&path, task.id, 0)); // the newer one knows what it means
    let by_new = claim(&new, 1, NOW).await;
    let too_soon = claim(&old, 9, NOW).await;
    let later = NOW.saturating_add(Duration::from_secs(600));
    let by_old = claim(&old, 9, later).await;

    assert_eq!(by_new, [tasks[0].id]);
    assert_eq!(too_soon, [], "it is not read again at once");
    assert_eq!(by_old, [tasks[1].id], "but somebody may have repaired it");
}

#[tokio::test]
async fn rows_that_cannot_be_read_keep_no_other_waiting_however_many_they_are() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let tasks: Vec<Task> = (0..1_010).map(|_| task(&boot)).collect();
    let last = tasks.last().unwrap();
    boot.add(&tasks.iter().collect::<Vec<_>>()).await;
    let conn = Connection::open(&path).unwrap();
    conn.execute(
        "UPDATE task SET source = 99 WHERE id != ?1",
        [last.id.as_bytes()],
    )
    .unwrap();

    let claimed = claim(&boot, 1, NOW).await;

    assert_eq!(claimed, [last.id]);
    let all_wait = "SELECT count(*) FROM task WHERE source = 99 AND shelf IN (0, 1)";
    let n: i64 = conn.query_row(all_wait, [], |row| row.get(0)).unwrap();
    assert_eq!(n, 1_009);
}

#[tokio::test]
async fn a_value_of_another_type_is_a_row_that_cannot_be_read() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let tasks = [task(&boot), task(&boot)];
    boot.add(&tasks.each_ref()).await;
    let conn = Connection::open(&path).unwrap();
    conn.execute(
        "UPDATE task SET epoch = -1 WHERE id = ?1",
        [tasks[0].id.as_bytes()],
    )
    .unwrap();

    assert_eq!(claim(&boot, 1, NOW).await, [tasks[1].id]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_shown_with_what_can_be_read_and_the_reason() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let mut tasks: Vec<Task> = (0..4).map(|_| task(&boot)).collect();
    for task in &mut tasks {
        task.priority = 7;
        task.tags.insert("plan".to_owned(), "pro".to_owned());
    }
    tasks[2].life.run_at = NOW.saturating_add(Duration::from_secs(60));
    boot.add(&tasks.iter().collect::<Vec<_>>()).await;
    let conn = Connection::open(&path).unwrap();
    for (task, newer) in tasks.iter().zip([
        "source = 99",
        "status = 99, shelf = NULL",
        "options = '7'",
        "func = 99, tags = '7', priority = 'high'",
    ]) {
        let sql = format!("UPDATE task SET {newer} WHERE id = ?1");
        assert_eq!(conn.execute(&sql, [task.id.as_bytes()]).unwrap(), 1);
    }

    let page = boot.backend.list(ListQuery::default()).await.unwrap();
    let later = NOW.saturating_add(Duration::from_secs(600));
    let ahead = boot.backend.ahead(AheadQuery::until(later)).await;

    let listed: Vec<TaskId> = page.tasks.iter().rev().map(|task| task.id).collect();
    let stored: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    assert_eq!(listed, stored);
    for (shown, why) in page.tasks.iter().rev().zip([
        "source 99 is not known here",
        "status 99 is not known here",
        "a stored part of a task is unreadable",
        "function 99 has no name",
    ]) {
        let error = shown.life.error.as_deref().unwrap();
        assert_eq!(error.kind, FailureKind::Unreadable);
        assert!(error.message.contains(why), "{error}");
        assert_eq!(shown.life.status, TaskStatus::Pending);
        let got = boot.backend.get(shown.id).await.unwrap();
        assert_eq!(got.as_ref(), Some(shown));
    }
    for shown in &page.tasks[1..] {
        assert_eq!((&*shown.name, shown.priority), ("f", 7));
        assert_eq!(shown.tags, tasks[0].tags);
    }
    assert_eq!(&*page.tasks[0].name, "?");
    assert_eq!(ahead.unwrap().tasks, [page.tasks[1].clone()]);
}

#[tokio::test]
async fn rows_of_the_dead_that_cannot_be_read_hide_no_other() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let dead = Boot::at(&path).await;
    let tasks: Vec<Task> = (0..4).map(|_| dead.owned()).collect();
    dead.add(&tasks.iter().collect::<Vec<_>>()).await;
    drop(dead);
    let boot = Boot::at(&path).await;
    tasks[..3]
        .iter()
        .for_each(|task| rewrite(&path, task.id, 99));

    let orphans = boot.backend.orphans(2).await.unwrap();

    let ids: Vec<TaskId> = orphans.iter().map(|task| task.id).collect();
    assert_eq!(ids, [tasks[3].id]);
}

#[tokio::test]
async fn an_owner_whom_a_repair_of_the_file_has_lost_hides_no_other() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (one, other) = (Boot::at(&path).await, Boot::at(&path).await);
    let (of_lost, task) = (one.owned(), other.owned());
    one.add(&[&of_lost]).await;
    other.add(&[&task]).await;
    drop((one, other));
    let boot = Boot::at(&path).await;
    let conn = Connection::open(&path).unwrap();
    let lost = "DELETE FROM instance WHERE no = (SELECT min(owner) FROM task)";
    assert_eq!(conn.execute(lost, []).unwrap(), 1);

    let orphans = boot.backend.orphans(9).await.unwrap();

    assert_eq!(orphans, [task]);
}

#[tokio::test]
async fn a_function_whom_a_repair_of_the_file_has_lost_hides_no_sum_of_others() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let mut batch = Batch::at(NOW);
    for name in ["f", "g"] {
        let task = Task::new(boot.ids.task(NOW), name, "[]");
        batch.changes.push(Change::cancelled(&task, NOW).unwrap());
        batch.tasks.push(Arc::new(task));
    }
    boot.backend.write(Arc::new(batch)).await.unwrap();
    let conn = Connection::open(&path).unwrap();
    let lost = "DELETE FROM func WHERE name = 'f'";
    assert_eq!(conn.execute(lost, []).unwrap(), 1);

    let counts = boot.backend.counts().await.unwrap();
    let series = boot.backend.series(Timestamp::default()).await.unwrap();

    let counted: Vec<&str> = counts.iter().map(|count| &*count.name).collect();
    let ended: Vec<&str> = series.iter().map(|minute| &*minute.name).collect();
    assert_eq!((counted, ended), (vec!["g"], vec!["g"]));
}

#[tokio::test]
async fn what_only_a_newer_program_knows_hides_no_sum_no_instance_and_no_log_line() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let tasks = [task(&boot), boot.owned()];
    let mut batch = Batch::at(NOW);
    batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
    batch
        .changes
        .push(Change::cancelled(&tasks[1], NOW).unwrap());
    batch.notes.push(Note {
        id: tasks[0].id,
        epoch: Epoch::ZERO,
        what: Said::Log(LogLine {
            seq: 0,
            attempt: 1,
            at: NOW,
            level: LogLevel::Warn,
            message: "x".to_owned(),
        }),
    });
    boot.backend.write(Arc::new(batch)).await.unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(
        "INSERT INTO counter SELECT func, 99, 1 FROM counter LIMIT 1;
         INSERT INTO minute SELECT at, func, 99, 1, 0 FROM minute;
         UPDATE instance SET role = 99, functions = '7';
         UPDATE log SET level = 99;",
    )
    .unwrap();

    let counts = boot.backend.counts().await.unwrap();
    let series = boot
        .backend
        .series(Timestamp::from_unix_ms(0))
        .await
        .unwrap();
    let peers = boot.backend.instances().await.unwrap();
    let logs = boot.backend.logs(tasks[0].id, 0, 9).await.unwrap();

    let statuses: Vec<TaskStatus> = counts.iter().map(|count| count.status).collect();
    assert_eq!(statuses, [TaskStatus::Pending, TaskStatus::Cancelled]);
    let statuses: Vec<TaskStatus> = series.iter().map(|minute| minute.status).collect();
    assert_eq!(statuses, [TaskStatus::Cancelled]);
    assert_eq!(peers[0].instance.id, boot.me);
    assert_eq!((&*logs[0].message, logs[0].level), ("x", LogLevel::Info));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_not_deleted_and_keeps_no_other_from_being_deleted() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let tasks: Vec<Task> = (0..4).map(|_| boot.owned()).collect();
    let mut batch = Batch::at(NOW);
    for task in &tasks {
        batch.tasks.push(Arc::new(task.clone()));
        batch.changes.push(Change::cancelled(task, NOW).unwrap());
    }
    boot.backend.write(Arc::new(batch)).await.unwrap();
    let conn = Connection::open(&path).unwrap();
    let each_second = tasks.iter().step_by(2);
    for (task, newer) in each_second.zip(["status = 99", "tags = '7'"]) {
        let sql = format!("UPDATE task SET {newer} WHERE id = ?1");
        assert_eq!(conn.execute(&sql, [task.id.as_bytes()]).unwrap(), 1);
    }
    let later = NOW.saturating_add(Duration::from_secs(600));
    let mut prune = Prune {
        finished_before: later,
        failed_before: later,
        series_before: later,
        from: None,
        limit: 2,
    };

    let first = boot.backend.prune(prune).await.unwrap();
    prune.from = first.next;
    let second = boot.backend.prune(prune).await.unwrap();

    assert_eq!((first.deleted, second.deleted), (1, 1));
    let page = boot.backend.list(ListQuery::default()).await.unwrap();
    let left: Vec<TaskId> = page.tasks.iter().rev().map(|task| task.id).collect();
    assert_eq!(left, [tasks[0].id, tasks[2].id]);
}
