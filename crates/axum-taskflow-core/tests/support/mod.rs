//! What the engine's tests share: a probe inside functions, and a store that fails on demand.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    AheadPage, AheadQuery, Applied, AuditEntry, Backend, BackendError, BackendFuture, Batch,
    Change, Claim, Claimed, Clock, Config, Count, Enqueued, EventStream, HeldBy, IdSource,
    Instance, InstanceId, Life, ListQuery, LogLine, Memory, Minute, Page, Peer, Prune, Pruned,
    Record, RecordChange, RecordQuery, Standing, Step, Stepped, Task, TaskEvent, TaskId,
    TaskManager, TaskStatus, Timestamp, Written,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_stream::StreamExt;
use tracing::{Level, field::Field, subscriber::DefaultGuard};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt},
};

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.collect = false;
    config
}

pub(crate) async fn start(config: Config) -> TaskManager {
    TaskManager::start(config).await.unwrap()
}

/// Gives all loops of the engine their turn, on a runtime of one thread: it knows that nothing waits on disk.
pub(crate) async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Looks until there is something to see, and panics at the deadline.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, seen)
        .await
        .expect("never seen")
}

/// Returns once an attempt of the task ended and left it with this status.
pub(crate) async fn ended(events: &mut EventStream, id: TaskId, status: TaskStatus) {
    let seen = async {
        while let Some(event) = events.next().await {
            if let TaskEvent::Changed { id: of, life, .. } = event
                && of == id
                && life.status == status
            {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, seen)
        .await
        .expect("never ended");
}

/// A waiting task of another process.
pub(crate) async fn stored(
    backend: &Arc<dyn Backend>,
    clock: &Clock,
    name: &str,
    args: &str,
) -> TaskId {
    let now = clock.now();
    let task = Task::new(IdSource::default().task(now), name, args);
    let id = task.id;
    let mut batch = Batch::at(now);
    batch.tasks.push(Arc::new(task));
    backend.write(Arc::new(batch)).await.unwrap();
    id
}

/// Counts who is inside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    inside: usize,
    most: usize,
    total: usize,
    notes: Vec<usize>,
}

impl Probe {
    pub(crate) fn enter(&self) {
        let mut seen = self.0.lock().unwrap();
        seen.inside += 1;
        seen.total += 1;
        seen.most = seen.most.max(seen.inside);
    }

    pub(crate) fn leave(&self) {
        self.0.lock().unwrap().inside -= 1;
    }

    pub(crate) fn note(&self, n: usize) {
        self.0.lock().unwrap().notes.push(n);
    }

    pub(crate) fn inside(&self) -> usize {
        self.0.lock().unwrap().inside
    }

    pub(crate) fn most(&self) -> usize {
        self.0.lock().unwrap().most
    }

    pub(crate) fn total(&self) -> usize {
        self.0.lock().unwrap().total
    }

    pub(crate) fn notes(&self) -> Vec<usize> {
        self.0.lock().unwrap().notes.clone()
    }
}

/// What was said on this thread, each with its level.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said(Arc<Mutex<Vec<(Level, String)>>>);

impl Said {
    /// Listens as long as the guard is there.
    pub(crate) fn here() -> (Self, DefaultGuard) {
        let said = Self::default();
        let log = Registry::default().with(said.clone());
        (said, tracing::subscriber::set_default(log))
    }

    /// How often it was said, but for details.
    pub(crate) fn n(&self, what: &str) -> usize {
        self.all().iter().filter(|it| it.contains(what)).count()
    }

    /// How often it was said as a detail.
    pub(crate) fn n_details(&self, what: &str) -> usize {
        let said = self.0.lock().unwrap();
        let details = said.iter().filter(|(level, _)| *level == Level::DEBUG);
        details.filter(|(_, it)| it.contains(what)).count()
    }

    /// All that was said, but for details.
    pub(crate) fn all(&self) -> Vec<String> {
        let said = self.0.lock().unwrap();
        let said = said.iter().filter(|(level, _)| *level <= Level::INFO);
        said.map(|(_, it)| it.clone()).collect()
    }
}

impl<S: tracing::Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
            if field.name() == "message" {
                self.0.lock().unwrap().push((level, format!("{value:?}")));
            }
        });
    }
}

/// A log that cannot be written any more: each line and span panics, on this thread.
#[derive(Debug)]
pub(crate) struct BrokenPipe;

impl BrokenPipe {
    /// As long as the guard is there.
    pub(crate) fn here() -> DefaultGuard {
        tracing::subscriber::set_default(Registry::default().with(Self))
    }
}

impl<S: tracing::Subscriber> Layer<S> for BrokenPipe {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let is_said = *event.metadata().level() <= Level::DEBUG;
        assert!(!is_said, "failed printing to stderr: Broken pipe");
    }

    fn on_new_span(
        &self,
        span: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: Context<'_, S>,
    ) {
        let is_said = *span.metadata().level() <= Level::DEBUG;
        assert!(!is_said, "failed printing to stderr: Broken pipe");
    }
}

/// A log that writes when a span is entered, left or closed, as it can be told to, and cannot any more: that panics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BrokenSpan {
    Enter,
    Exit,
    Close,
}

impl BrokenSpan {
    /// As long as the guard is there.
    pub(crate) fn here(self) -> DefaultGuard {
        tracing::subscriber::set_default(Registry::default().with(self))
    }

    fn panics_at(self, now: Self) {
        assert_ne!(self, now, "failed printing to stderr: Broken pipe");
    }
}

impl<S: tracing::Subscriber> Layer<S> for BrokenSpan {
    fn on_enter(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        self.panics_at(Self::Enter);
    }

    fn on_exit(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        self.panics_at(Self::Exit);
    }

    fn on_close(&self, _: tracing::span::Id, _: Context<'_, S>) {
        self.panics_at(Self::Close);
    }
}

/// A memory backend that fails and stalls on demand, and that can be looked into after `close`.
#[derive(Clone, Debug)]
pub(crate) struct Backstage(Arc<Stage>);

#[derive(Debug)]
struct Stage {
    memory: Memory,
    writes: AtomicUsize,
    writes_at_once: AtomicUsize,
    /// Each write passes here twice: a store whose calls wait for each other, in their order.
    turnstile: tokio::sync::Mutex<()>,
    /// What its one processor needs for writes and claims.
    needs: Mutex<Option<Needs>>,
    processor: tokio::sync::Mutex<()>,
    failed: AtomicUsize,
    failing: AtomicBool,
    /// Beats are written although everything else fails.
    beating: AtomicBool,
    beats: AtomicUsize,
    failed_once_more: Notify,
    /// How often what is stored was set back.
    went_back: AtomicUsize,
    gate: Semaphore,
    /// Writes that start an attempt wait while this is set.
    holding_starts: watch::Sender<bool>,
    starts_held: AtomicUsize,
    /// As above for claims, which have been made by then.
    holding_claims: watch::Sender<bool>,
    claims_held: AtomicUsize,
    /// Claims are made and not answered.
    failing_claims: AtomicBool,
    /// What these have taken: the next one that is answered brings it.
    unheard: Mutex<Vec<Task>>,
    /// Looks for orphans wait while this is set.
    holding_orphans: watch::Sender<bool>,
    /// Beats wait while this is set.
    holding_beats: watch::Sender<bool>,
    beats_held: AtomicUsize,
    /// It is set again by the next beat that passes.
    passing_one_beat: AtomicBool,
    holding_close: watch::Sender<bool>,
    /// As above for reads of one task.
    holding_reads: watch::Sender<bool>,
    reads_held: AtomicUsize,
    /// Reads of these tasks are refused for good.
    refused_reads: Mutex<Vec<TaskId>>,
    closed: AtomicBool,
    /// So many writes are done and not answered.
    lost_answers: AtomicUsize,
    /// A batch that brings an attempt of this function to its end is refused for good.
    refused_ends: Mutex<Option<&'static str>>,
    /// As above for one in which somebody says this.
    refused_words: Mutex<Option<&'static str>>,
    /// As above for one that brings a new task of it.
    refused_new: Mutex<Option<&'static str>>,
    /// A batch that brings a new task of this function waits.
    held_new: watch::Sender<Option<&'static str>>,
    /// So many writes panic.
    panics: AtomicUsize,
    /// What was in each write that was refused or panicked.
    spoilt: Mutex<Vec<Spoilt>>,
    /// Steps, claims and looks at records fail too.
    out: AtomicBool,
    failed_calls: AtomicUsize,
    /// So many steps of schedules are stale, as if somebody were faster.
    stale_steps: AtomicUsize,
    /// The next such call panics.
    panic_in: Mutex<Option<Call>>,
    /// Calls that can panic, in their order.
    calls: Mutex<Vec<Call>>,
    /// Which records were looked for.
    looked_for: Mutex<Vec<String>>,
    /// What becomes of records and steps.
    link: watch::Sender<Link>,
    /// A step that was given up, and is still on its way.
    late_step: Mutex<Option<Arc<Step>>>,
}

/// The time that a store needs which does one thing after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) call: Duration,
    /// For each task that is new, and for each change.
    pub(crate) written: Duration,
    pub(crate) claimed: Duration,
}

/// What can be made to panic once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Beat,
    Changed,
    Claim,
    Orphans,
    Prune,
    Records,
    Step,
}

/// How many there were of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spoilt {
    pub(crate) new: usize,
    pub(crate) changes: usize,
}

/// How records and steps are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Works,
    Fails,
    Hangs,
    /// Once more a step is done, and its answer does not come, nor anything else.
    FailsAfterStep,
    /// A step is done, and its answer comes when the link works again.
    AnswersLate,
    /// Once more a step is asked for and given up. It is done just before the next one.
    DoesLate,
}

impl Backstage {
    pub(crate) fn new() -> (Arc<dyn Backend>, Self) {
        let stage = Self(Arc::new(Stage {
            memory: Memory::default(),
            writes: AtomicUsize::new(0),
            writes_at_once: AtomicUsize::new(1),
            turnstile: tokio::sync::Mutex::default(),
            needs: Mutex::default(),
            processor: tokio::sync::Mutex::default(),
            failed: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            beating: AtomicBool::new(false),
            beats: AtomicUsize::new(0),
            failed_once_more: Notify::new(),
            went_back: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            holding_starts: watch::Sender::new(false),
            starts_held: AtomicUsize::new(0),
            holding_claims: watch::Sender::new(false),
            claims_held: AtomicUsize::new(0),
            failing_claims: AtomicBool::new(false),
            unheard: Mutex::default(),
            holding_orphans: watch::Sender::new(false),
            holding_beats: watch::Sender::new(false),
            beats_held: AtomicUsize::new(0),
            passing_one_beat: AtomicBool::new(false),
            holding_close: watch::Sender::new(false),
            holding_reads: watch::Sender::new(false),
            reads_held: AtomicUsize::new(0),
            refused_reads: Mutex::default(),
            closed: AtomicBool::new(false),
            lost_answers: AtomicUsize::new(0),
            refused_ends: Mutex::default(),
            refused_words: Mutex::default(),
            refused_new: Mutex::default(),
            held_new: watch::Sender::new(None),
            panics: AtomicUsize::new(0),
            spoilt: Mutex::default(),
            out: AtomicBool::new(false),
            failed_calls: AtomicUsize::new(0),
            stale_steps: AtomicUsize::new(0),
            panic_in: Mutex::default(),
            calls: Mutex::default(),
            looked_for: Mutex::default(),
            link: watch::Sender::new(Link::Works),
            late_step: Mutex::default(),
        }));
        (Arc::new(stage.clone()), stage)
    }

    pub(crate) fn writes(&self) -> usize {
        self.0.writes.load(Ordering::SeqCst)
    }

    /// To be called before the engine starts.
    pub(crate) fn take_writes_at_once(&self, n: usize) {
        self.0.writes_at_once.store(n, Ordering::SeqCst);
    }

    pub(crate) fn need(&self, needs: Needs) {
        *self.0.needs.lock().unwrap() = Some(needs);
    }

    async fn works(&self, time: impl FnOnce(Needs) -> Duration) {
        let needs = *self.0.needs.lock().unwrap();
        if let Some(needs) = needs {
            let _works = self.0.processor.lock().await;
            tokio::time::sleep(time(needs)).await;
        }
    }

    /// Lets no write through as long as this is kept.
    pub(crate) async fn block_turnstile(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turnstile.lock().await
    }

    pub(crate) fn fail(&self, failing: bool) {
        self.0.failing.store(failing, Ordering::SeqCst);
    }

    /// As a disk does that has room for a beat and for nothing else.
    pub(crate) fn fail_all_but_beats(&self) {
        self.0.beating.store(true, Ordering::SeqCst);
        self.fail(true);
    }

    pub(crate) fn beats(&self) -> usize {
        self.0.beats.load(Ordering::SeqCst)
    }

    pub(crate) async fn failed_writes(&self, n: usize) {
        until(async || (self.n_failed_writes() >= n).then_some(())).await;
    }

    pub(crate) fn n_failed_writes(&self) -> usize {
        self.0.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn stall(&self) {
        self.0.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn go_on(&self) {
        self.0.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(crate) fn hold_starts(&self, hold: bool) {
        self.0.holding_starts.send_replace(hold);
    }

    /// Returns once the write of a start waits.
    pub(crate) async fn start_held(&self) {
        until(async || (self.0.starts_held.load(Ordering::SeqCst) > 0).then_some(())).await;
    }

    pub(crate) fn hold_claims(&self, hold: bool) {
        self.0.holding_claims.send_replace(hold);
    }

    /// Returns once the answer to a claim waits.
    pub(crate) async fn claim_held(&self) {
        until(async || (self.0.claims_held.load(Ordering::SeqCst) > 0).then_some(())).await;
    }

    /// Also that which is held.
    pub(crate) fn fail_claims(&self, fail: bool) {
        self.0.failing_claims.store(fail, Ordering::SeqCst);
    }

    /// Returns once one that has taken a task has failed.
    pub(crate) async fn claim_lost(&self) {
        until(async || (!self.0.unheard.lock().unwrap().is_empty()).then_some(())).await;
    }

    /// From when it has begun to be closed, until it is told otherwise.
    pub(crate) fn hold_close(&self, hold: bool) {
        self.0.holding_close.send_replace(hold);
    }

    pub(crate) fn hold_orphans(&self, hold: bool) {
        self.0.holding_orphans.send_replace(hold);
    }

    pub(crate) fn hold_beats(&self, hold: bool) {
        self.0.holding_beats.send_replace(hold);
    }

    /// Returns once a beat waits.
    pub(crate) async fn beat_held(&self) {
        until(async || (self.0.beats_held.load(Ordering::SeqCst) > 0).then_some(())).await;
    }

    /// The one that waits is answered, and those after it wait.
    pub(crate) fn pass_one_beat(&self) {
        self.0.passing_one_beat.store(true, Ordering::SeqCst);
        self.hold_beats(false);
    }

    pub(crate) fn hold_reads(&self, hold: bool) {
        self.0.holding_reads.send_replace(hold);
    }

    /// Returns once a read of a task waits.
    pub(crate) async fn read_held(&self) {
        until(async || (self.0.reads_held.load(Ordering::SeqCst) > 0).then_some(())).await;
    }

    /// As a store does that cannot read what a newer program wrote.
    pub(crate) fn refuse_reads_of(&self, tasks: Vec<TaskId>) {
        *self.0.refused_reads.lock().unwrap() = tasks;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn lose_answers(&self, n: usize) {
        self.0.lost_answers.store(n, Ordering::SeqCst);
    }

    /// As a server that is not there.
    pub(crate) fn be_out(&self) {
        self.0.out.store(true, Ordering::SeqCst);
        self.fail(true);
    }

    /// Steps, claims and looks at records that have failed.
    pub(crate) fn failed_calls(&self) -> usize {
        self.0.failed_calls.load(Ordering::SeqCst)
    }

    pub(crate) fn overtake_schedules(&self, n: usize) {
        self.0.stale_steps.store(n, Ordering::SeqCst);
    }

    async fn answers(&self) -> Result<(), BackendError> {
        if !self.0.out.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.0.failed_calls.fetch_add(1, Ordering::SeqCst) > 10_000 {
            std::future::pending::<()>().await; // a loop that spins is seen, and does not hang the test
        }
        tokio::task::yield_now().await;
        Err(BackendError::unavailable("the store is out on demand"))
    }

    pub(crate) fn refuse_ends_of(&self, function: &'static str) {
        *self.0.refused_ends.lock().unwrap() = Some(function);
    }

    /// As a database does that cannot hold each character.
    pub(crate) fn refuse_words(&self, words: &'static str) {
        *self.0.refused_words.lock().unwrap() = Some(words);
    }

    pub(crate) fn hold_new(&self, function: Option<&'static str>) {
        self.0.held_new.send_replace(function);
    }

    pub(crate) fn refuse_new(&self, function: &'static str) {
        *self.0.refused_new.lock().unwrap() = Some(function);
    }

    pub(crate) fn panic_in_writes(&self, n: usize) {
        self.0.panics.store(n, Ordering::SeqCst);
    }

    /// The next such call panics.
    pub(crate) fn panic_in(&self, call: Call) {
        *self.0.panic_in.lock().unwrap() = Some(call);
    }

    /// How many there were.
    pub(crate) fn calls(&self, call: Call) -> usize {
        let calls = self.0.calls.lock().unwrap();
        calls.iter().filter(|it| **it == call).count()
    }

    /// How many looks there were for records whose names begin so.
    pub(crate) fn looks_for(&self, prefix: &str) -> usize {
        let looked_for = self.0.looked_for.lock().unwrap();
        looked_for
            .iter()
            .filter(|it| it.starts_with(prefix))
            .count()
    }

    fn called(&self, call: Call) {
        self.0.calls.lock().unwrap().push(call);
        let panics = self.0.panic_in.lock().unwrap().take_if(|it| *it == call);
        assert!(panics.is_none(), "on demand");
    }

    /// What was in the writes that were refused or panicked, in their order.
    pub(crate) fn spoilt(&self) -> Vec<Spoilt> {
        self.0.spoilt.lock().unwrap().clone()
    }

    pub(crate) fn link(&self, link: Link) {
        self.0.link.send_replace(link);
    }

    /// Returns once records and steps fail.
    pub(crate) async fn link_failed(&self) {
        until(async || (*self.0.link.borrow() == Link::Fails).then_some(())).await;
    }

    async fn reached(&self) -> Result<(), BackendError> {
        let mut link = self.0.link.subscribe();
        let link = *link.wait_for(|link| *link != Link::Hangs).await.unwrap();
        match link {
            Link::Fails => {
                self.0.failed_calls.fetch_add(1, Ordering::SeqCst);
                Err(BackendError::unavailable("the link fails on demand"))
            }
            _ => Ok(()),
        }
    }

    /// A record as it is stored, whatever becomes of the link.
    pub(crate) async fn record(&self, key: &str) -> Option<Record> {
        let query = RecordQuery {
            prefix: key.to_owned(),
            after: None,
            limit: 1,
        };
        self.0.memory.records(query).await.unwrap().pop()
    }

    /// Stores a record as somebody else would.
    pub(crate) async fn put(&self, change: RecordChange) {
        let mut step = Step::at(Timestamp::from_unix_ms(0));
        step.records.push(change);
        let stepped = self.0.memory.step(Arc::new(step)).await.unwrap();
        assert_ne!(stepped, Stepped::Stale);
    }

    /// Writes as somebody else would.
    pub(crate) async fn write_behind(&self, change: Change) {
        let mut batch = Batch::at(change.life.run_at);
        batch.changes.push(change);
        let written = self.0.memory.write(Arc::new(batch)).await.unwrap();
        assert_eq!(written.changes, [Applied::Applied]);
    }

    /// Sets a task back to an earlier life, as a store does that has lost its last writes; nobody is told yet.
    pub(crate) async fn set_back(&self, task: &Task, life: Life) {
        let now = self.task(task.id).await.life;
        let mut change = Change::released(&Task::new(task.id, &*task.name, "[]")).unwrap();
        change.expects = (now.status, now.epoch);
        change.held_by = HeldBy::now(now.owner);
        change.life = life;
        self.write_behind(change).await;
    }

    /// The engine may know from now on that something was set back.
    pub(crate) fn tell_that_it_went_back(&self) {
        self.0.went_back.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes an instance for dead, by its last beat.
    pub(crate) async fn supersede_now(&self, id: InstanceId) {
        let peers = self.0.memory.instances().await.unwrap();
        let peer = peers.into_iter().find(|peer| peer.instance.id == id);
        let beat_at = peer.unwrap().beat_at;
        self.0.memory.supersede(id, beat_at).await.unwrap();
    }

    /// Stores a task as somebody else would.
    pub(crate) async fn store(&self, task: &Task) {
        let mut batch = Batch::at(task.life.run_at);
        batch.tasks.push(Arc::new(task.clone()));
        let written = self.0.memory.write(Arc::new(batch)).await.unwrap();
        assert_eq!(written.tasks, [Enqueued::Created]);
    }

    pub(crate) async fn task(&self, id: TaskId) -> Task {
        self.0.memory.get(id).await.unwrap().unwrap()
    }
}

impl Backend for Backstage {
    fn describe(&self) -> String {
        "a store for tests".to_owned()
    }

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        self.0.memory.join(instance)
    }

    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        Box::pin(async move {
            self.called(Call::Beat);
            if self.0.failing.load(Ordering::SeqCst) && !self.0.beating.load(Ordering::SeqCst) {
                return Err(BackendError::unavailable("the store fails on demand"));
            }
            let mut holding = self.0.holding_beats.subscribe();
            let held = usize::from(*holding.borrow());
            self.0.beats_held.fetch_add(held, Ordering::SeqCst);
            holding.wait_for(|holding| !holding).await.unwrap();
            if self.0.passing_one_beat.swap(false, Ordering::SeqCst) {
                self.hold_beats(true);
            }
            self.0.beats.fetch_add(1, Ordering::SeqCst);
            self.0.memory.beat(id, now).await
        })
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        self.0.memory.instances()
    }

    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        self.0.memory.supersede(id, seen_beat_at)
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        self.0.memory.leave(id)
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        Box::pin(async move {
            self.0.writes.fetch_add(1, Ordering::SeqCst);
            drop(self.0.turnstile.lock().await);
            drop(self.0.turnstile.lock().await);
            let n = u32::try_from(batch.tasks.len() + batch.changes.len()).unwrap();
            self.works(|needs| needs.call + needs.written * n).await;
            let _open = self.0.gate.acquire().await.unwrap();
            let starts = |change: &Change| change.life.status == TaskStatus::Running;
            if *self.0.holding_starts.borrow() && batch.changes.iter().any(starts) {
                self.0.starts_held.fetch_add(1, Ordering::SeqCst);
                let mut holding = self.0.holding_starts.subscribe();
                holding.wait_for(|holding| !holding).await.unwrap();
            }
            let brings = |function: Option<&str>| {
                let mut tasks = batch.tasks.iter();
                function.is_some_and(|it| tasks.any(|task| task.name.contains(it)))
            };
            let mut held_new = self.0.held_new.subscribe();
            held_new.wait_for(|held| !brings(*held)).await.unwrap();
            if self.0.failing.load(Ordering::SeqCst) {
                if self.0.failed.fetch_add(1, Ordering::SeqCst) > 10_000 {
                    std::future::pending::<()>().await; // a loop that spins is seen, and does not hang the test
                }
                self.0.failed_once_more.notify_waiters();
                return Err(BackendError::unavailable("the store fails on demand"));
            }
            let spoilt = Spoilt {
                new: batch.tasks.len(),
                changes: batch.changes.len(),
            };
            let one_less = |n: usize| n.checked_sub(1);
            let panics = &self.0.panics;
            let panics = panics.try_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            if panics.is_ok() {
                self.0.spoilt.lock().unwrap().push(spoilt);
                panic!("on demand");
            }
            let ends = *self.0.refused_ends.lock().unwrap();
            let ends = batch.changes.iter().any(|change| {
                (change.life.status.is_terminal() || change.ended.is_some())
                    && ends.is_some_and(|it| change.name.contains(it))
            });
            let words = *self.0.refused_words.lock().unwrap();
            let says = words.is_some_and(|words| format!("{:?}", batch.changes).contains(words));
            let new = *self.0.refused_new.lock().unwrap();
            if ends || says || brings(new) {
                self.0.spoilt.lock().unwrap().push(spoilt);
                return Err(BackendError::refused("this will never be stored"));
            }
            let written = self.0.memory.write(batch).await;
            let lost = &self.0.lost_answers;
            match lost.try_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
                Ok(_) => Err(BackendError::unavailable("the answer was lost")),
                Err(_) => written,
            }
        })
    }

    fn writes_at_once(&self) -> usize {
        self.0.writes_at_once.load(Ordering::SeqCst)
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        Box::pin(async move {
            self.called(Call::Step);
            self.answers().await?;
            self.reached().await?;
            let mut records = step.records.iter();
            let is_of_schedule = records.any(|record| record.key.starts_with("schedule:"));
            let one_less = |n: usize| n.checked_sub(1);
            let stale = &self.0.stale_steps;
            if is_of_schedule
                && let Ok(_) = stale.try_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            {
                return Ok(Stepped::Stale);
            }
            if *self.0.link.borrow() == Link::DoesLate {
                *self.0.late_step.lock().unwrap() = Some(step);
                self.link(Link::Works);
                return Err(BackendError::unavailable("it takes too long"));
            }
            let late = self.0.late_step.lock().unwrap().take();
            if let Some(late) = late {
                self.0.memory.step(late).await?;
            }
            let stepped = self.0.memory.step(step).await;
            if *self.0.link.borrow() == Link::FailsAfterStep {
                self.link(Link::Fails);
                return Err(BackendError::unavailable("the answer was lost"));
            }
            let mut link = self.0.link.subscribe();
            let is_late = |link: &Link| *link == Link::AnswersLate;
            link.wait_for(|link| !is_late(link)).await.unwrap();
            stepped
        })
    }

    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        self.0.memory.ahead(query)
    }

    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        Box::pin(async move {
            self.called(Call::Records);
            let looked_for = query.prefix.clone();
            self.0.looked_for.lock().unwrap().push(looked_for);
            self.answers().await?;
            self.reached().await?;
            self.0.memory.records(query).await
        })
    }

    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        Box::pin(async move {
            self.called(Call::Claim);
            self.answers().await?;
            let mut claimed = self.0.memory.claim(claim).await?;
            let n = u32::try_from(claimed.tasks.len()).unwrap();
            self.works(|needs| needs.call + needs.claimed * n).await;
            if *self.0.holding_claims.borrow() {
                self.0.claims_held.fetch_add(1, Ordering::SeqCst);
                let mut holding = self.0.holding_claims.subscribe();
                holding.wait_for(|holding| !holding).await.unwrap();
            }
            let mut unheard = self.0.unheard.lock().unwrap();
            unheard.append(&mut claimed.tasks);
            if self.0.failing_claims.load(Ordering::SeqCst) {
                return Err(BackendError::unavailable("claims fail on demand"));
            }
            claimed.tasks = std::mem::take(&mut unheard);
            Ok(claimed)
        })
    }

    fn went_back(&self) -> u64 {
        self.0.went_back.load(Ordering::SeqCst) as u64
    }

    fn held(&self, owner: InstanceId) -> BackendFuture<'_, Vec<TaskId>> {
        self.0.memory.held(owner)
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        self.called(Call::Orphans);
        Box::pin(async move {
            let mut holding = self.0.holding_orphans.subscribe();
            holding.wait_for(|holding| !holding).await.unwrap();
            self.0.memory.orphans(limit).await
        })
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        Box::pin(async move {
            let mut holding = self.0.holding_reads.subscribe();
            let held = usize::from(*holding.borrow());
            self.0.reads_held.fetch_add(held, Ordering::SeqCst);
            holding.wait_for(|holding| !holding).await.unwrap();
            if self.0.refused_reads.lock().unwrap().contains(&id) {
                return Err(BackendError::refused("nobody can read this task"));
            }
            self.0.memory.get(id).await
        })
    }

    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        self.0.memory.list(query)
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        self.0.memory.logs(id, skip, limit)
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        self.0.memory.counts()
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        self.0.memory.series(since)
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        self.0.memory.audit(before, limit)
    }

    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        self.called(Call::Prune);
        self.0.memory.prune(prune)
    }

    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        self.called(Call::Changed);
        self.0.memory.changed(seen)
    }

    fn close(&self) -> BackendFuture<'_, ()> {
        self.0.closed.store(true, Ordering::SeqCst);
        let mut holding = self.0.holding_close.subscribe();
        Box::pin(async move {
            let _ = holding.wait_for(|hold| !hold).await; // or the test is over
            Ok(())
        })
    }
}
