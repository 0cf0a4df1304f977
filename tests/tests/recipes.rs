//! Why not just …: the recipes that are in use for code that must run in one process only, each where it fails, and what
//! this library does there.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    collections::BTreeMap,
    env,
    fs::{File, OpenOptions, read_to_string},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum_taskflow::{
    Clock, Data, ListQuery, OnceOutcome, Overlap, Role, Schedule, Scope, TaskContext, TaskDef,
    TaskManager, Timestamp,
};
use rusqlite::Connection;
use servers::RedisServer;
use tempfile::tempdir;
use tokio::{sync::Barrier, task::JoinSet, time::sleep};

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

// ---- processes of their own --------------------------------------------------------------------------------------

const RECIPE: &str = "TASKFLOW_TEST_RECIPE";
const FOLDER: &str = "TASKFLOW_TEST_FOLDER";
const EVERY: Duration = Duration::from_millis(100);

/// A process that plays a recipe, and dies with this.
struct Player(Child);

impl Player {
    fn start(recipe: &str, folder: &Path) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["player", "--exact", "--nocapture"])
            .env(RECIPE, recipe)
            .env(FOLDER, folder)
            .env_remove("WORKER_ID") // as servers do that start their workers
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn ends(mut self) {
        let _stdin = self.0.stdin.take(); // or the wait would close it, which ends the player
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        self.0.wait().unwrap();
    }
}

/// What the players have written so far.
fn lines(folder: &Path) -> Vec<String> {
    let text = read_to_string(folder.join("lines")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "never seen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first process that writes this beside those of before.
fn who_says(what: &str, folder: &Path, before: &[u32]) -> u32 {
    until(|| {
        let lines = lines(folder).into_iter();
        let mut words = lines.filter_map(|line| {
            let (said, pid) = line.split_once(' ')?;
            (said == what).then(|| pid.parse::<u32>().unwrap())
        });
        words.find(|pid| !before.contains(pid))
    })
}

/// What the processes do; in the tests' own process nothing.
#[tokio::test]
async fn player() {
    let (Ok(recipe), Ok(folder)) = (env::var(RECIPE), env::var(FOLDER)) else {
        return;
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1); // whoever has started this is gone
    });
    let folder = PathBuf::from(folder);
    let say = |what: &str| {
        let lines = folder.join("lines");
        let mut lines = OpenOptions::new().create(true).append(true).open(lines);
        let line = format!("{what} {}\n", std::process::id());
        lines.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    };
    let lock = || {
        let file = File::create(folder.join("lock")).unwrap();
        file.try_lock().is_ok().then_some(file)
    };
    match &*recipe {
        "worker id" => {
            if env::var("WORKER_ID").map_or(true, |id| id == "1") {
                say("runs");
            }
        }
        "flock and run" => {
            if let Some(_lock) = lock() {
                say("runs");
            }
        }
        "flock at the start" => {
            let lock = lock();
            say(if lock.is_some() { "leads" } else { "follows" });
            std::future::pending::<()>().await; // serves
        }
        "leader" => {
            let manager = process(&folder).await;
            let mut lead = manager.leader("mailer").watch().unwrap();
            while !lead.is_leader() {
                lead.changed().await.unwrap();
            }
            say("leads");
            std::future::pending::<()>().await;
        }
        "schedule" => {
            let slots = Schedule::new(nothing, ()).every(EVERY);
            let builder = TaskManager::builder().sqlite(folder.join("tasks.db"));
            let builder = builder.task(TaskDef::new(nothing));
            let builder = builder.schedule(slots.overlap(Overlap::Allow));
            let _manager = builder.build().await.unwrap();
            std::future::pending::<()>().await;
        }
        unknown => panic!("{unknown}"),
    }
}

async fn nothing() {}

/// Of two processes of ours one leads, and the other one when it is killed.
fn ours_lead_one_after_the_other(folder: &Path) {
    let mut both = [
        Player::start("leader", folder),
        Player::start("leader", folder),
    ];
    let first = who_says("leads", folder, &[]);
    let is_first = |player: &&mut Player| player.0.id() == first;
    let killed = both.iter_mut().find(is_first).unwrap();
    killed.0.kill().unwrap();
    who_says("leads", folder, &[first]);
    assert_eq!(lines(folder).len(), 2);
}

#[test]
fn a_number_for_each_worker_is_set_nowhere_or_belongs_to_the_dead() {
    // Servers that start their workers set no such variable, and without it each takes itself for the only one.
    let folder = tempdir().unwrap();
    let players: Vec<Player> = (0..4)
        .map(|_| Player::start("worker id", folder.path()))
        .collect();
    players.into_iter().for_each(Player::ends);
    assert_eq!(lines(folder.path()).len(), 4, "all have run");

    ours_lead_one_after_the_other(tempdir().unwrap().path());
}

#[test]
fn a_file_lock_that_is_tried_at_the_start_has_no_successor() {
    let folder = tempdir().unwrap();
    let first = Player::start("flock at the start", folder.path());
    who_says("leads", folder.path(), &[]);
    let mut second = Player::start("flock at the start", folder.path());
    who_says("follows", folder.path(), &[]);
    drop(first);
    // Nobody has the lock, and the one that is left does not ask.
    until(|| {
        let lock = File::create(folder.path().join("lock")).unwrap();
        lock.try_lock().ok()
    });
    assert!(second.0.try_wait().unwrap().is_none());
    assert_eq!(lines(folder.path()).len(), 2);

    ours_lead_one_after_the_other(tempdir().unwrap().path());
}

#[tokio::test]
async fn a_file_lock_around_the_work_lets_it_run_again() {
    let folder = tempdir().unwrap();
    // Two processes of one deploy, one of which starts a moment later.
    Player::start("flock and run", folder.path()).ends();
    Player::start("flock and run", folder.path()).ends();
    assert_eq!(lines(folder.path()).len(), 2, "it has run twice");

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
async fn a_key_for_each_slot_fires_it_again_by_a_late_clock_and_loses_it_with_its_process() {
    /// Takes the slot for a second, and fires it.
    fn set_nx_and_fire(redis: &RedisServer, slot: &str, fired: &AtomicUsize) {
        if redis.command(&["SET", slot, "me", "NX", "EX", "1"]) == "OK" {
            fired.fetch_add(1, Ordering::SeqCst);
        }
    }
    let redis = RedisServer::start();
    let theirs = AtomicUsize::new(0);
    set_nx_and_fire(&redis, "slot:0900", &theirs);
    // By the clock of another process it is nine o'clock when the key has gone.
    until(|| (redis.command(&["EXISTS", "slot:0900"]) == "0").then_some(()));
    set_nx_and_fire(&redis, "slot:0900", &theirs);
    assert_eq!(theirs.load(Ordering::SeqCst), 2, "it has fired twice");
    // One dies behind its SET: the others leave the slot alone, and none comes back to it.
    redis.command(&["SET", "slot:1000", "dead", "NX", "EX", "3600"]);
    set_nx_and_fire(&redis, "slot:1000", &theirs);
    assert_eq!(theirs.load(Ordering::SeqCst), 2, "it has not fired");

    // Ours: a clock that is late by more than that …
    let ours = Sent::default();
    let mut processes = Vec::new();
    for late_s in [0, 2] {
        let now = Clock::system().now();
        let now = now.saturating_sub(Duration::from_secs(late_s));
        let mails = Schedule::new(mail, ()).every(EVERY).overlap(Overlap::Allow);
        let builder = TaskManager::builder().redis(redis.url());
        let builder = builder.clock(Clock::tokio(now)).task(TaskDef::new(mail));
        let builder = builder.schedule(mails).state(ours.clone());
        processes.push(builder.build().await.unwrap());
    }
    sleep(Duration::from_secs(3)).await;
    for process in &processes {
        process.shutdown().await.unwrap();
    }
    {
        let sent = ours.0.lock().unwrap();
        assert!(sent.len() >= 10, "{sent:?}");
        assert!(sent.values().all(|n| *n == 1), "{sent:?}");
    }

    // … and processes that are killed lose no slot, and repeat none.
    let folder = tempdir().unwrap();
    let builder = TaskManager::builder().sqlite(folder.path().join("tasks.db"));
    let reader = builder.role(Role::Web).build().await.unwrap();
    let mut players = Vec::new();
    for _ in 0..3 {
        players.push(Player::start("schedule", folder.path()));
        let before = slots(&reader).await.len();
        while slots(&reader).await.len() < before + 8 {
            sleep(Duration::from_millis(20)).await;
        }
        if players.len() == 2 {
            players.remove(0);
        }
    }
    drop(players);
    let mut slots = slots(&reader).await;
    slots.sort_unstable();
    let every_ms = i64::try_from(EVERY.as_millis()).unwrap();
    let is_next = |two: &[i64]| two[1] - two[0] == every_ms;
    assert!(slots.windows(2).all(is_next), "{slots:?}");
}

/// The slots of the tasks that are stored.
async fn slots(manager: &TaskManager) -> Vec<i64> {
    let mut query = ListQuery::default();
    query.limit = 1_000;
    let tasks = manager.list(query).await.unwrap().tasks;
    let slot = |slot: &String| slot.parse::<Timestamp>().unwrap().as_unix_ms();
    tasks.iter().map(|task| slot(&task.tags["slot"])).collect()
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
