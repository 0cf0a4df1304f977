//! Reads what happened, and names each promise that was broken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use axum_taskflow::{InstanceId, Task, TaskId, TaskStatus};

use super::{
    effects::{Effect, Moment},
    errand::{Cancel, Errand},
    history::{Gone, History, Life, Pause},
    report::Report,
};

/// How long what a dead process left may lie. A second is what is promised on a machine that has time for it; where
/// tests run side by side, a process may wait for a processor that long.
const TAKEOVER_MAX_MS: u64 = 5_000;
/// The same on Redis, from the end of the lease on: nobody sees a death there, only that nothing is heard any more.
const AFTER_LEASE_MAX_MS: u64 = 2_000;
/// How long a process that was stopped may need to notice that its lease is over, once it goes on.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// Reads what happened.
#[must_use]
pub fn check(history: &History) -> Report {
    let stored: HashMap<TaskId, &Task> =
        history.stored.iter().map(|task| (task.id, task)).collect();
    let spans = spans(&history.effects);
    let mut checker = Checker {
        history,
        deaths: deaths(history),
        instances: HashMap::new(),
        report: Report::of(history),
    };
    for (n, id) in &history.accepted {
        if !stored.contains_key(id) {
            checker.report.lost += 1;
            let what = format!("task {id} of errand {n} was accepted and is not stored");
            checker.report.broken("P1", what);
        }
    }
    for id in spans.keys().filter(|id| !stored.contains_key(id)) {
        let what = format!("task {id} ran and is not stored");
        checker.report.broken("P1", what);
    }
    checker.check_orders(&stored);
    let none = Vec::new();
    let of = |task: &Task| spans.get(&task.id).unwrap_or(&none);
    for task in &history.stored {
        checker.learn_instances(task, of(task));
    }
    for task in &history.stored {
        checker.check_end(task, of(task));
        checker.check_spans(task, of(task));
        checker.check_takeover(task, of(task));
    }
    for (id, cancel, at) in &history.cancels {
        if let Some(task) = stored.get(id).filter(|_| *cancel == Cancel::Done) {
            checker.check_cancelled(task, of(task), *at);
        }
    }
    checker.report
}

/// One call of a task's function.
#[derive(Debug)]
struct Span<'a> {
    begin: &'a Effect,
    /// How it ended, if it did.
    end: Option<&'a Effect>,
}

impl Span<'_> {
    fn ended_as(&self, what: &str) -> bool {
        self.end.is_some_and(|end| end.what == what)
    }
}

fn spans(effects: &[Effect]) -> HashMap<TaskId, Vec<Span<'_>>> {
    let mut spans: HashMap<TaskId, Vec<Span<'_>>> = HashMap::new();
    for effect in effects {
        let of_task = spans.entry(effect.id).or_default();
        match &*effect.what {
            "began" => of_task.push(Span {
                begin: effect,
                end: None,
            }),
            "ended" | "failed" | "dropped" => {
                let is_its = |span: &&mut Span<'_>| {
                    let begin = span.begin;
                    (begin.pid, begin.epoch) == (effect.pid, effect.epoch) && span.end.is_none()
                };
                if let Some(span) = of_task.iter_mut().find(is_its) {
                    span.end = Some(effect);
                }
            }
            _ => {}
        }
    }
    spans
}

/// From when on others may run what each process ran. Numbers of processes come back, so each has a list.
fn deaths(history: &History) -> HashMap<u32, Vec<Moment>> {
    let mut lines: HashMap<u32, Vec<Moment>> = HashMap::new();
    for effect in &history.effects {
        lines.entry(effect.pid).or_default().push(effect.at);
    }
    let mut deaths: HashMap<u32, Vec<Moment>> = HashMap::new();
    for life in &history.lives {
        deaths
            .entry(life.pid)
            .or_default()
            .extend(death(life, &lines));
    }
    // Some wrote and never came to listen.
    for (pid, lines) in lines {
        deaths
            .entry(pid)
            .or_insert_with(|| lines.last().copied().into_iter().collect());
    }
    deaths
}

/// The first moment at which this process can have been dead: not before it was killed, nor before its last line.
fn death(life: &Life, lines: &HashMap<u32, Vec<Moment>>) -> Option<Moment> {
    let (gone, how) = life.gone?;
    let mine = lines.get(&life.pid).map_or(&[][..], |it| it);
    let n_before = mine.partition_point(|line| line.mono_us <= gone.mono_us);
    let last_line = n_before.checked_sub(1).map(|n| mine[n]);
    let not_before = match how {
        Gone::Killed => life.told?,
        Gone::Ended => gone,
        Gone::Fell => life.from,
    };
    let moments = last_line.into_iter().chain([not_before]);
    moments.max_by_key(|it| it.mono_us)
}

struct Checker<'a> {
    history: &'a History,
    deaths: HashMap<u32, Vec<Moment>>,
    /// The process of each instance, as the epochs of what it ran tell it.
    instances: HashMap<InstanceId, u32>,
    report: Report,
}

impl Checker<'_> {
    /// The end of the process that wrote this.
    fn death_of(&self, writer: &Effect) -> Option<Moment> {
        let deaths = self.deaths.get(&writer.pid)?;
        let is_later = |dead: &&Moment| dead.mono_us >= writer.at.mono_us;
        deaths.iter().find(is_later).copied()
    }

    /// An order makes one task, also one whose answer was lost, and so do all orders of one key.
    fn check_orders(&mut self, stored: &HashMap<TaskId, &Task>) {
        let mut made: BTreeMap<u64, BTreeSet<TaskId>> = BTreeMap::new();
        for task in &self.history.stored {
            match serde_json::from_str::<(Errand,)>(&task.args) {
                Ok((errand,)) => {
                    made.entry(errand.n).or_default().insert(task.id);
                }
                Err(error) => {
                    let what = format!("task {} has no readable arguments: {error}", task.id);
                    self.report.broken("P1", what);
                }
            }
        }
        for (n, id) in &self.history.accepted {
            let is_of_order = made.get(n).is_some_and(|ids| ids.contains(id));
            if stored.contains_key(id) && !is_of_order {
                let what = format!("task {id} was accepted for errand {n} and is another one");
                self.report.broken("P1", what);
            }
        }
        for (n, ids) in made {
            let is_keyed = self.history.errands.get(&n).is_some_and(|it| it.keyed);
            // A key is free again once its task was interrupted.
            let keeps = |id: &&TaskId| stored[*id].life.status != TaskStatus::Interrupted;
            let n_kept = match is_keyed {
                true => ids.iter().filter(keeps).count(),
                false => ids.len(),
            };
            if n_kept > 1 {
                let what = format!("errand {n} made {} tasks: {ids:?}", ids.len());
                self.report.broken("P5", what);
            }
        }
    }

    /// An instance is one process: what is stored of an attempt and what the attempt wrote name the same one.
    fn learn_instances(&mut self, task: &Task, spans: &[Span<'_>]) {
        let past = task.past_attempts.iter().map(|it| (it.epoch, it.instance));
        let attempts = past.chain([(task.life.epoch, task.life.instance)]);
        for (epoch, instance) in attempts {
            let span = spans.iter().find(|span| span.begin.epoch == epoch.get());
            let (Some(span), Some(instance)) = (span, instance) else {
                continue;
            };
            let pid = span.begin.pid;
            let known = *self.instances.entry(instance).or_insert(pid);
            if known != pid {
                let what = format!(
                    "task {} ran in process {pid}, and stored is instance {instance}, which is process {known}",
                    task.id
                );
                self.report.broken("P4", what);
            }
        }
    }

    /// Every task comes to one end, and to the one that its function came to.
    fn check_end(&mut self, task: &Task, spans: &[Span<'_>]) {
        let (id, status, epoch) = (task.id, task.life.status, task.life.epoch.get());
        let ended = |span: &&Span<'_>| span.ended_as("ended");
        match status {
            TaskStatus::Success => {
                let ends = spans.iter().filter(ended);
                let epochs: Vec<u32> = ends.map(|span| span.begin.epoch).collect();
                if epochs.is_empty() {
                    let what = format!("task {id} is a success and never ended");
                    self.report.broken("P1", what);
                } else if !epochs.contains(&epoch) {
                    let what = format!(
                        "task {id} succeeded by epoch {epoch}, and ended in those of {epochs:?}"
                    );
                    self.report.broken("P4", what);
                }
                if let Some(late) = spans.iter().find(|span| span.begin.epoch > epoch) {
                    let what = format!(
                        "task {id} succeeded by epoch {epoch}, and began in epoch {}",
                        late.begin.epoch
                    );
                    self.report.broken("P4", what);
                }
            }
            TaskStatus::Interrupted => self.check_interrupted(task, spans),
            TaskStatus::Cancelled => {
                let wished = |(of, _, _): &(TaskId, Cancel, Moment)| *of == id;
                if !self.history.cancels.iter().any(wished) {
                    let what = format!("task {id} is cancelled, which nobody wished");
                    self.report.broken("P1", what);
                }
            }
            status if !status.is_terminal() => {
                let what = format!("task {id} is {status} when all is calm");
                self.report.broken("P1", what);
            }
            status => {
                let what = format!("task {id} is {status}, and was to succeed");
                self.report.broken("P1", what);
            }
        }
    }

    /// Only what had begun in a process that ended is interrupted, and only if it may not be repeated.
    fn check_interrupted(&mut self, task: &Task, spans: &[Span<'_>]) {
        let id = task.id;
        if task.requeue_on_interrupt {
            let what = format!("task {id} may be repeated, and was left interrupted");
            self.report.broken("P3", what);
        }
        // Its start may be stored and its first line not be reached: then its instance tells who ran it.
        let of_epoch = |span: &&Span<'_>| span.begin.epoch == task.life.epoch.get();
        let by_line = spans.iter().find(of_epoch).map(|span| span.begin.pid);
        let by_name = || self.instances.get(&task.life.instance?).copied();
        let Some(pid) = by_line.or_else(by_name) else {
            return; // of a process that ended before any of its tasks wrote a line
        };
        let finished_us = task.life.finished_at.map_or(0, |at| wall_us(at) + 999);
        let may_have_ended = |life: &Life| {
            let told = life.told.is_some_and(|told| told.wall_us <= finished_us);
            let fell = life.gone.is_some_and(|(_, how)| how == Gone::Fell);
            life.pid == pid && (told || fell)
        };
        let lives = &self.history.lives;
        let is_known = lives.iter().any(|life| life.pid == pid);
        let was_given_up = self.was_given_up(pid, finished_us);
        if is_known && !was_given_up && !lives.iter().any(may_have_ended) {
            let what = format!("task {id} is interrupted, and its process {pid} lived");
            self.report.broken("P1", what);
        }
    }

    /// True if a lease may have ended although its process lived: it was stopped, or could not reach the server. Three
    /// quarters of a lease without a beat are needed, and the last beat is less than a quarter of a lease old when such
    /// a pause begins.
    fn was_given_up(&self, pid: u32, at_us: u64) -> bool {
        let Some(lease) = self.history.lease else {
            return false;
        };
        let pauses = self.history.stops.iter().chain(&self.history.outages);
        let mut of_process = pauses.filter(|it| it.pid.is_none_or(|of| of == pid));
        let soon = micros(lease) + AFTER_LEASE_MAX_MS * 1_000;
        of_process.any(|it| {
            it.until.mono_us - it.from.mono_us >= micros(lease) / 4
                && it.from.wall_us <= at_us
                && at_us <= it.until.wall_us + soon
        })
    }

    /// True if this process could not know all the time, in this time, that its lease was over: it was stopped, and
    /// nothing can end a function of a process that is stopped, nor in the moment in which it goes on. What it writes
    /// then has to be stale. Narrow: it begins when the lease can be over at the earliest, a quarter of a lease after
    /// the stop, since up to then the instance ends its functions by itself; so a stop that is shorter excuses nothing.
    /// And a link that was cut excuses nothing at all: the instance knows of that.
    fn cannot_know(&self, pid: u32, from: Moment, until: Moment) -> bool {
        let Some(lease) = self.history.lease else {
            return false;
        };
        let mut stops = self.history.stops.iter().filter(|it| it.pid == Some(pid));
        stops.any(
            |Pause {
                 from: stop,
                 until: go,
                 ..
             }| {
                let earliest = stop.mono_us + micros(lease) / 4;
                earliest <= go.mono_us
                    && earliest <= from.mono_us
                    && until.mono_us <= go.mono_us + micros(NOTICED_WITHIN)
            },
        )
    }

    /// Nobody runs what another runs, and what had begun is repeated only if it may be.
    fn check_spans(&mut self, task: &Task, spans: &[Span<'_>]) {
        let id = task.id;
        for (n, after) in spans.iter().enumerate() {
            let second = after.begin;
            for before in &spans[..n] {
                let first = before.begin;
                let end = before.end.map(|end| end.at);
                let over = end.into_iter().chain(self.death_of(first));
                let over = over.min_by_key(|at| at.mono_us);
                if over.is_some_and(|over| over.mono_us <= second.at.mono_us) {
                    continue;
                }
                // The one that was given to somebody else is the one with the lower epoch.
                let is_excused = match first.epoch < second.epoch {
                    true => over.is_some_and(|it| self.cannot_know(first.pid, second.at, it)),
                    false => self.cannot_know(second.pid, second.at, second.at),
                };
                if !is_excused {
                    let what = format!(
                        "task {id} began in process {} while process {} ran it",
                        second.pid, first.pid
                    );
                    self.report.broken("P2", what);
                }
            }
            let Some(before) = n.checked_sub(1).map(|n| &spans[n]) else {
                continue;
            };
            let first = before.begin;
            if second.epoch <= first.epoch {
                if second.epoch < first.epoch && self.cannot_know(second.pid, second.at, second.at)
                {
                    continue; // its start was stored before its process was stopped
                }
                let what = format!(
                    "task {id} began in epoch {} after epoch {}",
                    second.epoch, first.epoch
                );
                self.report.broken("P4", what);
            }
            // A failure that was not stored before its process died counts as an interruption: only the next attempt
            // shows that it was.
            let is_retry = before.ended_as("failed") && second.attempt == first.attempt + 1;
            if !task.requeue_on_interrupt && !is_retry {
                let what = format!("task {id} had begun, and was repeated");
                self.report.broken("P3", what);
            }
        }
    }

    /// What was cancelled stays so, and does not begin any more.
    fn check_cancelled(&mut self, task: &Task, spans: &[Span<'_>], at: Moment) {
        let (id, status) = (task.id, task.life.status);
        if status != TaskStatus::Cancelled {
            let what = format!("task {id} was cancelled, and is {status}");
            self.report.broken("P1", what);
        }
        // The start of one that may be repeated need not be stored before it begins: it is told to stop.
        let is_later = |span: &Span<'_>| span.begin.at.mono_us > at.mono_us;
        if !task.requeue_on_interrupt && spans.iter().any(is_later) {
            let what = format!("task {id} was cancelled, and began afterwards");
            self.report.broken("P1", what);
        }
    }

    /// What a dead process left is taken over soon.
    fn check_takeover(&mut self, task: &Task, spans: &[Span<'_>]) {
        let past = task.past_attempts.iter().map(|it| {
            let at = Some(it.finished_at);
            (it.epoch, it.outcome, at, &it.error)
        });
        let life = &task.life;
        let last = (life.epoch, life.status, life.finished_at, &life.error);
        for (epoch, outcome, at, error) in past.chain([last]) {
            let is_takeover = outcome == TaskStatus::Interrupted
                && error.as_ref().is_some_and(|it| it.message == BY_DEATH);
            let span = spans.iter().find(|span| span.begin.epoch == epoch.get());
            let (true, Some(span), Some(at)) = (is_takeover, span, at) else {
                continue;
            };
            let Some(died) = self.death_of(span.begin) else {
                continue;
            };
            let waited_ms = self.waited_us(span.begin.pid, died.wall_us, wall_us(at)) / 1_000;
            self.report.takeovers_ms.push(waited_ms);
            let limit_ms = match self.history.lease {
                Some(lease) => micros(lease) / 1_000 + AFTER_LEASE_MAX_MS,
                None => TAKEOVER_MAX_MS,
            };
            if waited_ms > limit_ms {
                let what = format!(
                    "task {} waited {waited_ms} ms after the death of process {}",
                    task.id, span.begin.pid
                );
                self.report.broken("P6", what);
            }
        }
    }

    /// The part of this time in which somebody was there to take over: another process listened, and none was stopped,
    /// since one that is stopped in the middle of a write holds the others up. And the server could be reached.
    fn waited_us(&self, pid: u32, from: u64, until: u64) -> u64 {
        let lives = self.history.lives.iter();
        let there: Vec<(u64, u64)> = lives
            .filter(|life| life.pid != pid)
            .map(|life| {
                let by_itself = || self.deaths.get(&life.pid).and_then(|it| it.last().copied());
                let until = life.told.or_else(by_itself);
                (life.from.wall_us, until.map_or(u64::MAX, |it| it.wall_us))
            })
            .filter(|it| it.0 < until && from < it.1)
            .collect();
        let stops = self.history.stops.iter().chain(&self.history.outages);
        let stops: Vec<(u64, u64)> = stops
            .map(|it| (it.from.wall_us, it.until.wall_us))
            .filter(|it| it.0 < until && from < it.1)
            .collect();
        let mut marks: Vec<u64> = there
            .iter()
            .chain(&stops)
            .flat_map(|it| [it.0, it.1])
            .chain([from, until])
            .filter(|mark| (from..=until).contains(mark))
            .collect();
        marks.sort_unstable();
        let covers = |part: &[u64], all: &[(u64, u64)]| {
            all.iter().any(|it| it.0 <= part[0] && part[1] <= it.1)
        };
        let counts = |part: &&[u64]| covers(part, &there) && !covers(part, &stops);
        let parts = marks.windows(2).filter(counts);
        parts.map(|part| part[1] - part[0]).sum()
    }
}

/// What the engine says of an attempt whose process died.
const BY_DEATH: &str = "the process died while this ran";

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn wall_us(at: axum_taskflow::Timestamp) -> u64 {
    u64::try_from(at.as_unix_ms()).unwrap_or(0) * 1_000
}

#[cfg(test)]
mod tests;
