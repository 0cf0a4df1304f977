//! Which tasks this instance holds in memory, and in which order they start.
//!
//! A lane for async functions and one for plain functions, each with its own limit. A lane holds what runs and a
//! little that is ready to follow; everything else waits on disk and costs no memory. What is held comes before what
//! is on disk. While something waits there, a new task has to wait behind it: in memory if it is little, on disk
//! otherwise.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{
    backend::{Reserve, Turn},
    clock::Timestamp,
    id::TaskId,
    status::TaskStatus,
    task::{Executor, Task},
};

pub(crate) struct Ready {
    lanes: [Mutex<Lane>; 2],
    /// The suspect that runs, in whichever lane. A std mutex: held for one look, and inside that of a lane only.
    suspect: Mutex<Option<TaskId>>,
    /// The next crash is the last one that a task survives: from then on it runs with no other suspect beside it.
    crashes_max: u32,
    /// No task starts any more. An atomic: read for each task, set once.
    stopped: AtomicBool,
    /// No task starts until the others are known to take this instance for alive. An atomic, as above.
    paused: AtomicBool,
    /// A slot came free after [`Ready::stop`].
    idle: Notify,
}

/// Suspects that are held beside what has slots // more: they take the slots of others, and no more are claimed
const SUSPECTS_MAX: usize = 16;

/// While a lane starves, a batch takes one new task of it for so many of its slots: some batches are written while a claim
/// fills all, and fewer are to come than go.
const STARVING_SHARE: usize = 8;
/// But so many at least: with few slots it may be the way to the store that is long, and the store has time.
const STARVING_ADDS_MIN: usize = 4;

/// Nobody knows how many tasks are on disk.
const UNKNOWN: usize = usize::MAX;

/// Tasks that could run and wait on disk, as far as a lane knows.
#[derive(Default)]
struct OnDisk {
    /// As many were left there since a claim found no more, or [`UNKNOWN`].
    n: usize,
    /// No turn there comes before that, if it is known.
    first: Option<Turn>,
    /// Other instances may have left tasks there, too.
    others_left: bool,
}

impl OnDisk {
    fn unknown() -> Self {
        Self {
            n: UNKNOWN,
            ..Self::default()
        }
    }

    fn add(&mut self, more: Self) {
        self.first = match (self.n, more.n) {
            (0, _) => more.first,
            (_, 0) => self.first,
            _ => self.first.and_then(|first| Some(first.min(more.first?))),
        };
        self.n = self.n.saturating_add(more.n);
        self.others_left |= more.others_left;
    }

    /// True if something there may come before a task.
    fn may_come_before(&self, task: &Task) -> bool {
        self.n > 0 && self.first.is_none_or(|first| first < Turn::of(task))
    }
}

/// A std mutex around each: held for one step of a heap.
struct Lane {
    held: BTreeMap<Turn, Arc<Task>>,
    /// Places promised to tasks that are being stored.
    promised: usize,
    running: usize,
    /// Slots for what a claim brings.
    reserved: usize,
    limit: usize,
    on_disk: OnDisk,
    /// A claim is under way, and so it stood before. What it brings comes before new tasks.
    claiming: Option<OnDisk>,
    /// Those that run whose start is being stored.
    starting: usize,
    /// New tasks that come after those on disk. They are stored as ours all the same: otherwise a lane that was full
    /// once would go on writing each task there and claiming it for as long as tasks are added.
    late: Vec<Arc<Task>>,
    /// Those of `held` that one more crash would fail.
    suspects: usize,
    /// Slots that came free since the last tick, and how many that is from one tick to the next.
    freed: usize,
    pace: usize,
    ticked_at: Timestamp,
}

impl Lane {
    /// Suspects that are held may have to wait for another one, which must not keep others from free slots.
    fn n_held(&self) -> usize {
        self.held.len() - self.suspects.min(SUSPECTS_MAX)
    }

    /// Places that nobody has.
    fn free(&self) -> usize {
        let taken = self.running + self.reserved + self.n_held() + self.late.len() + self.promised;
        self.places().saturating_sub(taken)
    }

    /// True if it starts before something that is held.
    fn comes_first(&self, task: &Task) -> bool {
        let last = self.held.last_key_value();
        last.is_some_and(|(last, _)| Turn::of(task) < *last)
    }

    /// Slots that nothing will fill that comes before what is on disk.
    fn idle(&self) -> usize {
        self.limit
            .saturating_sub(self.running + self.reserved + self.n_held())
    }

    /// Something may be on disk, and there is a slot for it.
    fn wants(&self) -> bool {
        self.on_disk.n > 0 && self.idle() > 0
    }

    /// Tasks wait, and some slots for nothing but the store: for a claim, or for starts to be stored. So it is the store that
    /// keeps tasks from running, and not those that run.
    fn starves(&self) -> bool {
        let n_before = self.claiming.as_ref().map_or(0, |before| before.n);
        let n_in_memory = self.held.len() + self.late.len() + self.promised;
        let is_behind = n_in_memory > 0 || self.on_disk.n.max(n_before) > self.limit;
        is_behind && self.reserved + self.starting >= self.share()
    }

    fn share(&self) -> usize {
        (self.limit / STARVING_SHARE).max(1)
    }

    /// True if what is on disk can be brought by one claim: then new tasks wait for that, and in memory.
    fn has_little_on_disk(&self) -> bool {
        self.on_disk.n <= self.limit
    }

    /// As many again as may run. More if tasks are short: what ends within a few writes to the store is not worth a
    /// way over the disk. Tasks that are long lie on disk, where others can take them.
    fn places(&self) -> usize {
        2 * self.limit + (4 * self.pace).min(6 * self.limit)
    }
}

/// What a new task may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// A slot: it starts as soon as it is stored.
    Slot,
    /// A place among those that are held.
    Place,
    /// It waits on disk, for any instance.
    Nothing,
}

/// What a lane wants of the store.
#[derive(Debug, PartialEq)]
pub(crate) struct Wish {
    pub(crate) limit: usize,
    /// For new tasks that wait for this claim.
    pub(crate) reserve: Option<Reserve>,
}

/// What to do with a free slot.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Start this task, which has it.
    Start(Arc<Task>),
    /// Claim tasks: nothing is held that could start.
    Claim,
    /// Leave it, or there is none.
    Nothing,
}

/// What a claim brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Brought {
    /// Have a slot.
    pub(crate) begun: Vec<Task>,
    /// Have none.
    pub(crate) given_back: Vec<Arc<Task>>,
}

impl Ready {
    pub(crate) fn new(limit_async: usize, limit_thread: usize, crashes_max: u32) -> Self {
        let lane = |limit| {
            Mutex::new(Lane {
                held: BTreeMap::new(),
                promised: 0,
                running: 0,
                reserved: 0,
                limit,
                on_disk: OnDisk::unknown(),
                claiming: None,
                starting: 0,
                late: Vec::new(),
                suspects: 0,
                freed: 0,
                pace: 0,
                ticked_at: Timestamp::default(),
            })
        };
        Self {
            lanes: [lane(limit_async), lane(limit_thread)],
            suspect: Mutex::default(),
            crashes_max,
            stopped: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// What a new task may expect. A slot is taken at once: the task is stored as one that has begun.
    pub(crate) fn promise(&self, task: &Task, now: Timestamp) -> Promise {
        if task.life.run_at > now || !self.may_start() {
            return Promise::Nothing;
        }
        let mut lane = self.lane(task.executor);
        let is_next = lane.held.is_empty() && lane.on_disk.n == 0 && lane.claiming.is_none();
        if lane.running + lane.reserved < lane.limit && is_next {
            lane.running += 1;
            return Promise::Slot;
        }
        if lane.comes_first(task) || (lane.free() > 0 && lane.has_little_on_disk()) {
            lane.promised += 1;
            return Promise::Place;
        }
        Promise::Nothing
    }

    /// A task with a place was stored. Gives one back if that makes too many, the last one, or this one after
    /// [`Ready::stop`].
    #[must_use]
    pub(crate) fn keep_promise(&self, task: Arc<Task>) -> Option<Arc<Task>> {
        let mut lane = self.lane(task.executor);
        lane.promised -= 1;
        if !self.may_start() {
            return Some(task);
        }
        if lane.claiming.is_some()
            || (lane.on_disk.may_come_before(&task) && !lane.comes_first(&task))
        {
            lane.late.push(task);
            return None;
        }
        lane.held.insert(Turn::of(&task), task);
        // A claim may have brought more than there are places.
        if lane.running + lane.held.len() <= lane.places() + lane.limit {
            return None;
        }
        let (turn, last) = lane.held.pop_last()?;
        lane.on_disk.add(OnDisk {
            n: 1,
            first: Some(turn),
            others_left: false,
        });
        lane.suspects -= usize::from(self.is_suspect(&last));
        Some(last)
    }

    /// A task with a place was not stored.
    pub(crate) fn break_promise(&self, executor: Executor) {
        self.lane(executor).promised -= 1;
    }

    /// Remembers that tasks which could run may wait on disk, nobody knows how many.
    pub(crate) fn more_on_disk(&self, executor: Executor) {
        self.lane(executor).on_disk.add(OnDisk::unknown());
    }

    /// Remembers that another instance has left a task which could run. Of many it is the first claim that knows.
    pub(crate) fn others_left(&self, executor: Executor) {
        let mut lane = self.lane(executor);
        lane.on_disk = OnDisk {
            n: lane.on_disk.n.max(1),
            first: None,
            others_left: true,
        };
    }

    /// Remembers that one more task which could run waits on disk, and its turn if that is known.
    pub(crate) fn one_more_on_disk(&self, executor: Executor, turn: Option<Turn>) {
        self.lane(executor).on_disk.add(OnDisk {
            n: 1,
            first: turn,
            others_left: false,
        });
    }

    /// How many new tasks of a lane a batch may take. While it starves they are few: each of them would go the way over the
    /// disk, too, and what is spent on it is missing for those that wait there.
    pub(crate) fn adds_max(&self, executor: Executor) -> usize {
        let lane = self.lane(executor);
        match lane.starves() && self.may_start() {
            true => lane.share().max(STARVING_ADDS_MIN),
            false => usize::MAX,
        }
    }

    /// True if a claim for this lane is worth while: something may be on disk, and there is a slot for it.
    pub(crate) fn wants(&self, executor: Executor) -> bool {
        let lane = self.lane(executor);
        lane.wants() && self.may_start()
    }

    /// What to claim; the slots are kept for that until [`Ready::end_claim`]. From now on nothing else is known to be on
    /// disk.
    pub(crate) fn begin_claim(&self, executor: Executor) -> Wish {
        let mut lane = self.lane(executor);
        lane.reserved = lane.idle();
        lane.claiming = Some(std::mem::take(&mut lane.on_disk));
        let first_late = lane.late.iter().map(|task| Turn::of(task)).min();
        Wish {
            limit: lane.reserved,
            reserve: first_late.map(|from| Reserve {
                from,
                n: lane.late.len(),
            }),
        }
    }

    /// Tasks were claimed, all that come before `next` unless as many as were asked for. Those that have begun get a slot,
    /// the others a place. After [`Ready::stop`] or [`Ready::pause`] all are given back.
    pub(crate) fn end_claim(
        &self,
        executor: Executor,
        tasks: Vec<Task>,
        next: Option<Turn>,
    ) -> Brought {
        let mut lane = self.lane(executor);
        let (before, limit) = (lane.claiming.take(), std::mem::take(&mut lane.reserved));
        let is_full = tasks.len() == limit;
        // All of them that come before that have been brought.
        let up_to = match is_full {
            true => tasks.iter().map(Turn::of).max(),
            false => next,
        };
        if is_full || next.is_some() {
            let before = before.unwrap_or_else(OnDisk::unknown);
            let is_large = 2 * limit >= lane.limit;
            let rest = match is_full && before.others_left && is_large {
                true => UNKNOWN,
                false => before.n.saturating_sub(tasks.len()).max(1),
            };
            lane.on_disk.add(OnDisk {
                n: rest,
                first: up_to.or(before.first),
                others_left: before.others_left,
            });
        }
        if !self.may_start() {
            let late = std::mem::take(&mut lane.late);
            let given_back = tasks.into_iter().map(Arc::new).chain(late).collect();
            return Brought {
                given_back,
                begun: Vec::new(),
            };
        }
        let comes_next = |task: &Arc<Task>| match up_to {
            Some(turn) => Turn::of(task) <= turn, // the same: it was taken from us
            None => !is_full,
        };
        let (begun, waiting): (Vec<Task>, Vec<Task>) = tasks
            .into_iter()
            .partition(|task| task.life.status == TaskStatus::Running);
        lane.running += begun.len();
        lane.suspects += waiting.iter().filter(|task| self.is_suspect(task)).count();
        let waiting = waiting.into_iter().map(Arc::new);
        lane.held
            .extend(waiting.map(|task| (Turn::of(&task), task)));
        let joining: Vec<Arc<Task>> = lane.late.extract_if(.., |task| comes_next(task)).collect();
        lane.held
            .extend(joining.into_iter().map(|task| (Turn::of(&task), task)));
        Brought {
            begun,
            given_back: Vec::new(),
        }
    }

    /// What to do with a free slot, if there is one. That of a task to start is taken.
    pub(crate) fn next(&self, executor: Executor) -> Next {
        if !self.may_start() {
            return Next::Nothing;
        }
        let mut lane = self.lane(executor);
        match self.take_from(&mut lane) {
            Some(task) => Next::Start(task),
            None if lane.wants() => Next::Claim,
            None => Next::Nothing,
        }
    }

    fn take_from(&self, lane: &mut Lane) -> Option<Arc<Task>> {
        if lane.running + lane.reserved >= lane.limit {
            return None;
        }
        let mut suspect = self.suspect();
        let may_start = |task: &&Arc<Task>| !(suspect.is_some() && self.is_suspect(task));
        let turn = Turn::of(lane.held.values().find(may_start)?);
        let task = lane.held.remove(&turn)?;
        if self.is_suspect(&task) {
            *suspect = Some(task.id);
            lane.suspects -= 1;
        }
        lane.running += 1;
        Some(task)
    }

    /// True if one more crash fails the task: it may be what kills processes.
    fn is_suspect(&self, task: &Task) -> bool {
        task.life.crashes > 0 && task.life.crashes.saturating_add(1) >= self.crashes_max
    }

    /// The start of a task that has a slot is on its way to the store.
    pub(crate) fn begin_start(&self, executor: Executor) {
        self.lane(executor).starting += 1;
    }

    /// The store has answered.
    pub(crate) fn end_start(&self, executor: Executor) {
        self.lane(executor).starting -= 1;
    }

    /// Gives a task's slot back.
    pub(crate) fn free_slot(&self, task: &Task) {
        let mut lane = self.lane(task.executor);
        lane.running -= 1;
        lane.freed += 1;
        drop(lane);
        if self.is_suspect(task) {
            self.suspect().take_if(|suspect| *suspect == task.id);
        }
        if self.stopped.load(Ordering::Acquire) {
            self.idle.notify_waiters();
        }
    }

    /// A batch was stored: the measure of what is short. At most once in a millisecond: a store in memory is fast.
    pub(crate) fn tick(&self, now: Timestamp) {
        for executor in [Executor::Async, Executor::Thread] {
            let mut lane = self.lane(executor);
            if std::mem::replace(&mut lane.ticked_at, now) != now {
                lane.pace = (lane.pace + std::mem::take(&mut lane.freed)) / 2;
            }
        }
    }

    fn may_start(&self) -> bool {
        !self.stopped.load(Ordering::Acquire) && !self.is_paused()
    }

    /// True from [`Ready::pause`] to [`Ready::go_on`].
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// No task starts until [`Ready::go_on`]. Gives back what was held.
    pub(crate) fn pause(&self) -> Vec<Arc<Task>> {
        self.paused.store(true, Ordering::Release);
        self.forget()
    }

    pub(crate) fn go_on(&self) {
        self.paused.store(false, Ordering::Release);
    }

    /// No task starts from now on. Gives back what was held.
    pub(crate) fn stop(&self) -> Vec<Arc<Task>> {
        self.stopped.store(true, Ordering::Release);
        self.forget()
    }

    /// Forgets what was held: it belongs to somebody else.
    pub(crate) fn forget(&self) -> Vec<Arc<Task>> {
        [Executor::Async, Executor::Thread]
            .into_iter()
            .flat_map(|executor| {
                let mut lane = self.lane(executor);
                lane.suspects = 0;
                let held = std::mem::take(&mut lane.held).into_values();
                held.chain(std::mem::take(&mut lane.late))
            })
            .collect()
    }

    /// Returns once nothing runs. After [`Ready::stop`].
    pub(crate) async fn all_done(&self) {
        loop {
            let idle = self.idle.notified();
            if self.n_running() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Returns when a slot has come free since this was called. After [`Ready::stop`].
    pub(crate) fn freed(&self) -> impl Future<Output = ()> + '_ {
        self.idle.notified()
    }

    fn n_running(&self) -> usize {
        self.lane(Executor::Async).running + self.lane(Executor::Thread).running
    }

    fn suspect(&self) -> MutexGuard<'_, Option<TaskId>> {
        self.suspect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, executor: Executor) -> MutexGuard<'_, Lane> {
        let lane = match executor {
            Executor::Async => &self.lanes[0],
            Executor::Thread => &self.lanes[1],
        };
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
