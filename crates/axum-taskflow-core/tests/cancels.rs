//! Cancelling what runs at another instance.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    AddTask, Backend, Becomes, Cancelled, Change, Config, Data, ErrorKind, Failure, FailureKind,
    IdSource, Instance, InstanceId, Outcome, RecordChange, RetryPolicy, Role, Task, TaskContext,
    TaskDef, TaskId, TaskManager, TaskStatus,
};
use futures_util::poll;
use support::{Backstage, Link, config, settled, start, until};
use tokio::{sync::Notify, time::Instant};

/// As long as a call waits for the other instance.
const PATIENCE: Duration = Duration::from_secs(5);
/// Much less than it takes to look without a hint.
const SOON: Duration = Duration::from_secs(1);

/// What functions tell, and what they are told.
#[derive(Clone, Debug, Default)]
struct Signals {
    begun: Arc<Notify>,
    returns: Arc<AtomicBool>,
}

async fn endless(Data(signals): Data<Signals>) -> Result<(), Failure> {
    signals.begun.notify_one();
    std::future::pending().await
}

/// Fails at first.
async fn endless_at_last(Data(signals): Data<Signals>, ctx: TaskContext) -> Result<(), Failure> {
    match ctx.attempt() {
        1 => Err(Failure::retry("not yet")),
        _ => endless(Data(signals)).await,
    }
}

/// Looks at its token when it is let, and not before.
fn deaf(Data(signals): Data<Signals>, ctx: TaskContext) -> Result<(), Failure> {
    signals.begun.notify_one();
    while !signals.returns.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    match ctx.is_cancelled() {
        true => Err(Failure::retry("told to stop")),
        false => Ok(()),
    }
}

/// What somebody asks for, by its name.
fn ask(key: String) -> RecordChange {
    RecordChange {
        key,
        expects: 0,
        becomes: Becomes::Value("\"somebody\"".into()),
    }
}

struct Cluster {
    store: Arc<dyn Backend>,
    stage: Backstage,
    signals: Signals,
}

impl Cluster {
    fn new() -> Self {
        let (store, stage) = Backstage::new();
        Self {
            store,
            stage,
            signals: Signals::default(),
        }
    }

    fn config(&self, role: Role) -> Config {
        let mut config = config();
        config.backend = self.store.clone();
        config.add_timeout = PATIENCE;
        config.role = role;
        config.state(self.signals.clone());
        config.tasks = vec![
            TaskDef::new(endless).name("endless"),
            TaskDef::new(deaf).name("deaf"),
        ];
        config
    }

    /// One that runs tasks.
    async fn worker(&self) -> TaskManager {
        start(self.config(Role::Both)).await
    }

    /// One that runs none.
    async fn web(&self) -> TaskManager {
        start(self.config(Role::Web)).await
    }

    async fn begun(&self, add: AddTask<'_>) -> TaskId {
        let id = add.retries(3).await.unwrap();
        self.signals.begun.notified().await;
        id
    }

    /// A task that runs at an instance which lives, and of which nothing is heard.
    async fn runs_elsewhere(&self, requeue: bool) -> (InstanceId, Task) {
        let (ids, now) = (
            IdSource::default(),
            axum_taskflow_core::Clock::system().now(),
        );
        let owner = ids.instance(now);
        self.store.join(Instance::new(owner, now)).await.unwrap();
        let mut task = Task::new(ids.task(now), "endless", "[]");
        task.requeue_on_interrupt = requeue;
        task.life = Change::started(&task, owner, now).unwrap().life;
        self.stage.store(&task).await;
        (owner, task)
    }

    async fn status(&self, id: TaskId) -> TaskStatus {
        self.stage.task(id).await.life.status
    }

    async fn comes_to(&self, id: TaskId, status: TaskStatus) {
        until(async || (self.status(id).await == status).then_some(())).await;
    }

    async fn nothing_is_asked(&self) {
        until(async || self.stage.record("cancel:").await.is_none().then_some(())).await;
    }

    async fn is_asked(&self) {
        until(async || self.stage.record("cancel:").await.map(drop)).await;
    }
}

// ---- what is asked is done -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_task_is_cancelled_from_any_instance_as_by_the_one_that_runs_it() {
    let cluster = Cluster::new();
    let worker = cluster.worker().await;
    for role in [Role::Both, Role::Web] {
        let other = start(cluster.config(role)).await;
        settled().await;
        let id = cluster.begun(worker.add_task(endless, ())).await;
        let asked_at = Instant::now();

        assert_eq!(other.cancel(id).await.unwrap(), Cancelled::Asked);

        cluster.comes_to(id, TaskStatus::Cancelled).await;
        assert!(asked_at.elapsed() < SOON, "by a hint, and not by a look");
        let life = cluster.stage.task(id).await.life;
        let error = life.error.unwrap();
        assert_eq!((life.attempt, life.owner), (1, None), "not repeated");
        assert_eq!(error.kind, FailureKind::Cancelled);
        assert_eq!(error.message, "cancelled while it ran");
        cluster.nothing_is_asked().await;
        let again = other.cancel(id).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict);
        other.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn one_that_does_not_stop_may_be_asked_again_and_is_not_repeated() {
    let cluster = Cluster::new();
    let (worker, other) = (cluster.worker().await, cluster.web().await);
    let id = cluster.begun(worker.add_task(deaf, ())).await;

    for _ in 0..2 {
        assert_eq!(other.cancel(id).await.unwrap(), Cancelled::Asked);
        assert_eq!(cluster.status(id).await, TaskStatus::Running);
        cluster.nothing_is_asked().await;
    }
    cluster.signals.returns.store(true, Ordering::SeqCst);

    cluster.comes_to(id, TaskStatus::Cancelled).await;
    assert_eq!(cluster.stage.task(id).await.life.attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_once_are_answered() {
    let cluster = Cluster::new();
    let worker = cluster.worker().await;
    let others = [cluster.web().await, cluster.worker().await];
    let id = cluster.begun(worker.add_task(endless, ())).await;

    let [one, two] = &others;
    let (first, second, third) = tokio::join!(one.cancel(id), two.cancel(id), two.cancel(id));

    for told in [first, second, third] {
        assert_eq!(told.unwrap(), Cancelled::Asked);
    }
    cluster.comes_to(id, TaskStatus::Cancelled).await;
    cluster.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_is_on_its_way_brings_a_task_that_is_cancelled_at_once() {
    for is_alone in [true, false] {
        let cluster = Cluster::new();
        let mut others = Vec::new();
        if !is_alone {
            others.push(cluster.web().await); // else nobody is told anything
        }
        let now = axum_taskflow_core::Clock::system().now();
        let task = Task::new(IdSource::default().task(now), "endless", "[]");
        let id = task.id;
        cluster.stage.hold_claims(true);
        cluster.stage.store(&task).await;
        let worker = cluster.worker().await;
        cluster.stage.claim_held().await;
        cluster.comes_to(id, TaskStatus::Running).await; // and the worker does not know it

        let asking = others.first().unwrap_or(&worker);
        let mut cancelled = pin!(asking.cancel(id));
        assert!(poll!(&mut cancelled).is_pending());
        cluster.is_asked().await;
        tokio::time::sleep(SOON).await; // it looks
        let asked = cluster.stage.record("cancel:").await;
        assert!(asked.is_some(), "that would be an answer");
        cluster.stage.hold_claims(false);
        let released_at = Instant::now();

        assert_eq!(cancelled.await.unwrap(), Cancelled::Asked);
        assert!(released_at.elapsed() < SOON * 2, "it has looked again");
        cluster.comes_to(id, TaskStatus::Cancelled).await;
        cluster.nothing_is_asked().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_without_a_hint_is_seen_by_a_look() {
    let cluster = Cluster::new();
    let worker = cluster.worker().await; // alone: nobody is told
    let id = cluster.begun(worker.add_task(endless, ())).await;
    settled().await;
    let (me, epoch) = (
        worker.instance().id,
        cluster.stage.task(id).await.life.epoch,
    );

    let key = format!("cancel:{me}:{id}:{epoch}");
    cluster.stage.put(ask(key)).await;

    cluster.comes_to(id, TaskStatus::Cancelled).await;
    cluster.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_of_an_attempt_cancels_no_later_one_at_the_same_instance() {
    let cluster = Cluster::new();
    let worker = cluster.worker().await;
    let id = worker.add_task(endless_at_last, ()).retries(1);
    let id = id.delay(Duration::ZERO).await.unwrap();
    cluster.signals.begun.notified().await;
    let (me, life) = (worker.instance().id, cluster.stage.task(id).await.life);
    assert_eq!((life.attempt, life.epoch.get()), (2, 2));

    cluster.stage.put(ask(format!("cancel:{me}:{id}:1"))).await;

    cluster.nothing_is_asked().await;
    tokio::time::sleep(SOON).await;
    assert_eq!(cluster.stage.task(id).await.life, life);
}

// ---- whom nobody hears ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn who_is_not_heard_is_told_so_and_no_later_attempt_is_cancelled_by_that() {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let (_, mut task) = cluster.runs_elsewhere(false).await;
    let asked_at = Instant::now();

    for n in 1..=2 {
        assert_eq!(other.cancel(task.id).await.unwrap(), Cancelled::Sent);
        assert!(asked_at.elapsed() >= PATIENCE * n);
        assert!(asked_at.elapsed() < PATIENCE * n + SOON);
    }
    cluster.is_asked().await;
    let fails = Outcome::Failed(Failure::retry("no"));
    let policy = RetryPolicy {
        retries: 1,
        ..RetryPolicy::default()
    };
    let change = Change::finished(&task, fails, &policy, 0.0, other.now()).unwrap();
    task.life = change.life.clone();
    cluster.stage.write_behind(change).await;
    let worker = cluster.worker().await;
    cluster.signals.begun.notified().await;

    cluster.nothing_is_asked().await;
    tokio::time::sleep(PATIENCE * 4).await;
    let life = cluster.stage.task(task.id).await.life;
    assert_eq!((life.status, life.attempt), (TaskStatus::Running, 2));
    assert_eq!(life.owner, Some(worker.instance().id));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_hear_any_more_is_cleared_away_while_the_rest_stays() {
    let cluster = Cluster::new();
    let (_worker, other) = (cluster.worker().await, cluster.web().await);
    settled().await; // it has looked at its start
    let (owner, over) = cluster.runs_elsewhere(false).await;
    let (_, goes_on) = cluster.runs_elsewhere(false).await;
    let (first, second) = tokio::join!(other.cancel(over.id), other.cancel(goes_on.id));
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (Cancelled::Sent, Cancelled::Sent)
    );

    cluster.stage.supersede_now(owner).await;
    cluster.comes_to(over.id, TaskStatus::Interrupted).await;
    tokio::time::sleep(Duration::from_secs(800)).await;

    let left = cluster.stage.record("cancel:").await.unwrap();
    assert!(left.key.contains(&goes_on.id.to_string()), "{}", left.key);
    let done = Outcome::Done(None);
    let change = Change::finished(&goes_on, done, &RetryPolicy::default(), 0.0, other.now());
    cluster.stage.write_behind(change.unwrap()).await;
    tokio::time::sleep(Duration::from_secs(800)).await;
    assert_eq!(cluster.stage.record("cancel:").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_cleared_away_yet_keeps_nothing_else_from_it() {
    let cluster = Cluster::new();
    let (ids, now) = (
        IdSource::default(),
        axum_taskflow_core::Clock::system().now(),
    );
    let owner = ids.instance(now);
    let tasks = [ids.task(now), ids.task(now)];
    let keys = tasks.map(|task| format!("cancel:{owner}:{task}:1"));
    for key in &keys {
        cluster.stage.put(ask(key.clone())).await;
    }
    cluster.stage.refuse_reads_of(vec![tasks[0]]); // whose record is the first

    let _worker = cluster.worker().await;

    until(async || cluster.stage.record(&keys[1]).await.is_none().then_some(())).await;
    cluster.is_asked().await;
    cluster.stage.refuse_reads_of(Vec::new());
    tokio::time::sleep(Duration::from_secs(800)).await;
    cluster.nothing_is_asked().await;
}

// ---- meanwhile ------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_before_it_was_told_is_what_it_came_to() {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let (_, task) = cluster.runs_elsewhere(false).await;
    let mut cancelled = pin!(other.cancel(task.id));
    assert!(poll!(&mut cancelled).is_pending());
    cluster.is_asked().await;

    let done = Outcome::Done(None);
    let change = Change::finished(&task, done, &RetryPolicy::default(), 0.0, other.now());
    cluster.stage.write_behind(change.unwrap()).await;

    let told = cancelled.await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Conflict);
    assert!(told.to_string().ends_with("is success"), "{told}");
    cluster.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn that_a_wish_is_gone_is_an_answer_only_if_the_attempt_goes_on_afterwards() {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let (_, task) = cluster.runs_elsewhere(false).await;
    let mut cancelled = pin!(other.cancel(task.id));
    assert!(poll!(&mut cancelled).is_pending());
    let asked = cluster.stage.record("cancel:").await.unwrap();
    cluster.stage.link(Link::Hangs);
    let looks = tokio::time::timeout(SOON, &mut cancelled).await;
    looks.unwrap_err(); // and waits in the middle of it

    let done = Outcome::Done(None);
    let change = Change::finished(&task, done, &RetryPolicy::default(), 0.0, other.now());
    cluster.stage.write_behind(change.unwrap()).await;
    let away = RecordChange {
        key: asked.key,
        expects: asked.version,
        becomes: Becomes::Gone,
    };
    cluster.stage.put(away).await; // unheard, since it was over
    cluster.stage.link(Link::Works);

    let told = cancelled.await.unwrap_err();
    assert!(told.to_string().ends_with("is success"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_a_dying_instance_follows_the_task_to_the_next_one() {
    let cluster = Cluster::new();
    let (worker, other) = (cluster.worker().await, cluster.web().await);
    let (owner, task) = cluster.runs_elsewhere(true).await;
    let mut cancelled = pin!(other.cancel(task.id));
    assert!(poll!(&mut cancelled).is_pending());
    cluster.is_asked().await;

    cluster.stage.supersede_now(owner).await;

    let told = cancelled.await.unwrap();
    assert!(
        matches!(told, Cancelled::Now | Cancelled::Asked),
        "{told:?}"
    );
    cluster.comes_to(task.id, TaskStatus::Cancelled).await;
    cluster.nothing_is_asked().await;
    drop(worker);
}

#[tokio::test(start_paused = true)]
async fn one_that_its_death_has_ended_is_interrupted_and_not_cancelled() {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let (owner, task) = cluster.runs_elsewhere(false).await;
    let mut cancelled = pin!(other.cancel(task.id));
    assert!(poll!(&mut cancelled).is_pending());
    cluster.is_asked().await;

    cluster.stage.supersede_now(owner).await;

    let told = cancelled.await.unwrap_err();
    assert!(told.to_string().ends_with("is interrupted"), "{told}");
    assert_eq!(cluster.status(task.id).await, TaskStatus::Interrupted);
    cluster.nothing_is_asked().await;
}

// ---- a store that fails --------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn who_cannot_ask_hears_why() {
    let cluster = Cluster::new();
    let (worker, other) = (cluster.worker().await, cluster.web().await);
    let id = cluster.begun(worker.add_task(endless, ())).await;

    for (link, kind) in [
        (Link::Fails, ErrorKind::Unavailable),
        (Link::Hangs, ErrorKind::TimedOut),
    ] {
        cluster.stage.link(link);
        let asked_at = Instant::now();
        assert_eq!(other.cancel(id).await.unwrap_err().kind(), kind);
        assert!(asked_at.elapsed() < PATIENCE + SOON);
        cluster.stage.link(Link::Works);
        cluster.nothing_is_asked().await;
        assert_eq!(
            cluster.status(id).await,
            TaskStatus::Running,
            "nothing half"
        );
    }

    assert_eq!(other.cancel(id).await.unwrap(), Cancelled::Asked);
    cluster.comes_to(id, TaskStatus::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_and_not_answered_by_the_store_is_done_once_that_is_back() {
    let cluster = Cluster::new();
    let (worker, other) = (cluster.worker().await, cluster.web().await);
    let id = cluster.begun(worker.add_task(endless, ())).await;
    settled().await;

    cluster.stage.link(Link::FailsAfterStep);
    let told = other.cancel(id).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable);
    tokio::time::sleep(SOON).await;
    assert_eq!(cluster.status(id).await, TaskStatus::Running);
    cluster.stage.link(Link::Works);

    cluster.comes_to(id, TaskStatus::Cancelled).await;
    cluster.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn who_knows_that_his_wish_is_stored_is_told_so_although_the_store_does_not_answer_at_the_end()
 {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let (_, task) = cluster.runs_elsewhere(false).await;
    let asked_at = Instant::now();
    let mut cancelled = pin!(other.cancel(task.id));
    assert!(poll!(&mut cancelled).is_pending());
    cluster.is_asked().await;

    cluster.stage.link(Link::Hangs);

    assert_eq!(cancelled.await.unwrap(), Cancelled::Sent);
    assert!(asked_at.elapsed() < PATIENCE + SOON);
    cluster.stage.link(Link::Works);
}

#[tokio::test(start_paused = true)]
async fn that_the_store_is_slow_to_take_one_answer_keeps_no_other_attempt_running() {
    let cluster = Cluster::new();
    let worker = cluster.worker().await;
    let me = worker.instance().id;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(cluster.begun(worker.add_task(endless, ())).await);
    }
    settled().await;

    cluster.stage.link(Link::AnswersLate);
    for id in &ids {
        cluster.stage.put(ask(format!("cancel:{me}:{id}:1"))).await;
    }

    for id in ids {
        cluster.comes_to(id, TaskStatus::Cancelled).await;
    }
    cluster.is_asked().await;
    cluster.stage.link(Link::Works);
    cluster.nothing_is_asked().await;
}

// ---- a shutdown -----------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_still_runs_during_a_shutdown_can_be_cancelled_from_elsewhere() {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let mut patient = cluster.config(Role::Both);
    patient.shutdown_timeout = PATIENCE * 10;
    let worker = start(patient).await;
    let id = cluster.begun(worker.add_task(endless, ())).await;
    let mut drained = pin!(worker.drain());
    assert!(poll!(&mut drained).is_pending());
    settled().await;
    let asked_at = Instant::now();

    let cancel = async { other.cancel(id).await.unwrap() };
    let (cancelled, ()) = tokio::join!(cancel, drained);

    assert_eq!(cancelled, Cancelled::Asked);
    assert!(
        asked_at.elapsed() < SOON,
        "and nobody waits for the deadline"
    );
    assert_eq!(cluster.status(id).await, TaskStatus::Cancelled);
    worker.shutdown().await.unwrap();
    cluster.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn who_shuts_down_while_he_waits_for_an_answer_has_asked() {
    let cluster = Cluster::new();
    let other = cluster.web().await;
    let (_, task) = cluster.runs_elsewhere(false).await;
    let mut cancelled = pin!(other.cancel(task.id));
    assert!(poll!(&mut cancelled).is_pending());
    cluster.is_asked().await;
    let asked_at = Instant::now();

    other.shutdown().await.unwrap();

    assert_eq!(cancelled.await.unwrap(), Cancelled::Sent);
    assert!(asked_at.elapsed() < SOON);
}

// ---- what it costs --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn nobody_looks_where_nothing_runs_and_seldom_where_much_happens() {
    let cluster = Cluster::new();
    let (worker, other) = (cluster.worker().await, cluster.web().await);
    settled().await;
    tokio::time::sleep(SOON).await;
    let looks = || cluster.stage.looks_for("cancel:");

    let before = looks();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(looks(), before, "nothing happens");

    let id = cluster.begun(worker.add_task(endless, ())).await;
    let before = looks();
    for _ in 0..1_000 {
        drop(other.lock("door").acquire().await.unwrap()); // which all are told
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let n_looks = looks() - before;
    assert!((5..30).contains(&n_looks), "{n_looks} in about a second");
    assert_eq!(other.cancel(id).await.unwrap(), Cancelled::Asked);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_looks_seldom_where_much_happens() {
    let cluster = Cluster::new();
    let (other, busy) = (cluster.web().await, cluster.web().await);
    let (_, task) = cluster.runs_elsewhere(false).await;
    let much_happens = async {
        for _ in 0..2 * PATIENCE.as_millis() {
            drop(busy.lock("door").acquire().await.unwrap()); // which all are told
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let before = cluster.stage.looks_for("cancel:");

    tokio::select! {
        told = other.cancel(task.id) => assert_eq!(told.unwrap(), Cancelled::Sent),
        () = much_happens => panic!("nobody gives up"),
    }

    let n_looks = cluster.stage.looks_for("cancel:") - before;
    assert!((30..100).contains(&n_looks), "{n_looks} in {PATIENCE:?}");
}

#[tokio::test(start_paused = true)]
async fn while_the_store_fails_nobody_begins_to_clear_away_at_each_hint() {
    let cluster = Cluster::new();
    let (_worker, _other) = (cluster.worker().await, cluster.web().await);
    settled().await;
    cluster.stage.link(Link::Fails);
    tokio::time::sleep(Duration::from_secs(800)).await; // it is time to do so
    let before = cluster.stage.looks_for("cancel:");

    for n in 0..1_000 {
        cluster.stage.put(ask(format!("x:{n}"))).await; // which all are told
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let n_looks = cluster.stage.looks_for("cancel:") - before;
    assert!((5..15).contains(&n_looks), "{n_looks} in about a second");
}
