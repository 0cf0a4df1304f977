//! Adding tasks: from a function and its arguments to a row that is safe.

use std::{fmt, future::IntoFuture, pin::Pin, sync::Arc, time::Duration};

use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use crate::{
    backend::{Applied, Enqueued, Step, Stepped},
    change::Change,
    clock::Timestamp,
    engine::{
        Beginning, Engine, Promise,
        journal::{Answers, Tasks, ThenAdded, unavailable},
    },
    error::{BackendError, Error, ErrorKind},
    health::Duty,
    hold::Fence,
    id::TaskId,
    registry::TaskDef,
    status::TaskStatus,
    task::{IDEMPOTENCY_TTL, IdempotencyKey, Source, Tags, Task, TaskOptions},
    tracking::Tracking,
};

/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 512;
/// Most tags of a task, and the longest tag, in bytes.
const TAGS_MAX: usize = 32;
const TAG_BYTES_MAX: usize = 256;

/// What to run, before options.
pub(crate) struct Request {
    pub(crate) def: Arc<TaskDef>,
    /// The arguments of each task, JSON.
    pub(crate) args: SmallVec<[String; 1]>,
}

/// What the caller says beyond the function's own options.
#[derive(Default)]
struct Said {
    source: Option<Source>,
    options: TaskOptions,
    tags: Tags,
    key: Option<String>,
    due: Due,
    /// What counted where the call was made; the future may be awaited elsewhere.
    tracking: Tracking,
    tracking_id: Option<String>,
}

impl Said {
    fn here() -> Self {
        Self {
            tracking: Tracking::of_call(),
            ..Self::default()
        }
    }
}

#[derive(Default)]
enum Due {
    #[default]
    Now,
    At(Timestamp),
    In(Duration),
}

macro_rules! shared_setters {
    () => {
        /// Higher runs first; 0 unless set.
        pub fn priority(mut self, priority: i32) -> Self {
            self.said.options.priority = Some(priority);
            self
        }

        /// Adds a label. At most 32, each key and value of at most 256 bytes.
        pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.said.tags.insert(key.into(), value.into());
            self
        }

        /// Adds labels.
        pub fn tags<K: Into<String>, V: Into<String>>(
            mut self,
            tags: impl IntoIterator<Item = (K, V)>,
        ) -> Self {
            let tags = tags.into_iter();
            self.said
                .tags
                .extend(tags.map(|(key, value)| (key.into(), value.into())));
            self
        }

        /// The id of the request, or of whatever the task belongs to, by which its log lines and the tasks that it adds
        /// are found: 1 to 128 visible ASCII characters. Unless set, it is that of the request or of the task in which
        /// the call is made; see [`Tracking`](crate::Tracking).
        pub fn tracking_id(mut self, id: impl Into<String>) -> Self {
            self.said.tracking_id = Some(id.into());
            self
        }

        /// Not before this. A time that has passed means now.
        pub fn run_at(mut self, at: impl Into<Timestamp>) -> Self {
            self.said.due = Due::At(at.into());
            self
        }

        /// Not before this much time has passed.
        pub fn delay_by(mut self, delay: Duration) -> Self {
            self.said.due = Due::In(delay);
            self
        }

        /// Attempts after the first one.
        pub fn retries(mut self, retries: u32) -> Self {
            self.said.options.retries = Some(retries);
            self
        }

        /// The wait after the first failed attempt.
        pub fn delay(mut self, delay: Duration) -> Self {
            self.said.options.delay = Some(delay);
            self
        }

        /// Each further wait is this many times the one before; at least 1.
        pub fn backoff(mut self, backoff: f64) -> Self {
            self.said.options.backoff = Some(backoff);
            self
        }

        /// No wait is longer.
        pub fn max_delay(mut self, max_delay: Duration) -> Self {
            self.said.options.max_delay = Some(max_delay);
            self
        }

        /// The part of each wait that is left to chance, 0.0 to 1.0.
        pub fn jitter(mut self, jitter: f64) -> Self {
            self.said.options.jitter = Some(jitter);
            self
        }

        /// How long one attempt may take. An async function is dropped then; a plain one is told so by
        /// [`TaskContext::is_cancelled`](crate::TaskContext::is_cancelled), and counts as done if it succeeds all
        /// the same.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.said.options.timeout = Some(timeout);
            self
        }

        /// True: the task may run again after its process died while it ran.
        pub fn requeue_on_interrupt(mut self, requeue: bool) -> Self {
            self.said.options.requeue_on_interrupt = Some(requeue);
            self
        }
    };
}

/// A task that is about to be added: set options, then `.await`.
///
/// # Errors
/// The future answers with the [`TaskId`] once the task is safe, or with an [`Error`] and then nothing was added,
/// unless its kind is [`ErrorKind::TimedOut`], or [`ErrorKind::Unavailable`] and the store did it without being able to
/// say so. With an idempotency key it is safe to add it again.
///
/// # Cancel safety
/// Dropped before it is awaited, nothing happens. Dropped while it is awaited, the task may be added or not.
#[must_use = "a task is added by `.await`"]
pub struct AddTask<'a> {
    engine: &'a Arc<Engine>,
    request: Result<Request, Error>,
    said: Said,
    fence: Option<Fence>,
    run_key: Option<String>,
}

impl<'a> AddTask<'a> {
    pub(crate) fn new(engine: &'a Arc<Engine>, request: Result<Request, Error>) -> Self {
        Self {
            engine,
            request,
            said: Said::here(),
            fence: None,
            run_key: None,
        }
    }

    /// It was asked for as something that is scheduled.
    pub(crate) fn scheduled(mut self) -> Self {
        self.said.source = Some(Source::Scheduled);
        self
    }

    shared_setters!();

    /// While a task with this key waits, runs, or succeeded not long ago, no second one is made: the answer is the
    /// id of that task. The key is free again when the task fails, is cancelled or interrupted. Not empty, at most
    /// 512 bytes.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.said.key = Some(key.into());
        self
    }

    /// Only if the lead or lock is still held when the task is stored: then a process that was stopped while it led, or
    /// cut off, adds nothing after another one has taken over. The error is of kind [`ErrorKind::Conflict`].
    pub fn under(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Takes the place of the task with this run key that waits: that one never runs, and this one does, with its own time
    /// and arguments, in one step. One that has begun is not disturbed, and this one runs beside it. Not empty, at most
    /// 256 bytes. See [`TaskManager::cancel_scheduled`](crate::TaskManager::cancel_scheduled).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use axum_taskflow_core::{Config, TaskManager};
    /// async fn auto_complete(order: u64) {}
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), axum_taskflow_core::Error> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let hour = Duration::from_secs(3_600);
    /// let first = manager.add_task(auto_complete, 42).delay_by(hour).run_key("order:42").await?;
    /// let later = manager.add_task(auto_complete, 42).delay_by(hour * 2).run_key("order:42").await?;
    ///
    /// assert_eq!(manager.get(first).await?.unwrap().life.status.as_str(), "cancelled");
    /// assert_eq!(manager.cancel_scheduled("order:42").await?, Some(later));
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_key(mut self, key: impl Into<String>) -> Self {
        self.run_key = Some(key.into());
        self
    }

    /// How long the key stays taken after success; a day unless set.
    pub fn idempotency_ttl(mut self, ttl: Duration) -> Self {
        self.said.options.idempotency_ttl = Some(ttl);
        self
    }
}

/// Many tasks of one function that are about to be added in one step: set options, then `.await`.
///
/// # Errors
/// The future answers with the ids in the order of the arguments, or with an [`Error`] and then nothing was added,
/// unless its kind is [`ErrorKind::TimedOut`], or [`ErrorKind::Unavailable`] and the store did it without being able to
/// say so. Then all were added or none, and to add them again may add them twice: there is no key for many.
///
/// # Cancel safety
/// As for [`AddTask`]: all are added or none.
#[must_use = "tasks are added by `.await`"]
pub struct AddTasks<'a> {
    engine: &'a Arc<Engine>,
    request: Result<Request, Error>,
    said: Said,
}

impl<'a> AddTasks<'a> {
    pub(crate) fn new(engine: &'a Arc<Engine>, request: Result<Request, Error>) -> Self {
        Self {
            engine,
            request,
            said: Said::here(),
        }
    }

    shared_setters!();
}

impl<'a> IntoFuture for AddTask<'a> {
    type Output = Result<TaskId, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            engine,
            request,
            said,
            run_key,
            fence,
        } = self;
        if let Some(key) = run_key {
            // A future of its own: it is large, and most calls have no need of it.
            return Box::pin(async move {
                let replaced = replace(engine, request?, said, fence, key);
                // One deadline for all its steps.
                tokio::time::timeout(engine.add_timeout, replaced)
                    .await
                    .unwrap_or_else(|_| Err(no_answer(engine)))
            });
        }
        // Made before, and not in the future, which would be larger by all that was said.
        let tasks = request.and_then(|request| make_tasks(engine, request, said));
        Box::pin(async move {
            let tasks = tasks?;
            let (id, name) = (tasks[0].id, tasks[0].name.clone());
            let mut stored = match fence {
                Some(fence) => Box::pin(store_under(engine, tasks, fence)).await?,
                None => store(engine, tasks).await?,
            };
            match stored.pop() {
                Some(Enqueued::Exists { id, name: other }) => {
                    if !engine.registry.same(&name, &other) {
                        return Err(Error::conflict(format!(
                            "the idempotency key is taken by task {id} of {other}, and this is a task of {name}"
                        )));
                    }
                    Ok(id)
                }
                _ => Ok(id),
            }
        })
    }
}

impl<'a> IntoFuture for AddTasks<'a> {
    type Output = Result<Vec<TaskId>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            engine,
            request,
            said,
        } = self;
        let tasks = request.and_then(|request| make_tasks(engine, request, said));
        Box::pin(async move {
            let tasks = tasks?;
            let ids = tasks.iter().map(|task| task.id).collect();
            if !tasks.is_empty() {
                store(engine, tasks).await?;
            }
            Ok(ids)
        })
    }
}

fn make_tasks(engine: &Engine, request: Request, said: Said) -> Result<Tasks, Error> {
    let Request { def, args } = request;
    let now = engine.clock.now();
    if let Some(complaint) = said.options.complaint() {
        return Err(Error::invalid(format!("task {}: {complaint}", def.name)));
    }
    let resolved = said.options.or(&def.options).or(&engine.defaults);
    let run_at = match said.due {
        Due::Now => now,
        Due::At(at) => at,
        Due::In(delay) => later(now, delay)?,
    };
    check_tags(&said.tags)?;
    let tracking = match said.tracking_id {
        Some(id) => said.tracking.with_id(id)?,
        None => said.tracking,
    };
    let key = match said.key {
        Some(key) => Some(IdempotencyKey {
            key: checked_key(key)?,
            ttl: resolved.idempotency_ttl.unwrap_or(IDEMPOTENCY_TTL),
        }),
        None => None,
    };
    let mut tasks = Tasks::with_capacity(args.len());
    for args in args {
        if args.len() > engine.args_max {
            return Err(Error::invalid(format!(
                "the arguments of {} have {} bytes, and the limit is {}: store large data elsewhere and pass its name",
                def.name,
                args.len(),
                engine.args_max
            )));
        }
        let mut task = Task::new(engine.ids.task(now), def.name.clone(), args);
        task.life.run_at = run_at;
        task.priority = resolved.priority.unwrap_or(0);
        task.requeue_on_interrupt = resolved.requeue_on_interrupt.unwrap_or(false);
        task.tags.clone_from(&said.tags);
        task.idempotency_key.clone_from(&key);
        task.options = said.options.of_attempts();
        tracking.give_to(&mut task);
        task.executor = def.executor;
        task.source = said.source.unwrap_or(Source::Manual);
        tasks.push(Arc::new(task));
    }
    Ok(tasks)
}

/// A new task that repeats `old`.
pub(crate) fn retry_of(engine: &Engine, old: &Task, def: &TaskDef) -> Task {
    let now = engine.clock.now();
    let mut task = Task::new(engine.ids.task(now), def.name.clone(), old.args.clone());
    task.priority = old.priority;
    task.requeue_on_interrupt = old.requeue_on_interrupt;
    task.tags.clone_from(&old.tags);
    task.idempotency_key = Some(IdempotencyKey::of_retry(old));
    task.options = old.options.clone();
    task.executor = def.executor;
    task.source = Source::Retry;
    task.retry_of = Some(old.id);
    Tracking::of_task(old).give_to(&mut task);
    task
}

/// Stores tasks in one batch, and holds those that can start soon.
pub(crate) async fn store(engine: &Arc<Engine>, tasks: Tasks) -> Result<Answers, Error> {
    let n = tasks.len();
    let begun = tokio::time::Instant::now();
    engine.journal.place(n, engine.add_timeout).await?;
    let now = engine.clock.now();
    let promised: SmallVec<[Promised; 1]> = tasks
        .into_iter()
        .map(|task| Promised::to(engine, task, now))
        .collect();
    let tasks: Tasks = promised
        .iter()
        .map(|promised| promised.task().clone())
        .collect();
    let first = tasks[0].id;
    let promises = Promises {
        engine: engine.clone(),
        promised,
    };
    let (caller, answer) = oneshot::channel();
    let then: ThenAdded = Box::new(move |written| promises.settle(written));
    if engine.journal.add(tasks, then, caller).is_err() {
        return Err(Error::shutting_down());
    }
    engine.write_now();
    let left = engine.add_timeout.saturating_sub(begun.elapsed());
    match tokio::time::timeout(left, answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(Error::shutting_down())),
        Err(_) if engine.journal.take_back(first) => Err(Error::new(
            ErrorKind::Overloaded,
            format!(
                "the task store was too busy for {:?}; nothing was added{}",
                engine.add_timeout,
                what_is_wrong(engine)
            ),
        )),
        Err(_) => Err(no_answer(engine)),
    }
}

/// The tag that finds a task by its run key.
pub(crate) const RUN_KEY_TAG: &str = "run_key";

/// The idempotency key of tasks with this run key.
pub(crate) fn stored_run_key(key: &str) -> String {
    format!("{RUN_KEY_TAG}:{key}")
}

/// How often a replacement is tried that others change at the same time.
const REPLACE_TRIES: usize = 20;

/// Stores a task in the place of the one that has its run key.
async fn replace(
    engine: &Arc<Engine>,
    request: Request,
    mut said: Said,
    fence: Option<Fence>,
    key: String,
) -> Result<TaskId, Error> {
    if said.key.is_some() || fence.is_some() {
        return Err(Error::invalid(
            "a task with a run key has no idempotency key beside it, and is not added under a lead",
        ));
    }
    if key.is_empty() {
        return Err(Error::invalid("a run key must not be empty"));
    }
    if key.len() > TAG_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a run key must have at most {TAG_BYTES_MAX} bytes, and this one has {}",
            key.len()
        )));
    }
    said.tags.insert(RUN_KEY_TAG.to_owned(), key.clone());
    let mut task = make_tasks(engine, request, said)?.remove(0);
    // Free as soon as the task ends, whatever its end.
    Arc::make_mut(&mut task).idempotency_key = Some(IdempotencyKey {
        key: stored_run_key(&key),
        ttl: Duration::ZERO,
    });
    let id = task.id;
    for _ in 0..REPLACE_TRIES {
        let Some(Enqueued::Exists { id: holder, .. }) =
            store(engine, smallvec![task.clone()]).await?.pop()
        else {
            return Ok(id);
        };
        if holder == id {
            return Ok(id); // the answer to an earlier try was lost
        }
        let now = engine.clock.now();
        let change = match engine.readable(holder).await? {
            Some(old) if old.life.status == TaskStatus::Pending => {
                Change::cancelled(&old, now).ok()
            }
            Some(old) if old.life.status == TaskStatus::Running => Some(Change::passes_key(&old)),
            _ => None, // it has just ended
        };
        let Some(change) = change else {
            continue;
        };
        let mut step = Step::at(now);
        step.changes.push(change);
        step.tasks.push(task.clone());
        let step = Arc::new(step);
        let stepped = engine.backend.step(step.clone()).await?;
        if let Stepped::Done { tasks, .. } = stepped
            && tasks.first() == Some(&Enqueued::Created)
        {
            if step.changes[0].life.status == TaskStatus::Cancelled {
                engine.stored(&step.changes[0], Applied::Applied);
            }
            engine.feed.added(&step.tasks[0]);
            engine.waits_on_disk(&task, now);
            return Ok(id);
        }
    }
    Err(Error::conflict(format!(
        "the task with run key {key:?} changes too fast to be replaced"
    )))
}

/// Stores tasks if the fence stands, in one step with the look at it. Any instance may run them.
async fn store_under(engine: &Arc<Engine>, tasks: Tasks, fence: Fence) -> Result<Answers, Error> {
    let mut step = Step::at(engine.clock.now());
    step.tasks = tasks.into_vec();
    let Fence { name, record } = fence;
    step.records.push(record);
    let step = Arc::new(step);
    let stepping = engine.backend.step(step.clone());
    let stepped = match tokio::time::timeout(engine.add_timeout, stepping).await {
        Ok(stepped) => stepped?,
        Err(_) => return Err(no_answer(engine)),
    };
    let Stepped::Done { tasks: written, .. } = stepped else {
        return Err(Error::conflict(format!(
            "{name} is not held here any more: nothing was added"
        )));
    };
    for (task, enqueued) in step.tasks.iter().zip(&written) {
        if *enqueued == Enqueued::Created {
            engine.feed.added(task);
            engine.waits_on_disk(task, step.now);
        }
    }
    Ok(written.into())
}

fn no_answer(engine: &Engine) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "the task store did not answer within {:?}: the task may be added or not; with an idempotency key it is safe to add it again{}",
            engine.add_timeout,
            what_is_wrong(engine)
        ),
    )
}

/// What the store said when it failed last, if it has not been well since: the end of a message.
fn what_is_wrong(engine: &Engine) -> String {
    let why = engine.troubles.why(Duty::Write);
    why.map_or_else(String::new, |why| format!("; it fails: {why}"))
}

/// A new task, and what it was promised.
enum Promised {
    Slot(Beginning),
    Place(Arc<Task>),
    Nothing(Arc<Task>),
}

impl Promised {
    fn to(engine: &Arc<Engine>, mut task: Arc<Task>, now: Timestamp) -> Self {
        // Not while the store fails: each task that may be stored all the same has to be disowned. And not after this
        // process was stopped or cut off: whoever took it for dead would take the task over while it runs here.
        if engine.journal.is_full() || !engine.is_surely_alive() {
            return Self::Nothing(task);
        }
        match engine.ready.promise(&task, now) {
            Promise::Slot => match engine.beginning_of_new(task, now) {
                Ok(beginning) => Self::Slot(beginning),
                Err(task) => Self::Nothing(task),
            },
            Promise::Place => {
                Arc::make_mut(&mut task).life.owner = Some(engine.me());
                Self::Place(task)
            }
            Promise::Nothing => Self::Nothing(task),
        }
    }

    /// The task as it is to be stored.
    fn task(&self) -> &Arc<Task> {
        match self {
            Self::Slot(beginning) => beginning.task(),
            Self::Place(task) | Self::Nothing(task) => task,
        }
    }

    /// The task was stored. Gives one back that has no place any more.
    fn keep(self, engine: &Arc<Engine>, now: Timestamp) -> Option<Arc<Task>> {
        engine.feed.added(self.task());
        let owner = self.task().life.owner;
        if owner.is_some_and(|owner| owner != engine.me()) {
            // This instance was taken for dead while the task was stored: it is for all.
            engine.disown(self.task());
            self.break_it(engine);
            return None;
        }
        match self {
            Self::Slot(beginning) => engine.begin_now(beginning),
            Self::Place(task) => return engine.ready.keep_promise(task),
            Self::Nothing(task) => {
                engine.waits_on_disk(&task, now);
            }
        }
        None
    }

    /// The task was not stored.
    fn break_it(&self, engine: &Arc<Engine>) {
        match self {
            Self::Slot(beginning) => engine.begin_never(beginning),
            Self::Place(task) => engine.ready.break_promise(task.executor),
            Self::Nothing(_) => {}
        }
    }
}

/// What was promised to new tasks: kept, or broken if they are not stored for whatever reason.
struct Promises {
    engine: Arc<Engine>,
    promised: SmallVec<[Promised; 1]>,
}

impl Promises {
    fn settle(
        mut self,
        written: Result<&[Enqueued], &Arc<BackendError>>,
    ) -> Result<Answers, Error> {
        let written = match written {
            Ok(written) => written,
            Err(failure) => {
                if !failure.is_refused() {
                    // It may be stored, and the answer lost: then it would wait for us for ever.
                    let tasks = self.promised.iter().map(Promised::task);
                    let ours = tasks.filter(|task| task.life.owner.is_some());
                    ours.for_each(|task| self.engine.disown(task));
                }
                return Err(unavailable(failure));
            }
        };
        let now = self.engine.clock.now();
        let mut refused = Vec::new();
        let promised = std::mem::take(&mut self.promised);
        for (promised, enqueued) in promised.into_iter().zip(written) {
            match enqueued {
                Enqueued::Created => refused.extend(promised.keep(&self.engine, now)),
                Enqueued::Exists { .. } => promised.break_it(&self.engine),
            }
        }
        self.engine.let_others_have(refused);
        Ok(written.into())
    }
}

impl Drop for Promises {
    fn drop(&mut self) {
        for promised in &self.promised {
            promised.break_it(&self.engine);
        }
    }
}

fn later(now: Timestamp, delay: Duration) -> Result<Timestamp, Error> {
    let at = now.saturating_add(delay);
    if at == Timestamp::MAX {
        return Err(Error::invalid(format!(
            "a delay of {delay:?} ends after the year 9998"
        )));
    }
    Ok(at)
}

fn checked_key(key: String) -> Result<String, Error> {
    match key.len() {
        0 => Err(Error::invalid("an idempotency key must not be empty")),
        n if n > KEY_BYTES_MAX => Err(Error::invalid(format!(
            "an idempotency key must have at most {KEY_BYTES_MAX} bytes, and this one has {n}"
        ))),
        _ => Ok(key),
    }
}

fn check_tags(tags: &Tags) -> Result<(), Error> {
    if tags.len() > TAGS_MAX {
        return Err(Error::invalid(format!(
            "a task has at most {TAGS_MAX} tags, not {}",
            tags.len()
        )));
    }
    for (key, value) in tags {
        if key.is_empty() {
            return Err(Error::invalid("a tag's key must not be empty"));
        }
        if let Some(long) = [key, value]
            .into_iter()
            .find(|text| text.len() > TAG_BYTES_MAX)
        {
            return Err(Error::invalid(format!(
                "a tag's key and value have at most {TAG_BYTES_MAX} bytes each, and one has {}",
                long.len()
            )));
        }
    }
    Ok(())
}

impl fmt::Debug for AddTask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddTask").finish_non_exhaustive()
    }
}

impl fmt::Debug for AddTasks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddTasks").finish_non_exhaustive()
    }
}
