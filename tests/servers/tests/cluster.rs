//! A cluster that loses a master.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use servers::{RedisCluster, RedisServer};

#[test]
fn a_cluster_survives_the_kill_of_a_master() {
    let cluster = RedisCluster::start_with(6, RedisServer::builder().append_only("always"));
    assert_eq!(cluster.urls().len(), 6);
    let keys = ["a", "b", "c", "d", "e"];
    for key in keys {
        cluster.master_of(key).command(&["SET", key, "value"]);
    }
    cluster.wait_ok(); // the replicas have them

    let killed = cluster.kill_master_of("a");
    assert!(!killed.is_running());
    cluster.wait_ok();

    assert_ne!(cluster.master_of("a").port(), killed.port());
    for key in keys {
        assert_eq!(cluster.master_of(key).command(&["GET", key]), "value");
    }
    cluster.master_of("a").command(&["SET", "a", "newer"]);

    killed.restart();
    cluster.wait_ok();

    assert_ne!(cluster.master_of("a").port(), killed.port());
    let replication = killed.command(&["INFO", "replication"]);
    assert!(replication.contains("role:slave"), "{replication}");
    let fsync = killed.command(&["CONFIG", "GET", "appendfsync"]);
    assert_eq!(fsync, "appendfsync\nalways");
    let n_running = cluster.nodes().iter().filter(|node| node.is_running());
    assert_eq!(n_running.count(), 6);
    let n_keys: u32 = cluster.nodes().iter().map(n_keys).sum();
    assert_eq!(n_keys, 2 * 5, "each key is with a master and its replica");
}

fn n_keys(node: &RedisServer) -> u32 {
    node.command(&["DBSIZE"]).parse().unwrap()
}
