//! What waits to be written, and how much of it goes into one batch.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::flight::{
    BATCH_BYTES_MAX, BATCH_MAX, Begun, Caller, Flight, Tasks, Then, ThenAdded, bytes_of, ids_of,
};
use crate::{
    backend::{AuditEntry, Batch, Note, Said},
    change::Change,
    error::Error,
    id::{Epoch, TaskId},
    task::{Executor, Progress, Task},
};

/// Of those who add and wait for it no more than half go into one batch, unless they are so few: while the store works at
/// it, the other half is told, and comes back. All of them in one would leave the store nothing to do meanwhile.
const CALLS_MIN: usize = 16;

/// Log lines in one batch, each of at most 8 KiB.
const NOTES_OF_A_BATCH: usize = 2_000;

/// What waits, and who writes it.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) adds: VecDeque<Add>,
    pub(super) changes: VecDeque<Entry>,
    pub(super) notes: Vec<Note>,
    pub(super) notes_dropped: u64,
    /// Only the last word of each task.
    pub(super) progress: HashMap<TaskId, (Epoch, Progress)>,
    pub(super) audit: Vec<(AuditEntry, oneshot::Sender<Result<(), Error>>)>,
    pub(super) writer: Writer,
    /// So many things have to wait before the journal is woken; none if it rests.
    pub(super) wakes_at: usize,
    /// What a caller has begun to write, to be waited for by the journal.
    pub(super) begun: Option<Begun>,
    /// The batches on their way, if there can be several, each with how many calls add what is in it.
    pub(super) aloft: Vec<(Arc<Batch>, usize)>,
    /// The store was asked to take the next batch, and has not taken it.
    pub(super) is_awaited: bool,
    /// No new tasks any more.
    pub(super) closed: bool,
    /// Nobody writes any more: what is still queued is dropped.
    pub(super) forsaken: bool,
}

pub(super) struct Add {
    pub(super) tasks: Tasks,
    pub(super) then: ThenAdded,
    pub(super) caller: Caller,
}

pub(super) struct Entry {
    pub(super) change: Change,
    pub(super) then: Then,
}

/// Who writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Writer {
    #[default]
    Nobody,
    Journal,
    /// Somebody who added tasks while nobody wrote.
    Caller,
}

impl Queue {
    /// Takes back the new tasks of which the first is `id`, if they wait.
    pub(super) fn take_back(&mut self, id: TaskId) -> Option<Add> {
        // Who gives up first has added first: it is not far down.
        let is_it = |add: &Add| add.tasks.first().is_some_and(|task| task.id == id);
        let at = self.adds.iter().position(is_it)?;
        self.adds.remove(at)
    }

    /// Takes the adds of one batch, at least one. Those of a lane that has as many new tasks in it as it may stay, and keep
    /// none of the other lane waiting.
    pub(super) fn take_adds(
        &mut self,
        calls_max: usize,
        tasks_max: impl Fn(Executor) -> usize,
    ) -> VecDeque<Add> {
        let mut room = [Executor::Async, Executor::Thread].map(tasks_max);
        let n = self.adds_of_a_batch().min(calls_max);
        let adds = first(&mut self.adds, n);
        if room == [usize::MAX; 2] {
            return adds;
        }
        let lane = |task: &Task| usize::from(task.executor == Executor::Thread);
        let fits = |add: &Add| {
            let fits = add.tasks.iter().all(|task| room[lane(task)] > 0);
            for task in add.tasks.iter().filter(|_| fits) {
                room[lane(task)] = room[lane(task)].saturating_sub(1);
            }
            fits
        };
        let (adds, others): (_, VecDeque<_>) = adds.into_iter().partition(fits);
        for add in others.into_iter().rev() {
            self.adds.push_front(add);
        }
        adds
    }

    /// How many of the adds have room in one batch: at least one, until it has enough tasks, or bytes.
    fn adds_of_a_batch(&self) -> usize {
        let (mut n_tasks, mut bytes) = (0, 0);
        let fits = |add: &&Add| {
            let fits = n_tasks < BATCH_MAX && bytes < BATCH_BYTES_MAX;
            n_tasks += add.tasks.len();
            bytes += add.tasks.iter().map(|task| task.args.len()).sum::<usize>();
            fits
        };
        self.adds.iter().take_while(fits).count()
    }

    /// How many of the changes go into one batch of at most `changes_max`.
    pub(super) fn changes_of_a_batch(&self, changes_max: usize) -> usize {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let fits = bytes < BATCH_BYTES_MAX;
            bytes += bytes_of(&entry.change);
            fits
        };
        let changes = self.changes.iter().take(changes_max);
        changes.take_while(fits).count()
    }

    /// A batch is on its way no more.
    pub(super) fn has_landed(&mut self, batch: &Arc<Batch>) {
        self.aloft.retain(|(it, _)| !Arc::ptr_eq(it, batch));
    }

    /// How many calls that add go into one batch, if several can be on their way: half of those that wait or are.
    pub(super) fn calls_max(&self) -> usize {
        let aloft: usize = self.aloft.iter().map(|(_, n_adds)| n_adds).sum();
        let n_adding = self.adds.len() + aloft;
        n_adding.div_ceil(2).max(CALLS_MIN)
    }

    /// How much has to come before a batch goes beside `last`: half as much has to wait as is in that one.
    pub(super) fn lacks_beside(&self, last: &Flight) -> usize {
        let enough = (last.len() / 2).max(1);
        let free = self.adds.len() + self.changes_free(&self.in_flight());
        enough.saturating_sub(free)
    }

    /// The tasks of which something is on its way.
    pub(super) fn in_flight(&self) -> HashSet<TaskId> {
        self.aloft.iter().flat_map(|(it, _)| ids_of(it)).collect()
    }

    /// How many of the next changes are of tasks that are not in flight.
    pub(super) fn changes_free(&self, in_flight: &HashSet<TaskId>) -> usize {
        let next = self.changes.iter().take(self.changes_of_a_batch(BATCH_MAX));
        next.filter(|entry| !in_flight.contains(&entry.change.id))
            .count()
    }

    /// Takes the first `n` changes, but for those of tasks that are in flight.
    pub(super) fn take_changes(
        &mut self,
        n: usize,
        in_flight: &HashSet<TaskId>,
    ) -> VecDeque<Entry> {
        let mut changes = first(&mut self.changes, n);
        if !in_flight.is_empty() {
            let is_free = |entry: &Entry| !in_flight.contains(&entry.change.id);
            let (free, others): (_, VecDeque<_>) = changes.into_iter().partition(is_free);
            for entry in others.into_iter().rev() {
                self.changes.push_front(entry);
            }
            changes = free;
        }
        changes
    }

    /// Takes the first lines and all progress, but for those of tasks that are in flight.
    pub(super) fn take_notes(&mut self, in_flight: &HashSet<TaskId>) -> Vec<Note> {
        let mut notes = first_of(&mut self.notes, NOTES_OF_A_BATCH);
        if !in_flight.is_empty() {
            let is_free = |note: &Note| !in_flight.contains(&note.id);
            let (free, others): (_, Vec<_>) = notes.into_iter().partition(is_free);
            self.notes.splice(0..0, others);
            notes = free;
        }
        let progress = self.progress.extract_if(|id, _| !in_flight.contains(id));
        notes.extend(progress.map(last_word));
        notes
    }

    /// Takes what is left of what attempts said that are not the last of their tasks: the next one has another epoch, and
    /// from then on it counts no more.
    pub(super) fn take_last_words(&mut self, changes: &VecDeque<Entry>, notes: &mut Vec<Note>) {
        let mut ended = changes
            .iter()
            .filter(|it| it.change.ended.is_some())
            .peekable();
        if ended.peek().is_none() {
            return;
        }
        let ids: HashSet<TaskId> = ended.map(|it| it.change.id).collect();
        notes.extend(self.notes.extract_if(.., |note| ids.contains(&note.id)));
        let progress = self.progress.extract_if(|id, _| ids.contains(id));
        notes.extend(progress.map(last_word));
    }

    /// Calls and changes that wait.
    pub(super) fn len(&self) -> usize {
        self.adds.len() + self.changes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.adds.is_empty()
            && self.changes.is_empty()
            && self.notes.is_empty()
            && self.progress.is_empty()
            && self.audit.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.writer == Writer::Nobody && self.is_empty()
    }
}

/// Takes the first `n` out of `queue`; all of them in one step, since that is what usually happens.
pub(super) fn first<T>(queue: &mut VecDeque<T>, n: usize) -> VecDeque<T> {
    if n == queue.len() {
        let same_again = VecDeque::with_capacity(n);
        std::mem::replace(queue, same_again)
    } else {
        queue.drain(..n).collect()
    }
}

/// Takes the first lines.
fn first_of(notes: &mut Vec<Note>, n: usize) -> Vec<Note> {
    if notes.len() <= n {
        std::mem::take(notes)
    } else {
        notes.drain(..n).collect()
    }
}

fn last_word((id, (epoch, progress)): (TaskId, (Epoch, Progress))) -> Note {
    Note {
        id,
        epoch,
        what: Said::Progress(progress),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use smallvec::smallvec;

    use super::{super::flight::Answers, *};
    use crate::{
        change::Outcome,
        clock::Timestamp,
        failure::{FailureKind, FailureReport},
        id::IdSource,
        retry::RetryPolicy,
    };

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);
    const MEGABYTE: usize = 1 << 20;

    fn text(bytes: usize) -> String {
        format!("{:?}", "x".repeat(bytes - 2))
    }

    pub(in super::super) fn add(ids: &IdSource, bytes: usize) -> Add {
        Add {
            tasks: smallvec![Arc::new(Task::new(ids.task(NOW), "f", text(bytes)))],
            then: Box::new(|_| Ok(Answers::new())),
            caller: oneshot::channel().0,
        }
    }

    pub(in super::super) fn end(ids: &IdSource, bytes: usize) -> Entry {
        let mut task = Task::new(ids.task(NOW), "f", "[]");
        task.life = Change::started(&task, ids.instance(NOW), NOW).unwrap().life;
        let done = Outcome::Done(Some(text(bytes).into()));
        Entry {
            change: Change::finished(&task, done, &RetryPolicy::default(), 0.0, NOW).unwrap(),
            then: Box::new(|_, _| ()),
        }
    }

    #[test]
    fn a_batch_has_so_many_tasks_or_so_many_bytes() {
        let ids = IdSource::default();
        let of = |bytes, n| {
            let mut queue = Queue::default();
            queue.adds.extend((0..n).map(|_| add(&ids, bytes)));
            queue.changes.extend((0..n).map(|_| end(&ids, bytes)));
            (queue.adds_of_a_batch(), queue.changes_of_a_batch(BATCH_MAX))
        };

        assert_eq!(of(40, 1_000), (BATCH_MAX, BATCH_MAX));
        assert_eq!(of(MEGABYTE, 20), (4, 4));
        assert_eq!(of(5 * MEGABYTE, 3), (1, 1), "at least one");
    }

    #[test]
    fn a_batch_has_no_more_new_tasks_than_it_may_take_but_one_call_goes_always() {
        let ids = IdSource::default();
        let mut queue = Queue::default();
        let mut large = add(&ids, 40);
        large.tasks = (0..40).flat_map(|_| add(&ids, 40).tasks).collect();
        queue.adds.push_back(large);
        queue.adds.extend((0..60).map(|_| add(&ids, 40)));

        assert_eq!(queue.take_adds(usize::MAX, |_| 16).len(), 1);
        assert_eq!(queue.take_adds(usize::MAX, |_| 16).len(), 16);
        assert_eq!(queue.take_adds(usize::MAX, |_| usize::MAX).len(), 44);
    }

    #[test]
    fn new_tasks_of_a_lane_that_may_have_no_more_wait_in_their_order_and_let_others_pass() {
        let ids = IdSource::default();
        let mut queue = Queue::default();
        for n in 0..30 {
            let mut add = add(&ids, 40);
            if n % 3 > 0 {
                Arc::make_mut(&mut add.tasks[0]).executor = Executor::Thread;
            }
            queue.adds.push_back(add);
        }
        let ids_of = |adds: &VecDeque<Add>| adds.iter().map(|add| add.tasks[0].id).collect();
        let all: Vec<TaskId> = ids_of(&queue.adds);

        let taken: Vec<TaskId> = ids_of(&queue.take_adds(usize::MAX, |executor| match executor {
            Executor::Async => usize::MAX,
            Executor::Thread => 1,
        }));
        let left: Vec<TaskId> = ids_of(&queue.adds);

        let passes = |n: &usize| n.is_multiple_of(3) || *n == 1;
        let wanted = (0..30).filter(passes).map(|n| all[n]);
        assert_eq!(taken, wanted.collect::<Vec<_>>());
        let others = (0..30).filter(|n| !passes(n)).map(|n| all[n]);
        assert_eq!(left, others.collect::<Vec<_>>());
    }

    #[test]
    fn all_that_is_said_of_a_failure_counts_among_the_bytes_of_a_batch() {
        let ids = IdSource::default();
        let mut queue = Queue::default();
        for _ in 0..20 {
            let mut failed = end(&ids, 2);
            let mut report = FailureReport::new(FailureKind::Panic, "on demand");
            report.backtrace = Some("x".repeat(MEGABYTE));
            failed.change.life.error = Some(Arc::new(report));
            queue.changes.push_back(failed);
        }

        assert_eq!(queue.changes_of_a_batch(BATCH_MAX), 4);
    }
}
