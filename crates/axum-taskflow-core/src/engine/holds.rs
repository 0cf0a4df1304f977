//! What this instance holds alone: leads, locks, and the right to run something once.
//!
//! A hold is a [record](crate::Record) that names its holder, and its version is the epoch. A holder is alive as long as
//! its instance is, which the store knows already: so nothing is renewed, and nothing has a lifetime of its own. Beside
//! it lies a record of those who wait, first come, first served.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Engine, LOOP_RETRY, jittered,
    records::{json, parse},
    within,
};
use crate::{
    backend::{AuditEntry, Becomes, Record, RecordChange, Step, Stepped},
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
/// Who could take it and does not for so long is passed over, and stays in the line.
const TURN_GRACE: Duration = Duration::from_millis(500);
/// How often a step is tried that others were faster with, before there is a pause.
const TRIES: usize = 20;
/// How long a shutdown waits for what leads here, and for the store.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a shutdown waits for those who have a lock here, once they are told.
const GUARDS_GRACE: Duration = Duration::from_millis(500);
/// What the last look of somebody who waits no longer may take.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// When those look who have stopped asking whether they were given it all the same.
const GIVE_UP_LOOKS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];
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

/// How long to wait for what somebody else holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    None,
    Until(Instant),
    Forever,
}

impl Patience {
    /// So long from now on; for ever if no clock goes as far.
    pub(crate) fn of(wait: Duration) -> Self {
        let end = Instant::now().checked_add(wait);
        end.map_or(Self::Forever, Self::Until)
    }

    fn end(self) -> Option<Instant> {
        match self {
            Self::Until(end) => Some(end),
            Self::None | Self::Forever => None,
        }
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

/// Somebody who wants to hold something. Dropped, it leaves the line, and nothing stays held that nobody has in his hand.
struct Claiming {
    engine: Arc<Engine>,
    name: HoldName,
    holder: TaskId,
    waits: bool,
    is_in_line: bool,
    /// A step to take it was sent, and nobody knows yet what became of it.
    may_hold: bool,
    /// Who could have taken it, and since when nobody has.
    turn_of: Option<(TaskId, Instant)>,
}

impl Claiming {
    /// True if it has been the first one's turn for so long that it will not come: its process is stopped, or dead and
    /// nobody knows it yet.
    fn passes_over(&mut self, first: TaskId, is_free: bool) -> bool {
        if !is_free {
            self.turn_of = None;
            return false;
        }
        let now = Instant::now();
        let since = match self.turn_of {
            Some((of, since)) if of == first => since,
            _ => now,
        };
        self.turn_of = Some((first, since));
        now.duration_since(since) >= TURN_GRACE
    }
}

impl Drop for Claiming {
    fn drop(&mut self) {
        let (is_in_line, may_hold) = (self.is_in_line, self.may_hold);
        if !is_in_line && !may_hold {
            return;
        }
        let (engine, name, holder) = (self.engine.clone(), self.name.clone(), self.holder);
        self.engine.runtime.spawn(async move {
            let trying = async {
                while let Err(failure) = engine.give_up(&name, holder, is_in_line, may_hold).await {
                    panics::say(|| debug!(error = %failure, %name, "cannot leave the line yet"));
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

impl Engine {
    /// Takes a hold, as soon as it is free and all who came earlier have had it. None if the patience is over.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        name: HoldName,
        patience: Patience,
    ) -> Result<Option<Arc<Hold>>, Error> {
        let mut claiming = Claiming {
            engine: self.clone(),
            name,
            holder: self.ids.task(self.clock.now()),
            waits: !matches!(patience, Patience::None),
            is_in_line: false,
            may_hold: false,
            turn_of: None,
        };
        let mut changes = self.hold_changes();
        let (mut has_looked, mut is_told) = (false, false);
        loop {
            changes.mark_unchanged(); // before the look, so that nothing is missed
            let now = Instant::now();
            let latest = match patience {
                Patience::None => now.checked_add(self.add_timeout),
                Patience::Until(end) => Some(end.max(now + LAST_LOOK)),
                Patience::Forever => None,
            };
            let looking = self.claim_hold(&mut claiming);
            let taken = match latest {
                Some(latest) => tokio::time::timeout_at(latest, looking).await,
                None => tokio::select! {
                    biased;
                    taken = looking => Ok(taken),
                    () = self.stopped.cancelled() => return Err(Error::shutting_down()),
                },
            };
            let is_over = patience.end().is_some_and(|end| Instant::now() >= end);
            match taken {
                Ok(Ok(Some(hold))) => return Ok(Some(hold)),
                Ok(Ok(None)) if self.stopped.is_cancelled() => {
                    return Err(Error::shutting_down());
                }
                Ok(Ok(None)) if is_over || !claiming.waits => return Ok(None),
                Ok(Ok(None)) => has_looked = true,
                Ok(Err(failure)) if is_over || !claiming.waits => return Err(failure.into()),
                // Not over by itself: somebody has to look at what is stored.
                Ok(Err(failure)) if failure.is_refused() && !is_told => {
                    is_told = true;
                    panics::say(
                        || warn!(error = %failure, name = %claiming.name, "nobody here can have it"),
                    );
                }
                Ok(Err(failure)) => {
                    panics::say(
                        || debug!(error = %failure, name = %claiming.name, "cannot ask for it"),
                    );
                }
                // Somebody else had it all that time, but for the last look.
                Err(_) if has_looked => return Ok(None),
                Err(_) => return Err(Error::no_answer(now.elapsed())),
            }
            changes.next(patience.end()).await;
            if self.stopped.is_cancelled() {
                return Err(Error::shutting_down());
            }
        }
    }

    /// One look: takes the hold, or gets into the line.
    async fn claim_hold(
        self: &Arc<Self>,
        claiming: &mut Claiming,
    ) -> Result<Option<Arc<Hold>>, BackendError> {
        for _ in 0..TRIES {
            let Some(n_losses) = self.holds.n_losses() else {
                return Ok(None);
            };
            let me = self.instance();
            let hold_key = claiming.name.hold();
            let hold = self.record(&hold_key).await?;
            let line = self.record(&claiming.name.line()).await?;
            let held: Option<Claimant> = parse(hold.as_ref())?;
            let mut waiting: Line = parse(line.as_ref())?;
            let epoch = hold.as_ref().map_or(0, |hold| hold.version);
            if let Some(held) = &held
                && held.holder == claiming.holder
            {
                // The answer was lost.
                claiming.is_in_line = false;
                if held.instance == me.id {
                    return self.holds_now(claiming, epoch, held.since, n_losses).await;
                }
                // And this instance was taken for dead meanwhile: by that name anybody may take it.
                self.take_back(end_of(&claiming.name, epoch)).await?;
                continue;
            }
            let alive = match (&held, waiting.waiting.is_empty()) {
                (None, true) => BTreeSet::new(),
                _ => self.alive().await?,
            };
            let is_free = held.is_none_or(|held| !alive.contains(&held.instance));
            let n_before = waiting.waiting.len();
            waiting.waiting.retain(|claimant| {
                claimant.holder == claiming.holder || alive.contains(&claimant.instance)
            });
            let first = waiting.waiting.first().map(|claimant| claimant.holder);
            let is_turn = match first {
                None => true,
                Some(first) => first == claiming.holder || claiming.passes_over(first, is_free),
            };
            let mine = Claimant {
                holder: claiming.holder,
                instance: me.id,
                host: me.host.clone(),
                pid: me.pid,
                since: self.clock.now(),
            };
            let mut step = Step::at(self.clock.now());
            let takes = is_free && is_turn;
            if takes {
                waiting.waiting.retain(|it| it.holder != claiming.holder);
                step.records.push(RecordChange {
                    key: hold_key,
                    expects: epoch,
                    becomes: Becomes::Value(json(&mine)),
                });
            } else if claiming.waits && !waiting.waiting.iter().any(|it| it.holder == mine.holder) {
                // Or again: this instance goes by another name since it was taken for dead.
                waiting.waiting.push(mine.clone());
            } else {
                claiming.is_in_line = claiming.waits;
                return Ok(None);
            }
            if waiting.waiting.len() != n_before || !takes {
                waiting.by = Some(self.ids.task(self.clock.now()));
                step.records.push(RecordChange {
                    key: claiming.name.line(),
                    expects: line.as_ref().map_or(0, |line| line.version),
                    becomes: match waiting.waiting.is_empty() {
                        true => Becomes::Gone,
                        false => Becomes::Value(json(&waiting)),
                    },
                });
            }
            claiming.is_in_line |= !takes; // also if the answer is lost, or nobody waits for it any more
            claiming.may_hold |= takes;
            let stepped = self.step(step).await?;
            match stepped {
                Stepped::Stale => {}
                Stepped::Done { .. } if !takes => return Ok(None),
                Stepped::Done { versions, .. } => {
                    claiming.is_in_line = false;
                    let epoch = versions.first().copied().unwrap_or_default();
                    return self.holds_now(claiming, epoch, mine.since, n_losses).await;
                }
            }
        }
        Ok(None) // many ask at once: after a pause
    }

    /// It is held in the store. But this instance may have been taken for dead meanwhile.
    async fn holds_now(
        self: &Arc<Self>,
        claiming: &mut Claiming,
        epoch: u64,
        since: Timestamp,
        n_losses: u64,
    ) -> Result<Option<Arc<Hold>>, BackendError> {
        let hold = Hold {
            name: claiming.name.clone(),
            epoch,
            since,
            holder: claiming.holder,
            lost: CancellationToken::new(),
            engine: self.clone(),
        };
        if self.holds.add(&hold, n_losses) {
            claiming.may_hold = false; // it is the hold that lets go from here on
            self.watch_holds();
            return Ok(Some(Arc::new(hold)));
        }
        self.take_back(hold.end()).await?;
        claiming.may_hold = false;
        Ok(None)
    }

    /// Ends a hold in the store; true if it was still there.
    async fn take_back(&self, end: RecordChange) -> Result<bool, BackendError> {
        let mut step = Step::at(self.clock.now());
        step.records.push(end);
        let stepped = self.step(step).await?;
        self.tell_holds();
        Ok(stepped != Stepped::Stale)
    }

    /// Leaves nothing behind of somebody who has stopped asking.
    async fn give_up(
        &self,
        name: &HoldName,
        holder: TaskId,
        is_in_line: bool,
        may_hold: bool,
    ) -> Result<(), BackendError> {
        if is_in_line {
            self.leave_line(name, holder).await?;
        }
        if !may_hold {
            return Ok(());
        }
        for pause in GIVE_UP_LOOKS {
            tokio::time::sleep(pause).await;
            // A store takes steps one after the other: once it answers this one, that of the claim has happened, or
            // never will. Only what a torn connection still carries can be later, hence the second look.
            let mut step = Step::at(self.clock.now());
            step.records.push(RecordChange {
                key: name.hold(),
                expects: 0,
                becomes: Becomes::Same,
            });
            self.step(step).await?;
            let record = self.record(&name.hold()).await?;
            let held: Option<Claimant> = parse(record.as_ref())?;
            if let Some((record, held)) = record.zip(held)
                && held.holder == holder
            {
                let end = RecordChange {
                    key: record.key,
                    expects: record.version,
                    becomes: Becomes::Gone,
                };
                self.take_back(end).await?;
                return Ok(());
            }
        }
        Ok(())
    }

    async fn leave_line(&self, name: &HoldName, holder: TaskId) -> Result<(), BackendError> {
        loop {
            let Some(record) = self.record(&name.line()).await? else {
                return Ok(());
            };
            let mut line: Line = parse(Some(&record))?;
            let n_before = line.waiting.len();
            line.waiting.retain(|claimant| claimant.holder != holder);
            if line.waiting.len() == n_before {
                return Ok(());
            }
            line.by = Some(self.ids.task(self.clock.now()));
            let mut step = Step::at(self.clock.now());
            step.records.push(RecordChange {
                key: record.key,
                expects: record.version,
                becomes: match line.waiting.is_empty() {
                    true => Becomes::Gone,
                    false => Becomes::Value(json(&line)),
                },
            });
            if self.step(step).await? != Stepped::Stale {
                self.tell_holds();
                return Ok(());
            }
        }
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

    /// All holds, in the order of their kinds and names.
    pub(crate) async fn holders(&self) -> Result<Vec<Holder>, Error> {
        let failed = Error::from;
        let peers = self.backend.instances().await.map_err(failed)?;
        let alive: BTreeSet<InstanceId> = peers
            .iter()
            .filter(|peer| peer.alive)
            .map(|peer| peer.instance.id)
            .collect();
        let records = self.all_records(HOLD).await.map_err(failed)?;
        // All at once: a look for each hold would take a while where there are many, and pages that are live look often.
        let lines = self.all_records(LINE).await.map_err(failed)?;
        let lines: HashMap<String, Record> = lines
            .into_iter()
            .map(|line| (line.key.clone(), line))
            .collect();
        let mut holders = Vec::with_capacity(records.len());
        for record in records {
            let Some(name) = HoldName::of_record(&record.key) else {
                continue; // of a kind that a newer program knows
            };
            // What cannot be read hides nothing else.
            let line = lines.get(&name.line());
            let line: Line = self.shown(line).unwrap_or_default();
            let Some(held) = self.shown::<Option<Claimant>>(Some(&record)).flatten() else {
                continue;
            };
            let waiting = line.waiting.iter();
            holders.push(Holder {
                kind: name.kind,
                name: name.name.to_string(),
                epoch: record.version,
                is_alive: alive.contains(&held.instance),
                instance: held.instance,
                host: held.host,
                pid: held.pid,
                since: held.since,
                waiting: waiting.filter(|it| alive.contains(&it.instance)).count(),
            });
        }
        Ok(holders)
    }

    /// As [`parse`]; none if it cannot be read, which is logged.
    fn shown<T: DeserializeOwned + Default>(&self, record: Option<&Record>) -> Option<T> {
        let read = parse(record);
        if let (Err(failure), Some(record)) = (&read, record)
            && self.told.is_news(record)
        {
            warn!(error = %failure, "a hold is not shown as it is");
        }
        read.ok()
    }

    /// Takes a hold away from whoever has it; the epoch of what was ended.
    pub(crate) async fn force_release(&self, name: &HoldName, actor: &str) -> Result<u64, Error> {
        let failed = Error::from;
        loop {
            let Some(record) = self.record(&name.hold()).await.map_err(failed)? else {
                return Err(Error::new(
                    crate::ErrorKind::NotFound,
                    format!("nobody holds {name}"),
                ));
            };
            let now = self.clock.now();
            let mut step = Step::at(now);
            step.audit.push(AuditEntry {
                id: self.ids.task(now),
                at: now,
                actor: actor.to_owned(),
                action: "release".to_owned(),
                task: None,
                detail: serde_json::json!({ "kind": name.kind, "name": &*name.name, "epoch": record.version }),
            });
            step.records.push(RecordChange {
                key: record.key,
                expects: record.version,
                becomes: Becomes::Gone,
            });
            let stepped = self.step(step).await.map_err(failed)?;
            if stepped != Stepped::Stale {
                panics::say(|| info!(%name, epoch = record.version, actor, "released by force"));
                self.tell_holds();
                return Ok(record.version);
            }
        }
    }
}

/// Who holds something, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// What for.
    pub kind: HoldKind,
    /// Of what.
    pub name: String,
    /// The fencing token: larger than that of every holder before.
    pub epoch: u64,
    /// The instance that holds it.
    pub instance: InstanceId,
    /// Its machine, for people.
    pub host: String,
    /// Its process, for people.
    pub pid: u32,
    /// Since when, by its clock.
    pub since: Timestamp,
    /// False if the instance is dead: whoever wants the hold can take it.
    pub is_alive: bool,
    /// How many wait for it.
    pub waiting: usize,
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
