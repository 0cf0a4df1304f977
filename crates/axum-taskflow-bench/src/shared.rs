//! W2 by several processes that share one file or one server.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum_taskflow_core::{Backend, TaskManager};
use axum_taskflow_redis::RedisOptions;
use axum_taskflow_sqlite::SqliteOptions;
use serde::{Deserialize, Serialize};

use crate::{
    report::Figure,
    workloads::{self, Result, Store},
};

/// Processes that share the store.
const PROCESSES: usize = 3;

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
        .map(|_| start(place, each))
        .collect::<Result<Vec<_>>>()?;
    // All have opened the store before the first begins.
    let mut lines = Vec::new();
    for child in &mut children {
        let stdout = child.stdout.take().ok_or("a process without output")?;
        let mut reader = BufReader::new(stdout).lines();
        reader.next().ok_or("a process ended too early")??;
        lines.push(reader);
    }
    let begun = Instant::now();
    for child in &mut children {
        writeln!(child.stdin.as_mut().ok_or("a process without input")?, "go")?;
    }
    let mut shares = Vec::new();
    for reader in &mut lines {
        // A process is done when the tasks of all are.
        let share = reader.next().ok_or("a process said nothing")??;
        shares.push(serde_json::from_str(&share)?);
    }
    let elapsed = begun.elapsed();
    for child in &mut children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(((each * processes) as f64 / elapsed.as_secs_f64(), shares))
}

fn start(place: &str, tasks: usize) -> Result<Child> {
    Ok(Command::new(std::env::current_exe()?)
        .arg("share")
        .arg(place)
        .args([tasks.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?)
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
            tokio::time::sleep(Duration::from_millis(1)).await;
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
