#![allow(clippy::unwrap_used, reason = "this is test code")]
//! The server holds history in memory, so there is an end to it.

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{
    Backend, Batch, Change, IdSource, Instance, ListQuery, Outcome, Prune, RetryPolicy, Task,
    TaskId, Timestamp,
};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

#[tokio::test]
async fn the_oldest_finished_tasks_go_when_there_are_too_many_and_live_ones_stay() {
    let server = RedisServer::start();
    let options = RedisOptions::new(server.url()).history_max(5);
    let backend = options.open().await.unwrap();
    let ids = IdSource::default();
    let me = ids.instance(NOW);
    backend.join(Instance::new(me, NOW)).await.unwrap();
    let tasks: Vec<Task> = (0..12)
        .map(|_| Task::new(ids.task(NOW), "f", "[]"))
        .collect();
    let mut batch = Batch::at(NOW);
    batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
    // The first two wait, the others have succeeded.
    for task in &tasks[2..] {
        let start = Change::started(task, me, NOW).unwrap();
        let mut running = task.clone();
        running.life = start.life.clone();
        let policy = RetryPolicy::default();
        let end = Change::finished(&running, Outcome::Done(None), &policy, 0.0, NOW).unwrap();
        batch.changes.extend([start, end]);
    }
    backend.write(Arc::new(batch)).await.unwrap();

    let nothing_is_old = Prune {
        finished_before: NOW.saturating_sub(Duration::from_secs(1)),
        failed_before: NOW.saturating_sub(Duration::from_secs(1)),
        series_before: Timestamp::default(),
        from: None,
        limit: 100,
    };
    backend.prune(nothing_is_old).await.unwrap();

    let page = backend.list(ListQuery::default()).await.unwrap();
    let left: Vec<TaskId> = page.tasks.iter().rev().map(|task| task.id).collect();
    let wanted = [&tasks[..2], &tasks[7..]].concat();
    let wanted: Vec<TaskId> = wanted.iter().map(|task| task.id).collect();
    assert_eq!(left, wanted);
    backend.close().await.unwrap();
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others(&["other_servers_do_the_same"]);
}
