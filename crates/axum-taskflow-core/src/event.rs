//! One feed of everything that happens to tasks, and the words in which it is logged.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
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
    id::{Epoch, TaskId},
    panics,
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
    /// The receiver was too slow, and this many events that came before the next one are gone: read again what you show.
    Missed(u64),
}

impl TaskEvent {
    /// About how many bytes it holds, of what can be large.
    fn bytes(&self) -> usize {
        let len = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        match self {
            Self::Added(task) => {
                let tags = task.tags.iter();
                task.args.len()
                    + tags
                        .map(|(key, value)| key.len() + value.len())
                        .sum::<usize>()
            }
            Self::Changed { life, .. } => {
                len(&life.result) + life.error.as_ref().map_or(0, |error| error.bytes())
            }
            Self::Log { line, .. } => line.message.len(),
            Self::Progress { progress, .. } => progress.message.len(),
            Self::Stale { .. } | Self::Missed(_) => 0,
        }
    }
}

/// How many events a slow receiver may lag behind; then it gets [`TaskEvent::Missed`].
const LAG_MAX: usize = 4_096;
/// The same for the bytes of large events: one receiver that reads nothing keeps all that it lags behind.
const LAG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// From so many bytes on an event is large. All others together are 16 MiB, and are not counted.
const LARGE_BYTES: usize = 4 * 1024;

/// An event on its way to the receivers.
#[derive(Clone, Debug)]
enum Sent {
    Small(TaskEvent),
    Large(Arc<Large>),
}

/// Nothing if too many bytes were sent after it. A std mutex: held for one clone.
#[derive(Debug)]
struct Large(Mutex<Option<TaskEvent>>);

impl Large {
    fn event(&self) -> Option<TaskEvent> {
        let event = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        event.clone()
    }

    fn clear(&self) {
        let mut event = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *event = None;
    }
}

/// The last large events, oldest first: [`LAG_BYTES_MAX`] in all, or the last one alone.
#[derive(Debug, Default)]
struct Latest {
    /// Each with its bytes. Weak: what all have read is gone.
    large: VecDeque<(Weak<Large>, usize)>,
    n_bytes: usize,
}

impl Latest {
    fn push(&mut self, large: &Arc<Large>, n_bytes: usize) {
        self.n_bytes += n_bytes;
        self.large.push_back((Arc::downgrade(large), n_bytes));
        while self.large.len() > 1
            && (self.n_bytes > LAG_BYTES_MAX || self.large.len() > LAG_MAX)
            && let Some((oldest, n_bytes)) = self.large.pop_front()
        {
            self.n_bytes -= n_bytes;
            if let Some(oldest) = oldest.upgrade() {
                oldest.clear();
            }
        }
    }
}

/// The sending end of the feed.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Broadcast, so that a slow receiver loses its own events and holds up nobody.
    sender: broadcast::Sender<Sent>,
    /// What may still be read of what is large. A std mutex: held while one large event is sent.
    latest: Mutex<Latest>,
    /// Results that came too late. An atomic: only ever counted.
    n_stale: AtomicU64,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(LAG_MAX),
            latest: Mutex::default(),
            n_stale: AtomicU64::new(0),
        }
    }
}

impl Feed {
    pub(crate) fn subscribe(&self) -> EventStream {
        EventStream {
            sent: BroadcastStream::new(self.sender.subscribe()),
            n_missed: 0,
            after_missed: None,
        }
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
        if self.sender.receiver_count() == 0 {
            return;
        }
        let event = event();
        let n_bytes = event.bytes();
        // An error of `send` means that the last receiver has just left.
        if n_bytes < LARGE_BYTES {
            let _ = self.sender.send(Sent::Small(event));
        } else {
            let large = Arc::new(Large(Mutex::new(Some(event))));
            // Until it is sent: the last one in `latest` is the last one that receivers get, and is there after all
            // that they have missed.
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.push(&large, n_bytes);
            let _ = self.sender.send(Sent::Large(large));
        }
    }
}

fn log_change(change: &Change, now: Timestamp) {
    let (task, function) = (change.id, &change.name);
    // One that was cut off and is not counted has no number in what is stored now.
    let attempt = change
        .ended
        .as_ref()
        .map_or(change.life.attempt, |ended| ended.number);
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
        // So it is each time that a run key is given anew. What people cancel stands in the audit log.
        TaskStatus::Cancelled if change.expects.0 == TaskStatus::Pending && attempt == 0 => {
            debug!(%task, %function, tracking_id, "task cancelled before it ran");
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
///
/// It holds up nobody. One that lags behind by more than 4,096 events, or by large ones of more than 64 MiB, loses the
/// oldest of them and is told so by [`TaskEvent::Missed`].
#[derive(Debug)]
pub struct EventStream {
    sent: BroadcastStream<Sent>,
    /// Events that are gone, and were not told of yet.
    n_missed: u64,
    /// The event that comes after [`TaskEvent::Missed`].
    after_missed: Option<TaskEvent>,
}

impl Stream for EventStream {
    type Item = TaskEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        if let Some(event) = self.after_missed.take() {
            return Poll::Ready(Some(event));
        }
        loop {
            // Pending only if nothing is missed, or for a moment: after what is missed there is always an event.
            let event = match ready!(Pin::new(&mut self.sent).poll_next(cx)) {
                Some(Ok(Sent::Small(event))) => Some(event),
                Some(Ok(Sent::Large(large))) => match large.event() {
                    Some(event) => Some(event),
                    None => {
                        self.n_missed += 1;
                        continue;
                    }
                },
                Some(Err(BroadcastStreamRecvError::Lagged(n))) => {
                    self.n_missed += n;
                    continue;
                }
                None => None,
            };
            // Told at once however many they are: whoever hears it reads a lot.
            return Poll::Ready(match std::mem::take(&mut self.n_missed) {
                0 => event,
                n => {
                    self.after_missed = event;
                    Some(TaskEvent::Missed(n))
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tracing::field::Field;
    use tracing_subscriber::{Layer, Registry, layer::SubscriberExt};

    use super::*;
    use crate::{
        failure::{FailureKind, FailureReport},
        id::IdSource,
    };

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);
    const MIB: usize = 1024 * 1024;
    /// So many events with a MiB each are kept.
    const KEPT: usize = LAG_BYTES_MAX / MIB;

    /// One text that all events share, so that those who still have it are counted, and not the memory.
    struct Sender {
        feed: Feed,
        ids: IdSource,
        text: Arc<str>,
    }

    impl Sender {
        fn new() -> Self {
            Self {
                feed: Feed::default(),
                ids: IdSource::default(),
                text: "x".repeat(MIB).into(),
            }
        }

        fn added(&self, args: Arc<str>) -> TaskId {
            let task = Task::new(self.ids.task(NOW), "f", args);
            self.feed.added(&Arc::new(task.clone()));
            task.id
        }

        fn ended(&self) -> TaskId {
            let task = Task::new(self.ids.task(NOW), "f", "[]");
            let mut change = Change::started(&task, self.ids.instance(NOW), NOW).unwrap();
            change.life.result = Some(self.text.clone());
            self.feed.changed(&change, NOW);
            task.id
        }

        fn n_kept(&self) -> usize {
            Arc::strong_count(&self.text) - 1
        }
    }

    /// The numbers of attempts in what is logged.
    #[derive(Clone, Default)]
    struct Attempts(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Attempts {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
                if field.name() == "attempt" {
                    self.0.lock().unwrap().push(format!("{value:?}"));
                }
            });
        }
    }

    #[test]
    fn an_attempt_that_was_cut_off_is_logged_by_its_own_number_though_it_does_not_count() {
        let attempts = Attempts::default();
        let ids = IdSource::default();
        let mut task = Task::new(ids.task(NOW), "f", "[]");
        task.requeue_on_interrupt = true;
        task.life = Change::started(&task, ids.instance(NOW), NOW).unwrap().life;
        let cut_off = Change::interrupted(&task, "the process died while this ran", NOW).unwrap();

        let log = Registry::default().with(attempts.clone());
        tracing::subscriber::with_default(log, || Feed::default().changed(&cut_off, NOW));

        assert_eq!(cut_off.life.attempt, 0);
        assert_eq!(*attempts.0.lock().unwrap(), ["1"]);
    }

    fn id_of(event: &TaskEvent) -> TaskId {
        match event {
            TaskEvent::Added(task) => task.id,
            TaskEvent::Changed { id, .. } => *id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_large_events_that_nobody_reads_a_bounded_number_of_bytes_is_kept() {
        let sender = Sender::new();
        let _reads_nothing = sender.feed.subscribe();
        let _neither = sender.feed.subscribe();

        for _ in 0..KEPT {
            sender.added(sender.text.clone());
            sender.ended();
        }

        assert_eq!(sender.n_kept(), KEPT);
    }

    #[test]
    fn all_that_can_be_large_in_an_event_is_counted() {
        let id = IdSource::default().task(NOW);
        let text = || "x".repeat(1_000);
        let mut task = Task::new(id, "f", text());
        task.tags.insert(text(), text());
        let mut life = Life::new(NOW);
        let mut report = FailureReport::new(FailureKind::Panic, text());
        report.sources = vec![text(), text()];
        report.backtrace = Some(text());
        (life.result, life.error) = (Some(text().into()), Some(Arc::new(report)));
        let (name, from) = ("f".into(), TaskStatus::Running);

        let n_bytes = [
            TaskEvent::Added(Arc::new(task)),
            TaskEvent::Changed {
                id,
                name,
                from,
                life,
            },
        ]
        .map(|event| event.bytes());

        assert_eq!(n_bytes, [3_000, 5_000]);
    }

    #[tokio::test]
    async fn who_lags_behind_by_too_many_bytes_is_told_once_how_many_events_are_gone() {
        let sender = Sender::new();
        let events = sender.feed.subscribe();
        let large: Vec<TaskId> = (0..KEPT + 7).map(|_| sender.ended()).collect();
        let small = sender.added("[]".into());
        drop(sender.feed);

        let all: Vec<TaskEvent> = events.collect().await;

        assert!(matches!(all[0], TaskEvent::Missed(7)), "{:?}", all[0]);
        let got: Vec<TaskId> = all[1..].iter().map(id_of).collect();
        assert_eq!(got[..KEPT], large[7..]);
        assert_eq!(got[KEPT..], [small]);
    }

    #[tokio::test]
    async fn who_lags_behind_by_too_many_events_is_told_once_how_many_are_gone() {
        let sender = Sender::new();
        let events = sender.feed.subscribe();
        for _ in 0..LAG_MAX + 7 {
            sender.ended();
        }
        let last = sender.ended();
        drop(sender.feed);

        let all: Vec<TaskEvent> = events.collect().await;

        let n_sent = u64::try_from(LAG_MAX + 8).unwrap();
        let n_missed = n_sent - u64::try_from(KEPT).unwrap();
        assert!(
            matches!(all[0], TaskEvent::Missed(n) if n == n_missed),
            "{:?}",
            all[0]
        );
        assert_eq!(all.len(), 1 + KEPT);
        assert_eq!(id_of(&all[KEPT]), last);
    }

    #[tokio::test]
    async fn who_reads_in_time_misses_nothing_and_then_nothing_is_kept() {
        let sender = Sender::new();
        let mut events = sender.feed.subscribe();

        for _ in 0..KEPT * 2 {
            let id = sender.ended();
            assert_eq!(id_of(&events.next().await.unwrap()), id);
        }

        assert_eq!(sender.n_kept(), 0);
    }
}
