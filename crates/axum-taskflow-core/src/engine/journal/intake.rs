//! How a batch is made of what waits.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tracing::warn;

use super::{
    flight::{BATCH_MAX, Flight},
    queue::{Add, Entry, Queue, Writer},
};
use crate::{backend::Batch, clock::Clock, engine::Ready, panics};

/// What waits, and what has to be known to take a batch of it. Apart from the journal: a store that takes a batch when it
/// can begin with it does so on a thread of its own, and must not be what keeps itself alive.
pub(super) struct Intake {
    /// A std mutex: held to push or to take, never while writing.
    pub(super) queue: Mutex<Queue>,
    /// Changes that wait. An atomic: written under the queue's lock, read for each task without it.
    pub(super) n_changes: AtomicUsize,
    /// The last batch that was heard of has failed. An atomic: read for each batch, and others may tell of one meanwhile.
    pub(super) fails: AtomicBool,
    pub(super) clock: Clock,
    /// Says how many new tasks a batch may take.
    ready: Arc<Ready>,
    /// The store takes a batch when it can begin with it.
    pub(super) pulls: bool,
    /// More than one batch can be on its way.
    pub(super) several: bool,
}

impl Intake {
    pub(super) fn new(clock: Clock, ready: Arc<Ready>, pulls: bool, several: bool) -> Self {
        Self {
            queue: Mutex::default(),
            n_changes: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            clock,
            ready,
            pulls,
            several,
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batch that the store takes now, having been asked before; none if nothing waits.
    pub(super) fn take_late(&self) -> Option<Flight> {
        let mut queue = self.queue();
        queue.is_awaited = false;
        queue.wakes_at = 1;
        if queue.forsaken || queue.is_empty() {
            return None;
        }
        let flight = self.take_from(queue, BATCH_MAX, Writer::Journal);
        if flight.is_empty() {
            self.has_landed(&flight.batch); // all that waits is of tasks in flight
            return None;
        }
        Some(flight)
    }

    /// The next batch, for `writer`, with nothing of the tasks that are in flight; one of less than [`BATCH_MAX`] changes
    /// has nothing else in it.
    pub(super) fn take_from(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        changes_max: usize,
        writer: Writer,
    ) -> Flight {
        queue.writer = writer;
        queue.wakes_at = if self.pulls { 1 } else { usize::MAX };
        let mut batch = Batch::at(self.clock.now());
        let mut flight = Flight::empty(batch.now);
        let in_flight = queue.in_flight();
        let only_changes = changes_max < BATCH_MAX && !queue.changes.is_empty();
        // Not few while the store fails: whoever adds is told so at once.
        let fails = self.fails.load(Ordering::Relaxed);
        let adds_max = |executor| match fails {
            true => usize::MAX,
            false => self.ready.adds_max(executor),
        };
        let calls_max = match self.several {
            true => queue.calls_max(),
            false => usize::MAX,
        };
        let adds = match only_changes {
            true => VecDeque::new(),
            false => queue.take_adds(calls_max, adds_max),
        };
        let n = queue.changes_of_a_batch(changes_max);
        // What a function said follows its start: not before all changes that were queued by then.
        let takes_notes = n == queue.changes.len() && !only_changes;
        let changes = queue.take_changes(n, &in_flight);
        self.n_changes.store(queue.changes.len(), Ordering::Relaxed);
        if takes_notes {
            batch.notes = queue.take_notes(&in_flight);
        }
        queue.take_last_words(&changes, &mut batch.notes);
        let dropped = std::mem::take(&mut queue.notes_dropped);
        if !only_changes {
            for (entry, sender) in queue.audit.drain(..) {
                batch.audit.push(entry);
                flight.audits.push(sender);
            }
        }
        // The rest without the lock: whoever queues meanwhile need not wait.
        drop(queue);
        batch.tasks.reserve(adds.len());
        flight.adds.reserve(adds.len());
        for Add {
            tasks,
            then,
            caller,
        } in adds
        {
            flight.adds.push((tasks.len(), then, caller));
            batch.tasks.extend(tasks);
        }
        (batch.changes, flight.thens) = changes
            .into_iter()
            .map(|Entry { change, then }| (change, then))
            .unzip();
        if dropped > 0 {
            panics::say(|| {
                warn!(
                    dropped,
                    "log lines of tasks were dropped: the task store is too slow or fails"
                );
            });
        }
        flight.batch = Arc::new(batch);
        if self.several {
            let aloft = (flight.batch.clone(), flight.adds.len());
            self.queue().aloft.push(aloft);
        }
        flight
    }

    /// What came of a batch is known: what else is said of its tasks may be written.
    pub(super) fn has_landed(&self, batch: &Arc<Batch>) {
        if self.several {
            self.queue().has_landed(batch);
        }
    }
}
