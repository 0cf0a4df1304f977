//! Keeps this instance alive in the eyes of the others, and gives it a new identity if they took it for dead.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Engine, LAPSED, SUPERSEDED, jittered};
use crate::{
    backend::{Instance, Standing},
    clock::Timestamp,
    error::BackendError,
    health::Duty,
    panics,
};

/// Between two beats, at most.
const EVERY: Duration = Duration::from_secs(1);
/// So many beats fit into a lease, so that one that is lost or late makes nobody look dead.
const BEATS_IN_LEASE: u32 = 5;

impl Engine {
    /// Beats until the end, on a thread of its own: a blocked runtime must not make this instance look dead. But one that
    /// has ended must. `joined_at` is from before this instance joined.
    pub(crate) fn start_beating(self: &Arc<Self>, joined_at: Instant) -> std::io::Result<()> {
        self.has_beaten(joined_at);
        let engine = self.clone();
        if !self.clock.is_system() {
            // Whoever moves the time by hand moves all of it.
            tokio::spawn(engine.keep_beating());
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all() // a store on another host is spoken to from here
            .build()?;
        let runtime_ended = CancellationToken::new();
        let goes = runtime_ended.clone().drop_guard();
        let beating = async move {
            tokio::select! {
                biased;
                () = engine.clone().keep_beating() => return engine.end_of_close(runtime_ended).await,
                () = engine.end_of_functions(&runtime_ended) => {}
            }
            engine.close_without_runtime().await;
        };
        std::thread::Builder::new()
            .name("taskflow-beat".to_owned())
            .spawn(move || runtime.block_on(beating))?;
        let (stopped, mut closed) = (self.stopped.clone(), self.closed.subscribe());
        tokio::spawn(async move {
            stopped.cancelled().await;
            let _ = closed.wait_for(Option::is_some).await; // or the engine is gone
            drop(goes); // as it is at the end of this runtime
        });
        Ok(())
    }

    async fn keep_beating(self: Arc<Self>) {
        let beat = || self.run_beat();
        self.kept_up(Some(Duty::Beat), &self.stopped, beat).await;
    }

    async fn run_beat(self: &Arc<Self>) {
        let lease = self.backend.lease();
        let every = lease.map_or(EVERY, |lease| EVERY.min(lease / BEATS_IN_LEASE));
        let limit = self.alive_for();
        let mut has_lapsed = false;
        let mut next = self.beaten_at() + jittered(every);
        loop {
            let beat = async {
                tokio::time::sleep_until(next).await;
                self.beat_once(self.clock.now()).await
            };
            // Also between two beats; and before an answer that was read late, since it may be old.
            let lapses = async {
                // Without an end if it lies beyond what a clock can count.
                let limit = limit.filter(|_| !has_lapsed);
                match limit.and_then(|limit| self.beaten_at().checked_add(limit)) {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let beaten = tokio::select! {
                biased;
                () = self.stopped.cancelled() => return,
                () = lapses => {
                    has_lapsed = true;
                    self.lapse();
                    continue;
                }
                beaten = beat => beaten,
            };
            next = Instant::now() + jittered(every);
            match beaten {
                Ok(from) => {
                    self.has_beaten(from);
                    // At once after one that took long, or that this process slept through.
                    next = from + jittered(every);
                    if std::mem::take(&mut has_lapsed) {
                        self.go_on_after_lapse();
                    }
                    self.troubles.end(Duty::Beat);
                    // It was a write: others will be stored, too. But a full disk may have room for a beat and none for
                    // what waits; that is tried again, and its success says so itself.
                    if self.journal.is_idle() {
                        self.troubles.end(Duty::Write);
                    }
                }
                Err(failure) => {
                    self.troubles.begin(Duty::Beat, self.clock.now(), &failure);
                    panics::say(
                        || error!(error = %failure, "cannot show that this instance is alive"),
                    );
                }
            }
        }
    }

    /// For how long after a beat this instance surely counts as alive, if not for as long as it lives.
    fn alive_for(&self) -> Option<Duration> {
        // What takes a moment to stop must have stopped when others may take this instance for dead.
        let limit = self.backend.lease().or(self.takeover_after);
        limit.map(|limit| limit.mul_f64(0.75))
    }

    /// True if nobody can have taken this instance's tasks: it has beaten not long ago.
    pub(crate) fn is_surely_alive(&self) -> bool {
        let alive_for = self.alive_for();
        alive_for.is_none_or(|limit| self.beaten_at().elapsed() < limit)
    }

    fn has_beaten(&self, from: Instant) {
        *self
            .beaten_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = from;
    }

    /// When the last beat that was stored was begun.
    pub(crate) fn beaten_at(&self) -> Instant {
        *self
            .beaten_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Others may take this instance for dead soon, and start what it runs: it stops that first.
    fn lapse(self: &Arc<Self>) {
        self.lose_holds();
        if self.backend.lease().is_none() {
            // With `takeover_after`. Whoever would take its tasks cannot reach the file either, or this process was
            // stopped: then its tasks are stopped if they were taken.
            return;
        }
        panics::say(|| {
            warn!(
                "the store could not be reached for nearly the lease of this instance: it stops its tasks"
            );
        });
        // In this order: an attempt that begins meanwhile is among them, or sees that it must not.
        let held = self.ready.pause();
        for attempt in self.attempts() {
            attempt.interrupt(LAPSED);
        }
        self.let_others_have(held);
    }

    fn go_on_after_lapse(self: &Arc<Self>) {
        self.holds.go_on();
        if self.backend.lease().is_some() {
            self.ready.go_on();
        }
        self.look_on_disk(); // nothing was claimed meanwhile
    }

    /// Beats; answers from when on a new lease counts at least.
    pub(crate) async fn beat_once(
        self: &Arc<Self>,
        now: Timestamp,
    ) -> Result<Instant, BackendError> {
        let me = self.instance();
        let from = Instant::now();
        self.troubles.asked(Duty::Beat, now);
        let standing = panics::outage(async { self.backend.beat(me.id, now).await }).await;
        self.troubles.answered(Duty::Beat);
        match standing? {
            Standing::Alive => Ok(from),
            Standing::Superseded => self.go_on_as_another(&me, now).await,
        }
    }

    /// This instance was taken for dead, and its tasks were given to others. What it still runs is stopped, and
    /// whatever that writes is stale.
    async fn go_on_as_another(
        self: &Arc<Self>,
        me: &Instance,
        now: Timestamp,
    ) -> Result<Instant, BackendError> {
        let from = Instant::now();
        self.lose_holds();
        let another = Instance {
            id: self.ids.instance(now),
            ..me.clone()
        };
        self.backend.join(another.clone()).await?;
        panics::say(|| {
            warn!(
                instance = %me.id,
                goes_on_as = %another.id,
                "this instance did not respond and its tasks were taken over: it stops them and goes on"
            );
        });
        self.set_instance(another);
        self.holds.go_on();
        for attempt in self.attempts() {
            attempt.interrupt(SUPERSEDED);
        }
        drop(self.ready.forget());
        self.look_on_disk();
        if let Err(failure) = self.backend.leave(me.id).await {
            info!(instance = %me.id, error = %failure, "the former instance could not be cleared away");
        }
        Ok(from)
    }
}
