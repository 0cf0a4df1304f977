//! Forged histories: the checker finds every broken promise in them, and none where none is broken.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use axum_taskflow::{Change, Epoch, IdSource, Outcome, RetryPolicy, Timestamp};
use fastrand::Rng;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

fn at(us: u64) -> Moment {
    Moment {
        mono_us: us,
        wall_us: wall_us(NOW) + us,
    }
}

fn effect(task: &Task, pid: u32, epoch: u32, us: u64, what: &str) -> Effect {
    Effect {
        id: task.id,
        attempt: 1,
        epoch,
        pid,
        at: at(us),
        what: what.to_owned(),
        label: "0".to_owned(),
    }
}

fn errand(n: u64) -> Errand {
    Errand {
        n,
        ..Errand::draw(n, 0, &mut Rng::with_seed(0))
    }
}

fn alive(pid: u32) -> Life {
    Life {
        pid,
        from: at(0),
        told: None,
        gone: None,
    }
}

fn gone(pid: u32, us: u64, how: Gone) -> Life {
    Life {
        told: (how != Gone::Fell).then(|| at(us)),
        gone: Some((at(us), how)),
        ..alive(pid)
    }
}

fn pause(pid: u32, from: u64, until: u64) -> Pause {
    Pause {
        pid: Some(pid),
        from: at(from),
        until: at(until),
    }
}

/// Errand 0, accepted, which ran once in process 1, from 10 to 20, and succeeded.
fn good() -> History {
    let ids = IdSource::default();
    let args = format!("[{}]", serde_json::to_string(&errand(0)).unwrap());
    let mut task = Task::new(ids.task(NOW), "f", args);
    task.life = Change::started(&task, ids.instance(NOW), NOW).unwrap().life;
    let done = Outcome::Done(None);
    let end = Change::finished(&task, done, &RetryPolicy::default(), 0.0, NOW).unwrap();
    task.life = end.life;
    History {
        errands: [(0, errand(0))].into(),
        accepted: vec![(0, task.id)],
        lives: vec![alive(1), alive(2)],
        effects: vec![
            effect(&task, 1, 1, 10, "began"),
            effect(&task, 1, 1, 20, "ended"),
        ],
        stored: vec![task],
        ..History::default()
    }
}

/// The same, and it may be repeated and begins once more in process 2 at 15, while process 1 runs it.
fn twice() -> History {
    let mut history = good();
    let task = &mut history.stored[0];
    task.requeue_on_interrupt = true;
    task.life.epoch = Epoch::from_u32(2);
    history.effects[1] = effect(task, 2, 2, 15, "began");
    history.effects.push(effect(task, 2, 2, 30, "ended"));
    history
}

/// The same, and process 1 was dead by then.
fn taken_over() -> History {
    let mut history = twice();
    history.lives[0] = gone(1, 12, Gone::Killed);
    history
}

/// It began in process 1, which was killed at 12, and was interrupted by somebody else so long after.
fn interrupted(ms_later: u64) -> History {
    let mut history = good();
    let task = &mut history.stored[0];
    task.life.status = TaskStatus::Running;
    let later = NOW.saturating_add(Duration::from_millis(ms_later));
    task.life = Change::interrupted(task, BY_DEATH, later).unwrap().life;
    history.effects.truncate(1);
    history.lives[0] = gone(1, 12, Gone::Killed);
    history
}

fn broken(history: &History) -> Vec<&'static str> {
    let report = check(history);
    report.violations.iter().map(|it| it.promise).collect()
}

fn keeps_all(history: &History) {
    assert_eq!(check(history).violations, []);
}

#[test]
fn what_went_well_breaks_no_promise() {
    keeps_all(&good());
    keeps_all(&taken_over());
    keeps_all(&interrupted(300));
}

#[test]
fn an_accepted_task_that_is_not_stored_is_lost() {
    let mut history = good();
    history.stored.clear();
    history.effects.clear();

    assert_eq!(broken(&history), ["P1"]);
    assert_eq!(check(&history).lost, 1);
}

#[test]
fn a_task_that_ran_and_is_not_stored_breaks_p1() {
    let mut history = good();
    history.stored.clear();
    history.accepted.clear();

    assert_eq!(broken(&history), ["P1"]);
}

#[test]
fn a_task_that_never_ends_and_a_success_that_never_ran_break_p1() {
    let mut waits = good();
    waits.stored[0].life.status = TaskStatus::Pending;
    let mut never_ran = good();
    never_ran.effects.clear();
    let mut failed = good();
    failed.stored[0].life.status = TaskStatus::Failed;

    assert_eq!(broken(&waits), ["P1"]);
    assert_eq!(broken(&never_ran), ["P1"]);
    assert_eq!(broken(&failed), ["P1"]);
}

#[test]
fn an_order_that_became_another_one_breaks_p1() {
    let mut history = good();
    history.accepted[0].0 = 7;

    assert_eq!(broken(&history), ["P1"]);
}

#[test]
fn an_interruption_without_a_death_breaks_p1() {
    let mut lived = interrupted(300);
    lived.lives[0] = alive(1);
    // At the end of the laboratory all are told to end; what was interrupted before that was so for no reason.
    let mut ended_later = interrupted(300);
    ended_later.lives[0] = gone(1, 900_000, Gone::Ended);

    assert_eq!(broken(&lived), ["P1"]);
    assert_eq!(broken(&ended_later), ["P1"]);
}

#[test]
fn two_processes_that_run_one_task_break_p2_unless_one_is_dead() {
    assert_eq!(broken(&twice()), ["P2"]);

    let mut told_and_lives = twice();
    told_and_lives.lives[0] = gone(1, 18, Gone::Ended);
    assert_eq!(broken(&told_and_lives), ["P2"], "a process that ends lives");

    let mut wrote_later = taken_over();
    let task = wrote_later.stored[0].clone();
    wrote_later.lives[0].gone = Some((at(17), Gone::Killed));
    let line = effect(&task, 1, 1, 16, "said");
    wrote_later.effects.insert(2, line);
    assert_eq!(broken(&wrote_later), ["P2"], "the dead write nothing");
}

#[test]
fn what_was_dropped_or_fell_may_be_taken_over() {
    let mut dropped = twice();
    let task = dropped.stored[0].clone();
    dropped
        .effects
        .insert(1, effect(&task, 1, 1, 14, "dropped"));
    let mut fell = twice();
    fell.lives[0] = gone(1, 40, Gone::Fell);

    keeps_all(&dropped);
    keeps_all(&fell);
}

#[test]
fn a_number_that_came_back_is_another_process() {
    let mut history = twice();
    // Somebody with the number of process 1 died before, and this one never did.
    history.lives.insert(0, gone(1, 5, Gone::Killed));

    assert_eq!(broken(&history), ["P2"]);
}

#[test]
fn a_third_run_beside_the_first_breaks_p2() {
    let mut history = twice();
    let task = history.stored[0].clone();
    history.effects[2] = effect(&task, 2, 2, 16, "failed");
    history.effects.push(effect(&task, 2, 3, 17, "began"));
    history.effects.push(effect(&task, 2, 3, 30, "ended"));
    history.stored[0].life.epoch = Epoch::from_u32(3);

    assert_eq!(broken(&history), ["P2", "P2"], "beside it ran two others");
}

#[test]
fn a_repeat_that_was_not_allowed_breaks_p3() {
    let mut history = taken_over();
    history.stored[0].requeue_on_interrupt = false;
    assert_eq!(broken(&history), ["P3"]);

    // It failed, but nobody knew when its process died: the attempt was repeated, and is no retry.
    let mut failed = history;
    let task = failed.stored[0].clone();
    failed.effects.insert(1, effect(&task, 1, 1, 11, "failed"));
    assert_eq!(broken(&failed), ["P3"]);

    // Only then it is one.
    failed.effects[2].attempt = 2;
    keeps_all(&failed);
}

#[test]
fn what_may_be_repeated_and_is_not_breaks_p3() {
    let mut history = interrupted(300);
    history.stored[0].requeue_on_interrupt = true;

    assert_eq!(broken(&history), ["P3"]);
}

#[test]
fn an_epoch_that_does_not_grow_and_a_stale_result_break_p4() {
    let mut same = taken_over();
    same.effects[0].epoch = 2;
    let mut stale = taken_over();
    stale.stored[0].life.epoch = Epoch::from_u32(1);
    let mut never_ended = taken_over();
    never_ended.stored[0].life.epoch = Epoch::from_u32(3);

    assert!(broken(&same).contains(&"P4"));
    assert!(broken(&stale).contains(&"P4"));
    assert_eq!(broken(&never_ended), ["P4"]);
}

#[test]
fn an_instance_that_is_two_processes_breaks_p4() {
    let mut history = good();
    let mut other = good();
    other.stored[0].life.instance = history.stored[0].life.instance;
    for effect in &mut other.effects {
        effect.pid = 2;
    }
    other.stored[0].args = format!("[{}]", serde_json::to_string(&errand(1)).unwrap()).into();
    history.accepted.push((1, other.stored[0].id));
    history.effects.extend(other.effects);
    history.stored.extend(other.stored);

    assert_eq!(broken(&history), ["P4"]);
}

/// Two tasks of errand 0.
fn two_tasks() -> History {
    let (mut history, other) = (good(), good());
    history.accepted.extend(other.accepted);
    history.effects.extend(other.effects);
    history.stored.extend(other.stored);
    history
}

#[test]
fn two_tasks_of_one_order_break_p5_also_if_one_was_never_answered() {
    assert_eq!(broken(&two_tasks()), ["P5"]);

    let mut unanswered = two_tasks();
    unanswered.accepted.pop();
    assert_eq!(broken(&unanswered), ["P5"]);
}

#[test]
fn a_key_makes_another_task_only_when_it_is_free_again() {
    let mut both_count = two_tasks();
    both_count.errands.get_mut(&0).unwrap().keyed = true;
    let mut freed = interrupted(300);
    let other = good();
    freed.accepted.extend(other.accepted);
    freed.effects.extend(other.effects);
    freed.effects[1].pid = 2;
    freed.effects[2].pid = 2;
    freed.stored.extend(other.stored);
    let mut unkeyed = std::mem::take(&mut freed);
    unkeyed.errands = [(0, errand(0))].into();

    assert_eq!(broken(&both_count), ["P5"]);
    assert_eq!(broken(&unkeyed), ["P5"]);
    unkeyed.errands.get_mut(&0).unwrap().keyed = true;
    keeps_all(&unkeyed);
}

#[test]
fn a_takeover_that_comes_late_breaks_p6() {
    let history = interrupted(6_000);

    assert_eq!(broken(&history), ["P6"]);
    assert_eq!(check(&history).takeovers_ms, [5_999]);
}

#[test]
fn a_repeat_that_comes_late_breaks_p6_too() {
    let mut history = taken_over();
    let task = &mut history.stored[0];
    let mut first = task.clone();
    first.life.status = TaskStatus::Running;
    first.life.epoch = Epoch::from_u32(1);
    first.life.instance = Some(IdSource::default().instance(NOW));
    let late = NOW.saturating_add(Duration::from_secs(6));
    let change = Change::interrupted(&first, BY_DEATH, late).unwrap();
    task.past_attempts.extend(change.ended);

    assert_eq!(broken(&history), ["P6"]);
}

#[test]
fn while_nobody_can_take_over_nobody_is_late() {
    let mut alone = interrupted(6_000);
    alone.lives[1].from = at(5_900_000);
    let mut stopped = interrupted(6_000);
    stopped.stops = vec![pause(1, 1_000_000, 3_000_000)];

    keeps_all(&alone);
    assert_eq!(check(&alone).takeovers_ms, [100]);
    keeps_all(&stopped);
    assert_eq!(check(&stopped).takeovers_ms, [3_999]);
}

#[test]
fn what_was_cancelled_stays_so_and_begins_no_more() {
    let mut succeeded = good();
    let id = succeeded.stored[0].id;
    succeeded.cancels = vec![(id, Cancel::Done, at(30))];
    let mut unwished = good();
    unwished.stored[0].life.status = TaskStatus::Cancelled;
    let mut began = unwished.clone();
    began.cancels = vec![(id_of(&began), Cancel::Done, at(5))];
    let mut cancelled_before_a_retry = unwished.clone();
    cancelled_before_a_retry.cancels = vec![(id, Cancel::Done, at(30))];
    cancelled_before_a_retry.cancels[0].0 = id_of(&cancelled_before_a_retry);

    assert_eq!(broken(&succeeded), ["P1"]);
    assert_eq!(broken(&unwished), ["P1"]);
    assert_eq!(broken(&began), ["P1"]);
    keeps_all(&cancelled_before_a_retry);
}

fn id_of(history: &History) -> TaskId {
    history.stored[0].id
}

const S: u64 = 1_000_000;

/// On Redis with a lease of two seconds: process 1 begins at 0 s and ends at `ended`, process 2 begins at `began`.
fn on_redis(began: u64, ended: u64) -> History {
    let mut history = twice();
    history.lease = Some(Duration::from_secs(2));
    let task = &history.stored[0];
    history.effects = vec![
        effect(task, 1, 1, 10, "began"),
        effect(task, 2, 2, began, "began"),
        effect(task, 1, 1, ended, "dropped"),
        effect(task, 2, 2, ended + 10, "ended"),
    ];
    history.effects.sort_by_key(|it| it.at.mono_us);
    history
}

#[test]
fn a_process_that_was_stopped_beyond_its_lease_may_be_inside_a_function_for_a_moment() {
    let mut stopped = on_redis(3 * S, 4 * S + S / 2);
    stopped.stops = vec![pause(1, S, 4 * S)];
    let mut too_long = on_redis(3 * S, 6 * S);
    too_long.stops = stopped.stops.clone();
    let mut too_early = on_redis(S + S / 4, 4 * S + S / 2);
    too_early.stops = stopped.stops.clone();
    let mut another = stopped.clone();
    another.stops[0].pid = Some(2);
    let mut on_a_file = stopped.clone();
    on_a_file.lease = None;

    keeps_all(&stopped);
    assert_eq!(broken(&too_long), ["P2"]);
    assert_eq!(broken(&too_early), ["P2"]);
    assert_eq!(broken(&another), ["P2"]);
    assert_eq!(broken(&on_a_file), ["P2"]);
}

#[test]
fn a_start_that_was_stored_before_a_stop_may_come_to_its_first_line_after_it() {
    let mut late = on_redis(2 * S, 5 * S);
    late.effects = vec![
        effect(&late.stored[0], 2, 2, 3 * S, "began"),
        effect(&late.stored[0], 2, 2, 3 * S + 9, "ended"),
        effect(&late.stored[0], 1, 1, 4 * S + 9, "began"),
        effect(&late.stored[0], 1, 1, 4 * S + 99, "dropped"),
    ];
    let unexcused = late.clone();
    late.stops = vec![pause(1, S, 4 * S)];

    keeps_all(&late);
    assert_eq!(broken(&unexcused), ["P4"]);
}

#[test]
fn a_link_that_was_cut_does_not_excuse_two_runners() {
    let mut cut = on_redis(3 * S, 4 * S);
    cut.outages = vec![pause(1, S, 4 * S)];

    assert_eq!(broken(&cut), ["P2"]);
}

#[test]
fn an_attempt_is_interrupted_if_its_process_could_not_reach_the_server_for_long() {
    let mut cut = interrupted(3_000);
    cut.lives[0] = alive(1);
    cut.lease = Some(Duration::from_secs(2));
    let for_no_reason = cut.clone();
    cut.outages = vec![pause(1, 12, 3 * S)];
    let mut shortly = cut.clone();
    shortly.outages[0].until = at(S / 4);
    let mut long_ago = interrupted(9_000);
    (long_ago.lives, long_ago.lease) = (cut.lives.clone(), cut.lease);
    long_ago.outages = cut.outages.clone();

    keeps_all(&cut);
    for history in [&for_no_reason, &shortly, &long_ago] {
        assert_eq!(broken(history), ["P1"]);
    }
}

#[test]
fn a_server_that_did_not_answer_anybody_excuses_an_interruption_and_nothing_else() {
    let for_all = |mut history: History| {
        let (pid, from, until) = (None, at(0), at(60 * S));
        history.lease = Some(Duration::from_secs(2));
        history.outages = vec![Pause { pid, from, until }];
        history
    };
    let mut lived = interrupted(3_000);
    lived.lives[0] = alive(1);
    keeps_all(&for_all(lived));

    let mut lost = good();
    lost.stored.clear();
    lost.effects.clear();
    let mut repeated = taken_over();
    repeated.stored[0].requeue_on_interrupt = false;
    let mut stale = taken_over();
    stale.stored[0].life.epoch = Epoch::from_u32(3);

    assert_eq!(broken(&for_all(lost)), ["P1"]);
    assert_eq!(broken(&for_all(on_redis(3 * S, 4 * S))), ["P2"]);
    assert_eq!(broken(&for_all(repeated)), ["P3"]);
    assert_eq!(broken(&for_all(stale)), ["P4"]);
    assert_eq!(broken(&for_all(two_tasks())), ["P5"]);
}

#[test]
fn a_server_that_did_not_answer_though_nobody_hurt_it_is_named_in_the_report() {
    let silence = |from, until| Pause {
        pid: None,
        ..pause(0, from, until)
    };
    let mut history = good();
    history.outages = vec![silence(S, 2 * S)];

    history.was_silent(vec![silence(S / 2, 2 * S), silence(3 * S, 4 * S)]);

    let report = check(&history);
    assert_eq!((history.outages.len(), report.silences), (3, 1));
    assert!(report.to_string().contains("1 times the server did not"));
    assert_eq!(check(&good()).silences, 0);
}

#[test]
fn on_redis_a_takeover_may_take_a_lease_and_two_seconds() {
    let mut in_time = interrupted(3_900);
    in_time.lease = Some(Duration::from_secs(2));
    let mut late = interrupted(4_100);
    late.lease = in_time.lease;

    keeps_all(&in_time);
    assert_eq!(broken(&late), ["P6"]);
}
