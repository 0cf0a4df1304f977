//! oxana (<https://docs.rs/oxana>) under the workloads of `axum-taskflow-bench`: `peer-oxana WORKLOAD TASKS URL` prints the
//! figures as JSON.
//!
//! Its best documented setting: a pool large enough for all producers and slots, as in its own benchmark, and a dequeue
//! timeout of 10 ms, with which it finds new jobs far sooner than by default.

use std::{
    error::Error,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use oxana::{Queue, QueueConcurrency, QueueConfig, QueueKind, Storage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const PRODUCERS: usize = 64;
const SLOTS: usize = 64;
/// How often what has ended is looked for, by all alike.
const LOOK: Duration = Duration::from_millis(10);
/// More than so many end to end are not waited for: the rate is the same.
const RUNS_MAX: usize = 20_000;

/// Where a job says when its first line ran.
static FIRST_LINE: OnceLock<mpsc::UnboundedSender<Instant>> = OnceLock::new();

#[derive(Debug, Serialize, Deserialize)]
struct NoopJob {
    argument: String,
}

impl oxana::Job for NoopJob {}

#[derive(Debug, thiserror::Error)]
enum Never {}

#[derive(Clone, Debug)]
struct Context;

#[derive(oxana::Worker)]
#[oxana(context = Context, error = Never, registry = None)]
struct Noop;

impl Noop {
    async fn process(&self, job: NoopJob, _: &oxana::JobContext) -> Result<(), Never> {
        if let Some(first_line) = FIRST_LINE.get() {
            let _ = first_line.send(Instant::now());
        }
        drop(job.argument);
        Ok(())
    }
}

#[derive(Serialize)]
struct Jobs;

impl Queue for Jobs {
    fn to_config() -> QueueConfig {
        QueueConfig {
            kind: QueueKind::Static { key: "jobs".into() },
            concurrency: QueueConcurrency::Fixed(SLOTS),
            throttle: None,
        }
    }
}

fn job() -> NoopJob {
    NoopJob {
        argument: "a".repeat(38),
    }
}

fn open(url: &str) -> Result<Arc<Storage>> {
    let mut config = deadpool_redis::Config::from_url(url);
    config.pool = Some(deadpool_redis::PoolConfig {
        max_size: 512,
        ..Default::default()
    });
    let pool = config.create_pool(Some(deadpool_redis::Runtime::Tokio1))?;
    Ok(Arc::new(Storage::builder().build_from_pool(pool)?))
}

fn work(storage: &Storage) {
    let runtime = storage
        .runtime(Context)
        .queue::<Jobs>()
        .worker::<Noop, NoopJob>()
        .dequeue_timeout(Duration::from_millis(10));
    tokio::spawn(runtime.run());
}

async fn produce(storage: &Arc<Storage>, n: usize) -> Result<()> {
    let mut producers = JoinSet::new();
    for _ in 0..PRODUCERS {
        let storage = storage.clone();
        producers.spawn(async move {
            for _ in 0..n / PRODUCERS {
                storage.enqueue(Jobs, job()).await?;
            }
            Ok::<_, oxana::OxanaError>(())
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

/// Nothing runs: there is no worker.
async fn w1(storage: Arc<Storage>, n: usize) -> Result<Vec<Value>> {
    let mut figures = Vec::new();
    let (few, begun) = (n / 5, Instant::now());
    for _ in 0..few {
        storage.enqueue(Jobs, job()).await?;
    }
    figures.push(rate("one producer", few, begun));
    let begun = Instant::now();
    produce(&storage, n).await?;
    figures.push(rate("64 producers", n / PRODUCERS * PRODUCERS, begun));
    let begun = Instant::now();
    for _ in 0..n / 1_000 {
        storage
            .enqueue_list(Jobs, (0..1_000).map(|_| job()))
            .await?;
    }
    figures.push(rate("bulk of 1,000", n / 1_000 * 1_000, begun));
    Ok(figures)
}

async fn w2(storage: Arc<Storage>, n: usize, url: &str) -> Result<Vec<Value>> {
    let n = n.min(RUNS_MAX);
    let watches = open(url)?; // connections of its own
    work(&storage);
    let begun = Instant::now();
    produce(&storage, n).await?;
    // It deletes what has succeeded.
    while watches.jobs_count().await? > 0 {
        tokio::time::sleep(LOOK).await;
    }
    Ok(vec![rate("end to end", n / PRODUCERS * PRODUCERS, begun)])
}

async fn w3(storage: Arc<Storage>) -> Result<Vec<Value>> {
    let (sender, mut first_line) = mpsc::unbounded_channel();
    FIRST_LINE.get_or_init(|| sender);
    work(&storage);
    let mut all_ms = Vec::new();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let before = Instant::now();
        storage.enqueue(Jobs, job()).await?;
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
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [workload, tasks, url] = &args[..] else {
        return Err("peer-oxana WORKLOAD TASKS URL".into());
    };
    let (workload, n) = (workload.clone(), tasks.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let url = url.clone();
    let measuring = runtime.spawn(async move {
        let storage = open(&url)?;
        match &*workload {
            "w1" => w1(storage, n).await,
            "w2" => w2(storage, n, &url).await,
            "w3" => w3(storage).await,
            other => Err(format!("{other:?} is not measured here").into()),
        }
    });
    println!("{}", Value::from(runtime.block_on(measuring)??));
    std::process::exit(0) // its workers go on
}
