//! How many tasks there are, kept as they change.

use std::time::Duration;

use super::bench::{Bench, tasks_before};
use crate::{
    backend::{Applied, Enqueued},
    change::{Change, Outcome},
    clock::Timestamp,
    status::TaskStatus,
};

/// What is counted, as short text: `f pending 2`.
async fn counts(bench: &Bench<'_>) -> Vec<String> {
    let counts = bench.counts().await;
    let line = |((name, status), n)| format!("{name} {status} {n}");
    counts.into_iter().map(line).collect()
}

pub(super) async fn counts_follow_tasks_through_their_lives(bench: &Bench<'_>) {
    let (mut one, mut two, mut three) = (bench.task("f"), bench.task("f"), bench.owned("g"));
    bench.add(&[one.clone(), two.clone(), three.clone()]).await;
    assert_eq!(counts(bench).await, ["f pending 2", "g pending 1"]);

    one = bench.claim(&["f"], 1).await.tasks.remove(0);
    assert_eq!(
        counts(bench).await,
        ["f pending 1", "f running 1", "g pending 1"]
    );
    bench.start(&mut three).await;
    assert_eq!(
        counts(bench).await,
        ["f pending 1", "f running 1", "g running 1"]
    );
    bench.fail_and_wait(&mut one).await;
    assert_eq!(counts(bench).await, ["f pending 2", "g running 1"]);
    bench.start(&mut one).await;
    bench.succeed(&mut one).await;
    bench.cancel(&mut two).await;
    bench.finish(&mut three, Outcome::Interrupted("test")).await;
    assert_eq!(
        counts(bench).await,
        ["f success 1", "f cancelled 1", "g interrupted 1"]
    );
}

pub(super) async fn a_count_is_never_zero(bench: &Bench<'_>) {
    assert_eq!(counts(bench).await, Vec::<String>::new());
    let (mut task, live) = (bench.task("f"), bench.task("live"));
    bench.add(&[task.clone(), live]).await;
    bench.start(&mut task).await;
    bench.fail(&mut task).await;
    assert_eq!(counts(bench).await, ["f failed 1", "live pending 1"]);

    bench.prune(tasks_before(Timestamp::MAX)).await;

    assert_eq!(counts(bench).await, ["live pending 1"]);
}

pub(super) async fn stale_changes_and_refused_tasks_are_not_counted(bench: &Bench<'_>) {
    let key = ("k", Duration::from_secs(60));
    let mut task = bench.keyed(key.0, key.1);
    bench.add_one(&task).await;
    let cancel = Change::cancelled(&task, bench.now()).expect("it waits");
    bench.start(&mut task).await;

    assert_eq!(bench.apply(cancel).await, Applied::Stale);
    let unknown = Change::cancelled(&bench.task("g"), bench.now()).expect("it waits");
    assert_eq!(bench.apply(unknown).await, Applied::Stale);
    let refused = bench.enqueue(&bench.keyed(key.0, key.1)).await;
    assert_ne!(refused, Enqueued::Created);

    assert_eq!(
        counts(bench).await,
        [format!("f {} 1", TaskStatus::Running)]
    );
    assert_eq!(bench.series(Timestamp::default()).await, []);
}
