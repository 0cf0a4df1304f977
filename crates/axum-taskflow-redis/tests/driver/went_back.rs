//! A server that is restarted without its last writes, in less than a lease: whoever lives goes on as what is stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum_taskflow_core::{Config, Data, Role, Scope, TaskDef, TaskId, TaskManager, TaskStatus};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;
use tokio::sync::Semaphore;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// Lets tasks go on, and counts those that have begun.
#[derive(Default)]
struct Gates {
    open: [Gate; 3],
}

struct Gate {
    tickets: Semaphore,
    n_begun: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            tickets: Semaphore::new(0),
            n_begun: AtomicUsize::new(0),
        }
    }
}

impl Gates {
    fn n_begun(&self, n: usize) -> usize {
        self.open[n].n_begun.load(Ordering::SeqCst)
    }
}

async fn gated(Data(gates): Data<Arc<Gates>>, n: usize) {
    let gate = &gates.open[n];
    gate.n_begun.fetch_add(1, Ordering::SeqCst);
    gate.tickets.acquire().await.unwrap().forget();
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is(manager: &TaskManager, id: TaskId, status: TaskStatus) {
    until(status.as_str(), async || {
        let task = manager.get(id).await;
        task.is_ok_and(|task| task.unwrap().life.status == status)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_writes_of_a_server_said_is_made_good_while_their_instance_lives() {
    let server = RedisServer::start();
    let gates = Arc::new(Gates::default());
    let mut config = Config::default();
    config.collect = false;
    config.concurrency = 1;
    config.backend = Arc::new(RedisOptions::new(server.url()).open().await.unwrap());
    config.state(gates.clone());
    let manager = TaskManager::start(config).await.unwrap();
    // What is new may have tasks in the store, which come first.
    gates.open[0].tickets.add_permits(1);
    let known = manager.add_task(gated, (0,)).await.unwrap();
    manager.wait::<()>(known).await.unwrap();
    let mut added = Vec::new();
    for n in 0..3 {
        added.push(manager.add_task(gated, (n,)).await.unwrap());
    }
    let [ended, run, runs] = added[..] else {
        unreachable!("three were added")
    };
    until("the first one begins", async || gates.n_begun(0) == 2).await;
    server.command(&["SAVE"]);
    gates.open[0].tickets.add_permits(1);
    gates.open[1].tickets.add_permits(1);
    until("the third one begins", async || gates.n_begun(2) == 1).await;
    is(&manager, run, TaskStatus::Success).await;

    tokio::task::block_in_place(|| server.restart());

    // It had begun, and must not be repeated.
    is(&manager, ended, TaskStatus::Interrupted).await;
    // It ran meanwhile, and what came of it is known.
    gates.open[2].tickets.add_permits(1);
    is(&manager, runs, TaskStatus::Success).await;
    // By all that is known it had not begun.
    gates.open[1].tickets.add_permits(1);
    is(&manager, run, TaskStatus::Success).await;
    let n_begun = [0, 1, 2].map(|n| gates.n_begun(n));
    assert_eq!(n_begun, [2, 2, 1]);
    manager.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_epoch_is_given_again_by_a_server_that_has_forgotten_to_whom_it_gave_the_last_ones() {
    let server = RedisServer::start();
    let start = async || {
        let mut config = Config::default();
        config.collect = false;
        config.backend = Arc::new(RedisOptions::new(server.url()).open().await.unwrap());
        let manager = TaskManager::start(config).await.unwrap();
        // Takes part in the start of the cluster by then, and writes no record of its own any more.
        let work = || async { Ok::<(), std::io::Error>(()) };
        manager
            .run_once("start", Scope::ClusterBoot, work)
            .await
            .unwrap();
        manager
    };
    let (one, other) = (start().await, start().await);
    server.command(&["SAVE"]);
    let held = one.lock("door").acquire().await.unwrap();

    tokio::task::block_in_place(|| server.restart());

    let taken = other.lock("door").acquire_within(DEADLINE).await.unwrap();
    let taken = taken.expect("nobody has it by what is stored");
    assert!(
        taken.epoch() > held.epoch(),
        "{} after {}",
        taken.epoch(),
        held.epoch()
    );
    tokio::time::timeout(DEADLINE, held.lost())
        .await
        .expect("two have it");
    assert!(taken.is_held());
}

/// Runs until it is told to go on, and counts how many do.
struct Hall {
    n_inside: AtomicUsize,
    n_begun: AtomicUsize,
    n_ended: AtomicUsize,
    way_out: Semaphore,
}

impl Hall {
    async fn until_begun(&self, n: usize) {
        until("they begin", async || {
            self.n_begun.load(Ordering::SeqCst) == n
        })
        .await;
    }
}

struct Inside(Arc<Hall>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.n_inside.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn stays(Data(hall): Data<Arc<Hall>>) {
    hall.n_begun.fetch_add(1, Ordering::SeqCst);
    hall.n_inside.fetch_add(1, Ordering::SeqCst);
    let inside = Inside(hall);
    inside.0.way_out.acquire().await.unwrap().forget();
    inside.0.n_ended.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_instance_runs_by_now_is_stopped_by_who_began_it_on_the_server_as_it_was() {
    let server = RedisServer::start();
    let hall = Arc::new(Hall {
        n_inside: AtomicUsize::new(0),
        n_begun: AtomicUsize::new(0),
        n_ended: AtomicUsize::new(0),
        way_out: Semaphore::new(0),
    });
    let start = async |role| {
        let mut config = Config::default();
        config.collect = false;
        config.role = role;
        config.concurrency = 1;
        config.tasks = vec![TaskDef::new(stays).name("stays")];
        config.backend = Arc::new(RedisOptions::new(server.url()).open().await.unwrap());
        config.state(hall.clone());
        TaskManager::start(config).await.unwrap()
    };
    let (web, first) = (start(Role::Web).await, start(Role::Worker).await);
    web.add_task(stays, ()).await.unwrap();
    hall.until_begun(1).await;
    let task = web.add_task(stays, ()).await.unwrap();
    server.command(&["SAVE"]);
    hall.way_out.add_permits(1);
    hall.until_begun(2).await;

    tokio::task::block_in_place(|| server.restart());

    // Nobody has it by what is stored, and the first one has no room for it.
    let second = start(Role::Worker).await;
    hall.until_begun(3).await;
    until("one of two stops", async || {
        hall.n_inside.load(Ordering::SeqCst) == 1
    })
    .await;
    hall.way_out.add_permits(2);
    is(&web, task, TaskStatus::Success).await;
    let by = web.get(task).await.unwrap().unwrap().life.instance;
    assert_eq!(by, Some(second.instance().id));
    assert_eq!(hall.n_ended.load(Ordering::SeqCst), 2);
    for manager in [first, second, web] {
        manager.shutdown().await.unwrap();
    }
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("went_back::", &["other_servers_do_the_same"]);
}
