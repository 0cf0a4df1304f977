//! What is promised, looked at in each step: a second opinion on what the store says, kept apart from it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum_taskflow_core::{
    Applied, Batch, Becomes, Change, Claim, Claimed, Enqueued, FailureKind, InstanceId, Life, Step,
    Stepped, Task, TaskId, TaskStatus, Timestamp, Written,
};

use crate::{
    schedules::{Slots, Timetable},
    world::{CRASHES_MAX, Deed, Function, LEASE_MS},
};

/// Virtual milliseconds since the beginning.
pub(crate) type Moment = u64;

/// Steps of the trace that are printed with a failure.
const TRACE_MAX: usize = 150;
/// A task of a dead instance is taken over by then, if somebody is well.
const TAKEOVER_MAX: Moment = 1_000;
/// Whoever was ill for a while does everything again by then: loops wait between two tries.
const WELL_AGAIN: Moment = 4_000;
/// What an instance runs that knows that it was taken for dead stops by then.
const STOP_MAX: Moment = 1_000;
/// A task that may start, and a free slot, meet by then: a listener looks at least every 6.25 s.
const START_MAX: Moment = 10_000;

pub(crate) struct Checker {
    seed: u64,
    deeds: Arc<[Deed]>,
    pub(crate) tasks: BTreeMap<TaskId, Seen>,
    /// All tasks that were ever stored with a key.
    keys: BTreeMap<String, Vec<TaskId>>,
    identities: BTreeMap<InstanceId, Identity>,
    schedules: Vec<Slots>,
    /// Attempts inside their function, by process.
    inside: BTreeMap<usize, usize>,
    /// Since when a process has a free slot.
    free_since: BTreeMap<usize, Moment>,
    trace: VecDeque<String>,
    traces_all: bool,
    hash: DefaultHasher,
    pub(crate) n_steps: u64,
    pub(crate) saw: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
    now: Moment,
}

/// A task as it should be.
pub(crate) struct Seen {
    n: usize,
    pub(crate) task: Arc<Task>,
    pub(crate) deed: usize,
    pub(crate) life: Life,
    /// When its owner or life changed last.
    changed_at: Moment,
    attempts: BTreeMap<u32, Attempt>,
    /// Somebody asked for it, and has no answer yet or was told that it happens.
    cancel_asked: bool,
    /// Somebody was told that it will never run.
    cancelled: bool,
    pub(crate) accepted: bool,
}

impl Seen {
    fn ended_at(&self) -> Option<Moment> {
        self.life.status.is_terminal().then_some(self.changed_at)
    }
}

#[derive(Default)]
struct Attempt {
    process: usize,
    identity: Option<InstanceId>,
    start_stored: bool,
    began: bool,
    inside: bool,
    /// The process died inside.
    cut_off: bool,
    /// The function returned: true if well.
    returned: Option<bool>,
    /// It is stored that it failed and that the task runs again.
    will_retry: bool,
}

struct Identity {
    process: usize,
    beat_at: Moment,
    /// When it made the last call that it knows to have been a beat.
    beat_from: Moment,
    /// It could not beat for so long that it had to stop what it ran.
    has_lapsed: bool,
    gone_at: Option<Moment>,
}

/// After so long without a beat an instance stops what it runs, where it lives by a lease.
const LAPSE_MS: Moment = LEASE_MS / 4 * 3;

/// A process as the checker has to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) process: usize,
    /// It is alive for a lease after each beat, and not as long as it has a lock.
    pub(crate) has_lease: bool,
    pub(crate) concurrency: usize,
    pub(crate) leaving: bool,
    pub(crate) runs_tasks: bool,
    pub(crate) knows_rare: bool,
    pub(crate) reads_shapes: bool,
    pub(crate) takeover_after: Option<Moment>,
    /// The name that it goes by, and since when.
    pub(crate) identity: Option<(InstanceId, Moment)>,
    /// Since when nothing has been wrong with it; nothing if something is.
    pub(crate) well_since: Option<Moment>,
}

impl Who {
    fn can_run(&self, function: Function) -> bool {
        self.runs_tasks
            && match function {
                Function::Work => true,
                Function::Rare => self.knows_rare,
                Function::Shape => self.reads_shapes,
            }
    }

    fn well_for(&self, now: Moment, ms: Moment) -> bool {
        !self.leaving && self.well_since.is_some_and(|since| now - since >= ms)
    }
}

impl Checker {
    pub(crate) fn new(seed: u64, deeds: Arc<[Deed]>, timetables: &[Timetable]) -> Self {
        Self {
            seed,
            deeds,
            tasks: BTreeMap::new(),
            keys: BTreeMap::new(),
            identities: BTreeMap::new(),
            schedules: timetables.iter().copied().map(Slots::of).collect(),
            inside: BTreeMap::new(),
            free_since: BTreeMap::new(),
            trace: VecDeque::new(),
            traces_all: std::env::var_os("SIM_TRACE").is_some(),
            hash: DefaultHasher::new(),
            n_steps: 0,
            saw: BTreeMap::new(),
            violation: None,
            now: 0,
        }
    }

    // ---- the trace -------------------------------------------------------------------------------------------

    pub(crate) fn at(&mut self, now: Moment) -> &mut Self {
        self.now = now;
        self
    }

    pub(crate) fn step(&mut self, what: &str) {
        self.n_steps += 1;
        (self.now, what).hash(&mut self.hash);
        let line = format!("{:>9.3} {what}", self.now as f64 / 1_000.0);
        if self.traces_all {
            println!("{line}");
        }
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.saw.entry(what).or_default() += 1;
    }

    /// What happened, as a number: two plays of one seed have the same.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn broken(&mut self, promise: &str, what: &str) {
        if self.violation.is_some() {
            return; // what follows from a broken promise says little
        }
        let mut report = format!("seed {} breaks {promise}: {what}\n", self.seed);
        for line in &self.trace {
            let _ = writeln!(report, "  {line}"); // a String takes everything
        }
        let _ = write!(report, "replay it with SIM_SEED={}", self.seed); // as above
        self.violation = Some(report);
    }

    // ---- instances -------------------------------------------------------------------------------------------

    /// By a call from then: for the instance its lease begins there.
    pub(crate) fn joined(&mut self, who: Who, id: InstanceId, from: Moment) {
        self.step(&format!("p{} joins", who.process));
        let identity = Identity {
            process: who.process,
            beat_at: self.now,
            beat_from: from,
            has_lapsed: false,
            gone_at: None,
        };
        self.identities.entry(id).or_insert(identity);
    }

    pub(crate) fn beaten(&mut self, id: InstanceId) {
        if let Some(identity) = self.identities.get_mut(&id) {
            identity.beat_at = self.now;
        }
    }

    /// The instance knows that its call from then was a beat.
    pub(crate) fn heard_beat(&mut self, id: InstanceId, from: Moment) {
        if let Some(identity) = self.identities.get_mut(&id) {
            identity.has_lapsed |= self.now - identity.beat_from >= LAPSE_MS;
            identity.beat_from = from;
        }
    }

    /// `by` nobody but the store, or an instance that saw it silent for so long.
    pub(crate) fn superseded(&mut self, by: Option<(Who, Option<Moment>)>, id: InstanceId) {
        let Some(identity) = self.identities.get_mut(&id) else {
            return;
        };
        if identity.gone_at.is_some() {
            return;
        }
        let of = identity.process;
        identity.gone_at = Some(self.now);
        match by {
            None => self.step(&format!("the store takes p{of} for dead")),
            Some((by, silent)) => {
                self.step(&format!("p{} takes p{of} for dead", by.process));
                self.count("takeover of the living");
                if by
                    .takeover_after
                    .is_none_or(|after| silent.is_none_or(|ms| ms < after))
                {
                    let what = format!("p{} took p{of} for dead, silent {silent:?} ms", by.process);
                    self.broken("P6", &what);
                }
            }
        }
    }

    pub(crate) fn left(&mut self, id: InstanceId) {
        if let Some(identity) = self.identities.get_mut(&id)
            && identity.gone_at.is_none()
        {
            identity.gone_at = Some(self.now);
            let process = identity.process;
            self.step(&format!("p{process} leaves"));
        }
    }

    pub(crate) fn identities_of(&self, process: usize) -> Vec<InstanceId> {
        let of = |(id, identity): (&InstanceId, &Identity)| {
            (identity.process == process && identity.gone_at.is_none()).then_some(*id)
        };
        self.identities.iter().filter_map(of).collect()
    }

    /// For how long each instance has not beaten.
    pub(crate) fn silent(&self) -> BTreeMap<InstanceId, Moment> {
        let silent = |(id, identity): (&InstanceId, &Identity)| (*id, self.now - identity.beat_at);
        self.identities.iter().map(silent).collect()
    }

    /// Those that have not beaten for so long.
    pub(crate) fn silent_for(&self, ms: Moment) -> Vec<InstanceId> {
        let silent = |(id, identity): (&InstanceId, &Identity)| {
            (identity.gone_at.is_none() && self.now - identity.beat_at >= ms).then_some(*id)
        };
        self.identities.iter().filter_map(silent).collect()
    }

    /// The instance of this process has not beaten for its lease, and others may start what it ran.
    pub(crate) fn must_have_stopped(&mut self, process: usize, id: InstanceId) {
        if self.process_of(id) != Some(process) {
            return;
        }
        self.count("lease ran out");
        let runs_on = self.tasks.values().find(|seen| {
            let mut attempts = seen.attempts.values();
            attempts.any(|attempt| attempt.inside && attempt.identity == Some(id))
        });
        if let Some(n) = runs_on.map(|seen| seen.n) {
            let what = format!("the lease of p{process} runs out, and it still runs t{n}");
            self.broken("P2", &what);
        }
    }

    fn is_gone(&self, id: InstanceId) -> bool {
        self.identities
            .get(&id)
            .is_some_and(|identity| identity.gone_at.is_some())
    }

    fn process_of(&self, id: InstanceId) -> Option<usize> {
        self.identities.get(&id).map(|identity| identity.process)
    }

    pub(crate) fn died(&mut self, process: usize, how: &str) {
        self.step(&format!("p{process} dies: {how}"));
        self.count("death");
        self.inside.remove(&process);
        for attempt in self
            .tasks
            .values_mut()
            .flat_map(|t| t.attempts.values_mut())
        {
            if attempt.process == process && attempt.inside {
                attempt.inside = false;
                attempt.cut_off = true;
            }
        }
    }

    // ---- functions -------------------------------------------------------------------------------------------

    pub(crate) fn begins(&mut self, who: Who, id: TaskId, epoch: u32) {
        let p = who.process;
        let Some(seen) = self.tasks.get(&id) else {
            return self.broken("P1", &format!("p{p} runs a task that is not stored"));
        };
        let n = seen.n;
        let identity = who.identity.map(|(id, _)| id);
        let counts = identity.is_some_and(|id| !self.is_gone(id));
        let others = seen.attempts.iter().filter(|(e, _)| **e != epoch);
        let another_is_inside = others.clone().any(|(_, a)| a.inside && !self.is_out(a));
        let once_only = !seen.task.requeue_on_interrupt;
        let lags = !once_only && epoch == 1;
        let wrong = if seen.attempts.get(&epoch).is_some_and(|a| a.began) {
            Some(("P2", "its function begins twice in one epoch"))
        } else if !lags && !seen.attempts.get(&epoch).is_some_and(|a| a.start_stored) {
            Some(("P3", "its function begins before its start is stored"))
        } else if seen.cancelled && !lags {
            Some(("P4", "it begins, and somebody was told that it never will"))
        } else if counts && another_is_inside {
            Some(("P2", "another attempt of it is inside its function"))
        } else if once_only
            && seen
                .attempts
                .range(..epoch)
                .any(|(_, a)| a.began && (a.cut_off || !a.will_retry))
        {
            Some(("P3", "it had begun before, and may not be repeated"))
        } else if !who.can_run(self.deeds[seen.deed].function) {
            Some(("P10", "this process cannot run it"))
        } else {
            None
        };
        self.step(&format!("p{p} t{n} e{epoch} begins"));
        if let Some((promise, what)) = wrong {
            self.broken(promise, &format!("t{n} e{epoch} in p{p}: {what}"));
        }
        let attempt = self
            .tasks
            .get_mut(&id)
            .map(|seen| seen.attempts.entry(epoch).or_default());
        if let Some(attempt) = attempt {
            attempt.process = p;
            attempt.identity = attempt.identity.or(identity);
            (attempt.began, attempt.inside) = (true, true);
        }
        let inside = self.inside.entry(p).or_default();
        *inside += 1;
        if *inside > who.concurrency {
            let what = format!(
                "p{p} runs {inside} tasks, and its limit is {}",
                who.concurrency
            );
            self.broken("P9", &what);
        }
    }

    /// True if the attempt does not count: its instance is dead, or was taken for dead.
    fn is_out(&self, attempt: &Attempt) -> bool {
        attempt.identity.is_some_and(|id| self.is_gone(id))
    }

    /// The function is over: true if it returned well, false if not, nothing if it was dropped.
    pub(crate) fn ends(&mut self, p: usize, id: TaskId, epoch: u32, returned: Option<bool>) {
        let Some(seen) = self.tasks.get_mut(&id) else {
            return;
        };
        let n = seen.n;
        let attempt = seen.attempts.entry(epoch).or_default();
        if !attempt.inside {
            return; // it ended before its death was seen
        }
        attempt.inside = false;
        attempt.returned = returned;
        if let Some(inside) = self.inside.get_mut(&p) {
            *inside -= 1;
        }
        let how = match returned {
            Some(true) => "returns",
            Some(false) => "fails",
            None => "is dropped",
        };
        self.step(&format!("p{p} t{n} e{epoch} {how}"));
    }

    // ---- callers ---------------------------------------------------------------------------------------------

    pub(crate) fn accepted(&mut self, who: Who, id: TaskId) {
        match self.tasks.get_mut(&id) {
            Some(seen) => {
                seen.accepted = true;
                let n = seen.n;
                self.step(&format!("p{} t{n} is accepted", who.process));
            }
            None => self.broken("P1", &format!("task {id} was accepted and is not stored")),
        }
    }

    pub(crate) fn cancel_asked(&mut self, id: TaskId) {
        if let Some(seen) = self.tasks.get_mut(&id) {
            seen.cancel_asked = true;
            let n = seen.n;
            self.step(&format!("t{n} is to be cancelled"));
        }
    }

    pub(crate) fn cancelled(&mut self, id: TaskId) {
        let Some(seen) = self.tasks.get_mut(&id) else {
            return;
        };
        seen.cancelled = true;
        let (n, status) = (seen.n, seen.life.status);
        self.step(&format!("t{n} is cancelled"));
        self.count("cancelled before it began");
        if status != TaskStatus::Cancelled {
            self.broken("P1", &format!("t{n} was called cancelled and is {status}"));
        }
    }

    /// `process` has heard that the task was told to stop.
    pub(crate) fn told_to_stop(&mut self, id: TaskId, process: usize) {
        let ran_at = self.tasks.get(&id).and_then(|seen| seen.life.instance);
        let ran_at = ran_at.and_then(|id| self.process_of(id));
        if ran_at.is_some_and(|ran_at| ran_at != process) {
            self.count("told to stop by another one");
        }
    }

    // ---- the store -------------------------------------------------------------------------------------------

    pub(crate) fn wrote(&mut self, who: Who, batch: &Batch, written: &Written) {
        for (task, enqueued) in batch.tasks.iter().zip(&written.tasks) {
            self.enqueued(who, task, enqueued, batch.now);
        }
        for (change, applied) in batch.changes.iter().zip(&written.changes) {
            self.changed(who, change, *applied);
        }
    }

    pub(crate) fn stepped(&mut self, who: Who, step: &Step, stepped: &Stepped) {
        let p = who.process;
        for record in &step.records {
            let name = record.key.strip_prefix("schedule:");
            let mut schedules = self.schedules.iter_mut();
            let (Some(slots), Becomes::Value(value)) = (
                schedules.find(|it| Some(it.of.name) == name),
                &record.becomes,
            ) else {
                continue;
            };
            let name = slots.of.name;
            if *stepped == Stepped::Stale {
                self.count("stale step");
                continue;
            }
            let tasks = &self.tasks;
            let wrong = match slots.stepped(value, step, |id| tasks.get(&id)?.ended_at()) {
                Ok(saw) => {
                    saw.into_iter().for_each(|what| self.count(what));
                    None
                }
                Err(wrong) => Some(wrong),
            };
            self.step(&format!(
                "p{p} decides for schedule {name}: {} tasks",
                step.tasks.len()
            ));
            if let Some(wrong) = wrong {
                self.broken("P7", &format!("schedule {name} in p{p}: {wrong}"));
            }
        }
        if let Stepped::Done { tasks, .. } = stepped {
            for (task, enqueued) in step.tasks.iter().zip(tasks) {
                self.enqueued(who, task, enqueued, step.now);
            }
        }
    }

    fn enqueued(&mut self, who: Who, task: &Arc<Task>, enqueued: &Enqueued, now: Timestamp) {
        let p = who.process;
        let deed: usize = task.tags["deed"].parse().expect("the world wrote a number");
        if self.tasks.contains_key(&task.id) {
            if *enqueued != Enqueued::Created {
                self.broken(
                    "P1",
                    "a task that is stored was not created, says the store",
                );
            }
            return;
        }
        let key = task.idempotency_key.as_ref();
        match enqueued {
            Enqueued::Created => {
                let n = self.tasks.len();
                let owner = if task.life.owner.is_some() {
                    "keeps"
                } else {
                    "leaves"
                };
                self.step(&format!(
                    "p{p} t{n} is stored for deed {deed}, and it {owner} it"
                ));
                if let Some(key) = key {
                    // By the latest clock of all: a late write may say that it is earlier.
                    let latest = Timestamp::from_unix_ms(crate::world::START_MS + self.now as i64);
                    let of_key = self.keys.entry(key.key.clone()).or_default().clone();
                    if let Some(other) = of_key.iter().find(|id| self.has_key(**id, latest)) {
                        let other = self.tasks[other].n;
                        let what = format!("t{n} and t{other} have one key, {}", key.key);
                        self.broken("P5", &what);
                    }
                    self.keys.entry(key.key.clone()).or_default().push(task.id);
                }
                let mut attempts: BTreeMap<u32, Attempt> = BTreeMap::new();
                if task.life.status == TaskStatus::Running {
                    // It begins at once: stored in one step with its start.
                    let attempt = attempts.entry(task.life.epoch.get()).or_default();
                    attempt.start_stored = true;
                    attempt.process = p;
                    attempt.identity = task.life.instance;
                }
                let seen = Seen {
                    n,
                    task: task.clone(),
                    deed,
                    life: task.life.clone(),
                    changed_at: self.now,
                    attempts,
                    cancel_asked: false,
                    cancelled: false,
                    accepted: false,
                };
                self.tasks.insert(task.id, seen);
            }
            Enqueued::Exists { id, .. } => {
                self.count("key taken");
                let holds = key.is_some_and(|key| {
                    let same = self.keys.get(&key.key).is_some_and(|ids| ids.contains(id));
                    same && self.has_key(*id, now)
                });
                self.step(&format!("p{p} deed {deed} is stored already"));
                if !holds {
                    let what = format!("deed {deed} was refused for a task that has not its key");
                    self.broken("P5", &what);
                }
            }
        }
    }

    /// True if a task keeps its key: it is live, or succeeded not long ago.
    fn has_key(&self, id: TaskId, now: Timestamp) -> bool {
        let seen = &self.tasks[&id];
        match seen.life.status {
            TaskStatus::Pending | TaskStatus::Running => true,
            TaskStatus::Success => {
                let key = seen.task.idempotency_key.as_ref();
                let ended = seen.life.finished_at.unwrap_or_default();
                key.is_some_and(|key| ended.saturating_add(key.ttl) > now)
            }
            _ => false,
        }
    }

    fn changed(&mut self, who: Who, change: &Change, applied: Applied) {
        let p = who.process;
        let Some(seen) = self.tasks.get(&change.id) else {
            if applied == Applied::Applied {
                self.broken("P1", "a task that is not stored was changed");
            }
            return;
        };
        let (n, before, after) = (seen.n, seen.life.clone(), &change.life);
        let stands =
            (before.status, before.epoch) == change.expects && change.held_by.is(before.owner);
        let written_before = !stands && before == *after;
        let should = match stands || written_before {
            true => Applied::Applied,
            false => Applied::Stale,
        };
        let (from, to, e) = (change.expects.0, after.status, after.epoch);
        self.step(&format!("p{p} t{n} e{e} {from} -> {to}: {applied:?}"));
        if applied != should {
            let what = format!(
                "t{n} is {} e{}, and a change of {from} e{} was {applied:?}",
                before.status, before.epoch, change.expects.1
            );
            return self.broken("P4", &what);
        }
        if !stands {
            self.count(if written_before {
                "written twice"
            } else {
                "stale write"
            });
            return;
        }
        if let Some((promise, what)) = self.wrong_with(who, &before, change) {
            let what = format!(
                "p{p} made t{n} of {from} e{} {to} e{e}: {what}",
                before.epoch
            );
            self.broken(promise, &what);
        }
        let Some(seen) = self.tasks.get_mut(&change.id) else {
            return;
        };
        let begun = before.status == TaskStatus::Pending
            && (to == TaskStatus::Running || change.ended.is_some() || was_run(change));
        if begun {
            let attempt = seen.attempts.entry(e.get()).or_default();
            attempt.start_stored = true;
            attempt.process = p;
            attempt.identity = after.instance;
        }
        if let Some(ended) = &change.ended
            && ended.outcome == TaskStatus::Failed
        {
            seen.attempts
                .entry(ended.epoch.get())
                .or_default()
                .will_retry = true;
        }
        seen.life = after.clone();
        seen.changed_at = self.now;
    }

    /// What a change that was applied breaks, if anything.
    fn wrong_with(
        &mut self,
        who: Who,
        before: &Life,
        change: &Change,
    ) -> Option<(&'static str, &'static str)> {
        use TaskStatus as S;
        let (after, ended) = (&change.life, change.ended.as_ref());
        let seen = &self.tasks[&change.id];
        let once_only = !seen.task.requeue_on_interrupt;
        if before.status.is_terminal() {
            return Some(("P1", "it had ended"));
        }
        if after.epoch < before.epoch {
            return Some(("P4", "its epoch fell"));
        }
        let owner = before.owner.and_then(|id| self.process_of(id));
        let is_own = owner == Some(who.process);
        let is_orphan = before.owner.is_some_and(|id| self.is_gone(id));
        let had_to_stop = |id| {
            let silent = |identity: &Identity| self.now - identity.beat_from >= LAPSE_MS;
            let identity = self.identities.get(&id);
            identity.is_some_and(|identity| identity.has_lapsed || silent(identity))
        };
        let has_lapsed = who.has_lease && before.owner.is_some_and(had_to_stop);
        let is_cut_off = is_orphan || who.leaving || has_lapsed;
        if before.status == S::Pending && after.status == S::Cancelled && !was_run(change) {
            return (!seen.cancel_asked).then_some(("P1", "nobody asked for it"));
        }
        if before.status == S::Pending && after.status == S::Pending && ended.is_none() {
            let is_held = after
                .error
                .as_ref()
                .is_some_and(|e| e.kind == FailureKind::Held)
                && after.run_at > before.run_at;
            return match (is_held, is_own, is_orphan) {
                (_, false, false) => Some(("P2", "it belongs to another one that lives")),
                (true, false, true) => Some(("P10", "it never had it in its hands")),
                (true, true, _) if who.can_run(self.deeds[seen.deed].function) => {
                    Some(("P10", "it can run it, and says that it cannot"))
                }
                _ => {
                    self.count(if is_held { "held" } else { "released" });
                    None
                }
            };
        }
        if before.status == S::Pending {
            if !is_own {
                return Some(("P2", "it started a task that it does not hold"));
            }
            if after.epoch <= before.epoch {
                return Some(("P4", "an attempt began without a new epoch"));
            }
            if !who.can_run(self.deeds[seen.deed].function) {
                return Some(("P10", "it cannot run it"));
            }
            if before.run_at.as_unix_ms() > crate::world::START_MS + self.now as i64 {
                return Some(("P1", "it is not due"));
            }
            if after.status == S::Running {
                return None;
            }
        } else if after.status == S::Pending && after.epoch == before.epoch.next() {
            // Stored without an answer, or by one that was taken for dead meanwhile: for all, if it surely never began.
            let attempt = seen.attempts.get(&before.epoch.get());
            let began = attempt.is_some_and(|a| a.began);
            if began {
                return Some((
                    "P3",
                    "it had begun, and is given to others as if it had not",
                ));
            }
            let is_held = after
                .error
                .as_ref()
                .is_some_and(|e| e.kind == FailureKind::Held);
            if is_held && who.can_run(self.deeds[seen.deed].function) {
                return Some(("P10", "it can run it, and says that it cannot"));
            }
            self.count(if is_held { "held" } else { "released" });
            return None;
        } else if after.epoch != before.epoch {
            return Some(("P4", "the outcome is not of the newest attempt"));
        }
        // An attempt ends.
        let returned = seen
            .attempts
            .get(&after.epoch.get())
            .and_then(|a| a.returned);
        let retries = self.deeds[seen.deed].retries;
        let ended_failed = ended.is_some_and(|ended| ended.outcome == S::Failed);
        let crashed = after.crashes > before.crashes;
        let fits = match after.status {
            S::Success => is_own && returned == Some(true),
            S::Failed if crashed => is_orphan && !once_only && after.crashes == CRASHES_MAX,
            S::Failed => is_own && returned == Some(false) && after.attempt == retries + 1,
            S::Cancelled => is_own && seen.cancel_asked && returned != Some(true),
            S::Interrupted => once_only && is_cut_off && (is_own || is_orphan),
            S::Pending if ended_failed => {
                is_own && returned == Some(false) && after.attempt <= retries
            }
            S::Pending => !once_only && is_cut_off && (is_own || is_orphan),
            _ => false,
        };
        if crashed {
            self.count("taken over while it ran");
        }
        if after.status == S::Failed && crashed {
            self.count("poisoned");
        }
        if fits {
            return None;
        }
        Some(match after.status {
            S::Pending | S::Interrupted if !(is_own || is_orphan) => {
                ("P2", "it belongs to another one that lives")
            }
            S::Pending if once_only => ("P3", "it had begun, and may not be repeated"),
            S::Interrupted if !once_only => ("P3", "it may be repeated, and is not"),
            _ => ("P4", "this is not what became of the attempt"),
        })
    }

    pub(crate) fn claimed(&mut self, who: Who, claim: &Claim, claimed: &Claimed) {
        let p = who.process;
        // No function here runs on a thread: claims for those name none.
        if !claim.names.is_empty() && claim.limit > who.concurrency {
            let what = format!(
                "p{p} claims {} tasks, with {} slots",
                claim.limit, who.concurrency
            );
            self.broken("P9", &what);
        }
        if !claimed.tasks.is_empty() && self.is_gone(claim.owner) {
            let what = format!("p{p} was taken for dead, and was given tasks");
            self.broken("P2", &what);
        }
        for task in &claimed.tasks {
            let Some(seen) = self.tasks.get_mut(&task.id) else {
                self.broken("P1", "a task was claimed that is not stored");
                continue;
            };
            let n = seen.n;
            let free = seen.life.status == TaskStatus::Pending && seen.life.owner.is_none();
            let due = seen.life.run_at <= claim.now;
            seen.life = match seen.life.crashes {
                0 => seen.life.begun(task.id, claim.owner, claim.now),
                _ => Life {
                    owner: Some(claim.owner),
                    ..seen.life.clone()
                },
            };
            seen.changed_at = self.now;
            let same = seen.life == task.life;
            if seen.life.status == TaskStatus::Running {
                let attempt = seen.attempts.entry(seen.life.epoch.get()).or_default();
                attempt.start_stored = true;
                attempt.process = p;
                attempt.identity = Some(claim.owner);
            }
            let unknown = self.deeds[seen.deed].function == Function::Rare && !who.knows_rare;
            self.step(&format!("p{p} t{n} is claimed"));
            if !free {
                self.broken("P2", &format!("p{p} claimed t{n}, which somebody holds"));
            } else if !due {
                self.broken("P1", &format!("p{p} claimed t{n}, which is not due"));
            } else if !same {
                self.broken("P1", &format!("t{n} is not what was stored"));
            } else if unknown {
                self.broken("P10", &format!("p{p} claimed t{n}, which it does not know"));
            }
        }
    }

    // ---- looks from outside ----------------------------------------------------------------------------------

    /// What must not stay for long if somebody is well.
    pub(crate) fn look(&mut self, processes: &[Who]) {
        let now = self.now;
        for who in processes {
            let inside = self.inside.get(&who.process).copied().unwrap_or_default();
            if inside < who.concurrency {
                self.free_since.entry(who.process).or_insert(now);
            } else {
                self.free_since.remove(&who.process);
            }
        }
        let can_start = |who: &&Who| {
            let free = self.free_since.get(&who.process);
            who.well_for(now, START_MAX) && free.is_some_and(|since| now - since >= START_MAX)
        };
        let idle: Vec<Who> = processes.iter().filter(can_start).copied().collect();
        let rescuer = processes.iter().any(|who| who.well_for(now, WELL_AGAIN));
        for who in processes {
            self.look_who_knows(who);
        }
        let mut wrong = None;
        for seen in self.tasks.values() {
            let since = now - seen.changed_at;
            let (n, life) = (seen.n, &seen.life);
            let gone_for = life.owner.and_then(|id| self.identities.get(&id)?.gone_at);
            let gone_for = gone_for.map(|gone_at| now - gone_at);
            if rescuer && since > TAKEOVER_MAX && gone_for.is_some_and(|ms| ms > TAKEOVER_MAX) {
                wrong = Some(format!("t{n} is in the hands of a dead one for {since} ms"));
                break;
            }
            if life.status != TaskStatus::Pending || life.crashes > 0 {
                continue; // what may have killed its process waits until it can run alone
            }
            let due_ms = life.run_at.as_unix_ms() - crate::world::START_MS;
            let due_for = (now as i64 - due_ms).max(0) as Moment;
            let function = self.deeds[seen.deed].function;
            let owner = life.owner.and_then(|id| self.process_of(id));
            let who = |who: &&Who| match owner {
                Some(owner) => owner == who.process && gone_for.is_none(),
                // One that cannot read the arguments may come first each time.
                None => who.can_run(function) && function != Function::Shape,
            };
            if since.min(due_for) > START_MAX
                && let Some(who) = idle.iter().find(who)
            {
                let holds = if owner.is_some() {
                    "holds"
                } else {
                    "does not take"
                };
                wrong = Some(format!(
                    "t{n} is due for {due_for} ms, and p{} has a free slot and {holds} it",
                    who.process
                ));
                break;
            }
        }
        if let Some(wrong) = wrong {
            self.broken("P6", &wrong);
        }
        if rescuer {
            let look = |it: &Slots| {
                let wrong = it.look(now, |id| self.tasks.get(&id)?.ended_at())?;
                Some(format!("schedule {}: {wrong}", it.of.name))
            };
            if let Some(wrong) = self.schedules.iter().find_map(look) {
                self.broken("P7", &wrong);
            }
        }
    }

    /// An instance that was taken for dead hears of it, stops what it runs and goes on as another.
    fn look_who_knows(&mut self, who: &Who) {
        let (now, p) = (self.now, who.process);
        if !who.well_for(now, STOP_MAX) {
            return;
        }
        let Some((identity, since)) = who.identity else {
            return;
        };
        let gone_at = self.identities.get(&identity).and_then(|it| it.gone_at);
        if who.well_for(now, WELL_AGAIN)
            && gone_at.is_some_and(|gone_at| now - gone_at > WELL_AGAIN)
        {
            self.broken(
                "P6",
                &format!("p{p} was taken for dead and does not notice"),
            );
        }
        let runs_on = |seen: &&Seen| {
            let former = |attempt: &Attempt| {
                let is_of_process = attempt.inside && attempt.process == p;
                is_of_process && attempt.identity.is_some_and(|id| id != identity)
            };
            seen.attempts.values().any(former)
        };
        if now - since > STOP_MAX
            && let Some(n) = self.tasks.values().find(runs_on).map(|seen| seen.n)
        {
            self.broken(
                "P2",
                &format!("t{n} runs on in p{p}, which was taken for dead"),
            );
        }
    }

    /// A process that was well has shut down.
    pub(crate) fn shut_down(&mut self, process: usize) {
        let holds = |seen: &&Seen| {
            let owner = seen.life.owner.and_then(|id| self.process_of(id));
            owner == Some(process)
        };
        if let Some(n) = self.tasks.values().find(holds).map(|seen| seen.n) {
            self.broken(
                "P6",
                &format!("p{process} shut down and did not hand over t{n}"),
            );
        }
    }

    /// Compares everything with the store.
    pub(crate) fn compare(&mut self, stored: impl Fn(TaskId) -> Option<Task>) {
        for (id, seen) in &self.tasks {
            let task = stored(*id);
            if task.as_ref().map(|task| &task.life) != Some(&seen.life) {
                let what = format!("t{} should be {:?} and is {task:?}", seen.n, seen.life);
                return self.broken("P1", &what);
            }
        }
    }

    /// Tasks that have not ended, oldest first.
    pub(crate) fn live(&self) -> Vec<TaskId> {
        let live = |(id, seen): (&TaskId, &Seen)| (!seen.life.status.is_terminal()).then_some(*id);
        self.tasks.iter().filter_map(live).collect()
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.tasks
            .values()
            .all(|seen| seen.life.status.is_terminal())
    }

    /// After everything is well again and time has passed.
    pub(crate) fn finish(&mut self) {
        for seen in self.tasks.values() {
            if !seen.life.status.is_terminal() {
                let owner = seen.life.owner.and_then(|id| self.process_of(id));
                let what = format!(
                    "t{} never ended: it is {} e{}, in the hands of {owner:?}, deed {:?}",
                    seen.n, seen.life.status, seen.life.epoch, self.deeds[seen.deed]
                );
                return self.broken("P1", &what);
            }
        }
        let ends: Vec<&'static str> = self
            .tasks
            .values()
            .map(|seen| seen.life.status.as_str())
            .collect();
        ends.into_iter().for_each(|status| self.count(status));
    }
}

/// True if a change of a waiting task has the whole of an attempt in it.
fn was_run(change: &Change) -> bool {
    change.life.status.is_terminal() && change.life.started_at.is_some()
}
