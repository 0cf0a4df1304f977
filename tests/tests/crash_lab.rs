//! The crash laboratory, small enough for every run of the tests. `LAB_SEED` plays one again.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{path::PathBuf, time::Duration};

use tempfile::tempdir;
use tests::lab::{self, Plan, Report, Store, coordination};

/// However slow the machine is: the whole laboratory is to take less than three minutes.
const DEADLINE: Duration = Duration::from_secs(170);

const FILE: Store = Store::File {
    takeover_after: None,
};

fn plan(tasks: u64, faults: u64) -> Plan {
    let seed = match std::env::var("LAB_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..1_000_000),
    };
    let service = env!("CARGO_BIN_EXE_service").into();
    Plan {
        tasks,
        faults,
        ..Plan::new(service, PathBuf::new(), seed)
    }
}

/// Plays it in a folder of its own, which stays if a promise is broken.
async fn play(mut plan: Plan) -> Report {
    let folder = tempdir().unwrap();
    plan.folder = folder.path().to_owned();
    println!("{plan}");
    let played = tokio::time::timeout(DEADLINE, lab::play(&plan)).await;
    let report = played.unwrap_or_else(|_| panic!("{plan}: it takes too long"));
    let report = report.unwrap_or_else(|error| panic!("{plan}: {error}"));
    println!("{report}");
    if !report.violations.is_empty() {
        panic!("{plan}: {report}\nleft in {}", folder.keep().display());
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_thirty_faults_of_three_processes_every_promise_is_kept() {
    let report = play(plan(5_000, 30)).await;

    assert_eq!((report.lost, report.finished), (0, report.stored));
    assert!(report.accepted > 4_000, "{report}");
    let [kills, terms, stops, aborts] = report.faults;
    assert!(kills + terms + stops + aborts >= 30, "{report}");
    assert!(report.repeated > 0, "nothing was ever repeated: {report}");
    assert!(report.came_to("interrupted") > 0, "{report}");
    assert!(report.came_to("cancelled") > 0, "{report}");
    let mut takeovers_ms = report.takeovers_ms.clone();
    takeovers_ms.sort_unstable();
    // Each within a second is what is promised on a machine that has time for it.
    let median_ms = takeovers_ms.get(takeovers_ms.len() / 2);
    assert!(median_ms.is_some_and(|ms| *ms < 1_000), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_only_killed_keep_every_promise() {
    let report = play(Plan {
        stops_percent: 0,
        ends_percent: 0,
        aborts_permille: 0,
        ..plan(800, 8)
    })
    .await;

    assert_eq!(report.faults, [8, 0, 0, 0], "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_only_told_to_end_keep_every_promise() {
    let report = play(Plan {
        stops_percent: 0,
        ends_percent: 100,
        aborts_permille: 0,
        ..plan(800, 8)
    })
    .await;

    assert_eq!(report.faults, [0, 8, 0, 0], "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_only_stopped_keep_every_promise() {
    let report = play(Plan {
        stops_percent: 100,
        aborts_permille: 0,
        ..plan(600, 6)
    })
    .await;

    assert_eq!(report.faults, [0, 0, 6, 0], "{report}");
    // Nobody died: every order was answered, and nothing was cut off.
    assert_eq!((report.unknown, report.came_to("interrupted")), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_stopped_until_others_take_their_tasks_keep_every_promise() {
    let report = play(Plan {
        stops_percent: 75,
        aborts_permille: 0,
        store: Store::File {
            takeover_after: Some(Duration::from_secs(3)),
        },
        ..plan(1_500, 12)
    })
    .await;

    let [_, _, stops, _] = report.faults;
    assert!(stops > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_their_tasks_abort_keep_every_promise() {
    let report = play(Plan {
        aborts_permille: 20,
        ..plan(600, 0)
    })
    .await;

    let [kills, terms, stops, aborts] = report.faults;
    assert_eq!((kills, terms, stops), (0, 0, 0), "{report}");
    assert!(aborts > 0, "{report}");
}

/// Where every process comes by that works, after so many times.
const CRASH_POINTS: [(&str, usize); 8] = [
    ("writer::before-begin", 40),
    ("writer::before-commit", 40),
    ("writer::committed", 40),
    ("journal::before-write", 40),
    ("journal::written", 40),
    ("claimer::claimed", 2),
    ("executor::start-stored", 15),
    ("executor::returned", 15),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_others_a_process_that_ends_at_any_write_breaks_no_promise() {
    for (point, passed) in CRASH_POINTS {
        let report = play(Plan {
            aborts_permille: 0,
            crash_at: Some(format!("{point}={passed}*off->return")),
            ..plan(250, 0)
        })
        .await;

        assert_eq!(report.faults, [0, 0, 0, 1], "{point}: {report}");
    }
}

/// On a machine that does something else, less happens in a time.
const KILLS_MIN: u64 = 5;
const JOBS_MIN: usize = 20;

/// Plays the laboratory of coordination for this time at least; a longer one by `lab --coordination 180`.
async fn coordinate(store: Store, time: Duration) -> coordination::Report {
    let folder = tempdir().unwrap();
    let plan = coordination::Plan {
        program: env!("CARGO_BIN_EXE_coordinates").into(),
        folder: folder.path().to_owned(),
        store,
        time,
        kills_min: KILLS_MIN,
        jobs_min: JOBS_MIN,
        processes: 4,
        seed: plan(0, 0).seed,
    };
    println!("seed {}", plan.seed);
    let played = tokio::time::timeout(DEADLINE, coordination::play(&plan)).await;
    let report = played.expect("it takes too long").unwrap();
    println!("{report}");
    if !report.violations.is_empty() {
        let left = folder.keep();
        panic!("seed {}: {report}\nleft in {}", plan.seed, left.display());
    }
    report
}

fn assert_much_happened(report: &coordination::Report) {
    assert!(report.faults[0] >= KILLS_MIN, "{report}");
    assert!(report.slots.iter().all(|(_, n)| *n >= 10), "{report}");
    assert!(report.terms >= 2 && report.added >= 20, "{report}");
    assert!(report.entered >= 20 && report.jobs >= JOBS_MIN, "{report}");
    // A leader that goes on after another one has begun tries to write, and is refused.
    assert_eq!(report.stopped_refused, report.stopped, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_or_stopped_and_whatever_clocks_say_one_does_it() {
    let report = coordinate(FILE, Duration::from_secs(15)).await;

    assert_much_happened(&report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_whoever_is_killed_or_stopped_and_whatever_clocks_say_one_does_it() {
    let lease = Duration::from_secs(2);
    let report = coordinate(Store::Redis { lease }, Duration::from_secs(20)).await;

    assert_much_happened(&report);
}
