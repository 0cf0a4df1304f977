//! The engine behind `axum-taskflow`: no web framework, no SQL, no Redis.
//!
//! Services depend on `axum-taskflow`, which re-exports what they need. This crate is for those who write a
//! [`Backend`], or a program around tasks that is no web service.
//!
//! # The life of one task
//! 1. **add** A call to [`TaskManager::add_task`] makes a [`Task`]: an id, the arguments as JSON, the options.
//! 2. **commit** The *journal* gathers what waits to be written into one [`Batch`] and hands it to the backend;
//!    the caller gets its answer when that is safe.
//! 3. **ready** If a slot is free, the task belongs to this instance and stays in memory; otherwise it belongs to
//!    nobody and costs nothing but disk, until a free slot *claims* it.
//! 4. **start** [`Change::started`] goes through the same journal; the function's first line runs after the commit.
//! 5. **run** An `async fn` runs on the runtime, a plain `fn` on a pool of its own. Timeout, cancellation and panic
//!    are outcomes like any other.
//! 6. **finish** [`Change::finished`] decides what follows from the [`Outcome`], and the journal keeps it until it is
//!    stored.
//! 7. **seen** The feed tells it to whoever listens.
//!
//! The modules below stand in the order in which they are best read, and each uses only those above it.

// docs.rs says beside each item which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod clock;
mod id;
mod status;
mod retry;
mod failure;
mod task;
mod change;
mod backend;
mod health;
mod memory;
mod panics;
mod event;
mod states;
mod running;
mod context;
mod trace_context;
#[cfg(feature = "otel")]
mod otel;
mod tracking;
mod handler;
mod check;
mod registry;
mod schedule;
mod config;
mod engine;
mod hold;
mod once;
mod add;
mod manager;
#[cfg(feature = "conformance")]
pub mod conformance;

pub use crate::{
    add::{AddTask, AddTasks},
    backend::{
        AheadPage, AheadQuery, Applied, AuditEntry, Backend, BackendFuture, Batch, Becomes, Claim,
        Claimed, Count, Enqueued, Instance, ListQuery, Minute, NextBatch, Note, Page, Peer, Prune,
        Pruned, Record, RecordChange, RecordQuery, Reserve, Role, Said, Standing, Step, Stepped,
        Turn, Written,
    },
    change::{Change, HeldBy, KeyFate, Outcome},
    clock::{Clock, Timestamp},
    config::Config,
    context::{Data, FromTask, LOG_LINE_BYTES_MAX, LOG_LINES_MAX, TaskContext},
    error::{BackendError, BoxError, Error, ErrorKind},
    event::{EventStream, TaskEvent},
    failure::{Failure, FailureKind, FailureReport, Meaning},
    handler::{
        ArgError, Args, AsyncFn, IntoArgs, IntoFailure, Invocation, PlainFn, Returned, Storable,
        TaskFn, TaskOutput,
    },
    health::{Duty, Health, Trouble},
    hold::{Fence, HoldKind, Holder, Lead, Leader, LeaderWatch, Lock, LockGuard},
    id::{Epoch, IdSource, InstanceId, TaskId},
    manager::{Cancelled, TaskManager, WaitError},
    memory::Memory,
    once::{Once, OnceError, OnceOutcome, Scope},
    registry::{FunctionInfo, TaskDef},
    retry::RetryPolicy,
    schedule::{
        Decided, Decision, Missed, Origin, Overlap, Paused, Rule, Schedule, ScheduleInfo,
        ScheduleState, Totals,
    },
    states::{Need, States},
    status::{Cause, Refused, TaskStatus},
    task::{
        Attempt, Executor, IdempotencyKey, Life, LogLevel, LogLine, Progress, Source, Tags, Task,
        TaskOptions,
    },
    tracking::{TRACKING_ID_LEN_MAX, Tracking},
};

#[doc(hidden)]
pub mod __private {
    pub use crate::{registry::Registered, schedule::Scheduled};
    pub mod check {
        pub use crate::check::*;
    }
    pub use inventory;
}
