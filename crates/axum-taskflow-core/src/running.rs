//! An attempt that runs here: what its function, whoever cuts it off, and the executor share.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::sync::{Notify, futures::Notified};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::Note, change::Outcome, clock::Clock, failure::FailureReport, id::Epoch,
    states::States, task::Task,
};

/// In one place of memory with all that a function can ask for.
pub(crate) struct Running {
    pub(crate) task: Arc<Task>,
    pub(crate) clock: Clock,
    /// Weak: the engine has a list of what runs, and must not keep itself.
    pub(crate) home: Weak<dyn Home>,
    /// Log lines so far; an atomic, since functions may log from many threads.
    pub(crate) lines: AtomicU32,
    /// It has said something. An atomic, as above: set before that is queued.
    has_spoken: AtomicBool,
    token: CancellationToken,
    /// Why the attempt is cut off, if not because somebody cancelled the task. Set before the token fires.
    interrupted: OnceLock<&'static str>,
    /// Somebody cancelled the task: whatever else cuts the attempt off, it is not to be repeated. An atomic: set before the
    /// token fires.
    cancelled: AtomicBool,
    /// The function is called, or has to do nothing any more but end. An atomic: set before the look at `interrupted`, so
    /// that whoever has interrupted an attempt and finds it not called knows that it never will be.
    called: AtomicBool,
    /// The store went back while it ran, and so another attempt may have its epoch. An atomic: set once, read at its end.
    in_doubt: AtomicBool,
    /// It is known whether it begins, and somebody may want to know. After a cancel: nobody else waits.
    settled: Notify,
}

/// What the engine is for an attempt.
pub(crate) trait Home: Send + Sync {
    /// Takes log lines and progress.
    fn say(&self, note: Note);
    /// The application's state.
    fn states(&self) -> &States;
}

impl Running {
    pub(crate) fn new(task: Arc<Task>, clock: Clock, home: Weak<dyn Home>) -> Self {
        Self {
            task,
            clock,
            home,
            lines: AtomicU32::new(0),
            has_spoken: AtomicBool::new(false),
            token: CancellationToken::new(),
            interrupted: OnceLock::new(),
            cancelled: AtomicBool::new(false),
            called: AtomicBool::new(false),
            in_doubt: AtomicBool::new(false),
            settled: Notify::new(),
        }
    }

    /// Something is about to be said.
    pub(crate) fn speaks(&self) {
        self.has_spoken.store(true, Ordering::SeqCst);
    }

    /// True if nothing was said up to now, neither by this attempt nor by an earlier one.
    pub(crate) fn is_silent(&self) -> bool {
        let is_first = self.task.life.epoch == Epoch::ZERO.next();
        is_first && !self.has_spoken.load(Ordering::SeqCst)
    }

    pub(crate) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::SeqCst)
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.token.cancel();
    }

    pub(crate) fn interrupt(&self, why: &'static str) {
        self.interrupted.get_or_init(|| why);
        self.token.cancel();
    }

    pub(crate) fn was_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Fires when the attempt is cut off, for whatever reason.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The function is called. From now on it is to be told if it shall stop.
    pub(crate) fn set_called(&self) {
        self.called.store(true, Ordering::SeqCst);
        self.tell_settled();
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.get().is_some()
    }

    /// Returns once it is known whether the attempt begins. To be looked at in between whether it is not.
    pub(crate) fn settled(&self) -> Notified<'_> {
        self.settled.notified()
    }

    /// Tells who waits for it that the function is called, or never will be.
    pub(crate) fn tell_settled(&self) {
        // Whoever cancels says so before he looks, and we look afterwards: one of both sees the other.
        if self.was_cancelled() {
            self.settled.notify_waiters();
        }
    }

    /// False while the start is being stored.
    pub(crate) fn was_called(&self) -> bool {
        self.called.load(Ordering::SeqCst)
    }

    /// What an attempt came to that was cut off.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.interrupted.get() {
            Some(why) => self.cut_off(why),
            None => Outcome::Cancelled,
        }
    }

    /// Something panicked beside the function, as does an error of it that is dropped.
    pub(crate) fn panicked(&self, report: FailureReport) -> Outcome {
        match self.was_cancelled() || self.is_interrupted() {
            true => self.outcome(),
            false => Outcome::Panicked(report),
        }
    }

    pub(crate) fn cut_off(&self, why: &'static str) -> Outcome {
        match self.was_cancelled() {
            true => Outcome::Cancelled,
            false => Outcome::Interrupted(why),
        }
    }
}
