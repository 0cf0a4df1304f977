//! Schedules: by several instances on one store, whose clocks are apart, in virtual time.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    AheadQuery, Backend, Becomes, Clock, Config, Data, Decided, ErrorKind, FailureKind,
    FailureReport, InstanceId, ListQuery, Memory, Missed, Origin, Overlap, RecordChange, Role,
    Rule, Schedule, ScheduleState, Source, Step, Stepped, Task, TaskContext, TaskDef, TaskManager,
    TaskOptions, TaskStatus, Timestamp,
};
use support::{Backstage, BrokenPipe, Link, Said, config};
use tokio::{sync::Notify, time::sleep};

/// The beginning of a minute.
const START: Timestamp = Timestamp::from_unix_ms(1_795_300_020_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

async fn tick() {}

async fn tock() {}

/// Says for which slot it runs, at the second attempt.
async fn slot(ctx: TaskContext) -> Result<Option<String>, String> {
    match ctx.attempt() {
        1 => Err("again".to_owned()),
        _ => Ok(ctx.slot().map(|slot| slot.to_string())),
    }
}

/// Runs until it is told to end.
async fn runs(Data(end): Data<Arc<Notify>>) {
    end.notified().await;
}

struct Site {
    memory: Arc<dyn Backend>,
    end: Arc<Notify>,
    begun: tokio::time::Instant,
}

impl Site {
    fn new() -> Self {
        Self {
            memory: Arc::new(Memory::with_history(1_000_000)),
            end: Arc::default(),
            begun: tokio::time::Instant::now(),
        }
    }

    /// An instance whose clock is ahead by so many seconds.
    fn config(&self, ahead_s: i64, schedules: Vec<Schedule>) -> Config {
        let mut config = config();
        config.backend = self.memory.clone();
        let ahead_ms = ahead_s * 1_000 + i64::try_from(self.begun.elapsed().as_millis()).unwrap();
        let now = Timestamp::from_unix_ms(START.as_unix_ms() + ahead_ms);
        config.clock = Clock::tokio(now);
        config.tasks = vec![TaskDef::new(tick), TaskDef::new(runs)];
        config.state(self.end.clone());
        config.schedules = schedules;
        config
    }

    async fn start(&self, schedules: Vec<Schedule>) -> TaskManager {
        TaskManager::start(self.config(0, schedules)).await.unwrap()
    }

    /// The tasks of a schedule, oldest first.
    async fn tasks(&self, schedule: &str) -> Vec<Task> {
        let mut query = ListQuery::default();
        query.tag = Some(("schedule".to_owned(), Some(schedule.to_owned())));
        query.limit = 1_000;
        let mut tasks = Vec::new();
        loop {
            let page = self.memory.list(query.clone()).await.unwrap();
            tasks.extend(page.tasks);
            match page.next {
                Some(next) => query.before = Some(next),
                None => break,
            }
        }
        tasks.reverse();
        tasks
    }

    /// How often each slot has made a task, by seconds after the start.
    async fn slots(&self, schedule: &str) -> BTreeMap<i64, usize> {
        let mut slots = BTreeMap::new();
        for task in self.tasks(schedule).await {
            let after_ms = task.life.run_at.as_unix_ms() - START.as_unix_ms();
            *slots.entry(after_ms / 1_000).or_default() += 1;
        }
        slots
    }
}

fn each_second() -> Schedule {
    Schedule::new(tick, ())
        .every(SECOND)
        .overlap(Overlap::Allow)
}

/// As a killed process does: it does nothing any more.
async fn kill(manager: TaskManager, site: &Site) {
    supersede(site, manager.instance().id).await;
    manager.drain().await;
}

/// Takes an instance for dead, by its last beat.
async fn supersede(site: &Site, id: InstanceId) {
    let alive = async || {
        let peers = site.memory.instances().await.unwrap();
        peers
            .into_iter()
            .find(|it| it.instance.id == id && it.alive)
    };
    // Again if it has beaten meanwhile.
    while let Some(peer) = alive().await {
        site.memory.supersede(id, peer.beat_at).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_slot_makes_one_task_however_far_the_clocks_are_apart() {
    let site = Site::new();
    let mut managers = Vec::new();
    for ahead_s in [0, 180, -120, 7] {
        let config = site.config(ahead_s, vec![each_second()]);
        managers.push(TaskManager::start(config).await.unwrap());
    }

    sleep(MINUTE * 5).await;

    let slots = site.slots("tick").await;
    assert!(slots.values().all(|n| *n == 1), "{slots:?}");
    // Those that the earliest clock has seen, without a gap.
    let (first, last) = (*slots.keys().next().unwrap(), *slots.keys().last().unwrap());
    assert_eq!(usize::try_from(last - first + 1).unwrap(), slots.len());
    assert!(last >= 299 + 180, "{last}");
}

#[tokio::test(start_paused = true)]
async fn of_several_that_decide_about_a_slot_the_one_who_fires_it_says_so() {
    let (said, _log) = Said::here();
    let site = Site::new();
    let mut managers = Vec::new();
    for _ in 0..3 {
        managers.push(site.start(vec![each_second()]).await);
    }

    sleep(MINUTE).await;

    let n_fired = site.tasks("tick").await.len();
    assert!(n_fired > 50, "{n_fired}");
    assert_eq!(said.n_details("a schedule fires"), n_fired);
}

#[tokio::test(start_paused = true)]
async fn a_healthy_service_says_nothing_of_each_slot_and_task_but_as_a_detail() {
    let (said, _log) = Said::here();
    let site = Site::new();
    let queues = Schedule::new(tick, ()).name("queues").every(SECOND);
    let queues = queues.overlap(Overlap::QueueOne).run_on_startup(true);
    let manager = site.start(vec![each_second(), queues]).await;

    sleep(MINUTE).await;
    for _ in 0..2 {
        let add = manager.add_task(tick, ()).delay_by(SECOND);
        add.run_key("replaced").await.unwrap();
    }
    sleep(2 * SECOND).await;

    assert!(said.n_details("a schedule fires") > 100);
    assert!(said.n_details("task succeeded") > 100);
    assert_eq!(said.n_details("task cancelled before it ran"), 1);
    let mut said = said.all();
    said.retain(|it| it != "task manager started");
    assert_eq!(said, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_fired_and_of_which_the_store_did_not_tell_is_said_once_and_its_task_runs_soon()
{
    let (said, _log) = Said::here();
    let site = Site::new();
    let (store, stage) = Backstage::new();
    let mut config = site.config(0, vec![Schedule::new(tick, ()).every(MINUTE)]);
    config.backend = store;
    let manager = TaskManager::start(config).await.unwrap();
    sleep(MINUTE - SECOND).await;

    stage.link(Link::FailsAfterStep);
    stage.link_failed().await;
    let fired = tokio::time::Instant::now();
    stage.link(Link::Works);
    support::until(async || (said.n_details("a schedule fires") > 0).then_some(())).await;
    support::until(async || {
        let tasks = manager.list(ListQuery::default()).await.unwrap().tasks;
        (tasks[0].life.status == TaskStatus::Success).then_some(())
    })
    .await;

    assert!(fired.elapsed() < SECOND * 3, "{:?}", fired.elapsed());
    sleep(SECOND * 30).await;
    assert_eq!(said.n_details("a schedule fires"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_fired_unheard_is_said_and_the_next_one_fires_though_nobody_can_read_its_task()
{
    let (said, _log) = Said::here();
    let site = Site::new();
    let (store, stage) = Backstage::new();
    let schedule = Schedule::new(tick, ()).every(MINUTE);
    let mut config = site.config(0, vec![schedule.overlap(Overlap::Allow)]);
    config.backend = store;
    let manager = TaskManager::start(config).await.unwrap();
    sleep(MINUTE - SECOND).await;

    stage.link(Link::FailsAfterStep);
    stage.link_failed().await;
    let tasks = manager.list(ListQuery::default()).await.unwrap().tasks;
    stage.refuse_reads_of(vec![tasks[0].id]); // a newer program took it, and wrote in its own words
    stage.link(Link::Works);
    sleep(SECOND * 30).await;
    assert_eq!(said.n_details("a schedule fires"), 1);
    sleep(MINUTE).await;

    assert_eq!(said.n_details("a schedule fires"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_fires_after_it_was_given_up_is_said_once_and_its_task_runs_soon() {
    let (said, _log) = Said::here();
    let site = Site::new();
    let (store, stage) = Backstage::new();
    let mut config = site.config(0, vec![Schedule::new(tick, ()).every(MINUTE)]);
    config.backend = store;
    let manager = TaskManager::start(config).await.unwrap();
    sleep(MINUTE - SECOND).await;

    stage.link(Link::DoesLate);
    support::until(async || (said.n("cannot fire schedules") > 0).then_some(())).await;
    let given_up = tokio::time::Instant::now();
    let task = support::until(async || {
        let tasks = manager.list(ListQuery::default()).await.unwrap().tasks;
        let task = tasks.into_iter().next()?;
        (task.life.status == TaskStatus::Success).then_some(task)
    })
    .await;

    assert!(given_up.elapsed() < SECOND * 3, "{:?}", given_up.elapsed());
    sleep(SECOND * 30).await;
    assert_eq!(said.n_details("a schedule fires"), 1);
    let tasks = manager.list(ListQuery::default()).await.unwrap().tasks;
    assert_eq!(tasks, [task]);
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_said_and_each_slot_that_fires_however_many_are_decided_about_at_once() {
    let (said, _log) = Said::here();
    let site = Site::new();
    let first = site.start(vec![each_second()]).await;
    sleep(SECOND * 5).await;
    kill(first, &site).await;
    sleep(MINUTE * 5).await;

    let _second = site.start(vec![each_second()]).await;
    sleep(SECOND * 2).await;

    let n_fired = site.tasks("tick").await.len();
    assert!(n_fired > 50, "{n_fired}");
    assert_eq!(said.n("slots were missed"), 1);
    assert_eq!(said.n_details("a schedule fires"), n_fired);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_killed_the_slots_go_on() {
    let site = Site::new();
    let mut managers = vec![site.start(vec![each_second()]).await];
    for _ in 0..20 {
        managers.push(site.start(vec![each_second()]).await);
        sleep(Duration::from_millis(2_700)).await;
        kill(managers.remove(0), &site).await;
    }

    let slots = site.slots("tick").await;
    let expected: BTreeMap<i64, usize> = (1..=54).map(|second| (second, 1)).collect();
    assert_eq!(slots, expected);
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_nothing_ran_fires_as_it_was_said() {
    let site = Site::new();
    let each_minute = |name: &str| {
        let schedule = Schedule::new(tick, ()).name(name).every(MINUTE);
        schedule.overlap(Overlap::Allow)
    };
    let all = || {
        let within = Missed::FireAll {
            max: 3,
            within: MINUTE * 60,
        };
        vec![
            each_minute("once"),
            each_minute("none").missed(Missed::Skip),
            each_minute("all").missed(within),
        ]
    };
    let first = site.start(all()).await;
    kill(first, &site).await;
    sleep(MINUTE * 10 + Duration::from_millis(61_500)).await;

    let manager = site.start(all()).await;
    sleep(SECOND).await;

    // Of the slots 1 to 11 only the last one is in time.
    let seconds = async |name: &str| site.slots(name).await.into_keys().collect::<Vec<_>>();
    assert_eq!(seconds("once").await, [660]);
    assert_eq!(seconds("none").await, [660]);
    assert_eq!(seconds("all").await, [540, 600, 660]);
    let told = manager.schedules().await.unwrap();
    for (name, n) in [("all", 8), ("none", 10), ("once", 10)] {
        let info = told.iter().find(|info| info.name == name).unwrap();
        let missed = info.last.iter().map(|decision| &decision.what);
        assert!(
            missed.clone().any(|what| *what == Decided::Missed { n }),
            "{name}: {:?}",
            info.last
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_whose_predecessor_runs_is_left_out_or_waits_for_its_end() {
    let site = Site::new();
    let schedule = |name: &str, overlap| {
        let schedule = Schedule::new(runs, ()).name(name).every(MINUTE);
        schedule.overlap(overlap)
    };
    let manager = site
        .start(vec![
            schedule("beside", Overlap::Allow),
            schedule("skips", Overlap::Skip),
            schedule("queues", Overlap::QueueOne),
        ])
        .await;

    sleep(MINUTE * 4 + SECOND).await;
    let n = async |name: &str| site.tasks(name).await.len();
    assert_eq!(
        (n("beside").await, n("skips").await, n("queues").await),
        (4, 1, 1)
    );
    site.end.notify_waiters();
    sleep(SECOND * 5).await;

    assert_eq!((n("skips").await, n("queues").await), (1, 2));
    let slots = site.slots("queues").await;
    assert_eq!(
        slots.into_keys().collect::<Vec<_>>(),
        [60, 120],
        "the one that waited"
    );
    let told = manager.schedules().await.unwrap();
    let last = |name: &str| &told.iter().find(|info| info.name == name).unwrap().last;
    let n_overlapped = |name: &str| {
        let last = last(name).iter();
        last.filter(|it| it.what == Decided::Overlapped).count()
    };
    assert_eq!((n_overlapped("skips"), n_overlapped("queues")), (3, 2));
    sleep(MINUTE).await;
    assert_eq!(n("skips").await, 2, "it goes on");
}

/// As a newer program may have stored it.
#[tokio::test(start_paused = true)]
async fn a_task_of_which_nobody_can_read_whether_it_has_ended_has_not_and_that_is_said_once() {
    for is_shown_in_part in [true, false] {
        let (said, _log) = Said::here();
        let site = Site::new();
        let (store, stage) = Backstage::new();
        let schedule = |name: &str, overlap| {
            let schedule = Schedule::new(tick, ()).name(name).every(SECOND);
            schedule.overlap(overlap)
        };
        let mut config = site.config(
            0,
            vec![
                schedule("skips", Overlap::Skip),
                schedule("queues", Overlap::QueueOne),
                schedule("others", Overlap::Skip),
            ],
        );
        config.backend = store;
        let manager = TaskManager::start(config).await.unwrap();
        let tasks = async |name: &str| {
            let mut query = ListQuery::default();
            query.tag = Some(("schedule".to_owned(), Some(name.to_owned())));
            manager.list(query).await.unwrap().tasks
        };
        sleep(SECOND * 3 / 2).await;

        let mut unread = tasks("skips").await;
        unread.extend(tasks("queues").await);
        assert_eq!(unread.len(), 2);
        if is_shown_in_part {
            for task in &unread {
                let mut life = task.life.clone();
                let why = FailureReport::new(FailureKind::Unreadable, "status 99");
                life.error = Some(why.into());
                (life.status, life.owner) = (TaskStatus::Pending, None);
                life.run_at = START.saturating_add(MINUTE * 60); // nobody here claims it
                stage.set_back(task, life).await;
            }
        } else {
            stage.refuse_reads_of(unread.iter().map(|task| task.id).collect());
        }
        sleep(SECOND * 10).await;

        assert_eq!(said.n("cannot fire schedules"), 0);
        assert_eq!(said.n("whether a task has ended cannot be read"), 2);
        let n = async |name: &str| tasks(name).await.len();
        assert_eq!((n("skips").await, n("queues").await), (1, 1));
        assert_eq!(n("others").await, 11);
        for task in &unread {
            let (stage, life) = (&stage, task.life.clone());
            match is_shown_in_part {
                true => stage.set_back(task, life).await,
                false => stage.refuse_reads_of(Vec::new()),
            }
        }
        sleep(SECOND * 2).await;
        assert!(n("skips").await > 1 && n("queues").await > 1, "they go on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_schedule_says_so_and_has_its_options() {
    let site = Site::new();
    let schedule = Schedule::new(tick, ())
        .name("nightly")
        .cron("30 * * * * *")
        .options(TaskOptions {
            priority: Some(7),
            retries: Some(3),
            ..TaskOptions::default()
        })
        .tag("team", "mail");
    let manager = site.start(vec![schedule]).await;
    let told = manager.schedules().await.unwrap();
    let rule = Rule::Cron {
        expression: "30 * * * * *".to_owned(),
        zone: "UTC".to_owned(),
    };
    assert_eq!((&told[0].rule, told[0].origin), (&rule, Origin::Code));
    let half = START.saturating_add(Duration::from_secs(30));
    let ahead: Vec<Timestamp> = (0..5).map(|n| half.saturating_add(MINUTE * n)).collect();
    assert_eq!(told[0].next, ahead);

    sleep(MINUTE).await;

    let tasks = site.tasks("nightly").await;
    assert_eq!(tasks.len(), 1);
    let task = &tasks[0];
    assert_eq!((task.source, task.priority), (Source::Scheduled, 7));
    assert_eq!(
        (task.options.retries, &*task.tags["team"]),
        (Some(3), "mail")
    );
    assert_eq!(task.life.run_at, half);
    let told = manager.schedules().await.unwrap();
    assert_eq!(told[0].last[0].slot, half);
    assert_eq!(told[0].last[0].what, Decided::Fired { task: task.id });
}

#[tokio::test(start_paused = true)]
async fn a_task_knows_its_slot_however_late_it_runs() {
    let site = Site::new();
    let retries = TaskOptions {
        retries: Some(1),
        delay: Some(SECOND * 7),
        ..TaskOptions::default()
    };
    let schedule = Schedule::new(slot, ()).name("slots").every(MINUTE);
    let schedule = schedule.options(retries).jitter(SECOND * 5);
    let mut config = site.config(0, vec![schedule]);
    config.tasks.push(TaskDef::new(slot));
    let manager = TaskManager::start(config).await.unwrap();
    sleep(MINUTE + SECOND).await;

    let task = site.tasks("slots").await.remove(0);
    let told: Option<String> = manager.wait(task.id).await.unwrap();

    let minute = START.saturating_add(MINUTE);
    assert_eq!(told, Some(minute.to_string()));
    assert_eq!(task.tags["slot"], minute.to_string());
    let by_hand = manager.add_task(slot, ()).retries(1).await.unwrap();
    assert_eq!(manager.wait::<Option<String>>(by_hand).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_the_starts_and_moves_no_slot() {
    let site = Site::new();
    let schedule = each_second().jitter(Duration::from_millis(900));
    let _manager = site.start(vec![schedule]).await;

    sleep(SECOND * 30).await;

    let slots = site.slots("tick").await;
    assert!(
        slots.len() >= 29 && slots.values().all(|n| *n == 1),
        "{slots:?}"
    );
    let tasks = site.tasks("tick").await;
    let is_whole = |task: &&Task| task.life.run_at.as_unix_ms() % 1_000 == 0;
    assert!(tasks.iter().filter(is_whole).count() < 5);
}

#[tokio::test(start_paused = true)]
async fn a_paused_schedule_fires_nothing_anywhere_until_it_is_resumed() {
    let site = Site::new();
    let (one, other) = (
        site.start(vec![each_second()]).await,
        site.start(vec![each_second()]).await,
    );
    sleep(SECOND * 3).await;
    one.pause_schedule("tick", "ada").await.unwrap();
    let n = site.tasks("tick").await.len();

    sleep(MINUTE).await;
    let third = site.start(vec![each_second()]).await;
    sleep(MINUTE).await;
    assert_eq!(site.tasks("tick").await.len(), n);
    let told = third.schedules().await.unwrap();
    assert_eq!(
        (told[0].state, &told[0].next[..]),
        (ScheduleState::Paused, &[][..])
    );
    assert_eq!(told[0].paused.as_ref().unwrap().by, "ada");
    let id = other.run_schedule("tick", "bob").await.unwrap();
    assert_eq!(site.tasks("tick").await.last().unwrap().id, id);
    sleep(Duration::from_millis(1)).await; // within one, ids of two instances have no order

    third.resume_schedule("tick", "ada").await.unwrap();
    sleep(SECOND * 10).await;
    let tasks = site.tasks("tick").await.len();
    assert!(
        (n + 10..=n + 11).contains(&tasks),
        "what came meanwhile was not missed: {n} {tasks}"
    );
    let audit = one.audit(None, 10).await.unwrap();
    let actions: Vec<(&str, &str)> = audit
        .iter()
        .map(|entry| (&*entry.actor, &*entry.action))
        .collect();
    assert_eq!(
        actions,
        [
            ("ada", "resume_schedule"),
            ("bob", "run_schedule"),
            ("ada", "pause_schedule")
        ]
    );
    let none = one.pause_schedule("none", "ada").await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_added_while_the_program_runs_is_there_after_it() {
    let site = Site::new();
    let (one, other) = (site.start(vec![]).await, site.start(vec![]).await);
    one.schedule(each_second().name("mine")).await.unwrap();
    sleep(SECOND * 3).await;
    kill(one, &site).await;
    sleep(SECOND * 10).await;
    let slots = site.slots("mine").await;
    assert!(
        slots.len() >= 12 && slots.values().all(|n| *n == 1),
        "{slots:?}"
    );

    // Changed, and deleted.
    other
        .schedule(each_second().name("mine").every(MINUTE))
        .await
        .unwrap();
    let told = other.schedules().await.unwrap();
    assert_eq!(
        (&told[0].rule, told[0].origin),
        (&Rule::Every(MINUTE), Origin::Manual)
    );
    other.delete_schedule("mine", "ada").await.unwrap();
    let n = site.tasks("mine").await.len();
    sleep(MINUTE * 3).await;
    assert_eq!(site.tasks("mine").await.len(), n);
    assert_eq!(other.schedules().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_newer_program_says_what_a_schedule_is() {
    let site = Site::new();
    let start = async |version: &str, schedules| {
        let mut config = site.config(0, schedules);
        config.version = version.to_owned();
        TaskManager::start(config).await.unwrap()
    };
    let every = |seconds| Schedule::new(tick, ()).every(SECOND * seconds);
    let rule = async |manager: &TaskManager| {
        let told = manager.schedules().await.unwrap();
        (told[0].rule.clone(), told[0].state)
    };
    let active = |seconds| (Rule::Every(SECOND * seconds), ScheduleState::Active);

    let old = start("1.9", vec![every(10)]).await;
    let new = start("1.10", vec![every(20)]).await;
    assert_eq!(rule(&new).await, active(20));
    let old_again = start("1.9", vec![every(10)]).await;
    assert_eq!(
        rule(&old_again).await,
        active(20),
        "the old one does not bring it back"
    );
    let none = start("1.11", vec![]).await;
    assert_eq!(rule(&none).await.1, ScheduleState::Retired);
    let n = site.tasks("tick").await.len();
    sleep(MINUTE).await;
    assert_eq!(
        site.tasks("tick").await.len(),
        n,
        "not by the old ones either"
    );
    let back = start("1.12", vec![every(30)]).await;
    assert_eq!(rule(&back).await, active(30));
    let refused = old.delete_schedule("tick", "ada").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn an_older_program_retires_no_schedule_that_a_newer_one_has_added() {
    let site = Site::new();
    let versioned = async |version: &str, schedules| {
        let mut config = site.config(0, schedules);
        config.version = version.to_owned();
        TaskManager::start(config).await.unwrap()
    };
    let _newer = versioned("1.10", vec![each_second().name("new")]).await;

    let older = versioned("1.9", Vec::new()).await; // knows the function

    let schedules = older.schedules().await.unwrap();
    assert_eq!(schedules[0].state, ScheduleState::Active);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_only_adds_tasks_retires_no_schedule_of_those_that_run_them() {
    let site = Site::new();
    let _runs = site.start(vec![each_second()]).await;
    let mut web = site.config(0, vec![]);
    web.role = Role::Web;
    let web = TaskManager::start(web).await.unwrap();

    let told = web.schedules().await.unwrap();
    assert_eq!(told[0].state, ScheduleState::Active);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_whose_function_is_not_known_here_is_shown_and_fired_by_those_who_know_it() {
    let site = Site::new();
    let mut knows = site.config(0, vec![Schedule::new(tock, ()).every(SECOND)]);
    knows.tasks = vec![TaskDef::new(tock)];
    let knows = TaskManager::start(knows).await.unwrap();
    let other = site.start(vec![]).await;
    sleep(SECOND * 3).await;
    kill(knows, &site).await;
    let n = site.tasks("tock").await.len();
    assert!(n >= 2);

    sleep(SECOND * 30).await;

    assert_eq!(site.tasks("tock").await.len(), n);
    let told = other.schedules().await.unwrap();
    assert_eq!(told[0].state, ScheduleState::UnknownFunction);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_went_with_its_function_can_be_deleted_once_nobody_alive_knows_it() {
    let site = Site::new();
    let mut knows = site.config(0, vec![Schedule::new(tock, ()).every(MINUTE)]);
    knows.tasks = vec![TaskDef::new(tock)];
    let knows = TaskManager::start(knows).await.unwrap();
    let without = site.start(vec![]).await;

    let refused = without.delete_schedule("tock", "ada").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "somebody has it");
    kill(knows, &site).await;
    without.delete_schedule("tock", "ada").await.unwrap();

    assert_eq!(without.schedules().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn what_runs_at_the_start_runs_once_for_each_start_of_the_cluster() {
    let site = Site::new();
    let daily = || Schedule::new(tick, ()).cron("@daily").run_on_startup(true);
    let one = site.start(vec![daily()]).await;
    let other = site.start(vec![daily()]).await;
    sleep(SECOND * 10).await;
    assert_eq!(site.tasks("tick").await.len(), 1);
    kill(one, &site).await;
    let third = site.start(vec![daily()]).await;
    sleep(SECOND * 10).await;
    assert_eq!(
        site.tasks("tick").await.len(),
        1,
        "somebody was always there"
    );

    kill(other, &site).await;
    kill(third, &site).await;
    sleep(SECOND * 10).await;
    let _later = site.start(vec![daily()]).await;
    sleep(SECOND * 10).await;
    assert_eq!(site.tasks("tick").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_cannot_be_kept_is_refused_with_its_place() {
    let site = Site::new();
    for (schedule, reason) in [
        (
            Schedule::new(tick, ()).cron("99 * * * *"),
            "is no cron expression",
        ),
        (
            Schedule::new(tick, ()).cron("@daily").zone("Mars"),
            "is no time zone",
        ),
        (Schedule::new(tick, ()), "neither cron nor every"),
        (
            Schedule::new(tick, ()).every(SECOND).cron("@daily"),
            "both cron and every",
        ),
        (
            Schedule::new(tick, ()).every(SECOND).zone("UTC"),
            "needs no zone",
        ),
        (Schedule::new(tick, ()).every(SECOND).name(""), "is no name"),
    ] {
        let config = site.config(0, vec![schedule]);
        let refused = TaskManager::start(config).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        let refused = refused.to_string();
        assert!(refused.contains(reason), "{refused}");
        assert!(refused.contains("tests/schedules.rs:"), "{refused}");
    }
    let twice = site.config(0, vec![each_second(), each_second()]);
    let refused = TaskManager::start(twice).await.unwrap_err();
    assert!(
        refused.to_string().contains("two schedules tick"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_store_its_schedules_has_begun_no_task() {
    let site = Site::new();
    let (store, stage) = Backstage::new();
    let mut config = site.config(0, vec![each_second()]);
    config.tasks[0] = TaskDef::new(tick).name("tick");
    config.backend = store.clone();
    let waits = support::stored(&store, &config.clock, "tick", "[]").await;
    stage.link(Link::Hangs);

    let start = tokio::spawn(TaskManager::start(config));
    sleep(10 * SECOND).await;
    stage.link(Link::Fails);

    let refused = start.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("the link fails"), "{refused}");
    let task = stage.task(waits).await;
    assert_eq!(
        (task.life.status, task.life.attempt),
        (TaskStatus::Pending, 0)
    );
}

#[tokio::test]
async fn a_slot_that_another_instance_has_decided_on_is_not_decided_on_again() {
    // In real time, by threads that are at once.
    let store: Arc<dyn Backend> = Arc::new(Memory::default());
    let n_runs = Arc::new(AtomicUsize::new(0));
    async fn counts(Data(n): Data<Arc<AtomicUsize>>) {
        n.fetch_add(1, Ordering::SeqCst);
    }
    let mut managers = Vec::new();
    for _ in 0..6 {
        let mut config = config();
        config.backend = store.clone();
        config.tasks = vec![TaskDef::new(counts)];
        config.state(n_runs.clone());
        let every = Schedule::new(counts, ()).every(Duration::from_millis(100));
        config.schedules = vec![every.overlap(Overlap::Allow)];
        managers.push(TaskManager::start(config).await.unwrap());
    }

    let have_run = async || (n_runs.load(Ordering::SeqCst) >= 15).then_some(());
    support::until(have_run).await;
    let tasks = managers[0].list(ListQuery::default()).await.unwrap().tasks;
    let mut slots: Vec<i64> = tasks
        .iter()
        .map(|task| task.life.run_at.as_unix_ms())
        .collect();
    slots.sort_unstable();
    let n_tasks = slots.len();
    slots.dedup();
    assert_eq!(slots.len(), n_tasks, "each slot once");
}

#[tokio::test(start_paused = true)]
async fn who_resumes_or_changes_a_schedule_by_a_late_clock_makes_no_slot_come_again() {
    let site = Site::new();
    let minutely = |name: &str| {
        let schedule = Schedule::new(tick, ()).name(name).every(MINUTE);
        schedule.overlap(Overlap::Allow)
    };
    let versioned = async |version: &str, ahead_s, schedules| {
        let mut config = site.config(ahead_s, schedules);
        config.version = version.to_owned();
        TaskManager::start(config).await.unwrap()
    };
    let ahead = versioned("1", 300, vec![minutely("resumed"), minutely("back")]).await;
    let behind = versioned("1", 0, vec![minutely("resumed"), minutely("back")]).await;
    ahead.schedule(minutely("changed")).await.unwrap();
    sleep(MINUTE * 3).await;

    behind.pause_schedule("resumed", "ada").await.unwrap();
    behind.resume_schedule("resumed", "ada").await.unwrap();
    let other_rule = minutely("changed").every(MINUTE / 2);
    behind.schedule(other_rule).await.unwrap();
    let _without = versioned("2", 0, vec![minutely("resumed")]).await;
    let _with = versioned("3", 0, vec![minutely("resumed"), minutely("back")]).await;
    sleep(MINUTE * 3).await;

    for name in ["resumed", "changed", "back"] {
        let slots = site.slots(name).await;
        assert!(slots.values().all(|n| *n == 1), "{name}: {slots:?}");
        let last = *slots.keys().last().unwrap();
        assert!(last >= 600, "{name} goes on: {slots:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn that_a_clock_far_ahead_has_silenced_a_schedule_is_said_and_it_can_be_added_anew() {
    let site = Site::new();
    let (said, _listens) = Said::here();
    let year = 366 * 24 * 3_600;
    let ahead = TaskManager::start(site.config(year, vec![])).await.unwrap();
    ahead.schedule(each_second().name("mine")).await.unwrap();
    sleep(SECOND * 10).await;
    kill(ahead, &site).await;
    let n = site.tasks("mine").await.len();
    assert_eq!(said.n("by a clock that is ahead"), 0);

    let manager = site.start(vec![]).await;
    sleep(MINUTE).await;
    assert_eq!(site.tasks("mine").await.len(), n, "it is silent");
    assert_eq!(said.n("by a clock that is ahead"), 1);
    manager.delete_schedule("mine", "ada").await.unwrap();
    manager.schedule(each_second().name("mine")).await.unwrap();
    sleep(MINUTE).await;

    assert!(site.tasks("mine").await.len() > n + 50);
}

#[tokio::test(start_paused = true)]
async fn to_resume_what_is_not_paused_changes_nothing_and_the_first_pause_counts() {
    let site = Site::new();
    let schedule = Schedule::new(runs, ()).every(MINUTE);
    let manager = site.start(vec![schedule.overlap(Overlap::QueueOne)]).await;
    sleep(MINUTE * 2 + SECOND).await;
    let before = manager.schedules().await.unwrap().remove(0);
    assert!(before.queued.is_some());

    manager.resume_schedule("runs", "ada").await.unwrap();

    assert_eq!(manager.schedules().await.unwrap(), [before]);
    manager.pause_schedule("runs", "ada").await.unwrap();
    let first = manager.schedules().await.unwrap().remove(0).paused;
    sleep(SECOND).await;
    manager.pause_schedule("runs", "bob").await.unwrap();
    assert_eq!(manager.schedules().await.unwrap().remove(0).paused, first);
    assert_eq!(first.unwrap().by, "ada");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_retired_although_it_fires_at_that_moment() {
    let (store, backstage) = Backstage::new();
    let site = Site {
        memory: store,
        ..Site::new()
    };
    let one = site.start(vec![each_second()]).await;
    kill(one, &site).await;
    backstage.overtake_schedules(1);

    let other = site.start(vec![]).await;

    let told = other.schedules().await.unwrap();
    assert_eq!(told[0].state, ScheduleState::Retired);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_longer_than_a_lease_is_no_start_of_the_cluster() {
    let site = Site::new();
    let daily = || Schedule::new(tick, ()).cron("@daily").run_on_startup(true);
    let (one, other) = (
        site.start(vec![daily()]).await,
        site.start(vec![daily()]).await,
    );
    sleep(SECOND * 10).await;
    let before = [one.instance().id, other.instance().id];

    for id in before {
        supersede(&site, id).await;
    }
    while before.contains(&one.instance().id) || before.contains(&other.instance().id) {
        // The beat is a thread of its own, by the real clock.
        std::thread::sleep(Duration::from_millis(10));
        sleep(Duration::from_millis(10)).await;
    }
    sleep(MINUTE).await;

    assert_eq!(site.tasks("tick").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_by_hand_is_no_slot_and_hides_no_task_that_runs() {
    let site = Site::new();
    let schedule = Schedule::new(runs, ()).every(MINUTE).jitter(SECOND * 5);
    let manager = site.start(vec![schedule]).await;
    sleep(MINUTE + SECOND * 10).await;
    let first = site.tasks("runs").await.remove(0);

    let id = manager.run_schedule("runs", "ada").await.unwrap();
    let by_hand = manager.get(id).await.unwrap().unwrap();
    manager.cancel(id).await.unwrap();
    sleep(MINUTE * 2).await;

    assert_eq!(
        by_hand.life.run_at,
        START.saturating_add(MINUTE + SECOND * 10)
    );
    assert_eq!(by_hand.tags.get("slot"), None);
    let n = site.tasks("runs").await.len();
    assert_eq!(n, 2, "the first one still runs");
    manager.cancel(first.id).await.unwrap();
    sleep(MINUTE).await;
    assert_eq!(site.tasks("runs").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_run_at_the_start_waits_for_no_slot_but_for_what_has_not_ended() {
    let site = Site::new();
    let again = TaskOptions {
        requeue_on_interrupt: Some(true),
        ..TaskOptions::default()
    };
    let schedules = || {
        let schedule = |name: &str| {
            let schedule = Schedule::new(runs, ()).name(name).cron("@daily");
            schedule.options(again.clone()).run_on_startup(true)
        };
        vec![
            schedule("skips"),
            schedule("queues").overlap(Overlap::QueueOne),
        ]
    };
    let one = site.start(schedules()).await;
    sleep(SECOND * 10).await;
    kill(one, &site).await;
    sleep(SECOND * 10).await;

    let other = site.start(schedules()).await;
    sleep(SECOND * 10).await;

    let n = async |name: &str| site.tasks(name).await.len();
    assert_eq!((n("skips").await, n("queues").await), (1, 1));
    site.end.notify_waiters();
    sleep(SECOND * 5).await;
    assert_eq!((n("skips").await, n("queues").await), (1, 2));
    let tasks = site.tasks("queues").await;
    assert!(tasks.iter().all(|task| !task.tags.contains_key("slot")));

    // The start of a cluster in which it was paused is over when it is resumed.
    other.pause_schedule("skips", "ada").await.unwrap();
    kill(other, &site).await;
    sleep(SECOND * 10).await;
    let third = site.start(schedules()).await;
    sleep(SECOND * 10).await;
    third.resume_schedule("skips", "ada").await.unwrap();
    sleep(SECOND * 10).await;
    assert_eq!(n("skips").await, 1);
}

#[tokio::test(start_paused = true)]
async fn loops_end_with_the_engine_although_the_store_is_out() {
    let (store, backstage) = Backstage::new();
    let site = Site {
        memory: store,
        ..Site::new()
    };
    let manager = site.start(vec![each_second()]).await;
    let once = manager.schedule_once(tick, ()).delay_by(SECOND * 3);
    once.await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    backstage.be_out();
    // Scheduler and claimer have failed, and wait to try again.
    while manager.now() < START.saturating_add(SECOND * 3 + Duration::from_millis(100)) {
        sleep(Duration::from_millis(10)).await;
    }
    let (n_failed, begun) = (backstage.failed_calls(), tokio::time::Instant::now());
    assert!(n_failed >= 2);

    manager.drain().await;

    let more = backstage.failed_calls() - n_failed;
    assert!(more < 10, "{more} more calls failed");
    assert!(
        begun.elapsed() < Duration::from_millis(200),
        "{:?}",
        begun.elapsed()
    );
}

// ---- once --------------------------------------------------------------------------------------------------------

async fn says(_what: String) {}

#[tokio::test(start_paused = true)]
async fn a_task_with_a_run_key_takes_the_place_of_the_one_that_waits() {
    let site = Site::new();
    let mut config = site.config(0, vec![]);
    config.tasks.push(TaskDef::new(says));
    let (one, other) = (
        TaskManager::start(config).await.unwrap(),
        site.start(vec![]).await,
    );
    let add = async |manager: &TaskManager, what: &str, after| {
        let task = manager.add_task(says, what.to_owned()).delay_by(after);
        task.run_key("order:42").await.unwrap()
    };

    let first = add(&one, "first", MINUTE).await;
    let second = add(&other, "second", MINUTE * 2).await;
    let third = add(&one, "third", MINUTE * 3).await;
    sleep(MINUTE * 4).await;

    let status = async |id| one.get(id).await.unwrap().unwrap().life.status.as_str();
    assert_eq!(
        [
            status(first).await,
            status(second).await,
            status(third).await
        ],
        ["cancelled", "cancelled", "success"]
    );
    // It has ended: the next one is new.
    let fourth = add(&one, "fourth", MINUTE).await;
    assert_eq!(
        other.cancel_scheduled("order:42").await.unwrap(),
        Some(fourth)
    );
    assert_eq!(other.cancel_scheduled("order:42").await.unwrap(), None);
    sleep(MINUTE * 2).await;
    assert_eq!(status(fourth).await, "cancelled");
}

#[tokio::test(start_paused = true)]
async fn one_that_has_begun_is_not_disturbed_and_the_next_one_has_the_key() {
    let site = Site::new();
    let manager = site.start(vec![]).await;
    let running = manager.add_task(runs, ()).run_key("k").await.unwrap();
    let status = async |id| manager.get(id).await.unwrap().unwrap().life.status.as_str();
    while status(running).await != "running" {
        sleep(Duration::from_millis(1)).await;
    }

    let next = manager
        .add_task(tick, ())
        .delay_by(MINUTE)
        .run_key("k")
        .await
        .unwrap();
    let last = manager
        .add_task(tick, ())
        .delay_by(MINUTE)
        .run_key("k")
        .await
        .unwrap();
    assert_eq!(
        [
            status(running).await,
            status(next).await,
            status(last).await
        ],
        ["running", "cancelled", "pending"]
    );
    site.end.notify_waiters();
    sleep(SECOND).await;
    assert_eq!(status(running).await, "success");
    // Its end has not freed the key of the other.
    let newer = manager
        .add_task(tick, ())
        .delay_by(MINUTE)
        .run_key("k")
        .await
        .unwrap();
    assert_eq!(status(last).await, "cancelled");
    sleep(MINUTE * 2).await;
    assert_eq!(status(newer).await, "success");
}

#[tokio::test(start_paused = true)]
async fn of_many_that_replace_at_once_one_is_left() {
    let site = Site::new();
    let manager = site.start(vec![]).await;
    let mut adding = tokio::task::JoinSet::new();
    for n in 0..20 {
        let manager = manager.clone();
        adding.spawn(async move {
            let after = MINUTE * (n + 1);
            manager
                .add_task(tick, ())
                .delay_by(after)
                .run_key("k")
                .await
                .unwrap()
        });
    }

    let ids = adding.join_all().await;

    let mut waiting = 0;
    for id in ids {
        let task = manager.get(id).await.unwrap().unwrap();
        waiting += usize::from(task.life.status.as_str() == "pending");
    }
    assert_eq!(waiting, 1);
    let wrong = manager.add_task(tick, ()).run_key("").await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    let long = manager.add_task(tick, ()).run_key("k".repeat(257)).await;
    let long = long.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::Invalid);
    assert!(long.to_string().contains("a run key"), "{long}");
    let both = manager
        .add_task(tick, ())
        .run_key("k")
        .idempotency_key("i")
        .await;
    assert_eq!(both.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn what_is_scheduled_once_is_listed_by_its_time_and_runs_then() {
    let site = Site::new();
    let manager = site.start(Vec::new()).await;
    let mut ids = Vec::new();
    for after_s in [300, 100, 200] {
        let at = manager.now().saturating_add(SECOND * after_s);
        let add = manager.schedule_once(tick, ()).run_at(at);
        ids.push(add.run_key(format!("n:{after_s}")).await.unwrap());
    }
    manager.add_task(tick, ()).await.unwrap();
    let ids_of = |tasks: &[Task]| tasks.iter().map(|task| task.id).collect::<Vec<_>>();
    let in_s = |after_s| manager.now().saturating_add(SECOND * after_s);

    let page = manager.list_scheduled(in_s(1_000)).await.unwrap();
    assert_eq!(ids_of(&page.tasks), [ids[1], ids[2], ids[0]]);
    assert!(
        page.tasks
            .iter()
            .all(|task| task.source == Source::Scheduled)
    );
    let page = manager.list_scheduled(in_s(250)).await.unwrap();
    assert_eq!(ids_of(&page.tasks), [ids[1], ids[2]]);

    let mut query = AheadQuery::until(in_s(1_000));
    query.limit = 2;
    let first = manager.list_scheduled(query.clone()).await.unwrap();
    query.from = first.next;
    let second = manager.list_scheduled(query).await.unwrap();
    assert_eq!(ids_of(&first.tasks), [ids[1], ids[2]]);
    assert_eq!((ids_of(&second.tasks), second.next), (vec![ids[0]], None));

    sleep(SECOND * 150).await;
    manager.wait::<()>(ids[1]).await.unwrap();
    assert_eq!(
        manager.cancel_scheduled("n:300").await.unwrap(),
        Some(ids[0])
    );
    let page = manager.list_scheduled(in_s(1_000)).await.unwrap();
    assert_eq!(ids_of(&page.tasks), [ids[2]]);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_not_listed_even_if_nobody_takes_it() {
    let site = Site::new();
    let mut config = site.config(0, Vec::new());
    config.role = Role::Web;
    let manager = TaskManager::start(config).await.unwrap();
    for after in [SECOND, MINUTE] {
        let once = manager.schedule_once(tick, ()).delay_by(after);
        once.await.unwrap();
    }
    sleep(SECOND * 2).await;

    let page = manager.list_scheduled(Timestamp::MAX).await.unwrap();

    assert_eq!(page.tasks.len(), 1);
    assert!(page.tasks[0].life.run_at > manager.now());
}

#[tokio::test(start_paused = true)]
async fn what_came_due_while_everything_was_down_runs_at_the_start() {
    let site = Site::new();
    let manager = site.start(Vec::new()).await;
    let minute = manager.schedule_once(tick, ()).delay_by(MINUTE);
    let id = minute.await.unwrap();
    kill(manager, &site).await;
    sleep(MINUTE * 10).await;

    let manager = site.start(Vec::new()).await;

    manager.wait::<()>(id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn functions_are_scheduled_by_their_names_if_their_arguments_fit() {
    let site = Site::new();
    let mut config = site.config(0, Vec::new());
    config.tasks.push(TaskDef::new(says).params(&["what"]));
    let manager = TaskManager::start(config).await.unwrap();
    let named = |args: &str| Schedule::named("says", args).every(SECOND);

    let once = manager.schedule_once_named("says", r#"["x"]"#).await;
    manager.wait::<()>(once.unwrap()).await.unwrap();
    manager
        .schedule(named(r#"["y"]"#).requested_by("ada"))
        .await
        .unwrap();
    sleep(SECOND * 2).await;

    assert_eq!(&*site.tasks("says").await[0].args, r#"["y"]"#);
    let entry = manager.audit(None, 1).await.unwrap().remove(0);
    assert_eq!((&*entry.actor, &*entry.action), ("ada", "schedule"));
    for (args, complaint) in [
        ("[1]", "argument `what` of says"),
        ("[]", "says takes 1 argument, not 0"),
        ("{", "no JSON array"),
    ] {
        let once = manager.schedule_once_named("says", args).await.unwrap_err();
        let again = manager.schedule(named(args)).await.unwrap_err();
        for error in [once, again] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(complaint), "{error}");
        }
    }
    let unknown = manager.schedule_once_named("sings", "[]").await;
    assert!(unknown.unwrap_err().to_string().contains("\"sings\""));
}

#[tokio::test(start_paused = true)]
async fn a_schedule_in_words_of_a_newer_program_is_left_alone() {
    let site = Site::new();
    let mut step = Step::at(START);
    step.records.push(RecordChange {
        key: "schedule:tick".to_owned(),
        expects: 0,
        becomes: Becomes::Value(r#"{"rule":{"moon":"full"}}"#.into()),
    });
    site.memory.step(Arc::new(step)).await.unwrap();

    let other = Schedule::new(tick, ()).name("other").every(SECOND);
    let manager = site.start(vec![each_second(), other]).await;
    sleep(SECOND * 3).await;

    let shown = manager.schedules().await.unwrap();
    assert_eq!(
        shown.iter().map(|it| &*it.name).collect::<Vec<_>>(),
        ["other"]
    );
    assert!(site.tasks("tick").await.is_empty());
    assert!(site.tasks("other").await.len() >= 2);
    assert!(manager.schedule(each_second()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn that_a_schedule_cannot_be_read_is_said_once_however_often_it_is_looked_at() {
    let (said, _log) = Said::here();
    let site = Site::new();
    let manager = site.start(vec![]).await;
    let mut version = 0;
    for moon in ["full", "new", "half"] {
        let mut step = Step::at(START);
        step.records.push(RecordChange {
            key: "schedule:tick".to_owned(),
            expects: version,
            becomes: Becomes::Value(format!(r#"{{"rule":{{"moon":"{moon}"}}}}"#).into()),
        });
        match site.memory.step(Arc::new(step)).await.unwrap() {
            Stepped::Done { versions, .. } => version = versions[0],
            Stepped::Stale => panic!("somebody else has written it"),
        }

        manager.schedules().await.unwrap(); // as each page does that is live
    }

    assert_eq!(said.n("a schedule is not shown"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_by_its_run_key_has_it_as_a_key() {
    let site = Site::new();
    let manager = site.start(vec![]).await;
    let tagged = manager.add_task(tick, ()).tag("run_key", "k");
    let tagged = tagged.delay_by(MINUTE).await.unwrap();

    assert_eq!(manager.cancel_scheduled("k").await.unwrap(), None);

    let task = manager.get(tagged).await.unwrap().unwrap();
    assert_eq!(task.life.status.as_str(), "pending");
}

#[tokio::test]
async fn what_takes_the_place_of_a_task_while_that_is_cancelled_is_cancelled() {
    let (store, backstage) = Backstage::new();
    let mut config = config();
    config.backend = store;
    config.tasks = vec![TaskDef::new(tick)];
    let manager = TaskManager::start(config).await.unwrap();
    let once = manager.schedule_once(tick, ()).delay_by(MINUTE * 60);
    let old = once.run_key("k").await.unwrap();
    let old = backstage.task(old).await;
    backstage.stall();
    let n_writes = backstage.writes();
    let cancelling = tokio::spawn({
        let manager = manager.clone();
        async move { manager.cancel_scheduled("k").await.unwrap() }
    });
    support::until(async || (backstage.writes() > n_writes).then_some(())).await;

    let mut new = old.clone();
    new.id = axum_taskflow_core::IdSource::default().task(manager.now());
    let replaced = axum_taskflow_core::Change::cancelled(&old, manager.now()).unwrap();
    backstage.write_behind(replaced).await;
    backstage.store(&new).await;
    backstage.go_on();

    assert_eq!(cancelling.await.unwrap(), Some(new.id));
    let status = backstage.task(new.id).await.life.status;
    assert_eq!(status.as_str(), "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_keeps_no_schedule_from_firing() {
    let site = Site::new();
    let _manager = site.start(vec![each_second().name("tick")]).await;
    let _guard = BrokenPipe::here();

    sleep(5 * SECOND).await;

    let n = site.tasks("tick").await.len();
    assert!(n >= 4, "{n} of 5 slots have made a task");
}
