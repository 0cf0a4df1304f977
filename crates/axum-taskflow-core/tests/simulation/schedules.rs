//! Schedules that all programs have, and what is promised of them: each slot that comes is decided on once, and as the
//! schedule says.

use std::{collections::BTreeSet, time::Duration};

use axum_taskflow_core::{
    Missed, Overlap, Paused, Schedule, Step, Task, TaskId, TaskOptions, Timestamp, Totals,
};
use fastrand::Rng;
use serde::Deserialize;

use crate::{
    checker::Moment,
    world::{Deed, START_MS, work},
};

/// What makes up for all slots that were missed.
const ALL: Missed = Missed::FireAll {
    max: 1_000,
    within: Duration::from_secs(3_600),
};
/// A slot that has come is decided on by then, if somebody is well; so is one that waits and can fire.
const DECIDED_MAX: Moment = 2_000;

/// What every program says of one schedule. Its slots are the multiples of a time, and so easily told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    pub(crate) name: &'static str,
    /// What its tasks do.
    pub(crate) deed: usize,
    /// By a cron expression, or by an interval.
    is_cron: bool,
    every_ms: i64,
    missed: Missed,
    overlap: Overlap,
    tolerance_ms: i64,
}

impl Timetable {
    pub(crate) fn drawn(rng: &mut Rng, name: &'static str, deed: usize) -> Self {
        let is_cron = rng.bool();
        Self {
            name,
            deed,
            is_cron,
            every_ms: match is_cron {
                true => [3_000, 4_000, 5_000, 10_000][rng.usize(0..4)], // parts of a minute
                false => rng.i64(2_000..8_000),
            },
            missed: [Missed::FireOnce, Missed::Skip, ALL][rng.usize(0..3)],
            overlap: [Overlap::Allow, Overlap::Skip, Overlap::QueueOne][rng.usize(0..3)],
            tolerance_ms: rng.i64(200..4_000),
        }
    }

    pub(crate) fn schedule(&self, deed: &Deed) -> Schedule {
        let options = TaskOptions {
            retries: Some(deed.retries),
            delay: Some(Duration::from_millis(deed.retry_delay_ms)),
            priority: Some(deed.priority),
            requeue_on_interrupt: Some(deed.requeue),
            ..TaskOptions::default()
        };
        let schedule = Schedule::new(work, self.deed)
            .name(self.name)
            .tag("deed", self.deed.to_string())
            .options(options)
            .missed(self.missed)
            .overlap(self.overlap)
            .tolerance(Duration::from_millis(self.tolerance_ms.unsigned_abs()));
        match self.is_cron {
            true => schedule.cron(format!("*/{} * * * * *", self.every_ms / 1_000)),
            false => schedule.every(Duration::from_millis(self.every_ms.unsigned_abs())),
        }
    }

    fn after(&self, at_ms: i64) -> i64 {
        (at_ms.div_euclid(self.every_ms) + 1) * self.every_ms
    }
}

/// The part of a stored schedule that is looked at.
#[derive(Deserialize)]
struct Stored {
    by: TaskId,
    next: Option<Timestamp>,
    queued: Option<Timestamp>,
    paused: Option<Paused>,
    totals: Totals,
}

/// What became of the slots of a schedule.
pub(crate) struct Slots {
    pub(crate) of: Timetable,
    /// How it was stored last; nothing before it was.
    stored: Option<Stored>,
    fired: BTreeSet<i64>,
    tasks: Vec<TaskId>,
}

impl Slots {
    pub(crate) fn of(of: Timetable) -> Self {
        Self {
            of,
            stored: None,
            fired: BTreeSet::new(),
            tasks: Vec::new(),
        }
    }

    /// The schedule is stored as `value`, in one step with its tasks. `ended_at` says when a task has ended. The answer
    /// is what happened, for the counters.
    pub(crate) fn stepped(
        &mut self,
        value: &str,
        step: &Step,
        ended_at: impl Fn(TaskId) -> Option<Moment>,
    ) -> Result<Vec<&'static str>, String> {
        let stored: Stored = serde_json::from_str(value).map_err(|error| error.to_string())?;
        let now_ms = step.now.as_unix_ms();
        let ms = |at: Option<Timestamp>| at.map(Timestamp::as_unix_ms);
        let next = ms(stored.next).ok_or("it has no next slot")?;
        let fires: Vec<i64> = step.tasks.iter().filter_map(|task| slot_of(task)).collect();
        if fires.len() != step.tasks.len() {
            return Err("it made a task for no slot".to_owned());
        }
        let Some(before) = &self.stored else {
            let first = self.of.after(now_ms);
            if next != first || !fires.is_empty() {
                return Err(format!(
                    "it begins with {next} and {fires:?}, and not with {first}"
                ));
            }
            self.stored = Some(stored);
            return Ok(Vec::new());
        };
        if before.by == stored.by {
            return Ok(Vec::new()); // the same step arrives again
        }
        let (was_queued, is_queued) = (ms(before.queued), ms(stored.queued));
        let first = ms(before.next).ok_or("it had no next slot")?;
        if next < first {
            return Err(format!("it goes back from {first} to {next}"));
        }
        let came: Vec<i64> = std::iter::successors(Some(first), |slot| Some(self.of.after(*slot)))
            .take_while(|slot| *slot < next)
            .collect();
        let waited = |slot: &i64| came.contains(slot) || was_queued == Some(*slot);
        let n_overlapped = stored.totals.overlapped - before.totals.overlapped;
        let n_missed = stored.totals.missed - before.totals.missed;
        let n_slots = came.len() + usize::from(was_queued.is_some());
        let n_decided =
            fires.len() + (n_overlapped + n_missed) as usize + usize::from(is_queued.is_some());
        let is_late = |slot: &&i64| **slot < now_ms - self.of.tolerance_ms;
        let n_late = came.iter().filter(is_late).count();
        let fires_late = fires.iter().filter(is_late).count();
        let late_max = match self.of.missed {
            Missed::FireOnce if n_late == came.len() => 1,
            Missed::FireOnce | Missed::Skip => 0,
            _ => n_late,
        } + usize::from(was_queued.is_some());
        let is_out = |id: &TaskId| ended_at(*id).is_some();
        // Whether a task has ended is looked at after the step's time.
        let since = Moment::try_from(now_ms - START_MS).unwrap_or_default();
        let was_busy = |id: &TaskId| ended_at(*id).is_none_or(|at| at >= since);
        let one_at_a_time = self.of.overlap != Overlap::Allow;
        let wrong = if came.last().is_some_and(|last| *last > now_ms) {
            "it decides on a slot before it comes"
        } else if fires.iter().any(|slot| self.fired.contains(slot)) {
            "a slot fires twice"
        } else if !fires.iter().all(waited) {
            "it fires what is no slot, or none that has come"
        } else if n_slots != n_decided {
            "a slot is forgotten, or decided on twice"
        } else if n_missed as usize > n_late || (n_missed > 0 && self.of.missed == ALL) {
            "a slot counts as missed that was not"
        } else if fires_late > late_max {
            "it makes up for a slot that it should leave out"
        } else if one_at_a_time && !fires.is_empty() && !self.tasks.iter().all(is_out) {
            "it fires while a task of it has not ended"
        } else if one_at_a_time && fires.len() > 1 {
            "it fires two at once"
        } else if n_overlapped > 0
            && (!one_at_a_time || fires.is_empty() && !self.tasks.iter().any(was_busy))
        {
            "a slot is left out for a task that had ended"
        } else {
            ""
        };
        if !wrong.is_empty() {
            return Err(format!(
                "{wrong}: {came:?} came, {was_queued:?} waited, {fires:?} fire, {is_queued:?} waits, \
                 {n_overlapped} overlap, {n_missed} of {n_late} were missed"
            ));
        }
        self.fired.extend(&fires);
        self.tasks.extend(step.tasks.iter().map(|task| task.id));
        let saw = [
            ("slot fired", !fires.is_empty()),
            ("slot made up for", fires_late > 0),
            ("slot missed", n_missed > 0),
            ("slot overlapped", n_overlapped > 0),
            (
                "slot queued",
                is_queued.is_some() && is_queued != was_queued,
            ),
        ];
        self.stored = Some(stored);
        Ok(saw
            .into_iter()
            .filter_map(|(what, is)| is.then_some(what))
            .collect())
    }

    /// What is wrong if somebody has been well for a while.
    pub(crate) fn look(
        &self,
        now: Moment,
        ended_at: impl Fn(TaskId) -> Option<Moment>,
    ) -> Option<String> {
        let Some(stored) = &self.stored else {
            return Some("it is not stored".to_owned());
        };
        if stored.paused.is_some() {
            return None;
        }
        let next = stored.next?;
        let late_ms = START_MS + now as i64 - next.as_unix_ms();
        if late_ms > DECIDED_MAX as i64 {
            return Some(format!("nobody decides on {next}, {late_ms} ms ago"));
        }
        let queued = stored.queued?;
        let ended = |id: &TaskId| ended_at(*id).is_some_and(|at| at + DECIDED_MAX < now);
        self.tasks
            .iter()
            .all(ended)
            .then(|| format!("{queued} waits, and no task of it runs"))
    }
}

fn slot_of(task: &Task) -> Option<i64> {
    let slot: Timestamp = task.tags.get("slot")?.parse().ok()?;
    Some(slot.as_unix_ms())
}
