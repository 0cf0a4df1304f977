//! What this instance holds alone: leads, locks, and the right to run something once.
//!
//! A hold is a [record](crate::Record) that names its holder, and its version is the epoch. A holder is alive as long as
//! its instance is, which the store knows already: so nothing is renewed, and nothing has a lifetime of its own. Beside
//! it lies a record of those who wait, first come, first served.

mod claiming;
mod holders;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use self::claiming::Patience;
pub use self::holders::Holder;
use super::{Engine, LOOP_RETRY, jittered, within};
use crate::{
    backend::{Becomes, RecordChange, Step, Stepped},
    clock::Timestamp,
    error::{BackendError, Error},
    id::{InstanceId, TaskId},
    panics,
};

/// Between two looks at a hold that somebody else has, if nothing is heard: its holder may have died.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The same where a death is known after a lease only.
const LOOKS_IN_LEASE: u32 = 10;
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// How long a shutdown waits for what leads here, and for the store.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a shutdown waits for those who have a lock here, once they are told.
const GUARDS_GRACE: Duration = Duration::from_millis(500);
/// Between two looks whether somebody has taken by force what this instance holds.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Between the end of one and the beginning of the next at least, however much happens; and this often its duration.
const CHECK_PAUSE: Duration = Duration::from_millis(20);
const CHECK_SHARE: u32 = 10;

/// What a hold is for. One name can be led, locked and run once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HoldKind {
    /// Of [`TaskManager::leader`](crate::TaskManager::leader).
    Leader,
    /// Of [`TaskManager::lock`](crate::TaskManager::lock).
    Lock,
    /// Of [`TaskManager::run_once`](crate::TaskManager::run_once), while it runs.
    Once,
}

impl HoldKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Leader, Self::Lock, Self::Once];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Lock => "lock",
            Self::Once => "once",
        }
    }
}

/// A kind and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HoldName {
    pub(crate) kind: HoldKind,
    pub(crate) name: Arc<str>,
}

const HOLD: &str = "hold:";
const LINE: &str = "line:";

impl HoldName {
    fn hold(&self) -> String {
        format!("{HOLD}{}:{}", self.kind.as_str(), self.name)
    }

    fn line(&self) -> String {
        format!("{LINE}{}:{}", self.kind.as_str(), self.name)
    }

    fn of_record(key: &str) -> Option<Self> {
        let (kind, name) = key.strip_prefix(HOLD)?.split_once(':')?;
        let kind = HoldKind::ALL.into_iter().find(|it| it.as_str() == kind)?;
        Some(Self {
            kind,
            name: name.into(),
        })
    }
}

impl fmt::Display for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.as_str(), self.name)
    }
}

/// Who holds something or waits for it, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Claimant {
    /// New for each who asks, so that a value tells who wrote it.
    holder: TaskId,
    instance: InstanceId,
    host: String,
    pid: u32,
    since: Timestamp,
}

/// Those who wait, in their order.
#[derive(Default, Serialize, Deserialize)]
struct Line {
    /// Who wrote it last.
    by: Option<TaskId>,
    waiting: Vec<Claimant>,
}

/// Something that this instance holds.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) name: HoldName,
    pub(crate) epoch: u64,
    pub(crate) since: Timestamp,
    holder: TaskId,
    /// Fires when others may hold it, or do.
    pub(crate) lost: CancellationToken,
    engine: Arc<Engine>,
}

impl Hold {
    /// How a step says that it only counts while this is held.
    pub(crate) fn fence(&self) -> RecordChange {
        RecordChange {
            key: self.name.hold(),
            expects: self.epoch,
            becomes: Becomes::Same,
        }
    }

    /// The step that gives it back.
    pub(crate) fn end(&self) -> RecordChange {
        end_of(&self.name, self.epoch)
    }

    /// Gives it back; true if it was still held. A store that hangs is not waited for any longer than for other answers.
    pub(crate) async fn release(&self) -> Result<bool, Error> {
        if !self.engine.holds.knows(self.holder) {
            return Ok(false); // it was lost, and is let go of already
        }
        self.lost.cancel();
        let releasing = async { Ok(self.engine.take_back(self.end()).await?) };
        let released = self.engine.in_time(releasing).await;
        if self.engine.holds.forget(self.holder) && released.is_err() {
            self.release_later();
        }
        self.engine.tell_holds();
        released
    }

    /// Gives it back, whoever still has it in his hand.
    pub(crate) fn let_go(&self) {
        if self.engine.holds.forget(self.holder) {
            self.lost.cancel();
            self.release_later();
        }
    }

    /// It is over, by a step that has ended it in the store.
    pub(crate) fn has_ended(&self) {
        self.engine.holds.forget(self.holder);
        self.lost.cancel();
        self.engine.tell_holds();
    }

    /// Tries until the store has heard it, or this instance is gone, which lets go of everything.
    fn release_later(&self) {
        let (engine, end, name) = (self.engine.clone(), self.end(), self.name.clone());
        self.engine.runtime.spawn(async move {
            let trying = async {
                while let Err(failure) = engine.take_back(end.clone()).await {
                    panics::say(|| debug!(error = %failure, %name, "cannot let go yet"));
                    tokio::time::sleep(jittered(LOOP_RETRY)).await;
                }
            };
            tokio::select! {
                biased;
                () = trying => {}
                () = engine.stopped.cancelled() => {}
            }
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Everything that is held here.
#[derive(Default)]
pub(crate) struct Holds(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// A weak one: it is let go of when its owner drops it.
    by_holder: HashMap<TaskId, Weak>,
    /// This instance may be taken for dead: it holds nothing, and takes nothing.
    is_paused: bool,
    /// It is about to leave: the same, whatever comes.
    has_resigned: bool,
    /// Grows whenever everything is lost.
    n_losses: u64,
}

impl Held {
    fn takes_nothing(&self) -> bool {
        self.is_paused || self.has_resigned
    }
}

/// What is needed to let go of a hold that was lost, while its owner still has it in his hand.
struct Weak {
    name: HoldName,
    epoch: u64,
    lost: CancellationToken,
}

impl Weak {
    fn end(&self) -> RecordChange {
        end_of(&self.name, self.epoch)
    }
}

/// The step that gives back what is held in this epoch.
fn end_of(name: &HoldName, epoch: u64) -> RecordChange {
    RecordChange {
        key: name.hold(),
        expects: epoch,
        becomes: Becomes::Gone,
    }
}

impl Holds {
    fn has(&self, kind: HoldKind) -> bool {
        let held = self.held();
        held.by_holder.values().any(|weak| weak.name.kind == kind)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if everything was lost since `n_losses`.
    fn add(&self, hold: &Hold, n_losses: u64) -> bool {
        let mut held = self.held();
        if held.takes_nothing() || held.n_losses != n_losses {
            return false;
        }
        held.by_holder.insert(
            hold.holder,
            Weak {
                name: hold.name.clone(),
                epoch: hold.epoch,
                lost: hold.lost.clone(),
            },
        );
        true
    }

    fn knows(&self, holder: TaskId) -> bool {
        self.held().by_holder.contains_key(&holder)
    }

    /// True if it was known.
    fn forget(&self, holder: TaskId) -> bool {
        self.held().by_holder.remove(&holder).is_some()
    }

    /// None while nothing may be taken.
    fn n_losses(&self) -> Option<u64> {
        let held = self.held();
        (!held.takes_nothing()).then_some(held.n_losses)
    }

    pub(super) fn go_on(&self) {
        self.held().is_paused = false;
    }
}

/// Tells when it is worth to look again who holds what.
pub(crate) struct HoldChanges {
    news: watch::Receiver<u64>,
    look_every: Duration,
    stopped: CancellationToken,
}

impl HoldChanges {
    /// What has changed until now has been seen.
    pub(crate) fn mark_unchanged(&mut self) {
        self.news.mark_unchanged();
    }

    /// Returns when something has changed, but not before that time.
    pub(crate) async fn changed_after(&mut self, earliest: Instant) {
        let _ = self.news.changed().await; // the sender outlives the engine's loops
        tokio::time::sleep_until(earliest).await;
    }

    /// Returns when something may have changed, or the manager has stopped, and at `latest` if there is an end.
    pub(crate) async fn next(&mut self, latest: Option<Instant>) {
        let next_look = Instant::now() + jittered(self.look_every);
        let next_look = latest.map_or(next_look, |latest| latest.min(next_look));
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => {}
            _ = self.news.changed() => {}
            () = tokio::time::sleep_until(next_look) => {}
        }
    }
}

impl Engine {
    /// Ends a hold in the store; true if it was still there.
    async fn take_back(&self, end: RecordChange) -> Result<bool, BackendError> {
        let mut step = Step::at(self.clock.now());
        step.records.push(end);
        let stepped = self.step(step).await?;
        self.tell_holds();
        Ok(stepped != Stepped::Stale)
    }

    pub(crate) fn hold_changes(&self) -> HoldChanges {
        let look_every = self.backend.lease().map_or(LOOK_EVERY, |lease| {
            (lease / LOOKS_IN_LEASE).clamp(LOOK_EVERY, LOOK_EVERY_MAX)
        });
        HoldChanges {
            news: self.hold_news.subscribe(),
            look_every,
            stopped: self.stopped.clone(),
        }
    }

    /// Those who wait here look again.
    pub(crate) fn tell_holds(&self) {
        self.hold_news.send_modify(|n| *n += 1);
    }

    /// Others may hold soon what this instance holds: whoever works under it must stop now.
    /// Nothing is held from then on, until [`Holds::go_on`].
    pub(super) fn lose_holds(self: &Arc<Self>) {
        let lost: Vec<Weak> = {
            let mut held = self.holds.held();
            held.is_paused = true;
            held.n_losses += 1;
            held.by_holder.drain().map(|(_, weak)| weak).collect()
        };
        for weak in &lost {
            weak.lost.cancel();
            panics::say(|| {
                warn!(
                    name = %weak.name,
                    epoch = weak.epoch,
                    "this instance may be taken for dead: it gives up what it holds"
                );
            });
        }
        if lost.is_empty() || self.stopped.is_cancelled() {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            for weak in lost {
                while let Err(failure) = engine.take_back(weak.end()).await {
                    panics::say(
                        || debug!(error = %failure, name = %weak.name, "cannot let go yet"),
                    );
                    if engine.stopped.is_cancelled() {
                        return;
                    }
                    tokio::time::sleep(jittered(LOOP_RETRY)).await;
                }
            }
        });
    }

    /// Sees to it that somebody looks whether what is held here was taken away by force.
    fn watch_holds(self: &Arc<Self>) {
        if self
            .watches_holds
            .swap(true, std::sync::atomic::Ordering::SeqCst)
        {
            return;
        }
        let engine = self.clone();
        // Not where it was asked for: that runtime may end earlier.
        self.runtime.spawn(async move {
            let mut news = engine.hold_news.subscribe();
            loop {
                tokio::select! {
                    biased;
                    () = engine.stopped.cancelled() => return,
                    _ = news.changed() => {}
                    () = tokio::time::sleep(jittered(CHECK_EVERY)) => {}
                }
                let begun = Instant::now();
                engine.check_holds().await;
                // Who holds thousands does not spend his time on looking.
                let pause = CHECK_PAUSE.max(begun.elapsed() * CHECK_SHARE);
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Gives up everything, before this instance leaves. Others would take it all the same, but not at once.
    pub(super) async fn resign(&self) {
        let mut news = self.hold_news.subscribe();
        // Those who lead stop their work first, since they know that there is a shutdown.
        let leaders = async {
            while self.holds.has(HoldKind::Leader) {
                let _ = news.changed().await; // the sender is ours, so it cannot be gone
            }
        };
        within(RESIGN_TIMEOUT, leaders).await;
        // The others are told, and get a moment to come out before somebody else may go in.
        {
            let mut held = self.holds.held();
            held.has_resigned = true;
            held.by_holder.values().for_each(|weak| weak.lost.cancel());
        }
        let guards = async {
            while !self.holds.held().by_holder.is_empty() {
                let _ = news.changed().await;
            }
        };
        within(GUARDS_GRACE, guards).await;
        let rest: Vec<Weak> = {
            let mut held = self.holds.held();
            held.by_holder.drain().map(|(_, weak)| weak).collect()
        };
        let rest = async {
            for weak in rest {
                if let Err(failure) = self.take_back(weak.end()).await {
                    panics::say(
                        || debug!(error = %failure, name = %weak.name, "cannot let go of it any more"),
                    );
                }
            }
        };
        within(RESIGN_TIMEOUT, rest).await;
    }

    async fn check_holds(&self) {
        let held: Vec<(TaskId, String, u64)> = {
            let held = self.holds.held();
            let held = held.by_holder.iter();
            held.map(|(holder, weak)| (*holder, weak.name.hold(), weak.epoch))
                .collect()
        };
        for (holder, key, epoch) in held {
            // An outage says nothing of who holds it.
            let Ok(record) = self.record(&key).await else {
                return;
            };
            if record.is_some_and(|record| record.version == epoch) {
                continue;
            }
            let lost = self.holds.held().by_holder.remove(&holder);
            if let Some(weak) = lost {
                // Else it is just being given back, and only the answer is missing.
                if !weak.lost.is_cancelled() {
                    panics::say(
                        || warn!(name = %weak.name, epoch, "somebody has taken away what this instance held"),
                    );
                }
                weak.lost.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{config::Config, manager::TaskManager};

    #[tokio::test]
    async fn who_has_resigned_takes_nothing_any_more_although_he_is_found_alive() {
        let config = Config {
            collect: false,
            ..Config::default()
        };
        let manager = TaskManager::start(config).await.unwrap();

        manager.engine.resign().await;
        manager.engine.holds.go_on(); // as after a beat that was late

        let guard = manager.lock("door").try_acquire().await.unwrap();
        assert!(guard.is_none(), "nobody would tell it that this is over");
    }
}
