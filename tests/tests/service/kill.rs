//! A service that is killed for real and started again: what it accepted is there, what had not begun runs, and what
//! had begun is not repeated unless that is allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
};

use crate::support::{Caller, Effect, Service, Settings, effects, until};
use fastrand::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[tokio::test]
async fn a_task_that_had_begun_is_interrupted_and_not_run_again() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let id = service.add("waits", "door").await;
    let blocking = service.add("blocks", "door").await;
    service.effect(&id, "began").await;
    service.effect(&blocking, "began").await;

    service.kill().await;
    let service = Service::start(folder.path()).await;

    for id in [&id, &blocking] {
        let task = service.seen(id).await;
        assert_eq!(task["status"], "interrupted");
        assert_eq!(task["error"], "the process died while this ran");
    }
    service.open("door").await;
    drained(&service).await;
    assert_eq!(effects(folder.path()).len(), 2, "each began once");
}

#[tokio::test]
async fn a_task_that_had_begun_and_may_be_repeated_runs_again() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let requeue = json!({ "requeue": true });
    let id = service.add_with("waits", "door".into(), requeue).await;
    service.effect(&id, "began").await;

    service.kill().await;
    let service = Service::start(folder.path()).await;
    service.open("door").await;

    service.seen_as(&id, &["success"]).await;
    let lines = effects(folder.path());
    let said: Vec<_> = lines.iter().map(|line| &*line.what).collect();
    assert_eq!(said, ["began", "began", "ended"]);
}

#[tokio::test]
async fn a_task_that_waited_for_a_slot_runs() {
    let folder = tempdir().unwrap();
    let service = Settings::default()
        .concurrency(1)
        .start(folder.path())
        .await;
    let first = service.add("waits", "door").await;
    service.effect(&first, "began").await;
    let mut waiting = Vec::new();
    for n in 0..20 {
        waiting.push(service.add("effect", format!("{n}")).await);
    }

    service.kill().await;
    assert_eq!(
        effects(folder.path()).len(),
        1,
        "only the first one had begun"
    );
    let service = Service::start(folder.path()).await;

    for id in &waiting {
        service.seen_as(id, &["success"]).await;
    }
    let lines = effects(folder.path());
    let ran: BTreeSet<_> = lines[1..].iter().map(|line| line.id.clone()).collect();
    assert_eq!(lines.len(), 21, "each ran once");
    assert_eq!(ran, waiting.into_iter().collect());
}

#[tokio::test]
async fn a_scheduled_task_runs_at_its_time() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let soon = json!({ "delay_by_ms": 1_000 });
    let id = service.add_with("effect", "soon".into(), soon).await;
    let later = json!({ "delay_by_ms": 3_600_000 });
    let other = service.add_with("effect", "later".into(), later).await;

    service.kill().await;
    let service = Service::start(folder.path()).await;

    let task = service.seen_as(&id, &["success"]).await;
    assert!(
        task["started_at"].as_i64() >= task["run_at"].as_i64(),
        "{task}"
    );
    assert_eq!(service.seen(&other).await["status"], "pending");
}

#[tokio::test]
async fn a_retry_that_waited_runs() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let options = json!({ "retries": 1, "delay_ms": 500, "jitter": 0.0 });
    let id = service
        .add_with("fails_before", json!(["label", 2]), options)
        .await;
    until("the first attempt has failed", async || {
        let task = service.seen(&id).await;
        (task["status"] == "pending" && task["attempt"] == 1).then_some(())
    })
    .await;

    service.kill().await;
    let service = Service::start(folder.path()).await;

    let task = service.seen_as(&id, &["success"]).await;
    assert_eq!(task["attempt"], 2);
    assert_eq!(task["past"], json!(["failed"]));
    let attempts: Vec<_> = effects(folder.path()).iter().map(|e| e.attempt).collect();
    assert_eq!(attempts, [1, 2]);
}

#[tokio::test]
async fn a_key_still_means_the_same_task() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let keyed = |key: &str| json!({ "key": key });
    let done = service
        .add_with("effect", "done".into(), keyed("done"))
        .await;
    service.seen_as(&done, &["success"]).await;
    let waiting = json!({ "key": "waiting", "delay_by_ms": 3_600_000 });
    let waiting = service.add_with("effect", "waiting".into(), waiting).await;
    let begun = service
        .add_with("waits", "door".into(), keyed("begun"))
        .await;
    service.effect(&begun, "began").await;

    service.kill().await;
    let service = Service::start(folder.path()).await;

    let again = service
        .add_with("effect", "done".into(), keyed("done"))
        .await;
    assert_eq!(again, done, "it succeeded not long ago");
    let again = service
        .add_with("effect", "x".into(), keyed("waiting"))
        .await;
    assert_eq!(again, waiting, "it still waits");
    let again = service
        .add_with("waits", "door".into(), keyed("begun"))
        .await;
    assert_ne!(again, begun, "that one was interrupted, so its key is free");
    service.open("door").await;
    service.seen_as(&again, &["success"]).await;
    let done: Vec<Effect> = effects(folder.path())
        .into_iter()
        .filter(|line| line.label == "done")
        .collect();
    assert_eq!(done.len(), 1);
}

#[tokio::test]
async fn a_task_that_aborts_the_process_is_interrupted_and_takes_no_other_with_it() {
    let folder = tempdir().unwrap();
    let service = Settings::default()
        .concurrency(2)
        .start(folder.path())
        .await;
    let running = service.add("waits", "door").await;
    service.effect(&running, "began").await;
    let soon = json!({ "delay_by_ms": 500 });
    let waiting = service.add_with("effect", "waiting".into(), soon).await;

    // The process may be gone before it answers.
    let _ = service
        .caller
        .try_add("aborts", "aborts".into(), json!({}))
        .await;
    let status = service.ended().await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    let service = Service::start(folder.path()).await;

    let lines = effects(folder.path());
    let mut aborts = lines.iter().filter(|line| line.label == "aborts");
    for id in [&aborts.next().unwrap().id, &running] {
        assert_eq!(service.seen(id).await["status"], "interrupted");
    }
    assert_eq!(aborts.next(), None, "it began once");
    service.seen_as(&waiting, &["success"]).await;
}

// ---- many kills, at random moments ---------------------------------------------------------------------------

const ROUNDS: usize = 6;
const CLIENTS: usize = 6;

/// What the service accepted: the instance that did, by id.
type Accepted = BTreeMap<String, String>;

#[tokio::test]
async fn over_many_kills_nothing_accepted_is_lost_and_nothing_runs_twice_unasked() {
    let seed = 0x7a5c_f10e;
    let mut rng = Rng::with_seed(seed);
    let folder = tempdir().unwrap();
    let settings = Settings::default().concurrency(16).crashes_max(1_000);
    let (mut accepted, mut begun) = (Accepted::new(), Vec::new());

    for round in 0..ROUNDS {
        let service = settings.clone().start(folder.path()).await;
        // Two that run for sure when the end comes; one of them may be repeated.
        let once = service.add("waits", "end").await;
        let requeue = json!({ "requeue": true });
        let again = service.add_with("waits", "end".into(), requeue).await;
        service.effect(&once, "began").await;
        service.effect(&again, "began").await;
        begun.push((once, again));

        let (sender, mut answers) = unbounded_channel();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(busy(service.caller.clone(), rng.fork(), sender.clone())))
            .collect();
        drop(sender);
        for _ in 0..rng.usize(40..160) {
            let (id, instance) = answers.recv().await.expect("the service is alive");
            accepted.insert(id, instance);
        }
        // Some that wait for sure when the end comes.
        let burst: Vec<String> = (0..100).map(|n| format!("{round} burst {n}")).collect();
        for id in service.add_many("effect", &burst).await {
            accepted.insert(id, format!("round {round}"));
        }
        service.kill().await;
        for client in clients {
            client.await.unwrap();
        }
        while let Ok((id, instance)) = answers.try_recv() {
            accepted.insert(id, instance);
        }
    }
    let service = settings.start(folder.path()).await;
    service.open("end").await;
    let tasks = drained(&service).await;

    let tasks: BTreeMap<String, Value> = tasks
        .into_iter()
        .map(|task| (task["id"].as_str().unwrap().to_owned(), task))
        .collect();
    let effects = effects(folder.path());
    for id in accepted.keys() {
        assert!(
            tasks.contains_key(id),
            "{id} was accepted and is gone; seed {seed}"
        );
    }
    for line in &effects {
        assert!(
            tasks.contains_key(&line.id),
            "{line:?} of a task that is not there; seed {seed}"
        );
    }
    for (id, task) in &tasks {
        let began: Vec<u64> = effects
            .iter()
            .filter(|line| line.id == *id && line.what != "ended")
            .map(|line| line.attempt)
            .collect();
        if let Some(wrong) = wrong(task, &began) {
            panic!("{wrong}; it began at attempts {began:?}; seed {seed}: {task}");
        }
    }
    for (once, again) in begun {
        assert_eq!(tasks[&once]["status"], "interrupted");
        let n = effects
            .iter()
            .filter(|line| line.id == again && line.what == "began");
        assert!(n.count() >= 2, "it ran in one life and again in the next");
    }
    // The kills came at moments that tell something.
    let taken_over = |function: &str| {
        let is_of = |task: &Value| task["function"] == function && task["status"] == "success";
        accepted
            .iter()
            .any(|(id, instance)| is_of(&tasks[id]) && tasks[id]["instance"] != json!(instance))
    };
    for function in ["effect", "effect_blocking", "sleeps", "fails_before"] {
        assert!(
            taken_over(function),
            "no {function} ran in a later life; seed {seed}"
        );
    }
}

/// What is wrong with a task, by its end and the attempts that had begun.
fn wrong(task: &Value, began: &[u64]) -> Option<&'static str> {
    let status = task["status"].as_str().unwrap();
    let attempt = task["attempt"].as_u64().unwrap();
    let n_fails = if task["function"] == "fails_before" {
        1
    } else {
        0
    };
    let distinct: BTreeSet<u64> = began.iter().copied().collect();
    if task["may_repeat"] == true {
        return match status {
            "success" if !began.is_empty() => None,
            _ => Some("it may be repeated and was not brought to its end"),
        };
    }
    match status {
        _ if distinct.len() < began.len() => Some("an attempt ran twice"),
        "success" if began != (1..=attempt).collect::<Vec<_>>() => Some("attempts are missing"),
        "success" if attempt != 1 + n_fails => Some("it ran more often than it was asked to"),
        "success" if task["started_at"].as_i64() < task["run_at"].as_i64() => {
            Some("it ran too early")
        }
        "success" => None,
        "interrupted" if distinct.last().is_some_and(|last| *last > attempt) => {
            Some("an attempt ran whose start is not stored")
        }
        "interrupted" => None,
        _ => Some("it should have succeeded"),
    }
}

/// Adds tasks of all kinds until the service is gone.
async fn busy(caller: Caller, mut rng: Rng, accepted: UnboundedSender<(String, String)>) {
    loop {
        let label = format!("{:016x}", rng.u64(..));
        let (function, args, options) = match rng.u32(..7) {
            0 => ("effect", json!(label), json!({})),
            1 => ("effect_blocking", json!(label), json!({})),
            2 => ("sleeps", json!([label, rng.u32(1..400)]), json!({})),
            3 => (
                "sleeps",
                json!([label, rng.u32(1..400)]),
                json!({ "requeue": true }),
            ),
            4 => (
                "effect",
                json!(label),
                json!({ "delay_by_ms": rng.u32(1..2_000) }),
            ),
            5 => (
                "effect_blocking",
                json!(label),
                json!({ "key": label, "priority": rng.i32(-2..3), "delay_by_ms": rng.u32(0..500) }),
            ),
            _ => (
                "fails_before",
                json!([label, 2]),
                json!({ "retries": 1, "delay_ms": rng.u32(1..1_500), "jitter": 0.0 }),
            ),
        };
        let Ok(response) = caller.try_add(function, args, options).await else {
            return;
        };
        let status = response.status();
        let Ok(body) = response.json::<Value>().await else {
            return; // cut off before the whole answer came: the task may be there or not
        };
        assert_eq!(status, 200, "{body}");
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        if accepted.send((text("id"), text("instance"))).is_err() {
            return;
        }
    }
}

/// All tasks, once none is pending or running any more.
async fn drained(service: &Service) -> Vec<Value> {
    until("every task has ended", async || {
        let tasks = service.all_seen().await;
        let is_live = |task: &Value| task["status"] == "pending" || task["status"] == "running";
        (!tasks.iter().any(is_live)).then_some(tasks)
    })
    .await
}
