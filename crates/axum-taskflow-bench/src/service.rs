//! W5 and W6: tasks as services have them, and the service in front of them.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use axum_taskflow_core::{Backend, Failure, TaskContext, TaskDef, TaskId, TaskManager};
use axum_taskflow_dashboard::TaskAdmin;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use servers::RedisServer;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::{
    limits,
    report::Figure,
    shared::Elsewhere,
    workloads::{self, LOOK, PRODUCERS, Result, ms},
};

/// Of a hundred tasks, as many wait a millisecond, and as many five; the others block a thread for ten.
const WAIT_SHORT: usize = 60;
const WAIT_LONG: usize = 30;
/// One of so many fails the first time.
const FAILS_EVERY: usize = 20;
const BLOCKS_MS: u64 = 10;

async fn waits(ctx: TaskContext, wait_ms: u64, fails: bool) -> std::result::Result<(), Failure> {
    ctx.log("begins");
    sleep(Duration::from_millis(wait_ms)).await;
    ctx.log("has waited");
    if fails && ctx.attempt() == 1 {
        return Err(Failure::retry("fails once"));
    }
    ctx.log("ends");
    Ok(())
}

/// Keeps a core busy.
fn burns(ctx: TaskContext, cpu_ms: u64) {
    ctx.log("begins");
    let begun = cpu_time(ClockId::ThreadCPUTime);
    while cpu_time(ClockId::ThreadCPUTime) - begun < Duration::from_millis(cpu_ms) {
        std::hint::spin_loop();
    }
    ctx.log("has burnt");
    ctx.log("ends");
}

/// Keeps a thread, but no core.
fn blocks(ctx: TaskContext, wait_ms: u64) {
    ctx.log("begins");
    std::thread::sleep(Duration::from_millis(wait_ms));
    ctx.log("has waited");
    ctx.log("ends");
}

fn cpu_time(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default() // it is never negative
}

async fn manager(backend: Arc<dyn Backend>) -> Result<TaskManager> {
    let mut config = workloads::config(backend);
    config.tasks = vec![
        TaskDef::new(waits),
        TaskDef::new(burns),
        TaskDef::new(blocks),
    ];
    Ok(TaskManager::start(config).await?)
}

/// The `n`th task of the mixture.
async fn add(manager: &TaskManager, n: usize, burning: bool) -> Result<()> {
    let fails = n.is_multiple_of(FAILS_EVERY);
    // Spread, so that each moment has the same mixture.
    let part = n * 37 % 100;
    if part < WAIT_SHORT + WAIT_LONG {
        let wait_ms = if part < WAIT_SHORT { 1 } else { 5 };
        let add = manager.add_task(waits, (wait_ms, fails));
        add.retries(1).delay(Duration::from_millis(10)).await?;
    } else if burning {
        manager.add_task(burns, BLOCKS_MS).await?;
    } else {
        manager.add_task(blocks, BLOCKS_MS).await?;
    }
    Ok(())
}

/// W5: tasks a second, and what one costs beyond what its function burns, in this process and in the server.
pub(crate) async fn w5(
    backend: Arc<dyn Backend>,
    server: Option<Arc<RedisServer>>,
    tasks: usize,
) -> Result<Vec<Figure>> {
    let manager = manager(backend).await?;
    let server_cpu_ms = || match &server {
        Some(server) => limits::cpu_ms(&server.url()),
        None => Ok(0.0),
    };
    let server_before_ms = server_cpu_ms()?;
    let (begun, cpu) = (Instant::now(), cpu_time(ClockId::ProcessCPUTime));
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let manager = manager.clone();
        producers.spawn(async move {
            for n in (producer..tasks).step_by(PRODUCERS) {
                add(&manager, n, true).await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    while workloads::live(&manager).await? > 0 {
        sleep(LOOK).await;
    }
    let (elapsed, cpu) = (begun.elapsed(), cpu_time(ClockId::ProcessCPUTime) - cpu);
    let server_ms = server_cpu_ms()? - server_before_ms;
    manager.shutdown().await?;
    let n_burning = (0..tasks).filter(|n| n * 37 % 100 >= WAIT_SHORT + WAIT_LONG);
    let burnt_ms = n_burning.count() as f64 * BLOCKS_MS as f64;
    let per_task_us = |all_ms: f64| all_ms * 1_000.0 / tasks as f64;
    let beyond_us = per_task_us(ms(cpu) - burnt_ms + server_ms);
    let mut figures = vec![
        Figure::new("mixture", "tasks/s", tasks as f64 / elapsed.as_secs_f64()),
        Figure::new("CPU per task beyond its function", "us", beyond_us),
    ];
    if server.is_some() {
        let server_us = per_task_us(server_ms);
        figures.push(Figure::new("of it in the server", "us", server_us));
    }
    Ok(figures)
}

// ---- W6 --------------------------------------------------------------------------------------------------------

/// Tasks a second behind the handler.
const RATE: usize = 2_000;
/// With less of it the handler was measured beside something else.
const RATE_MIN: f64 = 0.95;
const VIEWERS: usize = 20;
/// Requests a second, each sent at its time whether or not the others are answered: who waits for one answer before he
/// asks again does not see what the others had to wait.
const ASKS: u32 = 500;
const ASK_FOR: Duration = Duration::from_secs(6);

/// Answers of an unrelated handler of the service: alone; with tasks behind it; with viewers of its page as well; and
/// beside functions that block threads for long.
pub(crate) async fn w6(backend: Arc<dyn Backend>) -> Result<Vec<Figure>> {
    let manager = manager(backend).await?;
    let admin = TaskAdmin::new(&manager).insecure_no_auth();
    let app = Router::new()
        .route("/hello", get(async || "hello"))
        .nest("/tasks", admin.routes());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let asked = async |viewers: usize| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || ask_elsewhere(&url, viewers)).await?
    };

    asked(0).await?; // for nothing: the first connections are slower
    let alone = asked(0).await?;
    let loaded = Arc::new(Loaded::default());
    let load = tokio::spawn(load(manager.clone(), loaded.clone()));
    sleep(Duration::from_secs(1)).await;
    let ended_before = ended(&manager).await?;
    let (begun, added_before) = (Instant::now(), loaded.added.load(Ordering::Relaxed));
    let behind = asked(0).await?;
    let viewed = asked(VIEWERS).await?;
    let n_ended = ended(&manager).await? - ended_before;
    let n_added = loaded.added.load(Ordering::Relaxed) - added_before;
    let load_s = begun.elapsed().as_secs_f64();
    load.abort();
    let n_failed = loaded.failed.load(Ordering::Relaxed);
    let (add_rate, end_rate) = (n_added as f64 / load_s, n_ended as f64 / load_s);
    eprintln!(
        "behind it {add_rate:.0} tasks/s were added and {end_rate:.0} ended; {n_failed} adds failed"
    );
    if n_failed > 0 || add_rate.min(end_rate) < RATE_MIN * RATE as f64 {
        return Err(format!("there were no {RATE} tasks/s behind the handler").into());
    }
    while workloads::live(&manager).await? > 0 {
        sleep(LOOK).await;
    }
    for _ in 0..100 {
        manager.add_task(blocks, 1_000).await?;
    }
    let blocked = asked(0).await?;
    let n_blocking = workloads::live(&manager).await?;
    server.abort();
    // What blocks is not waited for: the process ends.
    if n_blocking == 0 {
        return Err("nothing blocked while it was asked".into());
    }
    let mut figures = vec![
        Figure::new("added behind it", "tasks/s", add_rate),
        Figure::new("ended behind it", "tasks/s", end_rate),
        Figure::new("adds that failed", "tasks", n_failed as f64),
    ];
    for (name, answers) in [
        ("alone", &alone),
        ("2,000 tasks/s behind it", &behind),
        ("and 20 viewers", &viewed),
        ("all blocking threads taken", &blocked),
    ] {
        figures.push(Figure::new(format!("p50, {name}"), "ms", answers.p50_ms));
        figures.push(Figure::new(format!("p99, {name}"), "ms", answers.p99_ms));
        if name != "alone" {
            let more_ms = answers.p99_ms - alone.p99_ms;
            figures.push(Figure::new(
                format!("p99 above alone, {name}"),
                "ms",
                more_ms,
            ));
        }
    }
    Ok(figures)
}

/// What became of the adds of a load.
#[derive(Debug, Default)]
struct Loaded {
    added: AtomicU64,
    failed: AtomicU64,
}

/// Tasks that have ended, one way or another.
async fn ended(manager: &TaskManager) -> Result<u64> {
    let counts = manager.counts().await?;
    let ended = counts.iter().filter(|count| count.status.is_terminal());
    Ok(ended.map(|count| count.n).sum())
}

/// [`RATE`] tasks a second, in small steps; each is added at its time, whether or not those before it are.
async fn load(manager: TaskManager, loaded: Arc<Loaded>) -> Result<()> {
    const STEP: Duration = Duration::from_millis(5);
    let step_tasks = RATE * STEP.as_millis() as usize / 1_000;
    let mut ticks = tokio::time::interval(STEP);
    for step in 0.. {
        ticks.tick().await;
        for n in step * step_tasks..(step + 1) * step_tasks {
            let (manager, loaded) = (manager.clone(), loaded.clone());
            tokio::spawn(async move {
                let sum = match add(&manager, n, false).await {
                    Ok(()) => &loaded.added,
                    Err(error) => {
                        eprintln!("an add failed: {error}");
                        &loaded.failed
                    }
                };
                sum.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    Ok(())
}

/// How long answers took.
#[derive(Debug, Serialize, Deserialize)]
struct Answers {
    p50_ms: f64,
    p99_ms: f64,
}

/// Asks from a process of its own, which does not share our runtime.
fn ask_elsewhere(url: &str, viewers: usize) -> Result<Answers> {
    let mut asker = Elsewhere::start(&["ask", url, &viewers.to_string()])?;
    let line = asker.lines()?.next();
    Ok(serde_json::from_str(&line.ok_or("no answer")??)?)
}

/// `ask URL VIEWERS`: the process that asks.
pub(crate) fn ask(url: &str, viewers: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answers = runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut watching = JoinSet::new();
        for _ in 0..viewers {
            let page = client.get(format!("{url}/tasks/dashboard")).send().await?;
            let page = page.error_for_status()?.text().await?;
            let stream = page
                .split("data-stream=\"")
                .nth(1)
                .and_then(|it| it.split('"').next());
            let stream = stream
                .ok_or("the page has no stream")?
                .replace("&#38;", "&");
            let mut stream = client
                .get(format!("{url}{stream}"))
                .send()
                .await?
                .error_for_status()?;
            watching.spawn(async move { while let Ok(Some(_)) = stream.chunk().await {} });
        }
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / ASKS);
        let mut asking = JoinSet::new();
        let begun = Instant::now();
        while begun.elapsed() < ASK_FOR {
            ticks.tick().await;
            // Here, and not when its task has its turn; a timer's own lateness is not the service's.
            let sent = Instant::now();
            let request = client.get(format!("{url}/hello"));
            asking.spawn(async move {
                request.send().await?.error_for_status()?.bytes().await?;
                Ok::<_, reqwest::Error>(sent.elapsed())
            });
        }
        let mut all_ms = Vec::new();
        while let Some(answered) = asking.join_next().await {
            all_ms.push(ms(answered??));
        }
        all_ms.sort_by(f64::total_cmp);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Answers {
            p50_ms: all_ms[all_ms.len() / 2],
            p99_ms: all_ms[all_ms.len() * 99 / 100],
        })
    })?;
    println!("{}", serde_json::to_string(&answers)?);
    Ok(())
}

// ---- Questions -------------------------------------------------------------------------------------------------

/// How long the REST interface and the page take to answer, one question after the other.
pub(crate) async fn questions(manager: &TaskManager, one: TaskId) -> Result<Vec<Figure>> {
    const ASKED: usize = 300;
    let admin = TaskAdmin::new(manager).insecure_no_auth();
    let app = Router::new().nest("/tasks", admin.routes());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/tasks", listener.local_addr()?);
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut figures = Vec::new();
    for (name, path) in [
        ("list", String::new()),
        ("one task", format!("/{one}")),
        ("counts", "/metrics".to_owned()),
        ("page", "/dashboard".to_owned()),
    ] {
        let mut all_ms = Vec::new();
        for _ in 0..ASKED {
            let sent = Instant::now();
            let answer = client.get(format!("{url}{path}")).send().await?;
            answer.error_for_status()?.bytes().await?;
            all_ms.push(ms(sent.elapsed()));
        }
        all_ms.sort_by(f64::total_cmp);
        let p95_ms = all_ms[ASKED * 95 / 100];
        figures.push(Figure::new(format!("{name} over HTTP, p95"), "ms", p95_ms));
    }
    server.abort();
    Ok(figures)
}

// ---- Orphans ---------------------------------------------------------------------------------------------------

/// `n` tasks belong to a process that is killed: until the first of them runs elsewhere, and until all have.
pub(crate) async fn orphans(
    backend: Arc<dyn Backend>,
    place: String,
    n: usize,
) -> Result<Vec<Figure>> {
    let manager = TaskManager::start(workloads::config(backend)).await?;
    let mut owner = Elsewhere::start(&["own", &place, &n.to_string()])?;
    let mut said = owner.lines()?;
    let ready = tokio::task::spawn_blocking(move || said.next());
    ready.await?.ok_or("the owner said nothing")??;
    let killed = Instant::now();
    owner.0.kill()?;
    let until = async |wanted: u64| -> Result<Duration> {
        while workloads::succeeded(&manager).await? < wanted {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(killed.elapsed())
    };
    let first = until(1).await?;
    let all = until(n as u64).await?;
    manager.shutdown().await?;
    Ok(vec![
        Figure::new(format!("first of {n} has run"), "s", first.as_secs_f64()),
        Figure::new(format!("all {n} have run"), "s", all.as_secs_f64()),
        // A lease ends when it ends: this is what it takes from then on.
        Figure::new("all, after the first", "s", (all - first).as_secs_f64()),
    ])
}

/// `own PLACE TASKS`: the process that is killed. Its tasks wait and belong to it.
pub(crate) fn own(place: &str, n: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let backend = workloads::open_at(place).await?;
        workloads::write_owned(&*backend, n).await?;
        println!("ready");
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    })
}
