//! The store as one process reaches it: calls are late, fail, lose their answers, or end with the process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum_taskflow_core::{
    AheadPage, AheadQuery, AuditEntry, Backend, BackendError, BackendFuture, Batch, Change, Claim,
    Claimed, Count, Epoch, Instance, InstanceId, ListQuery, LogLine, Minute, NextBatch, Page, Peer,
    Prune, Pruned, Record, RecordQuery, Standing, Step, Stepped, Task, TaskId, TaskStatus,
    Timestamp, Written,
};
use futures_util::FutureExt;
use tokio::{sync::oneshot, time::sleep};

use crate::checker::Moment;
use crate::world::{LEASE_MS, Liveness, Process, Pulse, Weather, now};

/// A driver gives up on a call after so long.
const DRIVER_DEADLINE: Duration = Duration::from_secs(4);

pub(crate) struct Faulty {
    process: Arc<Process>,
    /// For how long others had not beaten when this process looked last.
    silent: Mutex<BTreeMap<InstanceId, Moment>>,
    in_flight: InFlight,
    /// Whose batch is written, where they are taken one after the other.
    turn: tokio::sync::Mutex<()>,
}

/// How far each batch brings its tasks that is on its way, in the eyes of the engine.
type InFlight = Arc<Mutex<Vec<(u64, Lives)>>>;
type Lives = BTreeMap<TaskId, (TaskStatus, Epoch)>;

/// A batch until it is answered. It may be done after those that are sent later, or not at all, so none of these may follow
/// from it.
struct Flight(InFlight, u64);

impl Flight {
    /// Nothing if it is perhaps the rescuer's, which asks the store before and waits for it.
    fn of(batch: &Batch, in_flight: &InFlight, process: &Process) -> Option<Self> {
        let world = &process.world;
        let me = process.who().identity.map(|(id, _)| id);
        // If it was taken for dead and does not know it yet, its rescuer finds its own tasks among those of the dead.
        let is_alive = || {
            let peers = now(world.memory.instances()).unwrap();
            let mut alive = peers.into_iter().filter(|peer| peer.alive);
            alive.any(|peer| Some(peer.instance.id) == me)
        };
        let is_own = |change: &Change| {
            let stored = now(world.memory.get(change.id)).unwrap();
            // The rescuer may come late, when this process has claimed again what another one took over before.
            stored.is_some_and(|Task { life, .. }| {
                life.owner.is_some()
                    && life.owner == me
                    && change.expects == (life.status, life.epoch)
            })
        };
        if batch.tasks.is_empty() && !(batch.changes.iter().any(is_own) && is_alive()) {
            return None;
        }
        let mut others = in_flight.lock().unwrap();
        let follows = batch.changes.iter().any(|change| {
            let mut lives = others.iter().map(|(_, lives)| lives.get(&change.id));
            lives.any(|life| life == Some(&change.expects))
        });
        world.check(|checker| {
            if !others.is_empty() {
                checker.count("two batches at once");
            }
            if others.len() >= world.writes_at_once {
                checker.broken("the order of batches", "too many are on their way");
            }
            if follows {
                checker.broken("the order of batches", "one follows from another");
            }
        });
        let tasks = batch.tasks.iter().map(|task| (task.id, &task.life));
        let changes = batch.changes.iter().map(|change| (change.id, &change.life));
        let lives = tasks.chain(changes);
        let lives = lives.map(|(id, life)| (id, (life.status, life.epoch)));
        let n = others.last().map_or(0, |(n, _)| n + 1);
        others.push((n, lives.collect()));
        Some(Self(in_flight.clone(), n))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.lock().unwrap().retain(|(n, _)| *n != self.1);
    }
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nothing: it is answered at once.
    Direct,
    /// It takes its time on both ways.
    Travels(Duration, Duration),
    /// It fails after a while, and never arrives.
    Fails(Duration),
    /// It is done, and the answer gets lost.
    AnswerLost(Duration, Duration),
    /// It fails after a while, and arrives later all the same.
    Late(Duration, Duration),
    /// It stalls with the store.
    Stalls,
    /// The process dies before the call leaves.
    DiesBefore,
    /// The process dies while the call is on its way; it arrives later.
    DiesAfter(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    Join,
    Beat,
    Supersede,
    Leave,
    /// New tasks, and whatever else is to be written.
    Add,
    Write,
    Step,
    Claim,
    Read,
}

impl Verb {
    /// True if it may be done after the process was told that it failed. For what takes tasks into the hands of an
    /// instance that is the driver's to prevent: it gives up a connection only together with what it sent there.
    fn may_be_late(self) -> bool {
        !matches!(self, Self::Add | Self::Step | Self::Claim)
    }
}

impl Faulty {
    pub(crate) fn new(process: Arc<Process>) -> Self {
        Self {
            process,
            silent: Mutex::default(),
            in_flight: InFlight::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// `act` is done when the call arrives, in one step.
    fn call<T: Send + 'static>(
        &self,
        verb: Verb,
        act: impl FnOnce(&Arc<Process>) -> Result<T, BackendError> + Send + 'static,
    ) -> BackendFuture<'_, T> {
        let process = self.process.clone();
        Box::pin(async move {
            process.runs().await;
            let Some(_call) = process.call() else {
                return std::future::pending().await;
            };
            let fate = fate(&process, verb);
            if fate == Fate::Direct {
                return act(&process);
            }
            if fate == Fate::DiesBefore {
                process.die("before a call");
                return std::future::pending().await;
            }
            let (sender, answer) = oneshot::channel();
            // A task of its own: what is on its way arrives, whatever becomes of the process.
            tokio::spawn(travel(process.clone(), verb, fate, act, sender));
            if let Fate::DiesAfter(_) = fate {
                process.die("during a call");
            }
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            };
            process.runs().await;
            answer
        })
    }

    /// Sends a batch.
    fn ask(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        let verb = match batch.tasks.is_empty() {
            true => Verb::Write,
            false => Verb::Add,
        };
        let flight = Flight::of(&batch, &self.in_flight, &self.process);
        let writing = self.call(verb, move |process| {
            let written = now(process.world.memory.write(batch.clone()))?;
            process.world.written.notify_waiters();
            let who = process.who();
            process
                .world
                .check(|checker| checker.wrote(who, &batch, &written));
            Ok(written)
        });
        Box::pin(async move {
            let _flight = flight;
            writing.await
        })
    }

    fn read<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Process>) -> Result<T, BackendError> + Send + 'static,
    ) -> BackendFuture<'_, T> {
        self.call(Verb::Read, act)
    }
}

fn fate(process: &Process, verb: Verb) -> Fate {
    let world = &process.world;
    if !world.is_calm() && world.once_in(700) {
        return match world.once_in(2) {
            true => Fate::DiesBefore,
            false => Fate::DiesAfter(world.draw(|rng| ms(rng.u64(0..3_000)))),
        };
    }
    let weather = process.weather();
    world.draw(|rng| match weather {
        Weather::Fair if rng.u32(0..10) < 7 => Fate::Direct,
        Weather::Fair => Fate::Travels(ms(rng.u64(0..5)), ms(rng.u64(0..5))),
        Weather::Slow => Fate::Travels(ms(rng.u64(0..800)), ms(rng.u64(0..800))),
        Weather::Flaky => match rng.u32(0..100) {
            0..20 => Fate::Fails(ms(rng.u64(0..50))),
            20..32 => Fate::AnswerLost(ms(rng.u64(0..50)), ms(rng.u64(0..50))),
            32..38 if verb.may_be_late() => Fate::Late(ms(rng.u64(0..50)), ms(rng.u64(0..5_000))),
            _ => Fate::Travels(ms(rng.u64(0..50)), ms(rng.u64(0..50))),
        },
        Weather::Outage => Fate::Fails(ms(rng.u64(0..50))),
        Weather::Stall => Fate::Stalls,
    })
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn travel<T: Send + 'static>(
    process: Arc<Process>,
    verb: Verb,
    fate: Fate,
    act: impl FnOnce(&Arc<Process>) -> Result<T, BackendError> + Send + 'static,
    sender: oneshot::Sender<Result<T, BackendError>>,
) {
    let lost = || Err(BackendError::unavailable("the store cannot be reached"));
    let count = |what| process.world.check(|checker| checker.count(what));
    let arrive = || {
        // A join of a dead process would hold its lock for ever; a connection that is gone holds nothing.
        if process.pulse() == Pulse::Dead && matches!(verb, Verb::Join | Verb::Beat) {
            return Err(BackendError::unavailable("nobody is there any more"));
        }
        if process.pulse() == Pulse::Dead && !matches!(verb, Verb::Read) {
            process
                .world
                .check(|checker| checker.count("late call of a dead one"));
        }
        act(&process)
    };
    let answer = match fate {
        Fate::Direct | Fate::DiesBefore => return,
        Fate::Travels(there, back) => {
            sleep(there).await;
            let answer = arrive();
            sleep(back).await;
            answer
        }
        Fate::Fails(after) => {
            sleep(after).await;
            count("failed call");
            lost()
        }
        Fate::AnswerLost(there, back) => {
            sleep(there).await;
            let _lost = arrive();
            sleep(back).await;
            count("lost answer");
            lost()
        }
        Fate::Late(fails_after, arrives_after) => {
            sleep(fails_after).await;
            let _ = sender.send(lost()); // the process may be dead
            sleep(arrives_after).await;
            count("late call");
            let _lost = arrive();
            return;
        }
        Fate::Stalls => {
            let over = process.weather_is_not(Weather::Stall);
            if tokio::time::timeout(DRIVER_DEADLINE, over).await.is_err() {
                count("stalled call");
                let _ = sender.send(lost()); // as above
                process.weather_is_not(Weather::Stall).await;
                if verb.may_be_late() && process.world.once_in(2) {
                    sleep(process.world.draw(|rng| ms(rng.u64(0..500)))).await;
                    count("late call");
                    let _lost = arrive();
                }
                return;
            }
            arrive()
        }
        Fate::DiesAfter(there) => {
            sleep(there).await;
            let _nobody = arrive();
            return;
        }
    };
    let _ = sender.send(answer); // as above
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store of p{}", self.process.n)
    }
}

impl Backend for Faulty {
    fn describe(&self) -> String {
        format!("the store of p{}", self.process.n)
    }

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        let (id, from) = (instance.id, self.process.world.now());
        let joined = self.call(Verb::Join, move |process| {
            now(process.world.memory.join(instance))?;
            process
                .world
                .check(|checker| checker.joined(process.who(), id, from));
            Ok(())
        });
        Box::pin(async move {
            joined.await?;
            self.process.goes_by(id);
            Ok(())
        })
    }

    fn beat(&self, id: InstanceId, at: Timestamp) -> BackendFuture<'_, Standing> {
        let from = self.process.world.now();
        let beaten = self.call(Verb::Beat, move |process| {
            let standing = now(process.world.memory.beat(id, at))?;
            process.world.check(|checker| match standing {
                Standing::Alive => checker.beaten(id),
                Standing::Superseded => checker.count("heard that it was superseded"),
            });
            Ok(standing)
        });
        Box::pin(async move {
            let standing = beaten.await?;
            let world = &self.process.world;
            world.check(|checker| checker.heard_beat(id, from));
            Ok(standing)
        })
    }

    fn lease(&self) -> Option<Duration> {
        match self.process.world.liveness {
            Liveness::Lease => Some(Duration::from_millis(LEASE_MS)),
            _ => None,
        }
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        let read = self.read(|process| {
            let peers = now(process.world.memory.instances())?;
            let silent = process.world.check(|checker| checker.silent());
            Ok((peers, silent))
        });
        Box::pin(async move {
            let (peers, silent) = read.await?;
            *self.silent.lock().unwrap() = silent;
            Ok(peers)
        })
    }

    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        let silent_ms = self.silent.lock().unwrap().get(&id).copied();
        self.call(Verb::Supersede, move |process| {
            if process.world.beat_of(id) != Some(seen_beat_at) {
                return now(process.world.memory.supersede(id, seen_beat_at));
            }
            now(process.world.memory.supersede(id, seen_beat_at))?;
            let who = process.who();
            process
                .world
                .check(|checker| checker.superseded(Some((who, silent_ms)), id));
            Ok(())
        })
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        self.call(Verb::Leave, move |process| {
            now(process.world.memory.leave(id))?;
            process.world.check(|checker| checker.left(id));
            Ok(())
        })
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        if !self.process.world.pulls {
            return self.ask(batch);
        }
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            self.ask(batch).await
        })
    }

    fn writes_at_once(&self) -> usize {
        self.process.world.writes_at_once
    }

    fn pulls(&self) -> bool {
        self.process.world.pulls
    }

    fn pull(&self, next: NextBatch) -> BackendFuture<'_, Written> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            let world = &self.process.world;
            let weather = self.process.weather();
            if matches!(weather, Weather::Flaky | Weather::Outage) && world.once_in(5) {
                world.check(|checker| checker.count("batch that was not taken"));
                return Err(BackendError::unavailable("the store cannot begin"));
            }
            match next() {
                Some(batch) => {
                    world.check(|checker| checker.count("batch taken late"));
                    self.ask(batch).await
                }
                None => Ok(Written::default()),
            }
        })
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        self.call(Verb::Step, move |process| {
            let stepped = now(process.world.memory.step(step.clone()))?;
            process.world.written.notify_waiters();
            let who = process.who();
            process
                .world
                .check(|checker| checker.stepped(who, &step, &stepped));
            Ok(stepped)
        })
    }

    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        self.call(Verb::Read, move |process| {
            now(process.world.memory.ahead(query.clone()))
        })
    }

    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        self.call(Verb::Read, move |process| {
            now(process.world.memory.records(query.clone()))
        })
    }

    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        let names_none = claim.names.is_empty(); // for the threads, where nothing runs here
        let claimed = self.call(Verb::Claim, move |process| {
            if names_none {
                return now(process.world.memory.claim(claim));
            }
            let mut tasks = process.unheard(claim.owner);
            tasks.truncate(claim.limit);
            let rest = Claim {
                limit: claim.limit - tasks.len(),
                ..claim
            };
            let mut claimed = now(process.world.memory.claim(rest.clone()))?;
            let who = process.who();
            process
                .world
                .check(|checker| checker.claimed(who, &rest, &claimed));
            process.claims(&claimed.tasks);
            tasks.append(&mut claimed.tasks);
            claimed.tasks = tasks;
            Ok(claimed)
        });
        Box::pin(async move {
            let claimed = claimed.await?;
            if !names_none {
                self.process.heard(&claimed.tasks);
            }
            Ok(claimed)
        })
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        self.read(move |process| now(process.world.memory.orphans(limit)))
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        self.read(move |process| now(process.world.memory.get(id)))
    }

    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        self.read(move |process| now(process.world.memory.list(query)))
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        self.read(move |process| now(process.world.memory.logs(id, skip, limit)))
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        self.read(|process| now(process.world.memory.counts()))
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        self.read(move |process| now(process.world.memory.series(since)))
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        self.read(move |process| now(process.world.memory.audit(before, limit)))
    }

    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        self.read(move |process| now(process.world.memory.prune(prune)))
    }

    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        let process = self.process.clone();
        Box::pin(async move {
            process.runs().await;
            let world = &process.world;
            let n = loop {
                let written = world.written.notified();
                // Looked at, not waited for: the memory wakes those who wait in an order of chance.
                if let Some(n) = world.memory.changed(seen).now_or_never() {
                    break n?;
                }
                written.await;
            };
            process.runs().await;
            match process.weather() {
                Weather::Fair | Weather::Slow => Ok(n),
                Weather::Outage => Err(BackendError::unavailable("the store cannot be reached")),
                // A hint gets lost.
                Weather::Flaky | Weather::Stall => std::future::pending().await,
            }
        })
    }

    /// The process lets go of the store, which others go on using.
    fn close(&self) -> BackendFuture<'_, ()> {
        self.call(Verb::Leave, |process| {
            let of_process = process
                .world
                .check(|checker| checker.identities_of(process.n));
            for id in of_process {
                now(process.world.memory.leave(id))?;
                process.world.check(|checker| checker.left(id));
            }
            if process.world.liveness == Liveness::Lock {
                process.lock_dropped();
            }
            Ok(())
        })
    }
}
