//! What is claimed and taken over: in parts that a link carries in time, and also of instances that the server has forgotten.

use std::{collections::BTreeSet, sync::Arc};

use crate::support::{NOW, Store, patient};
use axum_taskflow_core::{
    Backend, Batch, Change, Claim, IdempotencyKey, ListQuery, Task, TaskId, TaskStatus,
};
use servers::RedisServer;

const N: usize = 12;
/// Of the arguments of each task, in bytes.
const LARGE: usize = 1_000_000;

fn large(mut task: Task) -> Task {
    task.args = format!("[{:?}]", "x".repeat(LARGE)).into();
    task
}

async fn store(server: &RedisServer) -> Store {
    Store::open(patient(server.url())).await
}

#[tokio::test]
async fn a_claim_of_large_tasks_brings_some_and_says_that_there_are_more() {
    let server = RedisServer::start();
    let store = store(&server).await;
    for _ in 0..N {
        store.add(&large(store.task())).await;
    }

    let mut brought = BTreeSet::<TaskId>::new();
    let mut n_claims = 0;
    while brought.len() < N {
        let claim = Claim {
            owner: store.me,
            names: vec!["f".into()].into(),
            except: Arc::default(),
            limit: 100,
            now: NOW,
            reserve: None,
        };
        let claimed = store.backend.claim(claim).await.unwrap();
        n_claims += 1;
        assert!(
            (1..=5).contains(&claimed.tasks.len()),
            "{}",
            claimed.tasks.len()
        );
        for task in &claimed.tasks {
            assert_eq!(task.life.status, TaskStatus::Running);
            assert!(brought.insert(task.id), "{} came twice", task.id);
        }
        let has_more = claimed.next_due.is_some_and(|due| due <= NOW);
        assert_eq!(has_more, brought.len() < N);
    }

    assert!(n_claims > 1);
}

#[tokio::test]
async fn many_due_tasks_that_nobody_here_knows_keep_no_other_waiting() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let mut batch = Batch::at(NOW);
    let later = NOW.saturating_add(std::time::Duration::from_secs(60));
    let ahead = |name: &str| {
        let mut task = Task::new(store.task().id, name, "[]");
        task.life.run_at = later;
        Arc::new(task)
    };
    batch.tasks = (0..2_500).map(|_| ahead("unknown")).collect();
    let known = ahead("f");
    batch.tasks.push(known.clone());
    store.backend.write(Arc::new(batch)).await.unwrap();

    let mut n_claims = 0;
    let claimed = loop {
        let claim = Claim {
            owner: store.me,
            names: vec!["f".into()].into(),
            except: Arc::default(),
            limit: 4,
            now: later,
            reserve: None,
        };
        let claimed = store.backend.claim(claim).await.unwrap();
        n_claims += 1;
        if !claimed.tasks.is_empty() {
            break claimed.tasks;
        }
        // Otherwise the next claim would come when something else is due.
        assert_eq!(claimed.next_due, Some(later), "after {n_claims}");
    };

    assert_eq!(claimed[0].id, known.id);
    assert!(n_claims <= 4, "{n_claims}");
}

#[tokio::test]
async fn a_task_that_was_not_made_is_in_no_list() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let mut batch = Batch::at(NOW);
    for _ in 0..3 {
        let mut task = store.task();
        task.idempotency_key = Some(IdempotencyKey {
            key: "one".to_owned(),
            ttl: std::time::Duration::ZERO,
        });
        task.tags = [("plan".to_owned(), "pro".to_owned())]
            .into_iter()
            .collect();
        task.tracking_id = Some("request".into());
        batch.tasks.push(Arc::new(task));
    }
    let made = batch.tasks[0].id;

    store.backend.write(Arc::new(batch)).await.unwrap();

    let sets = server.command(&["KEYS", "{taskflow}:[yfo]:*"]);
    for set in sets.lines() {
        let ids = server.command(&["ZRANGE", set, "0", "-1"]);
        assert_eq!(ids, made.to_string(), "{set}");
    }
    let of_tags = sets.lines().filter(|set| set.contains(":y:")).count();
    assert_eq!(of_tags, 3, "plan, plan=pro, and of the request");
    let mut query = ListQuery::default();
    query.tag = Some(("plan".to_owned(), Some("pro".to_owned())));
    query.limit = 1;
    let page = store.backend.list(query).await.unwrap();
    assert_eq!(page.tasks.len(), 1, "the first page has it");
}

#[tokio::test]
async fn large_tasks_of_the_dead_come_in_parts() {
    let server = RedisServer::start();
    let (dead, store) = (store(&server).await, store(&server).await);
    for _ in 0..N {
        dead.add(&large(dead.owned())).await;
    }
    dead.backend.leave(dead.me).await.unwrap();

    let mut n_freed = 0;
    while n_freed < N {
        let orphans = store.backend.orphans(1_000).await.unwrap();
        assert!((1..=5).contains(&orphans.len()), "{}", orphans.len());
        n_freed += orphans.len();
        let mut batch = Batch::at(NOW);
        let released = orphans.iter().map(|task| Change::released(task).unwrap());
        batch.changes = released.collect();
        store.backend.write(Arc::new(batch)).await.unwrap();
    }

    assert_eq!(store.backend.orphans(1_000).await.unwrap(), []);
}

#[tokio::test]
async fn what_an_instance_adds_that_the_server_does_not_know_is_taken_over() {
    let server = RedisServer::start();
    let (forgotten, store) = (store(&server).await, store(&server).await);
    server.command(&["FLUSHALL"]);
    store
        .backend
        .join(axum_taskflow_core::Instance::new(store.me, NOW))
        .await
        .unwrap();

    // It does not know yet that it is not known.
    let task = forgotten.owned();
    forgotten.add(&task).await;

    let orphans = store.backend.orphans(10).await.unwrap();
    assert_eq!(orphans, [task]);
}

#[tokio::test]
async fn others_hear_of_what_is_taken_over() {
    let server = RedisServer::start();
    let (dead, store, other) = (
        store(&server).await,
        store(&server).await,
        store(&server).await,
    );
    dead.add(&dead.owned()).await;
    dead.backend.leave(dead.me).await.unwrap();
    let heard = other.backend.changed(0).await.unwrap();

    let mut batch = Batch::at(NOW);
    let orphans = store.backend.orphans(10).await.unwrap();
    batch.changes = vec![Change::released(&orphans[0]).unwrap()];
    store.backend.write(Arc::new(batch)).await.unwrap();

    let hears = other.backend.changed(heard);
    let hears = tokio::time::timeout(std::time::Duration::from_secs(20), hears).await;
    assert!(hears.is_ok(), "others may wait for it");
}
