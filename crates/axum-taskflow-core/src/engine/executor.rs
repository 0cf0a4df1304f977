//! Runs one attempt: read the arguments, store the start, call the function, store the end.

use std::{
    collections::hash_map::Entry,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{Span, info_span, span::Entered, warn};

use super::{Engine, Next};
use crate::{
    backend::Applied,
    change::{Change, HeldBy, Outcome},
    clock::Timestamp,
    context::TaskContext,
    error::{Error, ErrorKind},
    failure::{Failure, FailureReport},
    handler::{Invocation, Returned},
    id::TaskId,
    panics,
    registry::TaskDef,
    running::Running,
    status::{Refused, TaskStatus},
    task::{Executor, LogLevel, Task},
};

/// How long a task waits that this program cannot read, if too many of them are remembered already to leave it to
/// others at once.
const HELD_FOR: Duration = Duration::from_secs(60);
/// What an attempt is told that the end of the process cut off.
pub(crate) const BY_SHUTDOWN: &str = "interrupted by shutdown";
/// What an attempt is told whose task was taken from this instance.
pub(crate) const SUPERSEDED: &str =
    "interrupted: this instance did not respond, and was taken for dead";

/// What an attempt is told whose instance could not show that it lives.
pub(crate) const LAPSED: &str =
    "interrupted: this instance could not reach the task store for as long as it counts as alive";

/// An attempt with everything it needs, to be called as soon as its start is stored.
pub(crate) struct Beginning {
    def: Arc<TaskDef>,
    call: Invocation,
    running: Arc<Running>,
    timeout: Option<Duration>,
}

impl Beginning {
    /// The task as it is to be stored.
    pub(crate) fn task(&self) -> &Arc<Task> {
        &self.running.task
    }
}

/// A task whose arguments cannot be read here.
struct Unread {
    task: Arc<Task>,
    why: String,
}

impl Engine {
    /// Starts tasks while there are tasks and slots.
    pub(crate) fn dispatch(self: &Arc<Self>) {
        for executor in [Executor::Async, Executor::Thread] {
            self.dispatch_to(executor);
        }
    }

    /// In one lane: what ends in one makes no room in the other.
    fn dispatch_to(self: &Arc<Self>, executor: Executor) {
        // Bounded: outcomes that cannot be stored are kept, and no more are made than we can keep.
        while !self.journal.is_full() {
            match self.ready.next(executor) {
                Next::Start(task) => self.begin(task),
                Next::Claim => return self.claimer_wake.notify_one(),
                Next::Nothing => return,
            }
        }
    }

    /// Reads the arguments and stores the start. The slot is taken already.
    fn begin(self: &Arc<Self>, task: Arc<Task>) {
        let now = self.clock.now();
        let Some(def) = self.registry.by_name(&task.name) else {
            // Claims name the functions that are known, so this is a task that outlived its registration.
            return self.let_go(Change::released(&task), &task);
        };
        let owner = task.life.owner;
        let change = match Change::started(&task, self.me(), now) {
            Ok(change) => change,
            Err(refused) => {
                panics::say(
                    || warn!(task = %task.id, %refused, "a task that cannot start was held as ready"),
                );
                return self.ready.free_slot(&task);
            }
        };
        match self.beginning(task, def, &change) {
            // This instance was taken for dead since it took the task. Looked at when the attempt can be interrupted
            // already: there is no moment in between.
            Ok(it) if owner != Some(self.me()) => self.begin_never(&it),
            Ok(it) => self.start_after_commit(change, it),
            Err(unread) => self.cannot_read(&unread, now),
        }
    }

    /// Calls the function of a task that a claim has begun. The slot is taken already.
    pub(crate) fn begin_claimed(self: &Arc<Self>, task: Task) {
        let Some(def) = self.registry.by_name(&task.name) else {
            return self.let_go(Change::released(&task), &task);
        };
        let (owner, change) = (task.life.owner, Change::claimed(&task));
        match self.beginning(Arc::new(task), def, &change) {
            Ok(it) if owner != Some(self.me()) => self.begin_never(&it), // as above
            Ok(it) => self.begin_now(it),
            Err(unread) => self.cannot_read(&unread, self.clock.now()),
        }
    }

    /// Gives the slot back, and the task to somebody who can read it.
    fn cannot_read(self: &Arc<Self>, unread: &Unread, now: Timestamp) {
        let Unread { task, why } = unread;
        let again_at = match self.unreadable.remember(task.id, now) {
            true => now, // at once, by anybody else
            false => now.saturating_add(HELD_FOR),
        };
        self.let_go(Change::held(task, why, again_at), task);
    }

    /// The next attempt of a task that has a slot, up to the point where its start is stored: by `change`.
    fn beginning(
        self: &Arc<Self>,
        mut task: Arc<Task>,
        def: Arc<TaskDef>,
        change: &Change,
    ) -> Result<Beginning, Unread> {
        // A type's own code reads the arguments, and may panic.
        let read = panics::catch(|| def.prepare(&task.args));
        let call = match read.unwrap_or_else(|report| Err(report.message)) {
            Ok(call) => call,
            Err(why) => return Err(Unread { task, why }),
        };
        Arc::make_mut(&mut task).life = change.life.clone();
        let home: Weak<Self> = Arc::downgrade(self);
        let running = Arc::new(Running::new(task, self.clock.clone(), home));
        let former = self.running().insert(change.id, running.clone());
        if let Some(former) = former {
            // The task was taken over from this instance and came back: what still runs of it must stop.
            former.interrupt(SUPERSEDED);
        }
        // Looked at when the attempt can be interrupted already: there is no moment in between.
        if self.ready.is_paused() {
            running.interrupt(LAPSED);
        }
        Ok(Beginning {
            timeout: self.options(&running.task, &def).timeout,
            def,
            call,
            running,
        })
    }

    /// A new task that has a slot: stored as one that has begun, it costs one write and not two, and its function is
    /// called as soon as that is done.
    ///
    /// # Errors
    /// The task, if it cannot begin here; then the slot is free again.
    pub(crate) fn beginning_of_new(
        self: &Arc<Self>,
        task: Arc<Task>,
        now: Timestamp,
    ) -> Result<Beginning, Arc<Task>> {
        let def = self.registry.by_name(&task.name);
        let change = Change::started(&task, self.me(), now).ok();
        let beginning = match def.zip(change) {
            Some((def, change)) => self
                .beginning(task, def, &change)
                .map_err(|unread| unread.task),
            None => Err(task),
        };
        beginning.inspect_err(|task| self.ready.free_slot(task))
    }

    /// The start is stored.
    pub(crate) fn begin_now(self: &Arc<Self>, beginning: Beginning) {
        crash_point!("executor::start-stored");
        // This process may have been stopped before it heard of it, or cut off: then others may have taken the task.
        if !self.is_surely_alive() && self.never_called(&beginning.running) {
            return;
        }
        let task = beginning.task();
        self.feed.changed(&Change::claimed(task), task.life.run_at);
        tokio::spawn(beginning.run(self.clone()));
    }

    /// The start was not stored: the task is not ours, or not there.
    pub(crate) fn begin_never(self: &Arc<Self>, beginning: &Beginning) {
        let task = beginning.task();
        self.forget_attempt(task);
        beginning.running.tell_settled();
        self.ready.free_slot(task);
        self.dispatch_to(task.executor);
    }

    /// The start is on disk before the function's first line runs: it is never repeated unasked, and who was cancelled while
    /// it waited for a slot never runs.
    fn start_after_commit(self: &Arc<Self>, change: Change, beginning: Beginning) {
        let (engine, executor) = (self.clone(), beginning.task().executor);
        self.ready.begin_start(executor);
        let then = Box::new(move |change: &Change, applied| {
            engine.ready.end_start(executor);
            match applied {
                Applied::Applied => engine.begin_now(beginning),
                // Cancelled, or taken by somebody else, before it began.
                Applied::Stale => {
                    engine.begin_never(&beginning);
                    engine.start_was_stale(change);
                }
            }
        });
        self.journal.change(change, then);
    }

    /// The attempt does not run any more; a later one of the same task may.
    fn forget_attempt(&self, task: &Task) {
        self.end_attempt(task, || true);
    }

    /// The same, and its end goes to the journal. In one step: who shuts down must find it in one place or the other, and
    /// who cancels must not find it among those that run when its end is stored. So what `store` sees of a cancel is the
    /// last word; if it stores nothing, the attempt goes on.
    fn end_attempt(&self, task: &Task, store: impl FnOnce() -> bool) -> bool {
        let mut running = self.running();
        if !store() {
            return false;
        }
        if let Entry::Occupied(entry) = running.entry(task.id)
            && entry.get().task.life.epoch == task.life.epoch
        {
            entry.remove();
        }
        true
    }

    /// The attempt is to stop before its function is called: the task is for all again. False if it was cancelled: then it
    /// has to end.
    fn never_called(self: &Arc<Self>, running: &Running) -> bool {
        let task = &running.task;
        let is_left = self.end_attempt(task, || {
            let is_left = !running.was_cancelled();
            if is_left {
                self.store_released(Change::released(task));
            }
            is_left
        });
        if is_left {
            self.ready.free_slot(task);
            self.dispatch_to(task.executor);
        }
        is_left
    }

    /// Cancels the attempt of this task that runs here, and waits until its start is stored; false if there is none, or
    /// none begins: somebody else has the task.
    ///
    /// # Errors
    /// The store does not say so in time.
    pub(crate) async fn cancel_here(&self, id: TaskId) -> Result<bool, Error> {
        let attempt = self.running().get(&id).cloned().inspect(|it| it.cancel());
        let Some(attempt) = attempt else {
            return Ok(false);
        };
        let settled = async {
            let settled = attempt.settled();
            let is_ahead = |it: &Arc<Running>| Arc::ptr_eq(it, &attempt) && !it.was_called();
            if self.running().get(&id).is_some_and(is_ahead) {
                settled.await;
            }
        };
        match tokio::time::timeout(self.add_timeout, settled).await {
            Ok(()) => Ok(attempt.was_called()),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "the task store did not answer in time: if task {id} begins here, it is cancelled at once"
                ),
            )),
        }
    }

    /// Stores that this instance lets go of a task that it cannot start.
    fn let_go(self: &Arc<Self>, change: Result<Change, Refused>, task: &Task) {
        self.store_released(change);
        self.ready.free_slot(task);
    }

    fn store_released(self: &Arc<Self>, change: Result<Change, Refused>) {
        match change {
            Ok(change) => self.store(change),
            Err(refused) => {
                panics::say(|| warn!(%refused, "a task that cannot be let go was held as ready"));
            }
        }
    }

    /// Stores what an attempt came to, and goes on with the next one without waiting for the disk.
    fn finish(self: &Arc<Self>, running: &Running, def: &TaskDef, outcome: Outcome) {
        crash_point!("executor::returned");
        let task = &*running.task;
        let policy = self.options(task, def).retry_policy();
        let now = self.clock.now();
        // The words of an error are made by its own code, which may panic, too.
        let finished =
            panics::catch(|| Change::finished(task, outcome, &policy, fastrand::f64(), now))
                .unwrap_or_else(|report| {
                    let outcome = Outcome::Panicked(report);
                    Change::finished(task, outcome, &policy, fastrand::f64(), now)
                });
        #[cfg(feature = "otel")]
        if let Ok(change) = &finished {
            panics::contain(|| crate::otel::ended(change));
        }
        match finished {
            Ok(change) => {
                let engine = self.clone();
                let then = Box::new(move |change: &Change, applied| engine.ended(change, applied));
                self.end_attempt(task, || {
                    let begins_again = change.life.status == TaskStatus::Pending;
                    let mut change = match begins_again && running.was_cancelled() {
                        true => Change::stopped(task, now).unwrap_or(change), // since it came to its end
                        false => change,
                    };
                    if running.is_in_doubt() {
                        change.held_by = HeldBy::now(task.life.owner); // another's attempt is not ours to end
                    }
                    self.journal.end(change, then, || running.is_silent());
                    true
                });
            }
            Err(refused) => {
                panics::say(
                    || warn!(task = %task.id, %refused, "an attempt ended that had not begun"),
                );
                self.forget_attempt(task);
            }
        }
        self.ready.free_slot(task);
        self.dispatch_to(task.executor);
    }
}

impl Beginning {
    async fn run(self, engine: Arc<Engine>) {
        let Self {
            def,
            call,
            running,
            timeout,
        } = self;
        running.set_called();
        if running.is_interrupted() && engine.never_called(&running) {
            return;
        }
        let span = panics::contain(|| span_of(&running.task)).unwrap_or_else(Span::none);
        let context = TaskContext::of(running.clone());
        let outcome = if running.token().is_cancelled() {
            running.outcome()
        } else {
            let limits = Limits {
                running: &running,
                timeout,
            };
            let called = pin!(call_function(&engine, call, &context, limits));
            let outcome = in_span(&span, called).await;
            outcome.unwrap_or_else(|report| running.panicked(report))
        };
        let outcome = keep_result_small(outcome, engine.result_max, &context);
        let entered = enter(&span);
        engine.finish(&running, &def, outcome);
        leave(entered);
        panics::contain(|| drop(span));
    }
}

/// Polls `work` in the span, and to its end whatever the subscriber does: one that panics, as at a broken pipe, must not
/// cost an attempt its end.
async fn in_span<T>(
    span: &Span,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, FailureReport> {
    poll_fn(|cx| {
        let entered = enter(span);
        let polled = panics::catch(|| work.as_mut().poll(cx));
        leave(entered);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(report) => Poll::Ready(Err(report)),
        }
    })
    .await
}

fn enter(span: &Span) -> Option<Entered<'_>> {
    panics::contain(|| span.enter())
}

fn leave(entered: Option<Entered<'_>>) {
    panics::contain(|| drop(entered));
}

/// Around everything that an attempt does: each line that its function logs by `tracing` says which task it is of.
fn span_of(task: &Task) -> Span {
    let span = info_span!(
        parent: None, // no part of what happens to start it, which may be another task
        "task",
        task = %task.id,
        name = &*task.name,
        attempt = task.life.attempt,
        tracking_id = task.tracking_id.as_deref(),
    );
    #[cfg(feature = "otel")]
    if let Some(context) = &task.trace_context {
        crate::otel::link(&span, context);
    }
    span
}

struct Limits<'a> {
    running: &'a Running,
    timeout: Option<Duration>,
}

async fn call_function(
    engine: &Arc<Engine>,
    call: Invocation,
    context: &TaskContext,
    limits: Limits<'_>,
) -> Outcome {
    match call {
        Invocation::Async(work) => run_async(work, context.clone(), limits).await,
        Invocation::Thread(work) => run_thread(engine, work, context.clone(), limits).await,
    }
}

async fn run_async(
    mut work: Pin<Box<dyn Future<Output = Returned> + Send>>,
    context: TaskContext,
    limits: Limits<'_>,
) -> Outcome {
    let outcome = context
        .scope(async {
            tokio::select! {
                biased; // a function that is done is done, whatever else happened meanwhile
                returned = panics::catch_async(&mut work) => match returned {
                    // It ended because it was told to.
                    Ok(Err(_)) | Err(_) if limits.running.token().is_cancelled() => limits.running.outcome(),
                    Ok(returned) => outcome_of(returned),
                    Err(report) => Outcome::Panicked(report),
                },
                () = limits.running.token().cancelled() => limits.running.outcome(),
                limit = passed(limits.timeout) => {
                    limits.running.token().cancel(); // for what the function has spawned
                    Outcome::TimedOut(limit)
                }
            }
        })
        .await;
    // A function that was cut off is dropped here; its destructors may panic, too.
    match panics::catch(|| drop(work)) {
        Ok(()) => outcome,
        Err(report) => Outcome::Panicked(report),
    }
}

async fn run_thread(
    engine: &Arc<Engine>,
    work: Box<dyn FnOnce() -> Returned + Send>,
    context: TaskContext,
    limits: Limits<'_>,
) -> Outcome {
    let (runtime, span) = (tokio::runtime::Handle::current(), Span::current());
    let kept = engine.clone(); // the function takes what is the engine's, though the runtime may have ended
    let spawned = engine.threads.spawn(move || {
        // So that the function finds the service's runtime, and not that of the pool.
        let _inside = runtime.enter();
        let entered = enter(&span);
        let returned = context.sync_scope(|| panics::catch(work));
        leave(entered);
        drop(kept);
        returned
    });
    let mut thread = match spawned {
        Ok(thread) => thread,
        Err(None) => return limits.running.cut_off(BY_SHUTDOWN),
        Err(Some(report)) => {
            let why = report.message;
            panics::say(|| warn!(%why, "no thread could be made for a plain function"));
            let why = format!("no thread could be made for the function: {why}");
            return Outcome::Failed(Failure::retry(why));
        }
    };
    // A thread cannot be stopped from outside. The token asks it to; what it then returns is what counts.
    let mut timed_out = None;
    let returned = tokio::select! {
        biased;
        returned = &mut thread => returned,
        limit = passed(limits.timeout) => {
            timed_out = Some(limit);
            limits.running.token().cancel();
            thread.await
        }
    };
    match returned {
        Ok(Ok(Ok(result))) => Outcome::Done(result),
        Ok(Ok(Err(failure))) => match timed_out {
            Some(limit) => Outcome::TimedOut(limit),
            None if limits.running.token().is_cancelled() => limits.running.outcome(),
            None => Outcome::Failed(failure),
        },
        Ok(Err(_)) if timed_out.is_none() && limits.running.token().is_cancelled() => {
            limits.running.outcome()
        }
        Ok(Err(report)) => Outcome::Panicked(report),
        // Panics are caught inside; what is left is a pool that shut down before the thread began.
        Err(_) => limits.running.cut_off(BY_SHUTDOWN),
    }
}

async fn passed(timeout: Option<Duration>) -> Duration {
    let Some(limit) = timeout else {
        return std::future::pending().await;
    };
    match Instant::now().checked_add(limit) {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
    limit
}

fn outcome_of(returned: Returned) -> Outcome {
    match returned {
        Ok(result) => Outcome::Done(result),
        Err(failure) => Outcome::Failed(failure),
    }
}

fn keep_result_small(outcome: Outcome, result_max: usize, context: &TaskContext) -> Outcome {
    match outcome {
        Outcome::Done(Some(result)) if result.len() > result_max => {
            let message = format!(
                "the result has {} bytes and is not kept: the limit is {result_max}",
                result.len()
            );
            context.log_at(LogLevel::Warn, message);
            Outcome::Done(None)
        }
        outcome => outcome,
    }
}
