//! A Redis that stops, forgets its scripts or loses its connections, and how soon one process runs what another added.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servers::RedisServer;
use support::{Service, Settings, effects, until};
use tempfile::tempdir;

const LEASE: Duration = Duration::from_secs(2);

fn on(url: &str) -> Settings {
    Settings::default()
        .redis(url, LEASE)
        .add_timeout(Duration::from_secs(1))
}

fn requeue() -> Value {
    json!({ "requeue": true })
}

/// How often this task has written this.
fn times(service: &Service, id: &str, what: &str) -> usize {
    let effects = effects(&service.folder);
    let fits = |effect: &&support::Effect| effect.id == id && effect.what == what;
    effects.iter().filter(fits).count()
}

/// An `add_task` that must fail, and in time.
async fn refused(service: &Service) {
    let asked = Instant::now();
    let response = service
        .caller
        .try_add("effect", "refused".into(), json!({}))
        .await
        .unwrap();
    assert!(response.status().is_server_error(), "{}", response.status());
    assert!(asked.elapsed() < Duration::from_secs(4));
}

async fn health(service: &Service) -> (u16, String) {
    let request = service.rest(reqwest::Method::GET, "/health");
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Returns once tasks can be added again.
async fn works_again(service: &Service) {
    until("the service is well again", async || {
        (health(service).await.0 == 200).then_some(())
    })
    .await;
    let id = service.add("effect", "afterwards").await;
    service.seen_as(&id, &["success"]).await;
}

#[tokio::test]
async fn a_task_added_in_one_process_starts_soon_in_another() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let web = on(&server.url()).role("web").start(folder.path()).await;
    let worker = on(&server.url()).role("worker").start(folder.path()).await;
    let first = web.add("effect", "first").await;
    worker.effect(&first, "ran").await;

    let mut waits = Vec::new();
    for n in 0..20 {
        let asked = Instant::now();
        let id = web.add("effect", format!("{n}")).await;
        web.effect(&id, "ran").await;
        waits.push(asked.elapsed());
    }

    waits.sort();
    println!("half of them ran within {:?}", waits[10]);
    assert!(waits[10] < Duration::from_millis(100), "{waits:?}");
}

#[tokio::test]
async fn a_server_that_was_stopped_for_longer_than_the_lease_goes_on_where_it_was() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let one = on(&server.url()).start(folder.path()).await;
    let other = on(&server.url()).start(folder.path()).await;
    let once = one.add("waits", "door").await;
    let repeated = one.add_with("waits", "door".into(), requeue()).await;
    one.effect(&once, "began").await;
    one.effect(&repeated, "began").await;

    server.stop();
    refused(&one).await;
    tokio::time::sleep(LEASE * 2).await;
    server.cont();

    works_again(&one).await;
    works_again(&other).await;
    // Both had to stop what they ran: each could have been taken for dead.
    one.seen_as(&once, &["interrupted"]).await;
    assert_eq!(times(&one, &once, "began"), 1);
    one.open("door").await;
    other.open("door").await;
    one.seen_as(&repeated, &["success"]).await;
    assert_eq!(times(&one, &repeated, "ended"), 1);
}

#[tokio::test]
async fn connections_and_scripts_that_are_gone_are_made_again() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let service = on(&server.url()).start(folder.path()).await;
    for round in 0..5 {
        let id = service.add("effect", format!("{round}")).await;
        server.command(&["SCRIPT", "FLUSH"]);
        service.seen_as(&id, &["success"]).await;
        for kind in ["normal", "pubsub"] {
            server.command(&["CLIENT", "KILL", "TYPE", kind]);
        }
        works_again(&service).await;
    }
}
