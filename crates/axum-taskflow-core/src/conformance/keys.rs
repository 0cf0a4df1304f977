//! Idempotency keys: when they are taken, and whose they are.

use std::{sync::Arc, time::Duration};

use super::bench::{Bench, failed, tasks_before};
use crate::{
    backend::{Applied, Enqueued, ListQuery},
    change::{Change, KeyFate, Outcome},
    clock::Timestamp,
    task::{Tags, Task},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// The answer to a task whose key `task` has.
fn exists(task: &Task) -> Enqueued {
    Enqueued::Exists {
        id: task.id,
        name: task.name.clone(),
    }
}

pub(super) async fn of_two_tasks_with_one_key_the_first_is_made(bench: &Bench<'_>) {
    let mut first = bench.keyed("k", HOUR);
    first.name = "another".into();
    let second = bench.keyed("k", HOUR);

    assert_eq!(bench.enqueue(&first).await, Enqueued::Created);

    assert_eq!(bench.enqueue(&second).await, exists(&first));
    assert_eq!(bench.get(second.id).await, None);
}

pub(super) async fn a_key_is_taken_within_its_batch(bench: &Bench<'_>) {
    let (first, second) = (bench.keyed("k", HOUR), bench.keyed("k", HOUR));
    let mut batch = bench.batch();
    batch.tasks = vec![Arc::new(first.clone()), Arc::new(second)];

    let written = bench.write(batch).await;

    assert_eq!(written.tasks, [Enqueued::Created, exists(&first)]);
}

pub(super) async fn of_a_thousand_writers_of_one_key_one_makes_a_task(bench: &Bench<'_>) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let task = bench.keyed("k", HOUR);
        let (backend, mut batch) = (bench.backend.clone(), bench.batch());
        batch.tasks.push(Arc::new(task.clone()));
        writers.spawn(async move {
            let mut written = backend.write(Arc::new(batch)).await.expect("written");
            (task, written.tasks.remove(0))
        });
    }

    let answers = writers.join_all().await;

    let stored = bench.walk(ListQuery::default()).await;
    assert_eq!(stored.len(), 1);
    for (task, answer) in answers {
        match task.id == stored[0].id {
            true => assert_eq!(answer, Enqueued::Created),
            false => assert_eq!(answer, exists(&stored[0])),
        }
    }
}

pub(super) async fn a_task_that_is_refused_leaves_nothing(bench: &Bench<'_>) {
    let first = bench.keyed("k", HOUR);
    let mut refused = bench.keyed("k", HOUR);
    refused.tags = Tags::from([("a".to_owned(), "b".to_owned())]);
    bench.add_one(&first).await;

    assert_eq!(bench.enqueue(&refused).await, exists(&first));

    assert_eq!(bench.walk_ids(ListQuery::default()).await, [first.id]);
    let tagged = ListQuery {
        tag: Some(("a".to_owned(), None)),
        ..ListQuery::default()
    };
    assert_eq!(bench.walk(tagged).await, []);
    assert_eq!(bench.counts().await.into_values().sum::<u64>(), 1);
    assert_eq!(bench.claim_ids(&["f"], 9).await, [first.id]);
}

pub(super) async fn a_task_that_is_written_again_does_not_meet_its_own_key(bench: &Bench<'_>) {
    let task = bench.keyed("k", HOUR);
    bench.add_one(&task).await;

    assert_eq!(bench.enqueue(&task).await, Enqueued::Created);
}

pub(super) async fn keys_are_compared_byte_for_byte(bench: &Bench<'_>) {
    let long = "x".repeat(511);
    let keys = [
        "k",
        "K",
        "k ",
        " k",
        "",
        "k\0",
        "k\0a",
        "é",
        "e\u{301}",
        "É",
        "ﬁ",
        "fi",
        "1",
        "01",
        "1.0",
        &format!("{long}a"),
        &format!("{long}b"),
    ];
    let tasks: Vec<Task> = keys.iter().map(|key| bench.keyed(key, HOUR)).collect();

    bench.add(&tasks).await;

    for (key, task) in keys.iter().zip(&tasks) {
        assert_eq!(bench.enqueue(&bench.keyed(key, HOUR)).await, exists(task));
    }
}

pub(super) async fn a_key_is_free_when_its_task_ends_without_success(bench: &Bench<'_>) {
    let outcomes = [
        failed(),
        Outcome::TimedOut(HOUR),
        Outcome::Cancelled,
        Outcome::Interrupted("test"),
    ];
    for outcome in outcomes {
        let mut task = bench.keyed("k", HOUR);
        bench.add_one(&task).await;
        bench.start(&mut task).await;
        bench.finish(&mut task, outcome).await;
        assert!(task.life.status.is_terminal());
    }
    let mut task = bench.keyed("k", HOUR);
    bench.add_one(&task).await;
    bench.cancel(&mut task).await;

    assert_eq!(
        bench.enqueue(&bench.keyed("k", HOUR)).await,
        Enqueued::Created
    );
}

pub(super) async fn a_key_stays_taken_between_two_attempts(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", Duration::ZERO);
    bench.add_one(&task).await;
    for _ in 0..2 {
        bench.start(&mut task).await;
        assert_eq!(bench.enqueue(&bench.keyed("k", HOUR)).await, exists(&task));
        bench.fail_and_wait(&mut task).await;
        bench.advance(HOUR);
        assert_eq!(bench.enqueue(&bench.keyed("k", HOUR)).await, exists(&task));
    }
}

pub(super) async fn a_key_is_kept_after_success_until_its_time(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", HOUR);
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    bench.succeed(&mut task).await;

    bench.advance(HOUR - Duration::from_millis(1));
    assert_eq!(bench.enqueue(&bench.keyed("k", HOUR)).await, exists(&task));
    bench.advance(Duration::from_millis(1));

    assert_eq!(
        bench.enqueue(&bench.keyed("k", HOUR)).await,
        Enqueued::Created
    );
}

pub(super) async fn a_key_without_time_is_free_at_once(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", Duration::ZERO);
    bench.add_one(&task).await;
    bench.start(&mut task).await;

    bench.succeed(&mut task).await;

    assert_eq!(
        bench.enqueue(&bench.keyed("k", HOUR)).await,
        Enqueued::Created
    );
}

pub(super) async fn a_key_that_is_taken_again_does_not_end_with_its_first_task(bench: &Bench<'_>) {
    let mut first = bench.keyed("k", HOUR);
    bench.add_one(&first).await;
    bench.start(&mut first).await;
    bench.succeed(&mut first).await;
    bench.advance(HOUR);
    let second = bench.keyed("k", HOUR);
    bench.add_one(&second).await;

    bench.advance(HOUR * 1_000);
    bench.write(bench.batch()).await;
    bench.prune(tasks_before(bench.now())).await;

    assert_eq!(
        bench.enqueue(&bench.keyed("k", HOUR)).await,
        exists(&second)
    );
}

pub(super) async fn a_stale_change_frees_no_key(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", HOUR);
    bench.add_one(&task).await;
    let cancel = Change::cancelled(&task, bench.now()).expect("it waits");
    bench.start(&mut task).await;

    assert_eq!(bench.apply(cancel).await, Applied::Stale);

    assert_eq!(bench.enqueue(&bench.keyed("k", HOUR)).await, exists(&task));
}

pub(super) async fn only_the_task_that_has_a_key_can_free_or_end_it(bench: &Bench<'_>) {
    let holder = bench.keyed("k", HOUR);
    let others = [bench.keyed("other", HOUR), bench.task("f")];
    bench.add_one(&holder).await;
    bench.add(&others).await;

    let fates = [
        KeyFate::Freed("k".to_owned()),
        KeyFate::KeptUntil("k".to_owned(), Timestamp::default()),
    ];
    for (other, fate) in others.iter().zip(fates) {
        let mut change = Change::cancelled(other, bench.now()).expect("it waits");
        change.key = fate;
        assert_eq!(bench.apply(change).await, Applied::Applied);
    }

    assert_eq!(
        bench.enqueue(&bench.keyed("k", HOUR)).await,
        exists(&holder)
    );
}

pub(super) async fn a_key_outlives_its_deleted_task(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", HOUR);
    task.name = "another".into();
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    bench.succeed(&mut task).await;

    assert_eq!(bench.prune(tasks_before(Timestamp::MAX)).await, 1);

    assert_eq!(bench.get(task.id).await, None);
    assert_eq!(bench.enqueue(&bench.keyed("k", HOUR)).await, exists(&task));
    bench.advance(HOUR);
    assert_eq!(
        bench.enqueue(&bench.keyed("k", HOUR)).await,
        Enqueued::Created
    );
}
