//! apalis (<https://apalis.dev>) under the workloads of `axum-taskflow-bench`: `peer-apalis WORKLOAD TASKS PLACE` prints the
//! figures as JSON. The place is a folder or the address of a Redis server. `peer-apalis without-indexes WORKLOAD TASKS
//! FOLDER` first drops the indexes of its table of jobs but those that are unique: with them SQLite finds a job that is
//! acknowledged by its status, one among all, and not by its id. Nobody documents that; it is the most that it can do.
//!
//! Its best documented setting: on SQLite the storage with a hook, which is woken by each insert; on Redis a look every
//! 5 ms, and no events; batches of 100 instead of 10; each task spawned on the runtime. `setup` switches SQLite's
//! `synchronous` off in one connection of its pool; that is left as it is.
//!
//! It adds and runs fewer tasks than ours: on SQLite it slows down as its table grows, and on Redis a script of its own
//! fails from about 8,000 due tasks on, and its worker ends.

use std::{
    error::Error,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_redis::RedisStorage;
use apalis_sqlite::SqliteStorage;
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection, SqlitePool};
use tokio::{sync::mpsc, task::JoinSet};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const PRODUCERS: usize = 64;
const SLOTS: usize = 64;
const BATCH: usize = 100;
/// On Redis it is not woken, and looks by default only after some seconds if nothing was there.
const LOOK: Duration = Duration::from_millis(5);
/// More than so many are not waited for.
const SQLITE_ADDS_MAX: usize = 20_000;
const SQLITE_MAX: usize = 2_000;
const REDIS_MAX: usize = 6_400;
/// How often what has ended is looked for, by all alike.
const WATCH: Duration = Duration::from_millis(10);
/// Pickups are measured for so long at most.
const PICKUPS_FOR: Duration = Duration::from_secs(60);

/// Indexes are dropped. Written once, before anything is opened.
static WITHOUT_INDEXES: AtomicBool = AtomicBool::new(false);

/// Where a task says that its first line runs.
static FIRST_LINE: OnceLock<mpsc::UnboundedSender<Instant>> = OnceLock::new();

async fn noop(_: String) -> Result<(), BoxDynError> {
    if let Some(first_line) = FIRST_LINE.get() {
        let _ = first_line.send(Instant::now());
    }
    Ok(())
}

fn argument() -> String {
    "a".repeat(38)
}

fn rate(name: &str, n: usize, begun: Instant) -> Value {
    let value = n as f64 / begun.elapsed().as_secs_f64();
    json!({ "name": name, "unit": "tasks/s", "value": value })
}

/// The workloads are the same for both storages, whose types have nothing in common but their methods.
macro_rules! workloads {
    ($produce:ident, $w1:ident, $w3:ident, $storage:ty) => {
        async fn $produce(storage: &$storage, n: usize) -> Result<()> {
            let mut producers = JoinSet::new();
            for _ in 0..PRODUCERS {
                let mut storage = storage.clone();
                producers.spawn(async move {
                    for _ in 0..n / PRODUCERS {
                        storage.push(argument()).await.map_err(|e| e.to_string())?;
                    }
                    Ok::<_, String>(())
                });
            }
            while let Some(done) = producers.join_next().await {
                done??;
            }
            Ok(())
        }

        /// Nothing runs: there is no worker. Each figure has a table of its own.
        async fn $w1([one, many, bulk]: [$storage; 3], n: usize) -> Result<Vec<Value>> {
            let mut figures = Vec::new();
            let mut one = one;
            let (few, begun) = (n / 5, Instant::now());
            for _ in 0..few {
                one.push(argument()).await.map_err(|e| e.to_string())?;
            }
            figures.push(rate("one producer", few, begun));
            let begun = Instant::now();
            $produce(&many, n).await?;
            figures.push(rate("64 producers", n / PRODUCERS * PRODUCERS, begun));
            let mut storage = bulk;
            let begun = Instant::now();
            for _ in 0..n / 1_000 {
                let bulk = (0..1_000).map(|_| argument()).collect();
                storage.push_bulk(bulk).await.map_err(|e| e.to_string())?;
            }
            figures.push(rate("bulk of 1,000", n / 1_000 * 1_000, begun));
            Ok(figures)
        }

        async fn $w3(storage: &$storage) -> Result<Vec<Value>> {
            let (sender, mut first_line) = mpsc::unbounded_channel();
            FIRST_LINE.get_or_init(|| sender);
            let mut storage = storage.clone();
            let mut all_ms = Vec::new();
            let begun = Instant::now();
            while all_ms.len() < 500 && begun.elapsed() < PICKUPS_FOR {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let before = Instant::now();
                storage.push(argument()).await.map_err(|e| e.to_string())?;
                let began = tokio::time::timeout(PICKUPS_FOR, first_line.recv()).await?;
                let began = began.ok_or("no task ran")?;
                all_ms.push((began - before).as_secs_f64() * 1_000.0);
            }
            all_ms.sort_by(f64::total_cmp);
            let figure = |name, at: usize| {
                let value = all_ms[at.min(all_ms.len() - 1)];
                json!({ "name": name, "unit": "ms", "value": value })
            };
            Ok(vec![
                figure("pickup p50", all_ms.len() / 2),
                figure("pickup p99", all_ms.len() * 99 / 100),
                figure("pickup max", all_ms.len()),
            ])
        }
    };
}

workloads!(produce_sqlite, w1_sqlite, w3_sqlite, SqliteStorage<String>);
workloads!(produce_redis, w1_redis, w3_redis, RedisStorage<String>);

async fn sqlite(workload: &str, n: usize, folder: &str) -> Result<Vec<Value>> {
    if workload == "w1" {
        let open = async |name: &str| {
            let (pool, _) = SqliteStorage::connect_with_callback(&sqlite_url(folder, name))?;
            sqlite_storage(&pool).await
        };
        let storages = [open("one").await?, open("many").await?, open("bulk").await?];
        return w1_sqlite(storages, n.min(SQLITE_ADDS_MAX)).await;
    }
    let url = sqlite_url(folder, "tasks");
    let (pool, listener) = SqliteStorage::connect_with_callback(&url)?;
    let storage = sqlite_storage(&pool).await?;
    let worker = WorkerBuilder::new("worker")
        .backend(storage.clone().with_callback(listener))
        .concurrency(SLOTS)
        .parallelize(tokio::spawn)
        .build(noop);
    tokio::spawn(worker.run());
    match workload {
        "w2" => {
            let n = n.min(SQLITE_MAX);
            let mut watches = SqliteConnection::connect(&url).await?;
            let begun = Instant::now();
            produce_sqlite(&storage, n).await?;
            let wanted = (n / PRODUCERS * PRODUCERS) as i64;
            while n_done(&mut watches).await? < wanted {
                tokio::time::sleep(WATCH).await;
            }
            Ok(vec![rate("end to end", wanted as usize, begun)])
        }
        "w3" => w3_sqlite(&storage).await,
        other => Err(format!("{other:?} is not measured here").into()),
    }
}

fn sqlite_url(folder: &str, name: &str) -> String {
    format!("sqlite://{folder}/{name}.db?mode=rwc")
}

async fn sqlite_storage(pool: &SqlitePool) -> Result<SqliteStorage<String>> {
    SqliteStorage::setup(pool).await?;
    if WITHOUT_INDEXES.load(Ordering::Relaxed) {
        let indexes = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'Jobs'
             AND sql NOT NULL AND sql NOT LIKE 'CREATE UNIQUE%'";
        let names: Vec<String> = sqlx::query_scalar(indexes).fetch_all(pool).await?;
        for name in names {
            let drop = sqlx::AssertSqlSafe(format!("DROP INDEX {name}"));
            sqlx::query(drop).execute(pool).await?;
        }
    }
    let config = apalis_sqlite::Config::default()
        .queue("noop")
        .batch_size(BATCH);
    Ok(SqliteStorage::new(pool).with_config(config))
}

async fn n_done(watches: &mut SqliteConnection) -> Result<i64> {
    let count = "SELECT count(*) FROM Jobs WHERE status = 'Done'";
    Ok(sqlx::query_scalar(count).fetch_one(watches).await?)
}

async fn redis(workload: &str, n: usize, url: &str) -> Result<Vec<Value>> {
    let conn = apalis_redis::connect(url).await?;
    let config = |queue: &str| {
        apalis_redis::Config::default()
            .queue(queue)
            .batch_size(BATCH)
            .emit_events(false)
    };
    if workload == "w1" {
        let storages = ["one", "many", "bulk"]
            .map(|name| RedisStorage::new(conn.clone()).with_config(config(name)));
        return w1_redis(storages, n).await;
    }
    let config = config("noop");
    let done = config.done_jobs_set();
    let storage = RedisStorage::new(conn).with_config(config);
    let worker = WorkerBuilder::new("worker")
        .backend(storage.clone().poll_with_interval(LOOK))
        .concurrency(SLOTS)
        .parallelize(tokio::spawn)
        .build(noop);
    tokio::spawn(worker.run());
    match workload {
        "w2" => {
            let n = n.min(REDIS_MAX);
            let mut watches = apalis_redis::connect(url).await?;
            let begun = Instant::now();
            produce_redis(&storage, n).await?;
            let wanted = n / PRODUCERS * PRODUCERS;
            loop {
                let n_done: usize = ::redis::cmd("SCARD")
                    .arg(&done)
                    .query_async(&mut watches)
                    .await?;
                if n_done >= wanted {
                    return Ok(vec![rate("end to end", wanted, begun)]);
                }
                tokio::time::sleep(WATCH).await;
            }
        }
        "w3" => w3_redis(&storage).await,
        other => Err(format!("{other:?} is not measured here").into()),
    }
}

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "without-indexes") {
        args.remove(0);
        WITHOUT_INDEXES.store(true, Ordering::Relaxed);
    }
    let [workload, tasks, place] = &args[..] else {
        return Err("peer-apalis [without-indexes] WORKLOAD TASKS PLACE".into());
    };
    let (workload, n, place) = (workload.clone(), tasks.parse()?, place.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let measuring = runtime.spawn(async move {
        match place.starts_with("redis://") {
            true => redis(&workload, n, &place).await,
            false => sqlite(&workload, n, &place).await,
        }
    });
    println!("{}", Value::from(runtime.block_on(measuring)??));
    std::process::exit(0) // its workers go on
}
