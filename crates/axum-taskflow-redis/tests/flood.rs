//! A flood of calls while the server does not answer. Alone in its program, whose memory and sockets are looked at.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum_taskflow_core::{Backend, ListQuery};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_millis(500);
/// What a machine that does something else needs besides.
const SLOW: Duration = Duration::from_secs(3);

/// Questions that are asked at one moment of a server that answers none.
const READS: usize = 1_000;
/// What each of them carries: kept, those of a round would be 10 MB.
const READ_BYTES: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_a_server_that_does_not_answer_fail_in_time_and_are_not_kept() {
    let server = RedisServer::start();
    let options = RedisOptions::new(server.url()).deadline(DEADLINE);
    let store = Arc::new(options.open().await.unwrap());
    let mut query = ListQuery::default();
    query.name = Some("f".repeat(READ_BYTES));
    let ask_all = async || {
        let asked = Instant::now();
        let mut reads = JoinSet::new();
        for _ in 0..READS {
            let (store, query) = (store.clone(), query.clone());
            reads.spawn(async move { store.list(query).await.is_err() });
        }
        let failed = reads.join_all().await;
        assert!(failed.iter().all(|failed| *failed));
        let took = asked.elapsed();
        assert!(took < DEADLINE * 2 + SLOW, "{took:?}");
    };

    server.stop();
    ask_all().await; // what is needed once
    let (before_kb, before_files) = (memory_kb(), open_files());
    for _ in 0..12 {
        ask_all().await;
    }
    let grown_kb = memory_kb().saturating_sub(before_kb);
    server.cont();

    println!("{grown_kb} kB more");
    assert!(grown_kb < 40_000, "{grown_kb} kB");
    let more_files = open_files().saturating_sub(before_files);
    assert!(
        more_files < 100,
        "{more_files} connections were left behind"
    );
    let asked = Instant::now();
    while store.list(query.clone()).await.is_err() {
        assert!(asked.elapsed() < Duration::from_secs(20), "never again");
    }
}

/// How many files and sockets this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What this process has in memory.
fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
