//! Deletion: what is old enough, and nothing else.

use std::time::Duration;

use super::bench::{Bench, line, tasks_before};
use crate::{
    backend::{AuditEntry, ListQuery, Prune},
    change::Outcome,
    clock::Timestamp,
    status::TaskStatus,
    task::Task,
};

const SECOND: Duration = Duration::from_secs(1);

/// Tasks in every terminal status, which finish at the same time.
async fn one_of_each(bench: &Bench<'_>) -> Vec<Task> {
    let outcomes = [
        Outcome::Done(None),
        Outcome::Cancelled,
        Outcome::TimedOut(SECOND),
        Outcome::Interrupted("test"),
    ];
    let mut tasks = Vec::new();
    for outcome in outcomes {
        let mut task = bench.task("f");
        bench.add_one(&task).await;
        bench.start(&mut task).await;
        bench.finish(&mut task, outcome).await;
        tasks.push(task);
    }
    tasks
}

async fn statuses(bench: &Bench<'_>) -> Vec<TaskStatus> {
    let mut statuses: Vec<TaskStatus> = bench
        .walk(ListQuery::default())
        .await
        .iter()
        .map(|task| task.life.status)
        .collect();
    statuses.sort_unstable();
    statuses
}

pub(super) async fn old_finished_tasks_are_deleted(bench: &Bench<'_>) {
    let finished_at = bench.now();
    let tasks = one_of_each(bench).await;
    bench.advance(SECOND);
    let young = one_of_each(bench).await;

    assert_eq!(bench.prune(tasks_before(finished_at)).await, 0);
    assert_eq!(bench.prune(tasks_before(bench.now())).await, 4);
    assert_eq!(bench.prune(tasks_before(bench.now())).await, 0);

    for task in &tasks {
        assert_eq!(bench.get(task.id).await, None);
    }
    for task in &young {
        bench.expect(task).await;
    }
}

pub(super) async fn success_and_failure_have_times_of_their_own(bench: &Bench<'_>) {
    use TaskStatus::{Cancelled, Failed, Interrupted, Success};
    one_of_each(bench).await;
    let (never, now) = (Timestamp::default(), bench.after(SECOND));

    let failures = Prune {
        finished_before: never,
        ..tasks_before(now)
    };
    assert_eq!(bench.prune(failures).await, 2);
    assert_eq!(statuses(bench).await, [Success, Cancelled]);
    one_of_each(bench).await;
    let others = Prune {
        failed_before: never,
        ..tasks_before(now)
    };
    assert_eq!(bench.prune(others).await, 4);

    assert_eq!(statuses(bench).await, [Failed, Interrupted]);
}

pub(super) async fn live_tasks_are_never_deleted(bench: &Bench<'_>) {
    let mut tasks = [
        bench.task("f"),
        bench.owned("f"),
        bench.task("f"),
        bench.task("f"),
        bench.task("f"),
    ];
    tasks[2].life.run_at = Timestamp::default();
    bench.add(&tasks).await;
    bench.start(&mut tasks[3]).await;
    bench.start(&mut tasks[4]).await;
    bench.fail_and_wait(&mut tasks[4]).await; // its attempt has ended, the task has not

    assert_eq!(bench.prune(tasks_before(Timestamp::MAX)).await, 0);

    for task in &tasks {
        bench.expect(task).await;
    }
}

pub(super) async fn a_part_is_bounded_and_a_round_ends(bench: &Bench<'_>) {
    let live = bench.task("f");
    bench.add_one(&live).await;
    for _ in 0..6 {
        one_of_each(bench).await;
        bench.add_one(&bench.task("f")).await;
    }
    for limit in [1, 2, 3] {
        let prune = Prune {
            limit,
            ..tasks_before(bench.after(SECOND))
        };
        let part = bench.backend.prune(prune).await.expect("a part");
        assert!(part.deleted <= limit);
        assert!(part.next.is_some(), "{} live tasks are left", 7);
    }

    // `Bench::prune` looks at each part of the round.
    let rest = Prune {
        limit: 2,
        ..tasks_before(bench.after(SECOND))
    };
    bench.prune(rest).await;

    assert_eq!(statuses(bench).await, [TaskStatus::Pending; 7]);
    let none_left = Prune {
        limit: 1_000,
        ..rest
    };
    let over = bench.backend.prune(none_left).await.expect("a round");
    assert_eq!((over.deleted, over.next), (0, None));
}

/// For stores that keep the tasks of each function apart.
pub(super) async fn a_round_reaches_what_is_old_of_all_functions(bench: &Bench<'_>) {
    let mut live = 0;
    let turns = (0..34).map(|n: usize| (format!("turn {}", n * (n / 17 + 2) % 17), 1));
    let few = [("busy", 30), ("rare", 1), ("new", 20), ("rare", 2)];
    let few = few.map(|(name, n)| (name.to_owned(), n));
    for (name, n) in few.into_iter().chain(turns) {
        for _ in 0..n {
            let mut task = bench.task(&name);
            bench.add_one(&task).await;
            bench.start(&mut task).await;
            bench.succeed(&mut task).await;
        }
        bench.add_one(&bench.task(&name)).await;
        live += 1;
    }

    let old = Prune {
        limit: 7,
        ..tasks_before(bench.after(SECOND))
    };
    assert_eq!(bench.prune(old).await, 53 + 34);

    assert_eq!(statuses(bench).await, vec![TaskStatus::Pending; live]);
}

pub(super) async fn what_is_kept_among_what_goes_is_listed_as_before(bench: &Bench<'_>) {
    for _ in 0..3 {
        one_of_each(bench).await;
        bench.add_one(&bench.task("f")).await;
    }

    let successes = Prune {
        failed_before: Timestamp::default(),
        limit: 100,
        ..tasks_before(bench.after(SECOND))
    };
    assert_eq!(bench.prune(successes).await, 6);

    let of_function = ListQuery {
        name: Some("f".to_owned()),
        ..ListQuery::default()
    };
    let listed = bench.walk(of_function).await;
    let (mut live, mut ended): (Vec<_>, Vec<_>) = listed
        .iter()
        .map(|task| task.life.status)
        .partition(|status| !status.is_terminal());
    live.sort_unstable();
    ended.sort_unstable();
    assert_eq!(live, [TaskStatus::Pending; 3]);
    let (failed, interrupted) = (TaskStatus::Failed, TaskStatus::Interrupted);
    assert_eq!(ended, [[failed; 3], [interrupted; 3]].concat());
}

pub(super) async fn a_deleted_task_leaves_nothing(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    task.tags.insert("a".to_owned(), "b".to_owned());
    task.tracking_id = Some("r".into());
    let fresh = task.clone();
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    let mut batch = bench.batch();
    batch.notes.push(line(&task, 0, "x"));
    bench.write(batch).await;
    bench.fail_and_wait(&mut task).await;
    bench.start(&mut task).await;
    bench.succeed(&mut task).await;

    bench.prune(tasks_before(Timestamp::MAX)).await;

    let tagged = ListQuery {
        tag: Some(("a".to_owned(), None)),
        ..ListQuery::default()
    };
    assert_eq!(bench.walk(tagged).await, []);
    let tracked = ListQuery {
        tracking_id: Some("r".to_owned()),
        ..ListQuery::default()
    };
    assert_eq!(bench.walk(tracked).await, []);
    assert_eq!(bench.lines(task.id).await, []);
    assert!(bench.counts().await.is_empty());
    // Its id is free: nothing of the old task is found under it.
    bench.add_one(&fresh).await;
    bench.expect(&fresh).await;
    assert_eq!(bench.lines(task.id).await, []);
}

pub(super) async fn deletion_leaves_the_series_alone(bench: &Bench<'_>) {
    one_of_each(bench).await;
    let before = bench.series(Timestamp::default()).await;

    bench.prune(tasks_before(Timestamp::MAX)).await;

    assert_eq!(before.len(), 4);
    assert_eq!(bench.series(Timestamp::default()).await, before);
}

pub(super) async fn old_minutes_and_audit_entries_are_deleted(bench: &Bench<'_>) {
    let mut entries = Vec::new();
    for _ in 0..2 {
        one_of_each(bench).await;
        let mut batch = bench.batch();
        batch.audit.push(AuditEntry {
            id: bench.id(),
            at: bench.now(),
            actor: "a".to_owned(),
            action: "b".to_owned(),
            task: None,
            detail: serde_json::Value::Null,
        });
        entries.extend(batch.audit.clone());
        bench.write(batch).await;
        bench.advance(Duration::from_secs(60));
    }
    let minutes = bench.series(Timestamp::default()).await;
    let (first, second) = (minutes[0].at, minutes[7].at);

    for (series_before, n_minutes, n_entries) in [
        (first, 8, 2),
        (first.saturating_add(Duration::from_millis(1)), 4, 2),
        (second, 4, 1),
        (entries[1].at, 0, 1),
        (Timestamp::MAX, 0, 0),
    ] {
        let prune = Prune {
            series_before,
            ..tasks_before(Timestamp::default())
        };
        assert_eq!(bench.prune(prune).await, 0);
        assert_eq!(bench.series(Timestamp::default()).await.len(), n_minutes);
        let left = bench.backend.audit(None, 10).await.expect("audit");
        assert_eq!(left.len(), n_entries);
    }
    assert_eq!(statuses(bench).await.len(), 8);
}
