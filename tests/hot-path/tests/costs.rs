//! What a task costs from its add to its end, in instructions and allocations: times are noise on a machine that others
//! use, these are not.
//!
//! A bound is half as much again as what was counted when it was set. Whoever is over it has made each task dearer: find
//! out where (`callgrind_annotate`, `dh_view.html`), and only then raise it.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

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

/// What a tool of valgrind writes about a run, of all its threads.
fn profile(tool: &str, program: &Path, store: &Path, tasks: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let run = Command::new("valgrind")
        .args([&format!("--tool={tool}"), "--trace-children=no"])
        .arg(format!("--{tool}-out-file={}", profile.display()))
        .args([program, store])
        .arg(tasks.to_string())
        .output()
        .expect("valgrind is missing: tests/run installs it, or says what to install");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    fs::read_to_string(profile).unwrap()
}

/// What each task adds to a count, in memory and in a file.
fn per_task<const N: usize>(
    count: impl Fn(&Path, &Path, u64) -> [u64; N],
) -> [(&'static str, [f64; N]); 2] {
    let program = program();
    let folder = tempfile::tempdir().unwrap();
    ["memory", "sqlite"].map(|name| {
        let [few, many] = TASKS.map(|tasks| {
            let store = match name {
                "memory" => "memory".into(),
                _ => folder.path().join(format!("{tasks}.db")),
            };
            count(&program, &store, tasks)
        });
        let n = (TASKS[1] - TASKS[0]) as f64;
        (
            name,
            std::array::from_fn(|at| (many[at] as f64 - few[at] as f64) / n),
        )
    })
}

#[test]
fn a_task_costs_no_more_instructions_than_it_should() {
    let counted = per_task(|program, store, tasks| {
        let profile = profile("callgrind", program, store, tasks);
        let mut lines = profile.lines();
        let total = lines.find_map(|line| line.strip_prefix("totals: "));
        [total.expect("a profile has a sum").trim().parse().unwrap()]
    });

    for ((name, [is]), bound) in counted.into_iter().zip([56_000.0, 84_000.0]) {
        println!("{name}: {is} instructions per task");
        assert!(is <= bound, "{name}: {is} per task, and {bound} at most");
    }
}

/// Each block that the cache of its thread cannot hold takes a lock that threads contend for, with glibc: those of more
/// than 1,032 bytes never come from there.
#[test]
fn a_task_takes_no_more_allocations_than_it_should() {
    let counted = per_task(|program, store, tasks| {
        let profile = profile("dhat", program, store, tasks);
        let profile: Value = serde_json::from_str(&profile).unwrap();
        let mut sums = [0, 0];
        for place in profile["pps"].as_array().unwrap() {
            let [blocks, bytes] = ["tbk", "tb"].map(|sum| place[sum].as_u64().unwrap());
            sums[0] += blocks;
            if bytes > blocks * 1_032 {
                sums[1] += blocks;
            }
        }
        sums
    });

    for ((name, is), bounds) in counted.into_iter().zip([[39.0, 0.3], [25.0, 1.2]]) {
        println!("{name}: {is:?} allocations and large ones per task");
        assert!(
            is[0] <= bounds[0] && is[1] <= bounds[1],
            "{name}: {is:?} per task, and {bounds:?} at most"
        );
    }
}
