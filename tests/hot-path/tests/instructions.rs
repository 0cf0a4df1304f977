//! What a task costs from its add to its end, in instructions: times are noise on a machine that others use, these are not.
//!
//! A bound is half as much again as what was counted when it was set. Whoever is over it has made each task dearer: find
//! out where (`callgrind_annotate`), and only then raise it.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The difference of two runs is what tasks cost, without the start.
const TASKS: [u64; 2] = [500, 2_500];

fn program() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    // As services are built: the tests are compiled without optimisation.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--message-format=json"])
        .args(["--bin", "hot-path", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{stderr}");
    let messages = String::from_utf8(built.stdout).unwrap();
    let path = messages
        .lines()
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .next_back();
    path.expect("cargo names the program").into()
}

/// Instructions of a run, of all its threads.
fn count(program: &Path, store: &Path, tasks: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--trace-children=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .args([program, store])
        .arg(tasks.to_string())
        .output()
        .expect("valgrind is missing: tests/run installs it, or says what to install");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let profile = fs::read_to_string(profile).unwrap();
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    total.expect("a profile has a sum").trim().parse().unwrap()
}

#[test]
fn a_task_costs_no_more_instructions_than_it_should() {
    let program = program();
    let folder = tempfile::tempdir().unwrap();
    let file = |tasks: u64| folder.path().join(format!("{tasks}.db"));
    for (name, bound, is_file) in [("memory", 63_000, false), ("sqlite", 113_000, true)] {
        let [few, many] = TASKS.map(|tasks| {
            let store = if is_file {
                file(tasks)
            } else {
                "memory".into()
            };
            count(&program, &store, tasks)
        });
        let per_task = (many - few) / (TASKS[1] - TASKS[0]);

        println!("{name}: {per_task} instructions per task");
        assert!(
            per_task <= bound,
            "{name}: {per_task} per task, and {bound} at most"
        );
    }
}
