//! Claims tasks that nobody holds: what was added while the slots were full, what is due now, what others left.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tracing::{error, warn};

use super::Engine;
use crate::{
    backend::{Claim, Claimed, Reserve, Turn},
    clock::Timestamp,
    error::BackendError,
    health::Duty,
    id::TaskId,
    panics,
    task::{Executor, Task},
};

/// When the next task on disk is due. An atomic: lowered whenever a task is stored for later.
pub(crate) struct NextDue(AtomicI64);

impl NextDue {
    pub(crate) fn new() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }

    /// A task is due then; true if that is earlier than all others.
    pub(crate) fn lower(&self, due: Timestamp) -> bool {
        let due = due.as_unix_ms();
        self.0.fetch_min(due, Ordering::SeqCst) > due
    }

    /// Forgets it; true if it had come.
    fn forget(&self, now: Timestamp) -> bool {
        self.0.swap(i64::MAX, Ordering::SeqCst) <= now.as_unix_ms()
    }

    fn get(&self) -> Option<Timestamp> {
        let due = self.0.load(Ordering::SeqCst);
        (due != i64::MAX).then(|| Timestamp::from_unix_ms(due))
    }
}

/// The last claim of each lane, if it may have taken tasks that no answer has brought.
type InDoubt = HashMap<Executor, Claim>;

/// False if the claim is to be made again: there may have been no room for all that it took.
fn has_brought_all(claimed: &Claimed, now: Timestamp) -> bool {
    claimed.next_due.is_none_or(|due| due > now)
}

/// With this in a claim it brings nothing that is nobody's: as much comes before it as the limit has room for.
fn room_for_none(limit: usize) -> Reserve {
    let from = Turn {
        priority: Reverse(i32::MAX),
        run_at: Timestamp::from_unix_ms(0),
        id: TaskId::from_bytes([0; 16]),
    };
    Reserve { from, n: limit }
}

impl Engine {
    /// Claims when a lane asks for it, and when a task on disk becomes due.
    pub(crate) async fn run_claimer(self: Arc<Self>) {
        let mut in_doubt = InDoubt::new();
        self.claim_until_stopped(&mut in_doubt).await;
        if let Err(failure) = self.give_back(in_doubt).await {
            panics::say(
                || warn!(error = %failure, "what a claim took that failed, if anything, waits for a takeover"),
            );
        }
    }

    async fn claim_until_stopped(self: &Arc<Self>, in_doubt: &mut InDoubt) {
        loop {
            let next = match self.claim_once(self.clock.now(), in_doubt).await {
                Ok(next) => {
                    self.troubles.end(Duty::Claim);
                    next
                }
                Err(failure) => {
                    panics::say(|| error!(error = %failure, "cannot claim tasks"));
                    self.troubles.begin(Duty::Claim, self.clock.now(), &failure);
                    // Not by the clock of tasks: a test that stands still must not make this loop spin or hang.
                    tokio::select! {
                        biased;
                        () = self.stopping.cancelled() => return,
                        () = tokio::time::sleep(super::jittered(super::LOOP_RETRY)) => continue,
                    }
                }
            };
            let due = async {
                match next {
                    Some(due) => self.clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = self.claimer_wake.notified() => {}
                () = due => self.more_on_disk(),
            }
        }
    }

    /// Claims what the lanes want; answers when the next task on disk is due.
    async fn claim_once(
        self: &Arc<Self>,
        now: Timestamp,
        in_doubt: &mut InDoubt,
    ) -> Result<Option<Timestamp>, BackendError> {
        if self.next_due.get().is_some_and(|due| due <= now) {
            // Used up: the lanes know it now, and the claim tells what is due after it.
            self.next_due.forget(now);
            self.more_on_disk();
        }
        for executor in [Executor::Async, Executor::Thread] {
            // What was begun last and is short ends first: one claim for all slots, instead of many for some.
            tokio::task::yield_now().await;
            // Once for each lane, so that neither keeps the other waiting.
            if !self.wants_tasks(executor) {
                continue;
            }
            // Before the claim: a task that is stored for later meanwhile lowers it again.
            if self.next_due.forget(now) {
                self.more_on_disk();
            }
            let wish = self.ready.begin_claim(executor);
            let claim = Claim {
                owner: self.me(),
                names: self.registry.names(executor),
                except: self.unreadable.ids(now),
                limit: wish.limit,
                now,
                reserve: wish.reserve,
            };
            let claimed = match self.ask_for(claim.clone()).await {
                Ok(claimed) => {
                    match has_brought_all(&claimed, now) {
                        true => in_doubt.remove(&executor),
                        false => in_doubt.insert(executor, claim),
                    };
                    claimed
                }
                Err(failure) => {
                    in_doubt.insert(executor, claim);
                    self.claim_ended(executor, Vec::new(), None);
                    // Both: what was forgotten above may be the other's.
                    self.more_on_disk();
                    self.dispatch(); // what waited for the claim
                    return Err(failure);
                }
            };
            crash_point!("claimer::claimed");
            if let Some(due) = claimed.next_due {
                self.next_due.lower(due);
            }
            // Claimed by the name of its function here, wherever it was meant to run when it was stored.
            let mut tasks = claimed.tasks;
            tasks.iter_mut().for_each(|task| task.executor = executor);
            self.claim_ended(executor, tasks, claimed.next_turn);
            self.dispatch(); // and wakes us again if a lane wants more
        }
        Ok(self.next_due.get())
    }

    async fn ask_for(&self, claim: Claim) -> Result<Claimed, BackendError> {
        self.troubles.asked(Duty::Claim, claim.now);
        let answer = panics::outage(async { self.backend.claim(claim).await }).await;
        self.troubles.answered(Duty::Claim);
        answer
    }

    /// When nothing begins here any more: claims again, which brings what is ours without our knowing, and lets others have
    /// it. Otherwise it would be taken from us as if it had begun. A store that is out is not waited for.
    async fn give_back(self: &Arc<Self>, in_doubt: InDoubt) -> Result<(), BackendError> {
        for mut claim in in_doubt.into_values() {
            claim.reserve = Some(room_for_none(claim.limit));
            loop {
                claim.now = self.clock.now();
                let claimed = self.ask_for(claim.clone()).await?;
                let is_over = claimed.tasks.is_empty() || has_brought_all(&claimed, claim.now);
                self.let_others_have(claimed.tasks.into_iter().map(Arc::new).collect());
                if is_over {
                    break;
                }
            }
        }
        Ok(())
    }

    fn claim_ended(
        self: &Arc<Self>,
        executor: Executor,
        tasks: Vec<Task>,
        next_turn: Option<Turn>,
    ) {
        let brought = self.ready.end_claim(executor, tasks, next_turn);
        self.let_others_have(brought.given_back);
        for task in brought.begun {
            self.begin_claimed(task);
        }
    }

    /// True if a claim for this lane is worth while. Bounded: outcomes that cannot be stored are kept, and no more are
    /// made than we can keep. And what is claimed in doubt is let go of again, over and over.
    pub(crate) fn wants_tasks(&self, executor: Executor) -> bool {
        self.ready.wants(executor) && !self.journal.is_full() && self.is_surely_alive()
    }

    fn more_on_disk(&self) {
        self.ready.more_on_disk(Executor::Async);
        self.ready.more_on_disk(Executor::Thread);
    }
}
