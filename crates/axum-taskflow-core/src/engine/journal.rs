//! The only road between live tasks and the backend: it writes whatever waits as one batch.
//!
//! Group commit: while one batch is being written, the next one gathers. So N callers that wait at once cost one
//! commit, and a caller on an idle journal waits for one commit and for no timer.

mod flight;
mod intake;
mod queue;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, oneshot};
use tracing::{error, warn};

pub(crate) use self::flight::{Answers, Tasks, ThenAdded};
use self::{
    flight::{
        ALONE, BATCH_MAX, Begun, Caller, Flight, Going, Late, Then, bytes_of, one_has_landed,
    },
    intake::Intake,
    queue::{Add, Entry, Queue, Writer},
};
use super::Ready;
use crate::{
    backend::{Applied, AuditEntry, Backend, BackendFuture, Batch, NextBatch, Note, Said, Written},
    change::Change,
    clock::Clock,
    error::{BackendError, Error, ErrorKind},
    health::{Duty, Troubles},
    id::TaskId,
    panics,
};

/// Log lines that wait to be written // full: further ones are dropped and counted, since functions cannot wait
const NOTES_MAX: usize = 20_000;
/// Records of actions that wait to be written // full: further ones are refused, since their callers do not wait for long
const AUDITS_MAX: usize = 1_000;
/// Waits between two tries while the backend fails.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Outcomes that wait to be stored // more: no further task starts until the store takes them, and none is cancelled
const OUTCOMES_MAX: usize = 10_000;
/// The same for the bytes of their results and errors // more: as above
const OUTCOME_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(crate) struct Journal {
    backend: Arc<dyn Backend>,
    writes_at_once: usize,
    intake: Arc<Intake>,
    bell: Arc<Bell>,
    /// Rings it.
    ringer: Waker,
    /// Everything that waited has been written.
    idle: Notify,
    /// Free places for new tasks // none: add_task waits, so the handler slows down, up to its deadline
    places: Semaphore,
    places_max: usize,
    /// What all changes hold that wait or are being written, in bytes. An atomic: written for each change, read for each
    /// task.
    n_bytes: AtomicUsize,
    troubles: Arc<Troubles>,
}

/// Wakes the journal: something waits to be written, or the store has answered what a caller has begun.
#[derive(Default)]
struct Bell {
    wake: Notify,
    /// An atomic: the store may answer before the journal can see what it was asked.
    has_rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// The batches of which those who wait for them have heard nothing yet.
struct Unheard<'a, F: Fn(&[Note])> {
    journal: &'a Journal,
    /// Called after each batch with what functions said.
    stored: F,
    /// Those on their way, oldest first.
    going: VecDeque<Going>,
    /// One that has landed.
    landed: Option<(Flight, Written)>,
}

/// When the engine stops, or something panics: what the store has answered is told, and what it has not is given back.
impl<F: Fn(&[Note])> Drop for Unheard<'_, F> {
    fn drop(&mut self) {
        if let Some((flight, written)) = self.landed.take() {
            self.journal.answer(flight, &written, &self.stored);
        }
        let begun = {
            let mut queue = self.journal.queue();
            let begun = queue.begun.take();
            if begun.is_some() {
                queue.writer = Writer::Journal; // who began it writes no more, and the next run goes on
            }
            begun
        };
        self.going.extend(begun.map(Going::loaded));
        while let Some(going) = self.going.pop_back() {
            let (flight, outcome) = going.unload(&self.journal.intake);
            match outcome.map(|outcome| flight.checked(outcome)) {
                Some(Ok(written)) => self.journal.answer(flight, &written, &self.stored),
                Some(Err(failure)) => self.journal.give_back(flight, failure, Duration::ZERO),
                None => self.journal.give_up(flight),
            }
        }
    }
}

/// If something panics where a caller writes, the journal goes on all the same.
struct Unwinding<'a>(&'a Journal);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue();
            if queue.begun.is_none() {
                queue.writer = Writer::Nobody;
            }
            drop(queue);
            self.0.bell.wake.notify_one();
        }
    }
}

impl Journal {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        clock: Clock,
        places_max: usize,
        troubles: Arc<Troubles>,
        ready: Arc<Ready>,
    ) -> Self {
        let bell = Arc::<Bell>::default();
        let (pulls, writes_at_once) = (backend.pulls(), backend.writes_at_once());
        let several = pulls || writes_at_once > 1;
        Self {
            intake: Arc::new(Intake::new(clock, ready, pulls, several)),
            ringer: bell.clone().into(),
            bell,
            troubles,
            writes_at_once,
            backend,
            idle: Notify::new(),
            places: Semaphore::new(places_max),
            places_max,
            n_bytes: AtomicUsize::new(0),
        }
    }

    /// Takes a place for `n` new tasks, waiting for one at most `deadline`.
    ///
    /// # Errors
    /// Overloaded if none came free in time.
    pub(crate) async fn place(&self, n: usize, deadline: Duration) -> Result<(), Error> {
        let n = self.place_size(n);
        let permit = match self.places.try_acquire_many(n) {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout(deadline, self.places.acquire_many(n)).await {
                Ok(permit) => permit.expect("the semaphore is never closed"),
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Overloaded,
                        format!(
                            "{} tasks wait to be stored already, and none was within {deadline:?}; nothing was added",
                            self.places_max
                        ),
                    ));
                }
            },
        };
        permit.forget(); // given back when the batch is written
        Ok(())
    }

    /// Queues new tasks, to be stored in one batch; [`Journal::begin`] is to follow at once. Needs a
    /// [`Journal::place`].
    ///
    /// # Errors
    /// `then` back if no new tasks are taken any more.
    pub(crate) fn add(
        &self,
        tasks: Tasks,
        then: ThenAdded,
        caller: Caller,
    ) -> Result<(), ThenAdded> {
        let mut queue = self.queue();
        if queue.closed {
            drop(queue);
            self.places
                .add_permits(self.place_size(tasks.len()) as usize);
            return Err(then);
        }
        queue.adds.push_back(Add {
            tasks,
            then,
            caller,
        });
        Ok(())
    }

    /// Takes back new tasks, of which the first is `id`, for a caller whose time is over. False if they are being written,
    /// or were.
    pub(crate) fn take_back(&self, id: TaskId) -> bool {
        let add = self.queue().take_back(id);
        let was_there = add.is_some();
        if let Some(Add { tasks, then, .. }) = add {
            self.places
                .add_permits(self.place_size(tasks.len()) as usize);
            // What was promised to these tasks is broken, and that looks into the queue.
            panics::contain(|| drop(then));
        }
        was_there
    }

    /// Writes what waits if nobody does, up to the point where the store has to be waited for; from there on the journal
    /// goes on. So a store in memory has answered when this returns, and another one was asked without waking the journal:
    /// the answer does that, or enough for a second batch. If somebody writes, he will take it. To be called without any
    /// lock, on the engine's runtime.
    pub(crate) fn begin(&self, stored: impl Fn(&[Note])) {
        let queue = self.queue();
        if queue.writer != Writer::Nobody {
            return self.wake_if_enough(queue);
        }
        if queue.is_empty() {
            return;
        }
        let _unwinding = Unwinding(self);
        let flight = self.intake.take_from(queue, BATCH_MAX, Writer::Caller);
        crash_point!("journal::before-write");
        let mut writing = self.write(&flight);
        self.bell.has_rung.store(false, Ordering::SeqCst);
        let at_once = writing
            .as_mut()
            .poll(&mut Context::from_waker(&self.ringer));
        match at_once {
            Poll::Ready(Ok(written)) if flight.is_answered_by(&written) => {
                crash_point!("journal::written");
                self.answer(flight, &written, &stored);
                let mut queue = self.queue();
                queue.writer = Writer::Nobody;
                if queue.is_empty() {
                    queue.wakes_at = 0;
                    drop(queue);
                    return self.idle.notify_waiters();
                }
            }
            Poll::Ready(outcome) => {
                let queue = self.queue();
                self.has_begun(queue, (flight, Box::pin(std::future::ready(outcome))));
            }
            Poll::Pending => {
                self.troubles.asked(Duty::Write, flight.batch.now);
                let mut queue = self.queue();
                if self.writes_at_once > 1 && flight.is_small() {
                    queue.wakes_at = queue.len() + queue.lacks_beside(&flight);
                }
                self.has_begun(queue, (flight, writing));
                if !self.bell.has_rung.load(Ordering::SeqCst) {
                    return;
                }
            }
        }
        self.bell.wake.notify_one();
    }

    /// Leaves what a caller has begun to the journal, if that is still there.
    fn has_begun(&self, mut queue: MutexGuard<'_, Queue>, begun: Begun) {
        if queue.forsaken {
            drop(queue);
            self.give_up(Going::loaded(begun).unload(&self.intake).0);
            return self.forsake();
        }
        queue.begun = Some(begun);
        self.wake_if_enough(queue);
    }

    /// Asks the store. If its code panics, nothing is lost that was to be written.
    fn write(&self, flight: &Flight) -> BackendFuture<'static, Written> {
        let (backend, batch) = (self.backend.clone(), flight.batch.clone());
        Box::pin(panics::outage(async move { backend.write(batch).await }))
    }

    /// Queues a change; it is tried until it is stored or stale.
    pub(crate) fn change(&self, change: Change, then: Then) {
        self.push(self.queue(), Entry { change, then });
    }

    /// The same of the end of an attempt. Whether it was silent is asked when whatever is said from now on comes behind it:
    /// what was written before counts, too.
    pub(crate) fn end(&self, mut change: Change, then: Then, is_silent: impl FnOnce() -> bool) {
        let queue = self.queue();
        change.is_silent = is_silent();
        self.push(queue, Entry { change, then });
    }

    /// Queues what a function said.
    pub(crate) fn note(&self, note: Note) {
        let mut queue = self.queue();
        if queue.forsaken {
            return; // a plain function may go on, and talk for long
        }
        match note.what {
            Said::Progress(progress) => {
                let last = queue.progress.get(&note.id);
                // What an attempt has left behind that was cut off may go on talking.
                if last.is_none_or(|(epoch, _)| *epoch <= note.epoch) {
                    queue.progress.insert(note.id, (note.epoch, progress));
                }
            }
            Said::Log(_) if queue.notes.len() < NOTES_MAX => queue.notes.push(note),
            Said::Log(_) => queue.notes_dropped += 1,
        }
        self.wake_if_enough(queue);
    }

    /// Stores an audit entry.
    ///
    /// # Errors
    /// Overloaded if too many wait; or the backend fails.
    pub(crate) async fn audit(&self, entry: AuditEntry) -> Result<(), Error> {
        let (sender, answer) = oneshot::channel();
        {
            let mut queue = self.queue();
            if queue.closed {
                return Err(Error::shutting_down());
            }
            if queue.audit.len() >= AUDITS_MAX {
                let why = format!(
                    "{AUDITS_MAX} records of actions wait to be stored already: this one is not kept"
                );
                return Err(Error::new(ErrorKind::Overloaded, why));
            }
            queue.audit.push((entry, sender));
            self.wake_if_enough(queue);
        }
        answer.await.unwrap_or_else(|_| Err(Error::shutting_down()))
    }

    /// Changes that wait to be stored.
    pub(crate) fn changes_waiting(&self) -> usize {
        self.intake.n_changes.load(Ordering::Relaxed)
    }

    /// True if no more changes should be made: bounded, and none is given up.
    pub(crate) fn is_full(&self) -> bool {
        self.changes_waiting() >= OUTCOMES_MAX
            || self.n_bytes.load(Ordering::Relaxed) >= OUTCOME_BYTES_MAX
    }

    /// True if nothing waits to be stored, or is being stored.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue().is_idle()
    }

    /// Takes no new tasks from now on; true if it was so already.
    pub(crate) fn close(&self) -> bool {
        std::mem::replace(&mut self.queue().closed, true)
    }

    /// Its runtime has ended, and nobody will write any more: drops what waits, which holds the engine, which holds this.
    /// Who waits for an answer hears that the engine has ended.
    pub(crate) fn forsake(&self) {
        let begun = {
            let mut queue = self.queue();
            queue.closed = true;
            queue.forsaken = true;
            queue.begun.take()
        };
        if let Some(begun) = begun {
            self.give_up(Going::loaded(begun).unload(&self.intake).0);
        }
        let mut queue = self.queue();
        let adds = std::mem::take(&mut queue.adds);
        let changes = std::mem::take(&mut queue.changes);
        queue.aloft = Vec::new();
        let audit = std::mem::take(&mut queue.audit);
        queue.notes = Vec::new();
        queue.progress = HashMap::new();
        let bytes: usize = changes.iter().map(|entry| bytes_of(&entry.change)).sum();
        self.n_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.intake.n_changes.store(0, Ordering::Relaxed);
        drop(queue);
        for add in &adds {
            self.places
                .add_permits(self.place_size(add.tasks.len()) as usize); // whoever waits for one is refused then
        }
        panics::contain(|| drop((adds, changes, audit))); // without the lock: what was promised looks into the queue
    }

    /// Nobody waits any more for what the store says of a batch, mostly since the runtime has ended: that is no fault of the
    /// store.
    fn give_up(&self, flight: Flight) {
        let why = "the task manager ended before the store answered";
        if !flight.is_empty() {
            panics::say(|| {
                warn!(
                    tasks = flight.batch.tasks.len(),
                    changes = flight.batch.changes.len(),
                    "what was on its way to the task store may be stored or not: {why}"
                );
            });
        }
        self.put_back(flight, BackendError::unavailable(why));
    }

    /// True if nothing is written any more, or soon.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// Returns once everything that was queued is written.
    pub(crate) async fn flushed(&self) {
        loop {
            let idle = self.idle.notified();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Writes batch after batch, forever; `stored` is called after each with what functions said.
    ///
    /// A change is never written before one that it follows from: what is on its way at once is of different tasks. So a
    /// batch that fails can be put back whatever becomes of the next one. The store need not wait for what follows from an
    /// answer: another batch is on its way before that is told.
    pub(crate) async fn run(&self, stored: impl Fn(&[Note]) + Send) {
        let mut wait = RETRY_MIN;
        let mut unheard = Unheard {
            journal: self,
            stored,
            going: VecDeque::new(),
            landed: None,
        };
        let Unheard {
            stored,
            going,
            landed,
            ..
        } = &mut unheard;
        // Less than BATCH_MAX while a change is looked for that the store refuses for good, or the store has no room for new
        // tasks.
        let mut changes_max = BATCH_MAX;
        loop {
            let next = self.next(changes_max, going);
            let was_busy = next.is_some() || landed.is_some();
            if let Some(next) = next {
                let sent = next.sent().await;
                let is_asked = sent.outcome.is_none();
                going.push_back(sent);
                if is_asked && self.writes_at_once > 1 {
                    // Its connection has a task of its own, which tokio keeps for this thread: it is to run now.
                    tokio::task::yield_now().await;
                }
            }
            if let Some((flight, written)) = landed.take() {
                self.answer(flight, &written, stored);
            }
            let has_room = self.has_room(changes_max, going);
            if was_busy && has_room {
                continue; // there may be enough for one more
            }
            if going.is_empty() {
                if self.rest() {
                    self.idle.notify_waiters();
                    self.bell.wake.notified().await;
                }
                continue;
            }
            let Some((flight, outcome)) = self.landed(going, has_room).await else {
                continue;
            };
            match outcome {
                Ok(written) => {
                    if changes_max != ALONE {
                        if wait > RETRY_MIN {
                            self.troubles.end(Duty::Write);
                        }
                        wait = RETRY_MIN;
                    } // else it may still be full
                    changes_max = (changes_max * 2).min(BATCH_MAX);
                    *landed = (!flight.is_empty()).then_some((flight, written));
                }
                Err(failure) if failure.is_refused() && !flight.thens.is_empty() => {
                    // One of the changes may be at fault, and must not keep all others waiting for ever.
                    let n = flight.thens.len();
                    if n == 1 && changes_max < BATCH_MAX && flight.has_only_what_is_of_changes() {
                        self.drop_refused(flight, &failure);
                        panics::contain(|| stored(&[])); // what waited for room may go on
                    } else {
                        self.give_back(flight, failure, Duration::ZERO);
                    }
                    changes_max = n.div_ceil(2).min(BATCH_MAX / 2);
                    self.land(going, Duration::ZERO, stored).await;
                }
                Err(failure) => {
                    self.troubles
                        .begin(Duty::Write, self.intake.clock.now(), &failure);
                    changes_max = match changes_max {
                        BATCH_MAX if failure.is_full() && flight.has_both() => ALONE,
                        ALONE => BATCH_MAX, // whoever adds is to be told soon
                        n => n,
                    };
                    let again_in = wait.mul_f64(0.5 + fastrand::f64() * 0.5);
                    self.give_back(flight, failure, again_in);
                    self.land(going, again_in, stored).await;
                    tokio::time::sleep(again_in).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// True if one more batch may be on its way. None goes behind a large one, whose time it would share, unless the store
    /// takes it when it is ready.
    fn has_room(&self, changes_max: usize, going: &VecDeque<Going>) -> bool {
        if going.is_empty() {
            return true;
        }
        let is_small = |it: &Going| it.flight().is_some_and(Flight::is_small);
        changes_max == BATCH_MAX
            && match self.intake.pulls {
                true => going.len() < 2,
                false => going.len() < self.writes_at_once && going.iter().all(is_small),
            }
    }

    /// What came of a batch. Nothing if there is `room` for another one, and by now enough for it.
    async fn landed(
        &self,
        going: &mut VecDeque<Going>,
        room: bool,
    ) -> Option<(Flight, Result<Written, BackendError>)> {
        let has_landed = |it: &Going| it.outcome.is_some();
        if !going.iter().any(has_landed) {
            self.troubles.asked(Duty::Write, going.front()?.asked_at);
            tokio::select! {
                biased;
                () = one_has_landed(going) => {}
                () = self.bell.wake.notified(), if room => return None,
            }
        }
        self.troubles.answered(Duty::Write);
        crash_point!("journal::written");
        let (flight, outcome) = going
            .remove(going.iter().position(has_landed)?)?
            .unload(&self.intake);
        let outcome = flight.checked(outcome?);
        Some((flight, outcome))
    }

    /// After a failure: takes in what else is on its way, before the journal waits for a while and asks nobody.
    async fn land(
        &self,
        going: &mut VecDeque<Going>,
        again_in: Duration,
        stored: &impl Fn(&[Note]),
    ) {
        while let Some((flight, outcome)) = self.landed(going, false).await {
            match outcome {
                Ok(written) => self.answer(flight, &written, stored),
                Err(failure) => self.give_back(flight, failure, again_in),
            }
        }
    }

    /// True if there is nothing to do.
    fn rest(&self) -> bool {
        let mut queue = self.queue();
        if queue.writer == Writer::Caller {
            return queue.begun.is_none(); // he will wake us
        }
        let is_empty = queue.is_empty();
        queue.writer = match is_empty {
            true => Writer::Nobody,
            false => Writer::Journal,
        };
        queue.wakes_at = 0;
        is_empty
    }

    /// What a caller has begun, or the next batch; if others are on their way, only one that is about as large, or one that
    /// the store takes later.
    fn next(&self, changes_max: usize, going: &VecDeque<Going>) -> Option<Going> {
        if !self.has_room(changes_max, going) {
            return None;
        }
        let mut queue = self.queue();
        if let Some(begun) = queue.begun.take() {
            queue.writer = Writer::Journal;
            return Some(Going::loaded(begun));
        }
        if let Some(last) = going.back() {
            if self.intake.pulls {
                return self.next_late(queue);
            }
            let lacks = last.flight().map_or(0, |it| queue.lacks_beside(it));
            if lacks > 0 {
                queue.wakes_at = queue.len() + lacks;
                return None;
            }
        }
        if queue.writer == Writer::Caller || queue.is_empty() {
            return None;
        }
        let flight = self.intake.take_from(queue, changes_max, Writer::Journal);
        crash_point!("journal::before-write");
        let writing = self.write(&flight);
        Some(Going::loaded((flight, writing)))
    }

    /// Asks the store to take the next batch once it can begin with it: by then more will wait. Not before something does.
    fn next_late(&self, mut queue: MutexGuard<'_, Queue>) -> Option<Going> {
        if queue.is_awaited {
            queue.wakes_at = usize::MAX;
            return None;
        }
        // What can only follow from a batch on its way waits for that, and what was said with it.
        let has_some = !queue.adds.is_empty()
            || !queue.audit.is_empty()
            || queue.changes_free(&queue.in_flight()) > 0;
        if !has_some {
            queue.wakes_at = queue.len() + 1;
            return None;
        }
        queue.is_awaited = true;
        queue.wakes_at = usize::MAX;
        drop(queue);
        let late = Arc::<Late>::default();
        let next: NextBatch = Box::new({
            let (late, intake) = (late.clone(), self.intake.clone());
            move || late.take(&intake)
        });
        let backend = self.backend.clone();
        let writing = panics::outage(async move { backend.pull(next).await });
        let now = self.intake.clock.now();
        Some(Going::late(late, now, Box::pin(writing)))
    }

    /// Tells what came of a batch. What follows from one part of it may panic, be it in the subscriber of a log line:
    /// the others hear of theirs all the same.
    fn answer(&self, flight: Flight, written: &Written, stored: &impl Fn(&[Note])) {
        let Flight {
            batch,
            adds,
            thens,
            audits,
        } = flight;
        self.intake.fails.store(false, Ordering::Relaxed);
        self.intake.has_landed(&batch);
        self.stored_or_dropped(&batch);
        let places = adds.iter().map(|(n, ..)| self.place_size(*n) as usize);
        self.places.add_permits(places.sum());
        let mut answers = &written.tasks[..];
        let mut callers = Vec::with_capacity(adds.len());
        for (n, then, caller) in adds {
            let (own, rest) = answers.split_at(n);
            answers = rest;
            let answer = panics::contain(|| then(Ok(own)));
            callers.push((caller, answer.unwrap_or_else(|| Ok(own.into()))));
        }
        let applied = written.changes.iter().copied();
        for ((change, then), applied) in batch.changes.iter().zip(thens).zip(applied) {
            panics::contain(|| then(change, applied));
        }
        for sender in audits {
            // The caller may have stopped waiting; the entry is stored all the same.
            let _ = sender.send(Ok(()));
        }
        panics::contain(|| stored(&batch.notes));
        // Last: what has just begun is ahead of those who add more, and short tasks have left their slots to them.
        for (caller, answer) in callers {
            // He may have stopped waiting; the tasks are stored all the same. And what wakes him is his.
            panics::contain(|| drop(caller.send(answer)));
        }
    }

    /// The store has failed.
    fn give_back(&self, flight: Flight, failure: BackendError, again_in: Duration) {
        panics::say(|| {
            error!(
                error = %failure,
                store = %self.backend.describe(),
                tasks_refused = flight.adds.len(),
                changes_kept = flight.batch.changes.len(),
                again_in_ms = again_in.as_millis(),
                "cannot write to the task store"
            );
        });
        self.put_back(flight, failure);
    }

    /// New tasks are refused, everything else is kept for the next try.
    fn put_back(&self, flight: Flight, failure: BackendError) {
        self.intake.fails.store(true, Ordering::Relaxed);
        let failure = Arc::new(failure);
        let Flight {
            batch,
            adds,
            thens,
            audits,
        } = flight;
        {
            // All at once: the store may take a batch at any moment, and what follows from this one may not be in it.
            let mut queue = self.queue();
            queue.has_landed(&batch);
            let (changes, notes) = match Arc::try_unwrap(batch) {
                Ok(batch) => (batch.changes, batch.notes),
                Err(shared) => (shared.changes.clone(), shared.notes.clone()),
            };
            for (change, then) in changes.into_iter().zip(thens).rev() {
                queue.changes.push_front(Entry { change, then });
            }
            self.intake
                .n_changes
                .store(queue.changes.len(), Ordering::Relaxed);
            let mut logs = Vec::new();
            for note in notes {
                match note.what {
                    Said::Progress(progress) => {
                        queue
                            .progress
                            .entry(note.id)
                            .or_insert((note.epoch, progress));
                    }
                    Said::Log(_) => logs.push(note),
                }
            }
            logs.append(&mut queue.notes);
            queue.notes_dropped += logs.len().saturating_sub(NOTES_MAX) as u64;
            logs.truncate(NOTES_MAX);
            queue.notes = logs;
        }
        for (n, then, caller) in adds {
            self.places.add_permits(self.place_size(n) as usize);
            let answer = panics::contain(|| then(Err(&failure)));
            let answer = answer.unwrap_or_else(|| Err(unavailable(&failure)));
            panics::contain(|| drop(caller.send(answer))); // as above
        }
        for sender in audits {
            // As above.
            let _ = sender.send(Err(unavailable(&failure)));
        }
    }

    /// The only change in a batch can never be stored as it is: what it says may be at fault, and is left out. One that is
    /// refused all the same is dropped as if it were stale.
    fn drop_refused(&self, flight: Flight, failure: &BackendError) {
        self.intake.has_landed(&flight.batch);
        self.stored_or_dropped(&flight.batch);
        for (change, then) in flight.batch.changes.iter().zip(flight.thens) {
            if let Some(plain) = change.without_words() {
                panics::say(|| {
                    error!(
                        error = %failure,
                        task = %change.id,
                        function = %change.name,
                        status = %change.life.status,
                        said = change.life.error.as_ref().map(|report| &*report.message),
                        "the task store refuses what came of a task: it is stored without its words"
                    );
                });
                self.change(plain, then);
                continue;
            }
            self.troubles
                .begin(Duty::Write, self.intake.clock.now(), failure);
            panics::say(|| {
                error!(
                    error = %failure,
                    task = %change.id,
                    function = %change.name,
                    status = %change.life.status,
                    "the task store refuses a change for good: it is dropped, and the task stays as it is stored"
                );
            });
            panics::contain(|| then(change, Applied::Stale));
        }
    }

    fn stored_or_dropped(&self, batch: &Batch) {
        let bytes: usize = batch.changes.iter().map(bytes_of).sum();
        self.n_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A bulk of more tasks than there are places takes them all.
    fn place_size(&self, n: usize) -> u32 {
        u32::try_from(n.min(self.places_max)).unwrap_or(u32::MAX)
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, entry: Entry) {
        if queue.forsaken {
            drop(queue); // what is promised in the entry looks into it
            return;
        }
        self.n_bytes
            .fetch_add(bytes_of(&entry.change), Ordering::Relaxed);
        queue.changes.push_back(entry);
        self.intake
            .n_changes
            .store(queue.changes.len(), Ordering::Relaxed);
        self.wake_if_enough(queue);
    }

    /// Something was queued.
    fn wake_if_enough(&self, queue: MutexGuard<'_, Queue>) {
        let is_enough = queue.len() >= queue.wakes_at;
        drop(queue);
        if is_enough {
            self.bell.wake.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.intake.queue()
    }
}

/// The error of a caller whose write failed together with others'.
pub(crate) fn unavailable(failure: &Arc<BackendError>) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the task store failed: {failure}"),
    )
    .with_source(failure.clone())
}

#[cfg(test)]
mod tests;
