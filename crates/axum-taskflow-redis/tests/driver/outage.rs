//! A server that is full, slow, or without the replicas that were asked for: a clear error in time, and all is well when
//! it is over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    links::in_step,
    support::{cpu_time, until},
};
use axum_taskflow_core::{
    Applied, Backend, Batch, Becomes, Change, Claim, Config, Duty, Enqueued, IdSource, Instance,
    InstanceId, Outcome, Prune, RecordChange, RetryPolicy, Standing, Step, Stepped, Task,
    TaskManager, TaskStatus, Timestamp,
};
use axum_taskflow_redis::{Redis, RedisOptions};
use servers::RedisServer;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);
const DEADLINE: Duration = Duration::from_millis(500);

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
async fn a_full_server_takes_no_new_tasks_and_says_so() {
    let site = Site::open(|options| options).await;
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
    let mut both = Batch::at(NOW);
    both.tasks = [site.task(100_000), task.clone()].map(Arc::new).into();
    let full = site.store.write(Arc::new(both)).await.unwrap_err();
    assert!(full.is_full() && !full.is_refused(), "{full}");
    assert_eq!(site.store.get(task.id).await.unwrap(), None);

    site.server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    site.add(&task).await.unwrap();
    assert_eq!(site.store.get(task.id).await.unwrap(), Some(task));
}

/// Else what has filled it would never be worked off: nothing but that makes room.
#[tokio::test]
async fn a_full_server_runs_what_it_has_to_its_end() {
    for min_replicas in [0, 1] {
        let patient = Duration::from_secs(5); // for a replica that has to wait for a processor
        let options = |options: RedisOptions| options.min_replicas(min_replicas).deadline(patient);
        let site = Site::open(options).await;
        let follow = format!("127.0.0.1 {}", site.server.port());
        let _replica = RedisServer::builder().setting("replicaof", &follow).start();
        in_step(&site.server).await;
        let tasks: Vec<Task> = (0..4).map(|_| site.task(10)).collect();
        for task in &tasks {
            site.add(task).await.unwrap();
        }
        let mut owned = site.task(10);
        owned.life.owner = Some(site.me);
        site.add(&owned).await.unwrap();
        site.server
            .command(&["CONFIG", "SET", "maxmemory", "100kb"]); // less than it uses
        site.server.command(&["SCRIPT", "FLUSH"]);

        let claim = Claim {
            owner: site.me,
            names: Arc::new(["f".into()]),
            except: Arc::default(),
            limit: 3,
            now: NOW,
            reserve: None,
        };
        let mut running = site.store.claim(claim).await.unwrap().tasks;
        let start = Change::started(&owned, site.me, NOW).unwrap();
        owned.life = start.life.clone();
        let started = site.change(start).await;
        let (policy, mut ends) = (RetryPolicy::default(), Vec::new());
        running.push(owned);
        for task in &running {
            let done = Outcome::Done(None);
            ends.push(Change::finished(task, done, &policy, 0.0, NOW).unwrap());
        }
        let alone = site.change(ends.pop().unwrap()).await;
        let mut batch = Batch::at(NOW);
        batch.changes = ends;
        let together = site.store.write(Arc::new(batch)).await;

        assert_eq!(running.len(), 4);
        assert_eq!(
            (started, alone),
            (Ok(Applied::Applied), Ok(Applied::Applied))
        );
        assert_eq!(together.unwrap().changes, [Applied::Applied; 3]);
        let mut record = Step::at(NOW);
        record.records.push(RecordChange {
            key: "lead".to_owned(),
            expects: 0,
            becomes: Becomes::Value("mine".into()),
        });
        let stepped = site.store.step(Arc::new(record)).await.unwrap();
        assert_ne!(stepped, Stepped::Stale);
        let mut fires = Step::at(NOW);
        fires.tasks.push(Arc::new(site.task(10)));
        let full = site.store.step(Arc::new(fires)).await.unwrap_err();
        assert!(full.is_full(), "{full}");
        site.add(&site.task(10)).await.unwrap_err();
        let counts = site.store.counts().await.unwrap();
        let n_of = |status| {
            let of = counts.iter().filter(|count| count.status == status);
            of.map(|count| count.n).sum::<u64>()
        };
        assert_eq!(
            (n_of(TaskStatus::Pending), n_of(TaskStatus::Success)),
            (1, 4)
        );
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_named_as_the_cause_and_what_does_not_need_it_goes_on() {
    let site = Site::open(|options| options).await;
    let task = site.task(10);
    site.add(&task).await.unwrap();
    let minutes = "{taskflow}:ms";
    site.server.command(&["SET", minutes, "mine"]);

    let start = Change::started(&task, site.me, NOW).unwrap();
    assert_eq!(site.change(start.clone()).await.unwrap(), Applied::Applied);
    let mut running = task;
    running.life = start.life;
    let (policy, outcome) = (RetryPolicy::default(), Outcome::Done(None));
    let end = Change::finished(&running, outcome, &policy, 0.0, NOW).unwrap();
    let why = site.change(end).await.unwrap_err();

    assert!(why.contains("another type"), "{why}");
}

/// The service is more than its tasks, and who runs already goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_starts_though_it_cannot_take_over_from_the_dead_and_does_so_when_it_can() {
    async fn nothing() {}
    let site = Site::open(|options| options).await;
    let mut left = site.task(10);
    left.life.owner = Some(site.me);
    site.add(&left).await.unwrap();
    site.store.close().await.unwrap();
    let (dead, saved) = ("{taskflow}:xo", "saved");
    site.server.command(&["RENAME", dead, saved]);
    site.server.command(&["SET", dead, "mine"]);

    let mut config = Config::default();
    config.collect = false;
    let options = RedisOptions::new(site.server.url());
    config.backend = Arc::new(options.open().await.unwrap());
    let manager = TaskManager::start(config).await.unwrap();

    let added = manager.add_task(nothing, ()).await.unwrap();
    manager.wait::<()>(added).await.unwrap();
    until("it is told", async || {
        let health = manager.health();
        health.troubles.iter().any(|it| it.duty == Duty::Rescue)
    })
    .await;
    site.server.command(&["RENAME", saved, dead]);
    until("it is taken over", async || {
        let task = manager.get(left.id).await.unwrap().unwrap();
        task.life.owner.is_none() && manager.health().troubles.is_empty()
    })
    .await;
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn on_a_full_server_an_instance_stays_alive_all_the_same() {
    let site = Site::open(|options| options).await;
    let alive = format!("{{taskflow}}:i:{}", site.me);
    site.server.command(&["PEXPIRE", &alive, "5000"]);
    site.server
        .command(&["CONFIG", "SET", "maxmemory", "100kb"]); // less than it uses
    site.add(&site.task(10)).await.unwrap_err();

    let later = NOW.saturating_add(Duration::from_secs(1));
    let standing = site.store.beat(site.me, later).await;

    assert_eq!(standing.unwrap(), Standing::Alive);
    let left = site.server.command(&["PTTL", &alive]);
    assert!(left.parse::<u64>().unwrap() > 5_000, "{left}");
    assert_eq!(site.store.instances().await.unwrap()[0].beat_at, later);
}

/// Else whoever starts a service anew, with a shorter retention for example, would make it worse: it would not start, and
/// nobody would make room.
#[tokio::test]
async fn on_a_full_server_an_instance_joins_and_leaves_and_deletes_what_is_old() {
    let site = Site::open(|options| options).await;
    let task = site.task(10);
    site.add(&task).await.unwrap();
    let start = Change::started(&task, site.me, NOW).unwrap();
    site.change(start.clone()).await.unwrap();
    let mut running = task;
    running.life = start.life;
    let (policy, outcome) = (RetryPolicy::default(), Outcome::Done(None));
    let end = Change::finished(&running, outcome, &policy, 0.0, NOW).unwrap();
    site.change(end).await.unwrap();
    site.server
        .command(&["CONFIG", "SET", "maxmemory", "100kb"]); // less than it uses

    let another = site.ids.instance(NOW);
    let joined = site.store.join(Instance::new(another, NOW)).await;
    let left = site.store.leave(site.me).await;
    let later = NOW.saturating_add(Duration::from_secs(1));
    let round = Prune {
        finished_before: later,
        failed_before: later,
        series_before: Timestamp::default(),
        from: None,
        limit: 100,
    };
    let pruned = site.store.prune(round).await;

    assert!(joined.is_ok(), "{joined:?}");
    assert!(left.is_ok(), "{left:?}");
    let peers = site.store.instances().await.unwrap();
    assert_eq!(peers[0].instance.id, another);
    assert_eq!((peers.len(), pruned.unwrap().deleted), (1, 1));
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
async fn a_bulk_has_the_time_that_it_needs_and_is_there_as_a_whole() {
    let patience = Duration::from_secs(60);
    let site = Site::open(|options| options.deadline(patience).lease(patience * 2)).await;
    let bulk = || {
        let mut batch = Batch::at(NOW);
        batch.tasks = (0..11_000).map(|_| Arc::new(site.task(10))).collect();
        Arc::new(batch)
    };
    let first = bulk();
    let last = first.tasks[10_999].clone();

    let before = cpu_time(&site.server);
    let written = site.store.write(first).await.unwrap();
    let needed = cpu_time(&site.server) - before;

    assert!(written.tasks.iter().all(|it| *it == Enqueued::Created));
    assert_eq!(
        site.store.get(last.id).await.unwrap().as_ref(),
        Some(&*last)
    );
    // A tenth of a millisecond for each task beyond the first thousand.
    let given = DEADLINE + Duration::from_secs(1);
    assert!(needed < given, "{needed:?}");
    let options = RedisOptions::new(site.server.url()).deadline(DEADLINE);
    let hasty = options.open().await.unwrap();
    site.server.stop();
    let why = hasty.write(bulk()).await.unwrap_err().to_string();
    site.server.cont();
    assert!(why.contains("did not answer within 1.5s"), "{why}");
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

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("outage::", &["other_servers_do_the_same"]);
}
