//! Orders tasks over HTTP, and remembers the answers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum_taskflow::TaskId;
use fastrand::Rng;
use reqwest::Client;
use tokio::{task::JoinSet, time::Instant};

use super::{
    LOOK_AGAIN, Plan,
    effects::Moment,
    errand::{Cancel, Errand},
    history::History,
};

/// Callers that order at the same time.
const CALLERS: u64 = 24;
/// Callers that order one keyed task at the same time.
const CALLERS_OF_A_KEY: usize = 3;
/// Between an order that was not accepted and the next one.
const AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// Where there is a lease, one of so many errands takes about as long.
const LONG_ONE_IN: u32 = 15;
/// How long a caller waits for an answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The processes that run, as the callers see them.
pub(super) struct Cluster {
    /// Where each listens; nothing while it is being replaced. A std mutex: held for one look.
    urls: Mutex<Vec<Option<String>>>,
}

impl Cluster {
    pub(super) fn new(urls: Vec<Option<String>>) -> Self {
        Self {
            urls: Mutex::new(urls),
        }
    }

    fn any(&self, rng: &mut Rng) -> Option<String> {
        let urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        let there: Vec<&String> = urls.iter().flatten().collect();
        Some(there.get(rng.usize(..there.len().max(1)))?.to_string())
    }

    pub(super) fn set(&self, n: usize, url: Option<String>) {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)[n] = url;
    }
}

/// What is to be ordered, and how far that is.
pub(super) struct Orders {
    pub(super) cluster: Cluster,
    tasks: u64,
    faults: u64,
    seed: u64,
    aborts_permille: u32,
    /// How long a few take that can be cut off; nothing if none of them takes long.
    long_ms: Option<u64>,
    over_at: Option<Instant>,
    /// The number of the next order.
    next: AtomicU64,
    placed: AtomicU64,
    struck: AtomicU64,
}

impl Orders {
    pub(super) fn new(plan: &Plan, cluster: Cluster) -> Self {
        Self {
            cluster,
            tasks: plan.tasks,
            faults: plan.faults,
            seed: plan.seed,
            aborts_permille: plan.aborts_permille,
            // Long enough to be running when an instance gives up.
            long_ms: plan.store.lease().map(|lease| lease.as_secs() * 1_500),
            over_at: plan.orders_max.map(|limit| Instant::now() + limit),
            next: AtomicU64::default(),
            placed: AtomicU64::default(),
            struck: AtomicU64::default(),
        }
    }

    /// Starts the callers; each returns what it has seen.
    pub(super) fn start(self: &Arc<Self>, http: &Client) -> JoinSet<History> {
        let callers = (1..=CALLERS).map(|n| Caller {
            orders: self.clone(),
            http: http.clone(),
            rng: Rng::with_seed(self.seed ^ n),
            history: History::default(),
        });
        callers.map(Caller::place_all).collect()
    }

    /// True once so much is ordered that it is time for this fault.
    pub(super) fn is_time_for(&self, fault: u64) -> bool {
        self.placed() * (self.faults + 1) >= fault * self.tasks
    }

    /// The callers may go on to the next fault, which finds them ordering.
    pub(super) fn struck(&self, fault: u64) {
        self.struck.store(fault, Ordering::Relaxed);
    }

    pub(super) fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// True once the time to order is over.
    pub(super) fn are_over(&self) -> bool {
        self.over_at.is_some_and(|at| Instant::now() > at)
    }

    /// While a fault lasts, nobody orders more than half of what comes before the next one: that would find nothing to
    /// hurt otherwise.
    fn may_place(&self, n: u64) -> bool {
        let halves = 2 * self.struck.load(Ordering::Relaxed) + 3;
        2 * n * (self.faults + 1) <= halves * self.tasks
    }

    fn errand(&self, n: u64) -> Errand {
        let mut rng = Rng::with_seed(self.seed.wrapping_add(n << 8));
        let errand = Errand::draw(n, self.aborts_permille, &mut rng);
        match self.long_ms.filter(|_| rng.u32(..LONG_ONE_IN) == 0) {
            Some(long_ms) if !errand.blocking => Errand {
                ms: rng.u64(..long_ms),
                ..errand
            },
            _ => errand,
        }
    }
}

/// Somebody who orders, one after the other.
struct Caller {
    orders: Arc<Orders>,
    http: Client,
    rng: Rng,
    history: History,
}

impl Caller {
    /// Orders until nothing is left, or the time for that is over.
    async fn place_all(mut self) -> History {
        loop {
            let n = self.orders.next.fetch_add(1, Ordering::Relaxed);
            while !self.orders.are_over() && !self.orders.may_place(n) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            if n >= self.orders.tasks || self.orders.are_over() {
                return self.history;
            }
            self.place(self.orders.errand(n)).await;
            self.orders.placed.fetch_add(1, Ordering::Relaxed);
        }
    }

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
                None => {
                    self.history.unknown += 1;
                    // A store that fails refuses at once, and would refuse all that is left.
                    tokio::time::sleep(AFTER_REFUSAL).await;
                }
            }
            return;
        }
        // Several at once, and again until each has its answer: there is to be one task all the same.
        let mut waiting = CALLERS_OF_A_KEY;
        let deadline = Instant::now() + REQUEST_TIMEOUT * 2;
        while waiting > 0 && Instant::now() < deadline {
            let urls: Vec<String> = (0..waiting)
                .filter_map(|_| self.orders.cluster.any(&mut self.rng))
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
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.history.unknown += waiting as u64;
    }

    async fn cancel(&mut self, id: TaskId) {
        let Some(url) = self.orders.cluster.any(&mut self.rng) else {
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
            if let Some(url) = self.orders.cluster.any(&mut self.rng) {
                match order(self.http.clone(), url, errand.clone()).await {
                    Err(error) if error.is_connect() => {} // nobody heard it
                    answer => return answer.ok(),
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The id, if the order was accepted.
async fn order(http: Client, url: String, errand: Errand) -> reqwest::Result<TaskId> {
    let request = http.post(format!("{url}/lab")).json(&errand).send();
    request.await?.error_for_status()?.json().await
}
