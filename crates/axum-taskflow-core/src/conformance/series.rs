//! What ended in each minute.

use std::{sync::Arc, time::Duration};

use super::bench::Bench;
use crate::{backend::Minute, change::Change, clock::Timestamp, status::TaskStatus};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn floor(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(at.as_unix_ms() / 60_000 * 60_000)
}

fn minute(at: Timestamp, name: &str, status: TaskStatus, n: u64, run: Duration) -> Minute {
    Minute {
        at: floor(at),
        name: name.into(),
        status,
        n,
        run,
    }
}

pub(super) async fn an_end_counts_in_its_own_minute(bench: &Bench<'_>) {
    let mut task = bench.owned("f");
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    bench.advance(Duration::from_millis(1_234));
    let ended_at = bench.now();
    let end = Change::interrupted(&task, "test", ended_at).expect("it runs");

    // It could not be written at once.
    bench.advance(MINUTE * 10);
    bench.apply(end).await;

    let run = Duration::from_millis(1_234);
    assert_eq!(
        bench.series(Timestamp::default()).await,
        [minute(ended_at, "f", TaskStatus::Interrupted, 1, run)]
    );
}

pub(super) async fn ends_of_one_minute_are_added_up(bench: &Bench<'_>) {
    let begin = bench.now();
    for (name, is_success, run_s) in [
        ("f", true, 1),
        ("f", true, 2),
        ("f", false, 4),
        ("g", true, 8),
        ("f", true, 16), // the next minute: 31 seconds after the middle of the first
    ] {
        let mut task = bench.task(name);
        bench.add_one(&task).await;
        bench.start(&mut task).await;
        bench.advance(SECOND * run_s);
        match is_success {
            true => bench.succeed(&mut task).await,
            false => bench.fail(&mut task).await,
        }
    }

    let success = TaskStatus::Success;
    assert_eq!(
        bench.series(Timestamp::default()).await,
        [
            minute(begin, "f", success, 2, SECOND * 3),
            minute(begin, "f", TaskStatus::Failed, 1, SECOND * 4),
            minute(begin, "g", success, 1, SECOND * 8),
            minute(bench.now(), "f", success, 1, SECOND * 16),
        ]
    );
}

pub(super) async fn only_ends_count(bench: &Bench<'_>) {
    let mut task = bench.owned("f");
    bench.add_one(&task).await;
    let change = Change::released(&task);
    bench.change(&mut task, change).await;
    task = bench.claim(&["f"], 1).await.tasks.remove(0);
    bench.fail_and_wait(&mut task).await;
    bench.start(&mut task).await;

    assert_eq!(bench.series(Timestamp::default()).await, []);
}

pub(super) async fn a_task_that_never_started_took_no_time(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    bench.add_one(&task).await;
    bench.advance(SECOND);

    bench.cancel(&mut task).await;

    let cancelled = TaskStatus::Cancelled;
    assert_eq!(
        bench.series(Timestamp::default()).await,
        [minute(bench.now(), "f", cancelled, 1, Duration::ZERO)]
    );
}

pub(super) async fn minutes_come_oldest_first_from_their_beginning_on(bench: &Bench<'_>) {
    let mut batch = bench.batch();
    for ago in [2, 0, 1, 3] {
        let task = bench.task("f");
        let ended_at = bench.now().saturating_sub(MINUTE * ago);
        let cancel = Change::cancelled(&task, ended_at).expect("it waits");
        batch.changes.push(cancel);
        batch.tasks.push(Arc::new(task));
    }
    bench.write(batch).await;

    let begin = floor(bench.now().saturating_sub(MINUTE));
    let at_once = Duration::from_millis(1);
    for (since, n_minutes) in [
        (Timestamp::default(), 4),
        (begin.saturating_sub(at_once), 2),
        (begin, 2),
        (begin.saturating_add(at_once), 1),
        (Timestamp::MAX, 0),
    ] {
        assert_eq!(bench.series(since).await.len(), n_minutes, "since {since}");
    }
}
