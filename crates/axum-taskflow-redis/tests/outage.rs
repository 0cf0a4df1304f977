//! A server that is full, slow, or without the replicas that were asked for: a clear error in time, and all is well when
//! it is over.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum_taskflow_core::{
    Applied, Backend, Batch, Change, Enqueued, IdSource, Instance, InstanceId, ListQuery, Task,
    TaskStatus, Timestamp,
};
use axum_taskflow_redis::{Redis, RedisOptions};
use servers::RedisServer;
use tokio::task::JoinSet;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);
const DEADLINE: Duration = Duration::from_millis(500);
/// What a machine that does other things as well may need beside.
const SLOW: Duration = Duration::from_secs(3);

struct Site {
    server: RedisServer,
    store: Redis,
    me: InstanceId,
    ids: IdSource,
}

impl Site {
    async fn open(change: impl FnOnce(RedisOptions) -> RedisOptions) -> Self {
        let server = RedisServer::start();
        let options = RedisOptions::new(server.url()).deadline(DEADLINE);
        let store = change(options).open().await.unwrap();
        let ids = IdSource::default();
        let me = ids.instance(NOW);
        store.join(Instance::new(me, NOW)).await.unwrap();
        Self {
            server,
            store,
            me,
            ids,
        }
    }

    fn task(&self, bytes: usize) -> Task {
        Task::new(
            self.ids.task(NOW),
            "f",
            format!("[{:?}]", "x".repeat(bytes)),
        )
    }

    /// Adds a task, or gives the error, which must come in time.
    async fn add(&self, task: &Task) -> Result<(), String> {
        let mut batch = Batch::at(NOW);
        batch.tasks.push(Arc::new(task.clone()));
        let asked = Instant::now();
        let written = self.store.write(Arc::new(batch)).await;
        assert!(asked.elapsed() < DEADLINE * 3, "{:?}", asked.elapsed());
        let written = written.map_err(|error| {
            assert!(!error.is_refused(), "it is tried again: {error}");
            error.to_string()
        })?;
        assert_eq!(written.tasks, [Enqueued::Created]);
        Ok(())
    }

    async fn change(&self, change: Change) -> Result<Applied, String> {
        let mut batch = Batch::at(NOW);
        batch.changes.push(change);
        let written = self.store.write(Arc::new(batch)).await;
        Ok(written.map_err(|error| error.to_string())?.changes[0])
    }
}

#[tokio::test]
async fn a_full_server_takes_nothing_and_says_so_and_what_it_has_goes_on_when_there_is_room() {
    let site = Site::open(|options| options).await;
    let first = site.task(10);
    site.add(&first).await.unwrap();
    site.server.command(&["CONFIG", "SET", "maxmemory", "3mb"]);

    let mut refused = None;
    for _ in 0..200 {
        let task = site.task(100_000);
        if let Err(why) = site.add(&task).await {
            refused = Some((task, why));
            break;
        }
    }

    let (task, why) = refused.expect("it is full");
    assert!(why.contains("maxmemory"), "{why}");
    // All of a batch or nothing of it.
    assert_eq!(site.store.get(task.id).await.unwrap(), None);
    site.server.command(&["CONFIG", "SET", "maxmemory", "1mb"]); // less than it uses
    let start = Change::started(&first, site.me, NOW).unwrap();
    assert!(site.change(start.clone()).await.is_err());
    let stored = site.store.get(first.id).await.unwrap().unwrap();
    assert_eq!(stored.life.status, TaskStatus::Pending);

    site.server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(site.change(start).await.unwrap(), Applied::Applied);
    site.add(&task).await.unwrap();
    assert_eq!(site.store.get(task.id).await.unwrap(), Some(task));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time_and_no_late_call_counts() {
    let site = Site::open(|options| options).await;
    site.server.command(&["CLIENT", "PAUSE", "1500", "ALL"]);
    let (given_up, next) = (site.task(10), site.task(10));

    let why = site.add(&given_up).await.unwrap_err();
    assert!(why.contains("did not answer within 500ms"), "{why}");
    let paused = Instant::now();
    while site.add(&next).await.is_err() {
        assert!(paused.elapsed() < Duration::from_secs(10), "never again");
    }

    // It waited at the server, and arrived before or after what was sent later: as a whole or not at all.
    let stored = site.store.get(given_up.id).await.unwrap();
    assert!(stored.is_none_or(|stored| stored == given_up));
    assert_eq!(site.store.get(next.id).await.unwrap(), Some(next));
}

#[tokio::test]
async fn without_the_replicas_that_were_asked_for_a_write_does_not_count() {
    let site = Site::open(|options| options.min_replicas(1)).await;

    let why = site.add(&site.task(10)).await.unwrap_err();

    assert!(
        why.contains("0 replicas of Redis have the last write, and 1 were asked for"),
        "{why}"
    );
}

/// Questions that are asked at one moment of a server that answers none.
const READS: usize = 1_000;
/// What each of them carries: kept, those of a round would be 10 MB.
const READ_BYTES: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_a_server_that_does_not_answer_fail_in_time_and_are_not_kept() {
    let site = Site::open(|options| options).await;
    let store = Arc::new(site.store);
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

    site.server.stop();
    ask_all().await; // what is needed once
    let (before_kb, before_files) = (memory_kb(), open_files());
    for _ in 0..12 {
        ask_all().await;
    }
    let grown_kb = memory_kb().saturating_sub(before_kb);
    site.server.cont();

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

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others(&["other_servers_do_the_same"]);
}
