//! A run key is free again as soon as its task has ended, also where clocks are minutes apart.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::time::Duration;

use axum_taskflow::{Builder, Clock, Role, TaskDef, TaskManager, Timestamp};
use servers::RedisServer;
use tempfile::tempdir;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(20);
/// By how much the clock of the one that runs tasks is ahead.
const AHEAD_MS: i64 = 300_000;

async fn remind(_n: u64) {}

async fn start(builder: Builder, role: Role, ahead_ms: i64) -> TaskManager {
    let now = Clock::system().now().as_unix_ms() + ahead_ms;
    let clock = Clock::tokio(Timestamp::from_unix_ms(now));
    let builder = builder.task(TaskDef::new(remind)).role(role).clock(clock);
    builder.build().await.unwrap()
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
}

async fn a_key_is_free_at_once(store: impl Fn() -> Builder) {
    let web = start(store(), Role::Web, 0).await;
    let worker = start(store(), Role::Worker, AHEAD_MS).await;

    let mut ids = Vec::new();
    for n in 0..2 {
        let once = web.schedule_once(remind, n).run_key("order:42");
        let id = soon("to add", once.into_future()).await.unwrap();
        soon("the task", web.wait::<()>(id)).await.unwrap();
        ids.push(id);
    }

    assert_ne!(ids[0], ids[1]);
    soon("the end", worker.shutdown()).await.unwrap();
    soon("the end", web.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_a_run_key_is_free_at_once_whatever_the_clocks_say() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("tasks.db");
    a_key_is_free_at_once(|| TaskManager::builder().sqlite(&file)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_a_run_key_is_free_at_once_whatever_the_clocks_say() {
    let server = RedisServer::start();
    a_key_is_free_at_once(|| TaskManager::builder().redis(server.url())).await;
}
