//! New tasks: what is stored, and what is answered.

use std::{sync::Arc, time::Duration};

use super::bench::{Bench, line};
use crate::{
    backend::{Applied, AuditEntry, Enqueued, ListQuery, Written},
    change::Change,
    clock::Timestamp,
    id::InstanceId,
    status::TaskStatus,
    task::{Executor, IdempotencyKey, Source, Tags, Task, TaskOptions},
    tracking::TRACKING_ID_LEN_MAX,
};

pub(super) async fn a_task_can_be_stored_as_one_that_has_begun(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", Duration::from_secs(60));
    let start = Change::started(&task, bench.me, bench.now()).expect("it waits");
    task.life = start.life;

    assert_eq!(bench.enqueue(&task).await, Enqueued::Created);

    bench.expect(&task).await;
    assert_eq!(bench.claim(&["f"], 9).await.tasks, []);
    let counts = bench.counts().await;
    let expected = (("f".to_owned(), TaskStatus::Running), 1);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [expected]);
    bench.advance(Duration::from_secs(1));
    bench.succeed(&mut task).await;
    bench.expect(&task).await;
}

pub(super) async fn a_task_is_stored_as_it_is_given(bench: &Bench<'_>) {
    let mut task = Task::new(bench.id(), "resize", r#"["a.png",{"width":200}]"#);
    task.priority = -3;
    task.tags = tags(&[("plan", "pro"), ("user", "7")]);
    task.requeue_on_interrupt = true;
    task.idempotency_key = Some(IdempotencyKey {
        key: "resize-a".to_owned(),
        ttl: Duration::from_millis(86_400_001),
    });
    task.options = TaskOptions {
        retries: Some(3),
        delay: Some(Duration::from_millis(1_500)),
        backoff: Some(2.5),
        max_delay: Some(Duration::from_secs(60)),
        jitter: Some(0.25),
        timeout: Some(Duration::from_nanos(1)),
        priority: Some(-3),
        requeue_on_interrupt: Some(true),
        idempotency_ttl: Some(Duration::ZERO),
    };
    task.source = Source::Retry;
    task.retry_of = Some(bench.id());
    task.tracking_id = Some("r-1".into());
    task.trace_context =
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 a=1,b=2".into());
    task.executor = Executor::Thread;
    task.life.owner = Some(bench.me);
    task.life.run_at = bench.after(Duration::from_millis(1));

    bench.add(&[task.clone(), bench.task("plain")]).await;

    bench.expect(&task).await;
}

pub(super) async fn each_field_is_stored_without_the_others(bench: &Bench<'_>) {
    let one_set: [fn(&mut Task); 12] = [
        |_| {},
        |task| task.priority = 1,
        |task| task.tags = tags(&[("a", "b")]),
        |task| task.requeue_on_interrupt = true,
        |task| task.options.retries = Some(0),
        |task| task.source = Source::Retry,
        |task| task.retry_of = Some(task.id),
        |task| task.tracking_id = Some("r-1".into()),
        |task| task.trace_context = Some("00-a-b-01".into()),
        |task| task.executor = Executor::Thread,
        |task| task.life.owner = Some(InstanceId::from_bytes([7; 16])),
        |task| {
            task.idempotency_key = Some(IdempotencyKey {
                key: "k".to_owned(),
                ttl: Duration::ZERO,
            });
        },
    ];
    let tasks: Vec<Task> = one_set
        .iter()
        .map(|set| {
            let mut task = bench.task("f");
            set(&mut task);
            task
        })
        .collect();

    bench.add(&tasks).await;

    for task in &tasks {
        bench.expect(task).await;
    }
}

pub(super) async fn an_id_that_is_not_stored_is_no_task(bench: &Bench<'_>) {
    bench.add_one(&bench.task("f")).await;

    assert_eq!(bench.get(bench.id()).await, None);
}

pub(super) async fn texts_of_every_kind_survive(bench: &Bench<'_>) {
    let texts = [
        String::new(),
        " ".to_owned(),
        "'; DROP TABLE task; --".to_owned(),
        r#"{"a":"\\\"%_*?["}"#.to_owned(),
        "ä ß 漢字 🦀 \u{202e}abc e\u{301}".to_owned(),
        "a\0b\r\n\t\u{7f}\u{feff}\u{10ffff}".to_owned(),
        "漢".repeat(400_000),
    ];

    for text in &texts {
        let mut task = Task::new(bench.id(), &**text, &**text);
        task.tags = tags(&[(text, text), ("x", text)]);
        if (1..=TRACKING_ID_LEN_MAX).contains(&text.len()) {
            task.tracking_id = Some(text.as_str().into());
        }
        bench.add_one(&task).await;

        bench.expect(&task).await;
        let named = ListQuery {
            name: Some(text.clone()),
            payload_max: usize::MAX,
            ..ListQuery::default()
        };
        assert_eq!(bench.walk(named).await, [task]);
    }
}

pub(super) async fn numbers_and_times_survive_at_their_ends(bench: &Bench<'_>) {
    for (priority, run_at) in [
        (i32::MIN, Timestamp::default()),
        (i32::MAX, Timestamp::MAX),
        (-1, Timestamp::from_unix_ms(1)),
    ] {
        let mut task = bench.task("f");
        task.priority = priority;
        task.options.priority = Some(priority);
        task.options.retries = Some(u32::MAX);
        task.options.delay = Some(Duration::MAX);
        task.life.run_at = run_at;
        bench.add_one(&task).await;

        bench.expect(&task).await;
    }
}

pub(super) async fn a_task_whose_id_is_stored_is_created_and_left_as_it_is(bench: &Bench<'_>) {
    let first = bench.task("f");
    let mut again = Task::new(first.id, "g", "[1]");
    again.tags = tags(&[("a", "b")]);
    bench.add(&[first.clone(), again.clone()]).await;

    assert_eq!(bench.enqueue(&again).await, Enqueued::Created);

    bench.expect(&first).await;
    assert_eq!(bench.counts().await.into_values().sum::<u64>(), 1);
    let tagged = ListQuery {
        tag: Some(("a".to_owned(), None)),
        ..ListQuery::default()
    };
    assert_eq!(bench.walk(tagged).await, []);
    assert_eq!(bench.claim_ids(&["f", "g"], 9).await, [first.id]);
}

pub(super) async fn a_batch_that_is_written_twice_doubles_nothing(bench: &Bench<'_>) {
    let mut retried = bench.owned("f");
    let start = Change::started(&retried, bench.me, bench.now()).expect("it waits");
    let mut batch = bench.batch();
    batch.tasks.push(Arc::new(retried.clone()));
    retried.life = start.life.clone();
    let end = Change::interrupted(&retried, "test", bench.now()).expect("it runs");
    batch.changes = vec![start, end.clone()];
    batch.notes = vec![line(&retried, 0, "one"), line(&retried, 1, "two")];
    batch.audit.push(AuditEntry {
        id: bench.id(),
        at: bench.now(),
        actor: "somebody".to_owned(),
        action: "cancel".to_owned(),
        task: Some(retried.id),
        detail: serde_json::Value::Null,
    });
    retried.life = end.life;

    let first = bench.write(batch.clone()).await;
    let second = bench.write(batch).await;

    assert_eq!(first.changes, [Applied::Applied; 2]);
    assert_eq!(second.tasks, [Enqueued::Created]);
    // The start is history by now, the end is what is stored.
    assert_eq!(second.changes, [Applied::Stale, Applied::Applied]);
    bench.expect(&retried).await;
    assert_eq!(bench.messages(retried.id).await, ["one", "two"]);
    let counts = bench.counts().await;
    let expected = (("f".to_owned(), TaskStatus::Interrupted), 1);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [expected]);
    let minutes = bench.series(Timestamp::default()).await;
    assert_eq!(minutes.iter().map(|minute| minute.n).sum::<u64>(), 1);
    let audit = bench.backend.audit(None, 10).await.expect("audit");
    assert_eq!(audit.len(), 1);
}

pub(super) async fn of_a_large_batch_that_is_written_again_in_part_only_the_rest_is_done(
    bench: &Bench<'_>,
) {
    const N: usize = 500;
    let mut tasks: Vec<Task> = (0..N)
        .map(|n| match n % 5 {
            0 => bench.task("g"),
            1 => bench.owned("f"),
            _ => bench.task("f"),
        })
        .collect();
    tasks[300].tags = tags(&[("a", "b")]);
    // One alone, and some that have come together.
    bench.add(&tasks[100..101]).await;
    bench.add(&tasks[400..450]).await;
    let mut batch = bench.batch();
    batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
    batch.tasks.push(batch.tasks[N - 1].clone());

    let written = bench.write(batch).await;

    assert_eq!(written.tasks, vec![Enqueued::Created; N + 1]);
    let counts = bench.counts().await;
    let count = |name: &str| counts[&(name.to_owned(), TaskStatus::Pending)];
    assert_eq!([count("g"), count("f")], [100, 400]);
    assert_eq!(bench.walk(ListQuery::default()).await.len(), N);
    for task in tasks.iter().step_by(7) {
        bench.expect(task).await;
    }
    // Each is found when it begins and ends.
    let owned: Vec<Task> = tasks.into_iter().skip(1).step_by(5).collect();
    for mut task in owned {
        bench.start(&mut task).await;
        bench.succeed(&mut task).await;
        bench.expect(&task).await;
    }
    assert_eq!(bench.count("f", TaskStatus::Success).await, 100);
}

pub(super) async fn of_a_batch_that_is_written_again_in_part_only_the_rest_is_done(
    bench: &Bench<'_>,
) {
    let mut tagged = bench.task("f");
    tagged.tags = tags(&[("a", "b")]);
    let stored = [
        bench.task("f"),
        bench.owned("f"),
        bench.keyed("mine", Duration::ZERO),
        tagged.clone(),
    ];
    bench.add(&stored).await;
    // One of them has gone on since.
    let mut begun = stored[1].clone();
    bench.start(&mut begun).await;
    tagged.id = bench.id();
    let rest = [
        bench.owned("f"),
        bench.task("f"),
        tagged,
        bench.keyed("mine", Duration::ZERO),
        bench.keyed("free", Duration::ZERO),
        bench.task("g"),
    ];
    let mut batch = bench.batch();
    batch.tasks = stored.iter().chain(&rest).cloned().map(Arc::new).collect();
    // What is stored stays as it is, whatever is written over it.
    let mut other = stored[0].clone();
    other.tags = tags(&[("a", "c")]);
    batch.tasks[0] = Arc::new(other);

    let written = bench.write(batch).await;

    let (created, exists) = (
        Enqueued::Created,
        Enqueued::Exists {
            id: stored[2].id,
            name: stored[2].name.clone(),
        },
    );
    for (n, answer) in written.tasks.iter().enumerate() {
        let expected = if n == 7 { &exists } else { &created };
        assert_eq!(answer, expected, "task {n}");
    }
    let counts = bench.counts().await;
    let count = |name: &str, status| counts[&(name.to_owned(), status)];
    assert_eq!(count("f", TaskStatus::Pending), 7);
    assert_eq!(count("f", TaskStatus::Running), 1);
    assert_eq!(count("g", TaskStatus::Pending), 1);
    let expected = [
        &stored[0], &begun, &stored[2], &stored[3], &rest[0], &rest[1], &rest[2], &rest[4],
        &rest[5],
    ];
    for task in expected {
        bench.expect(task).await;
    }
    assert_eq!(bench.get(rest[3].id).await, None);
    let mut newest_first: Vec<Task> = expected.into_iter().cloned().collect();
    newest_first.sort_by_key(|task| std::cmp::Reverse(task.id));
    assert_eq!(bench.walk(ListQuery::default()).await, newest_first);
    let tagged = ListQuery {
        tag: Some(("a".to_owned(), None)),
        ..ListQuery::default()
    };
    assert_eq!(
        bench.walk(tagged).await,
        [rest[2].clone(), stored[3].clone()]
    );
    let mut waiting = bench.claim_ids(&["f", "g"], 99).await;
    waiting.sort();
    let mut nobodys = [
        &stored[0], &stored[2], &stored[3], &rest[1], &rest[2], &rest[4], &rest[5],
    ]
    .map(|task| task.id);
    nobodys.sort();
    assert_eq!(waiting, nobodys);
}

pub(super) async fn answers_stand_in_the_order_of_the_tasks(bench: &Bench<'_>) {
    let taken = bench.keyed("taken", Duration::ZERO);
    bench.add_one(&taken).await;
    let exists = Enqueued::Exists {
        id: taken.id,
        name: taken.name.clone(),
    };

    let mut batch = bench.batch();
    for n in 0..6 {
        let task = match n % 3 {
            1 => bench.keyed("taken", Duration::ZERO),
            _ => bench.task("f"),
        };
        batch.tasks.push(Arc::new(task));
    }
    let written = bench.write(batch).await;

    let created = Enqueued::Created;
    let third = [created.clone(), exists, created];
    assert_eq!(written.tasks, [&third[..], &third[..]].concat());
}

pub(super) async fn an_empty_batch_is_written(bench: &Bench<'_>) {
    let written = bench.write(bench.batch()).await;

    assert!(written.tasks.is_empty() && written.changes.is_empty());
}

pub(super) async fn a_batch_that_is_taken_later_is_written_like_any_other(bench: &Bench<'_>) {
    let (first, mut second) = (bench.task("f"), bench.task("f"));
    let mut batch = bench.batch();
    batch.tasks.push(first.clone().into());
    let mut later = bench.batch();
    later.tasks = vec![second.clone().into(), first.clone().into()];
    let started = Change::started(&second, bench.me, bench.now()).expect("it waits");
    later.changes.push(started.clone());
    let next = move || Some(Arc::new(later));

    let given = bench.backend.write(batch.into());
    let taken = bench.backend.pull(Box::new(next));
    let (given, taken) = futures_util::join!(given, taken);

    assert_eq!(given.expect("it is written").tasks, [Enqueued::Created]);
    let taken = taken.expect("it is written");
    assert_eq!(taken.tasks, [Enqueued::Created, Enqueued::Created]);
    assert_eq!(taken.changes, [Applied::Applied]);
    second.life = started.life;
    bench.expect(&first).await;
    bench.expect(&second).await;
}

pub(super) async fn if_there_is_nothing_to_take_nothing_is_written(bench: &Bench<'_>) {
    let nothing = bench.backend.pull(Box::new(|| None)).await;

    assert_eq!(nothing.expect("it can be asked"), Written::default());
    let mut batch = bench.batch();
    batch.tasks.push(bench.task("f").into());
    let written = bench.backend.write(batch.into()).await;
    assert_eq!(written.expect("it goes on").tasks, [Enqueued::Created]);
}

pub(super) async fn ten_thousand_tasks_fit_in_one_batch(bench: &Bench<'_>) {
    let tasks: Vec<Task> = (0..10_000).map(|_| bench.task("f")).collect();

    bench.add(&tasks).await;

    let counts = bench.counts().await;
    assert_eq!(counts[&("f".to_owned(), TaskStatus::Pending)], 10_000);
    bench.expect(&tasks[0]).await;
    bench.expect(&tasks[9_999]).await;
}

pub(super) async fn writers_at_once_lose_nothing(bench: &Bench<'_>) {
    let mut writers = tokio::task::JoinSet::new();
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let mine: Vec<Task> = (0..10).map(|_| bench.task("f")).collect();
        tasks.extend(mine.clone());
        let (backend, mut batch) = (bench.backend.clone(), bench.batch());
        writers.spawn(async move {
            for task in mine {
                batch.tasks = vec![Arc::new(task)];
                let written = backend.write(Arc::new(batch.clone())).await;
                assert_eq!(written.expect("written").tasks, [Enqueued::Created]);
            }
        });
    }

    writers.join_all().await;

    tasks.reverse();
    assert_eq!(bench.walk(ListQuery::default()).await, tasks);
    assert_eq!(bench.counts().await.into_values().sum::<u64>(), 640);
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    owned.collect()
}
