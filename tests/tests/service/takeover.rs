//! Several processes share one file: what one leaves, by death, by shutdown or for want of a slot, another runs; and
//! never two run one task.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use crate::support::{Effect, Service, Settings, effects, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::tempdir;

/// What is promised is a second; a machine that runs other tests beside may need longer, and is not what is tested.
const PROMPTLY: Duration = Duration::from_secs(5);

fn requeue() -> Value {
    json!({ "requeue": true })
}

/// How often this task has written this.
fn times(service: &Service, id: &str, what: &str) -> usize {
    let effects = effects(&service.folder);
    let fits = |effect: &&Effect| effect.id == id && effect.what == what;
    effects.iter().filter(fits).count()
}

async fn begun_again(service: &Service, id: &str) {
    until("it has begun a second time", async || {
        (times(service, id, "began") == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_process_leaves_is_taken_over_by_a_living_one() {
    let folder = tempdir().unwrap();
    let dies = Settings::default()
        .concurrency(2)
        .start(folder.path())
        .await;
    let repeated = dies.add_with("waits", "door".into(), requeue()).await;
    let once = dies.add("waits", "door").await;
    dies.effect(&repeated, "began").await;
    dies.effect(&once, "began").await;
    let lives = Settings::default()
        .concurrency(10)
        .start(folder.path())
        .await;
    lives.open("door").await;
    let mut waiting = Vec::new();
    for n in 0..10 {
        waiting.push(dies.add("effect", format!("{n}")).await);
    }

    let killed = Instant::now();
    dies.kill().await;

    begun_again(&lives, &repeated).await;
    let taken_over_in = killed.elapsed();
    lives.seen_as(&repeated, &["success"]).await;
    let task = lives.seen_as(&once, &["interrupted"]).await;
    assert_eq!(task["error"], "the process died while this ran");
    for id in &waiting {
        lives.seen_as(id, &["success"]).await;
        assert_eq!(times(&lives, id, "ran"), 1);
    }
    assert_eq!(times(&lives, &once, "began"), 1, "it is not repeated");
    println!("taken over in {taken_over_in:?}");
    assert!(taken_over_in < PROMPTLY, "{taken_over_in:?}");
}

#[tokio::test]
async fn what_waits_at_a_clean_shutdown_is_run_by_a_living_process_at_once() {
    let folder = tempdir().unwrap();
    let leaves = Settings::default()
        .concurrency(1)
        .shutdown_timeout(Duration::from_secs(20))
        .start(folder.path())
        .await;
    let running = leaves.add("waits", "door").await;
    leaves.effect(&running, "began").await;
    // One that it holds: the process that will live is not there yet.
    let waiting = leaves.add("effect", "waiting").await;
    let lives = Service::start(folder.path()).await;
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
    assert!(handed_over_in < PROMPTLY, "{handed_over_in:?}");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_without_waiting_for_tasks() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await; // tasks would have 25 s
    let once = service.add("waits", "never").await;
    let again = service.add_with("waits", "never".into(), requeue()).await;
    service.effect(&once, "began").await;
    service.effect(&again, "began").await;

    service.signal(Signal::TERM);
    until("it shuts down", async || {
        service.log().contains("is shutting down").then_some(())
    })
    .await;
    let asked = Instant::now();
    service.signal(Signal::TERM);
    let status = service.ended().await;

    // 0 if the server was done first.
    let code = status.code();
    assert!(code == Some(143) || code == Some(0), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(10));
    let next = Service::start(folder.path()).await;
    let task = next.seen(&once).await;
    assert_eq!(task["status"], "interrupted");
    assert_eq!(task["error"], "interrupted by shutdown");
    begun_again(&next, &again).await;
    assert_eq!(next.seen(&again).await["attempt"], 1, "none is burnt");
}

#[tokio::test]
async fn a_process_that_only_adds_leaves_its_tasks_to_those_that_run_them() {
    let folder = tempdir().unwrap();
    let web = Settings::default().role("web").start(folder.path()).await;
    let early = web.add("effect", "early").await;
    let worker = Settings::default()
        .role("worker")
        .start(folder.path())
        .await;
    worker.effect(&early, "ran").await;

    let mut medians_ms = Vec::new();
    for _ in 0..3 {
        medians_ms.push(median_wait_ms(&web, &worker).await);
        // A machine that does something else meanwhile may need a second try, or a third.
        if medians_ms.iter().any(|ms| *ms < 20) {
            return;
        }
    }
    panic!("a task that another process has added waits for {medians_ms:?} ms");
}

/// Between the moment at which a task is due that one has added, and its start in the other: the median of 50.
async fn median_wait_ms(web: &Service, worker: &Service) -> i64 {
    let mut waited: Vec<i64> = Vec::new();
    for n in 0..50 {
        let id = web.add("effect", format!("{n}")).await;
        let task = web.seen_as(&id, &["success"]).await;
        assert_eq!(task["instance"], worker.instance().await);
        let (started_at, run_at) = (task["started_at"].as_i64(), task["run_at"].as_i64());
        waited.push(started_at.unwrap() - run_at.unwrap());
    }
    waited.sort_unstable();
    println!("waited for another process: median {} ms", waited[25]);
    waited[25]
}

#[tokio::test]
async fn a_role_that_there_is_not_is_refused_at_the_start() {
    let folder = tempdir().unwrap();

    let said = Settings::default().role("boss").fails(folder.path()).await;

    let wanted = "is not a role; the roles are both, web, worker";
    assert!(
        said.contains("TASKFLOW_ROLE") && said.contains(wanted),
        "{said}"
    );
}

#[tokio::test]
async fn a_stopped_process_keeps_its_tasks() {
    let folder = tempdir().unwrap();
    let stopped = Service::start(folder.path()).await;
    let id = stopped.add_with("waits", "door".into(), requeue()).await;
    stopped.effect(&id, "began").await;
    let other = Service::start(folder.path()).await;
    other.open("door").await;

    stopped.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await; // nothing is to happen, so there is nothing to wait for
    assert_eq!(times(&other, &id, "began"), 1);
    assert_eq!(other.seen(&id).await["status"], "running");
    stopped.signal(Signal::CONT);
    stopped.open("door").await;

    let task = other.seen_as(&id, &["success"]).await;
    assert_eq!(task["instance"], stopped.instance().await);
    assert_eq!(times(&other, &id, "began"), 1);
}

#[tokio::test]
async fn a_stopped_process_that_was_taken_for_dead_finds_itself_superseded_and_goes_on() {
    let folder = tempdir().unwrap();
    let settings = Settings::default().takeover_after(Duration::from_secs(3));
    let stopped = settings.clone().start(folder.path()).await;
    let former = stopped.instance().await;
    let id = stopped.add_with("waits", "door".into(), requeue()).await;
    stopped.effect(&id, "began").await;
    let other = settings.start(folder.path()).await;
    other.open("door").await;

    stopped.signal(Signal::STOP);
    begun_again(&other, &id).await;
    let task = other.seen_as(&id, &["success"]).await;
    assert_eq!(task["instance"], other.instance().await);
    stopped.signal(Signal::CONT);

    let now = until("it has another name", async || {
        let now = stopped.instance().await;
        (now != former).then_some(now)
    })
    .await;
    until("the late result is dropped", async || {
        let log = stopped.log();
        log.contains("dropped the stale result of a superseded attempt")
            .then_some(())
    })
    .await;
    let after = other.seen(&id).await;
    assert_eq!(after, task, "nothing was written");
    assert_eq!(times(&other, &id, "ended"), 1);
    let next = stopped.add("effect", "next").await;
    let task = stopped.seen_as(&next, &["success"]).await;
    assert_eq!(task["instance"], now);
}

#[tokio::test]
async fn while_another_program_locks_the_file_nobody_takes_the_others_for_dead() {
    let folder = tempdir().unwrap();
    let settings = Settings::default().takeover_after(Duration::from_secs(3));
    let one = settings.clone().start(folder.path()).await;
    let other = settings.start(folder.path()).await;
    let id = one.add("waits", "door").await;
    one.effect(&id, "began").await;
    let names = [one.instance().await, other.instance().await];
    let locker = rusqlite::Connection::open(folder.path().join("tasks.db")).unwrap();

    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await; // nothing is to happen, so there is nothing to wait for
    locker.execute_batch("COMMIT").unwrap();
    one.open("door").await;

    one.seen_as(&id, &["success"]).await;
    for service in [&one, &other] {
        let next = service.add("effect", "next").await;
        service.seen_as(&next, &["success"]).await;
        assert!(!service.log().contains("does not respond"));
    }
    assert_eq!([one.instance().await, other.instance().await], names);
}

#[tokio::test]
async fn a_task_that_kills_its_process_again_and_again_is_failed() {
    let folder = tempdir().unwrap();
    let first = Service::start(folder.path()).await;
    let response = first
        .caller
        .try_add("aborts", "bang".into(), requeue())
        .await;
    let id = until("the task has begun", async || {
        let effects = effects(folder.path());
        effects.first().map(|effect| effect.id.clone())
    })
    .await;
    drop(response); // the process may be gone before it answers
    assert!(first.ended().await.signal().is_some());

    let mut n_deaths = 1;
    let failed = loop {
        // It may die before it listens: what was left is run at once.
        let next = Settings::default().try_start(folder.path()).await;
        if let Err(status) = &next {
            assert!(status.signal().is_some(), "{status}");
        }
        let ended = async {
            let next = next.as_ref().ok()?;
            loop {
                let task = next.try_seen(&id).await?;
                if task["status"] == "failed" {
                    return Some(task);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match ended.await {
            Some(task) => break task,
            None => n_deaths += 1,
        }
        assert!(n_deaths < 10, "it goes on for ever");
    };

    assert_eq!(
        failed["error"],
        "the process died 3 times while running this"
    );
    assert!((3..=4).contains(&n_deaths), "{n_deaths}");
}
