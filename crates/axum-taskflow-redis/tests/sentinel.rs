#![allow(clippy::unwrap_used, reason = "this is test code")]
//! Sentinels tell who the master is, also after it has died.

mod support;

use std::time::Duration;

use axum_taskflow_core::Backend;
use axum_taskflow_redis::RedisOptions;
use servers::Sentinel;
use support::Store;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_tasks_go_to_the_new_master_which_has_what_was_replicated() {
    let sentinel = tokio::task::spawn_blocking(Sentinel::start).await.unwrap();
    let mut urls = sentinel.sentinel_urls().into_iter();
    let first = RedisOptions::new(urls.next().unwrap()).sentinel(sentinel.master_name());
    let options = urls.fold(first, RedisOptions::node).min_replicas(1);
    let store = Store::open(options).await;
    let task = store.task();
    store.add(&task).await;
    let seen = store.backend.changed(0).await.unwrap();

    tokio::task::block_in_place(|| {
        sentinel.kill_master();
        sentinel.wait_ok();
    });

    // The only replica is the master now: nobody is left to have a copy, and that is said.
    let error = loop {
        match store.try_add(&store.task()).await {
            Err(error) if error.to_string().contains("replicas") => break error,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(()) => panic!("no replica is left, and a write counted"),
        }
    };
    println!("{error}");
    assert!(store.is_stored(task.id).await);
    let hint = store.backend.changed(seen);
    assert!(
        tokio::time::timeout(Duration::from_secs(20), hint)
            .await
            .is_ok()
    );
}
