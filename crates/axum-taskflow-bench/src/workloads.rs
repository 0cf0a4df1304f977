//! The workloads: a no-op async task with one 40-byte argument, unless said.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum_taskflow_core::{
    Backend, Claim, Config, Data, IdSource, Memory, Role, Task, TaskDef, TaskManager, TaskStatus,
    Timestamp,
};
use axum_taskflow_redis::RedisOptions;
use axum_taskflow_sqlite::{Durability, SqliteOptions};
use rustix::time::{ClockId, clock_gettime};
use servers::RedisServer;
use tokio::sync::mpsc;

use crate::{history, limits, report::Figure, service, shared};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Producers that add one by one, and slots that run.
pub(crate) const PRODUCERS: usize = 64;
const SLOTS: usize = 64;
/// How often the end of a workload is looked for, by us and by all others alike.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// More than so many wait nowhere: a longer history says nothing about them.
const WAITING_MAX: usize = 1_000_000;

/// Where tasks are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Store {
    /// In memory.
    Memory,
    /// In an SQLite file, `synchronous=NORMAL`.
    Sqlite,
    /// In a redis-server on this machine, which keeps nothing on disk.
    Redis,
    /// In a redis-server on this machine, with its log flushed once a second.
    RedisAof,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Workload {
    /// Bare SQLite.
    L1,
    /// A bare Redis server.
    L2,
    /// The bare runtime.
    L3,
    /// Adding only.
    W1,
    /// From the first add to the last end in the store.
    W2,
    /// As W2, with tasks that may be repeated.
    W2Requeue,
    /// As W2, safe against power loss.
    W2Full,
    /// As W2, by three processes on one store.
    W2Shared,
    /// As W2 and W3, with many finished tasks in the store.
    W2History,
    /// From an add to the function's first line.
    W3,
    /// As W3, added in one process and run in another.
    W3Apart,
    /// Memory of waiting tasks.
    W4,
    /// Memory of finished tasks.
    W4Finished,
    /// What many tasks cost that wait for their time.
    W4Scheduled,
    /// What many tasks cost that are due, and wait for a slot.
    W4Due,
    /// Waits, work that burns a core, failures and log lines.
    W5,
    /// A handler with tasks behind it.
    W6,
    /// What a killed process leaves.
    Orphans,
    /// What tasks cost a Redis server.
    Server,
}

impl Workload {
    pub(crate) const ALL: [Self; 19] = [
        Self::L1,
        Self::L2,
        Self::L3,
        Self::W1,
        Self::W2,
        Self::W2Requeue,
        Self::W2Full,
        Self::W2Shared,
        Self::W2History,
        Self::W3,
        Self::W3Apart,
        Self::W4,
        Self::W4Finished,
        Self::W4Scheduled,
        Self::W4Due,
        Self::W5,
        Self::W6,
        Self::Orphans,
        Self::Server,
    ];

    pub(crate) fn named(name: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.to_string() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(|workload| workload.to_string()).join(", ");
                format!("{name:?} is no workload; they are {names}")
            })
    }

    /// True if it makes sense on this store.
    pub(crate) fn fits(self, store: Store) -> bool {
        match self {
            Self::L1 | Self::W2Full => store == Store::Sqlite,
            Self::W2History => matches!(store, Store::Sqlite | Store::Redis),
            Self::W2Shared
            | Self::W3Apart
            | Self::W4Finished
            | Self::W4Scheduled
            | Self::W4Due
            | Self::Orphans => store != Store::Memory,
            Self::L2 => matches!(store, Store::Redis | Store::RedisAof),
            Self::L3 => store == Store::Memory,
            Self::Server => store == Store::Redis,
            _ => true,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::W1 => "w1",
            Self::W2 => "w2",
            Self::W2Requeue => "w2-requeue",
            Self::W2Full => "w2-full",
            Self::W2Shared => "w2-shared",
            Self::W2History => "w2-history",
            Self::W3 => "w3",
            Self::W3Apart => "w3-apart",
            Self::W4 => "w4",
            Self::W4Finished => "w4-finished",
            Self::W4Scheduled => "w4-scheduled",
            Self::W4Due => "w4-due",
            Self::W5 => "w5",
            Self::W6 => "w6",
            Self::Orphans => "orphans",
            Self::Server => "server",
        })
    }
}

impl Store {
    pub(crate) fn named(name: &str) -> std::result::Result<Self, String> {
        match name {
            "memory" => Ok(Self::Memory),
            "sqlite" => Ok(Self::Sqlite),
            "redis" => Ok(Self::Redis),
            "redis-aof" => Ok(Self::RedisAof),
            _ => Err(format!("{name:?} is no store")),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::RedisAof => "redis-aof",
        })
    }
}

/// Measures one workload once.
pub(crate) fn run(
    workload: Workload,
    store: Store,
    tasks: usize,
    history: usize,
    round: usize,
) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tasks.db");
    if workload == Workload::W2Shared {
        return shared::run(store, &path, tasks);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let server = server(store).map(Arc::new);
    if let Some(server) = &server {
        SERVER.get_or_init(|| server.url());
    }
    let process = Durability::Process;
    let work: Work = match workload {
        Workload::W2Shared => unreachable!("answered above"),
        Workload::L1 => Box::pin(limits::sqlite(folder.path().to_owned(), tasks)),
        Workload::L2 => match server.clone() {
            Some(server) => Box::pin(async move { limits::redis(&server, tasks) }),
            None => return Err("no server was started".into()),
        },
        Workload::L3 => Box::pin(limits::tokio(tasks)),
        Workload::W1 => Box::pin(w1(store, path, tasks)),
        Workload::W2 => {
            Box::pin(async move { w2(open(store, &path, process).await?, tasks, false).await })
        }
        Workload::W2Requeue => {
            Box::pin(async move { w2(open(store, &path, process).await?, tasks, true).await })
        }
        Workload::W2Full => Box::pin(async move {
            w2(
                open(store, &path, Durability::PowerLoss).await?,
                tasks,
                false,
            )
            .await
        }),
        Workload::W2History => Box::pin(history::w2(store, path, tasks, history, round)),
        Workload::W3 => Box::pin(async move { w3(open(store, &path, process).await?).await }),
        Workload::W3Apart => Box::pin(shared::w3(place(store, &path)?)),
        Workload::W4 => Box::pin(w4(store, path)),
        Workload::W4Finished => Box::pin(async move {
            let full = history::place(store, &path)?;
            history::w4(open(store, &path, process).await?, full, history).await
        }),
        Workload::W4Scheduled => Box::pin(w4_scheduled(store, path, history.min(WAITING_MAX))),
        Workload::W4Due => Box::pin(w4_due(store, path, history.min(WAITING_MAX))),
        Workload::W5 => Box::pin(async move {
            let backend = open(store, &path, process).await?;
            service::w5(backend, server, tasks / 10).await
        }),
        Workload::W6 => {
            Box::pin(async move { service::w6(open(store, &path, process).await?).await })
        }
        Workload::Orphans => Box::pin(async move {
            let place = place(store, &path)?;
            service::orphans(open_at(&place).await?, place, tasks).await
        }),
        Workload::Server => match server.clone() {
            Some(server) => Box::pin(on_server(server, store, path, tasks)),
            None => return Err("no server was started".into()),
        },
    };
    // As handlers do, it runs on a thread of the runtime: `block_on` has one of its own, to which each answer would have to
    // be carried.
    runtime.block_on(runtime.spawn(work))?
}

/// Boxed: all workloads in one future are more than the compiler lays out.
type Work = Pin<Box<dyn Future<Output = Result<Vec<Figure>>> + Send>>;

async fn noop(_: String) {}

/// Its name.
pub(crate) const NOOP: &str = "noop";

pub(crate) fn argument() -> String {
    "a".repeat(38) // 40 bytes as JSON
}

/// Where the server of this round is.
static SERVER: OnceLock<String> = OnceLock::new();

/// The server that the store needs, if it needs one.
pub(crate) fn server(store: Store) -> Option<RedisServer> {
    match store {
        Store::Memory | Store::Sqlite => None,
        Store::Redis => Some(RedisServer::start()),
        Store::RedisAof => Some(RedisServer::builder().append_only("everysec").start()),
    }
}

pub(crate) async fn open(
    store: Store,
    path: &Path,
    durability: Durability,
) -> Result<Arc<dyn Backend>> {
    Ok(match store {
        // Ended tasks are counted here, so none may be forgotten.
        Store::Memory => Arc::new(Memory::with_history(usize::MAX)),
        Store::Sqlite => Arc::new(SqliteOptions::new(path).durability(durability).open()?),
        Store::Redis | Store::RedisAof => {
            let url = SERVER.get().ok_or("no server was started")?;
            // Each store of a round has keys of its own.
            let prefix = path.file_name().unwrap_or_default().to_string_lossy();
            // Counted are those that have ended: none may be deleted meanwhile.
            let options = RedisOptions::new(url).prefix(prefix).history_max(u64::MAX);
            Arc::new(options.open().await?)
        }
    })
}

/// What another process is told, so that it opens the same store.
pub(crate) fn place(store: Store, path: &Path) -> Result<String> {
    Ok(match store {
        Store::Memory => return Err("memory is in one process only".into()),
        Store::Sqlite => path.display().to_string(),
        Store::Redis | Store::RedisAof => SERVER.get().ok_or("no server was started")?.clone(),
    })
}

/// The store at a path or an address.
pub(crate) async fn open_at(place: &str) -> Result<Arc<dyn Backend>> {
    Ok(match place.starts_with("redis://") {
        true => Arc::new(RedisOptions::new(place).open().await?),
        false => Arc::new(SqliteOptions::new(place).open()?),
    })
}

/// Waits until the store has done what it does after its answers: SQLite carries its log over into the file, Redis
/// rewrites its log.
pub(crate) async fn quiet(store: Store, path: &Path) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(1);
    let mut since = Instant::now();
    let mut before = None;
    while since.elapsed() < QUIET {
        let now = match store {
            Store::Memory => return Ok(()),
            // Who carries over writes into the file, and into nothing else.
            Store::Sqlite => format!("{:?}", std::fs::metadata(path)?.modified()?),
            Store::Redis | Store::RedisAof => {
                let url = SERVER.get().ok_or("no server was started")?;
                limits::info(url, "aof_rewrite_in_progress")?
            }
        };
        if before.as_ref() != Some(&now) || now == "1" {
            (before, since) = (Some(now), Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

pub(crate) fn config(backend: Arc<dyn Backend>) -> Config {
    let mut config = Config::default();
    config.backend = backend;
    config.collect = false;
    config.concurrency = SLOTS;
    config.tasks = vec![TaskDef::new(noop)];
    config
}

// ---- W1 --------------------------------------------------------------------------------------------------------

async fn w1(store: Store, path: PathBuf, tasks: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let fresh = async |name: &str| -> Result<TaskManager> {
        let path = path.with_extension(name);
        let backend = open(store, &path, Durability::Process).await?;
        Ok(TaskManager::start(config(backend)).await?)
    };
    // Not due before the end: adding only, nothing runs.
    let later = Duration::from_secs(24 * 3_600);

    let manager = fresh("one").await?;
    let (n, begun) = (tasks / 5, Instant::now());
    for _ in 0..n {
        manager.add_task(noop, argument()).delay_by(later).await?;
    }
    figures.push(rate("one producer", n, begun));
    manager.shutdown().await?;

    let manager = fresh("many").await?;
    let begun = Instant::now();
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..PRODUCERS {
        let manager = manager.clone();
        producers.spawn(async move {
            for _ in 0..tasks / PRODUCERS {
                manager.add_task(noop, argument()).delay_by(later).await?;
            }
            Ok::<(), axum_taskflow_core::Error>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    figures.push(rate("64 producers", added(tasks), begun));
    manager.shutdown().await?;

    let manager = fresh("bulk").await?;
    let begun = Instant::now();
    for _ in 0..tasks / 1_000 {
        let bulk = (0..1_000).map(|_| argument());
        manager.add_tasks(noop, bulk).delay_by(later).await?;
    }
    figures.push(rate("bulk of 1,000", tasks / 1_000 * 1_000, begun));
    manager.shutdown().await?;
    Ok(figures)
}

// ---- W2 --------------------------------------------------------------------------------------------------------

async fn w2(backend: Arc<dyn Backend>, tasks: usize, requeue: bool) -> Result<Vec<Figure>> {
    let manager = TaskManager::start(config(backend)).await?;
    let elapsed = end_to_end(&manager, tasks, requeue).await?;
    manager.shutdown().await?;
    let rate = added(tasks) as f64 / elapsed.as_secs_f64();
    Ok(vec![Figure::new("end to end", "tasks/s", rate)])
}

/// How many are added if each producer is to add the same number.
pub(crate) fn added(tasks: usize) -> usize {
    tasks / PRODUCERS * PRODUCERS
}

/// One, until it has ended.
pub(crate) async fn one(manager: &TaskManager) -> Result<()> {
    let id = manager.add_task(noop, argument()).await?;
    manager.wait::<()>(id).await?;
    Ok(())
}

/// From the first add to the last end that is stored.
pub(crate) async fn end_to_end(
    manager: &TaskManager,
    tasks: usize,
    requeue: bool,
) -> Result<Duration> {
    let already = succeeded(manager).await?;
    let begun = Instant::now();
    produce(manager, tasks, requeue).await?;
    let wanted = already + added(tasks) as u64;
    while succeeded(manager).await? < wanted {
        tokio::time::sleep(LOOK).await;
    }
    Ok(begun.elapsed())
}

/// Adds tasks one by one, by all producers at once.
pub(crate) async fn produce(manager: &TaskManager, tasks: usize, requeue: bool) -> Result<()> {
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..PRODUCERS {
        let manager = manager.clone();
        producers.spawn(async move {
            for _ in 0..tasks / PRODUCERS {
                let task = manager.add_task(noop, argument());
                match requeue {
                    true => task.requeue_on_interrupt(true).await?,
                    false => task.await?, // nothing said, nothing stored
                };
            }
            Ok::<(), axum_taskflow_core::Error>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    Ok(())
}

/// Tasks that have not ended.
pub(crate) async fn live(manager: &TaskManager) -> Result<u64> {
    let counts = manager.counts().await?;
    let live = counts
        .into_iter()
        .filter(|count| !count.status.is_terminal());
    Ok(live.map(|count| count.n).sum())
}

pub(crate) async fn succeeded(manager: &TaskManager) -> Result<u64> {
    let counts = manager.counts().await?;
    let of_status = counts
        .into_iter()
        .filter(|count| count.status == TaskStatus::Success);
    Ok(of_status.map(|count| count.n).sum())
}

/// Tasks that wait, and belong to an instance that is made up here and lives as long as this process.
pub(crate) async fn write_owned(backend: &dyn Backend, n: usize) -> Result<()> {
    const STEP: usize = 500;
    let ids = IdSource::default();
    let now = Timestamp::from(std::time::SystemTime::now());
    let owner = ids.instance(now);
    backend
        .join(axum_taskflow_core::Instance::new(owner, now))
        .await?;
    let args: Arc<str> = format!("[{:?}]", argument()).into();
    for step in 0..n.div_ceil(STEP) {
        let mut batch = axum_taskflow_core::Batch::at(now);
        for _ in 0..STEP.min(n - step * STEP) {
            let mut task = Task::new(ids.task(now), "noop", args.clone());
            task.life.owner = Some(owner);
            batch.tasks.push(Arc::new(task));
        }
        backend.write(Arc::new(batch)).await?;
    }
    Ok(())
}

// ---- W3 --------------------------------------------------------------------------------------------------------

/// Where a function says when its first line ran.
#[derive(Clone)]
pub(crate) struct FirstLine(pub(crate) mpsc::UnboundedSender<Duration>);

pub(crate) async fn tells_when(Data(first_line): Data<FirstLine>, _: String) {
    // The receiver lives as long as the measurement.
    let _ = first_line.0.send(monotonic());
}

/// Of the clock that all processes of this machine share, which nobody sets.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::Monotonic)
        .try_into()
        .unwrap_or_default() // it is never negative
}

async fn w3(backend: Arc<dyn Backend>) -> Result<Vec<Figure>> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut config = config(backend);
    config.state(FirstLine(sender));
    config.tasks = vec![TaskDef::new(tells_when)];
    let manager = TaskManager::start(config).await?;
    let figures = pickup_figures(&manager, &mut receiver).await?;
    manager.shutdown().await?;
    Ok(figures)
}

pub(crate) async fn pickup_figures(
    adds: &TaskManager,
    receiver: &mut mpsc::UnboundedReceiver<Duration>,
) -> Result<Vec<Figure>> {
    let rested = pickups_ms(adds, receiver).await?;
    // Without a pause the processor is awake, and what it needs is in its caches.
    let at_once = waits_ms(adds, receiver, None).await?;
    Ok(vec![
        Figure::new("pickup p50", "ms", rested[249]),
        Figure::new("pickup p99", "ms", rested[494]),
        Figure::new("pickup max", "ms", rested[499]),
        Figure::new("pickup p50, one after the other", "ms", at_once[249]),
    ])
}

/// From just before an add to the function's first line, 500 times with 10 ms between, shortest first. All that is
/// compared waits as long between.
pub(crate) async fn pickups_ms(
    adds: &TaskManager,
    receiver: &mut mpsc::UnboundedReceiver<Duration>,
) -> Result<Vec<f64>> {
    waits_ms(adds, receiver, Some(Duration::from_millis(10))).await
}

async fn waits_ms(
    adds: &TaskManager,
    receiver: &mut mpsc::UnboundedReceiver<Duration>,
    pause: Option<Duration>,
) -> Result<Vec<f64>> {
    let mut waits_ms = Vec::new();
    for _ in 0..500 {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let before = monotonic();
        adds.add_task(tells_when, argument()).await?;
        let began = receiver.recv().await.ok_or("the function did not run")?;
        waits_ms.push(ms(began.saturating_sub(before)));
    }
    waits_ms.sort_by(f64::total_cmp);
    Ok(waits_ms)
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

// ---- W4 --------------------------------------------------------------------------------------------------------

async fn w4(store: Store, path: PathBuf) -> Result<Vec<Figure>> {
    const WAITING: usize = 100_000;
    let manager =
        TaskManager::start(config(open(store, &path, Durability::Process).await?)).await?;
    // Warm: one of everything, so that only the tasks are measured.
    one(&manager).await?;
    let before_mb = resident_mb()?;
    let later = Duration::from_secs(24 * 3_600);
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..PRODUCERS {
        let manager = manager.clone();
        producers.spawn(async move {
            for _ in 0..WAITING / PRODUCERS {
                manager.add_task(noop, argument()).delay_by(later).await?;
            }
            Ok::<(), axum_taskflow_core::Error>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    let after_mb = resident_mb()?;
    manager.shutdown().await?;
    Ok(vec![Figure::new(
        "100,000 pending above the empty process",
        "MB",
        after_mb - before_mb,
    )])
}

/// Adds tasks in bulk, which come due after so long.
async fn add_many(manager: &TaskManager, n: usize, delay: Duration) -> Result<()> {
    for step in 0..n.div_ceil(1_000) {
        let bulk = (0..1_000.min(n - step * 1_000)).map(|_| argument());
        manager.add_tasks(noop, bulk).delay_by(delay).await?;
    }
    Ok(())
}

/// `n` tasks wait for tomorrow, spread over two days: pickup with and without them, what they cost, and how late one comes
/// whose time is there.
async fn w4_scheduled(store: Store, path: PathBuf, n: usize) -> Result<Vec<Figure>> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let start = async || -> Result<TaskManager> {
        let mut config = config(open(store, &path, Durability::Process).await?);
        config.state(FirstLine(sender.clone()));
        config.tasks.push(TaskDef::new(tells_when));
        Ok(TaskManager::start(config).await?)
    };
    let manager = start().await?;
    let without = pickups_ms(&manager, &mut receiver).await?;
    let before_mb = resident_mb()?;
    let day = Duration::from_secs(24 * 3_600);
    let parts: u32 = 100;
    for part in 0..parts {
        add_many(&manager, n / parts as usize, day + day / parts * part).await?;
    }
    let after_mb = resident_mb()?;
    let with = pickups_ms(&manager, &mut receiver).await?;
    let listed = Instant::now();
    let page = manager.list_scheduled(Timestamp::MAX).await?;
    let list = listed.elapsed();
    if page.tasks.len() != 100 {
        return Err("what waits is not listed".into());
    }
    let mut late_ms = Vec::new();
    for _ in 0..50 {
        let at = manager.now().saturating_add(Duration::from_millis(50));
        manager
            .schedule_once(tells_when, argument())
            .run_at(at)
            .await?;
        receiver.recv().await.ok_or("the function did not run")?;
        late_ms.push(ms(manager.now().since(at)));
    }
    late_ms.sort_by(f64::total_cmp);
    manager.shutdown().await?;
    let started = Instant::now();
    let manager = start().await?;
    let start = started.elapsed();
    manager.shutdown().await?;
    Ok(vec![
        Figure::new("pickup p50 without", "ms", without[249]),
        Figure::new(format!("pickup p50 with {n} scheduled"), "ms", with[249]),
        Figure::new("pickup p99 without", "ms", without[494]),
        Figure::new(format!("pickup p99 with {n} scheduled"), "ms", with[494]),
        Figure::new(
            format!("{n} scheduled above the empty process"),
            "MB",
            after_mb - before_mb,
        ),
        Figure::new("first 100 of list_scheduled", "ms", ms(list)),
        Figure::new("how late one comes, p50", "ms", late_ms[24]),
        Figure::new("how late one comes, max", "ms", late_ms[49]),
        Figure::new("start with them", "ms", ms(start)),
    ])
}

/// `n` tasks are due: what a claim takes, and the start of an instance that runs them.
async fn w4_due(store: Store, path: PathBuf, n: usize) -> Result<Vec<Figure>> {
    const CLAIMS_MAX: usize = 500;
    let n_claims = CLAIMS_MAX.min(n / SLOTS);
    let backend = open(store, &path, Durability::Process).await?;
    let mut web = config(backend.clone());
    web.role = Role::Web;
    let web = TaskManager::start(web).await?;
    let id = web
        .add_task(noop, argument())
        .delay_by(Duration::from_secs(3_600));
    id.await?; // warm
    let before_mb = resident_mb()?;
    add_many(&web, n, Duration::ZERO).await?;
    let after_mb = resident_mb()?;
    let mut claims_ms = Vec::new();
    // What the adds have left to do is not what a claim takes.
    quiet(store, &path).await?;
    for _ in 0..n_claims {
        let claim = Claim {
            owner: web.instance().id,
            names: Arc::new(["noop".into()]),
            except: Arc::default(),
            limit: SLOTS,
            now: web.now(),
            reserve: None,
        };
        let begun = Instant::now();
        let claimed = backend.claim(claim).await?;
        claims_ms.push(ms(begun.elapsed()));
        if claimed.tasks.len() != SLOTS {
            return Err("a claim gave too few".into());
        }
    }
    claims_ms.sort_by(f64::total_cmp);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut config = config(open(store, &path, Durability::Process).await?);
    config.state(FirstLine(sender));
    config.tasks.push(TaskDef::new(tells_when));
    let begun = Instant::now();
    let runs = TaskManager::start(config).await?;
    let start = begun.elapsed();
    let begun = Instant::now();
    runs.add_task(tells_when, argument()).priority(1).await?;
    receiver.recv().await.ok_or("the function did not run")?;
    let overtakes = begun.elapsed();
    let running_mb = resident_mb()?;
    web.shutdown().await?;
    runs.shutdown().await?;
    Ok(vec![
        Figure::new("claim of 64, p50", "ms", claims_ms[n_claims / 2]),
        Figure::new("claim of 64, p99", "ms", claims_ms[n_claims * 99 / 100]),
        Figure::new(
            format!("{n} due above the empty process"),
            "MB",
            after_mb - before_mb,
        ),
        Figure::new(
            "memory above empty while they run",
            "MB",
            running_mb - before_mb,
        ),
        Figure::new("start with them", "ms", ms(start)),
        Figure::new("pickup of a more important one", "ms", ms(overtakes)),
    ])
}

// ---- the server ------------------------------------------------------------------------------------------------

/// Memory of a server for a task that waits and for one that has finished; calls and bytes for one from its add to its
/// end.
async fn on_server(
    server: Arc<RedisServer>,
    store: Store,
    path: PathBuf,
    tasks: usize,
) -> Result<Vec<Figure>> {
    let backend = open(store, &path, Durability::Process).await?;
    let manager = TaskManager::start(config(backend)).await?;
    end_to_end(&manager, tasks / 10, false).await?;
    let before = Stats::of(&server)?;
    end_to_end(&manager, tasks, false).await?;
    let finished = Stats::of(&server)?;
    let later = Duration::from_secs(24 * 3_600);
    for _ in 0..tasks / 1_000 {
        let bulk = (0..1_000).map(|_| argument());
        manager.add_tasks(noop, bulk).delay_by(later).await?;
    }
    let waiting = Stats::of(&server)?;
    manager.shutdown().await?;
    let per_task = |after: f64, before: f64| (after - before) / tasks as f64;
    let bytes = |stats: &Stats| stats.bytes_in + stats.bytes_out;
    Ok(vec![
        Figure::new(
            "memory per finished task",
            "bytes",
            per_task(finished.memory, before.memory),
        ),
        Figure::new(
            "memory per waiting task",
            "bytes",
            per_task(waiting.memory, finished.memory),
        ),
        Figure::new(
            "calls of scripts per task",
            "calls",
            per_task(finished.scripts, before.scripts),
        ),
        Figure::new(
            "commands inside scripts per task",
            "commands",
            per_task(finished.commands, before.commands),
        ),
        Figure::new(
            "traffic per task",
            "bytes",
            per_task(bytes(&finished), bytes(&before)),
        ),
        Figure::new(
            "time in scripts per task",
            "us",
            per_task(finished.scripts_us, before.scripts_us),
        ),
        Figure::new(
            "of it in commands",
            "us",
            per_task(finished.commands_us, before.commands_us),
        ),
        Figure::new(
            "time in scripts per task in bulk",
            "us",
            per_task(waiting.scripts_us, finished.scripts_us),
        ),
        Figure::new(
            "of it in commands, in bulk",
            "us",
            per_task(waiting.commands_us, finished.commands_us),
        ),
    ])
}

/// Bytes that the server's data take.
pub(crate) fn used_memory(server: &RedisServer) -> Result<f64> {
    Ok(Stats::of(server)?.memory)
}

/// What a server says of itself.
struct Stats {
    memory: f64,
    scripts: f64,
    commands: f64,
    /// With that of the commands inside.
    scripts_us: f64,
    commands_us: f64,
    bytes_in: f64,
    bytes_out: f64,
}

impl Stats {
    fn of(server: &RedisServer) -> Result<Self> {
        let info = server.command(&["INFO", "everything"]);
        let number = |name: &str| -> Result<f64> {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|rest| rest.strip_prefix(':'));
            Ok(word.ok_or(format!("INFO has no {name}"))?.trim().parse()?)
        };
        // cmdstat_evalsha:calls=7,usec=91,…
        let (mut scripts, mut commands) = ([0.0; 2], [0.0; 2]);
        for line in info
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_"))
        {
            let sums = match line.starts_with("eval") {
                true => &mut scripts,
                false => &mut commands,
            };
            for (sum, name) in sums.iter_mut().zip(["calls=", "usec="]) {
                let number = line
                    .split_once(name)
                    .and_then(|(_, rest)| rest.split(',').next());
                *sum += number.ok_or("INFO counts no calls")?.parse::<f64>()?;
            }
        }
        Ok(Self {
            memory: number("used_memory")?,
            scripts: scripts[0],
            commands: commands[0],
            scripts_us: scripts[1],
            commands_us: commands[1],
            bytes_in: number("total_net_input_bytes")?,
            bytes_out: number("total_net_output_bytes")?,
        })
    }
}

fn rate(name: &str, tasks: usize, begun: Instant) -> Figure {
    Figure::new(
        name,
        "tasks/s",
        tasks as f64 / begun.elapsed().as_secs_f64(),
    )
}

/// Resident memory of this process, from the kernel (proc(5), `VmRSS`).
pub(crate) fn resident_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<f64>().ok())
        .ok_or("the kernel does not tell VmRSS")?;
    Ok(kib / 1_024.0)
}
