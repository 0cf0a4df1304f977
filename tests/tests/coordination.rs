//! Leads, locks and what is run once: by several managers on one store, in one process and in several.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    collections::BTreeSet,
    env,
    fs::{File, OpenOptions},
    future::poll_fn,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    pin::pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use axum_taskflow::{
    Clock, ErrorKind, Fence, HoldKind, Lead, ListQuery, OnceError, OnceOutcome, Overlap,
    RedisOptions, Role, Schedule, Scope, TaskManager, TaskStatus, Timestamp, task,
};
use rustix::process::{Pid, Signal, kill_process};
use servers::RedisServer;
use support::{DEADLINE, until};
use tempfile::{TempDir, tempdir};
use tokio::{sync::Barrier, task::JoinSet, time::sleep};

/// How long an instance counts as alive on Redis.
const LEASE: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_millis(20);

// ---- where ---------------------------------------------------------------------------------------------------

/// Each test on each store.
macro_rules! on_each_store {
    ($($test:ident),* $(,)?) => {
        on!(sqlite, false, $($test),*);
        on!(redis, true, $($test),*);
    };
}

macro_rules! on {
    ($place:ident, $is_redis:literal, $($test:ident),*) => {
        mod $place {
            use super::Site;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if let Some(part) = super::part() {
                    return super::play(&part).await;
                }
                super::$test(&Site::new($is_redis)).await;
            })*
        }
    };
}

on_each_store! {
    of_all_who_want_a_lock_one_has_it_and_each_in_his_turn,
    a_lock_is_free_when_its_guard_is_dropped_anywhere,
    who_waits_no_longer_is_not_waited_for,
    who_stops_asking_at_any_moment_holds_nothing,
    what_is_still_held_at_a_shutdown_is_given_back,
    at_a_shutdown_one_comes_out_before_another_goes_in,
    those_who_wait_are_served_in_their_order,
    who_does_not_come_when_it_is_his_turn_is_passed_over,
    a_lock_that_is_taken_by_force_is_lost_at_once,
    what_is_added_under_a_lost_lead_is_refused,
    one_leads_and_hands_over_when_it_shuts_down,
    a_leader_that_is_slow_to_stop_is_waited_for_at_a_shutdown,
    an_instance_that_may_not_lead_never_does,
    a_watch_tells_when_the_lead_comes_and_goes,
    of_all_who_run_it_once_one_does_and_the_others_wait,
    what_takes_no_time_is_run_once_all_the_same,
    what_fails_is_told_to_all_who_wait_and_run_again_when_asked_again,
    each_version_of_the_program_runs_it_once,
    each_start_of_the_cluster_runs_it_once,
    names_that_cannot_be_used_are_refused,
    a_killed_leader_is_followed_by_another,
    a_leader_that_was_stopped_for_long_changes_nothing_afterwards,
    what_a_leader_that_was_stopped_for_long_writes_afterwards_is_refused,
    what_is_run_once_is_done_once_whoever_is_killed,
    each_slot_makes_one_task_over_kills_and_with_clocks_apart,
    who_waits_for_a_task_hears_of_its_end_in_another_process,
    of_one_run_key_one_task_waits_and_one_that_runs_is_not_disturbed,
}

/// Where tasks are stored.
struct Site {
    folder: TempDir,
    redis: Option<RedisServer>,
}

impl Site {
    fn new(is_redis: bool) -> Self {
        Self {
            folder: tempdir().unwrap(),
            redis: is_redis.then(RedisServer::start),
        }
    }

    /// What a child is told.
    fn store(&self) -> String {
        match &self.redis {
            Some(redis) => redis.url(),
            None => self.folder.path().join("tasks.db").display().to_string(),
        }
    }

    async fn manager(&self) -> TaskManager {
        manager(&self.store(), |builder| builder).await
    }

    /// After which somebody who is dead or cut off is followed by another.
    fn takeover(&self) -> Duration {
        match self.redis {
            Some(_) => LEASE + Duration::from_secs(2),
            None => Duration::from_secs(2),
        }
    }

    /// The same, for most of them.
    fn takeover_usual(&self) -> Duration {
        self.redis
            .as_ref()
            .map_or(Duration::from_secs(1), |_| LEASE + Duration::from_secs(1))
    }
}

async fn manager(
    store: &str,
    change: impl FnOnce(axum_taskflow::Builder) -> axum_taskflow::Builder,
) -> TaskManager {
    try_manager(store, change).await.unwrap()
}

async fn try_manager(
    store: &str,
    change: impl FnOnce(axum_taskflow::Builder) -> axum_taskflow::Builder,
) -> Result<TaskManager, axum_taskflow::Error> {
    let builder = TaskManager::builder().shutdown_timeout(Duration::from_secs(2));
    let builder = match store.starts_with("redis") {
        true => builder.redis_with(RedisOptions::new(store).lease(LEASE).deadline(LEASE / 2)),
        false => builder.sqlite(store),
    };
    change(builder).build().await
}

/// The future's answer, which must come.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

/// Counts who is inside at once.
#[derive(Clone, Default)]
struct Inside(Arc<(AtomicUsize, AtomicUsize)>);

impl Inside {
    async fn pass(&self) {
        let n = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        let _leaves = Leaves(self);
        self.0.1.fetch_max(n, Ordering::SeqCst);
        sleep(Duration::from_millis(2)).await;
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// Also if the future is dropped.
struct Leaves<'a>(&'a Inside);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

// ---- locks ---------------------------------------------------------------------------------------------------

async fn of_all_who_want_a_lock_one_has_it_and_each_in_his_turn(site: &Site) {
    let inside = Inside::default();
    let epochs = Arc::new(Mutex::new(Vec::new()));
    let mut wanting = JoinSet::new();
    let mut managers = Vec::new();
    for _ in 0..3 {
        let manager = site.manager().await;
        for _ in 0..8 {
            let (manager, inside, epochs) = (manager.clone(), inside.clone(), epochs.clone());
            wanting.spawn(async move {
                let mut waits = Vec::new();
                for _ in 0..3 {
                    let asked = Instant::now();
                    let guard = manager.lock("report:42").acquire().await.unwrap();
                    waits.push(asked.elapsed());
                    inside.pass().await;
                    epochs.lock().unwrap().push(guard.epoch());
                    assert!(guard.release().await.unwrap());
                }
                waits
            });
        }
        managers.push(manager);
    }

    let waits: Vec<Vec<Duration>> = soon(wanting.join_all()).await;

    assert_eq!(inside.most(), 1);
    let epochs = epochs.lock().unwrap().clone();
    assert_eq!(epochs.len(), 72);
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    // In turns: nobody waits for much more than all others once.
    let mut all: Vec<Duration> = waits.into_iter().flatten().collect();
    all.sort();
    let (median, longest) = (all[36], all[71]);
    println!("waited {median:?} in the median, {longest:?} at most");
    assert!(longest < median * 4 + Duration::from_secs(1), "{longest:?}");
    assert_eq!(managers[0].holders().await.unwrap(), []);
}

async fn a_lock_is_free_when_its_guard_is_dropped_anywhere(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let guard = one.lock("door").acquire().await.unwrap();
    assert!(other.lock("door").try_acquire().await.unwrap().is_none());
    assert!(one.lock("door").try_acquire().await.unwrap().is_none());
    assert!(other.lock("window").try_acquire().await.unwrap().is_some());

    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.lock("door").acquire().await.unwrap().epoch() }
    });
    let first = guard.epoch();
    until("one waits", async || {
        (one.holders().await.unwrap().first()?.waiting == 1).then_some(())
    })
    .await;
    let dropped = Instant::now();
    std::thread::spawn(move || drop(guard)).join().unwrap(); // where no runtime is

    assert!(soon(waiting).await.unwrap() > first);
    println!("handed over within {:?}", dropped.elapsed());
    assert!(dropped.elapsed() < Duration::from_secs(1));
}

async fn who_waits_no_longer_is_not_waited_for(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let guard = one.lock("door").acquire().await.unwrap();

    let begun = Instant::now();
    let patient = other
        .lock("door")
        .acquire_within(Duration::from_millis(300));
    assert!(patient.await.unwrap().is_none());
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let dropped = tokio::time::timeout(Duration::from_millis(200), other.lock("door").acquire());
    assert!(dropped.await.is_err());
    guard.release().await.unwrap();

    let third = one.lock("door").acquire_within(DEADLINE);
    assert!(third.await.unwrap().is_some());
}

/// Drops a future the `n`th time that it has to wait.
async fn dropped_at<T>(n: usize, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut left) = (pin!(work), n);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

async fn who_stops_asking_at_any_moment_holds_nothing(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let mut n_dropped = 0;
    for round in 0..40 {
        let name = format!("door {round}");
        match dropped_at(round % 8, one.lock(&name).acquire()).await {
            Some(guard) => drop(guard.unwrap()),
            None => n_dropped += 1,
        }
        let watch = one.leader(&name).watch().unwrap();
        sleep(Duration::from_micros(100) * u32::try_from(round).unwrap()).await;
        drop(watch);
        let lock = other.lock(&name).acquire_within(DEADLINE);
        assert!(lock.await.unwrap().is_some(), "{name}, lock");
    }
    assert!(n_dropped > 5, "{n_dropped}");
    until("nobody holds anything", async || {
        (one.holders().await.unwrap().is_empty()).then_some(())
    })
    .await;
}

async fn what_is_still_held_at_a_shutdown_is_given_back(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let guard = one.lock("door").acquire().await.unwrap();

    one.shutdown().await.unwrap();

    assert!(!guard.is_held());
    // Nobody has to find out first that its holder is gone.
    assert_eq!(other.holders().await.unwrap(), []);
}

async fn at_a_shutdown_one_comes_out_before_another_goes_in(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let guard = one.lock("door").acquire().await.unwrap();
    let inside = tokio::spawn(async move {
        guard.lost().await;
        sleep(Duration::from_millis(150)).await; // what is begun is brought to its end
        Instant::now()
    });
    let waiting = tokio::spawn(async move {
        let _guard = other.lock("door").acquire().await.unwrap();
        Instant::now()
    });
    sleep(MOMENT * 5).await;

    one.shutdown().await.unwrap();

    let (out, next) = (inside.await.unwrap(), soon(waiting).await.unwrap());
    assert!(next >= out, "{:?} too early", out - next);
}

async fn those_who_wait_are_served_in_their_order(site: &Site) {
    let managers = [site.manager().await, site.manager().await];
    let guard = managers[0].lock("door").acquire().await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = JoinSet::new();
    for n in 0..8 {
        let (manager, served) = (managers[n % 2].clone(), served.clone());
        waiting.spawn(async move {
            let guard = manager.lock("door").acquire().await.unwrap();
            served.lock().unwrap().push(n);
            guard.release().await.unwrap();
        });
        until("it stands in the line", async || {
            (managers[0].holders().await.unwrap().first()?.waiting == n + 1).then_some(())
        })
        .await;
    }

    guard.release().await.unwrap();
    soon(waiting.join_all()).await;

    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

async fn who_does_not_come_when_it_is_his_turn_is_passed_over(site: &Site) {
    let manager = site.manager().await;
    let guard = manager.lock("door").acquire().await.unwrap();
    // In the line, and then as in a process that is stopped.
    let mut first = Box::pin(manager.lock("door").acquire());
    let in_line = tokio::time::timeout(Duration::from_millis(200), &mut first);
    assert!(in_line.await.is_err());

    guard.release().await.unwrap();
    let begun = Instant::now();
    let other = soon(manager.lock("door").acquire()).await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(400),
        "it was not his turn"
    );
    other.release().await.unwrap();

    // It has lost nothing but time.
    let begun = Instant::now();
    drop(soon(&mut first).await.unwrap());
    assert!(begun.elapsed() < Duration::from_millis(400));
}

async fn a_lock_that_is_taken_by_force_is_lost_at_once(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let guard = one.lock("door").acquire().await.unwrap();
    let holders = other.holders().await.unwrap();
    let [holder] = &holders[..] else {
        panic!("{holders:?}");
    };
    assert_eq!((holder.kind, &*holder.name), (HoldKind::Lock, "door"));
    assert_eq!(
        (holder.epoch, holder.instance, holder.is_alive),
        (guard.epoch(), one.instance().id, true)
    );

    let epoch = other.release(HoldKind::Lock, "door", "ada").await.unwrap();

    assert_eq!(epoch, guard.epoch());
    soon(guard.lost()).await;
    assert!(!guard.is_held());
    let next = other.lock("door").try_acquire().await.unwrap().unwrap();
    assert!(!guard.release().await.unwrap(), "it is another one's now");
    assert!(next.is_held());
    let audit = one.audit(None, 10).await.unwrap();
    assert_eq!((&*audit[0].actor, &*audit[0].action), ("ada", "release"));
    let nobody = other.release(HoldKind::Lock, "window", "ada").await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NotFound);
}

#[task]
async fn says(text: String) -> String {
    text
}

async fn adds(manager: &TaskManager, fence: Fence) -> Result<axum_taskflow::TaskId, ErrorKind> {
    let added = manager.add_task(says, "x".to_owned()).under(fence).await;
    added.map_err(|error| error.kind())
}

async fn what_is_added_under_a_lost_lead_is_refused(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let guard = one.lock("mailer").acquire().await.unwrap();
    let fence = guard.fence();

    let id = adds(&one, fence.clone()).await.unwrap();
    until("one of them runs it", async || {
        let task = one.get(id).await.unwrap()?;
        (task.life.status == TaskStatus::Success).then_some(())
    })
    .await;
    guard.release().await.unwrap();
    assert_eq!(adds(&one, fence.clone()).await, Err(ErrorKind::Conflict));
    let next = other.lock("mailer").acquire().await.unwrap();
    assert_eq!(adds(&one, fence).await, Err(ErrorKind::Conflict));
    assert!(adds(&one, next.fence()).await.is_ok());
}

async fn names_that_cannot_be_used_are_refused(site: &Site) {
    let manager = site.manager().await;
    for name in ["", "a\nb", &"x".repeat(257)] {
        let lock = manager.lock(name).try_acquire().await;
        assert_eq!(lock.unwrap_err().kind(), ErrorKind::Invalid);
        let watch = manager.leader(name).watch();
        assert_eq!(watch.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let lock = manager.lock("ß %_* {x}:y").try_acquire().await.unwrap();
    assert_eq!(lock.unwrap().name(), "ß %_* {x}:y");
}

// ---- leaders -------------------------------------------------------------------------------------------------

async fn one_leads_and_hands_over_when_it_shuts_down(site: &Site) {
    // A machine that does something else may be late often. If it nearly always is, nobody is told: who only looks again
    // every 300 ms is not twice so fast in one round of thirty.
    let mut n_prompt = 0;
    for _ in 0..30 {
        let [one, other] = hands_over_twice(site).await;
        println!("handed over within {one:?} and {other:?}");
        n_prompt += usize::from(other < Duration::from_millis(30));
        if n_prompt == 3 {
            return;
        }
    }
    panic!("prompt in {n_prompt} of thirty rounds");
}

/// Of three one leads after the other: how long it took the last two to hear of it, the shorter time first.
async fn hands_over_twice(site: &Site) -> [Duration; 2] {
    let inside = Inside::default();
    let leading = Arc::new(Mutex::new(Vec::new()));
    let mut managers = Vec::new();
    for n in 0..3 {
        let manager = site.manager().await;
        let (inside, leading) = (inside.clone(), leading.clone());
        let leader = manager.leader("mailer");
        tokio::spawn(leader.run(move |lead: Lead| {
            leading
                .lock()
                .unwrap()
                .push((n, lead.epoch(), Instant::now()));
            let inside = inside.clone();
            async move {
                loop {
                    inside.pass().await;
                }
            }
        }));
        managers.push(Some(manager));
    }

    let mut hand_overs = Vec::new();
    let mut led = BTreeSet::new();
    for n_terms in 1..=3 {
        until("somebody leads", async || {
            (leading.lock().unwrap().len() == n_terms).then_some(())
        })
        .await;
        sleep(MOMENT).await;
        let (n, ..) = *leading.lock().unwrap().last().unwrap();
        assert!(led.insert(n), "each leads once");
        let asked = Instant::now();
        let leaves = managers[n].take().unwrap();
        let leaving = tokio::spawn(async move { leaves.shutdown().await });
        if n_terms < 3 {
            until("another one leads", async || {
                (leading.lock().unwrap().len() > n_terms).then_some(())
            })
            .await;
            let (_, _, at) = *leading.lock().unwrap().last().unwrap();
            hand_overs.push(at.duration_since(asked));
        }
        soon(leaving).await.unwrap().unwrap();
    }

    let epochs: Vec<u64> = leading.lock().unwrap().iter().map(|it| it.1).collect();
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    assert_eq!(inside.most(), 1, "never two at once");
    hand_overs.sort();
    hand_overs.try_into().unwrap()
}

async fn a_leader_that_is_slow_to_stop_is_waited_for_at_a_shutdown(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    let ended = Arc::new(Mutex::new(None));
    let leading = tokio::spawn({
        let (leader, ended) = (one.leader("mailer"), ended.clone());
        async move {
            let work = |_: Lead| async {
                begun.send(()).await.unwrap();
                std::thread::sleep(Duration::from_millis(1_200)); // it does not come to an await
                *ended.lock().unwrap() = Some(Instant::now());
                std::future::pending::<()>().await;
            };
            leader.run(work).await.unwrap();
        }
    });
    soon(begins.recv()).await.unwrap();
    let next = tokio::spawn(async move {
        let leader = other.leader("mailer");
        leader.run(async |_: Lead| Instant::now()).await.unwrap()
    });

    one.shutdown().await.unwrap();

    let next = soon(next).await.unwrap().unwrap();
    let ended = ended.lock().unwrap().expect("it was brought to its end");
    assert!(next >= ended, "{:?} too early", ended - next);
    soon(leading).await.unwrap();
}

async fn an_instance_that_may_not_lead_never_does(site: &Site) {
    let never = manager(&site.store(), |builder| builder.leads(false)).await;
    let watch = never.leader("mailer").watch().unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(!watch.is_leader());

    let other = site.manager().await;
    let worked = soon(other.leader("mailer").run(async |lead| lead.epoch())).await;
    assert!(worked.unwrap().is_some());
    assert!(never.lock("x").try_acquire().await.unwrap().is_some());
}

async fn a_watch_tells_when_the_lead_comes_and_goes(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let mut watch = one.leader("mailer").watch().unwrap();
    let lead = soon(watch.changed()).await.unwrap();
    assert!(watch.is_leader());
    let mut second = other.leader("mailer").watch().unwrap();
    assert!(!second.is_leader());
    until("the second one waits", async || {
        (one.holders().await.unwrap().first()?.waiting == 1).then_some(())
    })
    .await;

    one.release(HoldKind::Leader, "mailer", "ada")
        .await
        .unwrap();

    soon(lead.lost()).await;
    let next = soon(second.changed()).await.unwrap();
    assert!(next.epoch() > lead.epoch());
    assert!(soon(watch.changed()).await.is_none());
    assert!(!watch.is_leader());
    drop(second);
    let third = soon(watch.changed()).await.unwrap();
    assert!(third.epoch() > next.epoch(), "it has gone on trying");
}

// ---- once ----------------------------------------------------------------------------------------------------

async fn of_all_who_run_it_once_one_does_and_the_others_wait(site: &Site) {
    let runs = Arc::new(AtomicUsize::new(0));
    let together = Arc::new(Barrier::new(6));
    let mut asking = JoinSet::new();
    let mut managers = Vec::new();
    for _ in 0..3 {
        let manager = site.manager().await;
        for _ in 0..2 {
            let (manager, runs, together) = (manager.clone(), runs.clone(), together.clone());
            asking.spawn(async move {
                together.wait().await;
                let work = || async {
                    runs.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(400)).await;
                    Ok::<(), std::io::Error>(())
                };
                let once = manager.run_once("migrate", Scope::Forever, work);
                once.await.unwrap()
            });
        }
        managers.push(manager);
    }

    let outcomes = soon(asking.join_all()).await;

    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let n = |wanted| outcomes.iter().filter(|it| **it == wanted).count();
    assert_eq!(
        (n(OnceOutcome::Ran), n(OnceOutcome::WaitedForOther)),
        (1, 5)
    );
    let late = site.manager().await;
    let never = || async { Err::<(), _>("it was done") };
    let again = late.run_once("migrate", Scope::Forever, never).await;
    assert_eq!(again.unwrap(), OnceOutcome::AlreadyDone);
    assert_eq!(late.holders().await.unwrap(), []);
}

/// Between the look whether it was done and the right to run it, another one can have done it.
async fn what_takes_no_time_is_run_once_all_the_same(site: &Site) {
    let managers = [site.manager().await, site.manager().await];
    for round in 0..60 {
        let name = format!("migrate {round}");
        let runs = Arc::new(AtomicUsize::new(0));
        let mut asking = JoinSet::new();
        for n in 0..6 {
            let (manager, runs, name) = (managers[n % 2].clone(), runs.clone(), name.clone());
            asking.spawn(async move {
                sleep(Duration::from_micros(150) * u32::try_from(n).unwrap()).await;
                let work = || async {
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok::<(), std::io::Error>(())
                };
                manager.run_once(&name, Scope::Forever, work).await.unwrap()
            });
        }
        let outcomes = soon(asking.join_all()).await;

        assert_eq!(runs.load(Ordering::SeqCst), 1, "{outcomes:?}");
    }
}

async fn what_fails_is_told_to_all_who_wait_and_run_again_when_asked_again(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let tries = AtomicUsize::new(0);
    let began = Arc::new(tokio::sync::Notify::new());
    let fails = || async {
        tries.fetch_add(1, Ordering::SeqCst);
        began.notify_one();
        sleep(Duration::from_millis(200)).await;
        Err::<(), _>("no disk")
    };
    let first = one
        .run_once("migrate", Scope::Forever, fails)
        .retries(2)
        .delay(MOMENT);
    let second = async {
        began.notified().await;
        let never = || async { Err::<(), _>("not here") };
        other.run_once("migrate", Scope::Forever, never).await
    };

    let (first, second) = soon(async { tokio::join!(first.into_future(), second) }).await;

    for outcome in [first, second] {
        let Err(OnceError::Failed { name, message }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((&*name, &*message), ("migrate", "no disk"));
    }
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    let works = || async { Ok::<(), std::io::Error>(()) };
    let again = other.run_once("migrate", Scope::Forever, works).await;
    assert_eq!(again.unwrap(), OnceOutcome::Ran);
    // Somebody waits no longer than he said.
    let guard = tokio::spawn({
        let one = one.clone();
        async move {
            let stays = || async {
                std::future::pending::<()>().await;
                Ok::<(), std::io::Error>(())
            };
            one.run_once("long", Scope::Forever, stays).await.map(drop)
        }
    });
    until("it runs", async || one.holders().await.unwrap().pop()).await;
    let waits = other.run_once("long", Scope::Forever, works).wait(MOMENT);
    let Err(OnceError::TimedOut { .. }) = waits.await else {
        panic!("it is still being run");
    };
    guard.abort();
    let follows = soon(other.run_once("long", Scope::Forever, works).into_future()).await;
    assert_eq!(follows.unwrap(), OnceOutcome::Ran, "it was not done");
}

async fn each_version_of_the_program_runs_it_once(site: &Site) {
    let of = async |version: &str| {
        let manager = manager(&site.store(), |builder| builder.version(version)).await;
        let works = || async { Ok::<(), std::io::Error>(()) };
        manager
            .run_once("index", Scope::Version, works)
            .await
            .unwrap()
    };

    assert_eq!(of("1.0").await, OnceOutcome::Ran);
    assert_eq!(of("1.1").await, OnceOutcome::Ran);
    assert_eq!(of("1.0").await, OnceOutcome::AlreadyDone);
}

async fn each_start_of_the_cluster_runs_it_once(site: &Site) {
    let run = async |manager: &TaskManager| {
        let works = || async { Ok::<(), std::io::Error>(()) };
        let once = manager.run_once("warm the cache", Scope::ClusterBoot, works);
        once.await.unwrap()
    };
    let one = site.manager().await;
    assert_eq!(run(&one).await, OnceOutcome::Ran);
    assert_eq!(run(&one).await, OnceOutcome::AlreadyDone);

    let other = site.manager().await; // a deploy: somebody is there all the time
    one.shutdown().await.unwrap();
    assert_eq!(run(&other).await, OnceOutcome::AlreadyDone);
    other.shutdown().await.unwrap();

    let next = site.manager().await;
    assert_eq!(run(&next).await, OnceOutcome::Ran);
    assert_eq!(run(&next).await, OnceOutcome::AlreadyDone);
}

/// Long enough for the holder to give up, too short for the others to take it for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_doubt_and_is_not_lost_after_all_is_free_for_others() {
    let lease = Duration::from_secs(6);
    let server = RedisServer::start();
    let open = async || {
        let options = RedisOptions::new(server.url()).lease(lease);
        let builder = TaskManager::builder().redis_with(options.deadline(Duration::from_secs(1)));
        builder.build().await.unwrap()
    };
    let (one, other) = (open().await, open().await);
    let me = one.instance().id;
    let guard = one.lock("door").acquire().await.unwrap();

    server.stop();
    sleep(lease.mul_f64(0.78)).await;
    assert!(!guard.is_held(), "it is in doubt");
    server.cont();

    let next = other.lock("door").acquire_within(DEADLINE).await.unwrap();
    assert!(next.unwrap().epoch() > guard.epoch());
    assert_eq!(one.instance().id, me, "nobody took it for dead");
    assert!(!guard.release().await.unwrap());
}

/// Others may take this instance for dead because it could not say that it lives: by then it holds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_that_cannot_be_written_a_lock_is_given_up_before_others_may_take_it() {
    let site = Site::new(false);
    let limit = Duration::from_secs(3);
    let one = manager(&site.store(), |builder| builder.takeover_after(limit)).await;
    let guard = one.lock("door").acquire().await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert!(guard.is_held());

    let other = rusqlite::Connection::open(site.store()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let locked = Instant::now();
    tokio::time::timeout(limit, guard.lost()).await.unwrap();

    println!("given up after {:?}", locked.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    let next = one.lock("door").acquire_within(DEADLINE).await.unwrap();
    assert!(next.unwrap().epoch() > guard.epoch());
}

// ---- processes -----------------------------------------------------------------------------------------------

/// Another process of this test: it does what the name of a part says, and writes lines to a file that all share.
struct Player {
    child: Child,
}

const SLOT_EVERY: Duration = Duration::from_millis(200);
const PART: &str = "TASKFLOW_TEST_PART";

impl Player {
    fn start(test: &str, site: &Site, part: &str) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(PART, part)
            .env("TASKFLOW_TEST_STORE", site.store())
            .env("TASKFLOW_TEST_LINES", site.folder.path().join("lines"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill(); // an error means that it has ended
        let _ = self.child.wait();
    }
}

/// A line that a player wrote.
#[derive(Clone, Debug)]
struct Line {
    pid: u32,
    epoch: u64,
    what: String,
    /// Since the machine was started.
    at: Duration,
}

fn lines(site: &Site) -> Vec<Line> {
    let Ok(file) = File::open(site.folder.path().join("lines")) else {
        return Vec::new();
    };
    let lines = BufReader::new(file).lines().map(Result::unwrap);
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            Line {
                at: Duration::from_micros(number()),
                pid: u32::try_from(number()).unwrap(),
                epoch: number(),
                what: words.next().unwrap().to_owned(),
            }
        })
        .collect()
}

/// Writes lines, each in one write at the end of the file.
struct Lines(File);

impl Lines {
    fn open() -> Self {
        let path = PathBuf::from(env::var_os("TASKFLOW_TEST_LINES").unwrap());
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self(file.unwrap())
    }

    fn write(&self, epoch: u64, what: &str) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let at = Duration::try_from(now).unwrap().as_micros();
        let line = format!("{at} {} {epoch} {what}\n", std::process::id());
        (&self.0).write_all(line.as_bytes()).unwrap();
    }
}

/// In a player: does the part, and never returns.
async fn play(part: &str) {
    // The end of stdin is the end of the test.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let store = env::var("TASKFLOW_TEST_STORE").unwrap();
    let takeover = Duration::from_secs(3);
    let change = |builder: axum_taskflow::Builder| {
        let builder = builder.takeover_after(takeover).concurrency(1);
        let Some(ahead_s) = part.strip_prefix("schedule ") else {
            return builder;
        };
        let schedule = Schedule::new(says, "tick".to_owned()).every(SLOT_EVERY);
        let now = Clock::system().now().as_unix_ms() + ahead_s.parse::<i64>().unwrap() * 1_000;
        builder
            .clock(Clock::tokio(Timestamp::from_unix_ms(now)))
            .schedule(schedule.overlap(Overlap::Allow))
    };
    // Another one may be stopped in the middle of a write, and then nobody can start.
    let manager = until("it starts", async || try_manager(&store, change).await.ok()).await;
    let lines = Arc::new(Lines::open());
    match part {
        "leader" => {
            let run = manager.leader("mailer").run(|lead: Lead| {
                let (lines, manager) = (lines.clone(), manager.clone());
                async move {
                    lines.write(lead.epoch(), "leads");
                    while lead.epoch() > 0 {
                        let what = match adds(&manager, lead.fence()).await {
                            Ok(_) => "added",
                            Err(ErrorKind::Conflict) => "refused",
                            Err(_) => "failed",
                        };
                        lines.write(lead.epoch(), what);
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            });
            run.await.unwrap();
        }
        "leader that writes on" => {
            let run = manager.leader("mailer").run(|lead: Lead| {
                let (lines, manager) = (lines.clone(), manager.clone());
                async move {
                    lines.write(lead.epoch(), "leads");
                    // Whoever leads, and nobody stops it: only what it shows tells on.
                    tokio::spawn(write_on(manager, lines, lead.epoch(), lead.fence()));
                    std::future::pending::<()>().await;
                }
            });
            run.await.unwrap();
        }
        "once" => {
            let work = || async {
                lines.write(0, "begins");
                sleep(Duration::from_millis(300)).await;
                lines.write(0, "ends");
                Ok::<(), std::io::Error>(())
            };
            let outcome = manager.run_once("migrate", Scope::Forever, work).await;
            lines.write(0, &format!("{:?}", outcome.unwrap()));
        }
        part if part.starts_with("schedule ") => lines.write(0, "fires"),
        part => panic!("there is no part {part}"),
    }
    std::future::pending::<()>().await;
}

/// Adds in the name of a term, whether it is over or not, until that is refused.
async fn write_on(manager: TaskManager, lines: Arc<Lines>, epoch: u64, fence: Fence) {
    loop {
        let what = match adds(&manager, fence.clone()).await {
            Ok(_) => "added",
            Err(ErrorKind::Conflict) => return lines.write(epoch, "refused"),
            Err(_) => "failed",
        };
        lines.write(epoch, what);
        sleep(Duration::from_millis(5)).await;
    }
}

/// The name of the test that runs this on this site.
fn test_of(site: &Site, name: &str) -> String {
    let place = match site.redis {
        Some(_) => "redis",
        None => "sqlite",
    };
    format!("{place}::{name}")
}

/// What a player is to do. It has no place of its own, and so leaves none behind when it is killed.
fn part() -> Option<String> {
    env::var(PART).ok()
}

async fn last_lead(site: &Site, not: Option<u32>) -> Line {
    until("somebody leads", async || {
        let lines = lines(site);
        let last = lines.iter().rfind(|line| line.what == "leads")?;
        (Some(last.pid) != not).then(|| last.clone())
    })
    .await
}

/// Who led and wrote, its process, which is stopped, and who leads since then.
async fn stopped_until_another_leads<'a>(
    site: &Site,
    players: &'a [Player],
) -> (Line, &'a Player, Line) {
    for _ in 0..10 {
        let n_before = lines(site).len();
        let first = until("who leads writes", async || {
            let lines = lines(site);
            let leader = lines.iter().rfind(|line| line.what == "leads")?;
            let mut added = lines[n_before..].iter().filter(|line| line.what == "added");
            added
                .any(|line| line.epoch == leader.epoch)
                .then(|| leader.clone())
        })
        .await;
        let stopped = players.iter().find(|it| it.pid() == first.pid).unwrap();
        stopped.signal(Signal::STOP);
        match tokio::time::timeout(site.takeover() * 3, last_lead(site, Some(first.pid))).await {
            Ok(second) => return (first, stopped, second),
            // In the middle of a write: then nobody else can write to the file, and nobody leads.
            Err(_) => stopped.signal(Signal::CONT),
        }
    }
    panic!("nobody follows a leader that is stopped");
}

async fn a_killed_leader_is_followed_by_another(site: &Site) {
    let name = test_of(site, "a_killed_leader_is_followed_by_another");
    let mut players: Vec<Player> = (0..3)
        .map(|_| Player::start(&name, site, "leader"))
        .collect();
    let mut takeovers = Vec::new();
    let mut leads = last_lead(site, None).await;
    let n_kills = match site.redis {
        Some(_) => 3,
        None => 8,
    };
    for _ in 0..n_kills {
        sleep(Duration::from_millis(100)).await;
        let dies = players.iter().position(|it| it.pid() == leads.pid);
        let dies = players.remove(dies.expect("a living one leads"));
        let pid = dies.pid();
        drop(dies); // SIGKILL
        let killed = lines(site).last().unwrap().at;
        leads = last_lead(site, Some(pid)).await;
        takeovers.push(leads.at.saturating_sub(killed));
        players.push(Player::start(&name, site, "leader"));
    }

    takeovers.sort();
    println!("taken over within {takeovers:?}");
    let median = takeovers[n_kills / 2];
    assert!(median < site.takeover_usual(), "{takeovers:?}");
    assert!(takeovers[n_kills - 1] < site.takeover(), "{takeovers:?}");
    let lines = lines(site);
    assert!(
        lines.is_sorted_by(|one, next| one.epoch <= next.epoch),
        "never two at once"
    );
    assert!(lines.iter().any(|line| line.what == "added"));
    assert!(lines.iter().all(|line| line.what != "refused"));
}

async fn a_leader_that_was_stopped_for_long_changes_nothing_afterwards(site: &Site) {
    let name = test_of(
        site,
        "a_leader_that_was_stopped_for_long_changes_nothing_afterwards",
    );
    let players: Vec<Player> = (0..2)
        .map(|_| Player::start(&name, site, "leader"))
        .collect();
    let (first, stopped, second) = stopped_until_another_leads(site, &players).await;
    assert!(second.epoch > first.epoch);
    sleep(Duration::from_millis(200)).await;
    stopped.signal(Signal::CONT);
    sleep(Duration::from_secs(1)).await;

    // In the order of the file: what the stopped one wrote after another one had begun to lead.
    let lines = lines(site);
    let takeover = lines
        .iter()
        .position(|line| line.epoch == second.epoch)
        .unwrap();
    let late: Vec<&Line> = lines[takeover..]
        .iter()
        .filter(|line| line.epoch == first.epoch)
        .collect();
    println!("afterwards it wrote {late:?}");
    // The one whose answer was on its way when it was stopped may have been stored before.
    assert!(
        late.iter().skip(1).all(|line| line.what != "added"),
        "{late:?}"
    );
    assert!(late.len() < 20, "it has learnt of it: {}", late.len());
    // On a busy machine the second one may be taken for dead in its turn.
    let last = lines.iter().rfind(|line| line.what == "added").unwrap();
    assert!(last.epoch >= second.epoch, "{last:?}");
}

async fn what_a_leader_that_was_stopped_for_long_writes_afterwards_is_refused(site: &Site) {
    let name = test_of(
        site,
        "what_a_leader_that_was_stopped_for_long_writes_afterwards_is_refused",
    );
    let players: Vec<Player> = (0..2)
        .map(|_| Player::start(&name, site, "leader that writes on"))
        .collect();
    let (first, stopped, second) = stopped_until_another_leads(site, &players).await;
    sleep(Duration::from_millis(200)).await;
    stopped.signal(Signal::CONT);
    until("it is refused", async || {
        let lines = lines(site);
        let mut refused = lines.iter().filter(|line| line.what == "refused");
        refused.any(|line| line.epoch == first.epoch).then_some(())
    })
    .await;

    // In the order of the file: what the stopped one wrote after another one had begun to lead.
    let lines = lines(site);
    let takeover = lines
        .iter()
        .position(|line| line.epoch == second.epoch)
        .unwrap();
    let late = lines[takeover..]
        .iter()
        .filter(|line| line.epoch == first.epoch);
    let late: Vec<&str> = late.map(|line| &*line.what).collect();
    println!("afterwards it wrote {late:?}");
    let n_added = late.iter().filter(|what| **what == "added").count();
    // The one whose answer was on its way when it was stopped may have been stored before.
    assert!(n_added <= 1, "{late:?}");
    assert!(late.first() != Some(&"refused") || n_added == 0, "{late:?}");
}

async fn what_is_run_once_is_done_once_whoever_is_killed(site: &Site) {
    let name = test_of(site, "what_is_run_once_is_done_once_whoever_is_killed");
    let mut players: Vec<Player> = (0..4).map(|_| Player::start(&name, site, "once")).collect();

    for n in 0..2 {
        let runs = until("it runs", async || {
            let lines = lines(site);
            let mut begun = lines.iter().filter(|line| line.what == "begins");
            begun.nth(n).map(|line| line.pid)
        })
        .await;
        players.retain(|it| it.pid() != runs); // SIGKILL
    }

    until("all know", async || {
        let lines = lines(site);
        let n = |what: &str| lines.iter().filter(|line| line.what == what).count();
        (n("Ran") + n("WaitedForOther") == 2).then_some(())
    })
    .await;
    let lines = lines(site);
    let n = |what: &str| lines.iter().filter(|line| line.what == what).count();
    assert_eq!((n("begins"), n("ends"), n("Ran")), (3, 1, 1), "{lines:?}");
}

async fn each_slot_makes_one_task_over_kills_and_with_clocks_apart(site: &Site) {
    let name = test_of(
        site,
        "each_slot_makes_one_task_over_kills_and_with_clocks_apart",
    );
    let looks = site.manager().await;
    let slots = async || {
        let mut query = ListQuery::default();
        query.tag = Some(("schedule".to_owned(), None));
        query.limit = 1_000;
        let page = looks.list(query).await.unwrap();
        let mut slots: Vec<i64> = page
            .tasks
            .iter()
            .map(|task| task.life.run_at.as_unix_ms())
            .collect();
        slots.sort_unstable();
        slots
    };
    // Those whose clocks are behind first: the one that is ahead takes over from them.
    let ahead_s = [-120, -60, 0, 60];
    let mut players = Vec::new();
    for ahead_s in ahead_s {
        players.push(Player::start(&name, site, &format!("schedule {ahead_s}")));
        let n = slots().await.len();
        until("it fires", async || {
            (slots().await.len() > n + 5).then_some(())
        })
        .await;
    }
    for n in 0..8 {
        sleep(Duration::from_millis(300)).await;
        let ahead_s = ahead_s[n % 4];
        players.remove(0); // SIGKILL
        players.push(Player::start(&name, site, &format!("schedule {ahead_s}")));
    }
    sleep(Duration::from_secs(1)).await;
    drop(players);

    let slots = slots().await;
    println!("{} slots", slots.len());
    assert!(slots.len() > 30, "{}", slots.len());
    let every = i64::try_from(SLOT_EVERY.as_millis()).unwrap();
    assert!(slots.iter().all(|slot| slot % every == 0));
    let mut once = slots.clone();
    once.dedup();
    assert_eq!(once.len(), slots.len(), "no slot has two tasks");
}

#[task]
async fn stays() {
    std::future::pending::<()>().await;
}

async fn who_waits_for_a_task_hears_of_its_end_in_another_process(site: &Site) {
    let web = manager(&site.store(), |builder| builder.role(Role::Web)).await;
    let worker = manager(&site.store(), |builder| builder.role(Role::Worker)).await;

    let id = web.add_task(says, "x".to_owned()).await.unwrap();

    let said: String = soon(web.wait(id)).await.unwrap();
    assert_eq!(said, "x");
    worker.shutdown().await.unwrap();
}

async fn of_one_run_key_one_task_waits_and_one_that_runs_is_not_disturbed(site: &Site) {
    let (one, other) = (site.manager().await, site.manager().await);
    let hour = Duration::from_secs(3_600);
    let add = async |manager: &TaskManager| {
        let task = manager.add_task(says, "x".to_owned()).delay_by(hour);
        task.run_key("order:42").await.unwrap()
    };
    let status = async |id| one.get(id).await.unwrap().unwrap().life.status;

    let first = add(&one).await;
    let second = add(&other).await;
    assert_eq!(
        [status(first).await, status(second).await],
        [TaskStatus::Cancelled, TaskStatus::Pending]
    );
    assert_eq!(
        one.cancel_scheduled("order:42").await.unwrap(),
        Some(second)
    );

    let running = one.add_task(stays, ()).run_key("order:42").await.unwrap();
    until("it runs", async || {
        (status(running).await == TaskStatus::Running).then_some(())
    })
    .await;
    let third = add(&other).await;
    let fourth = add(&one).await;
    assert_eq!(
        [
            status(running).await,
            status(third).await,
            status(fourth).await
        ],
        [
            TaskStatus::Running,
            TaskStatus::Cancelled,
            TaskStatus::Pending
        ]
    );
    let counts = one.counts().await.unwrap();
    let n = |status| {
        counts
            .iter()
            .filter(|it| it.status == status)
            .map(|it| it.n)
            .sum::<u64>()
    };
    assert_eq!((n(TaskStatus::Running), n(TaskStatus::Pending)), (1, 1));
}
