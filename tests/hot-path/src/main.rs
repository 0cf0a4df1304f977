//! The way of tasks through the engine, and nothing else, to be run under a tool that counts instructions:
//! `hot-path memory|FILE TASKS`.

use std::{env, error::Error, sync::Arc, time::Duration};

use axum_taskflow_core::{Backend, Config, Memory, TaskDef, TaskManager, TaskStatus};
use axum_taskflow_sqlite::SqliteOptions;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PRODUCERS: usize = 16;

async fn noop(_: String) {}

fn main() -> Result<()> {
    let [store, tasks] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("hot-path memory|FILE TASKS".into());
    };
    // One thread for the engine, so that there is little chance in who wakes whom.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(store, tasks.parse()?))
}

async fn run(store: &str, tasks: usize) -> Result<()> {
    let backend: Arc<dyn Backend> = match store {
        "memory" => Arc::new(Memory::with_history(usize::MAX)),
        path => Arc::new(SqliteOptions::new(path).open()?),
    };
    let mut config = Config::default();
    config.backend = backend;
    config.collect = false;
    config.tasks = vec![TaskDef::new(noop)];
    let manager = TaskManager::start(config).await?;
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let manager = manager.clone();
            tokio::spawn(async move {
                for _ in (producer..tasks).step_by(PRODUCERS) {
                    manager.add_task(noop, "a".repeat(38)).await?;
                }
                Ok::<_, axum_taskflow_core::Error>(())
            })
        })
        .collect();
    for producer in producers {
        producer.await??;
    }
    loop {
        let counts = manager.counts().await?;
        let ended = counts.iter().find(|it| it.status == TaskStatus::Success);
        if ended.is_some_and(|it| it.n == tasks as u64) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(manager.shutdown().await?)
}
