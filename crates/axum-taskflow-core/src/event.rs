//! One feed of everything that happens to tasks, and the words in which it is logged.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::broadcast;
use tokio_stream::{
    Stream,
    wrappers::{BroadcastStream, errors::BroadcastStreamRecvError},
};
use tracing::{debug, info, warn};

use crate::{
    change::Change,
    clock::Timestamp,
    engine::panics,
    id::{Epoch, TaskId},
    status::TaskStatus,
    task::{Life, LogLine, Progress, Task},
};

/// Something that happened to a task, told after it was stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskEvent {
    /// A new task.
    Added(Arc<Task>),
    /// A task changed.
    Changed {
        /// Which.
        id: TaskId,
        /// Its function.
        name: Arc<str>,
        /// What its status was.
        from: TaskStatus,
        /// What is stored of it now.
        life: Life,
    },
    /// A task logged a line.
    Log {
        /// Which.
        id: TaskId,
        /// The line.
        line: LogLine,
    },
    /// A task said how far it is.
    Progress {
        /// Which.
        id: TaskId,
        /// How far.
        progress: Progress,
    },
    /// A superseded attempt came to an end, and nothing was stored of it: the task had been taken over.
    Stale {
        /// Which.
        id: TaskId,
        /// Its function.
        name: Arc<str>,
        /// The epoch of the attempt.
        epoch: Epoch,
    },
    /// The receiver was too slow, and this many events are gone: read again what you show.
    Missed(u64),
}

/// How many events a slow receiver may lag behind; then it gets [`TaskEvent::Missed`].
const LAG_MAX: usize = 4_096;

/// The sending end of the feed.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Broadcast, so that a slow receiver loses its own events and holds up nobody.
    sender: broadcast::Sender<TaskEvent>,
    /// Results that came too late. An atomic: only ever counted.
    n_stale: AtomicU64,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(LAG_MAX),
            n_stale: AtomicU64::new(0),
        }
    }
}

impl Feed {
    pub(crate) fn subscribe(&self) -> EventStream {
        EventStream(BroadcastStream::new(self.sender.subscribe()))
    }

    pub(crate) fn added(&self, task: &Arc<Task>) {
        let tracking_id = task.tracking_id.as_deref();
        panics::say(|| debug!(task = %task.id, function = %task.name, tracking_id, "task added"));
        self.send(|| {
            // One that begins at once was never stored as waiting, but it is told like all others.
            let mut task = task.clone();
            if task.life.status == TaskStatus::Running {
                Arc::make_mut(&mut task).life = Life::new(task.life.run_at);
            }
            TaskEvent::Added(task)
        });
    }

    pub(crate) fn changed(&self, change: &Change, now: Timestamp) {
        panics::say(|| log_change(change, now));
        self.send(|| TaskEvent::Changed {
            id: change.id,
            name: change.name.clone(),
            from: change.expects.0,
            life: change.life.clone(),
        });
    }

    pub(crate) fn stale(&self, change: &Change) {
        panics::say(|| {
            warn!(
                task = %change.id,
                function = %change.name,
                epoch = %change.life.epoch,
                status = %change.life.status,
                tracking_id = change.tracking_id.as_deref(),
                "dropped the stale result of a superseded attempt"
            );
        });
        self.n_stale.fetch_add(1, Ordering::Relaxed);
        self.send(|| TaskEvent::Stale {
            id: change.id,
            name: change.name.clone(),
            epoch: change.life.epoch,
        });
    }

    pub(crate) fn n_stale(&self) -> u64 {
        self.n_stale.load(Ordering::Relaxed)
    }

    pub(crate) fn logged(&self, id: TaskId, line: &LogLine) {
        self.send(|| TaskEvent::Log {
            id,
            line: line.clone(),
        });
    }

    pub(crate) fn progressed(&self, id: TaskId, progress: &Progress) {
        self.send(|| TaskEvent::Progress {
            id,
            progress: progress.clone(),
        });
    }

    /// Builds the event only if somebody listens.
    fn send(&self, event: impl FnOnce() -> TaskEvent) {
        if self.sender.receiver_count() > 0 {
            // An error means that the last receiver left between the two lines.
            let _ = self.sender.send(event());
        }
    }
}

fn log_change(change: &Change, now: Timestamp) {
    let (task, function, attempt) = (change.id, &change.name, change.life.attempt);
    let ran_ms = match (change.life.finished_at, change.life.started_at) {
        (Some(finished), Some(started)) => finished.since(started).as_millis(),
        _ => 0,
    };
    let error = change.life.error.as_ref().map(|error| &*error.message);
    let tracking_id = change.tracking_id.as_deref();
    match change.life.status {
        TaskStatus::Running => debug!(%task, %function, attempt, tracking_id, "task started"),
        TaskStatus::Success => {
            debug!(%task, %function, attempt, ran_ms, tracking_id, "task succeeded");
        }
        TaskStatus::Failed => {
            warn!(%task, %function, attempt, ran_ms, error, tracking_id, "task failed");
        }
        TaskStatus::Interrupted => {
            warn!(%task, %function, attempt, ran_ms, error, tracking_id, "task interrupted");
        }
        TaskStatus::Cancelled => {
            info!(%task, %function, attempt, ran_ms, tracking_id, "task cancelled");
        }
        TaskStatus::Pending if change.ended.is_some() => {
            let again_in_ms = change.life.run_at.since(now).as_millis();
            info!(%task, %function, attempt, ran_ms, again_in_ms, error, tracking_id, "task will run again");
        }
        TaskStatus::Pending if error.is_some() => {
            warn!(%task, %function, error, tracking_id, "task held");
        }
        TaskStatus::Pending => debug!(%task, %function, tracking_id, "task released"),
    }
}

/// The feed of events as a [`Stream`], from [`TaskManager::events`](crate::TaskManager::events).
#[derive(Debug)]
pub struct EventStream(BroadcastStream<TaskEvent>);

impl Stream for EventStream {
    type Item = TaskEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        Pin::new(&mut self.0)
            .poll_next(cx)
            .map(|event| match event? {
                Ok(event) => Some(event),
                Err(BroadcastStreamRecvError::Lagged(n)) => Some(TaskEvent::Missed(n)),
            })
    }
}
