//! What the statements for the usual changes must not leave out, and what does not grow for ever.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{
    Applied, Backend, Batch, Change, Claim, LogLevel, LogLine, Note, Outcome, RetryPolicy, Said,
    Task,
};
use support::{Boot, NOW};
use tempfile::tempdir;

fn timed_out(task: &Task) -> Change {
    let policy = RetryPolicy {
        retries: u32::MAX,
        ..RetryPolicy::default()
    };
    let outcome = Outcome::TimedOut(Duration::from_secs(1));
    Change::finished(task, outcome, &policy, 0.0, NOW).unwrap()
}

#[tokio::test]
async fn a_late_start_is_stale_when_its_own_instance_holds_the_task_once_more() {
    let folder = tempdir().unwrap();
    let boot = Boot::at(&folder.path().join("tasks.db")).await;
    let mut task = boot.owned();
    boot.add(&[&task]).await;
    let start = Change::started(&task, boot.me, NOW).unwrap();
    task.life = start.life.clone();
    boot.change(start.clone()).await;
    boot.change(timed_out(&task)).await;
    let claim = Claim {
        owner: boot.me,
        names: Arc::from([task.name.clone()]),
        except: Arc::default(),
        limit: 1,
        now: NOW,
        reserve: None,
    };
    let claimed = boot.backend.claim(claim).await.unwrap().tasks;
    assert_eq!(claimed[0].life.owner, Some(boot.me));

    let written = boot.change(start).await;

    assert_eq!(written.changes, [Applied::Stale]);
    let stored = boot.backend.get(task.id).await.unwrap().unwrap();
    assert_eq!(stored.life, claimed[0].life);
}

#[tokio::test]
async fn a_start_stores_every_part_of_the_life_it_brings() {
    let folder = tempdir().unwrap();
    let boot = Boot::at(&folder.path().join("tasks.db")).await;
    let mut task = boot.owned();
    boot.add(&[&task]).await;
    let mut start = Change::started(&task, boot.me, NOW).unwrap();
    start.life.run_at = NOW.saturating_add(Duration::from_secs(7));
    task.life = start.life.clone();

    let written = boot.change(start).await;

    assert_eq!(written.changes, [Applied::Applied]);
    assert_eq!(boot.backend.get(task.id).await.unwrap(), Some(task));
}

#[tokio::test]
async fn a_task_that_is_tried_for_ever_keeps_its_last_attempts() {
    let folder = tempdir().unwrap();
    let boot = Boot::at(&folder.path().join("tasks.db")).await;
    let mut task = boot.owned();
    let mut batch = Batch::at(NOW);
    batch.tasks.push(Arc::new(task.clone()));

    for _ in 0..1_100 {
        let start = Change::started(&task, boot.me, NOW).unwrap();
        task.life = start.life.clone();
        let end = timed_out(&task);
        task.life = end.life.clone();
        batch.changes.extend([start, end]);
    }
    boot.backend.write(Arc::new(batch)).await.unwrap();

    let stored = boot.backend.get(task.id).await.unwrap().unwrap();
    assert_eq!(stored.past_attempts.len(), 1_000);
    assert_eq!(stored.past_attempts[999].number, 1_100);
}

#[tokio::test]
async fn a_task_that_talks_for_ever_keeps_its_last_lines() {
    let folder = tempdir().unwrap();
    let boot = Boot::at(&folder.path().join("tasks.db")).await;
    let mut task = boot.owned();
    boot.add(&[&task]).await;

    for _ in 0..15 {
        let mut batch = Batch::at(NOW);
        let start = Change::started(&task, boot.me, NOW).unwrap();
        task.life = start.life.clone();
        batch.changes.push(start);
        let line = |seq| LogLine {
            seq,
            attempt: task.life.attempt,
            at: NOW,
            level: LogLevel::Info,
            message: "x".to_owned(),
        };
        batch.notes = (0..1_000)
            .map(|seq| Note {
                id: task.id,
                epoch: task.life.epoch,
                what: Said::Log(line(seq)),
            })
            .collect();
        boot.backend.write(Arc::new(batch)).await.unwrap();
        let end = timed_out(&task);
        task.life = end.life.clone();
        boot.change(end).await;
    }

    let lines = boot.backend.logs(task.id, 0, usize::MAX).await.unwrap();
    let attempts = 5..=15; // ten thousand lines before the last attempt, and its own
    assert_eq!(lines.len(), 11_000);
    assert!(lines.iter().all(|line| attempts.contains(&line.attempt)));
}

#[tokio::test]
async fn changes_find_their_rows_when_somebody_has_moved_them() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let mut tasks = [(); 4].map(|()| boot.owned());
    boot.add(&tasks.each_ref()).await;
    for task in &mut tasks {
        let start = Change::started(task, boot.me, NOW).unwrap();
        task.life = start.life.clone();
        boot.change(start).await;
    }
    let rowids = || -> Vec<i64> {
        let conn = rusqlite::Connection::open(&path).unwrap();
        let mut rowids = conn.prepare("SELECT rowid FROM task ORDER BY id").unwrap();
        let rowids = rowids.query_map([], |row| row.get(0)).unwrap();
        rowids.map(Result::unwrap).collect()
    };
    assert_eq!(rowids(), [1, 2, 3, 4]);
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch("DELETE FROM task WHERE rowid = 1; UPDATE task SET rowid = rowid - 1")
        .unwrap();
    assert_eq!(rowids(), [1, 2, 3], "where another task was before");

    for task in &mut tasks[1..] {
        let done = Outcome::Done(Some("1".into()));
        let end = Change::finished(task, done, &RetryPolicy::default(), 0.0, NOW).unwrap();
        task.life = end.life.clone();
        assert_eq!(boot.change(end).await.changes, [Applied::Applied]);
    }

    for task in &tasks[1..] {
        let stored = boot.backend.get(task.id).await.unwrap().unwrap();
        assert_eq!(stored.life, task.life);
    }
}
