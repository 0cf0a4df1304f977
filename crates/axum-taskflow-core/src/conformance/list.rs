//! Lists: what fits, in which order, and page by page.

use std::time::Duration;

use super::bench::{Bench, ids, tasks_before};
use crate::{
    backend::ListQuery,
    change::Outcome,
    clock::Timestamp,
    id::TaskId,
    status::TaskStatus,
    task::{Tags, Task},
};

fn all() -> ListQuery {
    ListQuery::default()
}

fn tagged(key: &str, value: Option<&str>) -> ListQuery {
    ListQuery {
        tag: Some((key.to_owned(), value.map(str::to_owned))),
        ..all()
    }
}

fn tracked(tracking_id: &str) -> ListQuery {
    ListQuery {
        tracking_id: Some(tracking_id.to_owned()),
        ..all()
    }
}

fn newest_first(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().rev().map(|task| task.id).collect()
}

/// Tasks of two functions, some tagged, some of a request, in every status; as they are stored, oldest first.
async fn mixed(bench: &Bench<'_>) -> Vec<Task> {
    let mut tasks = Vec::new();
    for n in 0..60 {
        bench.advance(Duration::from_millis(n % 2));
        let mut task = bench.task(["f", "g", "f"][n as usize % 3]);
        if n % 4 == 0 {
            task.tags.insert("plan".to_owned(), (n % 5).to_string());
        }
        if n % 5 == 0 {
            task.tags.insert("even".to_owned(), (n % 2).to_string());
        }
        if n % 3 != 1 {
            task.tracking_id = Some(format!("r{}", n % 2).into());
        }
        bench.add_one(&task).await;
        if n % 7 != 0 {
            bench.start(&mut task).await;
        }
        match n % 7 {
            2 => bench.succeed(&mut task).await,
            3 => bench.fail(&mut task).await,
            4 => bench.finish(&mut task, Outcome::Cancelled).await,
            5 => bench.finish(&mut task, Outcome::Interrupted("test")).await,
            _ => {}
        }
        tasks.push(task);
    }
    tasks
}

pub(super) async fn the_newest_task_comes_first(bench: &Bench<'_>) {
    assert_eq!(bench.walk(all()).await, []);
    let mut tasks = Vec::new();
    for _ in 0..5 {
        bench.advance(Duration::from_millis(3));
        tasks.push(bench.task("f"));
    }
    let mut shuffled = tasks.clone();
    shuffled.swap(0, 3);
    shuffled.swap(1, 4);
    bench.add(&shuffled).await;

    tasks.reverse();
    assert_eq!(bench.walk(all()).await, tasks);
}

pub(super) async fn ids_of_one_millisecond_keep_their_order(bench: &Bench<'_>) {
    let tasks: Vec<Task> = (0..1_000).map(|_| bench.task("f")).collect();
    let mut shuffled = tasks.clone();
    shuffled.rotate_left(313);
    bench.add(&shuffled).await;

    assert_eq!(bench.walk_ids(all()).await, newest_first(&tasks));
}

pub(super) async fn filters_give_what_fits_and_nothing_else(bench: &Bench<'_>) {
    let tasks = mixed(bench).await;
    let statuses = TaskStatus::ALL.into_iter().map(Some).chain([None]);
    let names = ["f", "g", "unknown"].into_iter().map(Some).chain([None]);
    let tags = [
        None,
        Some(("plan", None)),
        Some(("plan", Some("0"))),
        Some(("plan", Some("9"))),
        Some(("even", Some("0"))),
        Some(("unknown", None)),
    ];

    let requests = [None, Some("r0"), Some("r1"), Some("r")];

    for status in statuses {
        for name in names.clone() {
            for (tag, request) in tags.iter().flat_map(|tag| requests.map(|r| (*tag, r))) {
                let fits = |task: &&Task| {
                    status.is_none_or(|status| task.life.status == status)
                        && name.is_none_or(|name| *task.name == *name)
                        && request.is_none_or(|id| task.tracking_id.as_deref() == Some(id))
                        && tag.is_none_or(|(key, value)| {
                            let found = task.tags.get(key);
                            found.is_some_and(|found| value.is_none_or(|value| value == found))
                        })
                };
                let expected: Vec<Task> = tasks.iter().rev().filter(fits).cloned().collect();
                let query = ListQuery {
                    status,
                    name: name.map(str::to_owned),
                    tag: tag.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))),
                    tracking_id: request.map(str::to_owned),
                    ..all()
                };
                assert_eq!(bench.walk(query.clone()).await, expected, "{query:?}");
            }
        }
    }
}

pub(super) async fn filters_follow_a_task_through_its_life(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    bench.add_one(&task).await;
    let only_in = async |status: TaskStatus| {
        for other in TaskStatus::ALL {
            let query = ListQuery {
                status: Some(other),
                ..all()
            };
            let n = usize::from(other == status);
            assert_eq!(bench.walk(query).await.len(), n, "{other} of {status}");
        }
    };

    only_in(TaskStatus::Pending).await;
    task = bench.claim(&["f"], 1).await.tasks.remove(0);
    only_in(TaskStatus::Running).await;
    bench.fail_and_wait(&mut task).await;
    only_in(TaskStatus::Pending).await;
    bench.start(&mut task).await;
    bench.succeed(&mut task).await;
    only_in(TaskStatus::Success).await;
}

pub(super) async fn names_tags_and_tracking_ids_are_compared_byte_for_byte(bench: &Bench<'_>) {
    let texts = [
        "a", "A", "a ", "", "%", "_", "a%", "a:b", "a=b", "\"a\"", "é", "e\u{301}", "a\0",
    ];
    let tasks: Vec<Task> = texts
        .iter()
        .map(|text| {
            let mut task = bench.task(text);
            task.tags = Tags::from([
                ((*text).to_owned(), "value".to_owned()),
                ("key".to_owned(), (*text).to_owned()),
            ]);
            task.tracking_id = (!text.is_empty()).then(|| (*text).into());
            task
        })
        .collect();
    bench.add(&tasks).await;

    for (text, task) in texts.iter().zip(&tasks) {
        let named = ListQuery {
            name: Some((*text).to_owned()),
            ..all()
        };
        for query in [
            named,
            tagged(text, None),
            tagged(text, Some("value")),
            tagged("key", Some(text)),
        ] {
            assert_eq!(bench.walk_ids(query.clone()).await, [task.id], "{query:?}");
        }
        if !text.is_empty() {
            assert_eq!(bench.walk_ids(tracked(text)).await, [task.id], "{text:?}");
        }
    }
    assert_eq!(bench.walk(tracked("key")).await, []);
    assert_eq!(bench.walk(tagged("a", Some("b"))).await, []);
    assert_eq!(bench.walk(tagged("value", None)).await, []);
}

pub(super) async fn pages_of_any_size_show_each_task_once(bench: &Bench<'_>) {
    let tasks = mixed(bench).await;
    let of_f: Vec<Task> = tasks
        .iter()
        .filter(|task| &*task.name == "f")
        .cloned()
        .collect();

    for limit in [1, 2, 7, 20, 59, 60, 61, usize::MAX] {
        let query = ListQuery { limit, ..all() };
        assert_eq!(bench.walk_ids(query.clone()).await, newest_first(&tasks));
        let named = ListQuery {
            name: Some("f".to_owned()),
            ..query
        };
        assert_eq!(bench.walk_ids(named).await, newest_first(&of_f));
    }
}

/// For stores that keep the tasks of each function apart.
pub(super) async fn tasks_of_rare_and_of_busy_functions_stand_where_they_belong(bench: &Bench<'_>) {
    let mut tasks = Vec::new();
    for (name, n) in [("busy", 70), ("rare", 1), ("new", 45), ("rare", 2)] {
        tasks.extend((0..n).map(|_| bench.task(name)));
        tasks.push(bench.task("busy"));
    }
    // Of 17 more each has its turn, each time in another order.
    tasks.extend((0..100).map(|n: usize| bench.task(&format!("turn {}", n * (n / 17 + 1) % 17))));
    bench.add(&tasks).await;

    for limit in [1, 3, 10, 1_000] {
        let query = ListQuery { limit, ..all() };
        assert_eq!(bench.walk_ids(query).await, newest_first(&tasks));
    }
    for n in 1..=tasks.len() {
        let query = ListQuery { limit: n, ..all() };
        let page = bench.backend.list(query).await.expect("a page");
        assert_eq!(ids(&page.tasks), newest_first(&tasks)[..n]);
    }
}

pub(super) async fn before_and_after_leave_out_their_own_ids(bench: &Bench<'_>) {
    let tasks = mixed(bench).await;
    let id = |n: usize| Some(tasks[n].id);

    for limit in [3, 100] {
        let between = async |after, before| {
            let query = ListQuery {
                after,
                before,
                limit,
                ..all()
            };
            bench.walk_ids(query).await
        };
        assert_eq!(between(None, id(20)).await, newest_first(&tasks[..20]));
        assert_eq!(between(id(20), None).await, newest_first(&tasks[21..]));
        assert_eq!(between(id(20), id(40)).await, newest_first(&tasks[21..40]));
        assert_eq!(between(id(20), id(21)).await, []);
        assert_eq!(between(id(20), id(20)).await, []);
        assert_eq!(between(id(40), id(20)).await, []);
        let time = TaskId::floor(tasks[30].created_at());
        let first = tasks.partition_point(|task| task.id < time);
        assert_eq!(
            between(Some(time), None).await,
            newest_first(&tasks[first..])
        );
    }
}

pub(super) async fn paging_goes_on_where_it_was_while_tasks_come_and_go(bench: &Bench<'_>) {
    let tasks = mixed(bench).await;
    let mut query = ListQuery { limit: 10, ..all() };
    let mut shown = Vec::new();
    loop {
        let page = bench.backend.list(query.clone()).await.expect("a page");
        shown.extend(ids(&page.tasks));
        let Some(next) = page.next else { break };
        query.before = Some(next);
        if shown.len() == 10 {
            // Of what is still to be shown, some is deleted; and new tasks come all the time.
            let deleted = bench.prune(tasks_before(tasks[50].created_at())).await;
            assert!(deleted > 0);
        }
        bench.add(&[bench.task("f"), bench.task("g")]).await;
        assert!(shown.len() <= 60, "new tasks are not shown");
    }

    assert!(shown.is_sorted_by(|a, b| a > b), "no task is shown twice");
    let left: Vec<TaskId> = ids(&bench.walk(all()).await);
    let missed = tasks
        .iter()
        .filter(|task| left.contains(&task.id) && !shown.contains(&task.id));
    assert_eq!(missed.count(), 0);
}

pub(super) async fn payloads_are_cut_at_a_character(bench: &Bench<'_>) {
    let text = "aß漢🦀".repeat(100);
    let mut task = bench.task("f");
    task.args = text.as_str().into();
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    bench
        .finish(&mut task, Outcome::Done(Some(text.as_str().into())))
        .await;

    for payload_max in (0..12).chain([999, 1_000, 1_001, usize::MAX]) {
        let query = ListQuery {
            payload_max,
            ..all()
        };
        let whole = &text[..text.floor_char_boundary(payload_max)];
        let listed = bench.walk(query).await.remove(0);
        assert_eq!(&*listed.args, whole, "{payload_max} bytes");
        assert_eq!(listed.life.result.as_deref(), Some(whole));
    }
    bench.expect(&task).await;
}

pub(super) async fn a_page_has_at_most_its_limit(bench: &Bench<'_>) {
    let tasks = [bench.task("f"), bench.task("f")];
    bench.add(&tasks).await;

    for (limit, n_shown) in [(0, 0), (1, 1), (2, 2), (usize::MAX, 2)] {
        let query = ListQuery { limit, ..all() };
        let page = bench.backend.list(query).await.expect("a page");
        assert_eq!(page.tasks.len(), n_shown);
    }
    let query = ListQuery {
        after: Some(TaskId::floor(Timestamp::MAX)),
        ..all()
    };
    assert_eq!(bench.walk(query).await, []);
}
