//! Leads, locks and what is run once, over a store that fails, hangs or holds what nobody can read.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};

use axum_taskflow_core::{
    Backend, Becomes, Clock, Config, ErrorKind, HoldKind, Lead, OnceError, OnceOutcome,
    RecordChange, Schedule, Scope, TaskManager, Timestamp,
};
use support::{Backstage, BrokenPipe, Call, Link, Said, config, start, until};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// However slow the machine is.
const DEADLINE: Duration = Duration::from_secs(20);

fn on(store: &Arc<dyn Backend>) -> Config {
    let mut config = config();
    config.backend = store.clone();
    config.add_timeout = Duration::from_millis(300);
    config
}

/// A store, and two managers on it.
async fn two() -> (Backstage, TaskManager, TaskManager) {
    let (store, stage) = Backstage::new();
    (stage, start(on(&store)).await, start(on(&store)).await)
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

async fn works() -> Result<(), std::io::Error> {
    Ok(())
}

#[tokio::test]
async fn what_is_added_under_a_lock_that_was_given_back_is_refused_by_the_name_of_the_lock() {
    async fn opens() {}
    let manager = start(config()).await;
    let guard = manager.lock("door").acquire().await.unwrap();
    let fence = guard.fence();
    assert!(guard.release().await.unwrap());

    let added = manager.add_task(opens, ()).under(fence).await;

    let error = added.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        error.to_string(),
        "lock \"door\" is not held here any more: nothing was added"
    );
}

// ---- what a lost answer leaves -------------------------------------------------------------------------------

#[tokio::test]
async fn what_was_taken_under_a_name_that_is_dead_by_now_is_taken_anew() {
    let (stage, one, other) = two().await;
    let former = one.instance().id;
    stage.link(Link::FailsAfterStep);
    let asking = tokio::spawn({
        let one = one.clone();
        async move { one.lock("door").acquire().await.unwrap() }
    });
    stage.link_failed().await; // it is his in the store, and he does not know it
    stage.supersede_now(former).await;
    until(async || (one.instance().id != former).then_some(())).await;

    stage.link(Link::Works);
    let guard = soon(asking).await.unwrap();

    let holders = one.holders().await.unwrap();
    assert_eq!(holders[0].instance, one.instance().id);
    assert!(holders[0].is_alive, "others would take it");
    assert_eq!(holders[0].epoch, guard.epoch());
    let second = other.lock("door").try_acquire().await.unwrap();
    assert!(second.is_none(), "two would hold it");
}

#[tokio::test]
async fn what_was_taken_under_a_name_that_died_before_the_answer_came_is_taken_anew() {
    let (stage, one, _other) = two().await;
    let former = one.instance().id;
    stage.link(Link::AnswersLate);
    let asking = tokio::spawn({
        let one = one.clone();
        async move { one.lock("door").acquire().await.unwrap() }
    });
    until(async || stage.record("hold:lock:door").await).await;
    stage.supersede_now(former).await;
    until(async || (one.instance().id != former).then_some(())).await;

    stage.link(Link::Works);
    let guard = soon(asking).await.unwrap();

    let holders = one.holders().await.unwrap();
    assert_eq!(holders[0].instance, one.instance().id);
    assert_eq!(holders[0].epoch, guard.epoch());
}

#[tokio::test]
async fn an_answer_that_was_lost_costs_nothing_else() {
    let (stage, one, other) = two().await;
    stage.link(Link::FailsAfterStep);
    let asking = tokio::spawn({
        let one = one.clone();
        async move { one.lock("door").acquire().await.unwrap() }
    });
    stage.link_failed().await;
    let stored = stage.record("hold:lock:door").await.unwrap();

    stage.link(Link::Works);
    let guard = soon(asking).await.unwrap();

    assert_eq!(guard.epoch(), stored.version);
    assert!(other.lock("door").try_acquire().await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_given_up_while_the_store_is_out_is_free_for_others_once_it_is_back() {
    let (store, stage) = Backstage::new();
    let mut config = on(&store);
    config.takeover_after = Some(Duration::from_secs(3));
    let (one, other) = (start(config).await, start(on(&store)).await);
    let guard = one.lock("door").acquire().await.unwrap();

    stage.link(Link::Fails);
    stage.hold_beats(true);
    soon(guard.lost()).await; // for most of that time nobody has seen a beat
    let n_failed = stage.failed_calls();
    until(async || (stage.failed_calls() > n_failed).then_some(())).await;
    stage.hold_beats(false);
    stage.link(Link::Works);

    let next = soon(other.lock("door").acquire()).await.unwrap();
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test(start_paused = true)]
async fn a_beat_counts_from_when_it_was_sent_however_late_its_answer_comes() {
    let (store, stage) = Backstage::new();
    let mut config = on(&store);
    // So that it beats in the time of this runtime.
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.takeover_after = Some(Duration::from_secs(20));
    let manager = start(config).await;
    let guard = manager.lock("door").acquire().await.unwrap();
    stage.hold_beats(true);
    stage.beat_held().await;
    let sent = tokio::time::Instant::now();

    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.pass_one_beat();
    soon(guard.lost()).await;

    // Three quarters of the time after which others may take it for dead.
    let kept = sent.elapsed().as_millis();
    assert!((14_900..=15_100).contains(&kept), "{kept} ms");
}

// ---- a store that hangs --------------------------------------------------------------------------------------

#[tokio::test]
async fn nobody_waits_for_a_store_that_hangs_for_longer_than_he_said() {
    let (stage, one, other) = two().await;
    let guard = one.lock("taken").acquire().await.unwrap();
    stage.link(Link::Hangs);

    let begun = Instant::now();
    let within = one.lock("door").acquire_within(Duration::from_millis(200));
    let within = soon(within).await.unwrap_err();
    let tried = soon(one.lock("door").try_acquire()).await.unwrap_err();
    let once = one.run_once("job", Scope::Forever, works);
    let once = soon(once.into_future()).await.unwrap_err();
    let released = soon(one.release(HoldKind::Lock, "taken", "ada")).await;
    let paused = soon(one.pause_schedule("nightly", "ada")).await;
    let defined = Schedule::new(nothing, ()).every(Duration::from_secs(60));
    let defined = soon(one.schedule(defined.name("nightly"))).await;

    println!("after {:?}", begun.elapsed());
    assert_eq!(within.kind(), ErrorKind::TimedOut);
    assert_eq!(tried.kind(), ErrorKind::TimedOut);
    let OnceError::Manager(once) = once else {
        panic!("{once}");
    };
    assert_eq!(once.kind(), ErrorKind::TimedOut);
    assert_eq!(released.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(paused.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(defined.unwrap_err().kind(), ErrorKind::TimedOut);
    // And what they had begun is taken back.
    stage.link(Link::Works);
    let door = other.lock("door").acquire_within(DEADLINE).await.unwrap();
    assert!(door.is_some());
    assert!(guard.is_held());
}

#[tokio::test]
async fn who_gives_a_lock_back_waits_no_longer_for_a_store_that_hangs_than_for_any_other_answer() {
    let (stage, one, other) = two().await;
    let guard = one.lock("door").acquire().await.unwrap();
    stage.link(Link::Hangs);

    let told = soon(guard.release()).await.unwrap_err();

    assert_eq!(told.kind(), ErrorKind::TimedOut);
    stage.link(Link::Works);
    let door = other.lock("door").acquire_within(DEADLINE).await.unwrap();
    assert!(door.is_some(), "it was tried again");
}

#[tokio::test]
async fn who_saw_that_another_one_has_it_is_told_so_although_the_last_look_hangs() {
    let (stage, one, other) = two().await;
    let _guard = one.lock("door").acquire().await.unwrap();
    let asking = tokio::spawn({
        let other = other.clone();
        async move {
            let lock = other.lock("door");
            lock.acquire_within(Duration::from_secs(2)).await.unwrap()
        }
    });
    until(async || (one.holders().await.unwrap()[0].waiting == 1).then_some(())).await;

    stage.link(Link::Hangs);

    assert!(soon(asking).await.unwrap().is_none());
}

#[tokio::test]
async fn who_waits_for_what_another_one_runs_once_waits_through_an_outage() {
    let (stage, one, other) = two().await;
    let gate = Arc::new(Semaphore::new(0));
    let begun = Arc::new(Notify::new());
    let runs = tokio::spawn({
        let (gate, begun) = (gate.clone(), begun.clone());
        async move {
            let work = || async {
                begun.notify_one();
                gate.acquire().await.map(SemaphorePermit::forget)
            };
            one.run_once("job", Scope::Forever, work).await
        }
    });
    soon(begun.notified()).await;
    let mut waits = Box::pin(async move { other.run_once("job", Scope::Forever, works).await });
    let first = std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await;
    assert!(first.is_pending(), "it has looked, and waits");
    let waits = tokio::spawn(waits);

    stage.link(Link::Fails);
    let n_failed = stage.failed_calls();
    until(async || (waits.is_finished() || stage.failed_calls() >= n_failed + 20).then_some(()))
        .await;
    stage.link(Link::Works);
    gate.add_permits(1);

    assert_eq!(
        soon(waits).await.unwrap().unwrap(),
        OnceOutcome::WaitedForOther
    );
    assert_eq!(soon(runs).await.unwrap().unwrap(), OnceOutcome::Ran);
}

#[tokio::test]
async fn after_a_shutdown_nobody_is_said_to_have_what_was_asked_for() {
    let (_stage, one, _other) = two().await;
    one.shutdown().await.unwrap();

    let tried = soon(one.lock("door").try_acquire()).await.unwrap_err();
    let within = one.lock("door").acquire_within(Duration::ZERO);
    let within = soon(within).await.unwrap_err();
    let once = one.run_once("job", Scope::Forever, works);
    let once = soon(once.into_future()).await;

    assert_eq!(tried.kind(), ErrorKind::ShuttingDown);
    assert_eq!(within.kind(), ErrorKind::ShuttingDown);
    assert!(once.is_err());
}

async fn nothing() {}

#[tokio::test]
async fn a_wait_longer_than_any_clock_goes_is_a_wait_for_ever() {
    let (_stage, one, other) = two().await;
    let guard = one.lock("door").acquire().await.unwrap();
    let locks = tokio::spawn({
        let other = other.clone();
        async move { other.lock("door").acquire_within(Duration::MAX).await }
    });
    let runs = tokio::spawn({
        let one = one.clone();
        async move {
            let work = || async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                works().await
            };
            one.run_once("job", Scope::Forever, work).await
        }
    });
    until(async || (one.holders().await.unwrap().len() == 2).then_some(())).await;
    let waits = other.run_once("job", Scope::Forever, works);
    let waits = waits.wait(Duration::MAX).into_future();

    assert_eq!(soon(waits).await.unwrap(), OnceOutcome::WaitedForOther);
    assert_eq!(soon(runs).await.unwrap().unwrap(), OnceOutcome::Ran);
    guard.release().await.unwrap();
    assert!(soon(locks).await.unwrap().unwrap().is_some());
}

// ---- what is shown ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn to_show_many_holders_takes_no_look_for_each_of_them() {
    let (stage, one, other) = two().await;
    let mut guards = Vec::new();
    for n in 0..50 {
        guards.push(one.lock(format!("n{n}")).acquire().await.unwrap());
    }
    let waits = tokio::spawn(async move { other.lock("n7").acquire().await });
    until(async || stage.record("line:lock:n7").await).await;

    let n_before = stage.calls(Call::Records);
    let holders = one.holders().await.unwrap();
    let n_looks = stage.calls(Call::Records) - n_before;

    assert!(n_looks < 25, "{n_looks} looks"); // others look at what they hold, or wait for, all the time
    let n_waiting = |name: &str| holders.iter().find(|it| it.name == name).unwrap().waiting;
    assert_eq!(
        (holders.len(), n_waiting("n7"), n_waiting("n8")),
        (50, 1, 0)
    );
    waits.abort();
}

// ---- what nobody can read ------------------------------------------------------------------------------------

fn garbage(key: &str) -> RecordChange {
    RecordChange {
        key: key.to_owned(),
        expects: 0,
        becomes: Becomes::Value("of a newer program".into()),
    }
}

#[tokio::test]
async fn what_cannot_be_read_hides_no_other_holder() {
    let (stage, one, _) = two().await;
    let guards = [
        one.lock("a").acquire().await.unwrap(),
        one.lock("z").acquire().await.unwrap(),
    ];
    stage.put(garbage("hold:lock:m")).await;
    stage.put(garbage("line:lock:z")).await;

    let holders = one.holders().await.unwrap();

    let names: Vec<&str> = holders.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["a", "z"]);
    assert_eq!(holders[1].epoch, guards[1].epoch());
}

#[tokio::test]
async fn that_a_hold_cannot_be_read_is_said_once_however_often_it_is_looked_at() {
    let (said, _log) = Said::here();
    let (stage, one, _) = two().await;
    let _guard = one.lock("z").acquire().await.unwrap();
    stage.put(garbage("hold:lock:m")).await;
    stage.put(garbage("line:lock:z")).await;

    for _ in 0..3 {
        one.holders().await.unwrap(); // as each page does that is live
    }

    assert_eq!(said.n("a hold is not shown as it is"), 2);
}

#[tokio::test]
async fn that_nobody_can_lead_is_said_once() {
    let (said, _log) = Said::here();
    let (stage, one, _) = two().await;
    stage.put(garbage("hold:leader:mailer")).await;

    let watch = one.leader("mailer").watch().unwrap();
    until(async || (said.n("nobody here can have it") > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(800)).await; // some looks more

    assert_eq!(said.n("nobody here can have it"), 1);
    assert!(!watch.is_leader());
    // Once it is out of the way, there is a leader.
    let epoch = one.release(HoldKind::Leader, "mailer", "ada").await;
    assert!(epoch.is_ok());
    until(async || watch.is_leader().then_some(())).await;
}

// ---- who lets go, and where ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_kept_clone_of_a_lead_keeps_no_lead() {
    let (_stage, one, other) = two().await;
    let kept = Arc::new(Mutex::new(None::<Lead>));
    let leads = tokio::spawn({
        let (leader, kept) = (one.leader("mailer"), kept.clone());
        async move {
            let work = |lead: Lead| {
                *kept.lock().unwrap() = Some(lead);
                std::future::pending::<()>()
            };
            leader.run(work).await
        }
    });
    let lead = until(async || kept.lock().unwrap().clone()).await;
    assert!(lead.is_held());

    leads.abort();

    let next = soon(other.leader("mailer").run(async |lead: Lead| lead.epoch())).await;
    assert!(next.unwrap().unwrap() > lead.epoch());
    assert!(!lead.is_held());
}

#[test]
fn what_is_held_is_looked_after_when_the_runtime_that_asked_for_it_is_gone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_stage, one, other) = runtime.block_on(two());
    let passing = tokio::runtime::Runtime::new().unwrap();
    let dropped = passing.block_on(one.lock("window").acquire()).unwrap();
    drop(passing);
    drop(dropped);

    runtime.block_on(async {
        let window = other.lock("window").acquire_within(DEADLINE).await;
        assert!(window.unwrap().is_some());
        let guard = one.lock("door").acquire().await.unwrap();
        other.release(HoldKind::Lock, "door", "ada").await.unwrap();
        soon(guard.lost()).await;
    });
}

// ---- what panics ---------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_keeps_nobody_from_learning_that_he_holds_it_no_more() {
    let (store, stage) = Backstage::new();
    let mut config = on(&store);
    // So that it beats on this thread, where the log is.
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let manager = start(config).await;
    let lock = async |name| manager.lock(name).acquire().await.unwrap();
    let guards = [lock("door").await, lock("gate").await];
    let _guard = BrokenPipe::here();

    stage.supersede_now(manager.instance().id).await;
    for guard in &guards {
        soon(guard.lost()).await; // another instance may have it
    }

    drop(guards);
    let guard = soon(manager.lock("door").acquire()).await.unwrap();
    stage
        .put(RecordChange {
            key: "hold:lock:door".to_owned(),
            expects: guard.epoch(),
            becomes: Becomes::Gone,
        })
        .await;
    soon(guard.lost()).await;
}

#[tokio::test]
async fn a_store_that_panics_keeps_no_lock_from_being_given_back() {
    let (stage, one, other) = two().await;
    let guard = one.lock("door").acquire().await.unwrap();

    stage.panic_in(Call::Step);
    drop(guard);

    let _taken = soon(other.lock("door").acquire()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_panics_keeps_nobody_from_leaving_the_line() {
    let (stage, one, other) = two().await;
    let guard = one.lock("door").acquire().await.unwrap();
    {
        let waiting = other.lock("door").acquire();
        tokio::select! {
            _ = waiting => panic!("it is held"),
            () = until(async || stage.record("line:lock:door").await.map(drop)) => {}
        }
        stage.panic_in(Call::Step);
    }

    until(async || stage.record("line:lock:door").await.is_none().then_some(())).await;
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_lock_is_told_of_a_shutdown_although_the_store_hangs() {
    let (stage, one, _other) = two().await;
    stage.link(Link::Hangs);
    let asking = tokio::spawn({
        let one = one.clone();
        async move { one.lock("door").acquire().await }
    });
    tokio::task::yield_now().await;

    one.shutdown().await.unwrap();

    let told = soon(asking).await.unwrap().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ShuttingDown);
}

// ---- the start of the cluster, if nobody can read it ---------------------------------------------------------

/// Of a newer program, or damaged: who can tell.
async fn spoil(stage: &Backstage, key: &str) {
    let before = stage.record(key).await;
    stage
        .put(RecordChange {
            key: key.to_owned(),
            expects: before.map_or(0, |record| record.version),
            becomes: Becomes::Value("{".into()),
        })
        .await;
}

#[tokio::test]
async fn a_start_of_the_cluster_that_nobody_can_read_is_over_for_who_is_alone() {
    let (store, stage) = Backstage::new();
    spoil(&stage, "boot").await;

    let first = start(on(&store)).await;
    let second = start(on(&store)).await;

    let once = |manager: TaskManager| async move {
        let once = manager.run_once("warm", Scope::ClusterBoot, works);
        soon(once.into_future()).await.unwrap()
    };
    assert_eq!(once(first).await, OnceOutcome::Ran);
    assert_eq!(once(second).await, OnceOutcome::AlreadyDone);
}

#[tokio::test]
async fn a_start_of_the_cluster_that_nobody_can_read_goes_on_while_somebody_lives() {
    let (store, stage) = Backstage::new();
    let first = start(on(&store)).await;
    let once = || first.run_once("warm", Scope::ClusterBoot, works);
    soon(once().into_future()).await.unwrap();
    spoil(&stage, "boot").await;

    let refused = TaskManager::start(on(&store)).await.unwrap_err();

    let why = refused.to_string();
    assert!(why.contains("the record \"boot\" cannot be read"), "{why}");
    assert!(why.contains("once no other instance is alive"), "{why}");
    assert_eq!(stage.record("boot").await.unwrap().value, "{".into());
    let again = soon(once().into_future()).await.unwrap();
    assert_eq!(again, OnceOutcome::AlreadyDone);
    for peer in store.instances().await.unwrap() {
        store.leave(peer.instance.id).await.unwrap();
    }

    let next = start(on(&store)).await;
    let again = next.run_once("warm", Scope::ClusterBoot, works);
    assert_eq!(soon(again.into_future()).await.unwrap(), OnceOutcome::Ran);
}
