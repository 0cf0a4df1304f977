//! What is stored of a task: plain fields.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    failure::{FailureKind, FailureReport},
    id::{Epoch, InstanceId, TaskId},
    retry::RetryPolicy,
    status::TaskStatus,
};

/// Labels of a task, searchable.
pub type Tags = BTreeMap<String, String>;

/// A task of a schedule says with this tag for which time it stands.
pub(crate) const SLOT_TAG: &str = "slot";

/// One task: what was asked for, and how far it has come.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Task {
    /// Its name; tells when it was created ([`TaskId::created_at`]).
    pub id: TaskId,
    /// The name of its function.
    pub name: Arc<str>,
    /// The arguments, a JSON array. In a [`Page`](crate::Page) cut to [`ListQuery::payload_max`](crate::ListQuery).
    pub args: Arc<str>,
    /// Higher runs first.
    pub priority: i32,
    /// Labels.
    pub tags: Tags,
    /// True if it may run again after its process died while it ran.
    pub requeue_on_interrupt: bool,
    /// The caller's key: while it is taken, no second task is made.
    pub idempotency_key: Option<IdempotencyKey>,
    /// What the caller asked for its attempts, beyond the function's own options. What is a field of the task itself,
    /// such as its priority, is not here once more.
    pub options: TaskOptions,
    /// Where it came from.
    pub source: Source,
    /// The task that this one repeats.
    pub retry_of: Option<TaskId>,
    /// Tells the tasks of one request from all others. At most
    /// [`TRACKING_ID_LEN_MAX`](crate::TRACKING_ID_LEN_MAX) characters.
    pub tracking_id: Option<Arc<str>>,
    /// Where in a trace it was added: a W3C `traceparent`, and behind a blank the `tracestate`, if there is one.
    pub trace_context: Option<Arc<str>>,
    /// Where its function runs.
    pub executor: Executor,
    /// How far it has come.
    pub life: Life,
    /// How far its function says it has come.
    pub progress: Option<Progress>,
    /// Attempts before the current one, oldest first. Filled by [`Backend::get`](crate::Backend::get) only.
    pub past_attempts: Vec<Attempt>,
}

/// The part of a task that changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// Where it stands.
    pub status: TaskStatus,
    /// The fencing token of the last attempt. Grows with each attempt, and when the task changes hands.
    pub epoch: Epoch,
    /// Attempts begun.
    pub attempt: u32,
    /// Processes that died while they ran it, or were taken for dead.
    pub crashes: u32,
    /// The instance that holds it, or nobody: then any instance may claim it.
    pub owner: Option<InstanceId>,
    /// The instance of the last attempt.
    pub instance: Option<InstanceId>,
    /// Not before this.
    pub run_at: Timestamp,
    /// When the last attempt began.
    pub started_at: Option<Timestamp>,
    /// When the last attempt, or the task, ended.
    pub finished_at: Option<Timestamp>,
    /// Why the last attempt failed, or why the task is held.
    pub error: Option<Arc<FailureReport>>,
    /// What the function returned, JSON.
    pub result: Option<Arc<str>>,
}

impl Task {
    /// A task that waits from `run_at` on, with nothing else set. For backends, tests and tools; services
    /// call [`TaskManager::add_task`](crate::TaskManager::add_task).
    #[must_use]
    pub fn new(id: TaskId, name: impl Into<Arc<str>>, args: impl Into<Arc<str>>) -> Self {
        Self {
            id,
            name: name.into(),
            args: args.into(),
            priority: 0,
            tags: Tags::new(),
            requeue_on_interrupt: false,
            idempotency_key: None,
            options: TaskOptions::default(),
            source: Source::Manual,
            retry_of: None,
            tracking_id: None,
            trace_context: None,
            executor: Executor::Async,
            life: Life::new(id.created_at()),
            progress: None,
            past_attempts: Vec::new(),
        }
    }

    /// When it was created.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.id.created_at()
    }

    /// How long the last attempt ran, if it has ended.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(self.life.finished_at?.since(self.life.started_at?))
    }

    /// Why the store could read it only in part, if it is so.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        let error = self.life.error.as_deref()?;
        (error.kind == FailureKind::Unreadable).then_some(&*error.message)
    }
}

impl Life {
    /// The life of a task that waits from `run_at` on.
    #[must_use]
    pub fn new(run_at: Timestamp) -> Self {
        Self {
            status: TaskStatus::Pending,
            epoch: Epoch::ZERO,
            attempt: 0,
            crashes: 0,
            owner: None,
            instance: None,
            run_at,
            started_at: None,
            finished_at: None,
            error: None,
            result: None,
        }
    }

    /// This life of the task `id` with its next attempt begun by `instance`: what
    /// [`Backend::claim`](crate::Backend::claim) stores.
    ///
    /// It does not begin before the task was created: a claim that waits for its turn is older than what it then takes. By
    /// more than 100 ms it is older only by another host's clock, and then its time stands, so that the end, which is by the
    /// same clock, tells how long it ran.
    #[must_use]
    pub fn begun(&self, id: TaskId, instance: InstanceId, now: Timestamp) -> Self {
        const WAITS_MAX: Duration = Duration::from_millis(100);
        let created = id.created_at();
        let started_at = match created.since(now) <= WAITS_MAX {
            true => now.max(created),
            false => now,
        };
        Self {
            status: TaskStatus::Running,
            epoch: self.epoch.next(),
            attempt: self.attempt.saturating_add(1),
            crashes: self.crashes,
            owner: Some(instance),
            instance: Some(instance),
            run_at: self.run_at,
            started_at: Some(started_at),
            finished_at: None,
            error: None,
            result: None,
        }
    }
}

/// A caller's promise that two calls with one key mean one task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key, at most 512 bytes.
    pub key: String,
    /// How long it stays taken after the task succeeded.
    pub ttl: Duration,
}

/// How long a key stays taken after success, unless an option says otherwise.
pub(crate) const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3_600);
/// What the key begins with that all tasks have which repeat one without a key.
const RETRY_OF: &str = "retry_of:";

impl IdempotencyKey {
    /// That of a task that repeats `old`. Without it, two clicks would be two tasks, and each task of a chain of failures
    /// would be repeated by itself when somebody retries all that failed.
    pub(crate) fn of_retry(old: &Task) -> Self {
        let of_old = old.idempotency_key.clone();
        of_old.unwrap_or_else(|| Self {
            key: format!("{RETRY_OF}{}", old.id),
            ttl: IDEMPOTENCY_TTL,
        })
    }

    /// True if no caller has given it.
    pub(crate) fn is_of_retries(&self) -> bool {
        let id = self.key.strip_prefix(RETRY_OF);
        id.is_some_and(|id| id.parse::<TaskId>().is_ok())
    }
}

/// What a caller, `#[task]` or the manager's defaults say about a task; an empty field says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskOptions {
    /// Attempts after the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// The wait after the first failed attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Each further wait is this many times the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<f64>,
    /// No wait is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Duration>,
    /// The part of each wait that is left to chance, 0.0 to 1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// How long one attempt may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Higher runs first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// True if it may run again after its process died while it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requeue_on_interrupt: Option<bool>,
    /// How long an idempotency key stays taken after success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_ttl: Option<Duration>,
}

impl TaskOptions {
    /// These options, and `defaults` where they say nothing.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            retries: self.retries.or(defaults.retries),
            delay: self.delay.or(defaults.delay),
            backoff: self.backoff.or(defaults.backoff),
            max_delay: self.max_delay.or(defaults.max_delay),
            jitter: self.jitter.or(defaults.jitter),
            timeout: self.timeout.or(defaults.timeout),
            priority: self.priority.or(defaults.priority),
            requeue_on_interrupt: self.requeue_on_interrupt.or(defaults.requeue_on_interrupt),
            idempotency_ttl: self.idempotency_ttl.or(defaults.idempotency_ttl),
        }
    }

    /// Those that a task does not hold itself: its priority, whether it may be repeated, and how long its key is kept
    /// are parts of it, so they need not be stored twice.
    pub(crate) fn of_attempts(&self) -> Self {
        Self {
            priority: None,
            requeue_on_interrupt: None,
            idempotency_ttl: None,
            ..self.clone()
        }
    }

    /// The retry policy that they describe.
    #[must_use]
    pub fn retry_policy(&self) -> RetryPolicy {
        let default = RetryPolicy::default();
        RetryPolicy {
            retries: self.retries.unwrap_or(default.retries),
            delay: self.delay.unwrap_or(default.delay),
            backoff: self.backoff.unwrap_or(default.backoff),
            max_delay: self.max_delay.unwrap_or(default.max_delay),
            jitter: self.jitter.unwrap_or(default.jitter),
        }
    }

    /// What is wrong with the options, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Some("timeout must be longer than zero".to_owned());
        }
        self.retry_policy().complaint()
    }
}

/// Where a task came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// A call to `add_task`.
    Manual,
    /// A retry by hand of a finished task.
    Retry,
    /// A slot of a schedule, or a call to `schedule_once`.
    Scheduled,
}

/// Where a function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Executor {
    /// An `async fn`, on the runtime.
    Async,
    /// A plain `fn`, on the manager's own pool of threads.
    Thread,
}

impl Source {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Retry => "retry",
            Self::Scheduled => "scheduled",
        }
    }
}

impl Executor {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Thread => "thread",
        }
    }
}

/// One attempt that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number; the first is 1.
    pub number: u32,
    /// Its fencing token.
    pub epoch: Epoch,
    /// The instance that ran it.
    pub instance: Option<InstanceId>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What it came to: the status its end would have given the task without a retry.
    pub outcome: TaskStatus,
    /// Why it failed.
    pub error: Option<Arc<FailureReport>>,
}

/// How far a function says it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// From 0.0 to 1.0.
    pub fraction: f64,
    /// What it is doing.
    pub message: String,
}

/// How serious a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLevel {
    /// For whoever looks closely.
    Debug,
    /// The usual.
    Info,
    /// Something to look at.
    Warn,
    /// Something went wrong.
    Error,
}

impl LogLevel {
    /// The word for people, as on the page. Stored as JSON, [`LogLevel::Warn`] is `warn`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warning",
            Self::Error => "error",
        }
    }
}

/// One line that a function logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counts from 0 within the task's attempt.
    pub seq: u32,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// How serious.
    pub level: LogLevel,
    /// The text, at most 8 KiB.
    pub message: String,
}
