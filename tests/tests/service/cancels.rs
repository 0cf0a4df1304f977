//! A running task is cancelled from any process that shares the store: by a file, and by Redis.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::support::{Service, Settings, effects, until};
use rustix::process::Signal;
use serde_json::json;
use servers::RedisServer;
use tempfile::tempdir;

/// Longer than any process is stopped here: none is taken for dead.
const LEASE: Duration = Duration::from_secs(30);
/// As long as somebody waits for another process: shorter than it takes one to look that was told nothing.
const PATIENCE: Duration = Duration::from_secs(3);

fn settings(server: Option<&RedisServer>) -> Settings {
    let settings = Settings::default().add_timeout(PATIENCE);
    match server {
        Some(server) => settings.redis(&server.url(), LEASE),
        None => settings,
    }
}

/// One that runs tasks, one that does so too, and one that runs none.
async fn three(server: Option<&RedisServer>, folder: &Path) -> [Service; 3] {
    [
        settings(server).start(folder).await,
        settings(server).start(folder).await,
        settings(server).role("web").start(folder).await,
    ]
}

async fn any_process_cancels_what_another_one_runs(server: Option<&RedisServer>) {
    let folder = tempdir().unwrap();
    let [runs, other, web] = three(server, folder.path()).await;
    let mut took = Vec::new();
    for (function, asks) in [
        ("waits", &other),
        ("waits", &web),
        ("waits", &runs),
        ("blocks", &other),
        ("blocks", &web),
    ] {
        let id = runs.add_with(function, "never".into(), json!({ "requeue": true }));
        let id = id.await;
        runs.effect(&id, "began").await;

        let asked = Instant::now();
        let answer = asks.rest_post(&format!("/{id}/cancel"), 200).await;
        took.push(asked.elapsed());

        assert_eq!(answer["task_id"], *id);
        let task = asks.task_as(&id, "cancelled").await;
        assert_eq!(task["error"], "cancelled while it ran");
        let effects = effects(folder.path());
        let began = effects
            .iter()
            .filter(|it| it.id == id && it.what == "began");
        assert_eq!(began.count(), 1, "it is not repeated");
        asks.rest_post(&format!("/{id}/cancel"), 400).await;
    }
    println!("answered after {took:?}");
}

#[tokio::test]
async fn any_process_cancels_what_another_one_runs_by_a_file() {
    any_process_cancels_what_another_one_runs(None).await;
}

#[tokio::test]
async fn any_process_cancels_what_another_one_runs_by_redis() {
    let server = RedisServer::start();
    any_process_cancels_what_another_one_runs(Some(&server)).await;
}

async fn a_process_that_is_stopped_hears_it_later(server: Option<&RedisServer>) {
    let folder = tempdir().unwrap();
    let [runs, _, web] = three(server, folder.path()).await;
    let id = runs.add("waits", "never").await;
    runs.effect(&id, "began").await;
    runs.signal(Signal::STOP);

    let asked = Instant::now();
    let answer = web.rest_post(&format!("/{id}/cancel"), 202).await;
    assert_eq!(answer["task"]["status"], "running");
    assert!(asked.elapsed() >= PATIENCE);
    assert!(asked.elapsed() < PATIENCE * 5);
    assert_eq!(web.task(&id).await["status"], "running");
    runs.signal(Signal::CONT);

    web.task_as(&id, "cancelled").await;
    let audit = web.rest_get("/audit").await;
    assert_eq!(
        (&audit[0]["action"], &audit[0]["task_id"]),
        (&json!("cancel"), &json!(id))
    );
}

#[tokio::test]
async fn a_process_that_is_stopped_hears_it_later_by_a_file() {
    a_process_that_is_stopped_hears_it_later(None).await;
}

#[tokio::test]
async fn a_process_that_is_stopped_hears_it_later_by_redis() {
    let server = RedisServer::start();
    a_process_that_is_stopped_hears_it_later(Some(&server)).await;
}

/// Killed after it was asked and before it has heard it: then its death counts.
async fn one_that_dies_first_leaves_no_wish_behind(server: Option<&RedisServer>) {
    let folder = tempdir().unwrap();
    // Who asks gives up before anybody takes the task over: else it would be cancelled there.
    let (patience, lease) = (Duration::from_millis(500), Duration::from_secs(4));
    let settings = || match server {
        Some(server) => settings(None).redis(&server.url(), lease),
        None => settings(None),
    };
    let settings = || settings().add_timeout(patience);
    let dies = settings().start(folder.path()).await;
    let id = dies.add_with("waits", "door".into(), json!({ "requeue": true }));
    let id = id.await;
    dies.effect(&id, "began").await;
    let web = settings().role("web").start(folder.path()).await;
    dies.signal(Signal::STOP);

    let answer = web.rest_post(&format!("/{id}/cancel"), 202).await;
    assert_eq!(answer["task"]["status"], "running");
    dies.kill().await;
    let next = settings().start(folder.path()).await;

    until("it runs again", async || {
        let effects = effects(folder.path());
        let began = effects
            .iter()
            .filter(|it| it.id == id && it.what == "began");
        (began.count() == 2).then_some(())
    })
    .await;
    next.open("door").await;
    web.task_as(&id, "success").await;
}

#[tokio::test]
async fn one_that_dies_first_leaves_no_wish_behind_by_a_file() {
    one_that_dies_first_leaves_no_wish_behind(None).await;
}

#[tokio::test]
async fn one_that_dies_first_leaves_no_wish_behind_by_redis() {
    let server = RedisServer::start();
    one_that_dies_first_leaves_no_wish_behind(Some(&server)).await;
}
