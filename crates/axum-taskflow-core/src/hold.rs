//! Code that runs in exactly one process: leads, locks, and what is run once.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info};

pub use crate::engine::holds::{HoldKind, Holder};
use crate::{
    backend::RecordChange,
    clock::Timestamp,
    engine::{
        Engine,
        holds::{Hold, HoldName, Patience},
    },
    error::Error,
    panics,
};

/// Longest name of a lead, a lock or something that is run once, in bytes.
const NAME_BYTES_MAX: usize = 256;

pub(crate) fn name(kind: HoldKind, name: String) -> Result<HoldName, Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "the name of a {} has 1 to {NAME_BYTES_MAX} bytes and no control characters: {name:?}",
            kind.as_str()
        )));
    }
    Ok(HoldName {
        kind,
        name: name.into(),
    })
}

/// Proof of a lead or a lock, by which a store can refuse what comes too late: see
/// [`AddTask::under`](crate::AddTask::under).
#[derive(Clone, Debug)]
pub struct Fence {
    pub(crate) name: HoldName,
    pub(crate) record: RecordChange,
}

macro_rules! of_hold {
    ($what:literal) => {
        /// The fencing token: larger than that of every holder before, so an outside system can refuse a smaller one
        /// ([Kleppmann, 2016](https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html)).
        #[must_use]
        pub fn epoch(&self) -> u64 {
            self.hold.epoch
        }

        /// Since when, by the clock of this instance.
        #[must_use]
        pub fn since(&self) -> Timestamp {
            self.hold.since
        }

        #[doc = concat!("Of which ", $what, ".")]
        #[must_use]
        pub fn name(&self) -> &str {
            &self.hold.name.name
        }

        /// False once others may have it, or do.
        #[must_use]
        pub fn is_held(&self) -> bool {
            !self.hold.lost.is_cancelled()
        }

        /// Returns when others may have it, or do: this instance could not reach the store for nearly its lease, was
        /// taken for dead, or somebody has released it by force.
        pub async fn lost(&self) {
            self.hold.lost.cancelled().await;
        }

        /// For what must only count while it is held.
        #[must_use]
        pub fn fence(&self) -> Fence {
            Fence {
                name: self.hold.name.clone(),
                record: self.hold.fence(),
            }
        }
    };
}

// ---- Locks ----------------------------------------------------------------------------------------------------

/// A name that at most one holder in the cluster has at a time: see [`TaskManager::lock`](crate::TaskManager::lock).
#[must_use = "a lock is taken by one of its methods"]
pub struct Lock<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) name: Result<HoldName, Error>,
}

impl fmt::Debug for Lock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lock").field(&self.name).finish()
    }
}

impl Lock<'_> {
    /// Waits as long as it takes: first come, first served, over all instances. While the store fails it is tried again.
    ///
    /// # Errors
    /// The name cannot be used, or the manager is shut down.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it leaves the line.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        match self.engine.acquire(self.name?, Patience::Forever).await? {
            Some(hold) => Ok(LockGuard { hold }),
            None => Err(Error::shutting_down()),
        }
    }

    /// Waits so long at most, also for a store that hangs; None if somebody else has it all that time.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and the store fails or hangs until the end.
    pub async fn acquire_within(self, patience: Duration) -> Result<Option<LockGuard>, Error> {
        let patience = Patience::of(patience);
        let hold = self.engine.acquire(self.name?, patience).await?;
        Ok(hold.map(|hold| LockGuard { hold }))
    }

    /// Does not wait; None if somebody has it, or waits for it.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and the store fails, or does not answer within [`Config::add_timeout`](crate::Config).
    pub async fn try_acquire(self) -> Result<Option<LockGuard>, Error> {
        let hold = self.engine.acquire(self.name?, Patience::None).await?;
        Ok(hold.map(|hold| LockGuard { hold }))
    }
}

/// A lock that is held. Dropping it releases it soon; [`LockGuard::release`] says when.
#[must_use = "a lock is released when its guard is dropped"]
#[derive(Debug)]
pub struct LockGuard {
    hold: Arc<Hold>,
}

impl LockGuard {
    of_hold!("lock");

    /// Releases it; false if it was lost before.
    ///
    /// # Errors
    /// The store fails, or does not answer within [`Config::add_timeout`](crate::Config): it is tried again until it works.
    pub async fn release(self) -> Result<bool, Error> {
        self.hold.release().await
    }
}

// ---- Leaders --------------------------------------------------------------------------------------------------

/// A name that at most one instance in the cluster leads at a time: see
/// [`TaskManager::leader`](crate::TaskManager::leader).
#[must_use = "nobody leads before `run` or `watch` is called"]
pub struct Leader {
    pub(crate) engine: Arc<Engine>,
    pub(crate) name: Result<HoldName, Error>,
}

impl fmt::Debug for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leader").field(&self.name).finish()
    }
}

/// A term of leading. Clones are the same term.
#[derive(Clone, Debug)]
pub struct Lead {
    hold: Arc<Hold>,
}

impl Lead {
    of_hold!("lead");
}

impl Leader {
    /// Runs `work` while this instance leads, for the life of the manager.
    ///
    /// The work starts where the lead is. It is dropped at its next await when the lead is in doubt, and starts anew, here
    /// or elsewhere, in a new term with a larger epoch. When it returns, the lead is given up, and so does this: None
    /// if the manager was shut down before. Dropped, this gives up the lead, too.
    ///
    /// # Errors
    /// The name cannot be used.
    pub async fn run<F, W>(self, mut work: F) -> Result<Option<W::Output>, Error>
    where
        F: FnMut(Lead) -> W,
        W: Future,
    {
        let (engine, name) = (self.engine, self.name?);
        loop {
            let Some(hold) = term(&engine, &name).await else {
                return Ok(None);
            };
            // Also if this is dropped, and somebody has kept a clone of the lead.
            let _lets_go = LetsGo(&hold);
            let lead = Lead { hold: hold.clone() };
            let worked = {
                // Dropped at the end of this block, before anybody else can lead.
                let work = work(lead.clone());
                tokio::select! {
                    biased;
                    () = lead.lost() => None,
                    () = engine.stopping.cancelled() => None,
                    worked = work => Some(worked),
                }
            };
            resign(&hold).await;
            if let Some(worked) = worked {
                return Ok(Some(worked));
            }
        }
    }

    /// Tries to lead in the background, until what it answers with is dropped.
    ///
    /// # Errors
    /// The name cannot be used.
    pub fn watch(self) -> Result<LeaderWatch, Error> {
        let (engine, name) = (self.engine, self.name?);
        let (sender, terms) = watch::channel(None);
        let resigning = CancellationToken::new();
        engine.runtime.clone().spawn({
            let resigning = resigning.clone();
            async move {
                loop {
                    let hold = tokio::select! {
                        biased;
                        () = resigning.cancelled() => return,
                        hold = term(&engine, &name) => hold,
                    };
                    let Some(hold) = hold else {
                        return;
                    };
                    sender.send_replace(Some(Lead { hold: hold.clone() }));
                    let is_over = tokio::select! {
                        biased;
                        () = hold.lost.cancelled() => false,
                        () = engine.stopping.cancelled() => true,
                        () = resigning.cancelled() => true,
                    };
                    // Those who look know it before anybody else can lead.
                    hold.lost.cancel();
                    sender.send_replace(None);
                    resign(&hold).await;
                    if is_over {
                        return;
                    }
                }
            }
        });
        Ok(LeaderWatch {
            terms,
            _resigns: resigning.drop_guard(),
        })
    }
}

/// Nobody leads by a clone of a lead once its work is gone.
struct LetsGo<'a>(&'a Hold);

impl Drop for LetsGo<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// The next term of this instance; None when the manager shuts down.
async fn term(engine: &Arc<Engine>, name: &HoldName) -> Option<Arc<Hold>> {
    if !engine.leads {
        engine.stopping.cancelled().await;
        return None;
    }
    let hold = tokio::select! {
        biased;
        () = engine.stopping.cancelled() => return None,
        hold = engine.acquire(name.clone(), Patience::Forever) => hold,
    };
    let hold = hold.ok().flatten()?; // else the manager is shut down
    panics::say(|| info!(%name, epoch = hold.epoch, "this instance leads"));
    Some(hold)
}

async fn resign(hold: &Hold) {
    let released = hold.release().await;
    panics::say(|| match released {
        Ok(true) => info!(name = %hold.name, epoch = hold.epoch, "this instance leads no more"),
        Ok(false) => {} // it was lost
        Err(error) => debug!(%error, name = %hold.name, "cannot give up the lead yet"),
    });
}

/// Whether this instance leads. Dropping it gives up the lead, and any claim to it.
#[derive(Debug)]
pub struct LeaderWatch {
    terms: watch::Receiver<Option<Lead>>,
    _resigns: DropGuard,
}

impl LeaderWatch {
    /// True if it leads now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.lead().is_some()
    }

    /// The term that it leads now.
    #[must_use]
    pub fn lead(&self) -> Option<Lead> {
        let lead = self.terms.borrow().clone();
        lead.filter(Lead::is_held)
    }

    /// Returns with the term when this instance begins to lead or leads no more; never once the manager is shut down.
    pub async fn changed(&mut self) -> Option<Lead> {
        if self.terms.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.terms.borrow_and_update().clone()
    }
}
