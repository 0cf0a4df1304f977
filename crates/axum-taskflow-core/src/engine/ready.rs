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

    /// True if a claim for this lane is worth while: something may be on disk, and there is a slot for it.
    pub(crate) fn wants(&self, executor: Executor) -> bool {
        let lane = self.lane(executor);
        lane.wants() && self.may_start()
    }

    /// What to claim; the slots are kept for that until [`Ready::end_claim`]. From now on nothing else is known to be on
    /// disk.
    pub(crate) fn begin_claim(&self, executor: Executor) -> Wish {
        let mut lane = self.lane(executor);
        lane.claiming = Some(std::mem::take(&mut lane.on_disk));
        lane.reserved = lane.idle();
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::IdSource;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

    impl Ready {
        /// How many tasks a claim asks for.
        fn wish(&self) -> usize {
            self.begin_claim(Executor::Async).limit
        }

        /// A claim has brought these, and knows of no more.
        fn bring(&self, tasks: Vec<Task>) -> Brought {
            self.end_claim(Executor::Async, tasks, None)
        }

        /// The next task to start.
        fn take(&self, executor: Executor) -> Option<Arc<Task>> {
            match self.next(executor) {
                Next::Start(task) => Some(task),
                Next::Claim | Next::Nothing => None,
            }
        }
    }

    fn task(ids: &IdSource, priority: i32) -> Task {
        let mut task = Task::new(ids.task(NOW), "f", "[]");
        task.priority = priority;
        task
    }

    fn reserved(wish: &Wish) -> (Turn, usize) {
        let reserve = wish.reserve.expect("room is kept");
        (reserve.from, reserve.n)
    }

    fn ready_with_nothing_on_disk(limit: usize) -> Ready {
        let ready = Ready::new(limit, 1, 3);
        ready.wish();
        assert_eq!(ready.bring(Vec::new()), Brought::default());
        ready
    }

    #[test]
    fn tasks_start_by_priority_then_time_then_id() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(9));
        let (mut late, low, first, second, high) = (
            task(&ids, 0),
            task(&ids, -1),
            task(&ids, 0),
            task(&ids, 0),
            task(&ids, 5),
        );
        late.life.run_at = NOW.saturating_add(Duration::from_secs(1));
        let wanted = [high.id, first.id, second.id, late.id, low.id];
        let _ = ready.bring(vec![late, low, first, second, high]);

        let order: Vec<TaskId> =
            std::iter::from_fn(|| ready.take(Executor::Async).map(|task| task.id)).collect();

        assert_eq!(order, wanted);
    }

    #[test]
    fn no_more_run_than_the_limit_and_a_freed_slot_is_used() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        let _ = ready.bring((0..3).map(|_| task(&ids, 0)).collect());

        let first = ready.take(Executor::Async).unwrap();
        assert!(ready.take(Executor::Async).is_some());
        assert!(ready.take(Executor::Async).is_none());
        ready.free_slot(&first);

        assert!(ready.take(Executor::Async).is_some());
    }

    #[test]
    fn a_full_lane_promises_nothing() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));

        let promised = [(); 5].map(|()| ready.promise(&task(&ids, 0), NOW));

        use Promise::{Nothing, Place, Slot};
        assert_eq!(promised, [Slot, Slot, Place, Place, Nothing]);
    }

    #[test]
    fn however_short_tasks_are_seven_times_as_many_wait_as_run_and_no_more() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(4));
        let short = task(&ids, 0);
        for ms in 0..8 {
            for _ in 0..100 {
                assert_eq!(ready.promise(&short, NOW), Promise::Slot);
                ready.free_slot(&short);
            }
            ready.tick(NOW.saturating_add(Duration::from_millis(ms)));
        }

        let promised = std::iter::repeat_with(|| ready.promise(&task(&ids, 0), NOW));
        let n_promised = promised.take_while(|it| *it != Promise::Nothing).count();

        assert_eq!(n_promised, 4 + 7 * 4);
    }

    #[test]
    fn a_slot_that_comes_free_during_a_claim_is_for_what_that_brings() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        let short = task(&ids, 0);
        assert_eq!(ready.promise(&short, NOW), Promise::Slot);
        ready.more_on_disk(Executor::Async);
        assert_eq!(ready.wish(), 1);

        ready.free_slot(&short);

        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Place);
    }

    #[test]
    fn short_tasks_get_more_places_than_long_ones() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(4));
        let promised = || {
            let places = std::iter::repeat_with(|| ready.promise(&task(&ids, 0), NOW));
            places.take_while(|it| *it != Promise::Nothing).count()
        };
        assert_eq!(promised(), 8);

        let mut times = (0..).map(|ms| NOW.saturating_add(Duration::from_millis(ms)));
        for now in times.by_ref().take(8) {
            (0..4).for_each(|_| ready.free_slot(&task(&ids, 0)));
            (0..4).for_each(|_| assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Slot));
            ready.tick(now);
            ready.tick(now); // no time has passed
        }
        assert_eq!(promised(), 12);
        times.take(8).for_each(|now| ready.tick(now));

        ready.break_promise(Executor::Async);
        assert_eq!(promised(), 0, "no slot came free for some time");
    }

    #[test]
    fn while_tasks_wait_on_disk_a_new_one_is_held_only_if_it_comes_before_those_held() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(10));
        let _ = ready.bring(vec![task(&ids, 3)]);
        ready.more_on_disk(Executor::Async);

        let late = ready.promise(&task(&ids, 3), NOW);
        assert_eq!(late, Promise::Nothing, "it would overtake those on disk");
        assert_eq!(ready.promise(&task(&ids, 4), NOW), Promise::Place);
    }

    #[test]
    fn new_tasks_wait_in_memory_for_what_one_claim_can_bring() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        let [old, new] = [(); 2].map(|()| task(&ids, 0));
        let wanted = [old.id, new.id];
        ready.one_more_on_disk(Executor::Async, None);

        assert_eq!(ready.promise(&new, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(new)), None);
        assert_eq!(ready.next(Executor::Async), Next::Claim, "it comes later");
        assert_eq!(ready.wish(), 2);
        let _ = ready.bring(vec![old]);

        let order: Vec<TaskId> =
            std::iter::from_fn(|| ready.take(Executor::Async).map(|task| task.id)).collect();
        assert_eq!(order, wanted);
        let first = task(&ids, 0);
        ready.free_slot(&first);
        assert_eq!(ready.promise(&first, NOW), Promise::Slot, "as at first");
    }

    #[test]
    fn new_tasks_in_memory_are_not_overtaken_by_newer_ones_on_disk() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        ready.one_more_on_disk(Executor::Async, None);
        ready.one_more_on_disk(Executor::Async, None);
        let [first, second, on_disk, last] = [(); 4].map(|()| task(&ids, 0));
        for task in [&last, &second, &first] {
            assert_eq!(ready.promise(task, NOW), Promise::Place);
            assert_eq!(ready.keep_promise(Arc::new(task.clone())), None);
        }

        let wish = ready.begin_claim(Executor::Async);
        assert_eq!(reserved(&wish), (Turn::of(&first), 3));
        let next_turn = Some(Turn::of(&on_disk));
        let _ = ready.end_claim(Executor::Async, Vec::new(), next_turn);

        for task in [&first, &second] {
            assert_eq!(ready.take(Executor::Async).unwrap().id, task.id);
            ready.free_slot(task);
        }
        assert_eq!(ready.next(Executor::Async), Next::Claim, "that one first");
        let wish = ready.begin_claim(Executor::Async);
        assert_eq!(reserved(&wish), (Turn::of(&last), 1));
    }

    #[test]
    fn a_new_task_waits_for_no_claim_that_could_bring_only_newer_ones() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        let [first, on_disk, last, also_on_disk] = [(); 4].map(|()| task(&ids, 0));
        for task in [&also_on_disk, &on_disk] {
            ready.one_more_on_disk(Executor::Async, Some(Turn::of(task)));
        }

        for task in [&last, &first] {
            assert_eq!(ready.promise(task, NOW), Promise::Place);
            assert_eq!(ready.keep_promise(Arc::new(task.clone())), None);
        }

        assert_eq!(ready.take(Executor::Async).unwrap().id, first.id);
        assert_eq!(ready.next(Executor::Async), Next::Claim, "before the last");
    }

    #[test]
    fn what_a_claim_has_left_is_known_to_come_later() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        let [early, first, on_disk, late] = [(); 4].map(|()| task(&ids, 0));
        ready.one_more_on_disk(Executor::Async, None);
        assert_eq!(ready.promise(&first, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(first.clone())), None);
        assert_eq!(ready.wish(), 2);
        let next_turn = Some(Turn::of(&on_disk));
        let _ = ready.end_claim(Executor::Async, Vec::new(), next_turn);
        assert_eq!(ready.take(Executor::Async).unwrap().id, first.id);

        for task in [&early, &late] {
            assert_eq!(ready.promise(task, NOW), Promise::Place);
            assert_eq!(ready.keep_promise(Arc::new(task.clone())), None);
        }

        assert_eq!(ready.take(Executor::Async).unwrap().id, early.id);
        ready.free_slot(&early);
        assert_eq!(ready.next(Executor::Async), Next::Claim, "before the last");
    }

    #[test]
    fn a_new_task_is_not_overtaken_by_what_others_leave_for_ever() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(4));
        let new = task(&ids, 0);
        ready.others_left(Executor::Async);
        assert_eq!(ready.promise(&new, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(new.clone())), None);

        // There is always more than a claim can bring, and it is newer.
        let wish = ready.begin_claim(Executor::Async);
        assert_eq!(reserved(&wish), (Turn::of(&new), 1));
        let found = [(); 3].map(|()| task(&ids, 0)).to_vec();
        let next_turn = Some(Turn::of(&task(&ids, 0)));
        let _ = ready.end_claim(Executor::Async, found, next_turn);

        assert_eq!(ready.take(Executor::Async).unwrap().id, new.id);
        assert!(ready.lane(Executor::Async).on_disk.n > 0, "there is more");
    }

    #[test]
    fn a_task_that_was_taken_from_us_keeps_no_claim_going() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(1));
        let lost = task(&ids, 0);
        ready.more_on_disk(Executor::Async);
        ready.lane(Executor::Async).promised += 1;
        assert_eq!(ready.keep_promise(Arc::new(lost.clone())), None);

        let wish = ready.begin_claim(Executor::Async);
        assert_eq!(reserved(&wish), (Turn::of(&lost), 1));
        let next_turn = Some(Turn::of(&lost)); // nobody's now
        let _ = ready.end_claim(Executor::Async, Vec::new(), next_turn);

        assert_eq!(ready.take(Executor::Async).unwrap().id, lost.id);
    }

    #[test]
    fn a_new_task_that_comes_first_waits_for_no_more_than_the_claim_under_way() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        ready.one_more_on_disk(Executor::Async, None);
        assert_eq!(ready.wish(), 2);
        let high = task(&ids, 1);
        assert_eq!(ready.promise(&high, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(high.clone())), None);

        let _ = ready.bring([(); 2].map(|()| task(&ids, 0)).to_vec());

        assert_eq!(ready.take(Executor::Async).unwrap().id, high.id);
    }

    #[test]
    fn a_claim_that_found_the_end_frees_new_tasks_although_more_was_left_meanwhile() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(4));
        let new = task(&ids, 0);
        ready.others_left(Executor::Async);
        assert_eq!(ready.promise(&new, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(new.clone())), None);

        ready.wish();
        ready.others_left(Executor::Async);
        let _ = ready.bring(Vec::new());

        assert_eq!(ready.take(Executor::Async).unwrap().id, new.id);
    }

    #[test]
    fn a_hint_of_others_sends_no_new_task_to_disk_until_a_claim_has_found_many() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(4));
        let promised = || ready.promise(&task(&ids, 0), NOW);
        ready.others_left(Executor::Async);

        assert_eq!(promised(), Promise::Place);
        assert_eq!(ready.next(Executor::Async), Next::Claim);
        assert_eq!(ready.wish(), 4);
        let found = [(); 4].map(|()| task(&ids, 0)).to_vec();
        let _ = ready.bring(found);

        assert_eq!(promised(), Promise::Nothing, "there may be many more");
    }

    #[test]
    fn what_is_left_for_another_claim_comes_before_new_tasks() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(4));
        let running = [(); 3].map(|()| {
            assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Slot);
        });
        assert_eq!(running.len(), 3);
        let [old, older, new] = [(); 3].map(|()| task(&ids, 0));
        ready.one_more_on_disk(Executor::Async, None);
        ready.one_more_on_disk(Executor::Async, None);
        assert_eq!(ready.promise(&new, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(new.clone())), None);

        assert_eq!(ready.wish(), 1);
        let _ = ready.bring(vec![older.clone()]);
        assert_eq!(ready.take(Executor::Async).unwrap().id, older.id);
        ready.free_slot(&older);
        assert_eq!(ready.next(Executor::Async), Next::Claim);
        assert_eq!(ready.wish(), 1);
        let _ = ready.bring(vec![old.clone()]);
        assert_eq!(ready.take(Executor::Async).unwrap().id, old.id);
        ready.free_slot(&old);
        assert_eq!(ready.next(Executor::Async), Next::Claim, "is there more?");
        ready.wish();
        let _ = ready.bring(Vec::new());

        assert_eq!(ready.take(Executor::Async).unwrap().id, new.id);
    }

    #[test]
    fn a_new_task_does_not_overtake_what_is_being_claimed() {
        let (ids, ready) = (IdSource::default(), Ready::new(10, 1, 3));
        let (claimed, new) = (task(&ids, 0), task(&ids, 0));
        let wanted = [claimed.id, new.id];

        let n = ready.wish();
        assert_eq!(n, 10);
        assert_eq!(ready.promise(&new, NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(new)), None);
        assert_eq!(ready.take(Executor::Async), None);
        let _ = ready.bring(vec![claimed]);

        let order: Vec<TaskId> =
            std::iter::from_fn(|| ready.take(Executor::Async).map(|task| task.id)).collect();
        assert_eq!(order, wanted);
        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Slot);
    }

    #[test]
    fn slots_are_kept_for_what_a_claim_brings() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(3));
        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Slot);
        ready.more_on_disk(Executor::Async);
        let mut begun = task(&ids, 0);
        begun.life.status = TaskStatus::Running;

        assert_eq!(ready.wish(), 2);
        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Place);
        assert_eq!(ready.keep_promise(Arc::new(task(&ids, 0))), None);
        let brought = ready.bring(vec![begun.clone()]);

        assert_eq!(brought.begun, [begun]);
        assert!(ready.take(Executor::Async).is_some(), "one slot was left");
        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Place);
    }

    #[test]
    fn what_a_claim_brings_after_stop_comes_back() {
        let (ids, ready) = (IdSource::default(), Ready::new(2, 1, 3));
        let mut begun = task(&ids, 0);
        begun.life.status = TaskStatus::Running;
        ready.wish();
        let _nothing = ready.stop();

        let brought = ready.bring(vec![begun, task(&ids, 0)]);

        assert_eq!((brought.begun.len(), brought.given_back.len()), (0, 2));
        assert_eq!(ready.n_running(), 0);
    }

    #[test]
    fn a_task_that_comes_first_displaces_the_last_one_of_a_full_lane() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(1));
        let (low, lower) = (task(&ids, 2), task(&ids, 1));
        let lower_id = lower.id;
        let _ = ready.bring(vec![task(&ids, 3), low, lower]);
        let high = task(&ids, 9);

        assert_eq!(ready.promise(&high, NOW), Promise::Place);
        let displaced = ready.keep_promise(Arc::new(high.clone())).unwrap();

        assert_eq!(displaced.id, lower_id);
        assert_eq!(ready.take(Executor::Async).unwrap().id, high.id);
        ready.free_slot(&high);
        let third = ready.take(Executor::Async).unwrap();
        ready.free_slot(&third);
        let low = ready.take(Executor::Async).unwrap();
        ready.free_slot(&low);
        assert!(ready.wants(Executor::Async), "and it is looked for on disk");
        assert_eq!(ready.next(Executor::Async), Next::Claim);
    }

    #[test]
    fn of_tasks_that_one_more_crash_would_fail_one_runs_at_a_time() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(9));
        let crashed = |times| {
            let mut task = task(&ids, 0);
            task.life.crashes = times;
            task
        };
        let tasks = [2, 2, 1, 0].map(crashed);
        let [first, second, once, never] = tasks.each_ref().map(|task| task.id);
        let _ = ready.bring(tasks.to_vec());

        let began: Vec<TaskId> =
            std::iter::from_fn(|| ready.take(Executor::Async).map(|task| task.id)).collect();
        ready.free_slot(&tasks[2]);
        let none = ready.take(Executor::Async);
        ready.free_slot(&tasks[0]);
        let next = ready.take(Executor::Async);

        assert_eq!(began, [first, once, never]);
        assert_eq!(none, None);
        assert_eq!(next.unwrap().id, second);
    }

    #[test]
    fn where_one_crash_is_one_too_many_those_that_had_none_run_side_by_side() {
        let (ids, ready) = (IdSource::default(), Ready::new(9, 1, 1));
        let _ = ready.bring(vec![task(&ids, 0), task(&ids, 0)]);

        assert!(ready.take(Executor::Async).is_some());
        assert!(ready.take(Executor::Async).is_some());
    }

    #[test]
    fn suspects_that_were_given_back_or_forgotten_leave_no_place_behind() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(1));
        let suspects = std::iter::repeat_with(|| {
            let mut task = task(&ids, 0);
            task.life.crashes = 2;
            task
        });
        let _ = ready.bring(suspects.take(4).collect());
        let first = task(&ids, 9);
        assert_eq!(ready.promise(&first, NOW), Promise::Place);

        let given_back = ready.keep_promise(Arc::new(first));

        assert_eq!(given_back.unwrap().life.crashes, 2);
        assert!(!ready.wants(Executor::Async), "the first fills the slot");
        assert_eq!(ready.forget().len(), 4);
        assert_eq!(ready.wish(), 1);
    }

    #[test]
    fn suspects_that_wait_for_each_other_leave_free_slots_to_others() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(3));
        let suspects = std::iter::repeat_with(|| {
            let mut task = task(&ids, 0);
            task.life.crashes = 2;
            task
        });
        let _ = ready.bring(suspects.take(3).collect());
        assert!(ready.take(Executor::Async).is_some());
        ready.more_on_disk(Executor::Async);

        assert!(ready.take(Executor::Async).is_none(), "one at a time");
        assert!(ready.wants(Executor::Async));
        assert_eq!(ready.wish(), 2);
        let other = task(&ids, 0);
        let _ = ready.bring(vec![other.clone()]);
        assert_eq!(
            ready.take(Executor::Async).map(|task| task.id),
            Some(other.id)
        );
    }

    #[test]
    fn of_suspects_in_both_lanes_one_runs_at_a_time() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(9));
        let mut one = task(&ids, 0);
        one.life.crashes = 2;
        let mut other = task(&ids, 0);
        other.life.crashes = 2;
        other.executor = Executor::Thread;
        let _ = ready.bring(vec![one.clone()]);
        let _ = ready.end_claim(Executor::Thread, vec![other.clone()], None);

        let first = ready.take(Executor::Async);
        let beside = ready.take(Executor::Thread);
        ready.free_slot(&one);
        let next = ready.take(Executor::Thread);

        assert_eq!(first.unwrap().id, one.id);
        assert_eq!(beside, None);
        assert_eq!(next.unwrap().id, other.id);
    }

    #[test]
    fn a_task_of_the_future_is_not_held() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(10));
        let mut later = task(&ids, 0);
        later.life.run_at = NOW.saturating_add(Duration::from_millis(1));

        assert_eq!(ready.promise(&later, NOW), Promise::Nothing);
    }

    #[test]
    fn nothing_starts_after_stop_and_what_was_held_comes_back() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(2));
        let _ = ready.bring(vec![task(&ids, 0)]);

        let held = ready.stop();

        assert_eq!(held.len(), 1);
        assert!(ready.take(Executor::Async).is_none());
        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Nothing);
    }

    #[test]
    fn a_new_task_that_is_stored_after_stop_comes_back() {
        let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(1));
        assert_eq!(ready.promise(&task(&ids, 0), NOW), Promise::Slot);
        let next = Arc::new(task(&ids, 0));
        assert_eq!(ready.promise(&next, NOW), Promise::Place);

        let held = ready.stop();

        assert!(held.is_empty(), "it is not stored yet");
        assert_eq!(ready.keep_promise(next.clone()), Some(next));
    }
}
