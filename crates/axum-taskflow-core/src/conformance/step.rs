//! Steps: all or nothing, if everything stands as it was seen.

use std::{sync::Arc, time::Duration};

use super::{
    bench::Bench,
    records::{put, written},
};
use crate::{
    backend::{AuditEntry, Becomes, Enqueued, RecordChange, Step, Stepped},
    change::Change,
    task::Task,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A step that writes a record and adds a task.
fn fire(bench: &Bench<'_>, expects: u64, value: &str, task: &Task) -> Step {
    let mut step = Step::at(bench.now());
    step.records.push(put("r", expects, value));
    step.tasks.push(Arc::new(task.clone()));
    step
}

fn gone(key: &str, expects: u64) -> RecordChange {
    RecordChange {
        key: key.to_owned(),
        expects,
        becomes: Becomes::Gone,
    }
}

fn same(key: &str, expects: u64) -> RecordChange {
    RecordChange {
        key: key.to_owned(),
        expects,
        becomes: Becomes::Same,
    }
}

pub(super) async fn a_step_writes_its_record_and_stores_its_task(bench: &Bench<'_>) {
    let task = bench.task("f");

    let stepped = bench.step(fire(bench, 0, "fired", &task)).await;

    let record = bench.record("r").await.expect("it was written");
    assert_eq!(
        stepped,
        Stepped::Done {
            versions: vec![record.version],
            tasks: vec![Enqueued::Created]
        }
    );
    assert_eq!(&*record.value, "fired");
    assert_eq!(bench.get(task.id).await, Some(task));
}

pub(super) async fn a_step_that_expects_another_version_changes_nothing(bench: &Bench<'_>) {
    let version = written(bench, "r", 0, "first").await;
    let task = bench.task("f");

    for expects in [0, version + 1, version - 1] {
        let mut step = fire(bench, expects, "second", &task);
        step.records.insert(0, put("another", 0, "x"));
        assert_eq!(bench.step(step).await, Stepped::Stale, "{expects}");
    }

    assert_eq!(bench.get(task.id).await, None);
    assert_eq!(bench.record("another").await, None);
    assert_eq!(
        &*bench.record("r").await.expect("it is there").value,
        "first"
    );
}

pub(super) async fn a_step_with_a_stale_change_changes_nothing(bench: &Bench<'_>) {
    let (mut begun, new) = (bench.task("f"), bench.task("f"));
    bench.add_one(&begun).await;
    let cancelled = Change::cancelled(&begun, bench.now()).expect("it waits");
    bench.start(&mut begun).await;

    let mut step = fire(bench, 0, "x", &new);
    step.changes.push(cancelled);

    assert_eq!(bench.step(step).await, Stepped::Stale);
    assert_eq!(bench.record("r").await, None);
    assert_eq!(bench.get(new.id).await, None);
    assert_eq!(bench.get(begun.id).await, Some(begun));
}

pub(super) async fn a_step_changes_tasks_and_records_together(bench: &Bench<'_>) {
    let mut waits = bench.task("f");
    bench.add_one(&waits).await;
    let version = written(bench, "r", 0, "x").await;

    let mut step = Step::at(bench.now());
    let cancelled = Change::cancelled(&waits, bench.now()).expect("it waits");
    waits.life = cancelled.life.clone();
    step.changes.push(cancelled);
    step.records.push(gone("r", version));
    let stepped = bench.step(step).await;

    assert_eq!(
        stepped,
        Stepped::Done {
            versions: vec![0],
            tasks: vec![]
        }
    );
    assert_eq!(bench.record("r").await, None);
    assert_eq!(bench.get(waits.id).await, Some(waits));
}

pub(super) async fn a_step_that_was_taken_before_is_done(bench: &Bench<'_>) {
    let (task, mut waits) = (bench.task("f"), bench.task("f"));
    bench.add_one(&waits).await;
    let version = written(bench, "old", 0, "x").await;
    let mut step = fire(bench, 0, "mine", &task);
    step.records.push(gone("old", version));
    let cancelled = Change::cancelled(&waits, bench.now()).expect("it waits");
    waits.life = cancelled.life.clone();
    step.changes.push(cancelled);

    let first = bench.step(step.clone()).await;
    let again = bench.step(step).await;

    assert_ne!(first, Stepped::Stale);
    assert_eq!(again, first);
    assert_eq!(bench.get(waits.id).await, Some(waits));
    let n_cancelled = bench.count("f", crate::TaskStatus::Cancelled).await;
    assert_eq!(n_cancelled, 1);
}

pub(super) async fn a_step_can_require_a_record_that_stays(bench: &Bench<'_>) {
    let version = written(bench, "lead", 0, "me").await;
    let (task, late) = (bench.task("f"), bench.task("f"));
    let under = |version, task: &Task| {
        let mut step = Step::at(bench.now());
        step.records.push(same("lead", version));
        step.tasks.push(Arc::new(task.clone()));
        step
    };

    let stepped = bench.step(under(version, &task)).await;
    let newer = written(bench, "lead", version, "another").await;
    let refused = bench.step(under(version, &late)).await;
    let unknown = bench.step(under(0, &late)).await;

    assert_eq!(
        stepped,
        Stepped::Done {
            versions: vec![version],
            tasks: vec![Enqueued::Created]
        }
    );
    assert_eq!((refused, unknown), (Stepped::Stale, Stepped::Stale));
    assert_eq!(
        bench.record("lead").await.expect("it is there").version,
        newer
    );
    assert_eq!(bench.get(late.id).await, None);
}

pub(super) async fn a_step_was_taken_if_its_task_is_stored_whatever_came_after_it(
    bench: &Bench<'_>,
) {
    let version = written(bench, "lead", 0, "me").await;
    let mut waits = bench.task("f");
    bench.add_one(&waits).await;
    let (first, second) = (bench.task("f"), bench.task("f"));
    let mut step = fire(bench, 0, "mine", &first);
    step.records.push(same("lead", version));
    step.tasks.push(Arc::new(second.clone()));
    let cancelled = Change::cancelled(&waits, bench.now()).expect("it waits");
    waits.life = cancelled.life.clone();
    step.changes.push(cancelled);
    let Stepped::Done { versions, .. } = bench.step(step.clone()).await else {
        panic!("everything stands as it was seen");
    };
    let newest = written(bench, "lead", version, "another").await;
    let another = written(bench, "r", versions[0], "another's").await;

    let again = bench.step(step).await;

    assert_eq!(
        again,
        Stepped::Done {
            versions: vec![another, newest],
            tasks: vec![Enqueued::Created, Enqueued::Created]
        }
    );
    let record = bench.record("r").await.expect("it is there");
    assert_eq!(&*record.value, "another's");
    for task in [first, second, waits] {
        assert_eq!(bench.get(task.id).await, Some(task));
    }
    assert_eq!(bench.count("f", crate::TaskStatus::Cancelled).await, 1);
    assert_eq!(bench.count("f", crate::TaskStatus::Pending).await, 2);
}

pub(super) async fn of_many_steps_at_once_one_is_taken(bench: &Bench<'_>) {
    let mut takers = tokio::task::JoinSet::new();
    for n in 0..200 {
        let step = Arc::new(fire(bench, 0, &n.to_string(), &bench.task("f")));
        let backend = bench.backend.clone();
        takers.spawn(async move { (n, backend.step(step).await.expect("answered")) });
    }

    let answers = takers.join_all().await;

    let taken = answers.iter().filter(|(_, it)| *it != Stepped::Stale);
    let taken: Vec<i32> = taken.map(|(n, _)| *n).collect();
    assert_eq!(taken.len(), 1);
    let record = bench.record("r").await.expect("one has written it");
    assert_eq!(&*record.value, taken[0].to_string());
    assert_eq!(bench.walk_ids(crate::ListQuery::default()).await.len(), 1);
}

pub(super) async fn a_task_finds_the_key_that_its_step_has_freed(bench: &Bench<'_>) {
    let (old, new) = (bench.keyed("k", HOUR), bench.keyed("k", HOUR));
    bench.add_one(&old).await;
    let mut step = Step::at(bench.now());
    step.changes
        .push(Change::cancelled(&old, bench.now()).expect("it waits"));
    step.tasks.push(Arc::new(new.clone()));

    let stepped = bench.step(step).await;

    assert_eq!(
        stepped,
        Stepped::Done {
            versions: vec![],
            tasks: vec![Enqueued::Created]
        }
    );
    let third = bench.keyed("k", HOUR);
    assert_eq!(
        bench.enqueue(&third).await,
        Enqueued::Exists {
            id: new.id,
            name: new.name
        }
    );
}

pub(super) async fn a_task_whose_key_is_taken_is_answered_as_in_a_batch(bench: &Bench<'_>) {
    let holder = bench.keyed("k", HOUR);
    bench.add_one(&holder).await;
    let refused = bench.keyed("k", HOUR);

    let stepped = bench.step(fire(bench, 0, "x", &refused)).await;

    let Stepped::Done { tasks, .. } = stepped else {
        panic!("a key is no condition");
    };
    assert_eq!(
        tasks,
        [Enqueued::Exists {
            id: holder.id,
            name: holder.name
        }]
    );
    assert_eq!(bench.get(refused.id).await, None);
}

pub(super) async fn a_step_is_taken_with_its_audit_entries(bench: &Bench<'_>) {
    let entry = AuditEntry {
        id: bench.id(),
        at: bench.now(),
        actor: "ada".to_owned(),
        action: "pause".to_owned(),
        task: None,
        detail: serde_json::Value::Null,
    };
    let mut step = Step::at(bench.now());
    step.records.push(put("r", 0, "x"));
    step.audit.push(entry.clone());
    let mut stale = step.clone();
    stale.records[0] = put("r", 77, "y");
    stale.audit[0].id = bench.id();

    assert_eq!(bench.step(stale).await, Stepped::Stale);
    assert_ne!(bench.step(step).await, Stepped::Stale);

    let entries = bench.backend.audit(None, 10).await.expect("read");
    assert_eq!(entries, [entry]);
}

pub(super) async fn what_a_step_stores_is_claimed(bench: &Bench<'_>) {
    let task = bench.task("f");
    bench.step(fire(bench, 0, "x", &task)).await;

    let claimed = bench.claim(&["f"], 10).await;

    assert_eq!(claimed.tasks.len(), 1);
    assert_eq!(claimed.tasks[0].id, task.id);
}
