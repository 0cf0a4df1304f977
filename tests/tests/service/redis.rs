//! A Redis that stops, forgets its scripts or all there is, loses its connections or is replaced by its replica, and how
//! soon one process runs what another added.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{Caller, Effect, Service, Settings, effects, until};
use serde_json::{Value, json};
use servers::{RedisCluster, RedisServer, Sentinel};
use tempfile::tempdir;
use tokio::task::{JoinSet, block_in_place, spawn_blocking};

/// A quarter of it is what a call has, also where everybody waits for a processor.
const LEASE: Duration = Duration::from_secs(4);

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
    let fits = |effect: &&Effect| effect.id == id && effect.what == what;
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

// ---- three processes, at which tasks are added all the time -------------------------------------------------------

async fn three(settings: Settings, folder: &Path) -> Vec<Service> {
    let mut services = Vec::new();
    for _ in 0..3 {
        services.push(settings.clone().start(folder).await);
    }
    services
}

/// Adds tasks at each service, one after the other, until it is told to stop.
struct Adders {
    /// The ids that each service has given. A std mutex: held to push or to count.
    accepted: Vec<Arc<Mutex<Vec<String>>>>,
    stop: Arc<AtomicBool>,
    adders: JoinSet<()>,
}

impl Adders {
    fn start(services: &[Service]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let accepted: Vec<_> = services.iter().map(|_| Arc::default()).collect();
        let mut adders = JoinSet::new();
        for (service, accepted) in services.iter().zip(&accepted) {
            let caller = service.caller.clone();
            adders.spawn(add_until(stop.clone(), caller, Arc::clone(accepted)));
        }
        Self {
            accepted,
            stop,
            adders,
        }
    }

    /// Returns once each service has accepted so many more.
    async fn more(&self, n: usize) {
        for accepted in &self.accepted {
            let n_now = || accepted.lock().unwrap().len();
            let wanted = n_now() + n;
            until("a service accepts tasks", async || {
                (n_now() >= wanted).then_some(())
            })
            .await;
        }
    }

    /// All ids that were given.
    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.adders.join_all().await;
        let accepted = self.accepted.iter();
        accepted.flat_map(|of| of.lock().unwrap().clone()).collect()
    }
}

async fn add_until(stop: Arc<AtomicBool>, caller: Caller, accepted: Arc<Mutex<Vec<String>>>) {
    while !stop.load(Ordering::SeqCst) {
        let answer = caller.try_add("effect", "added".into(), json!({})).await;
        let answer = answer.unwrap();
        if answer.status() == 200 {
            let added: Value = answer.json().await.unwrap();
            let id = added["id"].as_str().unwrap().to_owned();
            accepted.lock().unwrap().push(id);
        }
        tokio::time::sleep(Duration::from_millis(5)).await; // leaves the machine some room
    }
}

/// Each of these tasks has succeeded, and was run once.
async fn each_ran_once(service: &Service, ids: &[String]) {
    for id in ids {
        service.seen_as(id, &["success"]).await;
    }
    let mut n_runs = BTreeMap::<String, usize>::new();
    for effect in effects(&service.folder) {
        *n_runs.entry(effect.id).or_default() += 1;
    }
    for id in ids {
        assert_eq!(n_runs[id], 1, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_everything_was_flushed_three_processes_say_so_and_run_new_tasks() {
    let (server, folder) = (RedisServer::start(), tempdir().unwrap());
    let services = three(on(&server.url()), folder.path()).await;
    let before = services[0].add("waits", "door").await;
    services[0].effect(&before, "began").await;
    let adders = Adders::start(&services);
    adders.more(5).await;
    adders.stop().await;

    // It lasts until one of them beats, which may be at once: then nobody has noticed.
    until("a service says that all is gone", async || {
        let mut former = Vec::new();
        for service in &services {
            former.push(service.instance().await);
        }
        let adders = Adders::start(&services);
        server.command(&["FLUSHALL"]);
        let said = tokio::time::timeout(LEASE, says_that_all_is_gone(&services)).await;
        // Until it beats, it does not know that it was forgotten, and what it runs is taken for that of a dead one.
        for (service, former) in services.iter().zip(&former) {
            until("it goes on by another name", async || {
                (service.instance().await != *former).then_some(())
            })
            .await;
        }
        adders.stop().await;
        said.ok()
    })
    .await;
    for service in &services {
        works_again(service).await;
    }
    let adders = Adders::start(&services);
    adders.more(20).await;
    let accepted = adders.stop().await;

    each_ran_once(&services[0], &accepted).await;
    for service in &services {
        assert_eq!(service.seen(&before).await, Value::Null);
    }
}

/// Returns once a service says to everybody that it is unwell; why that is stands in its log.
async fn says_that_all_is_gone(services: &[Service]) {
    loop {
        for service in services {
            let (status, reasons) = health(service).await;
            if status == 503 && reasons.contains("the task store cannot be written") {
                return;
            }
        }
    }
}

// ---- failover ---------------------------------------------------------------------------------------------------

/// Longer than a failover takes: nobody is to be taken for dead meanwhile.
const LONG_LEASE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_sentinels_loses_nothing_that_a_replica_had_to_have() {
    let sentinel = spawn_blocking(Sentinel::start).await.unwrap();
    let settings = Settings::default()
        .redis(&sentinel.sentinel_urls().join(" "), LONG_LEASE)
        .sentinel(sentinel.master_name());

    nothing_is_lost(settings, || {
        let dead = sentinel.master();
        kill(dead, sentinel.servers());
        sentinel.wait_ok();
        dead.restart(); // it becomes the replica that writes need
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_in_a_cluster_loses_nothing_that_a_replica_had_to_have() {
    let cluster = spawn_blocking(|| RedisCluster::start(6)).await.unwrap();
    let settings = Settings::default()
        .redis(&cluster.urls().join(" "), LONG_LEASE)
        .cluster();

    nothing_is_lost(settings, || {
        let dead = cluster.master_of("{taskflow}:meta");
        kill(dead, cluster.nodes());
        cluster.wait_ok();
        dead.restart(); // it becomes the replica that writes need
    })
    .await;
}

/// Kills a master while its replica is behind: what it takes in its last moments nobody else has.
fn kill(master: &RedisServer, servers: &[RedisServer]) {
    let follows = format!("master_port:{}", master.port());
    let is_replica = |server: &&RedisServer| {
        let info = server.command(&["INFO", "replication"]);
        info.contains(&follows)
    };
    let replica = servers.iter().find(is_replica).unwrap();
    replica.stop(); // it cannot come back to its master
    master.command(&["CLIENT", "KILL", "TYPE", "replica"]);
    std::thread::sleep(Duration::from_millis(300)); // tasks are being added
    master.kill();
    replica.cont();
}

async fn nothing_is_lost(settings: Settings, fail_over: impl FnOnce()) {
    let folder = tempdir().unwrap();
    let settings = settings.min_replicas(1).add_timeout(Duration::from_secs(1));
    let services = three(settings, folder.path()).await;
    let mut running = Vec::new();
    for service in &services {
        let id = service.add("waits", "door").await;
        service.effect(&id, "began").await;
        running.push(id);
    }
    let adders = Adders::start(&services);
    adders.more(20).await;

    let killed = Instant::now();
    block_in_place(fail_over);

    adders.more(20).await;
    println!("accepted again after {:?}", killed.elapsed());
    let accepted = adders.stop().await;
    each_ran_once(&services[0], &accepted).await;
    for (service, id) in services.iter().zip(&running) {
        service.open("door").await;
        service.seen_as(id, &["success"]).await;
        assert_eq!(times(service, id, "began"), 1);
        assert_eq!(times(service, id, "ended"), 1);
    }
}
