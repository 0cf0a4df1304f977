//! How the engine stops: what runs may end, the rest is handed over, and everything is stored before the store is closed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{BY_SHUTDOWN, Engine, within};
use crate::{
    change::Change,
    error::{BackendError, Error, ErrorKind},
    health::Duty,
    panics,
};

/// How long threads get after the token has fired.
const THREADS_GRACE: Duration = Duration::from_secs(1);
/// How long the last writes may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A start that is under way: if it fails, or nobody waits for it any more, nobody else could end what it has begun.
pub(crate) struct Starting {
    pub(crate) engine: Arc<Engine>,
    is_done: bool,
}

impl Starting {
    pub(super) fn of(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            is_done: false,
        }
    }

    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.is_done {
            let engine = self.engine.clone();
            // What goes wrong is in the log.
            let ending = async move { drop(engine.shutdown().await) };
            self.engine.runtime.spawn(ending);
        }
    }
}

impl Engine {
    /// Stops starting tasks, lets them run until the deadline, cancels them, lets others have what was not begun, and
    /// stores everything. The journal stays open: what is added meanwhile waits for another instance or the next start.
    pub(crate) async fn drain(self: &Arc<Self>) {
        // In a task of its own: a caller who stops waiting must not leave the work half done. Nor the end of the runtime
        // that he is on, which may be another one.
        if !self.draining.swap(true, Ordering::SeqCst) {
            self.runtime.spawn(self.clone().stop_and_store());
        }
        self.drained.cancelled().await;
    }

    /// A shutdown waits no longer: what still runs is cancelled now.
    pub(crate) fn hurry(&self) {
        self.hurry.cancel();
    }

    async fn stop_and_store(self: Arc<Self>) {
        self.troubles
            .begin(Duty::Serve, self.clock.now(), &Duty::Serve.complaint());
        self.stopping.cancel();
        panics::say(|| info!("task manager is shutting down"));
        crash_point!("stop::begun");
        self.let_others_have(self.ready.stop());
        let done = async {
            tokio::select! {
                biased;
                () = self.ready.all_done() => true,
                () = self.hurry.cancelled() => false,
            }
        };
        if !matches!(
            tokio::time::timeout(self.shutdown_timeout, done).await,
            Ok(true)
        ) {
            let running = self.attempts();
            panics::say(|| {
                warn!(
                    running = running.len(),
                    "the time to shut down is over: cancelling what still runs"
                );
            });
            for attempt in running {
                attempt.interrupt(BY_SHUTDOWN);
            }
            if !within(THREADS_GRACE, self.ready.all_done()).await {
                self.give_up_on_threads();
            }
        }
        crash_point!("stop::before-flush");
        // A claim that was under way brings tasks that others may have.
        if !within(FLUSH_TIMEOUT, self.loops.wait()).await {
            panics::say(|| {
                error!(
                    "the task store did not answer in time: what a claim took waits for a takeover if no answer comes"
                );
            });
        }
        self.all_stored().await;
        self.threads.close();
        self.drained.cancel();
    }

    /// Drains, refuses new tasks and closes the backend. Whoever calls it meanwhile, or later, waits for the same.
    pub(crate) async fn shutdown(self: &Arc<Self>) -> Result<(), Error> {
        self.drain().await;
        if !self.journal.close() {
            // As above. That code of a store panics must keep nobody waiting.
            let closing = self.runtime.spawn(self.clone().store_and_close());
            let engine = self.clone();
            self.runtime.spawn(async move {
                let closed = closing
                    .await
                    .unwrap_or_else(|panic| Err(BackendError::unavailable(panic.to_string())));
                engine.closed.send_replace(Some(closed.map_err(Arc::new)));
            });
        }
        let mut closed = self.closed.subscribe();
        let closed = closed.wait_for(Option::is_some).await;
        let closed = closed.expect("the sender is part of the engine").clone();
        closed.unwrap_or(Ok(())).map_err(|failure| {
            let why = format!("the task store failed: {failure}");
            Error::new(ErrorKind::Unavailable, why).with_source(failure)
        })
    }

    async fn store_and_close(self: Arc<Self>) -> Result<(), BackendError> {
        let stored = self.all_stored().await;
        self.resign().await;
        if self
            .attempts()
            .iter()
            .any(|it| it.task.requeue_on_interrupt && !it.was_cancelled())
        {
            panics::say(|| {
                warn!(
                    "functions do not return: their tasks are for others when they do, or when this process ends"
                );
            });
            // Until then the store must take this instance for alive.
            tokio::spawn(async move {
                self.ready.all_done().await;
                self.all_stored().await;
                if let Err(failure) = self.close().await {
                    panics::say(
                        || warn!(error = %failure, "the task store was left without being closed"),
                    );
                }
            });
            return Ok(());
        }
        if stored {
            self.all_stored().await; // what ended meanwhile
        }
        self.close().await
    }

    /// Returns once the runtime has ended without a shutdown, and the plain functions have returned that it left running.
    /// They are told.
    pub(super) async fn end_of_functions(&self, runtime_ended: &CancellationToken) {
        runtime_ended.cancelled().await;
        self.stopping.cancel();
        for attempt in self.attempts() {
            attempt.interrupt(BY_SHUTDOWN);
        }
        self.threads.close();
        self.threads.returned().await;
    }

    /// Nothing runs here any more, or ever will: what this instance holds is for others.
    pub(super) async fn close_without_runtime(&self) {
        panics::say(|| {
            warn!("the runtime has ended without a shutdown: what has begun is interrupted");
        });
        self.journal.close();
        self.drained.cancel();
        self.resign().await;
        let closed = self.close().await.map_err(Arc::new);
        if let Err(failure) = &closed {
            panics::say(|| warn!(error = %failure, "the task store was left without being closed"));
        }
        self.closed.send_replace(Some(closed));
    }

    /// Returns once a shutdown has closed the store. If the runtime ends in the middle, nobody is left there who could say so
    /// to those who wait on another one.
    pub(super) async fn end_of_close(&self, runtime_ended: CancellationToken) {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(Option::is_some) => return,
            () = runtime_ended.cancelled() => {}
        }
        let why = "the runtime has ended while the store was being closed";
        self.closed.send_if_modified(|closed| {
            let is_untold = closed.is_none();
            if is_untold {
                *closed = Some(Err(Arc::new(BackendError::unavailable(why))));
            }
            is_untold
        });
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.stopped.cancel();
        self.backend.close().await?;
        panics::say(|| info!("task manager stopped"));
        Ok(())
    }

    /// Waits until everything that has ended is stored, or for [`FLUSH_TIMEOUT`]; then the answer is false.
    async fn all_stored(&self) -> bool {
        let stored = async {
            self.all_called().await;
            self.journal.flushed().await;
            // What was stale by then is looked after, and may be written once more.
            self.looks.wait().await;
            self.journal.flushed().await;
        };
        let in_time = within(FLUSH_TIMEOUT, stored).await;
        if !in_time {
            panics::say(|| {
                error!(
                    unwritten = self.journal.changes_waiting(),
                    looks = self.looks.len(),
                    "the task store did not take everything in time: the next start finds the rest as it was stored"
                );
            });
        }
        in_time
    }

    /// Returns once no attempt waits for its start to be stored. When nothing starts any more.
    async fn all_called(&self) {
        loop {
            let freed = self.ready.freed();
            if self.attempts().iter().all(|it| it.was_called()) {
                return;
            }
            freed.await;
        }
    }

    /// A plain function cannot be stopped: its task is interrupted, and whatever it still does is stale. One that may
    /// be repeated is not for others as long as this process is there: two would run it.
    fn give_up_on_threads(self: &Arc<Self>) {
        let now = self.clock.now();
        for attempt in self.attempts() {
            if !attempt.was_called() {
                continue; // it lets go of its task once its start is stored
            }
            let (task, function) = (attempt.task.id, &attempt.task.name);
            panics::say(|| warn!(%task, %function, "the function does not return: interrupted"));
            let change = match attempt.was_cancelled() {
                true => Change::stopped(&attempt.task, now),
                false => Change::given_up(&attempt.task, BY_SHUTDOWN, now),
            };
            match change {
                Ok(change) => self.store(change),
                Err(refused) => {
                    panics::say(|| warn!(%task, %refused, "a running task is not running"));
                }
            }
        }
    }
}
