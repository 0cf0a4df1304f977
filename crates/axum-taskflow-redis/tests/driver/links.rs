//! Links that break without a word, lead elsewhere, or deliver late what was given up.

use std::time::{Duration, Instant};

use crate::support::{NOW, Store, is_unread, patient, sockets_to, until};
use axum_taskflow_core::Backend;
use axum_taskflow_redis::RedisOptions;
use rustix::net::sockopt;
use servers::{Proxy, RedisServer};

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

fn start_with_replica() -> (RedisServer, RedisServer) {
    let server = RedisServer::start();
    let follow = format!("127.0.0.1 {}", server.port());
    let replica = RedisServer::builder().setting("replicaof", &follow);
    (server, replica.start())
}

pub(crate) async fn in_step(server: &RedisServer) {
    until("the replica is there", async || {
        let info = server.command(&["INFO", "replication"]);
        info.contains("state=online")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_is_left_for_where_its_name_leads_now() {
    let (server, other) = start_with_replica();
    in_step(&server).await;
    let proxy = Proxy::to(&server.address());
    let store = Store::open(patient(proxy.url(&server.url())).min_replicas(1)).await;
    let task = store.task();
    store.add(&task).await;
    assert_eq!(
        store.backend.writes_at_once(),
        1,
        "one write waits for its own replicas only"
    );
    let has_joined = async || other.command(&["EXISTS", "{taskflow}:meta"]) == "1";
    until("the replica has all", has_joined).await;
    let store = Store::open(RedisOptions::new(proxy.url(&server.url()))).await;

    other.command(&["REPLICAOF", "NO", "ONE"]);
    server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    proxy.lead_to(&other.address());

    let error = store.try_add(&store.task()).await.unwrap_err();
    assert!(error.to_string().contains("is a replica"), "{error}");
    store.works_again().await;
    assert!(store.is_stored(task.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_whose_link_is_dead_is_noticed_and_made_again() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let store = Store::open(RedisOptions::new(proxy.url(&server.url()))).await;
    let other = Store::open(RedisOptions::new(server.url())).await;
    let since = |seen| tokio::time::timeout(DEADLINE, store.backend.changed(seen));
    let subscribed = since(0).await.unwrap().unwrap();

    proxy.freeze();

    let again = since(subscribed).await.unwrap().unwrap();
    other.add(&other.task()).await;
    assert!(since(again).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_given_up_and_arrives_after_the_next_one_changes_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let options = RedisOptions::new(proxy.url(&server.url())).deadline(Duration::from_secs(1));
    let store = Store::open(options).await;
    let (before, given_up, next) = (store.task(), store.task(), store.task());
    store.add(&before).await;

    proxy.freeze();
    assert!(store.try_add(&given_up).await.is_err());
    store.add(&next).await;
    proxy.heal();

    until("it arrives", async || {
        let refused = server
            .command(&["INFO", "errorstats"])
            .contains("errorstat_LATE");
        refused || store.is_stored(given_up.id).await
    })
    .await;
    assert!(!store.is_stored(given_up.id).await);
    assert!(store.is_stored(next.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_caller_has_left_and_that_arrives_after_the_next_one_changes_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let options = RedisOptions::new(proxy.url(&server.url())).deadline(Duration::from_secs(1));
    let store = Store::open(options).await;
    let (before, mut left, next) = (store.task(), store.task(), store.task());
    left.args = format!("[\"{}\"]", "x".repeat(30_000)).into(); // the proxy reads less at once
    store.add(&before).await;
    let port = proxy.address().rsplit(':').next().unwrap().parse().unwrap();

    proxy.freeze();
    tokio::select! {
        answered = store.try_add(&left) => panic!("{answered:?}"),
        () = until("it was sent", async || is_unread(port)) => {}
    }
    // Who only reads finds out that the link is dead, and says nothing of what others have written.
    store.backend.get(before.id).await.unwrap_err();
    store.add(&next).await;
    proxy.heal();

    until("it arrives", async || {
        let errors = server.command(&["INFO", "errorstats"]);
        errors.contains("errorstat_LATE") || store.is_stored(left.id).await
    })
    .await;
    assert!(!store.is_stored(left.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_fails_at_its_deadline_whoever_else_waits_for_a_connection() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let options = RedisOptions::new(proxy.url(&server.url())).deadline(Duration::from_secs(1));
    let store = Store::open(options).await;
    proxy.stall();
    store.try_add(&store.task()).await.unwrap_err(); // the connection is given up
    let tasks: Vec<_> = (0..41_000).map(|_| store.task()).collect();
    let bulk = store.try_add_all(&tasks); // has five seconds

    let call = async {
        let begun = Instant::now();
        store.try_add(&store.task()).await.unwrap_err();
        begun.elapsed()
    };
    let (added, took) = tokio::join!(bulk, call);

    added.unwrap_err();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_repeated_on_a_new_connection_waits_for_its_replicas_there_too() {
    let (server, replica) = start_with_replica();
    in_step(&server).await;
    let options = RedisOptions::new(server.url()).min_replicas(1);
    let store = Store::open(options.deadline(Duration::from_secs(5))).await;
    store.add(&store.task()).await;

    replica.stop();
    let task = store.task();
    let cuts = async {
        until("it waits for the replica", async || {
            server
                .command(&["INFO", "clients"])
                .contains("blocked_clients:1")
        })
        .await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    };
    let (added, ()) = tokio::join!(store.try_add(&task), cuts);

    // Nothing was written on that connection: all was there already.
    let error = added.unwrap_err().to_string();
    assert!(error.contains("0 replicas of Redis"), "{error}");
    assert!(store.is_stored(task.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_gives_up_a_connection_on_which_nothing_is_acknowledged_for_a_lease() {
    let server = RedisServer::start();
    let lease = Duration::from_secs(7);
    let store = Store::open(RedisOptions::new(server.url()).lease(lease)).await;
    store.backend.beat(store.me, NOW).await.unwrap();
    let subscribed = tokio::time::timeout(DEADLINE, store.backend.changed(0));
    subscribed.await.unwrap().unwrap();

    let sockets = sockets_to(server.port());

    assert_eq!(sockets.len(), 3, "for tasks, beats and hints");
    for socket in sockets {
        assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(7_000));
        assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
        assert_eq!(
            sockopt::tcp_keepidle(&socket),
            Ok(Duration::from_secs(3)),
            "the system counts whole seconds"
        );
    }
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("links::", &["other_servers_do_the_same"]);
}
