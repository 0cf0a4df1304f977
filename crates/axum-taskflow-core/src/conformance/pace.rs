//! What must not be in the way of a claim.

use std::time::{Duration, Instant};

use super::bench::Bench;
use crate::task::Task;

const N_IN_THE_WAY: usize = 20_000;
/// How often a claim that took long is looked at again.
const ROUNDS_MORE: usize = 20;

pub(super) async fn a_claim_is_not_slowed_down_by_what_it_cannot_take(bench: &Bench<'_>) {
    let alone = claim_time(bench).await;

    let way = [
        "another function",
        "less urgent",
        "ahead",
        "owned",
        "finished",
    ];
    for what in way {
        for _ in 0..N_IN_THE_WAY / 1_000 {
            let tasks: Vec<Task> = (0..1_000).map(|_| in_the_way(bench, what)).collect();
            bench.add(&tasks).await;
            if what == "finished" {
                let mut batch = bench.batch();
                let cancel = |task| crate::Change::cancelled(task, bench.now());
                batch.changes = tasks.iter().flat_map(cancel).collect();
                bench.write(batch).await;
            }
        }
        // Generous, and still far below the time in which a store looks at all of them.
        let limit = alone * 4 + Duration::from_millis(1);
        let mut now = claim_time(bench).await;
        // A very busy machine adds something to all of them, but not for ever.
        for _ in 0..ROUNDS_MORE {
            if now > limit {
                now = now.min(claim_time(bench).await);
            }
        }
        assert!(
            now <= limit,
            "a claim took {alone:?} alone and {now:?} with {N_IN_THE_WAY} tasks in the way: {what}"
        );
    }
}

fn in_the_way(bench: &Bench<'_>, what: &str) -> Task {
    let mut task = bench.task("f");
    match what {
        "another function" => task.name = "another".into(),
        "less urgent" => task.priority = -1,
        "ahead" => task.life.run_at = bench.after(Duration::from_secs(3_600)),
        "owned" => task.life.owner = Some(bench.stranger()),
        _ => {}
    }
    if what != "less urgent" {
        task.priority = 9;
    }
    task
}

/// The shortest of many claims, each of one task: what a busy machine adds is not the store's.
async fn claim_time(bench: &Bench<'_>) -> Duration {
    let tasks: Vec<Task> = (0..50).map(|_| bench.task("f")).collect();
    bench.add(&tasks).await;
    let mut shortest = Duration::MAX;
    for task in &tasks {
        let begin = Instant::now();
        let claimed = bench.claim_ids(&["f"], 1).await;
        shortest = shortest.min(begin.elapsed());
        assert_eq!(claimed, [task.id]);
    }
    shortest
}
