//! effectum (<https://docs.rs/effectum>) under the workloads of `axum-taskflow-bench`: `peer-effectum WORKLOAD TASKS
//! FOLDER` prints the figures as JSON; `peer-effectum as-shipped WORKLOAD TASKS FOLDER` those of its own setting.
//!
//! Its best documented setting: the file is made with a write-ahead log before it is opened, which it does not manage by
//! itself, and it adds and runs in one process. As shipped: it makes the file, which then has a rollback journal.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use effectum::{Job, JobRunner, Queue, Result as Done, RunningJob, Worker};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PRODUCERS: usize = 64;
const SLOTS: u16 = 64;
/// How often what has ended is looked for, by all alike.
const LOOK: Duration = Duration::from_millis(10);

/// The file is not made for it. Written once, before anything is opened.
static AS_SHIPPED: AtomicBool = AtomicBool::new(false);

/// What jobs share.
#[derive(Clone, Debug)]
struct Context {
    /// Where a job says when its first line ran.
    first_line: Option<mpsc::UnboundedSender<Instant>>,
}

async fn noop(job: RunningJob, context: Arc<Context>) -> Done<()> {
    if let Some(first_line) = &context.first_line {
        let _ = first_line.send(Instant::now());
    }
    let _: String = job.json_payload()?;
    Ok(())
}

fn job() -> Result<Job> {
    Ok(Job::builder("noop").json_payload(&"a".repeat(38))?.build())
}

fn later() -> Result<Job> {
    let day = Duration::from_secs(24 * 3_600);
    let at = time::OffsetDateTime::now_utc() + day;
    let job = Job::builder("noop").json_payload(&"a".repeat(38))?;
    Ok(job.run_at(at).build())
}

async fn open(path: &Path) -> Result<Arc<Queue>> {
    if !AS_SHIPPED.load(Ordering::Relaxed) {
        let file = rusqlite::Connection::open(path)?;
        file.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    }
    Ok(Arc::new(Queue::new(path).await?))
}

async fn work(queue: &Queue, first_line: Option<mpsc::UnboundedSender<Instant>>) -> Result<Worker> {
    let noop = JobRunner::builder("noop", noop).build();
    let worker = Worker::builder(queue, Arc::new(Context { first_line }));
    Ok(worker.max_concurrency(SLOTS).jobs([noop]).build().await?)
}

async fn produce(queue: &Arc<Queue>, n: usize, job: fn() -> Result<Job>) -> Result<()> {
    let mut producers = JoinSet::new();
    for _ in 0..PRODUCERS {
        let queue = queue.clone();
        producers.spawn(async move {
            for _ in 0..n / PRODUCERS {
                queue.add_job(job()?).await?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    Ok(())
}

fn rate(name: &str, n: usize, begun: Instant) -> Value {
    let value = n as f64 / begun.elapsed().as_secs_f64();
    json!({ "name": name, "unit": "tasks/s", "value": value })
}

async fn w1(folder: &Path, n: usize) -> Result<Vec<Value>> {
    let mut figures = Vec::new();
    let queue = open(&folder.join("one.db")).await?;
    let (few, begun) = (n / 5, Instant::now());
    for _ in 0..few {
        queue.add_job(later()?).await?;
    }
    figures.push(rate("one producer", few, begun));
    let queue = open(&folder.join("many.db")).await?;
    let begun = Instant::now();
    produce(&queue, n, later).await?;
    figures.push(rate("64 producers", n / PRODUCERS * PRODUCERS, begun));
    let queue = open(&folder.join("bulk.db")).await?;
    let begun = Instant::now();
    for _ in 0..n / 1_000 {
        let bulk = (0..1_000).map(|_| later()).collect::<Result<_>>()?;
        queue.add_jobs(bulk).await?;
    }
    figures.push(rate("bulk of 1,000", n / 1_000 * 1_000, begun));
    Ok(figures)
}

async fn w2(folder: &Path, n: usize) -> Result<Vec<Value>> {
    let path = folder.join("tasks.db");
    let queue = open(&path).await?;
    let worker = work(&queue, None).await?;
    let file = rusqlite::Connection::open(&path)?;
    let begun = Instant::now();
    produce(&queue, n, job).await?;
    // It takes what has ended from this table.
    while is_any_active(&file)? {
        tokio::time::sleep(LOOK).await;
    }
    let figure = rate("end to end", n / PRODUCERS * PRODUCERS, begun);
    worker.unregister(Some(Duration::from_secs(5))).await?;
    Ok(vec![figure])
}

fn is_any_active(file: &rusqlite::Connection) -> Result<bool> {
    let ask = "SELECT EXISTS (SELECT 1 FROM active_jobs)";
    Ok(file.query_row(ask, [], |row| row.get(0))?)
}

async fn w3(folder: &Path) -> Result<Vec<Value>> {
    let queue = open(&folder.join("tasks.db")).await?;
    let (sender, mut first_line) = mpsc::unbounded_channel();
    let _worker = work(&queue, Some(sender)).await?;
    let mut all_ms = Vec::new();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let before = Instant::now();
        queue.add_job(job()?).await?;
        let began = first_line.recv().await.ok_or("no job ran")?;
        all_ms.push((began - before).as_secs_f64() * 1_000.0);
    }
    all_ms.sort_by(f64::total_cmp);
    let figure = |name, n: usize| json!({ "name": name, "unit": "ms", "value": all_ms[n] });
    Ok(vec![
        figure("pickup p50", 249),
        figure("pickup p99", 494),
        figure("pickup max", 499),
    ])
}

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "as-shipped") {
        args.remove(0);
        AS_SHIPPED.store(true, Ordering::Relaxed);
    }
    let [workload, tasks, folder] = &args[..] else {
        return Err("peer-effectum [as-shipped] WORKLOAD TASKS FOLDER".into());
    };
    let (workload, n) = (workload.clone(), tasks.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let path = std::path::PathBuf::from(folder);
    let measuring = runtime.spawn(async move {
        match &*workload {
            "w1" => w1(&path, n).await,
            "w2" => w2(&path, n).await,
            "w3" => w3(&path).await,
            other => Err(format!("{other:?} is not measured here").into()),
        }
    });
    println!("{}", Value::from(runtime.block_on(measuring)??));
    std::process::exit(0) // dropped after the runtime, its threads would panic
}
