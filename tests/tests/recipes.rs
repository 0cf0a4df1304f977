//! Why not just …: the recipes that are in use for code that must run in one process only, each where it fails, and what
//! this library does there.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_taskflow::{
    Data, OnceOutcome, Overlap, Schedule, Scope, TaskContext, TaskDef, TaskManager, Timestamp,
};
use rusqlite::Connection;
use servers::RedisServer;
use tempfile::tempdir;
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{sleep, timeout},
};

const WORK: Duration = Duration::from_millis(1_500);

/// One process of several: each has a manager of its own.
async fn process(folder: &Path) -> TaskManager {
    let path = folder.join("tasks.db");
    TaskManager::builder().sqlite(path).build().await.unwrap()
}

/// How many work at once, and how many did in all.
#[derive(Default)]
struct Work {
    now: AtomicUsize,
    most: AtomicUsize,
    total: AtomicUsize,
}

impl Work {
    async fn run(&self, takes: Duration) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        sleep(takes).await;
        self.total.fetch_add(1, Ordering::SeqCst);
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn seen(&self) -> (usize, usize) {
        (
            self.most.load(Ordering::SeqCst),
            self.total.load(Ordering::SeqCst),
        )
    }
}

#[tokio::test]
async fn a_number_for_each_worker_is_set_nowhere_or_belongs_to_the_dead() {
    /// As it is found: without the variable it must be the only process.
    fn runs_here(worker_id: Option<&str>) -> bool {
        worker_id.unwrap_or("1") == "1"
    }
    // Servers that start their workers set no such variable.
    let unset = [None, None, None, None];
    assert_eq!(unset.iter().filter(|id| runs_here(**id)).count(), 4);
    // Where it is set, the one process that counts can die.
    let survivors = [Some("2"), Some("3"), Some("4")];
    assert_eq!(survivors.iter().filter(|id| runs_here(**id)).count(), 0);

    let folder = tempdir().unwrap();
    let (one, other) = (process(folder.path()).await, process(folder.path()).await);
    let first = one.leader("mailer").watch().unwrap();
    while !first.is_leader() {
        sleep(Duration::from_millis(1)).await;
    }
    let mut second = other.leader("mailer").watch().unwrap();
    sleep(Duration::from_millis(50)).await;
    assert!(!second.is_leader());
    one.shutdown().await.unwrap();
    let follows = timeout(Duration::from_secs(5), second.changed()).await;
    assert!(follows.unwrap().is_some());
}

#[tokio::test]
async fn a_file_lock_around_the_work_lets_it_run_again() {
    /// Locks, runs, unlocks: false if it was locked.
    async fn flock_and_run(path: &Path, work: &Work) -> bool {
        let file = File::create(path).unwrap();
        if file.try_lock().is_err() {
            return false;
        }
        work.run(Duration::from_millis(20)).await;
        true
    }
    let folder = tempdir().unwrap();
    let lock = folder.path().join("migrate.lock");
    let theirs = Work::default();
    // Two processes of one deploy, one of which starts a moment later.
    assert!(flock_and_run(&lock, &theirs).await);
    assert!(flock_and_run(&lock, &theirs).await);
    assert_eq!(theirs.seen().1, 2, "it has run twice");

    let ours = Work::default();
    let work = || async {
        ours.run(Duration::from_millis(20)).await;
        Ok::<(), std::io::Error>(())
    };
    let (one, other) = (process(folder.path()).await, process(folder.path()).await);
    let first = one.run_once("migrate", Scope::Forever, work).await.unwrap();
    let second = other
        .run_once("migrate", Scope::Forever, work)
        .await
        .unwrap();
    assert_eq!(
        (first, second),
        (OnceOutcome::Ran, OnceOutcome::AlreadyDone)
    );
    assert_eq!(ours.seen().1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_a_lifetime_is_too_short_or_too_long() {
    /// Takes the key for a second, works, deletes the key.
    async fn set_nx_and_run(redis: &RedisServer, work: &Work) -> bool {
        if redis.command(&["SET", "lock", "me", "NX", "EX", "1"]) != "OK" {
            return false;
        }
        work.run(WORK).await;
        redis.command(&["DEL", "lock"]);
        true
    }
    let redis = RedisServer::start();
    let theirs = Work::default();
    tokio::join!(
        async { assert!(set_nx_and_run(&redis, &theirs).await) },
        async {
            sleep(Duration::from_millis(1_100)).await;
            // The work of the first takes longer than the key lives.
            assert!(set_nx_and_run(&redis, &theirs).await);
        },
    );
    assert_eq!(theirs.seen().0, 2, "two at once");
    // Who dies leaves the key behind: a long lifetime means that nobody works as long.
    redis.command(&["SET", "lock", "dead", "NX", "EX", "3600"]);
    assert!(!set_nx_and_run(&redis, &theirs).await);

    let ours = Arc::new(Work::default());
    let mut processes = JoinSet::new();
    for _ in 0..2 {
        let manager = TaskManager::builder().redis(redis.url());
        let (manager, ours) = (manager.build().await.unwrap(), ours.clone());
        processes.spawn(async move {
            let guard = manager.lock("report").acquire().await.unwrap();
            ours.run(WORK).await;
            guard.release().await.unwrap();
        });
    }
    processes.join_all().await;
    assert_eq!(ours.seen(), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_is_read_and_then_written_is_read_twice() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = || {
        let app = Connection::open(&path).unwrap();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        app
    };
    open()
        .execute_batch("CREATE TABLE job (last_run INTEGER); INSERT INTO job VALUES (0)")
        .unwrap();
    let theirs = AtomicUsize::new(0);
    let both_have_read = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let app = open();
                let last: i64 = app
                    .query_row("SELECT last_run FROM job", [], |row| row.get(0))
                    .unwrap();
                both_have_read.wait();
                if last < 100 {
                    app.execute("UPDATE job SET last_run = 100", []).unwrap();
                    theirs.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(theirs.load(Ordering::SeqCst), 2, "both have run");

    let ours = Arc::new(AtomicUsize::new(0));
    let together = Arc::new(Barrier::new(4));
    let mut processes = JoinSet::new();
    for _ in 0..4 {
        let (manager, ours) = (process(folder.path()).await, ours.clone());
        let together = together.clone();
        processes.spawn(async move {
            together.wait().await;
            let work = || async {
                ours.fetch_add(1, Ordering::SeqCst);
                Ok::<(), std::io::Error>(())
            };
            manager
                .run_once("job at 100", Scope::Forever, work)
                .await
                .unwrap();
        });
    }
    processes.join_all().await;
    assert_eq!(ours.load(Ordering::SeqCst), 1);
}

async fn mail(ctx: TaskContext, Data(sent): Data<Sent>) {
    let slot = ctx.slot().unwrap();
    *sent.0.lock().unwrap().entry(slot).or_default() += 1;
}

/// How many mails were sent for each slot.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<BTreeMap<Timestamp, usize>>>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_in_every_process_sends_a_mail_from_each() {
    let every = Duration::from_millis(100);
    let theirs = Arc::new(AtomicUsize::new(0));
    let mut processes = JoinSet::new();
    for _ in 0..4 {
        let theirs = theirs.clone();
        processes.spawn(async move {
            let mut slots = tokio::time::interval(every);
            for _ in 0..5 {
                slots.tick().await;
                theirs.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    processes.join_all().await;
    assert_eq!(
        theirs.load(Ordering::SeqCst),
        20,
        "four for each of 5 slots"
    );

    let folder = tempdir().unwrap();
    let ours = Sent::default();
    let mut processes = Vec::new();
    for _ in 0..4 {
        let mails = Schedule::new(mail, ()).every(every).overlap(Overlap::Allow);
        let builder = TaskManager::builder().sqlite(folder.path().join("tasks.db"));
        let builder = builder
            .task(TaskDef::new(mail))
            .schedule(mails)
            .state(ours.clone());
        processes.push(builder.build().await.unwrap());
    }
    sleep(every * 12).await;
    for process in &processes {
        process.shutdown().await.unwrap();
    }
    let sent = ours.0.lock().unwrap();
    assert!(sent.len() >= 5, "{sent:?}");
    assert!(sent.values().all(|n| *n == 1), "{sent:?}");
}
