//! Several processes share a Redis: what one leaves another runs, a server that fails for a while loses nothing, and who
//! is cut off stops by itself.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use servers::{Proxy, RedisServer};
use support::{Service, Settings, effects, until};
use tempfile::tempdir;

const LEASE: Duration = Duration::from_secs(2);
/// What is promised after a death.
const TAKEOVER_MAX: Duration = Duration::from_secs(4);
/// What is promised at a clean end is a second; a machine that runs other tests beside may need longer.
const PROMPTLY: Duration = Duration::from_secs(5);

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

async fn begun_again(service: &Service, id: &str) {
    until("it has begun a second time", async || {
        (times(service, id, "began") == 2).then_some(())
    })
    .await;
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
async fn what_a_killed_process_leaves_is_taken_over_after_its_lease() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let dies = on(&server.url()).concurrency(2).start(folder.path()).await;
    let repeated = dies.add_with("waits", "door".into(), requeue()).await;
    let once = dies.add("waits", "door").await;
    dies.effect(&repeated, "began").await;
    dies.effect(&once, "began").await;
    let waiting = dies.add("effect", "waiting").await;
    let lives = on(&server.url()).start(folder.path()).await;
    lives.open("door").await;

    let killed = Instant::now();
    dies.kill().await;

    begun_again(&lives, &repeated).await;
    let taken_over_in = killed.elapsed();
    lives.seen_as(&repeated, &["success"]).await;
    let task = lives.seen_as(&once, &["interrupted"]).await;
    assert_eq!(task["error"], "the process died while this ran");
    lives.seen_as(&waiting, &["success"]).await;
    assert_eq!(times(&lives, &waiting, "ran"), 1);
    assert_eq!(times(&lives, &once, "began"), 1, "it is not repeated");
    println!("taken over in {taken_over_in:?}");
    assert!(taken_over_in < TAKEOVER_MAX, "{taken_over_in:?}");
}

#[tokio::test]
async fn what_waits_at_a_clean_shutdown_is_run_by_a_living_process_at_once() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let leaves = on(&server.url())
        .concurrency(1)
        .shutdown_timeout(Duration::from_secs(20))
        .start(folder.path())
        .await;
    let running = leaves.add("waits", "door").await;
    leaves.effect(&running, "began").await;
    let waiting = leaves.add("effect", "waiting").await;
    let lives = on(&server.url()).start(folder.path()).await;

    let asked = Instant::now();
    leaves.signal(Signal::TERM);

    lives.effect(&waiting, "ran").await;
    let handed_over_in = asked.elapsed();
    leaves.open("door").await;
    assert!(leaves.ended().await.success());
    let task = lives.seen_as(&running, &["success"]).await;
    assert_eq!(task["attempt"], 1);
    println!("handed over in {handed_over_in:?}");
    assert!(handed_over_in < PROMPTLY, "{handed_over_in:?}");
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
async fn a_server_that_is_killed_and_comes_back_has_everything_that_was_accepted() {
    let server = RedisServer::builder().append_only("always").start();
    let folder = tempdir().unwrap();
    let service = on(&server.url()).concurrency(2).start(folder.path()).await;
    let running = service.add("waits", "door").await;
    service.effect(&running, "began").await;
    let mut accepted = Vec::new();
    for n in 0..50 {
        accepted.push(service.add("effect", format!("{n}")).await);
    }

    server.kill();
    refused(&service).await;
    service.open("door").await;
    service.effect(&running, "ended").await; // what runs goes on
    until("it says that it is not well", async || {
        (health(&service).await.0 == 503).then_some(())
    })
    .await;
    server.restart();

    works_again(&service).await;
    service.seen_as(&running, &["success", "interrupted"]).await;
    for id in &accepted {
        service.seen_as(id, &["success"]).await;
        assert_eq!(times(&service, id, "ran"), 1);
    }
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
async fn an_instance_that_is_cut_off_stops_before_another_starts_what_it_ran() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let link = Proxy::to(&server.address());
    let cut_off = on(&link.url(&server.url())).start(folder.path()).await;
    let task = cut_off.add_with("watched", "door".into(), requeue()).await;
    cut_off.effect(&task, "began").await;
    let other = on(&server.url()).start(folder.path()).await;

    link.stall();
    begun_again(&other, &task).await;

    let effects = effects(&other.folder);
    let of_task: Vec<&str> = effects
        .iter()
        .filter(|effect| effect.id == task)
        .map(|effect| &*effect.what)
        .collect();
    assert_eq!(of_task, ["began", "dropped", "began"]);
    other.open("door").await;
    other.seen_as(&task, &["success"]).await;
    link.heal();
    works_again(&cut_off).await;
    assert_eq!(cut_off.seen(&task).await["status"], "success");
    assert_eq!(times(&other, &task, "ended"), 1);
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

#[tokio::test]
async fn a_server_that_was_flushed_is_said_to_be_empty_and_takes_new_tasks() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let service = on(&server.url()).start(folder.path()).await;
    let lost = service.add("waits", "door").await;
    service.effect(&lost, "began").await;

    server.command(&["FLUSHALL"]);

    until("it says so", async || {
        let said = service.log().contains("all tasks in Redis are gone");
        said.then_some(())
    })
    .await;
    works_again(&service).await;
    service.open("door").await;
    assert_eq!(service.seen(&lost).await, Value::Null);
}

#[tokio::test]
async fn of_many_calls_of_one_key_in_several_processes_one_makes_a_task() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let mut services = Vec::new();
    for _ in 0..4 {
        services.push(on(&server.url()).start(folder.path()).await);
    }
    for round in 0..20 {
        let key = format!("key {round}");
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..100 {
            let (caller, key) = (services[n % 4].caller.clone(), key.clone());
            calls.spawn(async move {
                let options = json!({ "key": key });
                let response = caller.try_add("effect", key.into(), options).await.unwrap();
                assert_eq!(response.status(), 200);
                let body: Value = response.json().await.unwrap();
                body["id"].as_str().unwrap().to_owned()
            });
        }
        let ids: BTreeSet<String> = calls.join_all().await.into_iter().collect();
        assert_eq!(ids.len(), 1, "{key}: {ids:?}");
        let id = ids.first().unwrap();
        services[0].seen_as(id, &["success"]).await;
        assert_eq!(times(&services[0], id, "ran"), 1);
    }
}
