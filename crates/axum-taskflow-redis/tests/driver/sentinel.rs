//! Sentinels tell who the master is, also after it has died.

use std::time::Duration;

use crate::support::Store;
use axum_taskflow_core::Backend;
use axum_taskflow_redis::RedisOptions;
use servers::Sentinel;

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

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_may_have_a_password_of_their_own_and_a_certificate_that_is_trusted() {
    let start = || Sentinel::start_guarded("secret", "other-secret");
    let sentinel = tokio::task::spawn_blocking(start).await.unwrap();
    let url = format!("rediss://:secret@{}/", sentinel.sentinels()[0].address());
    let certificates: Vec<&str> = [&sentinel.sentinels()[0], &sentinel.servers()[0]]
        .map(|server| server.certificate().unwrap())
        .into();
    let trusting = RedisOptions::new(url)
        .sentinel(sentinel.master_name())
        .root_certificate(certificates.concat());
    let options = trusting.clone().sentinel_user("default", "other-secret");

    let store = Store::open(options.clone()).await;
    let other = Store::open(options.clone()).await;
    let since = |seen| tokio::time::timeout(Duration::from_secs(20), store.backend.changed(seen));
    let subscribed = since(0).await.unwrap().unwrap();
    let task = other.task();
    other.add(&task).await;

    assert!(store.is_stored(task.id).await);
    assert!(since(subscribed).await.is_ok());
    assert!(trusting.open().await.is_err(), "without the password");
    for wrong in [
        options.clone().sentinel_tls(false),
        options.root_certificate(certificates[1]),
    ] {
        assert!(wrong.open().await.is_err());
    }
}
