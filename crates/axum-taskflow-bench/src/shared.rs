//! W2 and W3 by several processes that share one file or one server.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum_taskflow_core::{Backend, Role, TaskDef, TaskManager};
use axum_taskflow_redis::RedisOptions;
use axum_taskflow_sqlite::SqliteOptions;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    report::Figure,
    workloads::{self, FirstLine, Result, Store},
};

/// Processes that share the store.
const PROCESSES: usize = 3;

/// Another process of this program, killed when this is dropped.
pub(crate) struct Elsewhere(pub(crate) Child);

impl Elsewhere {
    pub(crate) fn start(args: &[&str]) -> Result<Self> {
        Ok(Self(
            Command::new(std::env::current_exe()?)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()?,
        ))
    }

    /// What it says: to be asked for once.
    pub(crate) fn lines(&mut self) -> Result<Lines<BufReader<ChildStdout>>> {
        let stdout = self.0.stdout.take().ok_or("a process without output")?;
        Ok(BufReader::new(stdout).lines())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Whoever has ended cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one process says when it is done.
#[derive(Debug, Serialize, Deserialize)]
struct Share {
    /// The longest that its writer waited for the others; nothing where writers do not wait.
    wait_max_ms: Option<f64>,
}

/// One process, then several, on a fresh store each, with as many tasks in all.
pub(crate) fn run(store: Store, path: &Path, tasks: usize) -> Result<Vec<Figure>> {
    let run = |name: &str, processes| {
        // Kept until the processes have ended.
        let server = workloads::server(store);
        let place = match &server {
            Some(server) => server.url(),
            None => path.with_extension(name).display().to_string(),
        };
        together(&place, processes, tasks)
    };
    let alone = run("alone", 1)?;
    let shared = run("shared", PROCESSES)?;
    let mut figures = vec![
        Figure::new("one process", "tasks/s", alone.0),
        Figure::new("three processes", "tasks/s", shared.0),
        Figure::new("ratio", "three/one", shared.0 / alone.0),
    ];
    let waits_ms = shared.1.iter().filter_map(|share| share.wait_max_ms);
    if let Some(wait_ms) = waits_ms.reduce(f64::max) {
        figures.push(Figure::new("longest wait of a writer", "ms", wait_ms));
    }
    Ok(figures)
}

/// Tasks a second, from the first add in any process to the last end of all.
fn together(place: &str, processes: usize, tasks: usize) -> Result<(f64, Vec<Share>)> {
    let each = tasks / processes;
    let mut children = (0..processes)
        .map(|_| Elsewhere::start(&["share", place, &each.to_string()]))
        .collect::<Result<Vec<_>>>()?;
    // All have opened the store before the first begins.
    let mut lines = Vec::new();
    for child in &mut children {
        let mut reader = child.lines()?;
        reader.next().ok_or("a process ended too early")??;
        lines.push(reader);
    }
    let begun = Instant::now();
    for child in &mut children {
        let stdin = child.0.stdin.as_mut().ok_or("a process without input")?;
        writeln!(stdin, "go")?;
    }
    let mut shares = Vec::new();
    for reader in &mut lines {
        // A process is done when the tasks of all are.
        let share = reader.next().ok_or("a process said nothing")??;
        shares.push(serde_json::from_str(&share)?);
    }
    let elapsed = begun.elapsed();
    for child in &mut children {
        drop(child.0.stdin.take());
        child.0.wait()?;
    }
    let added = workloads::added(each) * processes;
    Ok((added as f64 / elapsed.as_secs_f64(), shares))
}

/// One of the processes: `share PLACE TASKS`, with a path or an address. Begins when it is told to, and ends when nothing is left of anybody.
pub(crate) fn share(place: &str, tasks: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (backend, sqlite): (Arc<dyn Backend>, _) = match place.starts_with("redis://") {
        true => {
            let opening = RedisOptions::new(place).open();
            (Arc::new(runtime.block_on(opening)?), None)
        }
        false => {
            let sqlite = Arc::new(SqliteOptions::new(place).open()?);
            (sqlite.clone(), Some(sqlite))
        }
    };
    let _runtime = runtime.enter();
    let manager = runtime.block_on(TaskManager::start(workloads::config(backend)))?;
    println!("ready");
    let mut go = String::new();
    std::io::stdin().read_line(&mut go)?;

    runtime.block_on(async {
        workloads::produce(&manager, tasks, false).await?;
        while workloads::live(&manager).await? > 0 {
            tokio::time::sleep(workloads::LOOK).await;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    let wait_max_ms = sqlite.map(|sqlite| sqlite.longest_lock_wait().as_secs_f64() * 1_000.0);
    println!("{}", serde_json::to_string(&Share { wait_max_ms })?);
    // The others may still look.
    std::io::stdin().read_line(&mut go)?;
    runtime.block_on(manager.shutdown())?;
    Ok(())
}

/// W3 by two processes: tasks are added here, where none may run, and run in the other. Both read the same clock.
pub(crate) async fn w3(place: String) -> Result<Vec<Figure>> {
    let mut config = workloads::config(workloads::open_at(&place).await?);
    config.role = Role::Web;
    config.state(FirstLine(mpsc::unbounded_channel().0)); // the function asks for one, and does not run here
    config.tasks = vec![TaskDef::new(workloads::tells_when)];
    let adds = TaskManager::start(config).await?;
    let mut runs = Elsewhere::start(&["run", &place])?;
    let mut said = runs.lines()?;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    // Ends with the other process.
    std::thread::spawn(move || {
        while let Some(Ok(ns)) = said.next()
            && let Ok(ns) = ns.parse()
            && sender.send(Duration::from_nanos(ns)).is_ok()
        {}
    });
    // It says at first when it was ready.
    receiver.recv().await.ok_or("who runs said nothing")?;
    let figures = workloads::pickup_figures(&adds, &mut receiver).await?;
    adds.shutdown().await?;
    Ok(figures)
}

/// `run PLACE`: the process that runs them, and says when. It is killed in the end.
pub(crate) fn run_here(place: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let begun = sender.clone();
    let place = place.to_owned();
    let manager = runtime.block_on(runtime.spawn(async move {
        let mut config = workloads::config(workloads::open_at(&place).await?);
        config.state(FirstLine(sender));
        config.tasks = vec![TaskDef::new(workloads::tells_when)];
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(TaskManager::start(config).await?)
    }))??;
    begun.send(workloads::monotonic())?;
    while let Some(at) = receiver.blocking_recv() {
        println!("{}", at.as_nanos());
    }
    runtime.block_on(manager.shutdown())?;
    Ok(())
}
