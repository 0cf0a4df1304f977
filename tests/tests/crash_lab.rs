//! The crash laboratory, small enough for every run of the tests.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::time::Duration;

use tempfile::tempdir;
use tests::lab::{self, Plan, Report};

async fn play(tasks: u64, faults: u64, stops_percent: u64) -> Report {
    let folder = tempdir().unwrap();
    let plan = Plan {
        service: env!("CARGO_BIN_EXE_service").into(),
        folder: folder.path().to_owned(),
        tasks,
        faults,
        processes: 3,
        seed: fastrand::u64(..1_000_000),
        stops_percent,
        calm_max: Duration::from_secs(60),
    };
    println!("{plan}");
    let played = tokio::time::timeout(Duration::from_secs(170), lab::play(&plan)).await;
    let report = played.expect("it takes too long").unwrap();
    println!("{report}");
    if !report.violations.is_empty() {
        panic!("{plan}: {report}\nleft in {}", folder.keep().display());
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_thirty_faults_of_three_processes_every_promise_is_kept() {
    let report = play(5_000, 30, 15).await;

    assert_eq!(report.lost, 0);
    assert!(report.accepted > 4_000, "{report}");
    let [kills, terms, stops, _] = report.faults;
    assert_eq!(kills + terms + stops, 30);
    assert!(report.repeated > 0, "nothing was ever repeated: {report}");
    assert!(report.by_status["interrupted"] > 0, "{report}");
    // A second is what is promised; this machine may run other tests, and stops processes meanwhile.
    assert!(report.takeover_max_ms < 10_000, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_only_stopped_keep_every_promise() {
    let report = play(600, 6, 100).await;

    assert_eq!(report.faults[2], 6);
    let aborts = report.faults[3];
    assert!(aborts > 0 || report.unknown == 0, "{report}");
}
