//! What a function can know of its own task, and what it can take besides its arguments.

use std::{
    any::{TypeId, type_name},
    fmt,
    sync::{Arc, atomic::Ordering},
};

use tokio_util::sync::CancellationToken;

use crate::{
    backend::{Note, Said},
    clock::Timestamp,
    id::{Epoch, TaskId},
    running::{Home, Running},
    states::{Need, States},
    task::{LogLevel, LogLine, Progress, SLOT_TAG, Tags, Task},
};

/// The running task, as its function sees it.
///
/// Take it as the first parameter, or ask for it anywhere below:
///
/// ```
/// use axum_taskflow_core::TaskContext;
///
/// async fn import(ctx: TaskContext, rows: Vec<String>) {
///     for (n, row) in rows.iter().enumerate() {
///         ctx.progress(n as f64 / rows.len() as f64, row.as_str());
///     }
///     deep_inside();
/// }
///
/// fn deep_inside() {
///     if let Some(ctx) = TaskContext::current() {
///         ctx.log("nearly done");
///     }
/// }
/// ```
#[derive(Clone)]
pub struct TaskContext(Arc<Running>);

/// Log lines of one attempt that are kept; the last one says that more were dropped.
pub const LOG_LINES_MAX: u32 = 1_000;
/// Bytes of one log line or progress message that are kept.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;

tokio::task_local! {
    static CURRENT: TaskContext;
}

impl TaskContext {
    pub(crate) fn of(running: Arc<Running>) -> Self {
        Self(running)
    }

    /// The task that runs here: inside a function of a task, and in whatever it calls on the same tokio task or
    /// thread. Spawned tokio tasks and threads have to be given a clone.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The task's id.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.0.task.id
    }

    /// The name of its function.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.task.name
    }

    /// The number of this attempt; the first is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.task.life.attempt
    }

    /// The fencing token of this attempt: larger than that of every earlier one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.task.life.epoch
    }

    /// The task's labels.
    #[must_use]
    pub fn tags(&self) -> &Tags {
        &self.0.task.tags
    }

    /// The slot of the [schedule](crate::Schedule) that made this task, whenever it runs and however often it is retried; none
    /// for other tasks. Of a task that was asked for by hand it is the time of that.
    #[must_use]
    pub fn slot(&self) -> Option<Timestamp> {
        self.tags().get(SLOT_TAG)?.parse().ok()
    }

    /// The id of the request that the task belongs to, if it has one. Tasks that this one adds get it as well.
    #[must_use]
    pub fn tracking_id(&self) -> Option<&str> {
        self.0.task.tracking_id.as_deref()
    }

    /// A key that is the same in every attempt of this task, for outside systems that take one: the caller's
    /// idempotency key, or else the task's id.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        match &self.0.task.idempotency_key {
            Some(key) if !key.is_of_retries() => key.key.clone(),
            // Nor is it the key of a retry: what an outside system has answered to the task before would count for it.
            _ => self.id().to_string(),
        }
    }

    /// Fires when the task is cancelled, times out, or the service stops. An async function is dropped at its next
    /// await by itself; a blocking one should look at [`TaskContext::is_cancelled`] now and then.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        self.0.token()
    }

    /// True once the task should stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.token().is_cancelled()
    }

    /// Logs a line of level info, kept with the task and shown on its page.
    ///
    /// At most [`LOG_LINES_MAX`] lines of an attempt are kept, each cut to [`LOG_LINE_BYTES_MAX`] bytes.
    pub fn log(&self, message: impl Into<String>) {
        self.log_at(LogLevel::Info, message);
    }

    /// Logs a line of this level.
    pub fn log_at(&self, level: LogLevel, message: impl Into<String>) {
        // Relaxed: only the number matters, and each line gets its own.
        let seq = self.0.lines.fetch_add(1, Ordering::Relaxed);
        let (level, message) = match seq + 1 {
            LOG_LINES_MAX => (
                LogLevel::Warn,
                format!("{LOG_LINES_MAX} lines were logged; further ones are dropped"),
            ),
            n if n > LOG_LINES_MAX => {
                self.0.lines.store(LOG_LINES_MAX, Ordering::Relaxed);
                return;
            }
            _ => (level, cut(message.into())),
        };
        self.say(Said::Log(LogLine {
            seq,
            attempt: self.attempt(),
            at: self.0.clock.now(),
            level,
            message,
        }));
    }

    /// Says how far the task is: `fraction` from 0.0 to 1.0 (moved there if outside), `message` what it is doing.
    ///
    /// Cheap enough for each row of a file: what was not written yet is replaced.
    pub fn progress(&self, fraction: f64, message: impl Into<String>) {
        let fraction = if fraction.is_nan() { 0.0 } else { fraction };
        self.say(Said::Progress(Progress {
            fraction: fraction.clamp(0.0, 1.0),
            message: cut(message.into()),
        }));
    }

    pub(crate) fn task(&self) -> &Task {
        &self.0.task
    }

    /// The engine, if it is still there.
    pub(crate) fn home(&self) -> Option<Arc<dyn Home>> {
        self.0.home.upgrade()
    }

    fn say(&self, what: Said) {
        let Some(home) = self.home() else {
            return; // there is no task any more either
        };
        self.0.speaks();
        home.say(Note {
            id: self.id(),
            epoch: self.epoch(),
            what,
        });
    }

    // Not an async fn: its future would hold the work twice.
    pub(crate) fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self, work)
    }

    pub(crate) fn sync_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LOG_LINE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(LOG_LINE_BYTES_MAX));
    }
    text
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("id", &self.0.task.id)
            .field("name", &self.0.task.name)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// The application's state, as axum's `State` but for tasks: a clone of the `T` that the manager was given, by
/// [`Config::state`](crate::Config::state) or the builder's `state`.
///
/// ```
/// use axum_taskflow_core::Data;
///
/// #[derive(Clone)]
/// struct Mailer;
///
/// async fn send_email(Data(mailer): Data<Mailer>, address: String) {
///     let _ = (mailer, address);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<T>(pub T);

/// What a function can take before its arguments: [`TaskContext`], [`Data`], or your own.
///
/// ```
/// use axum_taskflow_core::{Data, FromTask, Need, States, TaskContext, TaskDef};
///
/// #[derive(Clone)]
/// struct Pool;
///
/// /// A connection of the pool that the manager was given.
/// struct Connection(Pool);
///
/// impl FromTask for Connection {
///     fn needs() -> Option<Need> {
///         Data::<Pool>::needs()
///     }
///
///     fn from_task(ctx: &TaskContext, states: &States) -> Self {
///         let Data(pool) = Data::from_task(ctx, states);
///         Self(pool)
///     }
/// }
///
/// async fn import(connection: Connection, rows: u32) {}
///
/// let import = TaskDef::new(import);
/// # let _ = import;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither an argument nor something that a task provides",
    note = "a task function takes `TaskContext` and `Data<T>` first, then its arguments"
)]
pub trait FromTask: Sized {
    /// What the manager has to have been given. Checked when it is built.
    #[must_use]
    fn needs() -> Option<Need> {
        None
    }

    /// Makes it. Called when an attempt begins.
    fn from_task(ctx: &TaskContext, states: &States) -> Self;
}

impl FromTask for TaskContext {
    fn from_task(ctx: &TaskContext, _: &States) -> Self {
        ctx.clone()
    }
}

impl<T: Clone + Send + Sync + 'static> FromTask for Data<T> {
    fn needs() -> Option<Need> {
        Some(Need {
            type_id: TypeId::of::<T>(),
            type_name: type_name::<T>(),
        })
    }

    fn from_task(_: &TaskContext, states: &States) -> Self {
        Self(
            states
                .get::<T>()
                .expect("build() and add_task() refuse a function whose state is missing")
                .clone(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};

    use super::*;
    use crate::{clock::Clock, id::IdSource};

    #[derive(Default)]
    struct Notes(Mutex<Vec<Note>>, States);

    impl Home for Notes {
        fn say(&self, note: Note) {
            self.0.lock().unwrap().push(note);
        }

        fn states(&self) -> &States {
            &self.1
        }
    }

    fn context() -> (TaskContext, Arc<Notes>) {
        let now = Timestamp::from_unix_ms(1_000);
        let task = Arc::new(Task::new(IdSource::default().task(now), "f", "[]"));
        let notes = Arc::new(Notes::default());
        let home: Weak<Notes> = Arc::downgrade(&notes);
        let running = Running::new(task, Clock::manual(now), home);
        (TaskContext::of(Arc::new(running)), notes)
    }

    #[test]
    fn a_chatty_function_is_cut_off_and_told_so() {
        let (context, notes) = context();

        for _ in 0..LOG_LINES_MAX * 3 {
            context.log("x");
        }

        let notes = notes.0.lock().unwrap();
        assert_eq!(notes.len(), LOG_LINES_MAX as usize);
        let Said::Log(last) = &notes.last().unwrap().what else {
            panic!("not a log line")
        };
        assert!(last.message.contains("further ones are dropped"));
    }

    #[test]
    fn progress_outside_its_range_is_moved_into_it() {
        let (context, notes) = context();

        for fraction in [f64::NAN, -1.0, 7.0] {
            context.progress(fraction, "");
        }

        let said: Vec<f64> = notes
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|note| match &note.what {
                Said::Progress(progress) => progress.fraction,
                Said::Log(_) => panic!("not progress"),
            })
            .collect();
        assert_eq!(said, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn the_idempotency_key_falls_back_to_the_id() {
        let (context, _) = context();

        assert_eq!(context.idempotency_key(), context.id().to_string());
    }
}
