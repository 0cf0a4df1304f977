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
    effects::{self, Effect, Moment},
    errand::{Cancel, Errand},
    process::{Process, ask},
};

/// Callers that order at the same time.
const CALLERS: usize = 24;
/// Callers that order one keyed task at the same time.
const CALLERS_OF_A_KEY: usize = 3;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const STOPPED_MAX_MS: u64 = 1_500;
/// Starts in a row that fail before something else than a task must be the reason.
const STARTS_MAX: usize = 20;

/// What happened, for the checker.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was ordered, by number.
    pub errands: HashMap<u64, Errand>,
    /// The answers to orders: the errand and the task.
    pub accepted: Vec<(u64, TaskId)>,
    /// Orders without an answer: a task may be there or not.
    pub unknown: u64,
    /// What came of wishes to cancel a task, and when that was known.
    pub cancels: Vec<(TaskId, Cancel, Moment)>,
    /// The processes that came to listen.
    pub lives: Vec<Life>,
    /// From when to when a process was stopped.
    pub stops: Vec<(Moment, Moment)>,
    /// Processes that were killed.
    pub n_kills: u64,
    /// Processes that were told to end.
    pub n_terms: u64,
    /// Processes that were stopped for a while.
    pub n_stops: u64,
    /// Processes that ended by themselves: a task or a crash point aborted them.
    pub n_aborts: u64,
    /// What tasks did.
    pub effects: Vec<Effect>,
    /// What is stored.
    pub stored: Vec<Task>,
}

/// One process, from the moment when it listened.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its number.
    pub pid: u32,
    /// Since when it listened.
    pub from: Moment,
    /// When it was killed or told to end; nothing if it ended by itself.
    pub told: Option<Moment>,
    /// When it was seen to be gone, and how it went.
    pub gone: Option<(Moment, Gone)>,
}

/// How a process went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// By `SIGKILL`: it was dead soon after it was sent.
    Killed,
    /// By `SIGTERM`: it may have lived until it was seen to be gone.
    Ended,
    /// By itself: it was dead some time before it was seen to be gone.
    Fell,
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
    let mut history = History::default();
    let mut processes = Vec::new();
    for n in 0..plan.processes {
        let crash_at = plan.crash_at.as_deref().filter(|_| n == 0);
        let process = match Process::start(&plan.service, &plan.folder, crash_at).await {
            // At the start there is something to write, too.
            Err(_) if crash_at.is_some() => {
                history.n_aborts += 1;
                Process::start(&plan.service, &plan.folder, None).await?
            }
            process => process?,
        };
        history.begins(&process);
        processes.push(process);
    }
    let urls = processes.iter().map(|p| Some(p.url.clone())).collect();
    let cluster = Arc::new(Cluster {
        urls: Mutex::new(urls),
    });
    let last_order = plan.orders_max.map(|limit| Instant::now() + limit);
    let is_over = move || last_order.is_some_and(|last| Instant::now() > last);
    let n_accepted = Arc::new(AtomicU64::new(0));
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (cluster, http) = (cluster.clone(), http.clone());
        let (next, n_accepted, tasks) = (next.clone(), n_accepted.clone(), plan.tasks);
        let rng = Rng::with_seed(plan.seed ^ (caller as u64 + 1));
        let (seed, aborts) = (plan.seed, plan.aborts_permille);
        callers.spawn(async move {
            let mut orders = Orders {
                cluster,
                http,
                rng,
                history: History::default(),
            };
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= tasks || is_over() {
                    return orders.history;
                }
                let mut drawn = Rng::with_seed(seed.wrapping_add(n << 8));
                let errand = Errand::draw(n, aborts, &mut drawn);
                orders.place(errand).await;
                n_accepted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

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
            if is_over() {
                break;
            }
            faults.replace_fallen().await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if is_over() {
            break;
        }
        faults.strike().await?;
        (plan.progress)(n_accepted.load(Ordering::Relaxed), fault);
    }
    let mut done = Vec::new();
    while !callers.is_empty() {
        faults.replace_fallen().await?;
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
        history.cancels.extend(of_caller.cancels);
    }
    for process in &mut processes {
        history.is_told(process.pid, Moment::now());
        process.signal(Signal::TERM)?;
        process.ended().await?;
        let last = history.n_terms;
        history.is_gone(process.pid, Gone::Ended);
        history.n_terms = last; // that was no fault
    }
    history.effects = effects::read(&plan.folder)?;
    history.stored = stored(&plan.folder).await?;
    Ok(history)
}

impl History {
    fn begins(&mut self, process: &Process) {
        self.lives.push(Life {
            pid: process.pid,
            from: Moment::now(),
            told: None,
            gone: None,
        });
    }

    fn is_told(&mut self, pid: u32, told: Moment) {
        if let Some(life) = self.latest(pid) {
            life.told = Some(told);
        }
    }

    fn is_gone(&mut self, pid: u32, how: Gone) {
        match how {
            Gone::Killed => self.n_kills += 1,
            Gone::Ended => self.n_terms += 1,
            Gone::Fell => self.n_aborts += 1,
        }
        if let Some(life) = self.latest(pid) {
            life.gone = Some((Moment::now(), how));
        }
    }

    /// Numbers come back: the process that has this one now.
    fn latest(&mut self, pid: u32) -> Option<&mut Life> {
        self.lives.iter_mut().rfind(|life| life.pid == pid)
    }
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
                Some(id) => {
                    self.history.accepted.push((errand.n, id));
                    if errand.cancelled {
                        self.cancel(id).await;
                    }
                }
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

    async fn cancel(&mut self, id: TaskId) {
        let Some(url) = self.cluster.any(&mut self.rng) else {
            return; // nobody is there to be asked
        };
        let answer = async {
            let request = self.http.post(format!("{url}/lab/{id}/cancel")).send();
            request.await?.error_for_status()?.json().await
        };
        let answer: reqwest::Result<Cancel> = answer.await;
        // Without an answer it may have been told to stop all the same.
        let cancel = answer.unwrap_or(Cancel::Asked);
        self.history.cancels.push((id, cancel, Moment::now()));
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
            let from = Moment::now();
            self.processes[n].signal(Signal::STOP)?;
            let ms = self.rng.u64(1..STOPPED_MAX_MS);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            self.processes[n].signal(Signal::CONT)?;
            self.history.stops.push((from, Moment::now()));
            return Ok(());
        }
        self.cluster.set(n, None);
        let told = Moment::now();
        self.history.is_told(pid, told);
        let is_end = self.rng.u64(..100) < self.plan.ends_percent;
        let signal = if is_end { Signal::TERM } else { Signal::KILL };
        self.processes[n].signal(signal)?;
        let how = match self.processes[n].ended().await? {
            true => Gone::Fell, // before it heard us
            false if is_end => Gone::Ended,
            false => Gone::Killed,
        };
        self.history.is_gone(pid, how);
        self.start(n).await
    }

    /// Starts those again that have ended by themselves.
    async fn replace_fallen(&mut self) -> Result<(), LabError> {
        for n in 0..self.processes.len() {
            if self.processes[n].has_ended() {
                self.history.is_gone(self.processes[n].pid, Gone::Fell);
                self.cluster.set(n, None);
                self.start(n).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, n: usize) -> Result<(), LabError> {
        for _ in 0..STARTS_MAX {
            match Process::start(&self.plan.service, &self.plan.folder, None).await {
                Ok(process) => {
                    self.cluster.set(n, Some(process.url.clone()));
                    self.history.begins(&process);
                    self.processes[n] = process;
                    return Ok(());
                }
                // One that took over what aborts its process may die of it before it listens.
                Err(error) => {
                    eprintln!("lab: {error}");
                    self.history.n_aborts += 1;
                }
            }
        }
        Err(format!("the service does not start, {STARTS_MAX} times in a row").into())
    }

    /// Waits until nothing waits or runs any more, or the time for that is over.
    async fn calm_down(&mut self, http: &Client) -> Result<(), LabError> {
        let deadline = Instant::now() + self.plan.calm_max;
        while Instant::now() < deadline {
            self.replace_fallen().await?;
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
