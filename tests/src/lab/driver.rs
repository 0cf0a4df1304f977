//! Orders tasks over HTTP, and hurts the processes meanwhile.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum_taskflow::{Backend, ListQuery, Sqlite, Task, TaskId};
use fastrand::Rng;
use reqwest::Client;
use rustix::process::Signal;
use tokio::time::Instant;

use super::{
    LabError, Plan,
    effects::{self, Effect, now_us},
    errand::Errand,
    process::{Process, ask},
};

/// Callers that order at the same time.
const CALLERS: usize = 24;
/// Callers that order one keyed task at the same time.
const CALLERS_OF_A_KEY: usize = 3;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const STOPPED_MAX_MS: u64 = 1_500;

/// What happened, for the checker.
#[derive(Debug, Default)]
pub struct History {
    /// What was ordered, by number.
    pub errands: HashMap<u64, Errand>,
    /// The answers to orders: the errand and the task.
    pub accepted: Vec<(u64, TaskId)>,
    /// Orders without an answer: a task may be there or not.
    pub unknown: u64,
    /// When processes were killed or told to end, by number.
    pub ended_at_us: HashMap<u32, u64>,
    /// Kills, ends and stops.
    pub n_kills: u64,
    /// Processes that were told to end.
    pub n_terms: u64,
    /// Processes that were stopped for a while.
    pub n_stops: u64,
    /// Processes that a task aborted.
    pub n_aborts: u64,
    /// What tasks did.
    pub effects: Vec<Effect>,
    /// What is stored.
    pub stored: Vec<Task>,
}

/// The processes that run, as the callers see them.
struct Cluster {
    /// Where each listens; nothing while it is being replaced. A std mutex: held for one look.
    urls: Mutex<Vec<Option<String>>>,
}

impl Cluster {
    fn any(&self, rng: &mut Rng) -> Option<String> {
        let urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        let there: Vec<&String> = urls.iter().flatten().collect();
        Some(there.get(rng.usize(..there.len().max(1)))?.to_string())
    }

    fn set(&self, n: usize, url: Option<String>) {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)[n] = url;
    }
}

/// Plays the plan.
///
/// # Errors
/// If a process cannot be started, or what is left cannot be read.
pub async fn drive(plan: &Plan) -> Result<History, LabError> {
    // Cargo unites the features of all crates: by the demo's, reqwest looks for a TLS library here, too. An error means
    // that another laboratory has done so already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()?;
    let mut processes = Vec::new();
    for _ in 0..plan.processes {
        processes.push(Process::start(&plan.service, &plan.folder).await?);
    }
    let urls = processes.iter().map(|p| Some(p.url.clone())).collect();
    let cluster = Arc::new(Cluster {
        urls: Mutex::new(urls),
    });
    let n_accepted = Arc::new(AtomicU64::new(0));
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (cluster, http) = (cluster.clone(), http.clone());
        let (next, n_accepted, tasks) = (next.clone(), n_accepted.clone(), plan.tasks);
        let rng = Rng::with_seed(plan.seed ^ (caller as u64 + 1));
        let seed = plan.seed;
        callers.spawn(async move {
            let mut orders = Orders {
                cluster,
                http,
                rng,
                history: History::default(),
            };
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= tasks {
                    return orders.history;
                }
                let errand = Errand::draw(n, &mut Rng::with_seed(seed.wrapping_add(n << 8)));
                orders.place(errand).await;
                n_accepted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    let mut history = History::default();
    let mut faults = Faults {
        plan,
        rng: Rng::with_seed(plan.seed),
        cluster: &cluster,
        processes: &mut processes,
        history: &mut history,
    };
    for fault in 1..=plan.faults {
        // Spread over the whole of it.
        while n_accepted.load(Ordering::Relaxed) * (plan.faults + 1) < fault * plan.tasks {
            faults.replace_aborted().await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        faults.strike().await?;
    }
    let mut done = Vec::new();
    while !callers.is_empty() {
        faults.replace_aborted().await?;
        let joined = tokio::time::timeout(Duration::from_millis(50), callers.join_next()).await;
        if let Ok(Some(history)) = joined {
            done.push(history?);
        }
    }
    faults.calm_down(&http).await?;
    for of_caller in done {
        history.errands.extend(of_caller.errands);
        history.accepted.extend(of_caller.accepted);
        history.unknown += of_caller.unknown;
    }
    for process in &mut processes {
        process.signal(Signal::TERM)?;
        process.ended().await?;
    }
    history.effects = effects::read(&plan.folder)?;
    history.stored = stored(&plan.folder).await?;
    Ok(history)
}

/// What one caller orders.
struct Orders {
    cluster: Arc<Cluster>,
    http: Client,
    rng: Rng,
    history: History,
}

impl Orders {
    async fn place(&mut self, errand: Errand) {
        self.history.errands.insert(errand.n, errand.clone());
        if !errand.keyed {
            match self.order(&errand).await {
                Some(id) => self.history.accepted.push((errand.n, id)),
                None => self.history.unknown += 1,
            }
            return;
        }
        // Several at once, and again until each has its answer: there is to be one task all the same.
        let mut waiting = CALLERS_OF_A_KEY;
        let deadline = Instant::now() + REQUEST_TIMEOUT * 2;
        while waiting > 0 && Instant::now() < deadline {
            let urls: Vec<String> = (0..waiting)
                .filter_map(|_| self.cluster.any(&mut self.rng))
                .collect();
            let calls = urls
                .into_iter()
                .map(|url| tokio::spawn(order(self.http.clone(), url, errand.clone())));
            for call in calls.collect::<Vec<_>>() {
                if let Ok(Ok(id)) = call.await {
                    self.history.accepted.push((errand.n, id));
                    waiting -= 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.history.unknown += waiting as u64;
    }

    async fn order(&mut self, errand: &Errand) -> Option<TaskId> {
        loop {
            if let Some(url) = self.cluster.any(&mut self.rng) {
                match order(self.http.clone(), url, errand.clone()).await {
                    Err(error) if error.is_connect() => {} // nobody heard it
                    answer => return answer.ok(),
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The id, if the order was accepted.
async fn order(http: Client, url: String, errand: Errand) -> reqwest::Result<TaskId> {
    let request = http.post(format!("{url}/lab")).json(&errand).send();
    request.await?.error_for_status()?.json().await
}

struct Faults<'a> {
    plan: &'a Plan,
    rng: Rng,
    cluster: &'a Cluster,
    processes: &'a mut Vec<Process>,
    history: &'a mut History,
}

impl Faults<'_> {
    async fn strike(&mut self) -> Result<(), LabError> {
        let n = self.rng.usize(..self.processes.len());
        let pid = self.processes[n].pid;
        if self.rng.u64(..100) < self.plan.stops_percent {
            self.history.n_stops += 1;
            self.processes[n].signal(Signal::STOP)?;
            let ms = self.rng.u64(1..STOPPED_MAX_MS);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            return self.processes[n].signal(Signal::CONT);
        }
        self.cluster.set(n, None);
        self.history.ended_at_us.insert(pid, now_us());
        if self.rng.u64(..100) < 25 {
            self.history.n_terms += 1;
            self.processes[n].signal(Signal::TERM)?;
        } else {
            self.history.n_kills += 1;
            self.processes[n].signal(Signal::KILL)?;
        }
        self.processes[n].ended().await?;
        self.start(n).await
    }

    /// Starts those again that a task has aborted.
    async fn replace_aborted(&mut self) -> Result<(), LabError> {
        for n in 0..self.processes.len() {
            if self.processes[n].has_ended() {
                self.history.n_aborts += 1;
                self.cluster.set(n, None);
                self.start(n).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, n: usize) -> Result<(), LabError> {
        loop {
            match Process::start(&self.plan.service, &self.plan.folder).await {
                Ok(process) => {
                    self.cluster.set(n, Some(process.url.clone()));
                    self.processes[n] = process;
                    return Ok(());
                }
                // One that took over what aborts its process may die of it before it listens.
                Err(_) if self.history.n_aborts < 10_000 => self.history.n_aborts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until nothing waits or runs any more, or the time for that is over.
    async fn calm_down(&mut self, http: &Client) -> Result<(), LabError> {
        let deadline = Instant::now() + self.plan.calm_max;
        while Instant::now() < deadline {
            self.replace_aborted().await?;
            let url = self.processes[0].url.clone();
            if let Ok(left) = ask(http, &url, "/left").await
                && left == 0
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(()) // the checker names what is left
    }
}

/// Everything that is stored, read when no process runs any more.
async fn stored(folder: &Path) -> Result<Vec<Task>, LabError> {
    let file = Sqlite::open(folder.join("tasks.db"))?;
    let mut query = ListQuery::default();
    query.limit = 10_000;
    let mut stored = Vec::new();
    loop {
        let page = file.list(query.clone()).await?;
        stored.extend(page.tasks);
        query.before = page.next;
        if query.before.is_none() {
            return Ok(stored);
        }
    }
}
