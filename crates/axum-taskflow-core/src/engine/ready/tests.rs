//! In which order tasks start, who may wait in memory, and what is left on disk.

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

#[test]
fn while_slots_wait_for_a_claim_and_much_is_on_disk_a_batch_takes_few_new_tasks() {
    let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(16));
    let begun = || {
        let mut task = task(&ids, 0);
        task.life.status = TaskStatus::Running;
        task
    };
    for _ in 0..16 {
        ready.one_more_on_disk(Executor::Async, None);
    }
    assert_eq!(ready.wish(), 16);
    assert_eq!(
        ready.adds_max(Executor::Async),
        usize::MAX,
        "this claim brings all of them"
    );
    ready.bring(Vec::new());

    ready.more_on_disk(Executor::Async);
    assert_eq!(
        ready.adds_max(Executor::Async),
        usize::MAX,
        "nobody has asked yet"
    );
    assert_eq!(ready.wish(), 16);
    assert_eq!(ready.adds_max(Executor::Async), 4, "the claim is under way");
    let brought = ready.bring((0..16).map(|_| begun()).collect());
    assert_eq!(
        ready.adds_max(Executor::Async),
        usize::MAX,
        "it is the tasks that have the slots"
    );

    ready.free_slot(&brought.begun[0]);
    assert_eq!(ready.wish(), 1);
    assert_eq!(
        ready.adds_max(Executor::Async),
        usize::MAX,
        "the others run"
    );
    ready.bring(Vec::new());
}

#[test]
fn while_many_starts_are_being_stored_and_others_wait_a_batch_takes_few_new_tasks() {
    let (ids, ready) = (IdSource::default(), ready_with_nothing_on_disk(16));
    let now = NOW;
    for _ in 0..2 {
        assert_eq!(ready.promise(&task(&ids, 0), now), Promise::Slot);
        ready.begin_start(Executor::Async);
    }
    assert_eq!(
        ready.adds_max(Executor::Async),
        usize::MAX,
        "nobody waits for a slot"
    );
    for _ in 2..16 {
        assert_eq!(ready.promise(&task(&ids, 0), now), Promise::Slot);
    }
    let next = Arc::new(task(&ids, 0));
    assert_eq!(ready.promise(&next, now), Promise::Place);
    assert_eq!(ready.adds_max(Executor::Async), 4, "that is to be stored");
    assert!(ready.keep_promise(next).is_none());
    assert_eq!(ready.adds_max(Executor::Async), 4, "and waits");

    ready.end_start(Executor::Async);

    assert_eq!(
        ready.adds_max(Executor::Async),
        usize::MAX,
        "one start is being stored"
    );
}

#[test]
fn a_lane_that_starves_takes_four_new_tasks_if_it_has_few_slots_and_as_many_as_come_once_it_stops()
{
    let ready = Ready::new(64, 1, 3);
    let adds_max = || [Executor::Async, Executor::Thread].map(|of| ready.adds_max(of));
    ready.begin_claim(Executor::Thread);
    assert_eq!(adds_max(), [usize::MAX, 4], "the other one does not");
    ready.begin_claim(Executor::Async);
    assert_eq!(adds_max(), [8, 4]);

    assert!(ready.stop().is_empty());

    assert_eq!(adds_max(), [usize::MAX; 2]);
}
