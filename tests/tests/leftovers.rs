//! What a service has made is gone when it ends: threads, files and connections. A process may have many, one after the
//! other, as tests do.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    fs,
    future::{IntoFuture, pending},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum_taskflow::{Builder, Failure, TaskDef, TaskManager};
use servers::RedisServer;
use tempfile::tempdir;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Once its engine is gone, threads of a service end.
const LET_GO: Duration = Duration::from_millis(500);
const N_SERVICES: usize = 20;

async fn stays() {
    pending::<()>().await;
}

fn sleeps() {
    std::thread::sleep(Duration::from_millis(20));
}

async fn fails() -> Result<(), Failure> {
    Err(Failure::retry("again"))
}

/// Does a little of everything, and leaves it unfinished.
async fn work(manager: &TaskManager) {
    let events = manager.events();
    manager.add_task(stays, ()).await.unwrap();
    manager.add_task(sleeps, ()).await.unwrap();
    manager.add_task(fails, ()).retries(3).await.unwrap();
    let later = manager.add_task(stays, ()).delay_by(DEADLINE);
    let later = later.await.unwrap();
    let lock = manager.lock("lock").acquire().await.unwrap();
    let waits = manager.clone();
    tokio::spawn(async move { waits.wait::<()>(later).await });
    let leads = manager.leader("leader");
    tokio::spawn(leads.run(async |_| pending::<()>().await));
    // Somebody still adds when it ends.
    let adds = manager.clone();
    tokio::spawn(async move { while adds.add_task(sleeps, ()).into_future().await.is_ok() {} });
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop((events, lock));
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    ByShutdown,
    WithItsRuntime,
}

fn serve(builder: Builder, ends: Ends) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks = [
            TaskDef::new(stays),
            TaskDef::new(sleeps),
            TaskDef::new(fails),
        ];
        let builder = tasks.into_iter().fold(builder, Builder::task);
        let builder = builder.shutdown_timeout(Duration::from_millis(50));
        let manager = builder.build().await.unwrap();
        work(&manager).await;
        if matches!(ends, Ends::ByShutdown) {
            manager.shutdown().await.unwrap();
        }
    });
}

/// What this process has, of what services make.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    threads: usize,
    files: usize,
    engines: usize,
}

impl Held {
    /// `state` is one that all engines have.
    fn now(state: &Arc<()>) -> Self {
        let n = |folder| fs::read_dir(Path::new(folder)).unwrap().count();
        Self {
            threads: n("/proc/self/task"),
            files: n("/proc/self/fd"),
            engines: Arc::strong_count(state) - 1,
        }
    }

    fn is_within(self, other: Self) -> bool {
        self.threads <= other.threads && self.files <= other.files && self.engines <= other.engines
    }
}

fn leave_nothing(builder: impl Fn() -> Builder, ends: Ends) {
    let state = Arc::new(());
    let serve = || serve(builder().state(state.clone()), ends);
    serve(); // what a process makes once stays
    let began = Instant::now();
    while Held::now(&state).engines > 0 {
        assert!(began.elapsed() < DEADLINE, "one stays after {ends:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
    std::thread::sleep(LET_GO);
    let before = Held::now(&state);

    for _ in 0..N_SERVICES {
        serve();
    }

    let began = Instant::now();
    loop {
        let after = Held::now(&state);
        if after.is_within(before) {
            return;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{N_SERVICES} services leave something behind after {ends:?}: {before:?} before, {after:?} after"
        );
        std::thread::sleep(LOOK_AGAIN);
    }
}

// One test: they count what the process has.
#[test]
fn services_leave_no_thread_no_file_and_no_engine_behind() {
    let folder = tempdir().unwrap();
    let on_file = || TaskManager::builder().sqlite(folder.path().join("tasks.db"));
    leave_nothing(on_file, Ends::ByShutdown);
    leave_nothing(on_file, Ends::WithItsRuntime);
    let server = RedisServer::start();
    // Not with its runtime: a connection manager of `redis` that connects anew at that moment holds itself for ever.
    leave_nothing(
        || TaskManager::builder().redis(server.url()),
        Ends::ByShutdown,
    );
}
