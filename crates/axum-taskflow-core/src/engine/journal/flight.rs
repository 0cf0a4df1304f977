//! A batch on its way to the store, and those who wait for it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::intake::Intake;
use crate::{
    backend::{Applied, BackendFuture, Batch, Enqueued, Written},
    change::Change,
    clock::Timestamp,
    error::{BackendError, Error},
    id::TaskId,
    panics,
    task::Task,
};

/// The new tasks of one call: mostly one.
pub(crate) type Tasks = SmallVec<[Arc<Task>; 1]>;
/// What the store says to them.
pub(crate) type Answers = SmallVec<[Enqueued; 1]>;
/// Called once the change is stored, or found to be stale.
pub(crate) type Then = Box<dyn FnOnce(&Change, Applied) + Send>;
/// Called once new tasks are stored, or could not be; gives the answer for the caller.
pub(crate) type ThenAdded =
    Box<dyn FnOnce(Result<&[Enqueued], &Arc<BackendError>>) -> Result<Answers, Error> + Send>;
/// Who added tasks, and may have stopped waiting.
pub(crate) type Caller = oneshot::Sender<Result<Answers, Error>>;

/// New tasks or changes in one batch: enough to make the commit cheap, few enough to keep it short.
pub(super) const BATCH_MAX: usize = 512;
/// So many changes, and nothing else, behind a batch for which the store had no room.
pub(super) const ALONE: usize = BATCH_MAX - 1;
/// And about so many bytes of arguments, or of results and errors: a link to a store has to carry them in time.
pub(super) const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A batch of at most so many bytes leaves a link room for another one.
const SMALL_BYTES_MAX: usize = BATCH_BYTES_MAX / 4;

/// A batch, and the store's answer to come.
pub(super) type Begun = (Flight, BackendFuture<'static, Written>);

/// A batch on its way, with those who wait for it.
pub(super) struct Flight {
    pub(super) batch: Arc<Batch>,
    pub(super) adds: Vec<(usize, ThenAdded, Caller)>,
    pub(super) thens: Vec<Then>,
    pub(super) audits: Vec<oneshot::Sender<Result<(), Error>>>,
}

/// A batch that the store was asked to write.
pub(super) struct Going {
    cargo: Cargo,
    pub(super) asked_at: Timestamp,
    writing: BackendFuture<'static, Written>,
    pub(super) outcome: Option<Result<Written, BackendError>>,
}

enum Cargo {
    Loaded(Flight),
    /// The store takes it when it can begin with it.
    Late(Arc<Late>),
}

/// A batch that the store takes when it can begin with it.
#[derive(Default)]
pub(super) struct Late(Mutex<Hold>);

#[derive(Default)]
enum Hold {
    #[default]
    Open,
    Taken(Flight),
    /// Nothing waited, or nobody waits any more for what comes of it.
    Closed,
}

impl Late {
    /// For the store, on any thread.
    pub(super) fn take(&self, intake: &Intake) -> Option<Arc<Batch>> {
        let mut hold = self.hold();
        if !matches!(*hold, Hold::Open) {
            return None;
        }
        *hold = Hold::Closed;
        let flight = intake.take_late()?;
        crash_point!("journal::before-write");
        let batch = flight.batch.clone();
        *hold = Hold::Taken(flight);
        Some(batch)
    }

    /// The store takes nothing from now on. What it has taken, and nothing if it was not even asked for.
    fn close(&self, intake: &Intake) -> Hold {
        let hold = std::mem::replace(&mut *self.hold(), Hold::Closed);
        if matches!(hold, Hold::Open) {
            intake.queue().is_awaited = false;
        }
        hold
    }

    /// Held while a batch is made up: who closes it finds it there, or it is never made.
    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Changes, and the last words of the attempts that they end.
    pub(super) fn has_only_what_is_of_changes(&self) -> bool {
        self.adds.is_empty() && self.audits.is_empty()
    }

    /// New tasks, and what might be stored without them.
    pub(super) fn has_both(&self) -> bool {
        !self.adds.is_empty() && !self.thens.is_empty()
    }

    pub(super) fn is_answered_by(&self, written: &Written) -> bool {
        (self.batch.tasks.len(), self.batch.changes.len())
            == (written.tasks.len(), written.changes.len())
    }

    /// The answer, if it is one.
    pub(super) fn checked(
        &self,
        outcome: Result<Written, BackendError>,
    ) -> Result<Written, BackendError> {
        outcome.and_then(|written| match self.is_answered_by(&written) {
            true => Ok(written),
            false => Err(BackendError::unavailable(
                "the store gave fewer or more answers than it was asked for",
            )),
        })
    }

    pub(super) fn empty(now: Timestamp) -> Self {
        Self {
            batch: Arc::new(Batch::at(now)),
            adds: Vec::new(),
            thens: Vec::new(),
            audits: Vec::new(),
        }
    }

    /// Nothing is to be told to anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.audits.is_empty() && self.batch.notes.is_empty()
    }

    /// Calls and changes in it.
    pub(super) fn len(&self) -> usize {
        self.adds.len() + self.thens.len()
    }

    /// True if another one may share its time.
    pub(super) fn is_small(&self) -> bool {
        let Batch { tasks, changes, .. } = &*self.batch;
        let of_tasks: usize = tasks.iter().map(|task| task.args.len()).sum();
        let of_changes: usize = changes.iter().map(bytes_of).sum();
        tasks.len() <= BATCH_MAX && of_tasks + of_changes <= SMALL_BYTES_MAX
    }
}

/// The tasks that a batch says something of.
pub(super) fn ids_of(batch: &Batch) -> impl Iterator<Item = TaskId> {
    let Batch {
        tasks,
        changes,
        notes,
        ..
    } = batch;
    let tasks = tasks.iter().map(|task| task.id);
    let changes = changes.iter().map(|change| change.id);
    tasks.chain(changes).chain(notes.iter().map(|note| note.id))
}

impl Going {
    pub(super) fn loaded((flight, writing): Begun) -> Self {
        Self {
            asked_at: flight.batch.now,
            cargo: Cargo::Loaded(flight),
            writing,
            outcome: None,
        }
    }

    pub(super) fn late(
        late: Arc<Late>,
        asked_at: Timestamp,
        writing: BackendFuture<'static, Written>,
    ) -> Self {
        Self {
            cargo: Cargo::Late(late),
            asked_at,
            writing,
            outcome: None,
        }
    }

    /// What was loaded before it was sent.
    pub(super) fn flight(&self) -> Option<&Flight> {
        match &self.cargo {
            Cargo::Loaded(flight) => Some(flight),
            Cargo::Late(_) => None,
        }
    }

    /// Lets go of the store. What was in the batch, and what came of it, if that is known.
    pub(super) fn unload(self, intake: &Intake) -> (Flight, Option<Result<Written, BackendError>>) {
        panics::contain(|| drop(self.writing)); // it is the store's
        let hold = match self.cargo {
            Cargo::Loaded(flight) => Hold::Taken(flight),
            Cargo::Late(late) => late.close(intake),
        };
        let nothing = || Flight::empty(self.asked_at);
        match (hold, self.outcome) {
            (Hold::Taken(flight), outcome) => (flight, outcome),
            // It would be asked again and again.
            (Hold::Open, Some(Ok(_))) => {
                let why = "the store answered without having taken a batch";
                (nothing(), Some(Err(BackendError::unavailable(why))))
            }
            (Hold::Open | Hold::Closed, outcome) => (nothing(), outcome),
        }
    }

    /// Asks the store.
    pub(super) async fn sent(mut self) -> Self {
        poll_fn(|cx| {
            self.poll(cx);
            Poll::Ready(())
        })
        .await;
        self
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.outcome.is_none()
            && let Poll::Ready(outcome) = self.writing.as_mut().poll(cx)
        {
            self.outcome = Some(outcome);
        }
    }
}

/// Returns when a batch has its answer.
pub(super) async fn one_has_landed(going: &mut VecDeque<Going>) {
    poll_fn(|cx| {
        going.iter_mut().for_each(|it| it.poll(cx));
        match going.iter().any(|it| it.outcome.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// What of a change can be large.
pub(super) fn bytes_of(change: &Change) -> usize {
    let result = change.life.result.as_ref().map_or(0, |json| json.len());
    let error = change.life.error.as_ref();
    result + error.map_or(0, |report| report.bytes())
}
