//! How somebody comes to hold something: who asks takes it if it is free, or gets into the line.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Claimant, Hold, HoldName, Line, end_of};
use crate::{
    backend::{Becomes, RecordChange, Step, Stepped},
    clock::Timestamp,
    engine::{
        Engine, LOOP_RETRY, jittered,
        records::{json, parse},
    },
    error::{BackendError, Error},
    id::TaskId,
    panics,
};

/// Who could take it and does not for so long is passed over, and stays in the line.
const TURN_GRACE: Duration = Duration::from_millis(500);
/// How often a step is tried that others were faster with, before there is a pause.
const TRIES: usize = 20;
/// What the last look of somebody who waits no longer may take.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// When those look who have stopped asking whether they were given it all the same.
const GIVE_UP_LOOKS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];

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
}
