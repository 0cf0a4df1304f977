//! What is claimed and taken over: in parts that a link carries in time, and also of instances that the server has forgotten.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{collections::BTreeSet, sync::Arc};

use axum_taskflow_core::{Backend, Batch, Change, Claim, Task, TaskId, TaskStatus};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;
use support::{NOW, Store};

const N: usize = 12;
/// Of the arguments of each task, in bytes.
const LARGE: usize = 1_000_000;

fn large(mut task: Task) -> Task {
    task.args = format!("[{:?}]", "x".repeat(LARGE)).into();
    task
}

async fn store(server: &RedisServer) -> Store {
    Store::open(RedisOptions::new(server.url())).await
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
