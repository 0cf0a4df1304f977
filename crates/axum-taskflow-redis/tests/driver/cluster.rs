//! A cluster of six nodes: everything lies in one slot, and a master that dies is replaced.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::support::{NOW, Store, is_unread, sockets_to, until};
use axum_taskflow_core::{
    Backend, BackendError, Standing,
    conformance::{self, Opened},
};
use axum_taskflow_redis::RedisOptions;
use rustix::net::{Shutdown, shutdown};
use servers::{Proxy, RedisCluster, RedisServer};

static CLUSTER: LazyLock<RedisCluster> = LazyLock::new(|| {
    let node = RedisServer::builder().user("tasks", "secret", &rules());
    RedisCluster::start_with(6, node)
});

/// What the guide lets a user do, of the prefix `hints`.
fn rules() -> String {
    let guide = include_str!("../../../../docs/redis.md");
    let more = "+cluster|slots +spublish +ssubscribe";
    assert!(guide.contains(&format!("`{more}`, without the last two on Redis 6.2")));
    let more = match has_channels_of_a_slot() {
        true => more,
        false => "+cluster|slots",
    };
    let of_single = guide
        .lines()
        .find_map(|line| line.strip_prefix("ACL SETUSER tasks on >secret "));
    let rules = of_single.expect("the guide tells the rules");
    format!("{rules} {more}").replace("taskflow", "hints")
}

/// Redis 6.2 publishes to all nodes.
fn has_channels_of_a_slot() -> bool {
    servers::version() >= (7, 0)
}

fn options(prefix: &str) -> RedisOptions {
    let mut urls = CLUSTER.urls().into_iter();
    let first = RedisOptions::new(urls.next().unwrap()).cluster();
    urls.fold(first, RedisOptions::node)
        .prefix(prefix)
        .lease(Duration::from_secs(600))
        .deadline(Duration::from_secs(5))
}

#[test]
fn verbs_mean_the_same_in_a_cluster() {
    for (n, name) in [
        "model::random_histories_have_the_same_answers_as_memory",
        "claim::claimers_at_once_share_what_waits",
        "keys::of_a_thousand_writers_of_one_key_one_makes_a_task",
        "list::filters_give_what_fits_and_nothing_else",
        "prune::a_deleted_task_leaves_nothing",
        "orphans::orphans_come_in_parts",
    ]
    .into_iter()
    .enumerate()
    {
        let stores = std::sync::atomic::AtomicUsize::new(0);
        conformance::check(name, || async {
            let store = stores.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let options = options(&format!("check-{n}-{store}"));
            Opened::new(options.open().await.unwrap())
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_come_and_stay_with_the_node_that_has_the_slot_where_it_can_be() {
    let owner = CLUSTER.master_of("{hints}:meta");
    // The only node that is known at first is another master.
    let mut masters = CLUSTER.nodes()[..3].iter();
    let node = masters.find(|node| node.port() != owner.port()).unwrap();
    let open = || {
        let options = RedisOptions::new(node.url_as("tasks", "secret")).cluster();
        Store::open(options.prefix("hints"))
    };
    let (store, other) = (open().await, open().await);
    let since = |seen| tokio::time::timeout(Duration::from_secs(20), store.backend.changed(seen));
    let subscribed = since(0).await.unwrap().unwrap();

    other.add(&other.task()).await;

    assert!(since(subscribed).await.is_ok());
    if !has_channels_of_a_slot() {
        return;
    }
    let channels = owner.command(&["PUBSUB", "SHARDCHANNELS", "{hints}:*"]);
    assert_eq!(channels, "{hints}:news");
    for node in CLUSTER.nodes() {
        assert_eq!(node.command(&["PUBSUB", "CHANNELS", "*"]), "");
        let bus = node.command(&["CLUSTER", "INFO"]);
        assert!(!bus.contains("messages_publish_sent"), "{bus}");
    }
}

/// What a store does with its keys on two nodes: each of its calls fails, and says why.
async fn nothing_is_done(store: &Store) {
    let beat = store.backend.beat(store.me, NOW).await.map(drop);
    let added = store.try_add(&store.task()).await;
    let read = store.backend.counts().await.map(drop);
    for (what, done) in [("beat", beat), ("add", added), ("read", read)] {
        let why = done.expect_err(what).to_string();
        assert!(why.contains("move to another node"), "{what}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_slot_moves_to_another_node_nothing_is_done_and_then_all_is_there() {
    let (key, now_at) = ("{moves}", CLUSTER.master_of("{moves}"));
    let masters = || CLUSTER.nodes()[..3].iter();
    let next = masters().find(|it| it.port() != now_at.port()).unwrap();
    let store = Store::open(options("moves")).await;
    let tasks: Vec<_> = (0..10).map(|_| store.task()).collect();
    store.add_all(&tasks).await;

    let slot = &*now_at.command(&["CLUSTER", "KEYSLOT", key]);
    let [from, to] = [now_at, next].map(|it| it.command(&["CLUSTER", "MYID"]));
    next.command(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &from]);
    now_at.command(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &to]);
    let port = next.port().to_string();
    let move_one = |name: &str| {
        let moved = now_at.command(&["MIGRATE", "127.0.0.1", &port, name, "0", "5000"]);
        assert_eq!(moved, "OK", "{name}");
    };
    nothing_is_done(&store).await;
    move_one("{moves}:meta");
    nothing_is_done(&store).await;
    let keys = now_at.command(&["CLUSTER", "GETKEYSINSLOT", slot, "1000"]);
    keys.lines().for_each(move_one);
    nothing_is_done(&store).await;
    for node in [next, now_at].into_iter().chain(masters()) {
        node.command(&["CLUSTER", "SETSLOT", slot, "NODE", &to]);
    }

    store.works_again().await;
    let standing = store.backend.beat(store.me, NOW).await;
    assert_eq!(standing.unwrap(), Standing::Alive);
    for task in &tasks {
        assert_eq!(
            store.backend.get(task.id).await.unwrap().as_ref(),
            Some(task)
        );
    }
}

/// A node that has all slots, and to which clients come through a proxy, and that one's port.
async fn behind_a_proxy() -> (RedisServer, Proxy, u16) {
    let server = RedisServer::builder()
        .node()
        .setting("cluster-announce-ip", "127.0.0.1")
        .start();
    let proxy = Proxy::to(&server.address());
    let port: u16 = proxy.address().rsplit(':').next().unwrap().parse().unwrap();
    let announced = port.to_string();
    server.command(&["CONFIG", "SET", "cluster-announce-port", &announced]);
    if servers::version() < (7, 0) {
        server.command(&["CONFIG", "REWRITE"]); // it announces what it was started with
        server.restart();
    }
    server.give_slots(0..=16_383);
    let is_ok = async || {
        server
            .command(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
    };
    until("the node is ready", is_ok).await;
    (server, proxy, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_cluster_that_is_ready_again_before_its_deadline() {
    let (server, proxy, _) = behind_a_proxy().await;
    let options = RedisOptions::new(proxy.url(&server.url())).cluster();
    let options = options.lease(Duration::from_secs(60));
    let hasty = Store::open(options.clone().deadline(Duration::from_millis(500))).await;
    let options = options.deadline(Duration::from_secs(20));
    let store = Arc::new(Store::open(options.clone()).await);
    let slot = server.command(&["CLUSTER", "KEYSLOT", "{taskflow}"]);

    let is_away = || {
        server.command(&["CLUSTER", "DELSLOTS", &slot]);
        server.command(&["CONFIG", "RESETSTAT"]);
    };
    let comes_back = async || {
        until("it was asked", async || {
            let errors = server.command(&["INFO", "errorstats"]);
            errors.contains("errorstat_CLUSTERDOWN")
        })
        .await;
        server.command(&["CLUSTER", "ADDSLOTS", &slot]);
    };
    // Who is answered goes on at once, while others still wait.
    let add_two = async |store: Arc<Store>| {
        let tasks = [store.task(), store.task()];
        for task in &tasks {
            store.try_add(task).await?;
        }
        Ok::<_, BackendError>(tasks)
    };

    is_away();
    let why = hasty.try_add(&hasty.task()).await.unwrap_err();
    let adding: Vec<_> = (0..20)
        .map(|_| tokio::spawn(add_two(store.clone())))
        .collect();
    comes_back().await;
    let mut added = Vec::new();
    for adding in adding {
        added.extend(adding.await.unwrap().unwrap());
    }
    is_away();
    let (opened, ()) = tokio::join!(options.open(), comes_back());

    assert!(why.to_string().contains("cluster is not ready"), "{why}");
    for task in added {
        assert!(store.is_stored(task.id).await);
    }
    opened.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_sent_twice_is_not_done_after_the_next_one() {
    let (server, proxy, port) = behind_a_proxy().await;
    let store = Store::open(RedisOptions::new(proxy.url(&server.url())).cluster()).await;
    let (mut twice, next) = (store.task(), store.task());
    twice.args = format!("[\"{}\"]", "x".repeat(30_000)).into(); // the proxy reads less at once
    store.add(&store.task()).await;
    let n_calls = || {
        let stats = server.command(&["INFO", "commandstats"]);
        let (_, calls) = stats.split_once("cmdstat_evalsha:calls=").unwrap();
        calls.split(',').next().unwrap().parse::<u64>().unwrap()
    };

    // The first copy is held up, and our end hears that its connection is gone.
    proxy.freeze();
    let sockets = sockets_to(port);
    let cuts = async {
        until("it was sent", async || is_unread(port)).await;
        for socket in &sockets {
            shutdown(socket, Shutdown::Read).unwrap();
        }
    };
    let (added, ()) = tokio::join!(store.try_add(&twice), cuts);
    added.unwrap();
    store.add(&next).await;
    let n_before = n_calls();
    proxy.heal();

    until("it arrives", async || n_calls() > n_before).await;
    let errors = server.command(&["INFO", "errorstats"]);
    assert!(errors.contains("errorstat_LATE"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_dies_is_replaced_and_what_its_replica_had_is_there() {
    let cluster = tokio::task::spawn_blocking(|| RedisCluster::start(6))
        .await
        .unwrap();
    let mut urls = cluster.urls().into_iter();
    let first = RedisOptions::new(urls.next().unwrap()).cluster();
    let options = urls.fold(first, RedisOptions::node);
    let task = {
        let careful = Store::open(options.clone().min_replicas(1)).await;
        let task = careful.task();
        careful.add(&task).await; // the replica has it
        task
    };
    let store = Store::open(options.clone()).await;
    let other = Store::open(options).await;

    tokio::task::block_in_place(|| cluster.kill_master_of("{taskflow}:meta"));

    let outage = store.works_again().await;
    println!("worked again after {outage:?}");
    assert!(store.is_stored(task.id).await);
    // Hints come from a node that is left. Of what another process has left: one's own is known.
    other.works_again().await;
    let seen = store.backend.changed(0).await.unwrap();
    let hint = store.backend.changed(seen);
    let task = other.task();
    let (added, hint) = tokio::join!(
        other.try_add(&task),
        tokio::time::timeout(Duration::from_secs(20), hint)
    );
    added.unwrap();
    assert!(hint.is_ok());
}
