//! Many tasks wait for a time far ahead: what they cost those that are due now, and this process.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    fs,
    time::{Duration, Instant},
};

use axum_taskflow::{AheadQuery, Builder, TaskDef, TaskManager, Timestamp};
use servers::RedisServer;
use tempfile::tempdir;

const N: u64 = 100_000;
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// What they would cost in memory is several times that: an id, a time and a key take a hundred bytes, a task a thousand.
const MEMORY_MAX: u64 = 48 * 1024 * 1024;

async fn remind(_n: u64) {}

/// Bytes of this process that are in memory.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
    let kb: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kb * 1024
}

async fn add(manager: &TaskManager, n: u64) {
    for first in (0..n).step_by(1_000) {
        let some = manager.add_tasks(remind, first..n.min(first + 1_000));
        some.delay_by(DAY).await.unwrap();
    }
}

/// How long a one-off that is due takes to its end, in the middle of many.
async fn takes(manager: &TaskManager) -> Duration {
    let mut took = Vec::new();
    for n in 0..41 {
        let begun = Instant::now();
        let id = manager.schedule_once(remind, n).await.unwrap();
        manager.wait::<()>(id).await.unwrap();
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took[20]
}

async fn many_wait(builder: Builder) {
    let manager = builder.task(TaskDef::new(remind)).build().await.unwrap();
    add(&manager, 2_000).await; // what a store and a runtime take in any case
    let (alone, before) = (takes(&manager).await, memory());

    add(&manager, N).await;

    let grown = memory().saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{} KB", grown / 1024);
    // Ten times the work of before would be seen; a machine that does something else at the moment is not.
    let among_many = takes(&manager).await;
    let limit = alone * 5 + Duration::from_millis(50);
    assert!(among_many < limit, "{alone:?} {among_many:?}");
    let begun = Instant::now();
    let mut query = AheadQuery::until(Timestamp::MAX);
    query.limit = 100;
    let page = manager.list_scheduled(query).await.unwrap();
    assert_eq!((page.tasks.len(), page.next.is_some()), (100, true));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    manager.shutdown().await.unwrap();
}

/// One after the other, since both look at the memory of the same process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_wait_cost_no_memory_and_make_nothing_slower_on_each_store() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("tasks.db");
    many_wait(TaskManager::builder().sqlite(file)).await;

    let redis = RedisServer::start();
    many_wait(TaskManager::builder().redis(redis.url())).await;
}
