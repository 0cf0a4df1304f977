//! What a check works with: the store, a time that it moves by hand, and the usual writes in one line.

use std::{cell::Cell, collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use super::Opened;
use crate::{
    backend::{
        Applied, Backend, Batch, Claim, Claimed, Enqueued, Instance, ListQuery, Minute, Note,
        Prune, Record, RecordQuery, Said, Step, Stepped, Written,
    },
    change::{Change, Outcome},
    clock::Timestamp,
    failure::Failure,
    id::{IdSource, InstanceId, TaskId},
    retry::RetryPolicy,
    status::{Refused, TaskStatus},
    task::{IdempotencyKey, LogLevel, LogLine, Progress, Task},
};

/// Opens an empty store.
pub(super) type Open<'a> = dyn Fn() -> Pin<Box<dyn Future<Output = Opened> + 'a>> + 'a;

/// In the middle of a minute, so that half a minute fits on both sides.
const START: Timestamp =
    Timestamp::from_unix_ms(1_795_300_000_000 - 1_795_300_000_000 % 60_000 + 30_000);

/// Tried again for ever, one second after each failure.
const RETRIED: RetryPolicy = RetryPolicy {
    retries: u32::MAX,
    delay: Duration::from_secs(1),
    backoff: 1.0,
    max_delay: Duration::from_secs(1),
    jitter: 0.0,
};

/// Never tried again.
const TRIED_ONCE: RetryPolicy = RetryPolicy {
    retries: 0,
    ..RETRIED
};

pub(super) struct Bench<'a> {
    pub(super) backend: Arc<dyn Backend>,
    /// The instance that joined the store.
    pub(super) me: InstanceId,
    ids: IdSource,
    now: Cell<Timestamp>,
    open: &'a Open<'a>,
    opened: Opened,
}

impl<'a> Bench<'a> {
    pub(super) async fn open(open: &'a Open<'a>) -> Self {
        let opened = open().await;
        let ids = IdSource::default();
        let me = ids.instance(START);
        let mut instance = Instance::new(me, START);
        instance.host = "conformance".to_owned();
        opened
            .backend
            .join(instance)
            .await
            .expect("an instance can join");
        Self {
            backend: opened.backend.clone(),
            me,
            ids,
            now: Cell::new(START),
            open,
            opened,
        }
    }

    /// Another store, empty.
    pub(super) async fn another(&self) -> Bench<'a> {
        Self::open(self.open).await
    }

    /// Closes the store, and then drops what it lay in.
    pub(super) async fn close(self) {
        // An error: the check has closed it before.
        let _ = self.backend.close().await;
        let Opened { backend, kept } = self.opened;
        drop((self.backend, backend));
        drop(kept);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now.get()
    }

    pub(super) fn advance(&self, by: Duration) {
        self.now.set(self.now().saturating_add(by));
    }

    pub(super) fn after(&self, by: Duration) -> Timestamp {
        self.now().saturating_add(by)
    }

    pub(super) fn id(&self) -> TaskId {
        self.ids.task(self.now())
    }

    /// The name of an instance that never joined: a process elsewhere.
    pub(super) fn stranger(&self) -> InstanceId {
        self.ids.instance(self.now())
    }

    /// Another instance, which has joined.
    pub(super) async fn peer(&self) -> InstanceId {
        let id = self.stranger();
        let joined = self.backend.join(Instance::new(id, self.now())).await;
        joined.expect("an instance can join");
        id
    }

    /// A task that is due now.
    pub(super) fn task(&self, name: &str) -> Task {
        Task::new(self.id(), name, "[]")
    }

    /// A task of which one answer may have no room for two.
    pub(super) fn large(&self, name: &str) -> Task {
        Task::new(self.id(), name, format!("[{:?}]", "x".repeat(3 << 20)))
    }

    pub(super) fn keyed(&self, key: &str, ttl: Duration) -> Task {
        let mut task = self.task("f");
        task.idempotency_key = Some(IdempotencyKey {
            key: key.to_owned(),
            ttl,
        });
        task
    }

    /// A task of this name that belongs to the instance.
    pub(super) fn owned(&self, name: &str) -> Task {
        let mut task = self.task(name);
        task.life.owner = Some(self.me);
        task
    }

    pub(super) fn batch(&self) -> Batch {
        Batch::at(self.now())
    }

    pub(super) async fn write(&self, batch: Batch) -> Written {
        let sent = (batch.tasks.len(), batch.changes.len());
        let written = self.backend.write(Arc::new(batch)).await;
        let written = written.expect("a batch can be written");
        let answered = (written.tasks.len(), written.changes.len());
        assert_eq!(answered, sent, "each task and change has one answer");
        written
    }

    pub(super) async fn step(&self, step: Step) -> Stepped {
        let sent = (step.records.len(), step.tasks.len());
        let stepped = self.backend.step(Arc::new(step)).await;
        let stepped = stepped.expect("a step is answered");
        if let Stepped::Done { versions, tasks } = &stepped {
            let answered = (versions.len(), tasks.len());
            assert_eq!(answered, sent, "each record and task has one answer");
        }
        stepped
    }

    pub(super) async fn record(&self, key: &str) -> Option<Record> {
        let query = RecordQuery {
            prefix: key.to_owned(),
            after: None,
            limit: 1,
        };
        let records = self.backend.records(query).await;
        let first = records.expect("records can be read").into_iter().next();
        first.filter(|record| record.key == key)
    }

    pub(super) async fn enqueue(&self, task: &Task) -> Enqueued {
        let mut batch = self.batch();
        batch.tasks.push(Arc::new(task.clone()));
        self.write(batch).await.tasks.remove(0)
    }

    pub(super) async fn add_one(&self, task: &Task) {
        self.add(std::slice::from_ref(task)).await;
    }

    /// Stores new tasks in one batch.
    pub(super) async fn add(&self, tasks: &[Task]) {
        let mut batch = self.batch();
        batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
        for enqueued in self.write(batch).await.tasks {
            assert_eq!(enqueued, Enqueued::Created);
        }
    }

    pub(super) async fn apply(&self, change: Change) -> Applied {
        let mut batch = self.batch();
        batch.changes.push(change);
        self.write(batch).await.changes[0]
    }

    /// Applies a change, and changes `task` as the store should have.
    pub(super) async fn change(&self, task: &mut Task, change: Result<Change, Refused>) {
        let change = change.expect("the status allows it");
        assert_eq!(self.apply(change.clone()).await, Applied::Applied);
        task.life = change.life;
        task.past_attempts.extend(change.ended);
    }

    /// The attempt says that it is half done.
    pub(super) async fn say_half(&self, task: &mut Task) {
        let half = Progress {
            fraction: 0.5,
            message: "half".to_owned(),
        };
        task.progress = Some(half.clone());
        let mut batch = self.batch();
        batch.notes.push(Note {
            id: task.id,
            epoch: task.life.epoch,
            what: Said::Progress(half),
        });
        self.write(batch).await;
    }

    pub(super) async fn start(&self, task: &mut Task) {
        let change = Change::started(task, self.me, self.now());
        self.change(task, change).await;
    }

    /// Ends the attempt, and with it the task.
    pub(super) async fn finish(&self, task: &mut Task, outcome: Outcome) {
        let change = Change::finished(task, outcome, &TRIED_ONCE, 0.0, self.now());
        self.change(task, change).await;
    }

    pub(super) async fn succeed(&self, task: &mut Task) {
        self.finish(task, Outcome::Done(None)).await;
    }

    pub(super) async fn fail(&self, task: &mut Task) {
        self.finish(task, failed()).await;
    }

    /// Ends the attempt; the next one is due in a second.
    pub(super) async fn fail_and_wait(&self, task: &mut Task) {
        let change = Change::finished(task, failed(), &RETRIED, 0.0, self.now());
        self.change(task, change).await;
    }

    pub(super) async fn cancel(&self, task: &mut Task) {
        let change = Change::cancelled(task, self.now());
        self.change(task, change).await;
    }

    pub(super) async fn get(&self, id: TaskId) -> Option<Task> {
        self.backend.get(id).await.expect("a task can be read")
    }

    /// Asserts that the task is stored, with all its fields.
    pub(super) async fn expect(&self, task: &Task) {
        assert_eq!(self.get(task.id).await.as_ref(), Some(task));
    }

    /// Takes an instance for dead, by its last beat.
    pub(super) async fn supersede(&self, id: InstanceId) {
        let peers = self.backend.instances().await.expect("instances");
        let peer = peers.into_iter().find(|peer| peer.instance.id == id);
        let beat_at = peer.expect("it has joined").beat_at;
        let superseded = self.backend.supersede(id, beat_at).await;
        superseded.expect("superseded");
    }

    pub(super) fn claim_of(&self, names: &[&str], limit: usize) -> Claim {
        Claim {
            owner: self.me,
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            except: Arc::default(),
            limit,
            now: self.now(),
            reserve: None,
        }
    }

    pub(super) async fn claim(&self, names: &[&str], limit: usize) -> Claimed {
        let claim = self.claim_of(names, limit);
        self.backend
            .claim(claim)
            .await
            .expect("tasks can be claimed")
    }

    /// The ids of what is claimed, in order.
    pub(super) async fn claim_ids(&self, names: &[&str], limit: usize) -> Vec<TaskId> {
        ids(&self.claim(names, limit).await.tasks)
    }

    /// All pages of a list, one after the other.
    pub(super) async fn walk(&self, mut query: ListQuery) -> Vec<Task> {
        let mut tasks = Vec::new();
        loop {
            let page = self.backend.list(query.clone()).await;
            let page = page.expect("tasks can be listed");
            assert!(
                page.tasks.len() <= query.limit,
                "a page has at most its limit"
            );
            if let Some(next) = page.next {
                let oldest = page
                    .tasks
                    .iter()
                    .map(|task| task.id)
                    .chain(query.before)
                    .min();
                assert!(
                    oldest.is_none_or(|oldest| next <= oldest) && query.before != Some(next),
                    "{next} leads back to what was shown"
                );
            }
            tasks.extend(page.tasks);
            match page.next {
                Some(next) => query.before = Some(next),
                None => return tasks,
            }
        }
    }

    pub(super) async fn walk_ids(&self, query: ListQuery) -> Vec<TaskId> {
        ids(&self.walk(query).await)
    }

    pub(super) async fn lines(&self, id: TaskId) -> Vec<LogLine> {
        let lines = self.backend.logs(id, 0, usize::MAX).await;
        lines.expect("log lines can be read")
    }

    pub(super) async fn messages(&self, id: TaskId) -> Vec<String> {
        let lines = self.lines(id).await;
        lines.into_iter().map(|line| line.message).collect()
    }

    pub(super) async fn count(&self, name: &str, status: TaskStatus) -> u64 {
        let counts = self.counts().await;
        counts.get(&(name.to_owned(), status)).copied().unwrap_or(0)
    }

    pub(super) async fn counts(&self) -> BTreeMap<(String, TaskStatus), u64> {
        let counts = self.backend.counts().await.expect("counts can be read");
        let n_rows = counts.len();
        let counts: BTreeMap<_, _> = counts
            .into_iter()
            .map(|count| ((count.name.to_string(), count.status), count.n))
            .collect();
        assert_eq!(
            counts.len(),
            n_rows,
            "a function and status is counted once"
        );
        counts
    }

    /// The minutes since `since`, those of one time in the order of function and status.
    pub(super) async fn series(&self, since: Timestamp) -> Vec<Minute> {
        let mut minutes = self
            .backend
            .series(since)
            .await
            .expect("minutes can be read");
        assert!(
            minutes.is_sorted_by_key(|minute| minute.at),
            "the oldest first"
        );
        minutes.sort_by_key(|minute| (minute.at, minute.name.clone(), minute.status));
        minutes
    }

    /// A whole round of deletion; how many tasks went.
    pub(super) async fn prune(&self, mut prune: Prune) -> usize {
        let mut deleted = 0;
        loop {
            let pruned = self.backend.prune(prune).await;
            let pruned = pruned.expect("old tasks can be deleted");
            assert!(pruned.deleted <= prune.limit, "a part is bounded");
            deleted += pruned.deleted;
            assert!(
                pruned.next.is_none() || pruned.next != prune.from,
                "each part gets further"
            );
            match pruned.next {
                Some(next) => prune.from = Some(next),
                None => return deleted,
            }
        }
    }
}

/// Deletes what ended before `before`, and no minutes or audit entries.
pub(super) fn tasks_before(before: Timestamp) -> Prune {
    Prune {
        finished_before: before,
        failed_before: before,
        series_before: Timestamp::default(),
        from: None,
        limit: 100,
    }
}

pub(super) fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

pub(super) fn failed() -> Outcome {
    Outcome::Failed(Failure::retry("no"))
}

/// A log line said by the task's current attempt.
pub(super) fn line(task: &Task, seq: u32, message: &str) -> Note {
    Note {
        id: task.id,
        epoch: task.life.epoch,
        what: Said::Log(LogLine {
            seq,
            attempt: task.life.attempt,
            at: task.created_at(),
            level: LogLevel::Info,
            message: message.to_owned(),
        }),
    }
}
