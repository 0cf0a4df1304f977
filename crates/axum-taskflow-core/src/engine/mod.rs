//! The engine: what starts in which order, and what its services share. How it stops is in `stop.rs`.
//!
//! Services do not call each other: they meet in [`Ready`], the [`Journal`] and wake-ups.
//!
//! Each `select!` is biased: with the order of its branches left to chance, a simulation could not be replayed.

/// Ends the process here if a test wants it (feature `failpoints`).
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}

pub(crate) mod asks;
mod beat;
mod boot;
mod claimer;
mod executor;
pub(crate) mod holds;
pub(crate) mod journal;
mod listener;
mod pruner;
mod ready;
pub(crate) mod records;
mod rescuer;
pub(crate) mod scheduler;
mod stop;
mod threads;
mod unreadable;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use self::{
    claimer::NextDue,
    executor::{BY_SHUTDOWN, LAPSED, SUPERSEDED},
    holds::Holds,
    journal::Journal,
    ready::{Next, Ready},
    records::Told,
    rescuer::Refusals,
    stop::Starting,
    threads::Threads,
    unreadable::Unreadable,
};
pub(crate) use self::{executor::Beginning, ready::Promise};
use crate::{
    backend::{Applied, Backend, Instance, Note, Said, Turn},
    change::Change,
    clock::{Clock, Timestamp},
    config::Config,
    error::{BackendError, Error, ErrorKind},
    event::Feed,
    health::{Duty, Troubles},
    id::{IdSource, InstanceId, TaskId},
    panics,
    registry::{Registry, TaskDef},
    running::{Home, Running},
    states::States,
    status::TaskStatus,
    task::{Executor, Task, TaskOptions},
};

/// Between two tries of a loop whose backend fails.
const LOOP_RETRY: Duration = Duration::from_secs(1);
pub(crate) struct Engine {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) registry: Registry,
    pub(crate) states: States,
    pub(crate) clock: Clock,
    pub(crate) ids: IdSource,
    /// Who this is. An RwLock: read for each task, written when the others took this instance for dead.
    identity: RwLock<Arc<Instance>>,
    pub(crate) troubles: Arc<Troubles>,
    /// When the last beat that was stored was begun, by a clock that nobody sets. A std mutex: held for one copy.
    beaten_at: Mutex<Instant>,
    pub(crate) feed: Feed,
    pub(crate) journal: Journal,
    pub(crate) ready: Arc<Ready>,
    threads: Threads,
    /// How to stop what runs here, from just before its start is stored. A std mutex: held for one map operation.
    running: Mutex<HashMap<TaskId, Arc<Running>>>,
    /// Who waits for a task to end. A std mutex, as above.
    waiters: Mutex<HashMap<TaskId, Vec<oneshot::Sender<()>>>>,
    /// Waiters, so that a finished task need not look into the map when there are none.
    n_waiters: AtomicUsize,
    unreadable: Unreadable,
    told: Told,
    refusals: Refusals,
    next_due: NextDue,
    pub(crate) holds: Holds,
    /// Counts what may change who holds what, here or elsewhere. A watch: it remembers for those who look away.
    hold_news: watch::Sender<u64>,
    /// Somebody here has asked for an attempt to be cancelled that may be about to begin here.
    asked: Notify,
    /// Somebody looks after what is held. An atomic: set once.
    watches_holds: AtomicBool,
    /// Somebody here has changed a schedule.
    schedules_changed: Notify,
    /// As which instance it takes part in which start of the cluster. A tokio lock: held while it joins.
    member: tokio::sync::Mutex<Option<(InstanceId, TaskId)>>,
    /// A lane wants tasks, or one is due earlier than the claimer knows.
    claimer_wake: Notify,
    /// Set by the first who asks for shutdown.
    draining: AtomicBool,
    /// Fires when a shutdown is to wait no longer.
    hurry: CancellationToken,
    /// The loops that end by themselves when `stopping` fires.
    loops: TaskTracker,
    /// Looks why the start or the end of an attempt was stale. Each ends with one more change, or none.
    looks: TaskTracker,
    /// Fires when shutdown begins.
    pub(crate) stopping: CancellationToken,
    /// Fires when everything that ran has ended and is stored.
    pub(crate) drained: CancellationToken,
    /// What came of the shutdown, once it is done.
    closed: watch::Sender<Option<Result<(), Arc<BackendError>>>>,
    /// Fires when the backend is about to be closed.
    pub(crate) stopped: CancellationToken,
    /// Where the manager was started, whoever asks from where.
    pub(crate) runtime: Handle,
    pub(crate) defaults: TaskOptions,
    pub(crate) add_timeout: Duration,
    pub(crate) args_max: usize,
    pub(crate) bulk_max: usize,
    result_max: usize,
    retention: Duration,
    retention_failed: Duration,
    shutdown_timeout: Duration,
    pub(crate) leads: bool,
    crashes_max: u32,
    takeover_after: Option<Duration>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.backend.describe())
            .field("instance", &self.me())
            .finish_non_exhaustive()
    }
}

/// Whoever writes the journal, for as long as there is a runtime to do it.
struct Writes(Arc<Engine>);

impl Drop for Writes {
    fn drop(&mut self) {
        self.0.journal.forsake();
    }
}

impl Engine {
    /// Joins the backend and takes over from the dead. It runs nothing before [`Self::work`].
    pub(crate) async fn start(config: Config, registry: Registry) -> Result<Starting, Error> {
        let engine = Arc::new(Self::build(config, registry)?);
        engine.loops.close();
        engine.looks.close();
        let me = engine.instance();
        let joined_at = Instant::now();
        engine.backend.join(Instance::clone(&me)).await?;
        let starting = Starting::of(engine.clone());
        engine.rescue_first().await?;
        tokio::spawn({
            let writes = Writes(engine.clone());
            async move {
                let engine = &writes.0;
                let stored = |notes: &[Note]| engine.batch_stored(notes);
                let write = || engine.journal.run(stored);
                tokio::select! {
                    biased;
                    () = engine.kept_up(Some(Duty::Write), &engine.stopped, write) => {}
                    () = engine.stopped.cancelled() => {}
                }
            }
        });
        engine.start_beating(joined_at).map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "cannot make the thread that shows that this instance is alive",
            )
            .with_source(error)
        })?;
        Ok(starting)
    }

    /// Starts the loops: from now on nothing can go wrong that ends the start, and interrupts what has begun.
    pub(crate) fn work(self: &Arc<Self>) {
        let me = self.instance();
        if me.role.runs_tasks() {
            self.keep_up(Some(Duty::Claim), Self::run_claimer);
            self.heed_until_drained();
        }
        self.keep_up(None, Self::run_listener);
        self.keep_up(Some(Duty::Rescue), Self::run_rescuer);
        self.keep_up(None, Self::run_pruner);
        self.keep_up(Some(Duty::Schedule), Self::run_scheduler);
        info!(store = %self.backend.describe(), instance = %me.id, role = me.role.as_str(), "task manager started");
    }

    /// Runs a loop until shutdown begins.
    fn keep_up<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        duty: Option<Duty>,
        run: fn(Arc<Self>) -> F,
    ) {
        let engine = self.clone();
        self.loops.spawn(async move {
            let run = || run(engine.clone());
            engine.kept_up(duty, &engine.stopping, run).await;
        });
    }

    /// Does what others ask of what runs here, which goes on when a shutdown has begun.
    fn heed_until_drained(self: &Arc<Self>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let run = || engine.clone().run_asks();
            tokio::select! {
                biased;
                () = engine.drained.cancelled() => {}
                () = engine.kept_up(None, &engine.drained, run) => {}
            }
        });
    }

    /// Runs a loop, and again after a panic, which is a trouble of its duty until that is done. The code of a store or
    /// of a subscriber may panic, and a loop that had ended would be missed by nobody.
    async fn kept_up<F: Future<Output = ()>>(
        &self,
        duty: Option<Duty>,
        end: &CancellationToken,
        run: impl Fn() -> F,
    ) {
        loop {
            let mut running = Box::pin(run());
            let Err(report) = panics::catch_async(&mut running).await else {
                return;
            };
            if let Some(duty) = duty {
                self.troubles.begin(duty, self.clock.now(), &report.message);
            }
            let place = report.place.unwrap_or_default();
            panics::say(
                || error!(?duty, why = %report.message, %place, "a loop of the engine panicked: it begins again"),
            );
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = tokio::time::sleep(jittered(LOOP_RETRY)) => {}
            }
        }
    }

    fn build(config: Config, registry: Registry) -> Result<Self, Error> {
        panics::install_hook();
        let threads = Threads::new(config.blocking_threads).map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "cannot make the pool for plain functions",
            )
            .with_source(error)
        })?;
        let (ids, now) = (IdSource::default(), config.clock.now());
        let instance = Instance {
            id: ids.instance(now),
            host: config.host,
            pid: std::process::id(),
            started_at: now,
            version: config.version,
            role: config.role,
            functions: [Executor::Async, Executor::Thread]
                .into_iter()
                .flat_map(|executor| registry.names(executor).to_vec())
                .collect(),
        };
        let ready = Arc::new(Ready::new(
            config.concurrency,
            config.blocking_threads,
            config.crashes_max,
        ));
        if !config.role.runs_tasks() {
            let _nothing = ready.stop();
        }
        let troubles = Arc::new(Troubles::default());
        Ok(Self {
            journal: Journal::new(
                config.backend.clone(),
                config.clock.clone(),
                config.queue_max,
                troubles.clone(),
                ready.clone(),
            ),
            backend: config.backend,
            registry,
            states: config.states,
            clock: config.clock,
            ids,
            identity: RwLock::new(Arc::new(instance)),
            troubles,
            beaten_at: Mutex::new(Instant::now()),
            feed: Feed::default(),
            ready,
            threads,
            running: Mutex::default(),
            waiters: Mutex::default(),
            n_waiters: AtomicUsize::new(0),
            unreadable: Unreadable::default(),
            told: Told::default(),
            refusals: Refusals::default(),
            next_due: NextDue::new(),
            holds: Holds::default(),
            hold_news: watch::Sender::default(),
            asked: Notify::new(),
            watches_holds: AtomicBool::new(false),
            schedules_changed: Notify::new(),
            member: tokio::sync::Mutex::default(),
            claimer_wake: Notify::new(),
            draining: AtomicBool::new(false),
            hurry: CancellationToken::new(),
            loops: TaskTracker::new(),
            looks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            drained: CancellationToken::new(),
            closed: watch::Sender::default(),
            stopped: CancellationToken::new(),
            runtime: Handle::current(),
            defaults: config.defaults,
            add_timeout: config.add_timeout,
            args_max: config.args_max,
            bulk_max: config.bulk_max,
            result_max: config.result_max,
            retention: config.retention,
            retention_failed: config.retention_failed,
            shutdown_timeout: config.shutdown_timeout,
            leads: config.leads,
            crashes_max: config.crashes_max,
            takeover_after: config.takeover_after,
        })
    }

    /// Lets go of tasks whose functions were not called.
    pub(crate) fn let_others_have(self: &Arc<Self>, tasks: Vec<Arc<Task>>) {
        for task in tasks {
            match Change::released(&task) {
                Ok(change) => self.store(change),
                Err(refused) => {
                    panics::say(
                        || warn!(task = %task.id, %refused, "a task that was held is finished"),
                    );
                }
            }
        }
    }

    /// Lets go of a new task that was perhaps stored, and perhaps not.
    pub(crate) fn disown(self: &Arc<Self>, task: &Task) {
        let Ok(change) = Change::released(task) else {
            return; // a new task is pending or running
        };
        let engine = self.clone();
        let then = Box::new(move |change: &Change, applied| {
            // Stale: it was not stored, which is the usual.
            if applied == Applied::Applied {
                engine.stored(change, applied);
            }
        });
        self.journal.change(change, then);
    }

    /// Stores a change of a task that does not run here, or not any more.
    pub(crate) fn store(self: &Arc<Self>, change: Change) {
        let engine = self.clone();
        let then = Box::new(move |change: &Change, applied| engine.stored(change, applied));
        self.journal.change(change, then);
    }

    /// What follows from a change of a task that does not run here, or not any more.
    pub(crate) fn stored(&self, change: &Change, applied: Applied) {
        if applied == Applied::Stale {
            self.feed.stale(change);
            return;
        }
        let now = self.clock.now();
        self.feed.changed(change, now);
        if change.life.status == TaskStatus::Pending {
            let executor = self.registry.by_name(&change.name).map(|def| def.executor);
            if let Some(executor) = executor {
                self.left_on_disk(executor, change.life.run_at, None, now);
            } // else it is for others
        } else {
            self.wake_waiters(change.id);
        }
    }

    /// A new task that nobody holds was stored.
    pub(crate) fn waits_on_disk(&self, task: &Task, now: Timestamp) {
        self.left_on_disk(task.executor, task.life.run_at, Some(Turn::of(task)), now);
    }

    /// A task was left to whoever claims it: claim it when it is due and a slot is free.
    fn left_on_disk(
        &self,
        executor: Executor,
        run_at: Timestamp,
        turn: Option<Turn>,
        now: Timestamp,
    ) {
        if run_at <= now {
            self.ready.one_more_on_disk(executor, turn);
            if self.wants_tasks(executor) {
                self.claimer_wake.notify_one();
            }
        } else if self.next_due.lower(run_at) {
            self.claimer_wake.notify_one();
        }
    }

    /// A batch was stored: what it made ready can start.
    fn batch_stored(self: &Arc<Self>, notes: &[Note]) {
        for note in notes {
            match &note.what {
                Said::Log(line) => self.feed.logged(note.id, line),
                Said::Progress(progress) => self.feed.progressed(note.id, progress),
            }
        }
        self.ready.tick(self.clock.now());
        self.dispatch();
    }

    /// Writes what was added, if the journal rests: who adds need not wait until it is awake. It is the engine's work,
    /// wherever the caller runs.
    pub(crate) fn write_now(self: &Arc<Self>) {
        let _in_runtime = self.runtime.enter();
        self.journal.begin(|notes| self.batch_stored(notes));
    }

    /// Hears when the task ends here. Register first, then look whether it has ended already.
    pub(crate) fn wait_for(&self, id: TaskId) -> Waiter<'_> {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.entry(id).or_default().push(sender);
        self.n_waiters.store(waiters.len(), Ordering::SeqCst);
        Waiter {
            engine: self,
            id,
            receiver,
        }
    }

    fn wake_waiters(&self, id: TaskId) {
        if self.n_waiters.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for waiter in waiters.remove(&id).into_iter().flatten() {
            let _ = waiter.send(()); // the waiter may have left
        }
        self.n_waiters.store(waiters.len(), Ordering::SeqCst);
    }

    /// Another instance has left something that waits.
    fn look_for_others(&self) {
        for executor in [Executor::Async, Executor::Thread] {
            self.ready.others_left(executor);
        }
        self.claimer_wake.notify_one();
    }

    /// Other instances, or earlier processes, may have left something that waits, nobody knows how much.
    pub(crate) fn look_on_disk(&self) {
        for executor in [Executor::Async, Executor::Thread] {
            self.ready.more_on_disk(executor);
        }
        self.claimer_wake.notify_one();
    }

    /// What somebody waits for who called, which comes within the time that a call may take.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let limit = self.add_timeout;
        let done = tokio::time::timeout(limit, work).await;
        done.unwrap_or_else(|_| Err(Error::no_answer(limit)))
    }

    /// Who this is now.
    pub(crate) fn instance(&self) -> Arc<Instance> {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The name that this instance goes by now.
    pub(crate) fn me(&self) -> InstanceId {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .id
    }

    fn set_instance(&self, instance: Instance) {
        *self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(instance);
    }

    /// What counts for a task: the call's word, then the function's, then the manager's.
    pub(crate) fn options(&self, task: &Task, def: &TaskDef) -> TaskOptions {
        task.options.or(&def.options).or(&self.defaults)
    }

    /// All attempts that run here, oldest task first.
    fn attempts(&self) -> Vec<Arc<Running>> {
        let mut attempts: Vec<Arc<Running>> = self.running().values().cloned().collect();
        attempts.sort_unstable_by_key(|attempt| attempt.task.id);
        attempts
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a task to end; leaves nothing behind.
pub(crate) struct Waiter<'a> {
    engine: &'a Engine,
    id: TaskId,
    receiver: oneshot::Receiver<()>,
}

impl Waiter<'_> {
    pub(crate) async fn ended(&mut self) {
        // An error means the same: there is nothing more to hear.
        let _ = (&mut self.receiver).await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiters = self
            .engine
            .waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(of_task) = waiters.get_mut(&self.id) {
            of_task.retain(|waiter| !waiter.is_closed());
            if of_task.is_empty() {
                waiters.remove(&self.id);
            }
        }
        self.engine.n_waiters.store(waiters.len(), Ordering::SeqCst);
    }
}

impl Home for Engine {
    fn say(&self, note: Note) {
        self.journal.note(note);
    }

    fn states(&self) -> &States {
        &self.states
    }
}

/// True if `work` was done within `limit`.
async fn within(limit: Duration, work: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(limit, work).await.is_ok()
}

/// `wait`, give or take a quarter, so that instances that started together do not stay together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + fastrand::f64() * 0.5)
}
