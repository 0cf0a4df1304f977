//! A soak: most of what a store can do, for long, with retention on. What grows shows here.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum_taskflow_core::{Data, TaskDef, TaskManager};
use serde::Serialize;
use servers::RedisServer;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    machine::Machine,
    report::{self, Figure},
    workloads::{self, PRODUCERS, Result, Store, ms},
};

/// What is kept of the tasks that have ended.
const RETENTION: Duration = Duration::from_secs(20);
/// Each sample is of so long.
const SAMPLE: Duration = Duration::from_secs(10);
/// One task more, whose pickup is measured, every so often.
const PROBE: Duration = Duration::from_millis(20);
/// Before what grows at first has grown: history, caches, the file.
const WARM: f64 = 0.1;

/// What was seen in ten seconds.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    /// Seconds since the begin, at the end of the sample.
    at_s: f64,
    /// Tasks that ran in a second.
    rate: f64,
    /// Tasks that have not ended.
    live: u64,
    /// From `add_task` to the first line of the function.
    pickup_p50_ms: f64,
    pickup_p99_ms: f64,
    /// Resident memory of the process.
    resident_mb: f64,
    /// Of the file and its log, or of the memory of the server.
    store_mb: f64,
}

#[derive(Debug, Serialize)]
struct Soak {
    machine: Machine,
    store: String,
    /// What it does if it is asked for more, while as many are deleted, tasks a second.
    peak_rate: f64,
    asked_rate: usize,
    retention_s: u64,
    figures: Vec<Figure>,
    samples: Vec<Sample>,
}

/// For so long the peak is looked for, and counts once what has ended is deleted.
const PEAK: Duration = Duration::from_secs(100);
const PEAK_FROM_S: f64 = 45.0;

/// What a store can do for long, tasks a second: asked for more, while as many are deleted as end.
pub(crate) fn peak(store: Store) -> Result<f64> {
    const MORE: usize = 1_000_000_000;
    let samples = samples(store, PEAK, MORE)?;
    let warm = samples.iter().filter(|sample| sample.at_s > PEAK_FROM_S);
    Ok(report::median(
        &warm.map(|sample| sample.rate).collect::<Vec<_>>(),
    ))
}

/// `rate` tasks a second for `minutes`; answers what was measured as JSON.
pub(crate) fn soak(
    store: Store,
    minutes: f64,
    peak_rate: f64,
    rate: usize,
    machine: Machine,
) -> Result<String> {
    let samples = samples(store, Duration::from_secs_f64(minutes * 60.0), rate)?;
    let figures = compare(&samples).ok_or("too short: give it some minutes")?;
    for figure in &figures {
        eprintln!("{}: {:.3} {}", figure.name, figure.value, figure.unit);
    }
    let soak = Soak {
        machine,
        peak_rate,
        store: store.to_string(),
        asked_rate: rate,
        retention_s: RETENTION.as_secs(),
        figures,
        samples,
    };
    Ok(serde_json::to_string(&soak)?)
}

fn samples(store: Store, time: Duration, rate: usize) -> Result<Vec<Sample>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tasks.db");
    let server = workloads::server(store).map(Arc::new);
    let place = match &server {
        Some(server) => server.url(),
        None => path.display().to_string(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(runtime.spawn(async move {
        let backend = workloads::open_at(&place).await?;
        let mut config = workloads::config(backend);
        config.retention = RETENTION;
        let (probes, picked_up) = mpsc::unbounded_channel();
        let n_run = Arc::new(AtomicU64::new(0));
        config.state(Probes(probes));
        config.state(n_run.clone());
        config.tasks = vec![TaskDef::new(probe), TaskDef::new(count)];
        let manager = TaskManager::start(config).await?;
        let mut load = load(&manager, rate);
        let samples = watch(&manager, &n_run, picked_up, time, server.as_deref(), &path).await;
        while let Some(ended) = load.try_join_next() {
            ended??; // one that has failed asks for no more, and the others for less than was meant
        }
        drop(load);
        manager.shutdown().await?;
        samples
    }))?
}

async fn count(Data(n_run): Data<Arc<AtomicU64>>, _: String) {
    n_run.fetch_add(1, Ordering::Relaxed);
}

#[derive(Clone)]
struct Probes(mpsc::UnboundedSender<Duration>);

async fn probe(Data(probes): Data<Probes>, added_us: u64) {
    // The receiver lives as long as the measurement.
    let _ = probes
        .0
        .send(Duration::from_micros(now_us().saturating_sub(added_us)));
}

/// Of a clock that nobody sets, of this process.
fn now_us() -> u64 {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Producers that add one by one, each its share at its time; who was late makes up for it. They end when this is dropped.
fn load(manager: &TaskManager, rate: usize) -> JoinSet<Result<()>> {
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let manager = manager.clone();
        let every = Duration::from_secs_f64(PRODUCERS as f64 / rate as f64);
        producers.spawn(async move {
            let first = Instant::now() + every.mul_f64(producer as f64 / PRODUCERS as f64);
            for n in 0_u32.. {
                let at = first + every * n;
                // A timer cannot do better, and handlers come in bursts.
                if at > Instant::now() + Duration::from_millis(1) {
                    tokio::time::sleep_until(at.into()).await;
                }
                manager.add_task(count, workloads::argument()).await?;
            }
            Ok(())
        });
    }
    let manager = manager.clone();
    producers.spawn(async move {
        let mut ticks = tokio::time::interval(PROBE);
        loop {
            ticks.tick().await;
            manager.add_task(probe, now_us()).await?;
        }
    });
    producers
}

async fn watch(
    manager: &TaskManager,
    n_run: &AtomicU64,
    mut picked_up: mpsc::UnboundedReceiver<Duration>,
    time: Duration,
    server: Option<&RedisServer>,
    path: &std::path::Path,
) -> Result<Vec<Sample>> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    let (mut n_before, mut before) = (n_run.load(Ordering::Relaxed), begun);
    while begun.elapsed() < time {
        tokio::time::sleep(SAMPLE).await;
        let mut pickups = Vec::new();
        while let Ok(pickup) = picked_up.try_recv() {
            pickups.push(ms(pickup));
        }
        if pickups.is_empty() {
            return Err("nothing has run for ten seconds".into());
        }
        pickups.sort_by(f64::total_cmp);
        let (n, now) = (n_run.load(Ordering::Relaxed), Instant::now());
        let sample = Sample {
            at_s: begun.elapsed().as_secs_f64(),
            rate: (n - n_before) as f64 / (now - before).as_secs_f64(),
            live: workloads::live(manager).await?,
            pickup_p50_ms: pickups[pickups.len() / 2],
            pickup_p99_ms: pickups[pickups.len() * 99 / 100],
            resident_mb: workloads::resident_mb()?,
            store_mb: match server {
                Some(server) => workloads::used_memory(server)? / 1_048_576.0,
                None => file_mb(path)?,
            },
        };
        (n_before, before) = (n, now);
        eprintln!("{}", serde_json::to_string(&sample)?);
        samples.push(sample);
    }
    Ok(samples)
}

/// The database and its log.
fn file_mb(path: &std::path::Path) -> Result<f64> {
    let log = PathBuf::from(format!("{}-wal", path.display()));
    let bytes = std::fs::metadata(path)?.len() + std::fs::metadata(log)?.len();
    Ok(bytes as f64 / 1_048_576.0)
}

/// The last third beside the first, once it is warm.
fn compare(samples: &[Sample]) -> Option<Vec<Figure>> {
    let warm = &samples[(samples.len() as f64 * WARM).ceil() as usize..];
    let third = warm.len() / 3;
    if third == 0 {
        return None;
    }
    type Of = fn(&Sample) -> f64;
    let median = |of: Of, part: &[Sample]| report::median(&part.iter().map(of).collect::<Vec<_>>());
    let of: [(&str, &str, Of); 5] = [
        ("tasks that ran", "tasks/s", |sample| sample.rate),
        ("pickup p50", "ms", |sample| sample.pickup_p50_ms),
        ("pickup p99", "ms", |sample| sample.pickup_p99_ms),
        ("resident memory", "MB", |sample| sample.resident_mb),
        ("store", "MB", |sample| sample.store_mb),
    ];
    let mut figures = Vec::new();
    for (name, unit, of) in of {
        let (first, last) = (
            median(of, &warm[..third]),
            median(of, &warm[warm.len() - third..]),
        );
        figures.push(Figure::new(format!("{name}, first third"), unit, first));
        figures.push(Figure::new(format!("{name}, last third"), unit, last));
        figures.push(Figure::new(
            format!("{name}, last / first"),
            "",
            last / first,
        ));
    }
    Some(figures)
}
