//! One store, the processes that use it, the weather between them, and the functions that run.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    Backend, Clock, Config, Data, Failure, InstanceId, Memory, RecordQuery, Role, Task,
    TaskContext, TaskDef, TaskId, TaskManager, Timestamp,
};
use fastrand::Rng;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checker::{Checker, Moment, Who},
    faulty::Faulty,
    schedules::Timetable,
};

/// When the world begins.
pub(crate) const START_MS: i64 = 1_795_300_000_000;
pub(crate) const CRASHES_MAX: u32 = 3;
/// An instance that has not beaten for so long is dead, where the store tells it by a lease.
pub(crate) const LEASE_MS: Moment = 10_000;
/// More would be a loop that spins.
const CALLS_IN_A_ROW_MAX: usize = 500;

pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) liveness: Liveness,
    /// Batches of one process that may be on their way.
    pub(crate) writes_at_once: usize,
    /// Batches are taken when the one before is answered.
    pub(crate) pulls: bool,
    pub(crate) deeds: Arc<[Deed]>,
    /// Schedules of all programs; the first deeds are those of their tasks.
    pub(crate) timetables: Vec<Timetable>,
    /// All chance that is not the engine's. A std mutex: held for one draw.
    rng: Mutex<Rng>,
    /// A std mutex: held for one look or one note.
    checker: Mutex<Checker>,
    /// The process that stands at each place now.
    places: Mutex<Vec<Arc<Process>>>,
    /// All processes that there ever were.
    all: Mutex<Vec<Arc<Process>>>,
    clock: Clock,
    begun: Instant,
    /// Something was written.
    pub(crate) written: Notify,
    /// A promise is broken.
    pub(crate) failed: CancellationToken,
    /// No more faults from now on.
    calm: AtomicBool,
}

/// How the store learns that an instance is dead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Liveness {
    /// By a lock that the kernel drops: a stopped process is alive.
    Lock,
    /// As above, but instances that do not respond are taken over by the others.
    Takeover(Duration),
    /// By a lease that runs out.
    Lease,
}

/// What one call of a function is to do: planned before, so that the outcome can be judged.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub(crate) function: Function,
    pub(crate) requeue: bool,
    /// So many attempts fail.
    pub(crate) fails: u32,
    pub(crate) retries: u32,
    pub(crate) retry_delay_ms: u64,
    pub(crate) key: Option<String>,
    pub(crate) key_ttl_ms: u64,
    pub(crate) delay_ms: u64,
    pub(crate) priority: i32,
    /// Between these waits the function does something that others see.
    pub(crate) waits_ms: Vec<u64>,
    /// It kills its process.
    pub(crate) kills: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    /// Known by all.
    Work,
    /// Not known by all.
    Rare,
    /// Known by all, but not all can read its arguments.
    Shape,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pulse {
    Runs,
    Stopped,
    Dead,
}

/// What the calls of a process meet on their way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weather {
    Fair,
    /// Calls take long.
    Slow,
    /// Some calls fail, and some answers get lost.
    Flaky,
    /// All calls fail.
    Outage,
    /// Nothing answers until a driver's deadline; what was sent may arrive later.
    Stall,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) role: Role,
    pub(crate) concurrency: usize,
    pub(crate) knows_rare: bool,
    pub(crate) reads_shapes: bool,
}

/// One boot of one program.
pub(crate) struct Process {
    pub(crate) n: usize,
    pub(crate) world: Arc<World>,
    pub(crate) settings: Settings,
    pulse: State<Pulse>,
    weather: State<Weather>,
    weather_since: AtomicU64,
    /// Since when nothing is wrong with it; nothing if something is.
    well_since: Mutex<Option<Moment>>,
    /// The name that it goes by, and since when.
    identity: Mutex<Option<(InstanceId, Moment)>>,
    manager: Mutex<Option<TaskManager>>,
    leaving: AtomicBool,
    calls: AtomicUsize,
    /// Calls in the last millisecond that had some.
    lately: Mutex<(Moment, usize)>,
    /// What its claims took since the last one that was answered.
    unheard: Mutex<Vec<Task>>,
    /// When it began, or went on after it had been stopped.
    moves_since: Mutex<Moment>,
    /// How often it was stopped or went on.
    stops: AtomicUsize,
}

impl World {
    pub(crate) fn new(seed: u64, mut rng: Rng, liveness: Liveness) -> Arc<Self> {
        let n_deeds = rng.usize(15..45);
        let names = ["one", "two"];
        let n_timetables = rng.usize(0..=names.len());
        let of_timetables = (0..n_timetables).map(|_| Deed::drawn(&mut rng).scheduled());
        let mut deeds: Vec<Deed> = of_timetables.collect();
        deeds.extend((0..n_deeds).map(|_| Deed::drawn(&mut rng)));
        let deeds: Arc<[Deed]> = deeds.into();
        let timetables: Vec<Timetable> = (0..n_timetables)
            .map(|n| Timetable::drawn(&mut rng, names[n], n))
            .collect();
        Arc::new(Self {
            memory: Memory::default(),
            liveness,
            writes_at_once: if seed % 3 == 1 {
                2 + seed as usize % 4
            } else {
                1
            },
            pulls: seed % 3 == 2,
            checker: Mutex::new(Checker::new(seed, deeds.clone(), &timetables)),
            deeds,
            timetables,
            rng: Mutex::new(rng),
            places: Mutex::default(),
            all: Mutex::default(),
            clock: Clock::tokio(Timestamp::from_unix_ms(START_MS)),
            begun: Instant::now(),
            written: Notify::new(),
            failed: CancellationToken::new(),
            calm: AtomicBool::new(false),
        })
    }

    pub(crate) fn now(&self) -> Moment {
        self.begun.elapsed().as_millis() as Moment
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap())
    }

    /// True once in so many times.
    pub(crate) fn once_in(&self, n: u32) -> bool {
        self.draw(|rng| rng.u32(0..n) == 0)
    }

    pub(crate) async fn wait(&self, range_ms: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.draw(|rng| rng.u64(range_ms)))).await;
    }

    /// Looks or notes.
    pub(crate) fn check<T>(&self, look: impl FnOnce(&mut Checker) -> T) -> T {
        let now = self.now();
        let mut checker: MutexGuard<'_, Checker> = self.checker.lock().unwrap();
        let seen = look(checker.at(now));
        if checker.violation.is_some() {
            self.failed.cancel();
        }
        seen
    }

    pub(crate) fn be_calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        self.places.lock().unwrap().clone()
    }

    /// Keeps a process at a place until `wanted` says no: starts it, and another one when it is dead.
    pub(crate) async fn supervise(
        self: Arc<Self>,
        place: usize,
        mut settings: Settings,
        wanted: CancellationToken,
    ) {
        // Apart from each other: ids of one millisecond sort by chance.
        sleep(Duration::from_millis(place as u64)).await;
        loop {
            let process = Process::new(&self, settings);
            {
                let mut places = self.places.lock().unwrap();
                match places.get_mut(place) {
                    Some(at) => *at = process.clone(),
                    None => places.push(process.clone()),
                }
            }
            tokio::select! {
                biased;
                () = process.dead() => {}
                started = TaskManager::start(process.config()) => match started {
                    Ok(manager) => {
                        *process.manager.lock().unwrap() = Some(manager);
                        process.look_well();
                        process.dead().await;
                    }
                    Err(_) => process.die("it could not start"),
                }
            }
            if wanted.is_cancelled() {
                return;
            }
            let calm = self.is_calm();
            self.wait(if calm { 50..300 } else { 50..3_000 }).await;
            if !calm && place > 0 {
                // A deploy may bring another program.
                settings.knows_rare = self.draw(Rng::bool);
                settings.reads_shapes = self.draw(Rng::bool);
            }
        }
    }

    /// Looks from outside, twice a second.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut n = 0;
        loop {
            sleep(Duration::from_millis(500)).await;
            n += 1;
            if self.liveness == Liveness::Lease {
                for id in self.check(|checker| checker.silent_for(LEASE_MS)) {
                    for process in self.processes() {
                        if process.moves_for() >= LEASE_MS / 4 {
                            self.check(|checker| checker.must_have_stopped(process.n, id));
                        }
                    }
                    self.take_for_dead(id);
                }
            }
            let processes = self.processes();
            let whos: Vec<Who> = processes.iter().map(|process| process.who()).collect();
            self.check(|checker| checker.look(&whos));
            for process in processes {
                process.check_health();
            }
            if n % 20 == 0 {
                self.compare();
            }
        }
    }

    /// Compares the store with what should be in it.
    pub(crate) fn compare(&self) {
        self.check(|checker| {
            checker.compare(|id| now(self.memory.get(id)).expect("memory does not fail"));
        });
    }

    /// True if somebody has asked for an attempt to be cancelled, and nobody has taken that away.
    pub(crate) fn is_anything_asked(&self) -> bool {
        let query = RecordQuery {
            prefix: "cancel:".to_owned(),
            after: None,
            limit: 1,
        };
        let asked = now(self.memory.records(query)).expect("memory does not fail");
        !asked.is_empty()
    }

    /// When an instance has beaten last, if it is known.
    pub(crate) fn beat_of(&self, id: InstanceId) -> Option<Timestamp> {
        let peers = now(self.memory.instances()).expect("memory does not fail");
        let peer = peers.into_iter().find(|peer| peer.instance.id == id);
        peer.map(|peer| peer.beat_at)
    }

    fn take_for_dead(&self, id: InstanceId) {
        if let Some(beat_at) = self.beat_of(id) {
            now(self.memory.supersede(id, beat_at)).expect("memory does not fail");
        }
        self.check(|checker| checker.superseded(None, id));
    }

    /// Breaks the circle of a process, its manager and the functions' states.
    pub(crate) fn end(&self) {
        self.places.lock().unwrap().clear();
        for process in std::mem::take(&mut *self.all.lock().unwrap()) {
            *process.manager.lock().unwrap() = None;
        }
    }
}

/// The answer of the memory, which waits for nothing.
pub(crate) fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("memory answers at once")
}

impl Deed {
    fn drawn(rng: &mut Rng) -> Self {
        let once_in = |rng: &mut Rng, n| rng.u32(0..n) == 0;
        let kills = once_in(rng, 25);
        let key = once_in(rng, 4).then(|| format!("k{}", rng.u32(0..5)));
        Self {
            function: match rng.u32(0..8) {
                0 if key.is_none() => Function::Rare,
                1 if key.is_none() => Function::Shape,
                _ => Function::Work,
            },
            requeue: rng.bool(),
            fails: if once_in(rng, 3) { rng.u32(1..4) } else { 0 },
            retries: rng.u32(0..4),
            retry_delay_ms: rng.u64(0..2_000),
            key,
            key_ttl_ms: rng.u64(0..5_000),
            delay_ms: if once_in(rng, 5) {
                rng.u64(1..5_000)
            } else {
                0
            },
            priority: if once_in(rng, 4) { rng.i32(-3..4) } else { 0 },
            waits_ms: match once_in(rng, 10) {
                true => vec![rng.u64(2_000..14_000)],
                false => (0..rng.usize(0..4)).map(|_| rng.u64(0..900)).collect(),
            },
            kills,
        }
    }
}

impl Deed {
    /// As one of a schedule, which makes many tasks of it: it has no key and kills nobody.
    fn scheduled(self) -> Self {
        Self {
            function: Function::Work,
            key: None,
            delay_ms: 0,
            kills: false,
            ..self
        }
    }
}

impl Process {
    fn new(world: &Arc<World>, settings: Settings) -> Arc<Self> {
        let mut all = world.all.lock().unwrap();
        let process = Arc::new(Self {
            n: all.len(),
            world: world.clone(),
            settings,
            pulse: State::new(Pulse::Runs),
            moves_since: Mutex::new(world.now()),
            weather: State::new(Weather::Fair),
            weather_since: AtomicU64::new(0),
            well_since: Mutex::default(),
            identity: Mutex::default(),
            manager: Mutex::default(),
            leaving: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            lately: Mutex::default(),
            unheard: Mutex::default(),
            stops: AtomicUsize::new(0),
        });
        all.push(process.clone());
        process
    }

    fn config(self: &Arc<Self>) -> Config {
        let mut config = Config::default();
        config.collect = false;
        config.backend = Arc::new(Faulty::new(self.clone()));
        config.clock = self.world.clock.clone();
        config.host = format!("p{}", self.n);
        config.role = self.settings.role;
        config.concurrency = self.settings.concurrency;
        config.crashes_max = CRASHES_MAX;
        config.add_timeout = Duration::from_secs(3);
        config.shutdown_timeout = Duration::from_secs(2);
        if let Liveness::Takeover(after) = self.world.liveness {
            config.takeover_after = Some(after);
        }
        config.tasks.push(TaskDef::new(work).name("work"));
        if self.settings.knows_rare {
            config.tasks.push(TaskDef::new(rare).name("rare"));
        }
        config.tasks.push(match self.settings.reads_shapes {
            true => TaskDef::new(shape).name("shape"),
            false => TaskDef::new(old_shape).name("shape"),
        });
        let timetables = self.world.timetables.iter();
        config.schedules = timetables
            .map(|it| it.schedule(&self.world.deeds[it.deed]))
            .collect();
        config.state(self.clone());
        config
    }

    pub(crate) fn who(&self) -> Who {
        Who {
            process: self.n,
            has_lease: self.world.liveness == Liveness::Lease,
            concurrency: self.settings.concurrency,
            leaving: self.is_leaving(),
            runs_tasks: self.settings.role.runs_tasks(),
            knows_rare: self.settings.knows_rare,
            reads_shapes: self.settings.reads_shapes,
            identity: *self.identity.lock().unwrap(),
            takeover_after: match self.world.liveness {
                Liveness::Takeover(after) => Some(after.as_millis() as Moment),
                Liveness::Lock | Liveness::Lease => None,
            },
            well_since: *self.well_since.lock().unwrap(),
        }
    }

    pub(crate) fn pulse(&self) -> Pulse {
        self.pulse.get()
    }

    pub(crate) fn weather(&self) -> Weather {
        self.weather.get()
    }

    /// For how long the weather has been as it is.
    pub(crate) fn weather_for(&self) -> Moment {
        self.world.now() - self.weather_since.load(Ordering::SeqCst)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    pub(crate) fn manager(&self) -> Option<TaskManager> {
        self.manager.lock().unwrap().clone()
    }

    pub(crate) fn goes_by(&self, id: InstanceId) {
        *self.identity.lock().unwrap() = Some((id, self.world.now()));
    }

    /// Counts a call until the guard is dropped. Nothing once a promise is broken: what spins must come to rest.
    pub(crate) fn call(self: &Arc<Self>) -> Option<impl Drop + use<>> {
        struct Call(Arc<Process>);
        impl Drop for Call {
            fn drop(&mut self) {
                self.0.calls.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let n = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        // The journal, the claimer, the rescuer, the beat, the listener, the pruner, and the calls of few clients.
        if n > 16 {
            let what = format!("p{} has {n} calls under way", self.n);
            self.world.check(|checker| checker.broken("P9", &what));
        }
        let call = Call(self.clone());
        let in_a_row = self.calls_of(self.world.now());
        if in_a_row > CALLS_IN_A_ROW_MAX {
            let what = format!("p{} makes {in_a_row} calls in a millisecond", self.n);
            self.world.check(|checker| checker.broken("P9", &what));
        }
        (!self.world.failed.is_cancelled()).then_some(call)
    }

    /// Calls in this millisecond.
    fn calls_of(&self, now: Moment) -> usize {
        let mut lately = self.lately.lock().unwrap();
        if lately.0 != now {
            *lately = (now, 0);
        }
        lately.1 += 1;
        lately.1
    }

    /// As a driver has to that can lose an answer: what a claim took that was not heard of, the next one gives again,
    /// as part of what it may.
    pub(crate) fn unheard(&self, owner: InstanceId) -> Vec<Task> {
        let unheard = self.unheard.lock().unwrap();
        let as_claimed = unheard.iter().filter_map(|claimed| {
            let task = now(self.world.memory.get(claimed.id)).expect("memory does not fail")?;
            let is_as_claimed = task.life == claimed.life && task.life.owner == Some(owner);
            is_as_claimed.then_some(task)
        });
        as_claimed.collect()
    }

    /// These were claimed, and the answer is on its way.
    pub(crate) fn claims(&self, tasks: &[Task]) {
        self.unheard.lock().unwrap().extend_from_slice(tasks);
    }

    /// The answer to a claim came.
    pub(crate) fn heard(&self, tasks: &[Task]) {
        let is_told = |it: &mut Task| tasks.iter().any(|task| task.id == it.id);
        self.unheard.lock().unwrap().retain_mut(|it| !is_told(it));
    }

    /// Waits while the process is stopped, for ever if it is dead. What follows without an await is done by one that
    /// runs.
    pub(crate) async fn runs(&self) {
        self.pulse.wait_for(|pulse| pulse == Pulse::Runs).await;
    }

    pub(crate) async fn dead(&self) {
        self.pulse.wait_for(|pulse| pulse == Pulse::Dead).await;
    }

    /// Returns once the weather is another one.
    pub(crate) async fn weather_is_not(&self, weather: Weather) {
        self.weather.wait_for(|now| now != weather).await;
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        if self.weather() != weather && self.pulse() != Pulse::Dead {
            let what = format!("p{} has {weather:?} weather", self.n);
            self.world.check(|checker| checker.step(&what));
            self.weather.set(weather);
            self.weather_since.store(self.world.now(), Ordering::SeqCst);
            self.look_well();
        }
    }

    pub(crate) fn stop(&self) {
        self.set_pulse(Pulse::Stopped, Pulse::Runs, "is stopped");
    }

    pub(crate) fn stops(&self) -> usize {
        self.stops.load(Ordering::SeqCst)
    }

    pub(crate) fn go_on(&self) {
        self.set_pulse(Pulse::Runs, Pulse::Stopped, "goes on");
    }

    fn set_pulse(&self, to: Pulse, from: Pulse, what: &str) {
        if self.pulse() == from {
            let what = format!("p{} {what}", self.n);
            self.world.check(|checker| checker.step(&what));
            self.pulse.set(to);
            self.stops.fetch_add(1, Ordering::SeqCst);
            *self.moves_since.lock().unwrap() = self.world.now();
            self.look_well();
        }
    }

    /// From now on nothing of this process moves; what it sent before may still arrive.
    pub(crate) fn die(self: &Arc<Self>, how: &str) {
        if self.pulse() == Pulse::Dead {
            return;
        }
        self.pulse.set(Pulse::Dead);
        self.look_well();
        self.world.check(|checker| checker.died(self.n, how));
        if self.world.liveness != Liveness::Lease {
            let process = self.clone();
            tokio::spawn(async move {
                process.world.wait(0..600).await;
                process.lock_dropped();
            });
        }
    }

    /// The store learns that it is dead.
    pub(crate) fn lock_dropped(&self) {
        for id in self.world.check(|checker| checker.identities_of(self.n)) {
            self.world.take_for_dead(id);
        }
    }

    /// For how long it has not been stopped.
    fn moves_for(&self) -> Moment {
        match self.pulse() {
            Pulse::Runs => self.world.now() - *self.moves_since.lock().unwrap(),
            _ => 0,
        }
    }

    fn look_well(&self) {
        let started = self.manager.lock().unwrap().is_some();
        let well = started && self.pulse() == Pulse::Runs && self.weather() == Weather::Fair;
        *self.well_since.lock().unwrap() = well.then(|| self.world.now());
    }

    /// Ends as a service does that is told to.
    pub(crate) async fn shut_down(self: Arc<Self>) {
        let Some(manager) = self.manager() else {
            return;
        };
        if self.leaving.swap(true, Ordering::SeqCst) {
            return;
        }
        self.world.check(|checker| {
            checker.step(&format!("p{} shuts down", self.n));
            checker.count("clean shutdown");
        });
        let well_since = self.who().well_since;
        let ended = tokio::time::timeout(Duration::from_secs(60), manager.shutdown()).await;
        tokio::select! {
            biased;
            () = self.dead() => return, // something killed it meanwhile
            () = self.runs() => {}
        }
        let was_well = well_since.is_some() && self.who().well_since == well_since;
        if was_well && matches!(ended, Ok(Ok(()))) {
            self.world.check(|checker| checker.shut_down(self.n));
        }
        if ended.is_err() {
            let what = format!("p{} does not end", self.n);
            self.world.check(|checker| checker.broken("P8", &what));
        }
        self.die("it is done");
    }

    /// Readiness tells what is wrong while something is, and only then.
    fn check_health(&self) {
        let (Some(manager), false) = (self.manager(), self.is_leaving()) else {
            return;
        };
        let well_for = (*self.well_since.lock().unwrap()).map(|since| self.world.now() - since);
        let troubles = manager.health().troubles;
        if well_for.is_some_and(|ms| ms > 8_000) && !troubles.is_empty() {
            let what = format!("p{} is well, and says {troubles:?}", self.n);
            self.world.check(|checker| checker.broken("P8", &what));
        }
        if !troubles.is_empty() {
            self.world.check(|checker| checker.count("trouble seen"));
        }
    }

    /// Called while the outage lasts, and has lasted.
    pub(crate) fn should_say_outage(&self) {
        if let (Some(manager), false) = (self.manager(), self.is_leaving())
            && self.pulse() == Pulse::Runs
            && manager.health().is_ready()
        {
            let what = format!("p{} cannot reach the store and does not say so", self.n);
            self.world.check(|checker| checker.broken("P8", &what));
        }
    }
}

/// Something that changes and can be waited for. Not a watch channel: that wakes those who wait in an order of chance,
/// and a seed could not be played again.
struct State<T> {
    now: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> State<T> {
    fn new(now: T) -> Self {
        Self {
            now: Mutex::new(now),
            changed: Notify::new(),
        }
    }

    fn get(&self) -> T {
        *self.now.lock().unwrap()
    }

    fn set(&self, to: T) {
        *self.now.lock().unwrap() = to;
        self.changed.notify_waiters();
    }

    async fn wait_for(&self, is: impl Fn(T) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is(self.get()) {
                return;
            }
            changed.await;
        }
    }
}

// ---- functions ------------------------------------------------------------------------------------------------

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) deed: usize,
}

pub(crate) async fn work(
    ctx: TaskContext,
    Data(process): Data<Arc<Process>>,
    deed: usize,
) -> Result<usize, Failure> {
    process.run(ctx, deed).await
}

pub(crate) async fn rare(
    ctx: TaskContext,
    Data(process): Data<Arc<Process>>,
    deed: usize,
) -> Result<usize, Failure> {
    process.run(ctx, deed).await
}

pub(crate) async fn shape(
    ctx: TaskContext,
    Data(process): Data<Arc<Process>>,
    shape: Shape,
) -> Result<usize, Failure> {
    process.run(ctx, shape.deed).await
}

/// As it was before somebody changed its parameter.
async fn old_shape(
    ctx: TaskContext,
    Data(process): Data<Arc<Process>>,
    deed: usize,
) -> Result<usize, Failure> {
    process.run(ctx, deed).await
}

impl Process {
    async fn run(self: Arc<Self>, ctx: TaskContext, deed: usize) -> Result<usize, Failure> {
        let inside = Inside::enter(&self, &ctx).await;
        let plan = &self.world.deeds[deed];
        for ms in &plan.waits_ms {
            sleep(Duration::from_millis(*ms)).await;
            self.runs().await;
        }
        if plan.kills {
            self.die("a function killed it");
            pending::<()>().await;
        }
        if ctx.attempt() <= plan.fails {
            inside.leave(false);
            return Err(Failure::retry("as planned"));
        }
        inside.leave(true);
        Ok(deed)
    }
}

/// Says when a function begins and ends, unless its process is dead by then.
struct Inside {
    process: Arc<Process>,
    id: TaskId,
    epoch: u32,
    left: bool,
}

impl Inside {
    async fn enter(process: &Arc<Process>, ctx: &TaskContext) -> Self {
        process.runs().await;
        let (id, epoch) = (ctx.id(), ctx.epoch().get());
        process.world.check(|checker| {
            checker.begins(process.who(), id, epoch);
        });
        Self {
            process: process.clone(),
            id,
            epoch,
            left: false,
        }
    }

    fn leave(mut self, well: bool) {
        self.left = true;
        self.say(Some(well));
    }

    fn say(&self, returned: Option<bool>) {
        let (process, world) = (&self.process, &self.process.world);
        if process.pulse() != Pulse::Dead {
            world.check(|checker| checker.ends(process.n, self.id, self.epoch, returned));
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if !self.left {
            self.say(None);
        }
    }
}
