//! Reads what happened, and names each promise that was broken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use axum_taskflow::{Task, TaskId, TaskStatus};

use super::{driver::History, effects::Effect};

/// A promise of `docs/promises.md` that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `P1` to `P6`.
    pub promise: &'static str,
    /// By what.
    pub what: String,
}

/// What came of a laboratory.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Orders that were answered with an id.
    pub accepted: u64,
    /// Orders without an answer.
    pub unknown: u64,
    /// Tasks that are stored.
    pub stored: u64,
    /// Tasks by what they came to.
    pub by_status: BTreeMap<&'static str, u64>,
    /// Tasks that began more than once because that was allowed: retries and repeats.
    pub repeated: u64,
    /// Accepted tasks that are not stored.
    pub lost: u64,
    /// Kills, ends, stops, aborts.
    pub faults: [u64; 4],
    /// The longest from the death of a process to the moment when its task was taken over, in milliseconds.
    pub takeover_max_ms: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
}

/// One call of a task's function.
#[derive(Debug)]
struct Span<'a> {
    begin: &'a Effect,
    /// How it ended, if it did.
    end: Option<&'a Effect>,
}

/// Reads what happened.
#[must_use]
pub fn check(history: &History) -> Report {
    let mut report = Report {
        accepted: history.accepted.len() as u64,
        unknown: history.unknown,
        stored: history.stored.len() as u64,
        faults: [
            history.n_kills,
            history.n_terms,
            history.n_stops,
            history.n_aborts,
        ],
        ..Report::default()
    };
    let deaths = deaths(history);
    let spans = spans(&history.effects);
    let stored: HashMap<TaskId, &Task> =
        history.stored.iter().map(|task| (task.id, task)).collect();

    for (n, id) in &history.accepted {
        if !stored.contains_key(id) {
            report.lost += 1;
            report.broken(
                "P1",
                format!("task {id} of errand {n} was accepted and is not stored"),
            );
        }
    }
    report.check_keys(history);
    let none = Vec::new();
    for task in &history.stored {
        let spans = spans.get(&task.id).unwrap_or(&none);
        *report
            .by_status
            .entry(task.life.status.as_str())
            .or_default() += 1;
        report.repeated += u64::from(spans.len() > 1);
        report.check_end(task, spans);
        report.check_spans(task, spans, &deaths);
        report.check_takeover(task, spans, &deaths);
    }
    report
}

/// When each process was dead or dying: from then on another may run its tasks.
fn deaths(history: &History) -> HashMap<u32, u64> {
    let mut deaths = history.ended_at_us.clone();
    for effect in history.effects.iter().filter(|e| e.what == "aborting") {
        let death = deaths.entry(effect.pid).or_insert(effect.at_us);
        *death = effect.at_us.min(*death);
    }
    deaths
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
            "ended" | "failed" => {
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

impl Report {
    fn broken(&mut self, promise: &'static str, what: String) {
        self.violations.push(Violation { promise, what });
    }

    /// One task for each key.
    fn check_keys(&mut self, history: &History) {
        let mut ids: BTreeMap<u64, BTreeSet<TaskId>> = BTreeMap::new();
        for (n, id) in &history.accepted {
            ids.entry(*n).or_default().insert(*id);
        }
        let status: HashMap<TaskId, TaskStatus> = history
            .stored
            .iter()
            .map(|task| (task.id, task.life.status))
            .collect();
        for (n, ids) in ids {
            // A key is free again once its task was interrupted.
            let n_kept = ids
                .iter()
                .filter(|id| status.get(id) != Some(&TaskStatus::Interrupted))
                .count();
            if n_kept > 1 {
                self.broken(
                    "P5",
                    format!("errand {n} made {} tasks: {ids:?}", ids.len()),
                );
            }
        }
    }

    /// Every task comes to one end, and to the one that its function came to.
    fn check_end(&mut self, task: &Task, spans: &[Span<'_>]) {
        let (id, status) = (task.id, task.life.status);
        let has_ended = |span: &Span<'_>| span.end.is_some_and(|end| end.what == "ended");
        if !status.is_terminal() {
            self.broken("P1", format!("task {id} is {status} when all is calm"));
        }
        if status == TaskStatus::Success && !spans.iter().any(has_ended) {
            self.broken("P1", format!("task {id} is a success and never ended"));
        }
        if status == TaskStatus::Failed {
            self.broken("P1", format!("task {id} failed, and was to succeed"));
        }
        let last = spans.iter().max_by_key(|span| span.begin.epoch);
        if let Some(last) = last
            && status == TaskStatus::Success
            && task.life.epoch.get() != last.begin.epoch
        {
            let stored = task.life.epoch;
            let what = format!(
                "task {id} succeeded by epoch {stored}, and began in epoch {}",
                last.begin.epoch
            );
            self.broken("P4", what);
        }
    }

    /// Nobody runs what another runs, and what had begun is repeated only if it may be.
    fn check_spans(&mut self, task: &Task, spans: &[Span<'_>], deaths: &HashMap<u32, u64>) {
        for pair in spans.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let (id, first, second) = (task.id, before.begin, after.begin);
            if second.epoch <= first.epoch {
                let what = format!(
                    "task {id} began in epoch {} after epoch {}",
                    second.epoch, first.epoch
                );
                self.broken("P4", what);
            }
            let ended = before.end.is_some_and(|end| end.at_us <= second.at_us);
            let dead = deaths
                .get(&first.pid)
                .is_some_and(|died| *died <= second.at_us);
            if !ended && !dead {
                let what = format!(
                    "task {id} began in process {} while process {} ran it",
                    second.pid, first.pid
                );
                self.broken("P2", what);
            }
            let has_failed = before.end.is_some_and(|end| end.what == "failed");
            if !task.requeue_on_interrupt && !has_failed {
                self.broken("P3", format!("task {id} had begun, and was repeated"));
            }
        }
    }

    /// What a dead process left is taken over soon.
    fn check_takeover(&mut self, task: &Task, spans: &[Span<'_>], deaths: &HashMap<u32, u64>) {
        let by_death = |error: &str| error == "the process died while this ran";
        let error = task.life.error.as_ref();
        if task.life.status == TaskStatus::Interrupted
            && error.is_some_and(|error| by_death(&error.message))
            && let Some(last) = spans.last()
            && let Some(died) = deaths.get(&last.begin.pid)
            && let Some(at) = task.life.finished_at
        {
            let at_us = u64::try_from(at.as_unix_ms()).unwrap_or(0) * 1_000;
            self.takeover_max_ms = self
                .takeover_max_ms
                .max(at_us.saturating_sub(*died) / 1_000);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kills, terms, stops, aborts] = self.faults;
        writeln!(
            f,
            "faults     {kills} kills, {terms} clean ends, {stops} stops, {aborts} aborts in a task"
        )?;
        writeln!(
            f,
            "orders     {} accepted, {} without an answer",
            self.accepted, self.unknown
        )?;
        write!(f, "stored     {} tasks:", self.stored)?;
        for (status, n) in &self.by_status {
            write!(f, " {n} {status}")?;
        }
        writeln!(f)?;
        writeln!(f, "repeated   {} tasks, all of which may be", self.repeated)?;
        writeln!(f, "takeover   {} ms at most", self.takeover_max_ms)?;
        writeln!(f, "lost       {}", self.lost)?;
        match self.violations.len() {
            0 => writeln!(f, "every promise was kept"),
            n => {
                writeln!(f, "{n} times a promise was broken:")?;
                for Violation { promise, what } in self.violations.iter().take(20) {
                    writeln!(f, "  {promise}: {what}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "this is test code")]
mod tests {
    use axum_taskflow::{Change, Epoch, IdSource, Outcome, RetryPolicy, Timestamp};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

    /// A task that was accepted, ran once in process 1 and succeeded.
    fn good() -> History {
        let ids = IdSource::default();
        let mut task = Task::new(ids.task(NOW), "f", "[]");
        let start = Change::started(&task, ids.instance(NOW), NOW).unwrap();
        task.life = start.life;
        let done = Outcome::Done(None);
        let end = Change::finished(&task, done, &RetryPolicy::default(), 0.0, NOW).unwrap();
        task.life = end.life;
        History {
            accepted: vec![(0, task.id)],
            effects: vec![
                effect(&task, 1, 1, 10, "began"),
                effect(&task, 1, 1, 20, "ended"),
            ],
            stored: vec![task],
            ..History::default()
        }
    }

    fn effect(task: &Task, pid: u32, epoch: u32, at_us: u64, what: &str) -> Effect {
        Effect {
            id: task.id,
            attempt: 1,
            epoch,
            pid,
            at_us,
            what: what.to_owned(),
            label: "0".to_owned(),
        }
    }

    fn broken(history: &History) -> Vec<&'static str> {
        let report = check(history);
        report.violations.iter().map(|it| it.promise).collect()
    }

    #[test]
    fn what_went_well_breaks_no_promise() {
        assert_eq!(broken(&good()), [""; 0]);
    }

    #[test]
    fn an_accepted_task_that_is_not_stored_is_lost() {
        let mut history = good();
        history.stored.clear();

        assert_eq!(broken(&history), ["P1"]);
        assert_eq!(check(&history).lost, 1);
    }

    #[test]
    fn a_task_that_never_ends_and_a_success_that_never_ran_break_p1() {
        let mut waits = good();
        waits.stored[0].life.status = TaskStatus::Pending;
        let mut never_ran = good();
        never_ran.effects.clear();

        assert_eq!(broken(&waits), ["P1"]);
        assert_eq!(broken(&never_ran), ["P1"]);
    }

    /// As good, and it begins once more in process 2 at 15, while process 1 runs it.
    fn twice() -> History {
        let mut history = good();
        let task = &mut history.stored[0];
        task.requeue_on_interrupt = true;
        task.life.epoch = Epoch::from_u32(2);
        history.effects.push(effect(task, 2, 2, 15, "began"));
        history.effects.push(effect(task, 2, 2, 30, "ended"));
        history.effects.sort_by_key(|effect| effect.at_us);
        history
    }

    #[test]
    fn two_processes_that_run_one_task_break_p2_unless_one_is_dead() {
        let mut history = twice();
        assert_eq!(broken(&history), ["P2"]);

        history.ended_at_us.insert(1, 12);
        assert_eq!(broken(&history), [""; 0]);
    }

    #[test]
    fn a_repeat_that_was_not_allowed_breaks_p3() {
        let mut history = twice();
        history.ended_at_us.insert(1, 12);
        history.stored[0].requeue_on_interrupt = false;

        assert_eq!(broken(&history), ["P3"]);
    }

    #[test]
    fn an_epoch_that_does_not_grow_and_a_stale_result_break_p4() {
        let mut same = twice();
        same.ended_at_us.insert(1, 12);
        for effect in &mut same.effects {
            effect.epoch = 2;
        }
        let mut stale = twice();
        stale.ended_at_us.insert(1, 12);
        stale.stored[0].life.epoch = Epoch::from_u32(1);

        assert_eq!(broken(&same), ["P4"]);
        assert_eq!(broken(&stale), ["P4"]);
    }

    #[test]
    fn two_tasks_of_one_key_break_p5() {
        let (mut history, other) = (good(), good());
        history.accepted.extend(other.accepted);
        history.effects.extend(other.effects);
        history.stored.extend(other.stored);

        assert_eq!(broken(&history), ["P5"]);
    }
}
