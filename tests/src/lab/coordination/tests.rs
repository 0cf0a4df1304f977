//! Forged histories: the checker finds every broken promise in them, and none where none is broken.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use axum_taskflow::{IdSource, Timestamp};

use super::*;

const S: u64 = 1_000_000;

fn turn(us: u64, pid: u32, of: &str, what: &str, n: u64) -> Turn {
    Turn {
        at: Moment {
            mono_us: us,
            wall_us: 0,
        },
        pid,
        of: of.to_owned(),
        what: what.to_owned(),
        n,
    }
}

fn slot(schedule: &str, ms: i64) -> Task {
    let at = Timestamp::from_unix_ms(ms);
    let mut task = Task::new(IdSource::default().task(at), "f", "[]");
    task.tags.insert("schedule".into(), schedule.into());
    task.life.run_at = at;
    task
}

/// Process 1 leads, is killed, and 2 leads; both were inside; one job was run.
fn good() -> History {
    History {
        kills: [(1, 5 * S)].into(),
        n_kills: 1,
        turns: vec![
            turn(S, 1, "lead", "leads", 1),
            turn(S + 10, 1, "late", "added", 1),
            turn(2 * S, 1, "lead", "added", 1),
            turn(2 * S + 1, 1, "door", "enters", 7),
            turn(2 * S + 2, 1, "door", "leaves", 7),
            turn(2 * S + 3, 2, "door", "enters", 9),
            turn(2 * S + 4, 2, "door", "leaves", 9),
            turn(3 * S, 1, "job", "begins", 0),
            turn(3 * S + 1, 1, "job", "works", 0),
            turn(3 * S + 2, 1, "job", "Ran", 0),
            turn(3 * S + 3, 2, "job", "WaitedForOther", 0),
            turn(5 * S + 1_000, 2, "lead", "leads", 3),
            turn(5 * S + 2_000, 2, "lead", "added", 3),
            turn(30 * S, 2, "lead", "added", 3),
        ],
        tasks: vec![
            slot("every", 1_000),
            slot("every", 1_200),
            slot("cron", 1_000),
            slot("cron", 2_000),
        ],
        done: [0].into(),
        ..History::default()
    }
}

/// The history with these turns, too.
fn with(turns: impl IntoIterator<Item = Turn>) -> History {
    let mut history = good();
    history.turns.extend(turns);
    history.turns.sort_by_key(|turn| turn.at.mono_us);
    history
}

/// The one promise that was broken, and by what.
fn broken(history: &History) -> (&'static str, String) {
    let report = history.report();
    let [violation] = &*report.violations else {
        panic!("one promise was broken: {report}");
    };
    (violation.promise, violation.what.clone())
}

#[test]
fn a_good_history_breaks_nothing() {
    let report = good().report();

    assert_eq!(report.violations, []);
    assert_eq!((report.terms, report.added, report.refused), (2, 4, 0));
    assert_eq!(report.takeovers_ms, [1]);
    assert_eq!((report.entered, report.jobs, report.begun), (2, 1, 1));
    assert_eq!(report.slots, [("every", 2), ("cron", 2)]);
}

#[test]
fn a_slot_with_two_tasks_is_found() {
    let mut history = good();
    history.tasks.push(slot("every", 1_200));

    let (promise, what) = broken(&history);

    assert_eq!(promise, "P7");
    assert!(what.contains("slot 1200 of every has two tasks"), "{what}");
}

#[test]
fn a_slot_without_a_task_is_found() {
    let mut history = good();
    history.tasks.push(slot("cron", 4_000));

    let (promise, what) = broken(&history);

    assert_eq!(promise, "P7");
    assert!(what.contains("after slot 2000 of cron nothing"), "{what}");
}

#[test]
fn two_leaders_in_one_term_are_found() {
    let history = with([turn(4 * S, 2, "lead", "leads", 1)]);

    let report = history.report();

    let two = |it: &Violation| it.promise == "one holder" && it.what.contains("lead in term 1");
    assert!(report.violations.iter().any(two), "{report}");
}

#[test]
fn whoever_goes_on_to_lead_after_another_one_has_begun_is_found() {
    let late = [turn(6 * S, 1, "lead", "leads", 1)];

    let (promise, what) = broken(&with(late.clone()));

    assert_eq!(promise, "one holder");
    assert!(what.contains("leads in term 1 after term 3"), "{what}");
    // Who was stopped could not know it. But only for a moment.
    let mut history = with(late.clone());
    history.stops.push((1, 4 * S, 6 * S - 1_000));
    assert_eq!(history.report().violations, []);
    let mut history = with(late);
    history.stops.push((1, 4 * S, 6 * S - 600_000));
    assert_eq!(history.report().violations.len(), 1);
}

#[test]
fn what_is_written_after_a_stop_is_found_but_for_what_was_on_its_way() {
    for of in ["lead", "late"] {
        let on_its_way = turn(6 * S, 1, of, "added", 1);
        let refused = turn(6 * S + 1_000, 1, of, "refused", 1);
        let added = turn(6 * S + 1_000, 1, of, "added", 1);
        let stopped = |turns: [Turn; 2]| {
            let mut history = with(turns);
            history.stops.push((1, 4 * S, 6 * S - 1_000));
            history
        };

        let good = stopped([on_its_way.clone(), refused]);
        assert_eq!(good.report().violations, [], "{of}");
        assert_eq!(good.report().refused, 1);

        let (promise, what) = broken(&stopped([on_its_way, added]));
        assert_eq!(promise, "one holder");
        assert!(what.contains("added in term 1 that was over"), "{what}");
    }
}

#[test]
fn of_stopped_leaders_it_is_counted_whether_they_were_refused() {
    let lives = turn(20 * S, 1, "door", "leaves", 7);
    let refused = turn(6 * S + 1_000, 1, "late", "refused", 1);
    let counts = |stop: (u32, u64, u64), turns: &[Turn]| {
        let mut history = with(turns.to_vec());
        history.stops.push(stop);
        let report = history.report();
        (report.stopped, report.stopped_refused)
    };
    let stop = (1, 4 * S, 6 * S);

    assert_eq!(counts(stop, &[lives.clone(), refused.clone()]), (1, 1));
    assert_eq!(counts(stop, std::slice::from_ref(&lives)), (1, 0));
    // It did not live to write, nobody followed it, or it did not lead.
    assert_eq!(counts(stop, &[]), (0, 0));
    assert_eq!(
        counts((1, 4 * S, 5 * S), std::slice::from_ref(&lives)),
        (0, 0)
    );
    assert_eq!(counts((2, 4 * S, 6 * S), &[lives, refused]), (0, 0));
}

#[test]
fn leaders_that_are_followed_late_are_found() {
    let dead = |takeover_us: u64| {
        let mut history = good();
        for n in 0..20 {
            let (us, pid) = ((100 + u64::from(n) * 10) * S, 10 + n);
            let term = u64::from(n) + 10;
            history.kills.insert(pid, us);
            history
                .turns
                .push(turn(us - 1, pid, "lead", "leads", 2 * term));
            let next = turn(us + takeover_us, 99, "lead", "leads", 2 * term + 1);
            history.turns.push(next);
        }
        history
    };

    assert_eq!(dead(900_000).report().violations, []);
    assert_eq!(broken(&dead(1_100_000)).0, "prompt takeover");
    let mut on_redis = dead(1_100_000);
    on_redis.lease = Duration::from_secs(2);
    assert_eq!(on_redis.report().violations, []);
}

#[test]
fn two_inside_at_once_are_found_unless_one_was_killed_or_stopped_there() {
    let two = || {
        with([
            turn(7 * S, 2, "door", "enters", 10),
            turn(8 * S, 3, "door", "enters", 12),
            turn(9 * S, 3, "door", "leaves", 12),
        ])
    };

    let (promise, what) = broken(&two());

    assert_eq!(promise, "one holder");
    assert!(what.contains("3 enters while 2 is inside"), "{what}");
    let killed = |us| {
        let mut history = two();
        history.kills.insert(2, us);
        history.report().violations.len()
    };
    assert_eq!([killed(8 * S - 1), killed(8 * S + 1)], [0, 1]);
    let stopped = |from, until| {
        let mut history = two();
        history.stops.push((2, from, until));
        history.report().violations.len()
    };
    assert_eq!(stopped(7 * S + 1, 20 * S), 0);
    assert_eq!(
        stopped(8 * S + 1, 20 * S),
        1,
        "a stop that came later excuses nothing"
    );
    assert_eq!(
        stopped(6 * S, 7 * S - 10_000),
        1,
        "nor does one from before"
    );
}

#[test]
fn whoever_enters_with_an_old_number_is_found() {
    let history = with([turn(7 * S, 3, "door", "enters", 8)]);

    let (promise, what) = broken(&history);

    assert_eq!(promise, "one holder");
    assert!(what.contains("3 enters with 8 after 9"), "{what}");
}

#[test]
fn a_job_that_is_run_twice_is_found() {
    let (promise, what) = broken(&with([turn(3 * S + 4, 2, "job", "Ran", 0)]));
    assert_eq!(promise, "run once");
    assert!(what.contains("job 0 was run by two"), "{what}");

    let (promise, what) = broken(&with([turn(6 * S, 2, "job", "begins", 0)]));
    assert_eq!(promise, "run once");
    assert!(what.contains("job 0 begins after it was done"), "{what}");
}

#[test]
fn a_job_that_is_done_and_not_stored_or_never_begun_is_found() {
    let mut history = good();
    history.done.clear();
    let (promise, what) = broken(&history);
    assert_eq!(promise, "run once");
    assert!(what.contains("job 0 was done, and is not"), "{what}");

    let mut history = with([turn(6 * S, 2, "job", "AlreadyDone", 1)]);
    history.done.insert(1);
    let (promise, what) = broken(&history);
    assert_eq!(promise, "run once");
    assert!(
        what.contains("job 1 is done, and nobody began it"),
        "{what}"
    );
}

#[test]
fn a_job_that_dies_with_its_process_may_begin_again() {
    let history = with([
        turn(2 * S, 1, "job", "begins", 0),
        turn(2 * S + 5, 2, "job", "begins", 0),
    ]);

    assert_eq!(history.report().violations, []);
    assert_eq!(history.report().begun, 3);
}
