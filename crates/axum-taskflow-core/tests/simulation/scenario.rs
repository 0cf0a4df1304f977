//! What happens in one seed: processes start, callers add and cancel, everything goes wrong, and then nothing does.

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{AddTask, Cancelled, Error, ErrorKind, Role, TaskId, TaskManager};
use fastrand::Rng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::world::{
    Deed, Function, Liveness, Process, Pulse, Settings, Shape, Weather, World, rare, shape, work,
};

/// What can go wrong by itself, besides calls that kill and functions that kill.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill,
    Stop,
    ShutDown,
    Weather(Weather),
    /// The store itself is gone.
    OutageOfAll,
}

const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Stop,
    Fault::ShutDown,
    Fault::Weather(Weather::Slow),
    Fault::Weather(Weather::Flaky),
    Fault::Weather(Weather::Outage),
    Fault::Weather(Weather::Stall),
    Fault::OutageOfAll,
];

/// By then everything has ended once all faults are healed, but for what some processes cannot run.
const SETTLED_MS: u64 = 60_000;
/// As above, when only those are left that can run everything: a held task waits for a while.
const ENDED_MS: u64 = 600_000;
/// By then nothing is left of what was asked of attempts that are over.
const CLEARED_MS: u64 = 800_000;

/// Plays the whole of a seed.
pub(crate) async fn play(seed: u64) -> Arc<World> {
    let mut rng = Rng::with_seed(seed);
    let liveness = match rng.u32(0..3) {
        0 => Liveness::Lock,
        1 => Liveness::Takeover(Duration::from_millis(rng.u64(3_000..6_000))),
        _ => Liveness::Lease,
    };
    // Some faults at a time: with all of them, each hides what the others do.
    let faults: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.u32(0..3) == 0).collect();
    let n_places = rng.usize(2..5);
    let settings: Vec<Settings> = (0..n_places).map(|place| drawn(&mut rng, place)).collect();
    let active = Duration::from_millis(rng.u64(8_000..25_000));
    let world = World::new(seed, rng, liveness);
    world.check(|checker| {
        checker.step(&format!("{liveness:?}, {faults:?}, {settings:?}"));
    });
    let story = async {
        let mut wanted = Vec::new();
        for (place, settings) in settings.into_iter().enumerate() {
            let token = CancellationToken::new();
            tokio::spawn(world.clone().supervise(place, settings, token.clone()));
            wanted.push(token);
        }
        tokio::spawn(world.clone().watch());
        let chaos = tokio::time::timeout(active, go_wrong(&world, &faults));
        let (_over, (), _over_too) = tokio::join!(
            chaos,
            add_all(&world),
            tokio::time::timeout(active, cancel_some(&world)),
        );
        world.check(|checker| checker.step("all faults are healed"));
        world.be_calm();
        heal(&world).await;
        pause_schedules(&world).await;
        settled(&world, SETTLED_MS).await;
        leave_those_that_run_everything(&world, &wanted).await;
        settled(&world, ENDED_MS).await;
        nothing_asked(&world).await;
        world.compare();
        world.check(crate::checker::Checker::finish);
    };
    tokio::select! {
        biased;
        () = world.failed.cancelled() => {}
        () = story => {}
        () = sleep(Duration::from_secs(3_600)) => {
            world.check(|checker| checker.broken("P1", "the story has no end"));
        }
    }
    world.end();
    world
}

fn drawn(rng: &mut Rng, place: usize) -> Settings {
    let is_anchor = place == 0;
    Settings {
        role: match rng.u32(0..6) {
            0 if !is_anchor => Role::Web,
            1 => Role::Worker,
            _ => Role::Both,
        },
        concurrency: rng.usize(1..5),
        knows_rare: is_anchor || rng.bool(),
        reads_shapes: is_anchor || rng.bool(),
    }
}

// ---- faults ---------------------------------------------------------------------------------------------------

async fn go_wrong(world: &Arc<World>, faults: &[Fault]) {
    if faults.is_empty() {
        return;
    }
    loop {
        world.wait(100..2_500).await;
        let fault = world.draw(|rng| faults[rng.usize(0..faults.len())]);
        let processes = world.processes();
        let process = world.draw(|rng| processes[rng.usize(0..processes.len())].clone());
        match fault {
            Fault::Kill => process.die("it is killed"),
            Fault::Stop => {
                let world = world.clone();
                process.stop();
                tokio::spawn(async move {
                    world.wait(100..15_000).await;
                    process.go_on();
                });
            }
            Fault::ShutDown => drop(tokio::spawn(process.shut_down())),
            Fault::Weather(weather) => drop(tokio::spawn(bad_weather(process, weather))),
            Fault::OutageOfAll => {
                for process in processes {
                    tokio::spawn(bad_weather(process, Weather::Outage));
                }
            }
        }
    }
}

async fn bad_weather(process: Arc<Process>, weather: Weather) {
    if process.weather() != Weather::Fair {
        return;
    }
    let began = process.manager().is_some() && process.pulse() == Pulse::Runs;
    let stops = process.stops();
    process.set_weather(weather);
    process.world.wait(200..9_000).await;
    if process.weather() != weather {
        return; // all was healed meanwhile
    }
    let lasted = process.weather_for();
    let ran = began && process.stops() == stops;
    if weather == Weather::Outage && ran && lasted > 4_500 {
        process.should_say_outage();
    }
    process.set_weather(Weather::Fair);
}

async fn heal(world: &Arc<World>) {
    for process in world.processes() {
        process.go_on();
        process.set_weather(Weather::Fair);
    }
    // What still travels arrives meanwhile.
    sleep(Duration::from_secs(5)).await;
    for process in world.processes() {
        process.go_on();
        process.set_weather(Weather::Fair);
    }
}

/// Without that the tasks would have no end.
async fn pause_schedules(world: &Arc<World>) {
    let pause = async |name| {
        for process in world.processes() {
            if let (Some(manager), Pulse::Runs) = (process.manager(), process.pulse()) {
                let paused = manager.pause_schedule(name, "somebody");
                if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(3), paused).await {
                    return true;
                }
            }
        }
        false
    };
    for timetable in &world.timetables {
        while !pause(timetable.name).await {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn settled(world: &Arc<World>, limit_ms: u64) {
    for _ in 0..limit_ms / 500 {
        if world.check(|checker| checker.all_ended()) {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Who was asked to cancel something, and those who asked, have died: what they leave is cleared away all the same.
async fn nothing_asked(world: &Arc<World>) {
    for second in 0..CLEARED_MS / 1_000 {
        if !world.is_anything_asked() {
            return;
        }
        if second == 0 {
            world.check(|checker| checker.count("asked in vain"));
        }
        sleep(Duration::from_secs(1)).await;
    }
    world.check(|checker| checker.broken("P9", "what was asked of an attempt outlives it"));
}

/// The others shut down, and do not come back.
async fn leave_those_that_run_everything(world: &Arc<World>, wanted: &[CancellationToken]) {
    for (process, wanted) in world.processes().into_iter().zip(wanted) {
        let Settings {
            role,
            knows_rare,
            reads_shapes,
            ..
        } = process.settings;
        if !(role.runs_tasks() && knows_rare && reads_shapes) {
            wanted.cancel();
            process.shut_down().await;
        }
    }
}

// ---- callers --------------------------------------------------------------------------------------------------

async fn add_all(world: &Arc<World>) {
    let mut calls = Vec::new();
    for deed in world.timetables.len()..world.deeds.len() {
        // At least a millisecond apart: ids of one millisecond, made by two processes, sort by chance.
        world.wait(1..800).await;
        let n_callers = match &world.deeds[deed].key {
            // Sometimes more than go into one batch.
            Some(_) => world.draw(|rng| match rng.usize(0..8) {
                0 => rng.usize(20..60),
                _ => rng.usize(1..4),
            }),
            None => 1,
        };
        for _ in 0..n_callers {
            calls.push(tokio::spawn(add_until_accepted(world.clone(), deed)));
        }
    }
    for call in calls {
        // Of callers whose process died, and who never hear of it.
        let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
    }
}

/// Adds one deed; tries again if that fails, as callers do.
async fn add_until_accepted(world: Arc<World>, deed: usize) {
    for _ in 0..4 {
        let processes = world.processes();
        let fits = |process: &Arc<Process>| {
            process.pulse() == Pulse::Runs
                && process.manager().is_some()
                && match world.deeds[deed].function {
                    Function::Work => true,
                    Function::Rare => process.settings.knows_rare,
                    Function::Shape => process.settings.reads_shapes,
                }
        };
        let processes: Vec<_> = processes.into_iter().filter(fits).collect();
        if !processes.is_empty() {
            let process = world.draw(|rng| processes[rng.usize(0..processes.len())].clone());
            if let Some(manager) = process.manager()
                && add(&process, &manager, deed).await
            {
                return;
            }
        }
        world.wait(100..2_000).await;
    }
}

/// True if the caller was told that the task is safe.
async fn add(process: &Arc<Process>, manager: &TaskManager, n: usize) -> bool {
    let world = &process.world;
    let (begun, stops, before) = (world.now(), process.stops(), process.who());
    let added = match world.deeds[n].function {
        Function::Work => with_options(manager.add_task(work, n), n, &world.deeds[n]).await,
        Function::Rare => with_options(manager.add_task(rare, n), n, &world.deeds[n]).await,
        Function::Shape => {
            let call = manager.add_task(shape, Shape { deed: n });
            with_options(call, n, &world.deeds[n]).await
        }
    };
    process.runs().await; // a caller dies with its process
    let (took_ms, after) = (world.now() - begun, process.who());
    match &added {
        Ok(id) => world.check(|checker| checker.accepted(after, *id)),
        Err(error) => {
            let all_was_well = before.well_since == after.well_since
                && after.well_since.is_some_and(|since| since + 1_000 <= begun);
            let wrong = match error.kind() {
                ErrorKind::ShuttingDown => !after.leaving,
                ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::TimedOut => {
                    all_was_well
                }
                _ => true,
            };
            world.check(|checker| {
                checker.step(&format!("p{} deed {n} is refused: {error}", process.n));
                checker.count("add refused");
                if wrong {
                    checker.broken("P8", &format!("p{} refused deed {n}: {error}", process.n));
                }
            });
        }
    }
    if took_ms > 3_100 && stops == process.stops() {
        let what = format!("p{} answered an add after {took_ms} ms", process.n);
        world.check(|checker| checker.broken("P8", &what));
    }
    added.is_ok()
}

async fn with_options(add: AddTask<'_>, n: usize, deed: &Deed) -> Result<TaskId, Error> {
    let mut add = add
        .tag("deed", n.to_string())
        .requeue_on_interrupt(deed.requeue)
        .retries(deed.retries)
        .delay(Duration::from_millis(deed.retry_delay_ms))
        .priority(deed.priority);
    if deed.delay_ms > 0 {
        add = add.delay_by(Duration::from_millis(deed.delay_ms));
    }
    if let Some(key) = &deed.key {
        let ttl = Duration::from_millis(deed.key_ttl_ms);
        add = add.idempotency_key(key).idempotency_ttl(ttl);
    }
    add.await
}

async fn cancel_some(world: &Arc<World>) {
    loop {
        world.wait(500..6_000).await;
        let live = world.check(|checker| checker.live());
        let processes = world.processes();
        let runs = |process: &Arc<Process>| process.pulse() == Pulse::Runs;
        let processes: Vec<_> = processes.into_iter().filter(runs).collect();
        if live.is_empty() || processes.is_empty() {
            continue;
        }
        let id = world.draw(|rng| live[rng.usize(0..live.len())]);
        let process = world.draw(|rng| processes[rng.usize(0..processes.len())].clone());
        tokio::spawn(cancel(process, id));
    }
}

async fn cancel(process: Arc<Process>, id: TaskId) {
    let Some(manager) = process.manager() else {
        return;
    };
    process.world.check(|checker| checker.cancel_asked(id));
    let cancelled = manager.cancel(id).await;
    process.runs().await;
    process.world.check(|checker| match cancelled {
        Ok(Cancelled::Now) => checker.cancelled(id),
        Ok(Cancelled::Asked) => checker.told_to_stop(id, process.n),
        Ok(Cancelled::Sent) => checker.count("asked without an answer"),
        Ok(other) => panic!("the model knows no {other:?}"),
        Err(_) => {}
    });
}
