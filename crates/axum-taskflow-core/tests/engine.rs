//! The engine over the memory backend: what a caller sees of a task's life.

mod support;

use std::{
    future::{IntoFuture, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    time::Duration,
};

use axum_taskflow_core::{
    Backend, Batch, Cancelled, Change, Clock, Config, Data, Duty, Epoch, ErrorKind, Executor,
    Failure, FailureKind, FailureReport, IdSource, Instance, Life, ListQuery, LogLevel, Source,
    Task, TaskContext, TaskDef, TaskEvent, TaskId, TaskManager, TaskOptions, TaskStatus, Timestamp,
    WaitError,
};
use support::{
    Backstage, BrokenSpan, Call, Link, Needs, Probe, Said, Spoilt, config, ended, settled, start,
};
use tokio::sync::{Notify, Semaphore};
use tokio_stream::StreamExt;

const SOON: Duration = Duration::from_secs(20);

// ---- running -------------------------------------------------------------------------------------------------

async fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn add_blocking(a: u32, b: u32) -> Result<u32, Failure> {
    Ok(a + b)
}

#[tokio::test]
async fn a_task_runs_and_its_result_can_be_awaited() {
    let manager = start(config()).await;

    let id = manager.add_task(add, (2, 3)).await.unwrap();

    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 5);
    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(task.life.status, TaskStatus::Success);
    assert_eq!(task.life.attempt, 1);
    assert_eq!(task.life.instance, Some(manager.instance().id));
    assert_eq!(task.life.owner, None, "a finished task belongs to nobody");
}

#[tokio::test]
async fn a_plain_function_runs_on_a_thread_of_its_own() {
    fn thread_name() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }
    let manager = start(config()).await;

    let sum = manager.add_task(add_blocking, (2, 3)).await.unwrap();
    let name = manager.add_task(thread_name, ()).await.unwrap();

    assert_eq!(manager.wait::<u32>(sum).await.unwrap(), 5);
    assert_eq!(
        manager.wait::<String>(name).await.unwrap(),
        "taskflow-blocking"
    );
    let task = manager.get(sum).await.unwrap().unwrap();
    assert_eq!(task.executor, Executor::Thread);
}

#[tokio::test]
async fn a_plain_function_finds_the_runtime_of_the_service() {
    fn sleeps() {
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(tokio::time::sleep(Duration::from_millis(1)));
    }
    let manager = start(config()).await;

    let id = manager.add_task(sleeps, ()).await.unwrap();

    tokio::time::timeout(SOON, manager.wait::<()>(id))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn blocking_functions_do_not_keep_async_ones_waiting() {
    fn blocks(Data(gate): Data<Arc<std::sync::Barrier>>) {
        gate.wait();
    }
    let gate = Arc::new(std::sync::Barrier::new(3));
    let mut config = config();
    config.blocking_threads = 2;
    config.state(gate.clone());
    let manager = start(config).await;

    let blocked = manager.add_tasks(blocks, [(), ()]).await.unwrap();
    let id = manager.add_task(add, (1, 1)).await.unwrap();

    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 2);
    tokio::task::spawn_blocking(move || gate.wait())
        .await
        .unwrap();
    for id in blocked {
        manager.wait::<()>(id).await.unwrap();
    }
}

#[tokio::test]
async fn no_more_run_at_once_than_the_limit_and_all_run() {
    async fn counted(Data(probe): Data<Probe>) {
        probe.enter();
        tokio::task::yield_now().await;
        probe.leave();
    }
    let probe = Probe::default();
    let mut config = config();
    config.concurrency = 3;
    config.state(probe.clone());
    let manager = start(config).await;

    let ids = manager.add_tasks(counted, vec![(); 200]).await.unwrap();

    for id in ids {
        manager.wait::<()>(id).await.unwrap();
    }
    assert_eq!(probe.most(), 3);
    assert_eq!(probe.total(), 200);
}

#[tokio::test]
async fn tasks_run_by_priority_then_by_age() {
    async fn noted(Data(probe): Data<Probe>, n: usize) {
        probe.note(n);
    }
    async fn gate(Data(open): Data<Arc<Notify>>) {
        open.notified().await;
    }
    let (probe, open) = (Probe::default(), Arc::new(Notify::new()));
    let mut config = config();
    config.concurrency = 1;
    config.state(probe.clone());
    config.state(open.clone());
    let manager = start(config).await;

    manager.add_task(gate, ()).await.unwrap();
    let mut ids = Vec::new();
    for (n, priority) in [0, 5, -5, 0, 9, 5].into_iter().enumerate() {
        ids.push(manager.add_task(noted, n).priority(priority).await.unwrap());
    }
    open.notify_one();
    for id in ids {
        manager.wait::<()>(id).await.unwrap();
    }

    assert_eq!(probe.notes(), [4, 1, 5, 0, 3, 2]);
}

#[tokio::test]
async fn closures_without_captures_can_be_tasks() {
    let manager = start(config()).await;

    let double = manager
        .add_task(|n: u32| async move { n * 2 }, 4)
        .await
        .unwrap();
    let triple = manager.add_task(|n: u32| n * 3, 4).await.unwrap();

    assert_eq!(manager.wait::<u32>(double).await.unwrap(), 8);
    assert_eq!(manager.wait::<u32>(triple).await.unwrap(), 12);
    let names = [double, triple].map(async |id| manager.get(id).await.unwrap().unwrap().name);
    let [double, triple] = names;
    assert_ne!(
        double.await,
        triple.await,
        "the place of the call is part of the name"
    );
}

#[tokio::test]
async fn a_task_knows_itself_by_parameter_and_by_task_local() {
    async fn who(ctx: TaskContext) -> Result<(String, u32, u32, String, String), Failure> {
        tokio::task::yield_now().await;
        let local = TaskContext::current().ok_or_else(|| Failure::give_up("no context"))?;
        Ok((
            local.id().to_string(),
            ctx.attempt(),
            ctx.epoch().get(),
            ctx.idempotency_key(),
            ctx.tags()["plan"].clone(),
        ))
    }
    fn who_blocking() -> Option<String> {
        TaskContext::current().map(|ctx| ctx.id().to_string())
    }
    let manager = start(config()).await;

    let id = manager
        .add_task(who, ())
        .tag("plan", "pro")
        .idempotency_key("k1")
        .await
        .unwrap();
    let blocking = manager.add_task(who_blocking, ()).await.unwrap();

    let (local, attempt, epoch, key, plan): (String, u32, u32, String, String) =
        manager.wait(id).await.unwrap();
    assert_eq!((local, attempt, epoch), (id.to_string(), 1, 1));
    assert_eq!((key.as_str(), plan.as_str()), ("k1", "pro"));
    let seen: Option<String> = manager.wait(blocking).await.unwrap();
    assert_eq!(seen, Some(blocking.to_string()));
}

#[tokio::test]
async fn log_lines_and_progress_are_kept_with_the_task() {
    async fn talks(ctx: TaskContext) {
        ctx.log("one");
        ctx.log_at(LogLevel::Warn, "two");
        ctx.progress(0.5, "half");
    }
    let manager = start(config()).await;

    let id = manager.add_task(talks, ()).await.unwrap();
    manager.wait::<()>(id).await.unwrap();

    let lines = manager.logs(id, 0, 10).await.unwrap();
    let said: Vec<_> = lines
        .iter()
        .map(|line| (&*line.message, line.level))
        .collect();
    assert_eq!(said, [("one", LogLevel::Info), ("two", LogLevel::Warn)]);
    assert_eq!(manager.logs(id, 1, 10).await.unwrap().len(), 1);
    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(task.progress.unwrap().message, "half");
}

#[tokio::test]
async fn events_tell_a_tasks_life_in_order() {
    let manager = start(config()).await;
    let mut events = manager.events();

    let id = manager.add_task(add, (1, 2)).await.unwrap();
    manager.wait::<u32>(id).await.unwrap();

    let mut statuses = Vec::new();
    while statuses.len() < 3 {
        match events.next().await.unwrap() {
            TaskEvent::Added(task) => statuses.push(task.life.status),
            TaskEvent::Changed { life, .. } => statuses.push(life.status),
            other => panic!("{other:?}"),
        }
    }
    use TaskStatus::{Pending, Running, Success};
    assert_eq!(statuses, [Pending, Running, Success]);
}

#[tokio::test]
async fn a_result_that_is_too_large_is_not_kept_and_said_so() {
    async fn large() -> String {
        "x".repeat(100)
    }
    let mut config = config();
    config.result_max = 50;
    let manager = start(config).await;

    let id = manager.add_task(large, ()).await.unwrap();

    let error = manager.wait::<String>(id).await.unwrap_err();
    assert!(matches!(error, WaitError::Result(_)), "{error}");
    let lines = manager.logs(id, 0, 10).await.unwrap();
    assert!(
        lines[0].message.contains("102 bytes and is not kept"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_result_of_the_largest_size_is_kept() {
    async fn large() -> String {
        "x".repeat(100)
    }
    let mut config = config();
    config.result_max = 102; // with its quotes
    let manager = start(config).await;

    let id = manager.add_task(large, ()).await.unwrap();

    assert_eq!(manager.wait::<String>(id).await.unwrap().len(), 100);
}

// ---- safe at every step --------------------------------------------------------------------------------------

async fn entered(Data(probe): Data<Probe>) {
    probe.enter();
}

#[tokio::test]
async fn the_start_is_stored_before_the_functions_first_line_runs() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    // One that a process died of: a claim does not begin it, its start is a write of its own.
    let mut task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
    task.life.crashes = 1;
    backstage.hold_starts(true);
    backstage.store(&task).await;

    let manager = start(config).await;
    backstage.start_held().await;
    let before = probe.total();
    backstage.hold_starts(false);
    manager.wait::<()>(task.id).await.unwrap();

    assert_eq!((before, probe.total()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_cancelled_while_it_waited_for_a_slot_never_runs() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    for (may_be_repeated, elsewhere) in [(false, false), (true, false), (true, true)] {
        let (backend, backstage) = Backstage::new();
        let (probe, gate) = (Probe::default(), Arc::new(Semaphore::new(0)));
        let mut config = config();
        config.backend = backend;
        config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
        config.concurrency = 1;
        config.state(probe.clone());
        config.state(gate.clone());
        let manager = start(config).await;
        let me = manager.instance().id;
        // A function that is new here may have tasks on disk, which come first.
        let known = manager.add_task(entered, ()).await.unwrap();
        manager.wait::<()>(known).await.unwrap();
        gate.add_permits(1);
        let known = manager.add_task(waits, ()).await.unwrap();
        manager.wait::<()>(known).await.unwrap();
        settled().await;
        let first = manager.add_task(waits, ()).await.unwrap();
        let id = manager.add_task(entered, ());
        let id = id.requeue_on_interrupt(may_be_repeated).await.unwrap();
        let held = backstage.task(id).await;
        assert_eq!(held.life.owner, Some(me));

        if elsewhere {
            let change = Change::cancelled(&held, manager.now()).unwrap();
            backstage.write_behind(change).await;
        } else {
            assert_eq!(manager.cancel(id).await.unwrap(), Cancelled::Now);
        }
        backstage.hold_starts(true);
        gate.add_permits(1);
        backstage.start_held().await;
        settled().await; // it has the slot
        backstage.hold_starts(false);
        manager.wait::<()>(first).await.unwrap();
        let last = manager.add_task(add, (1, 2)).await.unwrap();
        manager.wait::<u32>(last).await.unwrap();

        assert_eq!(probe.total(), 1, "only the first");
        let life = backstage.task(id).await.life;
        assert_eq!(life.status, TaskStatus::Cancelled);
    }
}

/// What becomes of a cancel while the start of the task is on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    /// The start is stored.
    Starts,
    /// Another instance has let go of the task.
    IsLeft,
    /// And runs it.
    RunsElsewhere,
    /// The store does not answer.
    Nothing,
}

#[tokio::test(start_paused = true)]
async fn who_cancels_a_task_whose_start_is_on_its_way_hears_what_came_of_it() {
    for (meanwhile, answer, status) in [
        (
            Meanwhile::Starts,
            Ok(Cancelled::Asked),
            TaskStatus::Cancelled,
        ),
        (Meanwhile::IsLeft, Ok(Cancelled::Now), TaskStatus::Cancelled),
        (
            Meanwhile::RunsElsewhere,
            Ok(Cancelled::Sent),
            TaskStatus::Running,
        ),
        (
            Meanwhile::Nothing,
            Err(ErrorKind::TimedOut),
            TaskStatus::Pending,
        ),
    ] {
        let (backend, backstage) = Backstage::new();
        let probe = Probe::default();
        let mut config = config();
        config.backend = backend;
        config.state(probe.clone());
        config.tasks = vec![TaskDef::new(entered).name("entered")];
        // One that a process died of: a claim does not begin it, its start is a write of its own.
        let mut task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
        task.life.crashes = 1;
        backstage.hold_starts(true);
        backstage.store(&task).await;
        let manager = start(config).await;
        backstage.start_held().await;
        let held = backstage.task(task.id).await;
        assert_eq!(held.life.owner, Some(manager.instance().id));

        let cancelled = manager.cancel(task.id);
        let happens = async {
            settled().await; // it is asked by now
            if matches!(meanwhile, Meanwhile::IsLeft | Meanwhile::RunsElsewhere) {
                let released = Change::released(&held).unwrap();
                let mut of_others = held.clone();
                of_others.life = released.life.clone();
                backstage.write_behind(released).await;
                if meanwhile == Meanwhile::RunsElsewhere {
                    let other = IdSource::default().instance(manager.now());
                    let by_others = Change::started(&of_others, other, manager.now()).unwrap();
                    backstage.write_behind(by_others).await;
                }
            }
            backstage.hold_starts(meanwhile == Meanwhile::Nothing);
        };
        let (cancelled, ()) = tokio::join!(cancelled, happens);

        let told = cancelled.map_err(|error| error.kind());
        assert_eq!(told, answer, "{meanwhile:?}");
        let seen = support::until(async || {
            let now = backstage.task(task.id).await.life.status;
            (now == status).then_some(now)
        });
        seen.await;
        backstage.hold_starts(false);
        assert_eq!(probe.total(), 0, "{meanwhile:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_starts_nothing_that_others_may_have_taken() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    let (backend, backstage) = Backstage::new();
    let (probe, gate) = (Probe::default(), Arc::new(Semaphore::new(0)));
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.concurrency = 1;
    config.takeover_after = Some(Duration::from_secs(5));
    config.state(probe.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    // A function that is new here may have tasks on disk, which come first.
    let known = manager.add_task(entered, ()).await.unwrap();
    manager.wait::<()>(known).await.unwrap();
    gate.add_permits(1);
    let known = manager.add_task(waits, ()).await.unwrap();
    manager.wait::<()>(known).await.unwrap();
    settled().await;
    let first = manager.add_task(waits, ()).await.unwrap();
    let second = manager.add_task(entered, ()).requeue_on_interrupt(true);
    let second = second.await.unwrap();
    let held = backstage.task(second).await;
    assert_eq!(held.life.owner, Some(manager.instance().id));

    backstage.hold_beats(true);
    tokio::time::advance(Duration::from_secs(6)).await;
    let released = Change::released(&held).unwrap();
    let mut of_others = held.clone();
    of_others.life = released.life.clone();
    backstage.write_behind(released).await;
    let other = IdSource::default().instance(manager.now());
    let by_others = Change::started(&of_others, other, manager.now()).unwrap();
    backstage.write_behind(by_others).await;
    backstage.hold_starts(true);
    gate.add_permits(1);
    backstage.start_held().await;
    settled().await;
    let n_begun = probe.total();
    backstage.hold_starts(false);
    manager.wait::<()>(first).await.unwrap();
    backstage.hold_beats(false); // until then it takes nothing more
    let third = manager.add_task(add, (1, 2)).await.unwrap();
    manager.wait::<u32>(third).await.unwrap();

    assert_eq!((n_begun, probe.total()), (1, 1), "somebody else runs it");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_before_it_heard_what_it_has_begins_nothing_of_it() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.takeover_after = Some(Duration::from_secs(5));
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let mut task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
    task.requeue_on_interrupt = true;
    backstage.store(&task).await;
    backstage.hold_claims(true);
    let manager = start(config).await;
    backstage.claim_held().await; // it is begun, and nobody here knows it

    backstage.hold_beats(true);
    tokio::time::advance(Duration::from_secs(6)).await;
    let mut of_others = backstage.task(task.id).await;
    assert_eq!(of_others.life.status, TaskStatus::Running);
    let requeued = Change::interrupted(&of_others, "taken for dead", manager.now()).unwrap();
    of_others.life = requeued.life.clone();
    backstage.write_behind(requeued).await;
    let other = IdSource::default().instance(manager.now());
    let by_others = Change::started(&of_others, other, manager.now()).unwrap();
    backstage.write_behind(by_others.clone()).await;
    backstage.hold_claims(false);
    settled().await;

    assert_eq!(probe.total(), 0, "somebody else runs it");
    assert_eq!(backstage.task(task.id).await.life, by_others.life);
    // And its slot is free once it knows that it lives.
    backstage.hold_beats(false);
    let next = manager.add_task(entered, ()).await.unwrap();
    let ended = tokio::time::timeout(SOON, manager.wait::<()>(next)).await;
    ended.expect("it runs").unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_brings_under_a_name_that_is_dead_by_now_is_not_begun() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
    backstage.store(&task).await;
    backstage.hold_claims(true);
    let manager = start(config).await;
    backstage.claim_held().await; // it is begun, and nobody here knows it

    let former = manager.instance().id;
    backstage.supersede_now(former).await;
    support::until(async || (manager.instance().id != former).then_some(())).await;
    backstage.hold_claims(false);
    settled().await;

    assert_eq!(probe.total(), 0, "others have ended it");
}

#[tokio::test(start_paused = true)]
async fn a_new_task_that_was_stored_without_an_answer_runs_all_the_same() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let manager = start(config).await;
    settled().await;

    backstage.lose_answers(1);
    manager.add_task(entered, ()).await.unwrap_err();

    support::until(async || (probe.total() == 1).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_process_adds_that_was_taken_for_dead_runs_once_it_knows() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.takeover_after = Some(Duration::from_secs(5));
    config.state(probe.clone());
    let manager = start(config).await;
    // A function that is new here may have tasks on disk, which come first.
    let known = manager.add_task(entered, ()).await.unwrap();
    manager.wait::<()>(known).await.unwrap();
    settled().await;
    let former = manager.instance().id;

    backstage.hold_beats(true);
    tokio::time::advance(Duration::from_secs(4)).await; // three quarters of the time: others may be about to look
    backstage.supersede_now(former).await;
    let id = manager.add_task(entered, ()).await.unwrap();
    settled().await;
    let (stored, n_begun) = (backstage.task(id).await.life, probe.total());
    backstage.hold_beats(false);
    manager.wait::<()>(id).await.unwrap();

    assert_eq!(
        (n_begun, probe.total()),
        (1, 2),
        "others would take it over"
    );
    let had_begun = (stored.status, stored.epoch.get()) != (TaskStatus::Pending, 0);
    assert!(!had_begun, "as a task that had, it would be interrupted");
    assert_ne!(manager.instance().id, former);
}

#[tokio::test]
async fn a_superseded_attempt_cannot_write_an_outcome() {
    async fn gated(Data(begun): Data<Arc<Notify>>, Data(gate): Data<Arc<Semaphore>>) {
        begun.notify_one();
        gate.acquire().await.unwrap().forget();
    }
    let (backend, backstage) = Backstage::new();
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let mut config = config();
    config.backend = backend;
    config.state(begun.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(gated, ()).await.unwrap();
    begun.notified().await;

    let task = backstage.task(id).await;
    let by_somebody_else = Change::interrupted(&task, "taken over", manager.now()).unwrap();
    backstage.write_behind(by_somebody_else).await;
    gate.add_permits(1);
    manager.drain().await;

    assert_eq!(
        backstage.task(id).await.life.status,
        TaskStatus::Interrupted
    );
}

fn until_told(ctx: TaskContext, Data(probe): Data<Probe>) {
    probe.enter();
    while !ctx.is_cancelled() {
        std::thread::yield_now();
    }
    probe.leave();
}

#[tokio::test]
async fn of_a_task_that_was_taken_over_and_came_back_the_first_attempt_stops_and_the_second_is_heard_of()
 {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.blocking_threads = 2;
    config.state(probe.clone());
    let manager = start(config).await;
    let adding = manager.add_task(until_told, ());
    let id = adding.requeue_on_interrupt(true).await.unwrap();
    support::until(async || (probe.inside() == 1).then_some(())).await;

    let task = backstage.task(id).await;
    let by_somebody_else = Change::interrupted(&task, "taken over", manager.now()).unwrap();
    backstage.write_behind(by_somebody_else).await;
    backstage.tell_that_it_went_back(); // a reason to look what is there
    support::until(async || (probe.total() == 2 && probe.inside() == 1).then_some(())).await;
    settled().await;
    let cancelled = manager.cancel(id).await.unwrap();

    assert_eq!(cancelled, Cancelled::Asked);
    support::until(async || (probe.inside() == 0).then_some(())).await;
}

#[tokio::test]
async fn what_runs_in_an_instance_that_was_taken_for_dead_is_stopped() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.state(probe.clone());
    let manager = start(config).await;
    let id = manager.add_task(until_told, ()).await.unwrap();
    support::until(async || (probe.inside() == 1).then_some(())).await;

    backstage.supersede_now(manager.instance().id).await;

    support::until(async || (probe.inside() == 0).then_some(())).await;
    let is_over = async || backstage.task(id).await.life.status == TaskStatus::Interrupted;
    support::until(async || is_over().await.then_some(())).await;
}

/// The task as it was before its attempt began, held by whoever ran it.
fn before_its_start(task: &Task) -> Life {
    let mut life = Task::new(task.id, &*task.name, "[]").life;
    life.owner = task.life.instance;
    life
}

/// A task that has begun and goes on as soon as the gate lets it.
struct Begun {
    manager: TaskManager,
    backstage: Backstage,
    task: Task,
    probe: Probe,
    gate: Arc<Semaphore>,
}

impl Begun {
    async fn new() -> Self {
        async fn gated(
            Data(probe): Data<Probe>,
            Data(begun): Data<Arc<Notify>>,
            Data(gate): Data<Arc<Semaphore>>,
        ) -> u32 {
            probe.enter();
            begun.notify_one();
            gate.acquire().await.expect("it is never closed").forget();
            7
        }
        let (backend, backstage) = Backstage::new();
        let (probe, begun) = (Probe::default(), Arc::new(Notify::new()));
        let gate = Arc::new(Semaphore::new(0));
        let mut config = config();
        config.backend = backend;
        config.state(probe.clone());
        config.state(begun.clone());
        config.state(gate.clone());
        let manager = start(config).await;
        let id = manager.add_task(gated, ()).await.expect("it is added");
        begun.notified().await;
        Self {
            task: backstage.task(id).await,
            manager,
            backstage,
            probe,
            gate,
        }
    }

    /// The store loses that it has begun, and the function returns; then it is looked why its end is stale.
    async fn end_is_stale(&self, before: Life) {
        self.backstage.set_back(&self.task, before).await;
        self.backstage.hold_reads(true);
        self.gate.add_permits(1);
        self.backstage.read_held().await;
    }
}

#[tokio::test]
async fn what_came_of_an_attempt_is_stored_although_the_store_has_lost_its_start() {
    let it = Begun::new().await;

    let before = before_its_start(&it.task);
    it.backstage.set_back(&it.task, before).await;
    it.gate.add_permits(1);

    let result = tokio::time::timeout(SOON, it.manager.wait::<u32>(it.task.id)).await;
    assert_eq!(result.unwrap().unwrap(), 7);
    assert_eq!(it.probe.total(), 1);
}

#[tokio::test]
async fn what_came_of_an_attempt_is_stored_at_a_shutdown_although_the_store_has_lost_its_start() {
    let it = Begun::new().await;
    let before = before_its_start(&it.task);

    it.end_is_stale(before).await;
    let mut shutdown = pin!(it.manager.shutdown());
    waits(&mut shutdown).await;
    it.backstage.hold_reads(false);
    shutdown.await.unwrap();

    let life = it.backstage.task(it.task.id).await.life;
    assert_eq!(life.status, TaskStatus::Success);
}

#[tokio::test]
async fn an_end_that_is_stale_when_a_drain_stores_it_is_looked_after_and_stored() {
    let it = Begun::new().await;
    let before = before_its_start(&it.task);
    it.backstage.set_back(&it.task, before).await;
    it.backstage.hold_reads(true);
    it.backstage.stall();
    let n_writes = it.backstage.writes();

    let written_once_more = async |n_writes: usize| {
        support::until(async || (it.backstage.writes() > n_writes).then_some(())).await;
    };

    // The function has returned, and its end is on its way; only then is it stale.
    it.gate.add_permits(1);
    written_once_more(n_writes).await;
    let mut drained = pin!(it.manager.drain());
    waits(&mut drained).await;
    it.backstage.go_on();
    it.backstage.read_held().await;
    waits(&mut drained).await;
    it.backstage.stall();
    let n_writes = it.backstage.writes();
    it.backstage.hold_reads(false);
    written_once_more(n_writes).await;
    waits(&mut drained).await;
    it.backstage.go_on();
    drained.await;

    let life = it.backstage.task(it.task.id).await.life;
    assert_eq!(life.status, TaskStatus::Success);
}

#[tokio::test]
async fn what_came_of_an_attempt_is_dropped_if_somebody_else_has_the_task_since_the_store_went_back()
 {
    let it = Begun::new().await;
    let other = IdSource::default().instance(it.manager.now());
    let mut before = before_its_start(&it.task);
    (before.owner, before.crashes) = (None, 1); // whoever claims it changes nothing but the owner
    let mut claimed = before.clone();
    claimed.owner = Some(other);

    // Claimed after the look, and before the end is written once more.
    it.end_is_stale(before).await;
    it.backstage.stall();
    let n_writes = it.backstage.writes();
    it.backstage.hold_reads(false);
    support::until(async || (it.backstage.writes() > n_writes).then_some(())).await;
    it.backstage.set_back(&it.task, claimed.clone()).await;
    it.backstage.go_on();

    support::until(async || (it.manager.stale_results() > 0).then_some(())).await;
    assert_eq!(it.backstage.task(it.task.id).await.life, claimed);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_an_attempt_is_dropped_if_somebody_else_had_the_task_when_the_store_went_back()
{
    let it = Begun::new().await;
    let mut of_another = before_its_start(&it.task);
    of_another.owner = Some(IdSource::default().instance(it.manager.now()));

    it.end_is_stale(of_another.clone()).await;
    it.backstage.hold_reads(false);

    support::until(async || (it.manager.stale_results() > 0).then_some(())).await;
    assert_eq!(it.backstage.task(it.task.id).await.life, of_another);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_says_is_ours_after_it_went_back_is_let_go_of_if_nothing_runs_of_it() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(probe.clone());
    let manager = start(config).await;
    let add = async |may_be_repeated| {
        let task = manager.add_task(entered, ());
        let id = task.requeue_on_interrupt(may_be_repeated).await.unwrap();
        manager.wait::<()>(id).await.unwrap();
        backstage.task(id).await
    };
    let begun = |task: &Task| {
        let instance = task.life.instance.unwrap();
        let mut life = before_its_start(task).begun(task.id, instance, manager.now());
        life.owner = Some(instance);
        life
    };
    let (waited, ran, repeatable) = (add(false).await, add(false).await, add(true).await);

    backstage.set_back(&waited, before_its_start(&waited)).await;
    backstage.set_back(&ran, begun(&ran)).await;
    backstage.set_back(&repeatable, begun(&repeatable)).await;
    backstage.tell_that_it_went_back();

    let is = async |task: &Task, status| {
        let is_so = async || (backstage.task(task.id).await.life.status == status).then_some(());
        support::until(is_so).await;
    };
    is(&waited, TaskStatus::Success).await;
    is(&repeatable, TaskStatus::Success).await;
    is(&ran, TaskStatus::Interrupted).await;
    assert_eq!(probe.total(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_here_when_the_store_went_back_is_not_let_go_of() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(Probe::default());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
    backstage.store(&task).await;
    backstage.hold_claims(true);
    let manager = start(config).await;
    backstage.claim_held().await;

    backstage.tell_that_it_went_back();
    tokio::time::sleep(Duration::from_secs(1)).await; // on paused time: a look
    backstage.hold_claims(false);

    manager.wait::<()>(task.id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn new_tasks_that_waited_for_a_claim_start_as_soon_as_it_fails() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.tasks = vec![TaskDef::new(add).name("add")];
    backstage.hold_claims(true);
    let manager = start(config).await;
    backstage.claim_held().await;
    let id = manager.add_task(add, (1, 2)).await.unwrap();
    let life = backstage.task(id).await.life;
    let waits_here = (TaskStatus::Pending, Some(manager.instance().id));
    assert_eq!((life.status, life.owner), waits_here);

    backstage.fail_claims(true);
    let failed_at = tokio::time::Instant::now();
    backstage.hold_claims(false);
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;

    assert_eq!(sum.expect("no further claim is needed").unwrap(), 3);
    let waited = failed_at.elapsed();
    assert!(
        waited < Duration::from_millis(500), // on paused time
        "not when the next claim has failed, too: {waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_took_whose_answer_is_lost_is_for_others_after_a_shutdown() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(Probe::default());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
    backstage.store(&task).await;
    backstage.fail_claims(true);
    let manager = start(config).await;
    backstage.claim_lost().await;
    assert!(backstage.task(task.id).await.life.owner.is_some());
    let before = Timestamp::from_unix_ms(999_999_999);
    let untouched = Task::new(TaskId::floor(before), "entered", "[]");
    backstage.store(&untouched).await;

    backstage.fail_claims(false);
    manager.shutdown().await.unwrap();

    let life = backstage.task(task.id).await.life;
    assert_eq!((life.status, life.owner), (TaskStatus::Pending, None));
    let untouched = backstage.task(untouched.id).await.life;
    assert_eq!(untouched.epoch, Epoch::ZERO, "it is taken from nobody");
}

/// A task whose start is on its way to the store.
struct Starting {
    manager: TaskManager,
    backstage: Backstage,
    task: Task,
}

impl Starting {
    async fn new() -> Self {
        let (backend, backstage) = Backstage::new();
        let mut config = config();
        config.backend = backend;
        config.state(Probe::default());
        config.tasks = vec![TaskDef::new(entered).name("entered")];
        // One that a process died of: its start is a write of its own.
        let mut task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
        task.life.crashes = 1;
        task.life.epoch = Epoch::ZERO.next().next();
        backstage.hold_starts(true);
        backstage.store(&task).await;
        let manager = start(config).await;
        backstage.start_held().await;
        Self {
            manager,
            backstage,
            task,
        }
    }

    /// The store loses its last writes before it takes the start.
    async fn is_stale(&self) {
        let mut before = self.task.life.clone();
        (before.owner, before.epoch) = (Some(self.manager.instance().id), Epoch::ZERO);
        self.backstage.set_back(&self.task, before).await;
        self.backstage.hold_starts(false);
    }
}

#[tokio::test]
async fn a_task_whose_start_is_stale_since_the_store_went_back_is_started_again() {
    let it = Starting::new().await;

    it.is_stale().await;

    let ran = tokio::time::timeout(SOON, it.manager.wait::<()>(it.task.id)).await;
    ran.unwrap().unwrap();
}

#[tokio::test]
async fn a_task_whose_start_is_stale_when_a_drain_stores_it_is_left_to_others() {
    let it = Starting::new().await;
    it.backstage.hold_reads(true);

    let mut drained = pin!(it.manager.drain());
    waits(&mut drained).await;
    it.is_stale().await;
    it.backstage.read_held().await;
    waits(&mut drained).await;
    it.backstage.hold_reads(false);
    drained.await;

    let life = it.backstage.task(it.task.id).await.life;
    assert_eq!((life.status, life.owner), (TaskStatus::Pending, None));
}

#[tokio::test(start_paused = true)]
async fn what_runs_goes_on_when_the_store_went_back() {
    async fn gated(Data(begun): Data<Arc<Notify>>, Data(gate): Data<Arc<Semaphore>>) {
        begun.notify_one();
        gate.acquire().await.unwrap().forget();
    }
    let (backend, backstage) = Backstage::new();
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(begun.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(gated, ()).await.unwrap();
    begun.notified().await;
    let task = backstage.task(id).await;

    backstage.tell_that_it_went_back();
    tokio::time::sleep(Duration::from_secs(20)).await; // on paused time: many looks
    let stored = backstage.task(id).await;
    gate.add_permits(1);
    manager.wait::<()>(id).await.unwrap();

    assert_eq!(stored, task);
}

#[tokio::test(start_paused = true)]
async fn finished_tasks_that_are_kept_shortly_are_looked_for_often() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock.clone();
    config.retention = Duration::from_secs(20);
    let manager = start(config).await;
    let id = manager.add_task(add, (1, 1)).await.unwrap();
    manager.wait::<u32>(id).await.unwrap();

    clock.advance(Duration::from_secs(21));
    tokio::time::sleep(Duration::from_secs(3)).await; // one round and its jitter

    assert!(manager.get(id).await.unwrap().is_none());
}

#[tokio::test]
async fn however_many_finished_tasks_there_are_all_that_are_old_enough_are_deleted() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock.clone();
    let manager = start(config).await;
    let ids = manager.add_tasks(add, vec![(1, 1); 250]).await.unwrap();
    for id in ids {
        manager.wait::<u32>(id).await.unwrap();
    }
    clock.advance(Duration::from_secs(1));

    let n_deleted = manager.delete_history(manager.now()).await.unwrap();

    assert_eq!(n_deleted, 250);
}

#[tokio::test(start_paused = true)]
async fn finished_tasks_are_deleted_when_they_are_old_enough_and_not_before() {
    async fn fails() -> Result<(), Failure> {
        Err(Failure::give_up("no"))
    }
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock.clone();
    let manager = start(config).await;
    let good = manager.add_task(add, (1, 1)).await.unwrap();
    let bad = manager.add_task(fails, ()).await.unwrap();
    let waiting = manager
        .add_task(add, (1, 1))
        .run_at(Timestamp::MAX)
        .await
        .unwrap();
    manager.wait::<u32>(good).await.unwrap();
    manager.wait::<()>(bad).await.unwrap_err();
    let day = Duration::from_secs(24 * 3_600);
    let rounds = Duration::from_secs(2_000); // of the pruner, by tokio's clock
    let kept = async || {
        tokio::time::sleep(rounds).await;
        let mut kept = Vec::new();
        for id in [good, bad, waiting] {
            kept.push(manager.get(id).await.unwrap().is_some());
        }
        kept
    };

    clock.advance(day * 6);
    let after_6_days = kept().await;
    clock.advance(day * 2);
    let after_8_days = kept().await;
    clock.advance(day * 25);
    let after_33_days = kept().await;

    assert_eq!(after_6_days, [true, true, true]);
    assert_eq!(
        after_8_days,
        [false, true, true],
        "what succeeded goes after 7 days"
    );
    assert_eq!(
        after_33_days,
        [false, false, true],
        "what failed after 30, what waits never"
    );
}

// ---- failing -------------------------------------------------------------------------------------------------

async fn fails_until(ctx: TaskContext, good: u32) -> Result<u32, Failure> {
    match ctx.attempt() {
        n if n >= good => Ok(n),
        n => Err(Failure::retry(format!("attempt {n} is bad"))),
    }
}

#[tokio::test]
async fn a_failing_task_is_tried_again_and_every_attempt_is_kept() {
    let manager = start(config()).await;

    let id = manager.add_task(fails_until, 3).retries(5).await.unwrap();

    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 3);
    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(task.life.attempt, 3);
    let past: Vec<_> = task
        .past_attempts
        .iter()
        .map(|past| {
            (
                past.number,
                past.outcome,
                past.error.as_ref().unwrap().message.clone(),
            )
        })
        .collect();
    assert_eq!(
        past,
        [
            (1, TaskStatus::Failed, "attempt 1 is bad".to_owned()),
            (2, TaskStatus::Failed, "attempt 2 is bad".to_owned()),
        ]
    );
    assert!(task.past_attempts[0].epoch < task.past_attempts[1].epoch);
}

#[tokio::test]
async fn the_wait_before_a_retry_is_on_disk_and_by_the_clock() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock.clone();
    let manager = start(config).await;
    let mut events = manager.events();

    let id = manager
        .add_task(fails_until, 2)
        .retries(1)
        .delay(Duration::from_secs(3_600))
        .jitter(0.0)
        .await
        .unwrap();
    ended(&mut events, id, TaskStatus::Pending).await;

    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(
        task.life.run_at,
        manager.now().saturating_add(Duration::from_secs(3_600))
    );
    assert_eq!(task.life.owner, None, "nobody sleeps for it in memory");
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 2);
}

#[tokio::test]
async fn without_retries_the_first_failure_is_the_end_with_its_chain_of_sources() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot send")]
    struct SendError(#[source] std::io::Error);
    async fn sends() -> Result<(), SendError> {
        Err(SendError(std::io::Error::other("no route")))
    }
    let manager = start(config()).await;

    let id = manager.add_task(sends, ()).await.unwrap();

    let WaitError::NotSuccessful(task) = manager.wait::<()>(id).await.unwrap_err() else {
        panic!("it failed")
    };
    assert_eq!(task.life.status, TaskStatus::Failed);
    let error = task.life.error.unwrap();
    assert_eq!(
        (&*error.message, &error.sources[..]),
        ("cannot send", &["no route".to_owned()][..])
    );
}

#[tokio::test]
async fn a_function_that_gives_up_is_not_tried_again() {
    async fn gives_up() -> Result<(), Failure> {
        Err(Failure::give_up("no such account"))
    }
    let manager = start(config()).await;

    let id = manager.add_task(gives_up, ()).retries(9).await.unwrap();
    manager.wait::<()>(id).await.unwrap_err();

    assert_eq!(manager.get(id).await.unwrap().unwrap().life.attempt, 1);
}

#[tokio::test]
async fn a_panic_is_recorded_with_its_place_and_retried_like_an_error() {
    async fn panics(ctx: TaskContext) -> u32 {
        assert!(ctx.attempt() > 1, "not at the first attempt");
        7
    }
    fn panics_blocking() {
        panic!("always");
    }
    let manager = start(config()).await;

    let id = manager.add_task(panics, ()).retries(1).await.unwrap();
    let blocking = manager.add_task(panics_blocking, ()).await.unwrap();

    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 7);
    let task = manager.get(id).await.unwrap().unwrap();
    let error = task.past_attempts[0].error.clone().unwrap();
    assert_eq!(error.kind, FailureKind::Panic);
    assert!(
        error.message.contains("not at the first attempt"),
        "{}",
        error.message
    );
    assert!(
        error.place.as_ref().unwrap().contains("engine.rs:"),
        "{:?}",
        error.place
    );
    manager.wait::<()>(blocking).await.unwrap_err();
    let task = manager.get(blocking).await.unwrap().unwrap();
    assert_eq!(task.life.error.unwrap().message, "panicked: always");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_dropped_and_retried() {
    async fn hangs(ctx: TaskContext) -> u32 {
        if ctx.attempt() == 1 {
            std::future::pending::<()>().await;
        }
        ctx.attempt()
    }
    let manager = start(config()).await;

    let id = manager
        .add_task(hangs, ())
        .timeout(Duration::from_millis(20))
        .retries(1)
        .await
        .unwrap();

    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 2);
    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(
        task.past_attempts[0].error.as_ref().unwrap().kind,
        FailureKind::Timeout
    );
}

#[tokio::test]
async fn a_plain_function_is_told_of_its_timeout() {
    fn until_told(ctx: TaskContext) -> Result<(), Failure> {
        while !ctx.is_cancelled() {
            std::thread::yield_now();
        }
        Err(Failure::retry("told to stop"))
    }
    let manager = start(config()).await;

    let id = manager
        .add_task(until_told, ())
        .timeout(Duration::from_millis(20))
        .await
        .unwrap();
    manager.wait::<()>(id).await.unwrap_err();

    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(task.life.error.unwrap().kind, FailureKind::Timeout);
}

#[tokio::test]
async fn what_a_function_has_spawned_is_told_of_its_timeout() {
    async fn spawns(ctx: TaskContext, Data(told): Data<Arc<Notify>>) {
        tokio::spawn(async move {
            ctx.cancellation().cancelled().await;
            told.notify_one();
        });
        std::future::pending::<()>().await;
    }
    let told = Arc::new(Notify::new());
    let mut config = config();
    config.state(told.clone());
    let manager = start(config).await;

    let short = Duration::from_millis(20);
    let id = manager.add_task(spawns, ()).timeout(short).await.unwrap();
    manager.wait::<()>(id).await.unwrap_err();

    let told = tokio::time::timeout(SOON, told.notified()).await;
    told.expect("it is told");
}

// ---- cancelling and retrying ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_cancelled_pending_task_never_runs() {
    async fn noted(Data(probe): Data<Probe>) {
        probe.enter();
    }
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let probe = Probe::default();
    let mut config = config();
    config.clock = clock.clone();
    config.state(probe.clone());
    let manager = start(config).await;

    let id = manager
        .add_task(noted, ())
        .delay_by(Duration::from_secs(60))
        .await
        .unwrap();
    let other = manager
        .add_task(noted, ())
        .delay_by(Duration::from_secs(61))
        .await
        .unwrap();
    let cancelled = manager.cancel(id).await.unwrap();
    clock.advance(Duration::from_secs(61));
    manager.wait::<()>(other).await.unwrap();

    assert_eq!(cancelled, Cancelled::Now);
    assert_eq!(probe.total(), 1, "only the other one ran");
    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(task.life.status, TaskStatus::Cancelled);
    assert_eq!(
        manager.cancel(id).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
}

#[tokio::test]
async fn a_cancelled_running_task_is_dropped_at_its_next_await() {
    struct Dropped(Probe);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.leave();
        }
    }
    async fn hangs(Data(probe): Data<Probe>, Data(begun): Data<Arc<Notify>>) {
        probe.enter();
        let _dropped = Dropped(probe);
        begun.notify_one();
        std::future::pending::<()>().await;
    }
    let (probe, begun) = (Probe::default(), Arc::new(Notify::new()));
    let mut config = config();
    config.state(probe.clone());
    config.state(begun.clone());
    let manager = start(config).await;

    let id = manager.add_task(hangs, ()).retries(5).await.unwrap();
    begun.notified().await;
    let cancelled = manager.cancel(id).await.unwrap();
    manager.wait::<()>(id).await.unwrap_err();

    assert_eq!(cancelled, Cancelled::Asked);
    assert_eq!(probe.inside(), 0, "its future was dropped");
    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(
        task.life.status,
        TaskStatus::Cancelled,
        "and it is not retried"
    );
}

#[tokio::test]
async fn unknown_tasks_can_neither_be_cancelled_nor_retried() {
    let manager = start(config()).await;
    let id = "0192f0c1-0000-7000-8000-000000000000".parse().unwrap();

    assert_eq!(
        manager.cancel(id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        manager.retry(id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let error = manager.wait::<()>(id).await.unwrap_err();
    assert!(matches!(error, WaitError::Manager(e) if e.kind() == ErrorKind::NotFound));
}

#[tokio::test]
async fn a_retry_by_hand_is_a_new_task_that_points_to_the_old_one() {
    let manager = start(config()).await;
    let id = manager
        .add_task(fails_until, 2)
        .tag("a", "b")
        .priority(7)
        .requeue_on_interrupt(true)
        .idempotency_key("two")
        .timeout(SOON)
        .tracking_id("r-1")
        .await
        .unwrap();
    manager.wait::<u32>(id).await.unwrap_err();

    let again = manager.retry(id).await.unwrap();
    manager.wait::<u32>(again).await.unwrap_err();

    let task = manager.get(again).await.unwrap().unwrap();
    assert_eq!((task.source, task.retry_of), (Source::Retry, Some(id)));
    assert_eq!(task.tags["a"], "b");
    assert_eq!((task.priority, task.requeue_on_interrupt), (7, true));
    assert_eq!(task.idempotency_key.unwrap().key, "two");
    assert_eq!(task.options.timeout, Some(SOON));
    assert_eq!(task.tracking_id.as_deref(), Some("r-1"));
    let good = manager.add_task(add, (1, 1)).await.unwrap();
    manager.wait::<u32>(good).await.unwrap();
    assert_eq!(
        manager.retry(good).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
}

#[tokio::test]
async fn of_all_retries_of_a_task_one_waits_runs_or_has_succeeded() {
    async fn fails_once(
        context: TaskContext,
        Data(fails): Data<Arc<AtomicBool>>,
    ) -> Result<String, Failure> {
        match fails.load(Ordering::SeqCst) {
            true => Err(Failure::give_up("no")),
            false => Ok(context.idempotency_key()),
        }
    }
    let fails = Arc::new(AtomicBool::new(true));
    let mut config = config();
    config.state(fails.clone());
    let manager = start(config).await;
    let first = manager.add_task(fails_once, ()).await.unwrap();
    manager.wait::<String>(first).await.unwrap_err();
    let second = manager.retry(first).await.unwrap();
    manager.wait::<String>(second).await.unwrap_err();
    fails.store(false, Ordering::SeqCst);

    let third = manager.retry(first).await.unwrap();
    let key = manager.wait::<String>(third).await.unwrap();

    assert_eq!(key, third.to_string(), "what it gives to others is its own");
    for failed in [first, second] {
        let error = manager.retry(failed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let why = format!("task {failed} has been retried already, as task {third}");
        assert_eq!(error.to_string(), why);
    }
}

// ---- adding --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn of_many_simultaneous_adds_with_one_key_one_makes_a_task_and_all_get_its_id() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.state(gate.clone());
    let manager = start(config).await;

    let mut adds = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let manager = manager.clone();
        adds.spawn(async move {
            manager
                .add_task(waits, ())
                .idempotency_key("k")
                .await
                .unwrap()
        });
    }
    let ids = adds.join_all().await;
    gate.add_permits(1);
    manager.wait::<()>(ids[0]).await.unwrap();
    let after_success = manager
        .add_task(waits, ())
        .idempotency_key("k")
        .await
        .unwrap();

    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(after_success, ids[0], "kept after success");
    assert_eq!(
        manager
            .list(ListQuery::default())
            .await
            .unwrap()
            .tasks
            .len(),
        1
    );
}

#[tokio::test]
async fn a_key_is_free_again_after_failure_and_after_its_time() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock.clone();
    let manager = start(config).await;
    let key = |good| {
        manager
            .add_task(fails_until, good)
            .idempotency_key("k")
            .idempotency_ttl(SOON)
    };

    let failed = key(9).await.unwrap();
    manager.wait::<u32>(failed).await.unwrap_err();
    let good = key(1).await.unwrap();
    manager.wait::<u32>(good).await.unwrap();
    let kept = key(1).await.unwrap();
    clock.advance(SOON + Duration::from_millis(1));
    let fresh = key(1).await.unwrap();

    assert_ne!(good, failed);
    assert_eq!(kept, good);
    assert_ne!(fresh, good);
}

#[tokio::test]
async fn a_key_of_another_functions_task_is_a_conflict_and_not_that_task() {
    let manager = start(config()).await;
    manager
        .add_task(add, (1, 1))
        .idempotency_key("k")
        .await
        .unwrap();

    let error = manager
        .add_task(add_blocking, (1, 1))
        .idempotency_key("k")
        .await
        .unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("add_blocking"), "{error}");
}

#[tokio::test]
async fn many_callers_that_wait_at_once_cost_few_writes() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.concurrency = 1;
    let manager = start(config).await;
    let writes_before = backstage.writes();

    backstage.stall();
    let mut adds = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let manager = manager.clone();
        adds.spawn(async move {
            let later = Duration::from_secs(3_600);
            manager.add_task(add, (n, n)).delay_by(later).await.unwrap()
        });
    }
    settled().await;
    backstage.go_on();
    adds.join_all().await;

    let writes = backstage.writes() - writes_before;
    assert!(writes < 50, "{writes} writes for 1,000 adds");
}

/// It is not done, whatever can go on here has gone on.
async fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) {
    for _ in 0..100 {
        assert!(poll_once(future).await.is_pending());
        tokio::task::yield_now().await;
    }
}

async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

#[tokio::test]
async fn who_adds_while_nobody_writes_asks_the_store_himself() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;
    let add = || manager.add_task(add, (1, 1)).into_future();

    // Nobody else has a turn between these lines.
    let answer_at_once = poll_once(&mut add()).await;
    backstage.stall();
    let writes_before = backstage.writes();
    let mut adding = add();
    let answer_later = poll_once(&mut adding).await;
    let writes = backstage.writes() - writes_before;

    assert!(answer_at_once.is_ready());
    assert!(answer_later.is_pending());
    assert_eq!(writes, 1);
    backstage.go_on();
    adding.await.unwrap();
}

/// The writes that are on their way while three callers, one after the other, add a task.
async fn on_their_way(store_takes: usize) -> usize {
    let (backend, backstage) = Backstage::new();
    backstage.take_writes_at_once(store_takes);
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;
    let writes_before = backstage.writes();

    backstage.stall();
    let mut adds = Vec::new();
    for n in 0..3 {
        let manager = manager.clone();
        adds.push(tokio::spawn(
            async move { manager.add_task(add, (n, n)).await },
        ));
        settled().await;
    }
    let writes = backstage.writes() - writes_before;
    backstage.go_on();
    for add in adds {
        add.await.expect("it does not panic").expect("it is added");
    }
    writes
}

#[tokio::test]
async fn so_many_batches_are_on_their_way_as_the_store_takes() {
    assert_eq!(on_their_way(1).await, 1);
    assert_eq!(on_their_way(2).await, 2);
}

#[tokio::test]
async fn a_batch_is_asked_for_too_while_the_one_before_waits_for_it() {
    let (backend, backstage) = Backstage::new();
    backstage.take_writes_at_once(2);
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;
    let writes_before = backstage.writes();

    let blocked = backstage.block_turnstile().await;
    let adds = [(1, 1), (2, 2)].map(|args| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.add_task(add, args).await })
    });
    settled().await;
    assert_eq!(backstage.writes() - writes_before, 2);
    drop(blocked);

    for adding in adds {
        let added = tokio::time::timeout(SOON, adding).await;
        added.expect("neither waits for ever").unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_batch_goes_behind_a_large_one() {
    async fn text(_: String) {}
    let (backend, backstage) = Backstage::new();
    backstage.take_writes_at_once(2);
    let mut config = config();
    config.backend = backend;
    config.args_max = 8 << 20;
    let manager = start(config).await;
    settled().await;
    let writes_before = backstage.writes();

    backstage.stall();
    let adds = [2 << 20, 1].map(|len| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.add_task(text, "x".repeat(len)).await })
    });
    settled().await;
    assert_eq!(backstage.writes() - writes_before, 1);
    backstage.go_on();
    for add in adds {
        add.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_answer_waits_for_no_other_batch() {
    async fn slow() {}
    async fn unwelcome() {}
    let (backend, backstage) = Backstage::new();
    backstage.take_writes_at_once(2);
    backstage.hold_new(Some("slow"));
    backstage.refuse_new("unwelcome");
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;

    let first = tokio::spawn({
        let manager = manager.clone();
        async move { manager.add_task(slow, ()).await }
    });
    settled().await;
    let behind = tokio::time::timeout(SOON, manager.add_task(add, (3, 4)).into_future()).await;
    let refused = tokio::time::timeout(SOON, manager.add_task(unwelcome, ()).into_future()).await;
    let is_waiting = !first.is_finished();
    backstage.hold_new(None);

    behind.expect("it waits for the first one").unwrap();
    let refused = refused.expect("its failure waits for the first one");
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(is_waiting);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_batch_that_fails_takes_the_one_behind_it_not_along() {
    async fn unwelcome() {}
    let (backend, backstage) = Backstage::new();
    backstage.take_writes_at_once(2);
    backstage.refuse_new("unwelcome");
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;

    backstage.stall();
    let refused = tokio::spawn({
        let manager = manager.clone();
        async move { manager.add_task(unwelcome, ()).await }
    });
    settled().await;
    let taken = tokio::spawn({
        let manager = manager.clone();
        async move { manager.add_task(add, (3, 4)).await }
    });
    settled().await;
    backstage.go_on();

    let refused = refused.await.unwrap().unwrap_err();
    let id = taken.await.unwrap().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 7);
}

#[tokio::test]
async fn bad_arguments_of_a_call_are_refused_and_nothing_is_added() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock;
    config.args_max = 1_000;
    config.bulk_max = 10;
    let manager = start(config).await;
    async fn text(_: String) {}
    let add = || manager.add_task(text, "x".to_owned());

    let errors = [
        add().idempotency_key("").await.unwrap_err(),
        add().idempotency_key("k".repeat(10_000)).await.unwrap_err(),
        add().tag("", "x").await.unwrap_err(),
        add().tag("x", "y".repeat(300)).await.unwrap_err(),
        add()
            .tags((0..33).map(|n| (n.to_string(), "x")))
            .await
            .unwrap_err(),
        add().delay_by(Duration::MAX).await.unwrap_err(),
        add().backoff(f64::NAN).await.unwrap_err(),
        add().backoff(0.1).await.unwrap_err(),
        add().jitter(2.0).await.unwrap_err(),
        add().timeout(Duration::ZERO).await.unwrap_err(),
        manager.add_task(text, "x".repeat(2_000)).await.unwrap_err(),
        manager
            .add_tasks(text, vec!["x".to_owned(); 11])
            .await
            .unwrap_err(),
        manager
            .add_tasks(text, std::iter::repeat_n("x".to_owned(), 1_000_000))
            .await
            .unwrap_err(),
    ];

    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(manager.list(ListQuery::default()).await.unwrap().tasks, []);
    assert_eq!(
        manager.add_tasks(text, Vec::<String>::new()).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn what_is_as_large_as_a_limit_allows_is_added() {
    async fn text(_: String) {}
    let mut config = config();
    config.args_max = 1_000;
    config.bulk_max = 10;
    let manager = start(config).await;
    let largest = "x".repeat(1_000 - "[\"\"]".len());

    let adding = manager.add_task(text, largest.clone());
    let tags = (0..31).map(|n| (n.to_string(), "x"));
    let adding = adding.tags(tags).tag("k".repeat(256), "v".repeat(256));
    adding.idempotency_key("k".repeat(512)).await.unwrap();
    let bulk = manager.add_tasks(text, vec![largest; 10]).await.unwrap();

    assert_eq!(bulk.len(), 10);
}

#[tokio::test]
async fn an_argument_that_cannot_be_stored_fails_at_the_call_with_its_name() {
    use std::collections::HashMap;
    async fn indexed(_label: String, _index: HashMap<(u8, u8), u8>) {}
    let mut config = config();
    config.tasks = vec![TaskDef::new(indexed).params(&["label", "index"])];
    let manager = start(config).await;

    let index = HashMap::from([((1, 2), 3)]);
    let error = manager
        .add_task(indexed, ("x".to_owned(), index))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("argument `index` of indexed"),
        "{error}"
    );
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn an_argument_that_cannot_be_read_again_fails_at_the_call() {
    async fn ratio(_: f64) {}
    let manager = start(config()).await;

    let error = manager.add_task(ratio, f64::NAN).await.unwrap_err();

    assert!(error.to_string().contains("not read again"), "{error}");
}

#[tokio::test]
async fn a_time_in_the_past_means_now() {
    let manager = start(config()).await;

    let id = manager
        .add_task(add, (1, 1))
        .run_at(Timestamp::default())
        .await
        .unwrap();

    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 2);
}

// ---- building ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn everything_wrong_with_the_settings_is_said_at_once() {
    async fn needs_state(Data(_): Data<Probe>) {}
    mod other {
        pub(crate) async fn add(_: u32, _: u32) {}
    }
    let mut config = config();
    config.concurrency = 0;
    config.defaults.backoff = Some(0.0);
    config.tasks = vec![
        TaskDef::new(add),
        TaskDef::new(other::add),
        TaskDef::new(needs_state),
        TaskDef::new(add_blocking).name("with\nnewline"),
        TaskDef::new(fails_until).name("x".repeat(300)),
    ];

    let error = TaskManager::start(config).await.unwrap_err().to_string();

    for part in [
        "concurrency must be at least 1",
        "backoff must be",
        "two functions are called \"add\"",
        "takes Data<engine::support::Probe>",
        "control characters",
        "at most 256 bytes",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(
        error.matches("engine.rs:").count(),
        5,
        "both places are named: {error}"
    );
}

#[tokio::test]
async fn a_function_without_the_attribute_whose_state_is_missing_fails_at_the_call() {
    async fn needs_state(Data(_): Data<Probe>) {}
    let manager = start(config()).await;

    let error = manager.add_task(needs_state, ()).await.unwrap_err();

    assert!(error.to_string().contains("Probe"), "{error}");
}

#[tokio::test]
async fn a_renamed_function_finds_its_waiting_tasks() {
    let backend: Arc<dyn Backend> = Arc::new(axum_taskflow_core::Memory::default());
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let with = |def: TaskDef| {
        let mut config = config();
        config.backend = backend.clone();
        config.clock = clock.clone();
        config.tasks = vec![def];
        config
    };
    let before = start(with(TaskDef::new(add).name("old_add"))).await;
    let id = before.add_task(add, (2, 2)).delay_by(SOON).await.unwrap();
    before.drain().await;

    let after = start(with(TaskDef::new(add).name("new_add").alias("old_add"))).await;
    clock.advance(SOON);

    assert_eq!(after.wait::<u32>(id).await.unwrap(), 4);
}

#[tokio::test]
async fn options_come_from_the_call_then_the_function_then_the_defaults() {
    let mut config = config();
    config.defaults = TaskOptions {
        retries: Some(1),
        ..TaskOptions::default()
    };
    let of_function = TaskOptions {
        retries: Some(2),
        ..TaskOptions::default()
    };
    config.tasks = vec![TaskDef::new(fails_until).options(of_function)];
    let manager = start(config).await;
    async fn plain() -> Result<(), Failure> {
        Err(Failure::retry("no"))
    }

    let by_call = manager.add_task(fails_until, 99).retries(3).await.unwrap();
    let by_function = manager.add_task(fails_until, 99).await.unwrap();
    let by_default = manager.add_task(plain, ()).await.unwrap();

    for (id, attempts) in [(by_call, 4), (by_function, 3), (by_default, 2)] {
        manager.wait::<u32>(id).await.unwrap_err();
        let task = manager.get(id).await.unwrap().unwrap();
        assert_eq!(task.life.attempt, attempts);
        assert_eq!(manager.retries(&task), attempts - 1);
    }
}

#[tokio::test]
async fn what_a_task_holds_itself_is_not_among_its_options_too() {
    let manager = start(config()).await;

    let id = manager
        .add_task(add, (1, 2))
        .priority(3)
        .requeue_on_interrupt(true)
        .retries(4)
        .idempotency_key("once")
        .idempotency_ttl(Duration::from_secs(5))
        .await
        .unwrap();

    let task = manager.get(id).await.unwrap().unwrap();
    let key = task.idempotency_key.unwrap();
    assert_eq!((task.priority, task.requeue_on_interrupt), (3, true));
    assert_eq!(key.ttl, Duration::from_secs(5));
    let retries = TaskOptions {
        retries: Some(4),
        ..TaskOptions::default()
    };
    assert_eq!(task.options, retries);
}

// ---- unknown, unreadable -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_task_whose_arguments_cannot_be_read_is_held_and_says_why() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let backend: Arc<dyn Backend> = Arc::new(axum_taskflow_core::Memory::default());
    let mut config = config();
    config.clock = clock.clone();
    config.backend = backend.clone();
    config.tasks = vec![TaskDef::new(add).params(&["a", "b"])];
    let unreadable = support::stored(&backend, &clock, "add", r#"[1,"two"]"#).await;
    let unknown = support::stored(&backend, &clock, "somebody_elses", "[]").await;

    let manager = start(config).await;
    let held = support::until(async || {
        let task = manager.get(unreadable).await.unwrap().unwrap();
        task.life.error.is_some().then_some(task)
    })
    .await;

    assert_eq!(held.life.status, TaskStatus::Pending);
    assert_eq!(held.life.attempt, 0, "no attempt is burnt");
    let error = held.life.error.unwrap();
    assert_eq!(error.kind, FailureKind::Held);
    assert!(
        error.message.contains("argument `b` of add"),
        "{}",
        error.message
    );
    let unknown: Task = manager.get(unknown).await.unwrap().unwrap();
    assert_eq!(
        (unknown.life.status, unknown.life.owner),
        (TaskStatus::Pending, None)
    );
    assert!(!manager.knows("somebody_elses"));
}

#[tokio::test]
async fn a_task_that_the_store_reads_in_part_is_neither_cancelled_nor_repeated_nor_replaced() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let backend = Arc::new(axum_taskflow_core::Memory::default());
    let mut config = config();
    config.clock = clock.clone();
    config.backend = backend.clone();
    config.tasks = vec![TaskDef::new(add)];
    let manager = start(config).await;
    let replaces = || {
        let add = manager.add_task(add, (1, 1)).run_key("one");
        add.delay_by(Duration::from_secs(60))
    };
    let id = replaces().await.unwrap();
    let mut task = manager.get(id).await.unwrap().unwrap();
    // As a driver shows what a newer program wrote.
    let unreadable = FailureReport::new(FailureKind::Unreadable, "source 99");
    for status in [TaskStatus::Pending, TaskStatus::Failed] {
        let mut change = Change::held(&task, "", task.life.run_at).unwrap();
        change.life.status = status;
        change.life.error = Some(unreadable.clone().into());
        let mut batch = Batch::at(clock.now());
        batch.changes.push(change);
        backend.write(Arc::new(batch)).await.unwrap();
        task = manager.get(id).await.unwrap().unwrap();

        let refused = match status {
            TaskStatus::Pending => [
                manager.cancel(id).await.unwrap_err(),
                replaces().await.unwrap_err(),
            ],
            _ => [
                manager.retry(id).await.unwrap_err(),
                manager.cancel(id).await.unwrap_err(),
            ],
        };

        for error in refused {
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.to_string().contains("source 99"), "{error}");
        }
        assert_eq!(manager.get(id).await.unwrap(), Some(task.clone()));
    }
}

/// Two programs that know one function by different arguments, as while a new version is rolled out.
#[tokio::test]
async fn a_task_that_one_program_cannot_read_is_run_by_another_at_once() {
    async fn by_name(_name: String) -> String {
        "by name".to_owned()
    }
    async fn by_number(_number: u32) -> String {
        "by number".to_owned()
    }
    let clock = Clock::system();
    let backend: Arc<dyn Backend> = Arc::new(axum_taskflow_core::Memory::default());
    let config = |def: TaskDef| {
        let mut config = config();
        config.backend = backend.clone();
        config.tasks = vec![def.name("greet")];
        config
    };
    let old = start(config(TaskDef::new(by_name))).await;
    let is_held = async |id| {
        support::until(async || old.get(id).await.unwrap().unwrap().life.error).await;
    };
    let before = support::stored(&backend, &clock, "greet", "[1]").await;
    old.add_task(add, (1, 1)).await.unwrap(); // wakes it
    is_held(before).await;

    let new = start(config(TaskDef::new(by_number))).await;
    let after = support::stored(&backend, &clock, "greet", "[2]").await;

    for id in [before, after] {
        let result = tokio::time::timeout(SOON / 2, new.wait::<String>(id)).await;
        assert_eq!(result.unwrap().unwrap(), "by number");
    }
}

#[derive(serde::Serialize)]
struct PanicsWhenRead(u32);

impl<'de> serde::Deserialize<'de> for PanicsWhenRead {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("cannot be read at all");
    }
}

#[tokio::test]
async fn arguments_whose_type_panics_hold_their_task_and_harm_no_other() {
    async fn unreadable(_: PanicsWhenRead) {}
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let backend: Arc<dyn Backend> = Arc::new(axum_taskflow_core::Memory::default());
    let id = support::stored(&backend, &clock, "unreadable", "[1]").await;
    let mut config = config();
    config.clock = clock;
    config.backend = backend;
    config.tasks = vec![TaskDef::new(unreadable)];

    let manager = start(config).await;
    let held = support::until(async || manager.get(id).await.unwrap().unwrap().life.error).await;
    let other = manager.add_task(add, (1, 1)).await.unwrap();

    assert!(
        held.message.contains("cannot be read at all"),
        "{}",
        held.message
    );
    assert_eq!(manager.wait::<u32>(other).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_former_process_has_left_for_later_starts_when_it_is_due() {
    let (backend, backstage) = Backstage::new();
    let now = Timestamp::from_unix_ms(1_000_000_000);
    let delay = Duration::from_millis(61_500);
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::tokio(now);
    config.state(Probe::default());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let mut task = Task::new(TaskId::floor(now), "entered", "[]");
    task.life.run_at = now.saturating_add(delay);
    backstage.store(&task).await;

    let manager = start(config).await;
    manager.wait::<()>(task.id).await.unwrap();

    let started_at = backstage.task(task.id).await.life.started_at.unwrap();
    let late = started_at.since(task.life.run_at);
    assert!(late < Duration::from_millis(100), "{late:?}");
}

#[tokio::test]
async fn waiting_tasks_of_a_function_without_the_attribute_run_when_it_is_added_again() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let backend: Arc<dyn Backend> = Arc::new(axum_taskflow_core::Memory::default());
    let path = std::any::type_name_of_val(&add);
    let waiting = support::stored(&backend, &clock, path, "[2,3]").await;
    let mut config = config();
    config.clock = clock;
    config.backend = backend;
    let manager = start(config).await;
    let other = manager.add_task(add_blocking, (1, 1)).await.unwrap();
    manager.wait::<u32>(other).await.unwrap();

    manager.add_task(add, (1, 1)).await.unwrap();

    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(waiting)).await;
    assert_eq!(sum.unwrap().unwrap(), 5);
}

#[tokio::test]
async fn a_due_task_does_not_keep_a_full_manager_spinning() {
    async fn gated(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    fn gated_blocking(Data(gate): Data<Arc<Semaphore>>) {
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(gate.acquire()).unwrap().forget();
    }
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.concurrency = 1;
    config.blocking_threads = 1;
    config.clock = clock.clone();
    config.state(gate.clone());
    let manager = start(config).await;
    let mut ids = manager.add_tasks(gated, vec![(); 4]).await.unwrap();
    ids.extend(
        manager
            .add_tasks(gated_blocking, vec![(); 4])
            .await
            .unwrap(),
    );
    ids.push(manager.add_task(gated, ()).delay_by(SOON).await.unwrap());

    clock.advance(SOON);
    tokio::time::sleep(Duration::from_millis(20)).await; // this thread is the runtime: a loop that spins ends here
    gate.add_permits(ids.len());

    for id in ids {
        tokio::time::timeout(SOON, manager.wait::<()>(id))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_function_that_stops_when_it_is_told_to_is_cancelled_and_not_retried() {
    async fn polite(ctx: TaskContext, Data(begun): Data<Arc<Notify>>) -> Result<(), Failure> {
        begun.notify_one();
        ctx.cancellation().cancelled().await;
        Err(Failure::retry("told to stop"))
    }
    let begun = Arc::new(Notify::new());
    let mut config = config();
    config.state(begun.clone());
    let manager = start(config).await;

    let id = manager.add_task(polite, ()).retries(5).await.unwrap();
    begun.notified().await;
    manager.cancel(id).await.unwrap();
    manager.wait::<()>(id).await.unwrap_err();

    let task = manager.get(id).await.unwrap().unwrap();
    assert_eq!(
        (task.life.status, task.life.attempt),
        (TaskStatus::Cancelled, 1)
    );
}

#[tokio::test]
async fn the_log_calls_a_task_not_begun_only_if_it_has_never_run() {
    let (said, _log) = Said::here();
    let manager = start(config()).await;
    let mut events = manager.events();
    let add = manager.add_task(fails_until, (2,)).retries(1);
    let id = add.delay(Duration::from_secs(3_600)).await.unwrap();
    ended(&mut events, id, TaskStatus::Pending).await;

    assert_eq!(manager.cancel(id).await.unwrap(), Cancelled::Now);

    assert_eq!(said.n("task cancelled"), 1);
    assert_eq!(said.n_details("task cancelled before it ran"), 0);
}

#[tokio::test]
async fn a_function_that_is_cancelled_when_it_has_just_failed_is_not_retried() {
    #[derive(Debug)]
    struct Failed(TaskManager, TaskId);
    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let mut cancelled = pin!(self.0.cancel(self.1));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match cancelled.as_mut().poll(&mut context) {
                Poll::Ready(cancelled) => assert_eq!(cancelled.unwrap(), Cancelled::Asked),
                Poll::Pending => panic!("it runs"),
            }
            f.write_str("failed")
        }
    }
    impl std::error::Error for Failed {}
    async fn fails(ctx: TaskContext, Data(manager): Data<Held>) -> Result<(), Failed> {
        let manager = manager.0.lock().unwrap().clone();
        Err(Failed(manager.unwrap(), ctx.id()))
    }
    #[derive(Clone, Debug, Default)]
    struct Held(Arc<Mutex<Option<TaskManager>>>);
    let held = Held::default();
    let mut config = config();
    config.state(held.clone());
    let manager = start(config).await;
    *held.0.lock().unwrap() = Some(manager.clone());

    let id = manager.add_task(fails, ()).retries(5).await.unwrap();
    manager.wait::<()>(id).await.unwrap_err();

    let life = manager.get(id).await.unwrap().unwrap().life;
    assert_eq!((life.status, life.attempt), (TaskStatus::Cancelled, 1));
    *held.0.lock().unwrap() = None;
}

#[tokio::test]
async fn an_error_whose_words_panic_fails_its_task_and_frees_its_slot() {
    #[derive(Debug)]
    struct Speechless;
    impl std::fmt::Display for Speechless {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words");
        }
    }
    impl std::error::Error for Speechless {}
    async fn speechless() -> Result<(), Speechless> {
        Err(Speechless)
    }
    let mut config = config();
    config.concurrency = 1;
    let manager = start(config).await;

    let id = manager.add_task(speechless, ()).await.unwrap();
    manager.wait::<()>(id).await.unwrap_err();
    let other = manager.add_task(add, (1, 1)).await.unwrap();

    assert_eq!(manager.wait::<u32>(other).await.unwrap(), 2);
    let error = manager.get(id).await.unwrap().unwrap().life.error.unwrap();
    assert!(error.message.contains("no words"), "{}", error.message);
}

#[tokio::test]
async fn whoever_waits_for_a_task_that_will_not_run_here_is_told_at_shutdown() {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    let mut config = config();
    config.clock = clock;
    let manager = start(config).await;
    let id = manager.add_task(add, (1, 1)).delay_by(SOON).await.unwrap();

    let waiting = tokio::spawn({
        let manager = manager.clone();
        async move { manager.wait::<u32>(id).await }
    });
    tokio::task::yield_now().await;
    manager.drain().await;

    let told = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(
        matches!(told, Err(WaitError::Manager(error)) if error.kind() == ErrorKind::ShuttingDown)
    );
}

// ---- the store fails -----------------------------------------------------------------------------------------

#[tokio::test]
async fn while_the_store_fails_adds_are_refused_and_outcomes_are_kept() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) -> u32 {
        gate.acquire().await.unwrap().forget();
        7
    }
    let (backend, backstage) = Backstage::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.backend = backend;
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(waits, ()).await.unwrap();
    support::until(async || {
        let task = manager.get(id).await.unwrap().unwrap();
        (task.life.status == TaskStatus::Running).then_some(())
    })
    .await;

    backstage.fail(true);
    let refused = manager.add_task(waits, ()).await.unwrap_err();
    gate.add_permits(1);
    backstage.failed_writes(3).await;
    backstage.fail(false);

    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert_eq!(manager.wait::<u32>(id).await.unwrap(), 7);
    assert_eq!(
        manager
            .list(ListQuery::default())
            .await
            .unwrap()
            .tasks
            .len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again_after_pauses_that_grow_up_to_a_limit() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    let (backend, backstage) = Backstage::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(waits, ()).await.unwrap();

    backstage.fail_all_but_beats();
    gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(60)).await;

    // From 50 ms to 2 s, each shorter by up to a half.
    let n_tries = backstage.n_failed_writes();
    assert!((34..=67).contains(&n_tries), "{n_tries} tries in a minute");
    backstage.fail(false);
    let back = tokio::time::Instant::now();
    manager.wait::<()>(id).await.unwrap();
    assert!(
        back.elapsed() <= Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn an_instance_beats_however_late_it_takes_others_for_dead() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.takeover_after = Some(Duration::MAX);
    let manager = start(config).await;

    let beats = backstage.beats();
    support::until(async || (backstage.beats() > beats).then_some(())).await;

    assert!(manager.health().is_ready());
}

#[tokio::test]
async fn a_beat_that_is_stored_does_not_hide_that_outcomes_cannot_be() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    let (backend, backstage) = Backstage::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.backend = backend;
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(waits, ()).await.unwrap();
    support::until(async || {
        let task = manager.get(id).await.unwrap().unwrap();
        (task.life.status == TaskStatus::Running).then_some(())
    })
    .await;

    backstage.fail_all_but_beats();
    gate.add_permits(1);
    support::until(async || (!manager.health().is_ready()).then_some(())).await;
    let beats = backstage.beats();
    support::until(async || {
        assert!(!manager.health().is_ready());
        (backstage.beats() >= beats + 3).then_some(())
    })
    .await;
    backstage.fail(false);

    manager.wait::<()>(id).await.unwrap();
    support::until(async || manager.health().is_ready().then_some(())).await;
}

#[tokio::test]
async fn a_store_that_stalls_makes_adds_fail_within_their_deadline() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.queue_max = 2;
    config.add_timeout = Duration::from_millis(200);
    let manager = start(config).await;

    backstage.stall();
    let mut adds = tokio::task::JoinSet::new();
    for n in 0..5 {
        let manager = manager.clone();
        adds.spawn(async move { manager.add_task(add, (n, n)).await.unwrap_err().kind() });
    }
    let mut kinds = adds.join_all().await;
    let troubles = support::until(async || {
        let health = manager.health();
        (!health.is_ready()).then_some(health.troubles)
    })
    .await;
    backstage.go_on();

    kinds.sort_by_key(|kind| format!("{kind:?}"));
    let overloaded = kinds
        .iter()
        .filter(|kind| **kind == ErrorKind::Overloaded)
        .count();
    let unsure = kinds
        .iter()
        .filter(|kind| **kind == ErrorKind::TimedOut)
        .count();
    assert_eq!(overloaded + unsure, 5, "{kinds:?}");
    assert!(
        (1..=2).contains(&unsure),
        "only what was being written is unsure: {kinds:?}"
    );
    assert_eq!(troubles[0].duty, Duty::Write);
    let id = manager.add_task(add, (1, 1)).await.unwrap();
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;
    assert_eq!(sum.expect("it works again").unwrap(), 2);
    assert!(manager.health().is_ready());
}

#[tokio::test]
async fn a_beat_that_hangs_is_told_and_over_with_its_answer() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.add_timeout = Duration::from_millis(100);
    let manager = start(config).await;

    backstage.hold_beats(true);
    let troubles = support::until(async || {
        let health = manager.health();
        (!health.is_ready()).then_some(health.troubles)
    })
    .await;
    backstage.hold_beats(false);

    assert_eq!(troubles[0].duty, Duty::Beat);
    support::until(async || manager.health().is_ready().then_some(())).await;
}

#[tokio::test]
async fn a_claim_or_a_look_for_orphans_that_hangs_is_told_and_over_with_its_answer() {
    for duty in [Duty::Claim, Duty::Rescue] {
        let (backend, backstage) = Backstage::new();
        let mut config = config();
        config.backend = backend;
        config.add_timeout = Duration::from_millis(100);
        let manager = start(config).await;
        let hold = |hold| match duty {
            Duty::Claim => backstage.hold_claims(hold),
            _ => backstage.hold_orphans(hold),
        };

        hold(true);
        // A function that is new here may have tasks on disk.
        manager.add_task(add, (1, 1)).await.unwrap();
        let troubles = support::until(async || {
            let health = manager.health();
            (!health.is_ready()).then_some(health.troubles)
        })
        .await;
        hold(false);

        assert_eq!(troubles[0].duty, duty);
        support::until(async || manager.health().is_ready().then_some(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_whose_record_the_store_does_not_take_fails_within_the_deadline() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;
    backstage.stall();

    let recorded = manager.record_audit("me", "retry", None, serde_json::Value::Null);
    let told = tokio::time::timeout(SOON, recorded).await;

    let told = told.expect("he is told").unwrap_err();
    assert_eq!(told.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn while_the_store_hangs_so_many_records_and_cancels_wait_and_further_ones_are_refused() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    let later = Duration::from_secs(3_600);
    let id = manager.add_task(add, (1, 1)).delay_by(later);
    let id = id.await.unwrap();
    settled().await;
    backstage.stall();

    let refusal = async || {
        let mut recorded =
            Box::pin(manager.record_audit("me", "cancel", None, serde_json::Value::Null));
        match poll_once(&mut recorded).await {
            Poll::Ready(told) => Some(told.unwrap_err().kind()), // it is not stored
            Poll::Pending => None,
        }
    };
    let record_refused = refused_after(20_000, refusal).await;
    let refusal = async || match poll_once(&mut Box::pin(manager.cancel(id))).await {
        Poll::Ready(told) => Some(told.unwrap_err().kind()),
        Poll::Pending => None,
    };
    let cancel_refused = refused_after(20_000, refusal).await;

    assert_eq!(record_refused, Some(ErrorKind::Overloaded));
    assert_eq!(cancel_refused, Some(ErrorKind::Overloaded));
    backstage.go_on();
    let cancelled = support::until(async || {
        let status = backstage.task(id).await.life.status;
        (status == TaskStatus::Cancelled).then_some(())
    });
    cancelled.await;
    let recorded = manager.record_audit("me", "cancel", None, serde_json::Value::Null);
    recorded.await.unwrap();
}

/// Why a call is refused that nobody waits for, if it is within so many.
async fn refused_after(
    calls: usize,
    refusal: impl AsyncFn() -> Option<ErrorKind>,
) -> Option<ErrorKind> {
    for _ in 0..calls {
        if let Some(kind) = refusal().await {
            return Some(kind);
        }
        tokio::task::yield_now().await; // what is polled on and on, tokio keeps waiting
    }
    None
}

#[tokio::test]
async fn who_waits_in_vain_for_a_store_that_fails_is_told_why() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.add_timeout = Duration::from_millis(100);
    let manager = start(config).await;
    backstage.hold_beats(true);
    backstage.fail(true);
    let said = manager.add_task(add, (1, 1)).await.unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Unavailable);
    backstage.stall();

    // The first is on its way to the store, the second waits behind it.
    let errors = [
        manager.add_task(add, (1, 1)).await.unwrap_err(),
        manager.add_task(add, (1, 1)).await.unwrap_err(),
    ];

    for error in errors {
        let said = error.to_string();
        assert!(
            said.ends_with("it fails: the store fails on demand"),
            "{said}"
        );
    }
    backstage.go_on();
    backstage.hold_beats(false);
}

#[tokio::test]
async fn a_replacement_that_the_store_does_not_answer_fails_within_the_deadline() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.add_timeout = Duration::from_millis(100);
    let manager = start(config).await;
    let later = Duration::from_secs(3_600);
    let add_with_key = || manager.add_task(add, (1, 1)).delay_by(later).run_key("one");
    add_with_key().await.unwrap();

    backstage.hold_reads(true);
    let answer = tokio::time::timeout(SOON, add_with_key().into_future()).await;
    backstage.hold_reads(false);

    let error = answer.expect("it waits for the store").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn while_outcomes_wait_that_are_large_no_further_task_starts() {
    const LARGE: usize = 70 * 1024 * 1024;
    async fn large(Data(gate): Data<Arc<Semaphore>>, len: usize) -> String {
        gate.acquire().await.unwrap().forget();
        "x".repeat(len)
    }
    let (backend, backstage) = Backstage::new();
    let (probe, gate) = (Probe::default(), Arc::new(Semaphore::new(0)));
    let mut config = config();
    config.backend = backend;
    config.result_max = 2 * LARGE;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.state(probe.clone());
    config.state(gate.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let manager = start(config).await;
    let first = manager.add_task(large, LARGE).await.unwrap();
    settled().await;

    backstage.fail_all_but_beats();
    gate.add_permits(1);
    // One that others have left: a claim needs no place in the journal, and begins it.
    let next = Task::new(TaskId::floor(manager.now()), "entered", "[]");
    backstage.store(&next).await;
    let next = next.id;
    backstage.failed_writes(12).await; // on paused time: many looks at what others have left
    let n_begun = probe.total();
    backstage.fail(false);

    assert_eq!(n_begun, 0, "it has to wait");
    assert_eq!(manager.wait::<String>(first).await.unwrap().len(), LARGE);
    manager.wait::<()>(next).await.unwrap();
}

#[tokio::test]
async fn a_change_that_was_stored_without_an_answer_is_not_taken_for_a_stale_one() {
    async fn waits(Data(gate): Data<Arc<Semaphore>>) -> u32 {
        gate.acquire().await.unwrap().forget();
        7
    }
    let (backend, backstage) = Backstage::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.backend = backend;
    config.state(gate.clone());
    let manager = start(config).await;
    let clock = Clock::system();
    let later = clock.now().saturating_add(Duration::from_millis(50));
    let id = manager.add_task(waits, ()).run_at(later).await.unwrap();

    backstage.lose_answers(2); // to the start
    support::until(async || {
        let task = manager.get(id).await.unwrap().unwrap();
        (task.life.status == TaskStatus::Running).then_some(())
    })
    .await;
    gate.add_permits(1);

    let seven = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;
    assert_eq!(seven.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn a_change_that_the_store_refuses_for_good_harms_no_other() {
    // It says something, and has an attempt left: its last words go with its end.
    async fn unstorable(ctx: TaskContext) -> Result<(), Failure> {
        ctx.log("half done");
        Err(Failure::retry("again"))
    }
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    backstage.refuse_ends_of("unstorable");
    backstage.hold_beats(true); // the next one would say that all is well again

    let mut bad = Vec::new();
    for _ in 0..3 {
        bad.push(manager.add_task(unstorable, ()).retries(2).await.unwrap());
    }
    let good = manager
        .add_tasks(add, (0..50).map(|n| (n, n)))
        .await
        .unwrap();

    for (n, id) in good.into_iter().enumerate() {
        let sum = tokio::time::timeout(SOON, manager.wait::<usize>(id)).await;
        assert_eq!(sum.unwrap().unwrap(), 2 * n);
    }
    for id in bad {
        support::until(async || {
            let status = backstage.task(id).await.life.status;
            (status == TaskStatus::Running).then_some(())
        })
        .await;
    }
    let late = manager.add_task(add, (1, 1)).await.unwrap();
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(late)).await;
    assert_eq!(sum.unwrap().unwrap(), 2);
    support::until(async || {
        let troubles = manager.health().troubles;
        let dropped = troubles.iter().any(|it| it.duty == Duty::Write);
        dropped.then_some(())
    })
    .await;
    backstage.hold_beats(false);
}

#[tokio::test]
async fn an_end_whose_words_the_store_refuses_for_good_is_stored_without_them() {
    async fn fails() -> Result<(), Failure> {
        Err(Failure::retry("unspeakable"))
    }
    async fn returns() -> String {
        "unspeakable".to_owned()
    }
    let (said, _log) = Said::here();
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    backstage.refuse_words("unspeakable");

    let failed = manager.add_task(fails, ()).retries(1).await.unwrap();
    let returned = manager.add_task(returns, ()).await.unwrap();
    let failure = tokio::time::timeout(SOON, manager.wait::<()>(failed)).await;
    let result = tokio::time::timeout(SOON, manager.wait::<String>(returned)).await;

    let failure = failure.expect("it ends").unwrap_err().to_string();
    assert!(failure.contains("the task store refuses"), "{failure}");
    assert!(matches!(
        result.expect("it ends"),
        Err(WaitError::Result(_))
    ));
    let life = backstage.task(failed).await.life;
    assert_eq!((life.status, life.attempt), (TaskStatus::Failed, 2));
    let life = backstage.task(returned).await.life;
    assert_eq!((life.status, life.result), (TaskStatus::Success, None));
    assert_eq!(said.n("without its words"), 3, "each of the ends");
    support::until(async || manager.health().is_ready().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_the_store_refuses_for_good_keeps_no_other_from_being_taken_over() {
    let (said, _log) = Said::here();
    let (backend, backstage) = Backstage::new();
    let ids = IdSource::default();
    let mut config = config();
    config.backend = backend.clone();
    let now = config.clock.now();
    let dead = Instance::new(ids.instance(now), now);
    backend.join(dead.clone()).await.unwrap();
    let mut good = Vec::new();
    for name in ["add", "unstorable", "add", "unstorable", "add"] {
        let mut task = Task::new(ids.task(now), name, "[1,2]");
        task.life = Change::started(&task, dead.id, now).unwrap().life;
        backstage.store(&task).await;
        good.extend((name == "add").then_some(task.id));
    }
    backend.leave(dead.id).await.unwrap();
    backstage.refuse_ends_of("unstorable");

    let manager = start(config).await;

    for id in good {
        let status = backstage.task(id).await.life.status;
        assert_eq!(status, TaskStatus::Interrupted);
    }
    // It is tried again with growing pauses, and the health says so; there is nothing else that this instance cannot do.
    support::until(async || (backstage.calls(Call::Orphans) > 50).then_some(())).await;
    let n_said = said.n("cannot be taken over");
    assert!((2..=12).contains(&n_said), "{n_said} times in 50 looks");
    let health = manager.health();
    let duties: Vec<Duty> = health.troubles.iter().map(|it| it.duty).collect();
    assert_eq!(
        (&duties[..], health.is_ready()),
        (&[Duty::Orphan][..], true)
    );
    backstage.refuse_ends_of("nothing");
    support::until(async || manager.health().troubles.is_empty().then_some(())).await;
    let orphans = backend.orphans(10).await.unwrap();
    assert_eq!(orphans.len(), 0);
}

#[tokio::test]
async fn orphans_that_the_store_refuses_for_good_leave_room_for_others_however_many_they_are() {
    let (backend, backstage) = Backstage::new();
    let ids = IdSource::default();
    let mut config = config();
    config.backend = backend.clone();
    let now = config.clock.now();
    let dead = Instance::new(ids.instance(now), now);
    backend.join(dead.clone()).await.unwrap();
    let mut last = None;
    for n in 0..=1_000 {
        let name = if n < 1_000 { "unstorable" } else { "add" };
        let mut task = Task::new(ids.task(now), name, "[1,2]");
        task.life = Change::started(&task, dead.id, now).unwrap().life;
        backstage.store(&task).await;
        last = Some(task.id);
    }
    backend.leave(dead.id).await.unwrap();
    backstage.refuse_ends_of("unstorable");

    let _manager = start(config).await;

    support::until(async || {
        let status = backstage.task(last.unwrap()).await.life.status;
        (status == TaskStatus::Interrupted).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_a_large_end_to_be_stored_starts_at_once_if_that_is_refused_for_good() {
    async fn unstorable(Data(gate): Data<Arc<Semaphore>>) -> String {
        gate.acquire().await.unwrap().forget();
        "x".repeat(64 * 1024 * 1024)
    }
    let (backend, backstage) = Backstage::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.backend = backend;
    config.concurrency = 1;
    config.result_max = usize::MAX;
    config.state(gate.clone());
    config.tasks = vec![
        TaskDef::new(add).name("add"),
        TaskDef::new(unstorable).name("unstorable"),
    ];
    let manager = start(config).await;
    settled().await;
    backstage.refuse_ends_of("unstorable");
    manager.add_task(unstorable, ()).await.unwrap();
    let waiting = manager.add_task(add, (1, 1)).await.unwrap();
    let held = backstage.task(waiting).await.life.owner;
    assert_eq!(held, Some(manager.instance().id));

    let begun = tokio::time::Instant::now();
    gate.add_permits(1);

    assert_eq!(manager.wait::<u32>(waiting).await.unwrap(), 2);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

async fn seven(Data(probe): Data<Probe>, Data(gate): Data<Arc<Semaphore>>) -> u32 {
    probe.enter();
    gate.acquire().await.expect("never closed").forget();
    7
}

#[tokio::test]
async fn an_end_is_kept_although_a_new_task_beside_it_is_refused_for_good() {
    async fn unstorable() {}
    async fn unwelcome() {}
    let (backend, backstage) = Backstage::new();
    let (probe, gate) = (Probe::default(), Arc::new(Semaphore::new(0)));
    let mut config = config();
    config.backend = backend;
    config.state(probe.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(seven, ()).await.unwrap();
    support::until(async || (probe.inside() == 1).then_some(())).await;
    // From here on the journal looks for a change that is at fault, and writes one at a time.
    backstage.refuse_ends_of("unstorable");
    manager.add_task(unstorable, ()).await.unwrap();
    support::until(async || (backstage.spoilt().len() == 2).then_some(())).await;

    backstage.refuse_new("unwelcome");
    gate.add_permits(1);
    // Its turn comes after that of the function and before that of the journal.
    let adding = tokio::spawn({
        let manager = manager.clone();
        async move { manager.add_task(unwelcome, ()).await }
    });
    let refused = adding.await.unwrap().unwrap_err();

    assert_eq!(backstage.spoilt()[2..], [Spoilt { new: 1, changes: 1 }]);
    let result = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;
    assert_eq!(result.expect("its end is stored").unwrap(), 7);
    assert_eq!(backstage.task(id).await.life.status, TaskStatus::Success);
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_store_that_panics_is_an_outage_and_loses_nothing() {
    let (backend, backstage) = Backstage::new();
    let (probe, gate) = (Probe::default(), Arc::new(Semaphore::new(0)));
    let mut config = config();
    config.backend = backend;
    config.queue_max = 1;
    config.state(probe.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let first = manager.add_task(seven, ()).await.unwrap();
    support::until(async || (probe.inside() == 1).then_some(())).await;
    let second = manager.add_task(seven, ()).await.unwrap();
    support::until(async || (probe.inside() == 2).then_some(())).await;
    let add = || {
        let manager = manager.clone();
        tokio::spawn(async move { manager.add_task(add, (1, 1)).await })
    };

    // Where a caller writes, together with an end: his turn comes after that of the function and before that of the
    // journal. Then where the journal writes.
    backstage.panic_in_writes(1);
    gate.add_permits(1);
    let told = add().await.unwrap().unwrap_err();
    let first = tokio::time::timeout(SOON, manager.wait::<u32>(first)).await;
    backstage.panic_in_writes(1);
    gate.add_permits(1);
    let second = tokio::time::timeout(SOON, manager.wait::<u32>(second)).await;

    let end = Spoilt { new: 0, changes: 1 };
    assert_eq!(backstage.spoilt(), [Spoilt { new: 1, ..end }, end]);
    assert_eq!(told.kind(), ErrorKind::Unavailable);
    assert!(told.to_string().ends_with("the store panicked: on demand"));
    assert_eq!(first.expect("its end is stored").unwrap(), 7);
    assert_eq!(second.expect("its end is stored").unwrap(), 7);
    // Nor does it take the only place in the queue.
    let id = add().await.unwrap().unwrap();
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;
    assert_eq!(sum.expect("it goes on").unwrap(), 2);
    let stopped = tokio::time::timeout(SOON, manager.shutdown()).await;
    stopped.expect("nothing runs any more").unwrap();
}

#[tokio::test]
async fn a_log_that_panics_keeps_no_task_from_being_stored() {
    async fn fails() -> Result<(), Failure> {
        Err(Failure::retry("no"))
    }
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.concurrency = 1;
    let manager = start(config).await;
    let mut events = manager.events();
    let _guard = support::BrokenPipe::here();

    for _ in 0..2 {
        let id = manager.add_task(fails, ()).retries(1).await.unwrap();
        ended(&mut events, id, TaskStatus::Failed).await;
        assert_eq!(backstage.task(id).await.life.attempt, 2);
    }
    backstage.fail(true);
    let refused = manager.add_task(add, (1, 1)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    backstage.fail(false);
    let added = support::until(async || manager.add_task(add, (1, 1)).await.ok()).await;
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(added)).await;

    assert_eq!(sum.expect("it goes on").unwrap(), 2);
    support::until(async || manager.health().is_ready().then_some(())).await;
}

#[tokio::test]
async fn a_log_that_panics_at_a_span_costs_no_attempt_its_end() {
    for broken in [BrokenSpan::Enter, BrokenSpan::Exit, BrokenSpan::Close] {
        let mut config = config();
        config.concurrency = 1;
        config.blocking_threads = 1;
        let manager = start(config).await;
        let _guard = broken.here();

        for _ in 0..2 {
            for id in [
                manager.add_task(add, (1, 1)).await.unwrap(),
                manager.add_task(add_blocking, (1, 1)).await.unwrap(),
            ] {
                let sum = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;
                assert_eq!(sum.expect("it ends").unwrap(), 2, "{broken:?}");
            }
        }
    }
}

#[derive(Debug)]
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("on demand");
    }
}

impl std::fmt::Display for PanicsWhenDropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for PanicsWhenDropped {}

#[tokio::test]
async fn an_error_that_panics_when_it_is_dropped_costs_no_attempt_its_end() {
    async fn polite(ctx: TaskContext, Data(begun): Data<Arc<Notify>>) -> Result<(), Failure> {
        begun.notify_one();
        ctx.cancellation().cancelled().await;
        Err(PanicsWhenDropped.into())
    }
    fn late(ctx: TaskContext) -> Result<(), Failure> {
        while !ctx.is_cancelled() {
            std::thread::yield_now();
        }
        Err(PanicsWhenDropped.into())
    }
    let begun = Arc::new(Notify::new());
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.concurrency = 1;
    config.blocking_threads = 1;
    config.state(begun.clone());
    let manager = start(config).await;

    for _ in 0..2 {
        let id = manager.add_task(polite, ()).await.unwrap();
        begun.notified().await;
        manager.cancel(id).await.unwrap();
        let ended = tokio::time::timeout(SOON, manager.wait::<()>(id)).await;
        assert!(ended.expect("it ends").is_err());
        assert_eq!(backstage.task(id).await.life.status, TaskStatus::Cancelled);
        let short = Duration::from_millis(1);
        let id = manager.add_task(late, ()).timeout(short).await.unwrap();
        let ended = tokio::time::timeout(SOON, manager.wait::<()>(id)).await;
        assert!(ended.expect("it ends").is_err());
        assert_eq!(backstage.task(id).await.life.status, TaskStatus::Failed);
    }
}

struct PanicsWhenWoken;

impl std::task::Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("on demand");
    }
}

#[tokio::test]
async fn a_caller_whose_waker_panics_costs_no_other_caller_his_answer() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    settled().await;
    backstage.stall();
    // On its way alone; what follows gathers behind it.
    let mut first = manager.add_task(add, (1, 1)).into_future();
    assert!(poll_once(&mut first).await.is_pending());
    let mut bad = manager.add_task(add, (1, 1)).into_future();
    let waker = Arc::new(PanicsWhenWoken).into();
    let polled = bad
        .as_mut()
        .poll(&mut std::task::Context::from_waker(&waker));
    assert!(polled.is_pending());
    let mut good = manager.add_task(add, (1, 1)).into_future();
    assert!(poll_once(&mut good).await.is_pending());

    backstage.go_on();

    first.await.unwrap();
    let id = good.await.expect("it is stored, and he is told so");
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;
    assert_eq!(sum.expect("it runs").unwrap(), 2);
    bad.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_panics_is_one_that_failed_and_loses_no_slot() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend.clone();
    config.concurrency = 1;
    config.tasks = vec![TaskDef::new(add).name("add")];
    let clock = config.clock.clone();
    let manager = start(config).await;
    settled().await;
    backstage.panic_in(Call::Claim);
    let id = support::stored(&backend, &clock, "add", "[1,2]").await;

    let told = support::until(async || manager.health().troubles.pop()).await;
    let sum = tokio::time::timeout(SOON, manager.wait::<u32>(id)).await;

    assert_eq!(sum.expect("its slot is not lost").unwrap(), 3);
    assert_eq!(told.duty, Duty::Claim);
    assert!(
        told.why.ends_with("the store panicked: on demand"),
        "{told:?}"
    );
    support::until(async || manager.health().is_ready().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_panics_is_begun_again() {
    for (call, told) in [
        (Call::Beat, Some((Duty::Beat, "the store panicked"))),
        (Call::Orphans, Some((Duty::Rescue, "panicked"))),
        (Call::Records, Some((Duty::Schedule, "panicked"))),
        (Call::Prune, None),
        (Call::Changed, None),
    ] {
        let (backend, backstage) = Backstage::new();
        let mut config = config();
        config.backend = backend;
        config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
        config.retention = Duration::from_secs(10);
        let manager = start(config).await;
        settled().await;
        let seen = backstage.calls(call);

        backstage.panic_in(call);

        if let Some((duty, why)) = told {
            let told = support::until(async || manager.health().troubles.pop()).await;
            assert_eq!(told.duty, duty);
            assert!(told.why.ends_with(&format!("{why}: on demand")), "{told:?}");
        }
        support::until(async || (backstage.calls(call) > seen + 1).then_some(())).await;
        support::until(async || manager.health().is_ready().then_some(())).await;
        manager.shutdown().await.unwrap();
    }
}

// ---- shutting down -------------------------------------------------------------------------------------------

#[tokio::test]
async fn shutdown_lets_running_tasks_finish_and_starts_no_others() {
    async fn gated(Data(begun): Data<Arc<Notify>>, Data(gate): Data<Arc<Semaphore>>) -> u32 {
        begun.notify_one();
        gate.acquire().await.unwrap().forget();
        7
    }
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.concurrency = 1;
    config.state(begun.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let running = manager.add_task(gated, ()).await.unwrap();
    begun.notified().await;
    let waiting = manager.add_task(gated, ()).await.unwrap();

    let drained = tokio::spawn({
        let manager = manager.clone();
        async move { manager.drain().await }
    });
    manager.stopping().cancelled().await;
    let late = manager.add_task(gated, ()).await.unwrap();
    gate.add_permits(3);
    drained.await.unwrap();

    let status = async |id| backstage.task(id).await.life;
    assert_eq!(status(running).await.status, TaskStatus::Success);
    for id in [waiting, late] {
        let life = status(id).await;
        assert_eq!((life.status, life.owner), (TaskStatus::Pending, None));
    }
    manager.shutdown().await.unwrap();
    let error = manager.add_task(gated, ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShuttingDown);
}

#[test]
fn a_shutdown_goes_on_although_the_runtime_is_gone_on_which_it_was_asked_for() {
    async fn gated(Data(begun): Data<Arc<Notify>>, Data(gate): Data<Arc<Semaphore>>) {
        begun.notify_one();
        gate.acquire().await.unwrap().forget();
    }
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (service, other) = (runtime(), runtime());
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let manager = service.block_on(async {
        let mut config = config();
        config.state(begun.clone());
        config.state(gate.clone());
        let manager = start(config).await;
        manager.add_task(gated, ()).await.unwrap();
        begun.notified().await;
        manager
    });

    // A handler of signals that waits for a moment, on a runtime of its own.
    other.block_on(async {
        assert!(poll_once(&mut pin!(manager.shutdown())).await.is_pending());
        tokio::task::yield_now().await;
    });
    drop(other);

    service.block_on(async {
        gate.add_permits(1);
        let stopped = tokio::time::timeout(SOON, manager.shutdown()).await;
        stopped.expect("nothing runs any more").unwrap();
    });
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_no_instance_behind() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    backstage.link(Link::Hangs);

    tokio::select! {
        _ = TaskManager::start(config) => panic!("the store hangs"),
        () = support::until(async || (backstage.calls(Call::Records) > 0).then_some(())) => {}
    }
    backstage.link(Link::Works);

    support::until(async || backstage.is_closed().then_some(())).await;
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_while_it_takes_over_from_the_dead_leaves_no_instance_behind()
{
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    backstage.hold_orphans(true);

    tokio::select! {
        _ = TaskManager::start(config) => panic!("the answer is held back"),
        () = support::until(async || (backstage.calls(Call::Orphans) > 0).then_some(())) => {}
    }

    support::until(async || backstage.is_closed().then_some(())).await;
}

/// What a plain function says and waits for, without a runtime.
type Talk = Arc<(Mutex<mpsc::Sender<TaskContext>>, Mutex<mpsc::Receiver<()>>)>;

fn talks(ctx: TaskContext, Data(talk): Data<Talk>) {
    let (says, may_go_on) = &*talk;
    let _ = says.lock().expect("nobody panics").send(ctx);
    let _ = may_go_on.lock().expect("as above").recv_timeout(SOON);
}

/// Looks until there is something to see, and panics at the deadline: where no runtime is.
fn seen<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < SOON, "never seen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_instance_whose_runtime_ends_without_a_shutdown_is_dead_once_its_plain_functions_return() {
    let (backend, backstage) = Backstage::new();
    let kept = Arc::downgrade(&backend);
    let (says, said) = mpsc::channel();
    let (goes_on, may_go_on) = mpsc::channel();
    let service = tokio::runtime::Runtime::new().unwrap();
    let manager = service.block_on(async {
        let mut config = config();
        config.backend = backend;
        config.state::<Talk>(Arc::new((Mutex::new(says), Mutex::new(may_go_on))));
        let manager = start(config).await;
        manager.add_task(talks, ()).await.unwrap();
        manager
    });
    let ctx = said.recv_timeout(SOON).unwrap();

    drop(service);

    seen(|| ctx.is_cancelled().then_some(()));
    let n_beats = backstage.beats();
    seen(|| (backstage.beats() > n_beats).then_some(()));
    assert!(!backstage.is_closed(), "the function still runs");
    goes_on.send(()).unwrap();
    seen(|| backstage.is_closed().then_some(()));
    drop((manager, ctx));
    seen(|| (kept.strong_count() == 0).then_some(()));
}

#[test]
fn an_engine_whose_runtime_ends_is_gone_though_its_store_has_not_answered_what_waits() {
    async fn stays(Data(gate): Data<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    let (backend, backstage) = Backstage::new();
    let kept = Arc::downgrade(&backend);
    let [service, other] = [(); 2].map(|()| tokio::runtime::Runtime::new().unwrap());
    let gate = Arc::new(Semaphore::new(0));
    let (manager, later) = service.block_on(async {
        let mut config = config();
        config.backend = backend;
        config.state(gate.clone());
        let manager = start(config).await;
        for _ in 0..3 {
            manager.add_task(stays, ()).await.unwrap();
        }
        let later = manager.add_task(stays, ()).delay_by(SOON).await.unwrap();
        (manager, later)
    });
    backstage.stall();
    let n_writes = backstage.writes();
    gate.add_permits(1); // its end is on its way
    seen(|| (backstage.writes() > n_writes).then_some(()));
    let told = other.block_on(async {
        let mut adding = Box::pin(manager.add_task(stays, ()).into_future());
        waits(&mut adding).await;
        gate.add_permits(1); // this end waits, as the new task does
        tokio::task::spawn_blocking(move || drop(service))
            .await
            .unwrap();
        tokio::time::timeout(SOON, adding).await
    });

    let told = told.expect("nobody writes any more").unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ShuttingDown, "{told}");
    let told = other.block_on(async { manager.cancel(later).await });
    assert_eq!(told.unwrap_err().kind(), ErrorKind::ShuttingDown);
    drop(manager);
    seen(|| (kept.strong_count() == 0).then_some(()));
}

#[test]
fn who_waits_for_a_shutdown_is_told_that_its_runtime_has_ended_in_the_middle() {
    let (backend, backstage) = Backstage::new();
    let [service, other] = [(); 2].map(|()| tokio::runtime::Runtime::new().unwrap());
    let manager = service.block_on(async {
        let mut config = config();
        config.backend = backend;
        start(config).await
    });
    backstage.hold_close(true);
    let shutdown = other.spawn(async move { manager.shutdown().await });
    seen(|| backstage.is_closed().then_some(()));

    drop(service);

    let told = other.block_on(async { tokio::time::timeout(SOON, shutdown).await });
    let told = told.expect("he waits for nobody").unwrap().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable, "{told}");
}

#[test]
fn a_plain_function_keeps_its_engine_until_it_returns_and_no_longer() {
    let (backend, _) = Backstage::new();
    let kept = Arc::downgrade(&backend);
    let (says, said) = mpsc::channel();
    let (goes_on, may_go_on) = mpsc::channel();
    let service = tokio::runtime::Runtime::new().unwrap();
    service.block_on(async {
        let mut config = config();
        config.backend = backend;
        config.clock = Clock::tokio(config.clock.now()); // beats on this runtime
        config.state::<Talk>(Arc::new((Mutex::new(says), Mutex::new(may_go_on))));
        let manager = start(config).await;
        manager.add_task(talks, ()).await.unwrap();
    });
    let ctx = said.recv_timeout(SOON).unwrap();

    drop(service);

    assert_ne!(kept.strong_count(), 0, "what it takes is the engine's");
    goes_on.send(()).unwrap();
    seen(|| (kept.strong_count() == 0).then_some(()));
    ctx.log("to nobody");
}

#[tokio::test]
async fn tasks_run_to_their_end_although_nobody_has_a_manager_any_more() {
    async fn fails(Data(gate): Data<Arc<Semaphore>>) -> Result<(), Failure> {
        gate.acquire().await.unwrap().forget();
        Err(Failure::retry("again"))
    }
    let (backend, backstage) = Backstage::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = config();
    config.backend = backend;
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(fails, ()).retries(1).await.unwrap();

    drop(manager);
    gate.add_permits(2);

    support::until(async || {
        let life = backstage.task(id).await.life;
        (life.status == TaskStatus::Failed).then(|| assert_eq!(life.attempt, 2))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_had_not_begun_when_the_time_to_shut_down_was_over_is_left_to_others() {
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.shutdown_timeout = Duration::from_secs(1);
    config.add_timeout = Duration::from_secs(3_600);
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    let manager = start(config).await;
    settled().await;
    backstage.hold_new(Some("entered"));
    let mut adding = manager.add_task(entered, ()).into_future();
    waits(&mut adding).await;

    manager.drain().await; // the store takes longer than that
    backstage.hold_new(None);
    let id = adding.await.unwrap();
    manager.shutdown().await.unwrap();

    let life = backstage.task(id).await.life;
    assert_eq!((life.status, life.attempt), (TaskStatus::Pending, 0));
    assert_eq!((life.owner, probe.total()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_answered_before_the_end_is_not_told_that_nothing_was_added() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.add_timeout = Duration::from_secs(3_600);
    let manager = start(config).await;
    settled().await;
    backstage.stall();
    let mut adding = manager.add_task(add, (1, 1)).into_future();
    waits(&mut adding).await; // the store was asked

    manager.shutdown().await.unwrap();

    let told = tokio::time::timeout(SOON, adding).await;
    let told = told.expect("he waits for nobody").unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable, "{told}");
}

#[tokio::test]
async fn what_a_claim_brings_during_shutdown_is_left_to_others() {
    let (backend, backstage) = Backstage::new();
    let clock = Clock::system();
    let id = support::stored(&backend, &clock, "add", "[1,2]").await;
    backstage.hold_claims(true);
    let mut config = config();
    config.backend = backend;
    config.tasks = vec![TaskDef::new(add).name("add")];
    let manager = start(config).await;
    backstage.claim_held().await;

    let drained = tokio::spawn({
        let manager = manager.clone();
        async move { manager.drain().await }
    });
    manager.stopping().cancelled().await;
    backstage.hold_claims(false);
    drained.await.unwrap();

    let life = backstage.task(id).await.life;
    assert_eq!((life.status, life.owner), (TaskStatus::Pending, None));
}

#[tokio::test]
async fn after_the_deadline_running_tasks_are_interrupted_or_pending_again() {
    async fn hangs(Data(begun): Data<Arc<AtomicUsize>>) {
        begun.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
    fn blocks(Data(begun): Data<Arc<AtomicUsize>>, Data(gate): Data<Arc<std::sync::Barrier>>) {
        begun.fetch_add(1, Ordering::SeqCst);
        gate.wait();
    }
    let begun = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(std::sync::Barrier::new(2));
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    config.shutdown_timeout = Duration::from_millis(50);
    config.state(begun.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let once = manager.add_task(hangs, ()).await.unwrap();
    let again = manager
        .add_task(hangs, ())
        .requeue_on_interrupt(true)
        .await
        .unwrap();
    let thread = manager.add_task(blocks, ()).await.unwrap();
    support::until(async || (begun.load(Ordering::SeqCst) == 3).then_some(())).await;

    manager.drain().await;

    assert_eq!(
        backstage.task(once).await.life.status,
        TaskStatus::Interrupted
    );
    assert_eq!(
        backstage.task(thread).await.life.status,
        TaskStatus::Interrupted
    );
    let life = backstage.task(again).await.life;
    assert_eq!(
        (life.status, life.owner, life.attempt),
        (TaskStatus::Pending, None, 0)
    );
    assert_eq!(life.error.unwrap().message, "interrupted by shutdown");
    tokio::task::spawn_blocking(move || gate.wait())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_the_store_does_not_answer_is_not_taken_for_something_that_it_did_not_take() {
    let (said, _log) = Said::here();
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend.clone();
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.tasks = vec![TaskDef::new(add).name("add")];
    let id = support::stored(&backend, &config.clock, "add", "[1,2]").await;
    backstage.hold_claims(true);
    let manager = start(config).await;
    backstage.claim_held().await;

    manager.drain().await;

    assert_eq!((said.n(NOT_ANSWERED), said.n(NOT_TAKEN)), (1, 0));
    // What it brings later is for others all the same.
    backstage.hold_claims(false);
    support::until(async || {
        let life = backstage.task(id).await.life;
        ((life.status, life.owner) == (TaskStatus::Pending, None)).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_once_for_a_look_that_the_store_does_not_answer_and_says_what_is_missing() {
    let (said, _log) = Said::here();
    let it = Begun::new().await;
    it.end_is_stale(before_its_start(&it.task)).await;

    let begun_at = tokio::time::Instant::now();
    it.manager.drain().await;

    let waited = begun_at.elapsed();
    assert!(
        waited < Duration::from_secs(8), // on paused time: 5 s for all that is to be stored
        "not once more as if it were a claim: {waited:?}"
    );
    assert_eq!((said.n(NOT_ANSWERED), said.n(NOT_TAKEN)), (0, 1));
}

const NOT_ANSWERED: &str = "the task store did not answer";
const NOT_TAKEN: &str = "the task store did not take everything";

/// A task whose plain function returns when the test lets it, which a shutdown does not wait for.
struct Blocking {
    manager: TaskManager,
    backstage: Backstage,
    task: Task,
    gate: Arc<std::sync::Barrier>,
}

impl Blocking {
    async fn new(may_be_repeated: bool) -> Self {
        fn blocks(Data(begun): Data<Arc<Notify>>, Data(gate): Data<Arc<std::sync::Barrier>>) {
            begun.notify_one();
            gate.wait();
        }
        let (begun, gate) = (
            Arc::new(Notify::new()),
            Arc::new(std::sync::Barrier::new(2)),
        );
        let (backend, backstage) = Backstage::new();
        let mut config = config();
        config.backend = backend;
        config.shutdown_timeout = Duration::from_millis(50);
        config.state(begun.clone());
        config.state(gate.clone());
        let manager = start(config).await;
        let id = manager.add_task(blocks, ());
        let id = id.requeue_on_interrupt(may_be_repeated).await;
        begun.notified().await;
        Self {
            task: backstage.task(id.expect("it is added")).await,
            manager,
            backstage,
            gate,
        }
    }

    async fn returns(&self) {
        let gate = self.gate.clone();
        let gone_on = tokio::task::spawn_blocking(move || gate.wait());
        gone_on.await.expect("both were there");
    }

    /// The store loses that it has begun, and the function returns; then it is looked why its end is stale.
    async fn end_is_stale(&self) {
        let before = before_its_start(&self.task);
        self.backstage.set_back(&self.task, before).await;
        self.backstage.hold_reads(true);
        self.returns().await;
        self.backstage.read_held().await;
    }

    async fn closed(&self) {
        support::until(async || self.backstage.is_closed().then_some(())).await;
    }
}

#[tokio::test]
async fn a_plain_function_that_does_not_return_is_for_no_other_process_until_it_does() {
    let it = Blocking::new(true).await;

    it.manager.shutdown().await.unwrap();

    let life = it.backstage.task(it.task.id).await.life;
    let me = it.manager.instance().id;
    assert_eq!(
        (life.status, life.owner, life.attempt),
        (TaskStatus::Pending, Some(me), 0),
        "who takes it over from the dead counts no crash"
    );
    assert!(
        !it.backstage.is_closed(),
        "the others must take it for alive"
    );
    it.returns().await;
    it.closed().await;
    let stored = it.backstage.task(it.task.id).await;
    assert_eq!(stored.life, life, "what it did is stale");
}

#[tokio::test]
async fn what_came_of_a_function_that_returns_after_the_shutdown_is_stored_although_its_start_is_lost()
 {
    let it = Blocking::new(true).await;
    it.manager.shutdown().await.unwrap();

    it.end_is_stale().await;
    settled().await;
    assert!(!it.backstage.is_closed(), "it is to be written once more");
    it.backstage.hold_reads(false);
    it.closed().await;

    let life = it.backstage.task(it.task.id).await.life;
    assert_eq!(life.status, TaskStatus::Success);
}

#[tokio::test]
async fn what_came_of_a_function_that_returns_after_the_drain_is_stored_before_locks_are_let_go_of()
{
    let it = Blocking::new(false).await;
    let guard = it.manager.lock("door").acquire().await.unwrap();
    it.manager.drain().await;

    it.end_is_stale().await;
    let mut shutdown = pin!(it.manager.shutdown());
    waits(&mut shutdown).await;
    assert!(poll_once(&mut pin!(guard.lost())).await.is_pending());
    it.backstage.hold_reads(false);
    let comes_out = async {
        guard.lost().await;
        drop(guard);
        it.backstage.task(it.task.id).await.life.status
    };
    let (stopped, status) = tokio::join!(shutdown, comes_out);

    stopped.unwrap();
    assert_eq!(status, TaskStatus::Success);
}

#[tokio::test]
async fn a_task_that_was_cancelled_while_it_ran_is_not_repeated_whatever_else_cuts_it_off() {
    let it = Blocking::new(true).await;

    let cancelled = it.manager.cancel(it.task.id).await.unwrap();
    assert_eq!(cancelled, Cancelled::Asked);
    it.manager.shutdown().await.unwrap();

    let life = it.backstage.task(it.task.id).await.life;
    assert_eq!((life.status, life.owner), (TaskStatus::Cancelled, None));
    assert!(it.backstage.is_closed(), "there is nothing to wait for");
    it.returns().await;
}

#[tokio::test]
async fn a_function_that_was_cancelled_and_ends_after_the_time_to_shut_down_is_not_repeated() {
    fn ends_if_asked(
        Data(begun): Data<Arc<Notify>>,
        Data(gate): Data<Arc<std::sync::Barrier>>,
        ctx: TaskContext,
    ) -> Result<(), Failure> {
        begun.notify_one();
        gate.wait();
        match ctx.is_cancelled() {
            true => Err(Failure::retry("asked to end")),
            false => Ok(()),
        }
    }
    let (said, _log) = Said::here();
    let begun = Arc::new(Notify::new());
    let gate = Arc::new(std::sync::Barrier::new(2));
    let mut config = config();
    config.shutdown_timeout = Duration::from_millis(50);
    config.state(begun.clone());
    config.state(gate.clone());
    let manager = start(config).await;
    let id = manager.add_task(ends_if_asked, ());
    let id = id.requeue_on_interrupt(true).await.unwrap();
    begun.notified().await;

    assert_eq!(manager.cancel(id).await.unwrap(), Cancelled::Asked);
    let returns = async {
        let is_over = async || (said.n("the time to shut down is over") > 0).then_some(());
        support::until(is_over).await;
        tokio::task::spawn_blocking(move || gate.wait());
    };
    tokio::join!(manager.drain(), returns);

    let life = manager.get(id).await.unwrap().unwrap().life;
    assert_eq!(life.status, TaskStatus::Cancelled);
}

#[tokio::test]
async fn a_task_that_was_cancelled_while_its_start_was_on_its_way_is_not_for_others_after_a_shutdown()
 {
    let (said, _log) = Said::here();
    let (backend, backstage) = Backstage::new();
    let probe = Probe::default();
    let mut config = config();
    config.backend = backend;
    config.shutdown_timeout = Duration::ZERO;
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    // One that a process died of: a claim does not begin it, its start is a write of its own.
    let mut task = Task::new(TaskId::floor(config.clock.now()), "entered", "[]");
    task.life.crashes = 1;
    task.requeue_on_interrupt = true;
    backstage.hold_starts(true);
    backstage.store(&task).await;
    let manager = start(config).await;
    backstage.start_held().await;

    let is_stored = async {
        let is_over = async || (said.n("the time to shut down is over") > 0).then_some(());
        support::until(is_over).await;
        backstage.hold_starts(false);
    };
    let (cancelled, (), ()) = tokio::join!(manager.cancel(task.id), manager.drain(), is_stored);
    assert_eq!(cancelled.unwrap(), Cancelled::Asked);

    let life = backstage.task(task.id).await.life;
    assert_eq!((life.status, probe.total()), (TaskStatus::Cancelled, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_shuts_down_meanwhile_waits_until_the_store_is_closed() {
    let (backend, backstage) = Backstage::new();
    let mut config = config();
    config.backend = backend;
    let manager = start(config).await;
    backstage.hold_close(true);
    let first = tokio::spawn({
        let manager = manager.clone();
        async move { manager.shutdown().await }
    });
    support::until(async || backstage.is_closed().then_some(())).await;

    let mut second = pin!(manager.shutdown());
    let early = tokio::time::timeout(SOON, second.as_mut()).await;
    first.abort(); // who began it may leave
    backstage.hold_close(false);

    assert!(early.is_err(), "the store is not closed yet");
    second.await.unwrap();
}

#[tokio::test]
async fn a_log_that_panics_keeps_no_shutdown_waiting() {
    async fn hangs(Data(begun): Data<Arc<Notify>>) {
        begun.notify_one();
        std::future::pending::<()>().await;
    }
    let ((backend, backstage), begun) = (Backstage::new(), Arc::new(Notify::new()));
    let mut config = config();
    config.backend = backend;
    config.shutdown_timeout = Duration::ZERO;
    config.state(begun.clone());
    let manager = start(config).await;
    let id = manager.add_task(hangs, ()).await.unwrap();
    begun.notified().await;
    let _guard = support::BrokenPipe::here();

    let stopped = tokio::time::timeout(SOON, manager.shutdown()).await;

    stopped.expect("it ends").unwrap();
    assert_eq!(
        backstage.task(id).await.life.status,
        TaskStatus::Interrupted
    );
}

#[tokio::test]
async fn a_manager_can_be_shut_down_twice() {
    let manager = start(Config::default()).await;

    manager.shutdown().await.unwrap();
    manager.shutdown().await.unwrap();
}

// ---- when the store is what is slow --------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn who_adds_more_than_the_store_can_bring_over_waits_until_what_lies_there_has_run() {
    const CALLERS: usize = 64;
    const BEHIND: usize = 2_000;
    let (backend, backstage) = Backstage::new();
    backstage.take_writes_at_once(2);
    let mut config = config();
    config.backend = backend;
    config.clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
    config.concurrency = 64;
    config.add_timeout = Duration::from_secs(1_000);
    let probe = Probe::default();
    config.state(probe.clone());
    config.tasks = vec![TaskDef::new(entered).name("entered")];
    for _ in 0..BEHIND {
        let id = IdSource::default().task(config.clock.now());
        backstage.store(&Task::new(id, "entered", "[]")).await;
    }
    // A task that starts at once needs two writes, 20 ms. One that waits is claimed, too: 45 ms, without the calls.
    backstage.need(Needs {
        call: Duration::from_millis(50),
        written: Duration::from_millis(10),
        claimed: Duration::from_millis(25),
    });
    let clock = config.clock.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            clock.advance(Duration::from_millis(1));
        }
    });
    let manager = start(config).await;
    // 30 a second: more than can be claimed, and less than can start at once.
    let every = Duration::from_secs(1) * u32::try_from(CALLERS).unwrap() / 30;
    let first = tokio::time::Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..u32::try_from(CALLERS).unwrap() {
        let manager = manager.clone();
        callers.spawn(async move {
            for time in 0.. {
                let at = first + every * time + every * n / u32::try_from(CALLERS).unwrap();
                tokio::time::sleep_until(at).await; // who is late makes up for it
                manager.add_task(entered, ()).await.unwrap();
            }
        });
    }
    let waits = async || {
        let counts = manager.counts().await.unwrap();
        let pending = counts.iter().filter(|it| it.status == TaskStatus::Pending);
        pending.map(|it| it.n).sum::<u64>()
    };

    tokio::time::sleep(Duration::from_secs(400)).await;
    let (n_wait, n_ran) = (waits().await, probe.total());
    tokio::time::sleep(Duration::from_secs(100)).await;
    let (still_wait, more_ran) = (waits().await, probe.total() - n_ran);

    // Those who were late make up for it, at the rate of tasks that start at once.
    assert!(n_wait <= 64, "{n_wait} wait");
    assert!(still_wait <= 64, "{still_wait} wait");
    assert!(more_ran >= 3_000, "{more_ran} ran");
    callers.shutdown().await;
    manager.shutdown().await.unwrap();
}
