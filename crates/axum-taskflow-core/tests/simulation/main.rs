//! The engine over the memory backend with virtual time: several processes that die, stop and lose the store, played
//! from a seed, and looked at in each step.
//!
//! `SIM_SEED=7` plays one seed, `SIM_SEEDS=100` the first hundred, `SIM_TRACE=1` prints every step.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod checker;
mod faulty;
mod scenario;
mod schedules;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Broken seeds that are printed; more say little.
const FAILURES_MAX: usize = 3;

/// What came of a seed.
#[derive(Debug)]
struct Played {
    fingerprint: u64,
    n_steps: u64,
    saw: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

fn play(seed: u64) -> Played {
    fastrand::seed(seed); // the engine draws from this thread's generator
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let world = runtime.block_on(scenario::play(seed));
    let mut played = world.check(|checker| Played {
        fingerprint: checker.fingerprint(),
        n_steps: checker.n_steps,
        saw: std::mem::take(&mut checker.saw),
        violation: checker.violation.take(),
    });
    drop(runtime);
    // The functions' states hold the world, and the engines hold them.
    let n_left = Arc::strong_count(&world) - 1;
    if n_left > 0 {
        let left = format!("seed {seed} leaves {n_left} engines or parts of them behind");
        played.violation.get_or_insert(left);
    }
    played
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn every_promise_holds_in_every_seed() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(1_000),
    };
    let n_seeds = seeds.end - seeds.start;
    let next = AtomicU64::new(seeds.start);
    let failures: Mutex<Vec<String>> = Mutex::default();
    let saw: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let n_threads = std::thread::available_parallelism().map_or(2, usize::from);

    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end || failures.lock().unwrap().len() >= FAILURES_MAX {
                        return;
                    }
                    let violation = match catch_unwind(AssertUnwindSafe(|| play(seed))) {
                        Ok(played) => {
                            let mut saw = saw.lock().unwrap();
                            *saw.entry("step").or_default() += played.n_steps;
                            for (what, n) in played.saw {
                                *saw.entry(what).or_default() += n;
                            }
                            played.violation
                        }
                        Err(_) => Some(format!("seed {seed} panics; replay with SIM_SEED={seed}")),
                    };
                    failures.lock().unwrap().extend(violation);
                }
            });
        }
    });

    let saw = saw.into_inner().unwrap();
    println!("{n_seeds} seeds saw {saw:#?}");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    if n_seeds >= 100 {
        // A world in which nothing goes wrong proves nothing.
        for what in ALL {
            assert!(saw.contains_key(what), "no seed saw: {what}");
        }
    }
}

/// What must have happened somewhere in a hundred seeds.
const ALL: [&str; 34] = [
    "add refused",
    "asked in vain",
    "asked without an answer",
    "batch taken late",
    "batch that was not taken",
    "cancelled",
    "cancelled before it began",
    "clean shutdown",
    "death",
    "failed",
    "failed call",
    "heard that it was superseded",
    "held",
    "interrupted",
    "key taken",
    "lease ran out",
    "late call",
    "late call of a dead one",
    "lost answer",
    "poisoned",
    "released",
    "slot fired",
    "slot made up for",
    "slot missed",
    "slot overlapped",
    "slot queued",
    "stale step",
    "stale write",
    "stalled call",
    "success",
    "takeover of the living",
    "told to stop by another one",
    "two batches at once",
    "written twice",
];

#[test]
fn a_seed_that_is_played_again_takes_the_same_steps() {
    for seed in 0..10 {
        let (first, second) = (play(seed), play(seed));

        assert!(first.n_steps > 50, "{first:?}");
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}");
    }
}
