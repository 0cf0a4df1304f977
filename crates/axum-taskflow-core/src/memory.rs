//! The contract in std collections: the default backend, and the model that drivers are compared with.

mod index;
mod instances;
mod keys;
mod records;
mod row;
mod store;
mod waiting;

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use self::store::Store;
use crate::{
    backend::{
        AheadPage, AheadQuery, AuditEntry, Backend, BackendFuture, Batch, Claim, Claimed, Count,
        Instance, ListQuery, Minute, Page, Peer, Prune, Pruned, Record, RecordQuery, Standing,
        Step, Stepped, Written,
    },
    change::Change,
    clock::Timestamp,
    error::BackendError,
    id::{InstanceId, TaskId},
    status::TaskStatus,
    task::{Life, LogLine, Task},
};

/// Keeps tasks in memory: nothing to set up, and nothing left when the process ends.
///
/// For tests, for services whose tasks may be lost, and as the model of what a [`Backend`] does. Every live task is
/// kept; what has finished is kept up to a number of tasks, of which the oldest go first:
///
/// | what | how much |
/// |---|---|
/// | finished tasks | 10,000, or [`Memory::with_history`] |
/// | attempts of a task | the last 1,000 |
/// | log lines of a task | the last 10,000 |
/// | minutes, one for each function and status | the last 100,000 |
/// | audit entries | the last 10,000 |
/// | idempotency keys | all, until their time has passed |
/// | records | all |
///
/// ```
/// use std::sync::Arc;
/// use axum_taskflow_core::{Backend, Batch, IdSource, Memory, Task, Timestamp};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let memory = Memory::with_history(100);
/// let now = Timestamp::from_unix_ms(1_795_300_000_000);
/// let task = Task::new(IdSource::default().task(now), "greet", r#"["world"]"#);
/// let mut batch = Batch::at(now);
/// batch.tasks.push(Arc::new(task.clone()));
///
/// memory.write(Arc::new(batch)).await?;
///
/// assert_eq!(memory.get(task.id).await?, Some(task));
/// # Ok::<(), axum_taskflow_core::BackendError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Memory {
    /// Everything. A std mutex: held for one call, which waits for nothing.
    store: Mutex<Store>,
    /// Counts what was written that several instances may want. A watch: it remembers for those who look away.
    changed: watch::Sender<u64>,
}

/// How many finished tasks are kept if nobody says otherwise.
const HISTORY: usize = 10_000;

impl Memory {
    /// Keeps this many finished tasks.
    #[must_use]
    pub fn with_history(tasks: usize) -> Self {
        Self {
            store: Mutex::new(Store::new(tasks)),
            changed: watch::Sender::default(),
        }
    }

    /// The answer of `act`, worked out when the future is first polled.
    fn answer<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce(&mut Store) -> T + Send + 'a,
    ) -> BackendFuture<'a, T> {
        Box::pin(async move {
            let mut store = self.store.lock().map_err(|_poisoned| {
                BackendError::refused(
                    "the tasks in memory are not whole: a panic broke off a write",
                )
            })?;
            if store.is_closed() {
                return Err(BackendError::refused("the tasks in memory are closed"));
            }
            Ok(act(&mut store))
        })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_history(HISTORY)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Backend for Memory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        self.answer(|store| store.instances.join(instance))
    }

    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        self.answer(move |store| store.instances.beat(id, now))
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        self.answer(|store| store.instances.all())
    }

    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        self.answer(move |store| store.instances.supersede(id, seen_beat_at))
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        self.answer(move |store| store.instances.leave(id))
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        self.answer(move |store| {
            let written = store.write(&batch);
            let left = leaves_something(&batch.tasks, &batch.changes);
            if left && store.instances.n_alive() > 1 {
                self.changed.send_modify(|n| *n += 1);
            }
            written
        })
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        self.answer(move |store| {
            let stepped = store.step(&step);
            let left = !step.records.is_empty() || leaves_something(&step.tasks, &step.changes);
            if left && stepped != Stepped::Stale && store.instances.n_alive() > 1 {
                self.changed.send_modify(|n| *n += 1);
            }
            stepped
        })
    }

    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        self.answer(move |store| store.records.read(&query))
    }

    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        self.answer(move |store| store.claim(&claim))
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        self.answer(move |store| store.orphans(limit))
    }

    fn held(&self, owner: InstanceId) -> BackendFuture<'_, Vec<TaskId>> {
        self.answer(move |store| store.held(owner))
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        self.answer(move |store| store.get(id))
    }

    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        self.answer(move |store| store.list(&query))
    }

    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        let answer = self.answer(move |store| store.ahead(&query));
        Box::pin(async move { answer.await? })
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        self.answer(move |store| store.logs(id, skip, limit))
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        self.answer(|store| store.counts())
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        self.answer(move |store| store.series(since))
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        self.answer(move |store| store.audit(before, limit))
    }

    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        self.answer(move |store| store.prune(prune))
    }

    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        Box::pin(async move {
            let mut changed = self.changed.subscribe();
            let n = changed.wait_for(|n| *n != seen).await;
            // The sender is ours, so it cannot be gone.
            Ok(n.map_or(seen, |n| *n))
        })
    }

    fn close(&self) -> BackendFuture<'_, ()> {
        self.answer(Store::close)
    }
}

/// True if there is something among them that any instance may take.
fn leaves_something(tasks: &[Arc<Task>], changes: &[Change]) -> bool {
    let is_free = |life: &Life| life.status == TaskStatus::Pending && life.owner.is_none();
    tasks.iter().any(|task| is_free(&task.life))
        || changes.iter().any(|change| is_free(&change.life))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        backend::{Enqueued, Note, Said},
        change::Outcome,
        id::IdSource,
        retry::RetryPolicy,
        task::{LogLevel, Tags},
    };

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

    /// A memory, and what a test needs to write to it.
    struct Bench {
        memory: Memory,
        ids: IdSource,
    }

    impl Bench {
        fn new(history: usize) -> Self {
            Self {
                memory: Memory::with_history(history),
                ids: IdSource::default(),
            }
        }

        fn task(&self) -> Task {
            Task::new(self.ids.task(NOW), "f", "[]")
        }

        async fn add(&self, task: &Task) {
            let mut batch = Batch::at(NOW);
            batch.tasks.push(Arc::new(task.clone()));
            let written = self.memory.write(Arc::new(batch)).await.unwrap();
            assert_eq!(written.tasks, [Enqueued::Created]);
        }

        async fn change(&self, task: &mut Task, change: Change) {
            task.life = change.life.clone();
            let mut batch = Batch::at(NOW);
            batch.changes.push(change);
            self.memory.write(Arc::new(batch)).await.unwrap();
        }

        async fn start(&self, task: &mut Task) {
            let change = Change::started(task, self.ids.instance(NOW), NOW).unwrap();
            self.change(task, change).await;
        }

        async fn finish(&self, task: &mut Task, outcome: Outcome, at: Timestamp) {
            let policy = RetryPolicy {
                retries: u32::MAX,
                ..RetryPolicy::default()
            };
            let change = Change::finished(task, outcome, &policy, 0.0, at).unwrap();
            self.change(task, change).await;
        }
    }

    #[tokio::test]
    async fn the_oldest_finished_tasks_leave_and_live_ones_stay() {
        let bench = Bench::new(2);
        let mut tasks: Vec<Task> = (0..5).map(|_| bench.task()).collect();
        for task in &tasks {
            bench.add(task).await;
        }

        // The last one added is the first to finish, and so on; the first one added stays live.
        for (n, task) in tasks.iter_mut().rev().take(4).enumerate() {
            bench.start(task).await;
            let at = NOW.saturating_add(Duration::from_secs(n as u64));
            bench.finish(task, Outcome::Done(None), at).await;
        }

        let page = bench.memory.list(ListQuery::default()).await.unwrap();
        let kept: Vec<TaskId> = page.tasks.iter().map(|task| task.id).collect();
        assert_eq!(kept, [tasks[2].id, tasks[1].id, tasks[0].id]);
        let counts = bench.memory.counts().await.unwrap();
        assert_eq!(counts.iter().map(|count| count.n).sum::<u64>(), 3);
    }

    #[tokio::test]
    async fn a_task_that_runs_for_ever_keeps_its_last_attempts_and_lines() {
        let bench = Bench::new(1);
        let mut task = bench.task();
        bench.add(&task).await;

        for n in 0..1_200_u32 {
            bench.start(&mut task).await;
            let mut batch = Batch::at(NOW);
            batch.notes = (0..10)
                .map(|seq| Note {
                    id: task.id,
                    epoch: task.life.epoch,
                    what: Said::Log(LogLine {
                        seq,
                        attempt: n + 1,
                        at: NOW,
                        level: LogLevel::Info,
                        message: n.to_string(),
                    }),
                })
                .collect();
            bench.memory.write(Arc::new(batch)).await.unwrap();
            let failure = Outcome::TimedOut(Duration::from_secs(1));
            bench.finish(&mut task, failure, NOW).await;
        }

        let stored = bench.memory.get(task.id).await.unwrap().unwrap();
        assert_eq!(stored.past_attempts.len(), 1_000);
        assert_eq!(stored.past_attempts.last().unwrap().number, 1_200);
        let lines = bench.memory.logs(task.id, 0, usize::MAX).await.unwrap();
        assert_eq!(lines.len(), 10_000);
        assert_eq!(lines.last().unwrap().message, "1199");
    }

    #[tokio::test]
    async fn audit_entries_and_minutes_are_bounded() {
        let bench = Bench::new(0);
        let mut batch = Batch::at(NOW);
        batch.audit = (0..10_001)
            .map(|n| AuditEntry {
                id: bench.ids.task(NOW),
                at: NOW,
                actor: n.to_string(),
                action: "retry".to_owned(),
                task: None,
                detail: serde_json::Value::Null,
            })
            .collect();
        for n in 0..100_001 {
            let task = Task::new(bench.ids.task(NOW), n.to_string(), "[]");
            batch.changes.push(Change::cancelled(&task, NOW).unwrap());
            batch.tasks.push(Arc::new(task));
        }

        bench.memory.write(Arc::new(batch)).await.unwrap();

        let audit = bench.memory.audit(None, usize::MAX).await.unwrap();
        assert_eq!(audit.len(), 10_000);
        assert_eq!(audit[0].actor, "10000");
        let minutes = bench.memory.series(Timestamp::default()).await.unwrap();
        assert_eq!(minutes.len(), 100_000);
    }

    #[tokio::test]
    async fn a_page_looks_at_a_bounded_number_of_tasks_and_says_where_to_go_on() {
        let bench = Bench::new(0);
        let mut batch = Batch::at(NOW);
        let mut rare = bench.task();
        rare.tags = Tags::from([("a".to_owned(), "1".to_owned())]);
        rare.name = "rare".into();
        batch.tasks.push(Arc::new(rare.clone()));
        for _ in 0..25_000 {
            let mut task = bench.task();
            task.tags = rare.tags.clone();
            batch.tasks.push(Arc::new(task));
        }
        bench.memory.write(Arc::new(batch)).await.unwrap();

        let mut query = ListQuery {
            name: Some("rare".to_owned()),
            tag: Some(("a".to_owned(), None)),
            ..ListQuery::default()
        };
        let mut n_pages = 0;
        let found = loop {
            n_pages += 1;
            let page = bench.memory.list(query.clone()).await.unwrap();
            match (page.tasks.into_iter().next(), page.next) {
                (Some(task), _) => break task,
                (None, next) => query.before = Some(next.expect("the task is further down")),
            }
        };

        assert_eq!(found, rare);
        assert_eq!(n_pages, 3);
    }
}
