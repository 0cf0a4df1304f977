//! Several processes share one Redis server: what one leaves another runs, never two run one task, and what happens to
//! the server or to a link is over when it is over. `LAB_SEED` plays a laboratory again.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::support::{Service, Settings, answer, until};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use servers::{Proxy, RedisServer};
use tempfile::tempdir;
use tests::lab::{
    self, Plan,
    effects::{self, Effect, Moment},
    errand::Errand,
};

/// A quarter of it is what a call has, also where everybody waits for a processor.
const LEASE: Duration = Duration::from_secs(4);
/// What a dead process leaves is taken over within so long.
const TAKEN_OVER: Duration = LEASE.saturating_add(Duration::from_secs(2));
/// Where nobody is to be taken for dead.
const LONG_LEASE: Duration = Duration::from_secs(40);
/// For so long a server stands still.
const STOPPED: Duration = Duration::from_secs(30);
/// However slow the machine is: a laboratory is to take less than three minutes.
const DEADLINE: Duration = Duration::from_secs(170);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_thirty_faults_of_processes_server_and_links_every_promise_is_kept() {
    let folder = tempdir().unwrap();
    let seed = match std::env::var("LAB_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..1_000_000),
    };
    let plan = Plan {
        tasks: 2_000,
        faults: 30,
        folder: folder.path().to_owned(),
        ..Plan::new(env!("CARGO_BIN_EXE_service").into(), PathBuf::new(), seed)
    };
    let plan = plan.on_redis();
    println!("{plan}");

    let played = tokio::time::timeout(DEADLINE, lab::play(&plan)).await;

    let report = played.unwrap_or_else(|_| panic!("{plan}: it takes too long"));
    let report = report.unwrap_or_else(|error| panic!("{plan}: {error}"));
    println!("{report}");
    if !report.violations.is_empty() {
        panic!("{plan}: {report}\nleft in {}", folder.keep().display());
    }
    assert_eq!((report.lost, report.finished), (0, report.stored));
    assert!(report.accepted > 1_000, "{report}");
    let of_processes: u64 = report.faults.iter().sum();
    let of_server: u64 = report.server_faults.values().sum();
    assert!(of_processes >= 10 && of_server >= 3, "{report}");
    assert!(report.repeated > 0, "nothing was ever repeated: {report}");
}

// ---- one process and another ------------------------------------------------------------------------------------

fn on(server: &RedisServer) -> Settings {
    Settings::default().redis(&server.url(), LEASE)
}

/// Where nobody dies.
fn patient(server: &RedisServer) -> Settings {
    Settings::default().redis(&server.url(), LONG_LEASE)
}

fn requeue() -> Value {
    json!({ "requeue": true })
}

/// What this task has written, oldest first.
fn lines(service: &Service, id: &str) -> Vec<Effect> {
    let mut lines = effects::read(&service.folder).unwrap();
    lines.retain(|line| line.id.to_string() == id);
    lines
}

fn times(service: &Service, id: &str, what: &str) -> usize {
    let lines = lines(service, id);
    lines.iter().filter(|line| line.what == what).count()
}

async fn begun_again(service: &Service, id: &str) {
    until("it has begun a second time", async || {
        (times(service, id, "began") == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_process_leaves_is_taken_over_within_a_lease_and_two_seconds() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let dies = on(&server).concurrency(2).start(folder.path()).await;
    let repeated = dies.add_with("waits", "door".into(), requeue()).await;
    let once = dies.add("waits", "door").await;
    dies.effect(&repeated, "began").await;
    dies.effect(&once, "began").await;
    let mut held = Vec::new();
    for n in 0..10 {
        held.push(dies.add("effect", format!("{n}")).await);
    }
    let lives = on(&server).start(folder.path()).await;
    lives.open("door").await;

    let killed = Instant::now();
    dies.kill().await;

    begun_again(&lives, &repeated).await;
    let taken_over_in = killed.elapsed();
    lives.seen_as(&repeated, &["success"]).await;
    let task = lives.seen_as(&once, &["interrupted"]).await;
    assert_eq!(task["error"], "the process died while this ran");
    assert_eq!(times(&lives, &once, "began"), 1, "it is not repeated");
    for id in &held {
        lives.seen_as(id, &["success"]).await;
        assert_eq!(times(&lives, id, "ran"), 1);
    }
    println!("taken over in {taken_over_in:?}");
    assert!(taken_over_in < TAKEN_OVER, "{taken_over_in:?}");
}

#[tokio::test]
async fn what_waits_at_a_clean_shutdown_is_run_by_another_process_within_a_second() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let leaves = patient(&server)
        .concurrency(1)
        .shutdown_timeout(Duration::from_secs(20))
        .start(folder.path())
        .await;
    let running = leaves.add("waits", "door").await;
    leaves.effect(&running, "began").await;
    let waiting = leaves.add("effect", "waiting").await;
    let lives = patient(&server).start(folder.path()).await;
    assert_eq!(times(&lives, &waiting, "ran"), 0);

    let asked = Instant::now();
    leaves.signal(Signal::TERM);

    lives.effect(&waiting, "ran").await;
    let handed_over_in = asked.elapsed();
    assert_eq!(lives.seen(&running).await["status"], "running");
    leaves.open("door").await;
    assert!(leaves.ended().await.success());
    let task = lives.seen_as(&running, &["success"]).await;
    assert_eq!(task["attempt"], 1);
    println!("handed over in {handed_over_in:?}");
    assert!(
        handed_over_in < Duration::from_secs(1),
        "{handed_over_in:?}"
    );
}

// ---- keys -------------------------------------------------------------------------------------------------------

const ROUNDS: usize = 200;
const CALLERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_simultaneous_adds_in_four_processes_one_makes_a_task_and_all_get_its_id() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let mut services = Vec::new();
    for _ in 0..4 {
        services.push(patient(&server).start(folder.path()).await);
    }
    let begun = Instant::now();
    let mut made = BTreeSet::new();

    for round in 0..ROUNDS {
        let calls: Vec<_> = (0..CALLERS)
            .map(|n| {
                let caller = services[n % services.len()].caller.clone();
                let options = json!({ "key": format!("round {round}") });
                tokio::spawn(async move {
                    let answer = caller.try_add("idles", json!(n), options).await.unwrap();
                    let body: Value = answer.json().await.unwrap();
                    body["id"].as_str().map(str::to_owned).ok_or(body)
                })
            })
            .collect();
        let mut ids = BTreeSet::new();
        for call in calls {
            ids.insert(call.await.unwrap().unwrap());
        }
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        made.extend(ids);
    }

    println!("{ROUNDS} rounds in {:?}", begun.elapsed());
    assert_eq!(made.len(), ROUNDS);
    assert_eq!(services[0].all_seen().await.len(), ROUNDS);
}

#[tokio::test]
async fn a_key_is_free_after_failure_and_kept_after_success_until_its_time() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let one = patient(&server).start(folder.path()).await;
    let other = patient(&server).start(folder.path()).await;
    let keyed = |key: &str| json!({ "key": key, "retries": 0 });
    let failed = one.add_with("fails", "no".into(), keyed("fails")).await;
    one.seen_as(&failed, &["failed"]).await;
    let done = one.add_with("effect", "done".into(), keyed("done")).await;
    one.seen_as(&done, &["success"]).await;
    let short = json!({ "key": "short", "key_ttl_ms": 300 });
    let shortly = one.add_with("effect", "a".into(), short.clone()).await;
    let ended = one.seen_as(&shortly, &["success"]).await;

    let after_failure = other.add_with("fails", "no".into(), keyed("fails")).await;
    let after_success = other.add_with("effect", "x".into(), keyed("done")).await;
    // The answer is timed and not the question: the key may become free between the two.
    let free_at = until("the key is free", async || {
        let id = other.add_with("effect", "b".into(), short.clone()).await;
        (id != shortly).then(|| Moment::now().wall_us)
    })
    .await;

    assert_ne!(after_failure, failed);
    assert_eq!(after_success, done);
    let waited_ms = free_at / 1_000 - ended["finished_at"].as_u64().unwrap();
    assert!(waited_ms >= 300, "{waited_ms} ms");
}

// ---- the server and the way to it -------------------------------------------------------------------------------

#[tokio::test]
async fn after_everything_was_flushed_the_log_says_so_and_new_tasks_run() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let service = on(&server).start(folder.path()).await;
    let before = service.add("waits", "door").await;
    service.effect(&before, "began").await;

    server.command(&["FLUSHALL"]);

    until("the log says that all is gone", async || {
        let log = service.log();
        log.contains("all tasks in Redis are gone").then_some(())
    })
    .await;
    let after = until("a new task is accepted", async || {
        let added = service.caller.try_add("effect", "new".into(), json!({}));
        let added = added.await.ok()?.error_for_status().ok()?;
        let body: Value = added.json().await.unwrap();
        Some(body["id"].as_str().unwrap().to_owned())
    })
    .await;
    service.seen_as(&after, &["success"]).await;
    assert_eq!(service.seen(&before).await, Value::Null);
    is_healthy(&service).await;
}

#[tokio::test]
async fn a_server_that_is_killed_and_restarted_has_lost_nothing_that_was_accepted() {
    let folder = tempdir().unwrap();
    let server = RedisServer::builder().append_only("always").start();
    let service = patient(&server).start(folder.path()).await;
    let mut ids = Vec::new();
    for n in 0..100 {
        let options = json!({ "delay_by_ms": 10 * n });
        ids.push(
            service
                .add_with("effect", format!("{n}").into(), options)
                .await,
        );
    }

    let _server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();

    for id in &ids {
        service.seen_as(id, &["success"]).await;
        assert_eq!(times(&service, id, "ran"), 1);
    }
    is_healthy(&service).await;
}

#[tokio::test]
async fn an_instance_whose_link_is_cut_stops_what_others_take_over_and_goes_on_when_it_heals() {
    without_a_link(Proxy::cut).await;
}

#[tokio::test]
async fn an_instance_whose_link_stalls_stops_what_others_take_over_and_goes_on_when_it_heals() {
    without_a_link(Proxy::stall).await;
}

#[tokio::test]
async fn a_server_that_stands_still_for_half_a_minute_loses_nothing_and_no_two_run_one_task() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let settings = on(&server).add_timeout(Duration::from_secs(1));
    let mut services = Vec::new();
    for _ in 0..3 {
        services.push(settings.clone().start(folder.path()).await);
    }
    let (mut repeated, mut once, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for (n, service) in (0..).zip(&services) {
        let later = json!({ "delay_by_ms": 10_000 });
        waiting.push(service.add_with("effect", "later".into(), later).await);
        repeated.push(errand(service, 2 * n, true).await);
        once.push(errand(service, 2 * n + 1, false).await);
    }
    for id in repeated.iter().chain(&once) {
        services[0].effect(id, "began").await;
    }

    server.stop();
    let stopped = Instant::now();
    for service in &services {
        let added = service.caller.try_add("effect", "no".into(), json!({}));
        assert!(added.await.unwrap().status().is_server_error());
        is_unwell(service).await;
    }
    tokio::time::sleep(STOPPED.saturating_sub(stopped.elapsed())).await;
    server.cont();

    for service in &services {
        is_healthy(service).await;
        let next = service.add("effect", "next").await;
        service.seen_as(&next, &["success"]).await;
    }
    for id in &waiting {
        services[0].seen_as(id, &["success"]).await;
        assert_eq!(times(&services[0], id, "ran"), 1);
    }
    for id in &once {
        services[0].seen_as(id, &["interrupted"]).await;
        assert_eq!(times(&services[0], id, "began"), 1, "it is not repeated");
    }
    for id in &repeated {
        services[0].seen_as(id, &["success"]).await;
        let lines = lines(&services[0], id);
        let ended = lines.iter().filter(|line| line.what == "ended");
        assert_eq!(ended.count(), 1, "{lines:?}");
        for pair in lines.windows(2) {
            let is_second = pair[1].what == "began";
            assert!(!is_second || pair[0].what != "began", "two run: {lines:?}");
        }
    }
}

async fn without_a_link(hurt: fn(&Proxy)) {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let proxy = Proxy::to(&server.address());
    let far = Settings::default().redis(&proxy.url(&server.url()), LEASE);
    let far = far.start(folder.path()).await;
    let former = far.instance().await;
    let again = errand(&far, 1, true).await;
    let once = errand(&far, 2, false).await;
    far.effect(&again, "began").await;
    far.effect(&once, "began").await;
    let near = on(&server).start(folder.path()).await;

    let hurt_at = Instant::now();
    hurt(&proxy);

    begun_again(&near, &again).await;
    let taken_over_in = hurt_at.elapsed();
    near.seen_as(&once, &["interrupted"]).await;
    for id in [&again, &once] {
        let lines = lines(&near, id);
        let said: Vec<&str> = lines.iter().map(|line| &*line.what).collect();
        assert_eq!(said[..2], ["began", "dropped"], "{lines:?}");
        assert_eq!(lines[0].pid, lines[1].pid);
    }
    let health = far
        .caller
        .http
        .get(format!("{}/tasks/health", far.caller.url));
    let health = answer(health, 503).await;
    let complaint = "this instance cannot show that it is alive";
    assert!(health.to_string().contains(complaint), "{health}");
    println!("taken over in {taken_over_in:?}");
    assert!(taken_over_in < TAKEN_OVER, "{taken_over_in:?}");

    proxy.heal();

    is_healthy(&far).await;
    let now = far.instance().await;
    assert_ne!(now, former, "it was taken for dead");
    let next = far.add("effect", "next").await;
    far.seen_as(&next, &["success"]).await;
    near.seen_as(&again, &["success"]).await;
    assert_eq!(times(&near, &again, "ended"), 1);
    assert_eq!(times(&near, &once, "began"), 1, "it is not repeated");
}

/// Orders an errand that takes longer than a takeover.
async fn errand(service: &Service, n: u64, requeue: bool) -> String {
    let errand = Errand {
        n,
        ms: 8_000,
        good_at: 1,
        aborts: false,
        blocking: false,
        requeue,
        keyed: false,
        delay_ms: 0,
        cancelled: false,
    };
    let url = format!("{}/lab", service.caller.url);
    let id = answer(service.caller.http.post(url).json(&errand), 200).await;
    id.as_str().unwrap().to_owned()
}

async fn is_healthy(service: &Service) {
    until("it is healthy", async || {
        (health(service).await == 200).then_some(())
    })
    .await;
}

async fn is_unwell(service: &Service) {
    until("it is unwell", async || {
        (health(service).await == 503).then_some(())
    })
    .await;
}

async fn health(service: &Service) -> u16 {
    let request = service.rest(Method::GET, "/health");
    request.send().await.unwrap().status().as_u16()
}
