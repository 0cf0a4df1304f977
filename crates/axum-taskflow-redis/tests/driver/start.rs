//! What is refused at the start, and what is not: then it works.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::{
    support::{NOW, Store, patient},
    unreadable::Errors,
};
use axum_taskflow_core::Backend;
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;

async fn refused(options: RedisOptions) -> String {
    let asked = Instant::now();
    let shown = format!("{options:?}");
    let error = options.open().await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(!shown.contains("secret"), "{shown}");
    let words = format!("{error} {error:?}");
    assert!(!words.contains("secret"), "{words}");
    error.to_string()
}

async fn works(options: RedisOptions) {
    let store = Store::open(options).await;
    let task = store.task();
    store.add(&task).await;
    assert!(store.is_stored(task.id).await);
    store.backend.close().await.unwrap();
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_that_is_allowed() {
    let server = RedisServer::builder()
        .setting("maxmemory-policy", "allkeys-lru")
        .start();

    let error = refused(RedisOptions::new(server.url())).await;

    assert!(error.contains("maxmemory-policy is allkeys-lru"), "{error}");
    assert!(error.contains("allow_eviction"), "{error}");
    works(patient(server.url()).allow_eviction(true)).await;
}

/// Somebody may set it later, and a replica that takes the place of its master may have another one.
#[tokio::test]
async fn of_a_server_that_begins_to_evict_it_is_told_once() {
    let server = RedisServer::start();
    let store = Store::open(patient(server.url())).await;
    let allows = Store::open(patient(server.url()).allow_eviction(true)).await;
    let errors = Errors::default();
    let _told = tracing::subscriber::set_default(errors.clone());
    let mut told = Vec::new();

    for policy in [
        "noeviction",
        "allkeys-lru",
        "allkeys-lru",
        "noeviction",
        "volatile-ttl",
    ] {
        server.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        store.backend.beat(store.me, NOW).await.unwrap();
        allows.backend.beat(allows.me, NOW).await.unwrap();
        told.push(errors.0.load(Ordering::SeqCst));
    }

    assert_eq!(told, [0, 1, 1, 1, 2]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    let error = refused(RedisOptions::new("redis://ada:secret@127.0.0.1:1/")).await;
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn of_an_address_no_password_is_shown_wherever_it_stands() {
    for (url, shown) in [
        ("redis://ada:secret@127.0.0.1:1/2", "127.0.0.1:1/2"),
        (
            "redis://ada:se@cret@127.0.0.1:1/?protocol=resp3",
            "127.0.0.1:1/",
        ),
        (
            "unix:///nowhere.sock?db=1&user=ada&pass=secret",
            "/nowhere.sock",
        ),
        ("Redis+Unix:///nowhere.sock?pass=x@secret", "/nowhere.sock"),
    ] {
        let options = format!("{:?}", RedisOptions::new(url));
        let error = refused(RedisOptions::new(url)).await;

        for said in [options, error] {
            assert!(
                said.contains(&format!("redis {shown} {{taskflow}}")),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_told_without_what_may_be_a_password() {
    for (url, shown) in [
        ("10.0.0.5:6379", "10.0.0.5:6379"),
        ("redis:ada:secret@10.0.0.5", "10.0.0.5"),
        ("redis://ada:secret", "ada"),
        ("redis://ada:secret/2", "ada"),
        ("redis://:secret", ""),
        ("redis://ada:secret?@127.0.0.1:1/", "127.0.0.1:1/"),
        ("redis://ada:se/cret@10.0.0.5:x6379/", "10.0.0.5"),
        ("redis://ada:secret@[::1]:6379/two", "[::1]:6379/two"),
        ("http://ada:secret@[::1]/", "[::1]/"),
        ("unix://ada:secret@/nowhere.sock", "/nowhere.sock"),
        ("unix://ada:secret/nowhere.sock", "ada"),
        (
            "valkey+unix:///nowhere.sock?pass=secret&db=x",
            "/nowhere.sock",
        ),
    ] {
        let error = refused(RedisOptions::new(url)).await;

        let said = format!("{shown:?} is no address of Redis (");
        assert!(error.starts_with(&said), "{url}: {error}");
        assert!(!error.contains("InvalidClientConfig"), "{error}");
        assert!(error.contains("write redis://10.0.0.5:6379"), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let server = RedisServer::builder().password("right").start();
    let wrong = server.url().replace("right", "secret");

    let error = refused(RedisOptions::new(wrong)).await;

    assert!(error.to_lowercase().contains("password"), "{error}");
    works(patient(server.url())).await;
}

#[tokio::test]
async fn a_user_with_the_rules_of_the_guide_can_do_everything() {
    let guide = include_str!("../../../../docs/redis.md");
    let rules = guide
        .lines()
        .find_map(|line| line.strip_prefix("ACL SETUSER tasks on >secret "))
        .expect("the guide tells the rules");
    let server = RedisServer::builder()
        .user("tasks", "secret", rules)
        .start();
    works(patient(server.url_as("tasks", "secret"))).await;

    let store = Store::open(patient(server.url_as("tasks", "secret"))).await;
    let hears = tokio::time::timeout(Duration::from_secs(20), store.backend.changed(0));
    assert!(hears.await.is_ok());

    // Nor does it more than that: what is not its own it leaves alone.
    for of_others in [
        &["FLUSHALL"][..],
        &["SWAPDB", "0", "1"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["CLIENT", "PAUSE", "1"],
        &["MIGRATE", "127.0.0.1", "1", "{taskflow}:x", "0", "1"],
        &["GET", "of another"],
    ] {
        if servers::version() >= (7, 0) {
            let may = server.command(&[&["ACL", "DRYRUN", "tasks"], of_others].concat());
            assert!(may.contains("permission"), "{of_others:?}: {may}");
        }
    }
    let elsewhere = RedisOptions::new(server.url_as("tasks", "secret")).prefix("other");
    let error = refused(elsewhere).await;
    assert!(error.contains("lacks a permission"), "{error}");
}

#[tokio::test]
async fn connections_are_encrypted_by_a_certificate_that_is_trusted_and_no_other() {
    let server = RedisServer::builder().tls().start();
    let pem = server.certificate().unwrap();

    works(patient(server.url()).root_certificate(pem)).await;
    refused(RedisOptions::new(server.url())).await;
}

#[tokio::test]
async fn a_server_that_takes_no_large_arguments_takes_large_tasks_all_the_same() {
    // Its least: some providers set it.
    let server = RedisServer::builder()
        .setting("proto-max-bulk-len", "1mb")
        .start();
    let store = Store::open(patient(server.url())).await;
    let mut tasks = [(); 3].map(|()| store.task());
    for task in &mut tasks {
        task.args = format!("[\"{}\"]", "ß".repeat(1 << 20)).into();
    }

    store.add_all(&tasks).await;

    for task in &tasks {
        let stored = store.backend.get(task.id).await.unwrap();
        assert!(stored.as_ref() == Some(task)); // too large to be printed
    }
}

#[tokio::test]
async fn the_shortest_lease_works() {
    let server = RedisServer::start();
    let second = Duration::from_secs(1);
    works(
        RedisOptions::new(server.url())
            .lease(second)
            .deadline(second / 2),
    )
    .await;
}

#[tokio::test]
async fn the_system_looks_whether_a_silent_server_is_still_there() {
    let server = RedisServer::start();
    let store = Store::open(RedisOptions::new(server.url())).await;
    store.backend.beat(store.me, NOW).await.unwrap();
    let hears = store.backend.changed(0);
    tokio::time::timeout(Duration::from_secs(20), hears)
        .await
        .unwrap()
        .unwrap();

    let begun = Instant::now();
    while timers(server.port()) != ["02"; 3] {
        let timers = timers(server.port());
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "of tasks, beats and hints: {timers:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the system waits for on the connections to a port: "02" is the next look whether the other end is there.
fn timers(port: u16) -> Vec<String> {
    // proc(5): number, local and remote address, state (01: established), queues, timer and when it fires.
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let words = connections
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    words
        .filter(|words| words[2].ends_with(&port) && words[3] == "01")
        .map(|words| words[5].split(':').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn databases_and_prefixes_are_apart_and_nothing_lies_outside() {
    let server = RedisServer::start();
    let url = server.url();
    let third = format!("{}/3", url.trim_end_matches('/'));
    let one = Store::open(patient(&url).prefix("one")).await;
    let two = Store::open(patient(&url).prefix("two")).await;
    let other = Store::open(patient(third).prefix("one")).await;
    let task = one.task();
    one.add(&task).await;

    assert!(one.is_stored(task.id).await);
    assert!(!two.is_stored(task.id).await);
    assert!(!other.is_stored(task.id).await);
    let keys = server.command(&["KEYS", "*"]);
    for key in keys.lines() {
        assert!(
            key.starts_with("{one}:") || key.starts_with("{two}:"),
            "{key}"
        );
    }
}

#[tokio::test]
async fn another_format_is_left_alone() {
    let server = RedisServer::start();
    server.command(&["SET", "{taskflow}:meta", "2 of the future"]);
    let backend = patient(server.url()).open().await.unwrap();
    let ids = axum_taskflow_core::IdSource::default();
    let me = axum_taskflow_core::Instance::new(ids.instance(NOW), NOW);

    let error = backend.join(me).await.unwrap_err();

    assert!(error.is_refused());
    assert!(error.to_string().contains("2 of the future"), "{error}");
    assert_eq!(server.command(&["DBSIZE"]), "1");
}

#[tokio::test]
async fn options_that_do_not_fit_are_refused() {
    let ms = Duration::from_millis;
    let options = || RedisOptions::new("redis://127.0.0.1:1/");
    let no_address = "is no address of Redis (";
    let tls = || RedisOptions::new("rediss://127.0.0.1:1/");
    for (options, word) in [
        (options().prefix(""), "prefix"),
        (options().prefix("a{b}"), "braces"),
        (options().lease(ms(10)), "lease"),
        (options().deadline(ms(0)), "deadline"),
        (options().deadline(ms(9_000)), "deadline"),
        (options().deadline(Duration::MAX), "deadline"),
        (options().node("redis://127.0.0.1:2/"), "cluster()"),
        (options().cluster().sentinel("m"), "sentinels"),
        (options().sentinel_user("ada", "secret"), "sentinel(name)"),
        (options().sentinel_tls(true), "sentinel(name)"),
        (RedisOptions::new("http://example.org"), no_address),
        (RedisOptions::new("10.0.0.5:6379"), no_address),
        (RedisOptions::new("nonsense"), no_address),
        (options().root_certificate("x"), "rediss://"),
        (tls().cluster().node("redis://127.0.0.1:2/"), "TLS"),
    ] {
        let error = options.clone().open().await.unwrap_err();
        assert!(error.is_refused());
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(options.complaints().join("; "), error.to_string());
    }
}

#[tokio::test]
async fn everything_that_is_wrong_with_the_options_is_said_at_once() {
    let options = RedisOptions::new("nonsense")
        .node("redis://127.0.0.1:1/")
        .prefix("")
        .lease(Duration::ZERO);

    let error = options.open().await.unwrap_err().to_string();

    for part in ["prefix", "lease", "cluster()", "\"nonsense\" is no address"] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others(
        "start::",
        &[
            "other_servers_do_the_same",
            "connections_are_encrypted_by_a_certificate_that_is_trusted_and_no_other",
        ],
    );
}
