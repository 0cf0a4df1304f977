//! The suite that every backend must pass: one server for all checks, and a prefix for each. No check touches a key
//! outside of its prefix.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{conformance::Opened, conformance_tests};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;

/// A user who has the rights that the guide names, and may touch no key and no channel but those with the prefix of a store:
/// the server itself refuses the rest.
static SERVER: LazyLock<RedisServer> = LazyLock::new(|| {
    let guide = include_str!("../../../../docs/redis.md");
    let rules = guide
        .lines()
        .find_map(|line| line.strip_prefix("ACL SETUSER tasks on >secret "))
        .expect("the guide tells the rules")
        .replace("{taskflow}", "{store-*}");
    RedisServer::builder()
        .user("suite", "secret", &rules)
        .start()
});
static N_STORES: AtomicUsize = AtomicUsize::new(0);

async fn open() -> Opened {
    let n = N_STORES.fetch_add(1, Ordering::SeqCst);
    let options = RedisOptions::new(SERVER.url_as("suite", "secret"))
        .prefix(format!("store-{n}"))
        .lease(Duration::from_secs(600)) // the suite moves the time by hand, and beats when it likes
        .deadline(Duration::from_secs(60));
    Opened::new(options.open().await.unwrap())
}

conformance_tests!(open);

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("conformance::", &["other_servers_do_the_same"]);
}
