//! Changes: compare, and set.

use std::{sync::Arc, time::Duration};

use super::bench::{Bench, failed};
use crate::{
    backend::{Applied, ListQuery, Step, Stepped},
    change::{Change, HeldBy, Outcome},
    clock::Timestamp,
    failure::{FailureKind, FailureReport},
    id::Epoch,
    retry::RetryPolicy,
    status::{Refused, TaskStatus},
    task::Task,
};

pub(super) async fn a_change_replaces_the_life_of_its_task(bench: &Bench<'_>) {
    let mut task = bench.owned("f");
    let other = bench.owned("f");
    bench.add(&[task.clone(), other.clone()]).await;

    bench.start(&mut task).await;
    bench.expect(&task).await;
    bench.advance(Duration::from_millis(1_234));
    bench
        .finish(&mut task, Outcome::Done(Some("7".into())))
        .await;

    assert_eq!(task.life.status, TaskStatus::Success);
    bench.expect(&task).await;
    bench.expect(&other).await;
}

pub(super) async fn an_attempt_that_is_not_the_last_is_kept(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    task.requeue_on_interrupt = true;
    bench.add_one(&task).await;

    for n in 0..12 {
        bench.start(&mut task).await;
        bench.advance(Duration::from_secs(n));
        match n % 3 {
            0 => bench.fail_and_wait(&mut task).await,
            _ => bench.finish(&mut task, Outcome::Interrupted("test")).await,
        }
    }
    bench.start(&mut task).await;
    bench.fail(&mut task).await;

    assert_eq!(task.past_attempts.len(), 12);
    bench.expect(&task).await;
    task.past_attempts.clear();
    assert_eq!(bench.walk(ListQuery::default()).await, [task]);
}

pub(super) async fn errors_and_results_survive(bench: &Bench<'_>) {
    let mut panicked = bench.task("f");
    let mut done = bench.task("f");
    let mut null = bench.task("f");
    bench
        .add(&[panicked.clone(), done.clone(), null.clone()])
        .await;
    let report = FailureReport {
        kind: FailureKind::Panic,
        message: "öäü \0 'x' 🦀".to_owned(),
        sources: vec![String::new(), "second\nline".to_owned()],
        place: Some("src/main.rs:1:2".to_owned()),
        backtrace: Some("0: main\n".repeat(1_000)),
    };
    let result = format!("\"{}\"", "ß".repeat(500_000));

    for task in [&mut panicked, &mut done, &mut null] {
        bench.start(task).await;
    }
    bench.finish(&mut panicked, Outcome::Panicked(report)).await;
    bench
        .finish(&mut done, Outcome::Done(Some(result.into())))
        .await;
    bench.finish(&mut null, Outcome::Done(None)).await;

    for task in [panicked, done, null] {
        bench.expect(&task).await;
    }
}

pub(super) async fn changes_apply_in_their_order_within_a_batch(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    let mut batch = bench.batch();
    batch.tasks.push(Arc::new(task.clone()));
    for _ in 0..3 {
        let start = Change::started(&task, bench.me, bench.now()).expect("it waits");
        task.life = start.life.clone();
        let policy = RetryPolicy {
            retries: 2,
            ..RetryPolicy::default()
        };
        let end = Change::finished(&task, failed(), &policy, 0.0, bench.now()).expect("it runs");
        task.life = end.life.clone();
        task.past_attempts.extend(end.ended.clone());
        batch.changes.extend([start, end]);
    }

    let written = bench.write(batch).await;

    assert_eq!(written.changes, [Applied::Applied; 6]);
    assert_eq!(task.life.status, TaskStatus::Failed);
    bench.expect(&task).await;
}

pub(super) async fn an_end_can_be_written_over_what_was_before_its_start(bench: &Bench<'_>) {
    let mut task = bench.owned("f");
    bench.add_one(&task).await;
    let start = Change::started(&task, bench.me, bench.now()).expect("it waits");
    task.life = start.life.clone();
    bench.advance(Duration::from_secs(1));
    let done = Outcome::Done(None);
    let end = Change::finished(&task, done, &RetryPolicy::default(), 0.0, bench.now());
    // The store has lost the start.
    let whole = Change {
        expects: start.expects,
        ..end.expect("it runs")
    };

    assert_eq!(bench.apply(whole.clone()).await, Applied::Applied);

    task.life = whole.life;
    bench.expect(&task).await;
}

pub(super) async fn a_change_from_another_status_or_epoch_is_stale(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    let waiting = task.clone();
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    let running = task.clone();
    bench.fail_and_wait(&mut task).await;

    // Right status, wrong epoch; then wrong status, right epoch.
    let start = Change::started(&waiting, bench.me, bench.now()).expect("it waits");
    assert_eq!(bench.apply(start).await, Applied::Stale);
    let end = Change::interrupted(&running, "test", bench.now()).expect("it runs");
    assert_eq!(bench.apply(end).await, Applied::Stale);
    let mut ahead = Change::cancelled(&task, bench.now()).expect("it waits");
    ahead.expects.1 = Epoch::from_u32(2);
    assert_eq!(bench.apply(ahead).await, Applied::Stale);

    bench.expect(&task).await;
}

pub(super) async fn a_change_of_a_task_that_another_one_holds_is_stale_if_it_matters(
    bench: &Bench<'_>,
) {
    let (me, other) = (bench.me, bench.peer().await);
    let (mut mine, mut nobodys) = (bench.owned("f"), bench.task("f"));
    bench.add(&[mine.clone(), nobodys.clone()]).await;
    let mut ran = bench.owned("f");
    bench.add_one(&ran).await;
    bench.start(&mut ran).await;
    let of = |change: Result<Change, Refused>, holder| {
        let mut change = change.expect("the status allows it");
        change.held_by = holder;
        change
    };
    let start = |task: &Task, holder| of(Change::started(task, me, bench.now()), holder);
    let end = |task: &Task, holder| {
        let done = Outcome::Done(Some("7".into()));
        let policy = RetryPolicy::default();
        of(
            Change::finished(task, done, &policy, 0.0, bench.now()),
            holder,
        )
    };
    let is = HeldBy::Instance;

    // What most tasks see, a start and an end with success, as anything else.
    for change in [
        start(&mine, HeldBy::Nobody),
        start(&mine, is(other)),
        start(&nobodys, is(me)),
        end(&ran, HeldBy::Nobody),
        end(&ran, is(other)),
        of(Change::released(&mine), is(bench.stranger())),
        of(Change::cancelled(&nobodys, bench.now()), is(other)),
    ] {
        assert_eq!(bench.apply(change.clone()).await, Applied::Stale);
        let mut step = Step::at(bench.now());
        step.changes.push(change);
        assert_eq!(bench.step(step).await, Stepped::Stale);
    }
    for task in [&mine, &nobodys, &ran] {
        bench.expect(task).await;
    }

    let (begun, ended) = (start(&mine, is(me)), end(&ran, is(me)));
    let released = of(Change::released(&nobodys), HeldBy::Nobody);
    for (task, change) in [
        (&mut mine, begun),
        (&mut ran, ended),
        (&mut nobodys, released),
    ] {
        assert_eq!(bench.apply(change.clone()).await, Applied::Applied);
        // It was written before, whoever holds it now.
        assert_eq!(bench.apply(change.clone()).await, Applied::Applied);
        task.life = change.life;
        bench.expect(task).await;
    }
}

pub(super) async fn of_changes_that_are_written_again_in_part_only_the_rest_is_done(
    bench: &Bench<'_>,
) {
    let mut tasks: Vec<Task> = (0..5).map(|_| bench.owned("f")).collect();
    bench.add(&tasks).await;
    for task in &mut tasks {
        bench.start(task).await;
    }
    bench.advance(Duration::from_secs(2));
    let policy = RetryPolicy::default();
    let mut ends: Vec<Change> = tasks
        .iter()
        .map(|task| Change::finished(task, Outcome::Done(None), &policy, 0.0, bench.now()))
        .collect::<Result<_, _>>()
        .expect("they run");
    // One was written before, another one has changed hands since.
    assert_eq!(bench.apply(ends[1].clone()).await, Applied::Applied);
    let lost = Change::interrupted(&tasks[3], "test", bench.now()).expect("it runs");
    assert_eq!(bench.apply(lost.clone()).await, Applied::Applied);
    // It begins and ends in this batch, behind those that have begun before.
    let mut last = bench.owned("f");
    let start = Change::started(&last, bench.me, bench.now()).expect("it waits");
    let mut batch = bench.batch();
    batch.tasks.push(Arc::new(last.clone()));
    last.life = start.life.clone();
    let end = Change::finished(&last, Outcome::Done(None), &policy, 0.0, bench.now());
    ends.extend([start, end.expect("it runs")]);
    batch.changes = ends.clone();

    let written = bench.write(batch).await;

    for (n, answer) in written.changes.into_iter().enumerate() {
        let expected = if n == 3 {
            Applied::Stale
        } else {
            Applied::Applied
        };
        assert_eq!(answer, expected, "change {n}");
    }
    for (n, task) in tasks.iter_mut().enumerate() {
        task.life = if n == 3 {
            lost.life.clone()
        } else {
            ends[n].life.clone()
        };
        bench.expect(task).await;
    }
    last.life = ends[6].life.clone();
    bench.expect(&last).await;
    let counts = bench.counts().await;
    let count = |status| counts.get(&("f".to_owned(), status)).copied();
    assert_eq!(count(TaskStatus::Success), Some(5));
    assert_eq!(count(TaskStatus::Interrupted), Some(1));
    assert_eq!(count(TaskStatus::Running), None);
    let running = ListQuery {
        status: Some(TaskStatus::Running),
        ..ListQuery::default()
    };
    assert_eq!(bench.walk(running).await, []);
    let minutes = bench.series(Timestamp::default()).await;
    let successes = minutes
        .iter()
        .filter(|minute| minute.status == TaskStatus::Success);
    let sum = successes.fold((0, Duration::ZERO), |(n, run), minute| {
        (n + minute.n, run + minute.run)
    });
    assert_eq!(sum, (5, Duration::from_secs(8)));
}

pub(super) async fn a_change_that_is_written_again_is_applied_and_changes_nothing(
    bench: &Bench<'_>,
) {
    let mut task = bench.keyed("k", Duration::from_secs(60));
    bench.add_one(&task).await;
    let policy = RetryPolicy {
        retries: 1,
        ..RetryPolicy::default()
    };

    // Through a retry to the end, each change twice.
    for outcome in [failed(), Outcome::Done(Some("7".into()))] {
        let start = Change::started(&task, bench.me, bench.now()).expect("it waits");
        task.life = start.life.clone();
        bench.advance(Duration::from_secs(1));
        let end = Change::finished(&task, outcome, &policy, 0.0, bench.now()).expect("it runs");
        task.life = end.life.clone();
        task.past_attempts.extend(end.ended.clone());
        for change in [start, end] {
            assert_eq!(bench.apply(change.clone()).await, Applied::Applied);
            assert_eq!(bench.apply(change).await, Applied::Applied);
        }
    }

    bench.expect(&task).await;
    let counts = bench.counts().await;
    let expected = (("f".to_owned(), TaskStatus::Success), 1);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [expected]);
    let minutes = bench.series(Timestamp::default()).await;
    assert_eq!(minutes.iter().map(|minute| minute.n).sum::<u64>(), 1);
}

pub(super) async fn a_change_of_a_task_that_is_not_stored_is_stale(bench: &Bench<'_>) {
    let task = bench.task("f");
    let change = Change::started(&task, bench.me, bench.now()).expect("it waits");

    assert_eq!(bench.apply(change).await, Applied::Stale);

    assert_eq!(bench.get(task.id).await, None);
    assert_eq!(bench.walk(ListQuery::default()).await, []);
}

pub(super) async fn a_stale_change_does_not_hold_up_its_batch(bench: &Bench<'_>) {
    let (mut one, mut two, gone) = (bench.task("f"), bench.task("f"), bench.task("f"));
    bench.add(&[one.clone(), two.clone()]).await;
    let mut batch = bench.batch();
    let late = bench.stranger();
    for (task, by) in [
        (&one, bench.me),
        (&gone, bench.me),
        (&one, late),
        (&two, bench.me),
    ] {
        let change = Change::started(task, by, bench.now()).expect("it waits");
        batch.changes.push(change);
    }
    one.life = batch.changes[0].life.clone();
    two.life = batch.changes[3].life.clone();

    let written = bench.write(batch).await;

    let (applied, stale) = (Applied::Applied, Applied::Stale);
    assert_eq!(written.changes, [applied, stale, stale, applied]);
    bench.expect(&one).await;
    bench.expect(&two).await;
}

pub(super) async fn of_many_starts_at_once_one_applies(bench: &Bench<'_>) {
    let task = bench.task("f");
    bench.add_one(&task).await;
    let mut starters = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let change = Change::started(&task, bench.stranger(), bench.now()).expect("it waits");
        let (backend, mut batch) = (bench.backend.clone(), bench.batch());
        batch.changes.push(change.clone());
        starters.spawn(async move {
            let written = backend.write(Arc::new(batch)).await.expect("written");
            (change, written.changes[0])
        });
    }

    let answers = starters.join_all().await;

    let applied: Vec<&Change> = answers
        .iter()
        .filter(|(_, applied)| *applied == Applied::Applied)
        .map(|(change, _)| change)
        .collect();
    assert_eq!(applied.len(), 1);
    let stored = bench.get(task.id).await.expect("it is stored");
    assert_eq!(stored.life, applied[0].life);
}

pub(super) async fn a_superseded_attempt_cannot_write_an_outcome(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    task.requeue_on_interrupt = true;
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    let superseded = task.clone();
    bench
        .finish(&mut task, Outcome::Interrupted("it hung"))
        .await;
    bench.start(&mut task).await;

    let policy = RetryPolicy::default();
    for outcome in [
        Outcome::Done(Some("1".into())),
        failed(),
        Outcome::Cancelled,
    ] {
        let late = Change::finished(&superseded, outcome, &policy, 0.0, bench.now());
        assert_eq!(bench.apply(late.expect("it ran")).await, Applied::Stale);
    }

    bench.expect(&task).await;
}

pub(super) async fn nothing_changes_a_finished_task(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    let mut seen = vec![task.clone()];
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    seen.push(task.clone());
    bench.fail_and_wait(&mut task).await;
    seen.push(task.clone());
    bench.start(&mut task).await;
    seen.push(task.clone());
    bench.succeed(&mut task).await;
    bench.advance(Duration::from_millis(1)); // or the same end would be one that was written before

    let (now, policy) = (bench.now(), RetryPolicy::default());
    for task in &seen {
        let changes = [
            Change::started(task, bench.me, now),
            Change::finished(task, Outcome::Done(None), &policy, 0.0, now),
            Change::interrupted(task, "late", now),
            Change::cancelled(task, now),
            Change::released(task),
            Change::held(task, "late", now),
        ];
        for change in changes.into_iter().flatten() {
            assert_eq!(bench.apply(change).await, Applied::Stale);
        }
    }

    bench.expect(&task).await;
}

pub(super) async fn a_released_task_belongs_to_nobody(bench: &Bench<'_>) {
    let mut task = bench.owned("f");
    bench.add_one(&task).await;

    let change = Change::released(&task);
    bench.change(&mut task, change).await;

    assert_eq!(task.life.owner, None);
    bench.expect(&task).await;
}

pub(super) async fn a_held_task_waits_and_says_why(bench: &Bench<'_>) {
    let mut task: Task = bench.owned("f");
    bench.add_one(&task).await;

    let again_at = bench.after(Duration::from_secs(9));
    let change = Change::held(&task, "args[0]: not a number", again_at);
    bench.change(&mut task, change).await;

    assert_eq!(task.life.run_at, again_at);
    assert!(task.life.error.is_some());
    bench.expect(&task).await;
}
