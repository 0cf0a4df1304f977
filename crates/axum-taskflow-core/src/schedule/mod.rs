//! Schedules: what is to run at which times, and what was decided about each.

pub(crate) mod decide;
pub(crate) mod slots;

use std::{cmp::Ordering, fmt, panic::Location, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use self::{decide::Policy, slots::Slots};
pub use self::{
    decide::{Decided, Decision, Missed, Overlap},
    slots::Rule,
};
use crate::{
    clock::Timestamp,
    error::Error,
    handler::{Args, IntoArgs, TaskFn},
    id::TaskId,
    registry::{Registry, TaskDef},
    states::States,
    task::{Tags, TaskOptions},
};

/// Slots later than this count as missed, unless a schedule says otherwise.
const TOLERANCE: Duration = Duration::from_secs(60);
const NAME_BYTES_MAX: usize = 256;
/// How many decisions are remembered.
pub(crate) const LAST_MAX: usize = 10;
/// How many tasks are remembered that may not have ended: where they may overlap, nobody looks whether they have.
const UNENDED_MAX: usize = 16;

/// The function and its arguments, as the manager that takes it knows them.
type Ask = Box<dyn FnOnce(&Registry, &States) -> Result<Asked, Error> + Send + Sync>;

struct Asked {
    def: Arc<TaskDef>,
    /// It was not known before.
    is_new: bool,
    /// JSON.
    args: String,
}

/// What `#[schedule]` leaves, collected from all crates of a program when it starts.
#[doc(hidden)]
#[derive(Debug)]
pub struct Scheduled(fn() -> Schedule);

impl Scheduled {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(schedule: fn() -> Schedule) -> Self {
        Self(schedule)
    }
}

inventory::collect!(Scheduled);

/// All schedules by `#[schedule]` in this program.
pub(crate) fn collected() -> Vec<Schedule> {
    let all = inventory::iter::<Scheduled>().map(|schedule| Schedule {
        needs_task: true,
        ..(schedule.0)()
    });
    all.collect()
}

/// A function, its arguments, and when it is to run.
///
/// ```
/// use std::time::Duration;
/// use axum_taskflow_core::{Config, Schedule, TaskDef, TaskManager};
///
/// async fn send_report(to: String) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum_taskflow_core::Error> {
/// let mut config = Config::default();
/// config.tasks.push(TaskDef::new(send_report));
/// config.schedules.push(
///     Schedule::new(send_report, "ada@example.org".to_owned())
///         .cron("0 9 * * Mon-Fri")
///         .zone("Europe/Berlin"),
/// );
/// let manager = TaskManager::start(config).await?;
///
/// assert_eq!(manager.schedules().await?[0].name, "send_report");
/// # manager.shutdown().await
/// # }
/// ```
#[must_use = "a schedule does nothing until a manager has it"]
pub struct Schedule {
    pub(crate) name: Option<String>,
    cron: Option<String>,
    zone: Option<String>,
    every: Option<Duration>,
    policy: Policy,
    jitter: Duration,
    on_startup: bool,
    options: TaskOptions,
    tags: Tags,
    place: &'static Location<'static>,
    /// Its function must have `#[task]`: its tasks would go by a name that nobody chose.
    needs_task: bool,
    pub(crate) actor: Option<String>,
    ask: Ask,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("name", &self.name)
            .field("place", &self.at())
            .finish_non_exhaustive()
    }
}

impl Schedule {
    /// A schedule of this function. Its name is that of the function, unless it is given one.
    #[track_caller]
    pub fn new<F, P, M, A>(function: F, args: A) -> Self
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
        A: IntoArgs<P, F> + Send + Sync + 'static,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "a closure that captures values cannot be scheduled, since it cannot be stored: pass the values as arguments"
            );
        }
        let place = Location::caller();
        let ask = move |registry: &Registry, states: &States| {
            let (def, is_new) = registry.of_function(function, place, states)?;
            let args = def.encode(&args.into_args())?;
            Ok(Asked { def, is_new, args })
        };
        Self::of(place, Box::new(ask))
    }

    /// A schedule of the function of this name, as the manager knows it; its arguments are a JSON array. For those who
    /// read schedules from elsewhere.
    #[track_caller]
    pub fn named(function: impl Into<String>, args: impl Into<String>) -> Self {
        let (function, args) = (function.into(), args.into());
        let ask = move |registry: &Registry, _: &States| {
            let def = registry.named(&function, &args)?;
            Ok(Asked {
                def,
                is_new: false,
                args,
            })
        };
        Self::of(Location::caller(), Box::new(ask))
    }

    fn of(place: &'static Location<'static>, ask: Ask) -> Self {
        Self {
            name: None,
            cron: None,
            zone: None,
            every: None,
            policy: Policy {
                missed: Missed::default(),
                overlap: Overlap::default(),
                tolerance: TOLERANCE,
            },
            jitter: Duration::ZERO,
            on_startup: false,
            options: TaskOptions::default(),
            tags: Tags::default(),
            place,
            needs_task: false,
            actor: None,
            ask,
        }
    }

    /// Its name: one schedule of each in the cluster. Needed if a function has several.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// By a cron expression of five fields, or of six with seconds in front.
    pub fn cron(mut self, expression: impl Into<String>) -> Self {
        self.cron = Some(expression.into());
        self
    }

    /// The time zone of the cron expression, by its IANA name; UTC unless set.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Again and again after so long, counted from the beginning of 1970 (UTC).
    pub fn every(mut self, every: Duration) -> Self {
        self.every = Some(every);
        self
    }

    /// What becomes of slots that came while nothing ran.
    pub fn missed(mut self, missed: Missed) -> Self {
        self.policy.missed = missed;
        self
    }

    /// What becomes of a slot whose predecessor's task has not ended.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.policy.overlap = overlap;
        self
    }

    /// A slot later than this is missed; a minute unless set.
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.policy.tolerance = tolerance;
        self
    }

    /// Each task starts after a random part of this, so that many schedules of one time do not start together.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Also once when the first instance of the cluster starts.
    pub fn run_on_startup(mut self, on_startup: bool) -> Self {
        self.on_startup = on_startup;
        self
    }

    /// What its tasks do, beyond the options of the function: retries, timeout, priority.
    pub fn options(mut self, options: TaskOptions) -> Self {
        self.options = options;
        self
    }

    /// A label of its tasks.
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Who asks for it, for the audit log: if it is given to a running manager.
    pub fn requested_by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    pub(crate) fn at(&self) -> String {
        format!("{}:{}", self.place.file(), self.place.line())
    }

    /// When it is due.
    fn rule(&self) -> Result<Rule, String> {
        match (&self.cron, self.every, &self.zone) {
            (Some(expression), None, zone) => Ok(Rule::Cron {
                expression: expression.clone(),
                zone: zone.clone().unwrap_or_else(|| "UTC".to_owned()),
            }),
            (None, Some(every), None) => Ok(Rule::Every(every)),
            (None, Some(_), Some(_)) => Err("every needs no zone: only cron does".to_owned()),
            (Some(_), Some(_), _) => Err("it has both cron and every".to_owned()),
            (None, None, _) => Err("it has neither cron nor every".to_owned()),
        }
    }

    /// What is wrong with it, with its place: of one of the program.
    pub(crate) fn complaint_with_place(&self) -> Option<String> {
        let (wrong, at) = (self.complaint()?, self.at());
        Some(match &self.name {
            Some(name) => format!("schedule {name} ({at}): {wrong}"),
            None => format!("schedule ({at}): {wrong}"),
        })
    }

    /// What is wrong with it. Without its place: whoever adds one by a call knows it, and by REST it would be ours.
    fn complaint(&self) -> Option<String> {
        self.rule()
            .and_then(|rule| Slots::of(&rule).map(drop))
            .err()
            .or_else(|| match self.policy.missed {
                Missed::FireAll { max: 0 | 1_001.., .. } => {
                    Some("fire_all takes 1 to 1,000 tasks at once".to_owned())
                }
                _ => None,
            })
            .or_else(|| {
                let name = self.name.as_ref()?;
                let is_bad = name.is_empty()
                    || name.len() > NAME_BYTES_MAX
                    || name.contains(char::is_control);
                is_bad.then(|| format!("{name:?} is no name: it has 1 to {NAME_BYTES_MAX} bytes and no control characters"))
            })
            .or_else(|| self.options.complaint())
    }

    /// What is stored of it.
    pub(crate) fn define(
        self,
        registry: &Registry,
        states: &States,
        args_max: usize,
    ) -> Result<(String, Definition), Error> {
        if let Some(complaint) = self.complaint() {
            return Err(Error::invalid(complaint));
        }
        let rule = self.rule().map_err(Error::invalid)?;
        let at = self.at();
        let Asked { def, is_new, args } = (self.ask)(registry, states)?;
        if self.needs_task && is_new {
            return Err(Error::invalid(format!(
                "schedule ({at}): {} has no #[task]: write it beside #[schedule]",
                def.name
            )));
        }
        let name = self.name.unwrap_or_else(|| def.name.to_string());
        if args.len() > args_max {
            return Err(Error::invalid(format!(
                "schedule {name}: its arguments have {} bytes, and the limit is {args_max}",
                args.len(),
            )));
        }
        Ok((
            name,
            Definition {
                function: def.name.to_string(),
                args,
                rule,
                policy: self.policy,
                jitter: self.jitter,
                on_startup: self.on_startup,
                options: self.options,
                tags: self.tags,
            },
        ))
    }
}

/// What a program says of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) function: String,
    /// JSON.
    pub(crate) args: String,
    pub(crate) rule: Rule,
    pub(crate) policy: Policy,
    pub(crate) jitter: Duration,
    pub(crate) on_startup: bool,
    pub(crate) options: TaskOptions,
    pub(crate) tags: Tags,
}

/// Where a schedule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// The program: each start compares it with what is stored.
    Code,
    /// [`TaskManager::schedule`](crate::TaskManager::schedule), while the program ran.
    Manual,
}

/// Who has paused a schedule, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Paused {
    /// Who.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// How many of its slots came to what, since it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Totals {
    /// Tasks that it has made, those by hand and at starts of the cluster among them.
    pub fired: u64,
    /// Slots that were left out since a task before them had not ended.
    pub overlapped: u64,
    /// Slots that came while nothing ran, and made no task; of one outage at most 10,000 are counted.
    pub missed: u64,
}

/// Everything that is stored of a schedule: one record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Who wrote it: new at each write.
    pub(crate) by: TaskId,
    pub(crate) definition: Definition,
    pub(crate) origin: Origin,
    /// The version of the program that defined it.
    pub(crate) version: String,
    pub(crate) paused: Option<Paused>,
    /// The program that knows the function has no such schedule any more.
    pub(crate) retired: bool,
    /// The first slot that was not decided on: this alone makes each slot fire once.
    pub(crate) next: Option<Timestamp>,
    /// The last slot that was decided on: where `next` is computed anew, it comes later, whatever the clock there says.
    #[serde(default)]
    pub(crate) decided: Option<Timestamp>,
    pub(crate) queued: Option<Timestamp>,
    /// Its tasks, oldest first, of which none is known to have ended; at most [`UNENDED_MAX`].
    #[serde(default)]
    pub(crate) unended: Vec<TaskId>,
    #[serde(default)]
    pub(crate) totals: Totals,
    /// The start of the cluster at which it has run.
    pub(crate) boot: Option<TaskId>,
    /// Newest first.
    pub(crate) last: Vec<Decision>,
}

impl State {
    pub(crate) fn remember(&mut self, slot: Timestamp, at: Timestamp, what: Decided) {
        match what {
            Decided::Fired { .. } => self.totals.fired += 1,
            Decided::Overlapped => self.totals.overlapped += 1,
            Decided::Missed { n } => {
                self.totals.missed = self
                    .totals
                    .missed
                    .saturating_add(n.try_into().unwrap_or(u64::MAX));
            }
            Decided::Queued => {} // it fires later
        }
        self.last.insert(0, Decision { slot, at, what });
        self.last.truncate(LAST_MAX);
    }

    pub(crate) fn has_task(&mut self, id: TaskId) {
        self.unended.push(id);
        let too_many = self.unended.len().saturating_sub(UNENDED_MAX);
        self.unended.drain(..too_many);
    }

    /// Where it goes on after a change by hand or by another program: with no slot that was decided on, though by a
    /// clock that is ahead of this one.
    pub(crate) fn goes_on_after(&mut self, now: Timestamp) {
        let after = self.decided.map_or(now, |decided| decided.max(now));
        self.next = self.slots().and_then(|slots| slots.after(after));
        self.queued = None;
    }

    /// The slots of its rule; none if a program with other rules wrote it.
    pub(crate) fn slots(&self) -> Option<Slots> {
        Slots::of(&self.definition.rule).ok()
    }
}

/// What a schedule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScheduleState {
    /// It fires.
    Active,
    /// Somebody has paused it.
    Paused,
    /// The newest program has it no more.
    Retired,
    /// This instance does not know its function: others may fire it.
    UnknownFunction,
}

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScheduleInfo {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub function: String,
    /// The arguments, JSON.
    pub args: String,
    /// When.
    pub rule: Rule,
    /// What becomes of slots that came while nothing ran.
    pub missed: Missed,
    /// What becomes of a slot whose predecessor's task has not ended.
    pub overlap: Overlap,
    /// Where it comes from.
    pub origin: Origin,
    /// The version of the program that defined it.
    pub version: String,
    /// What it does.
    pub state: ScheduleState,
    /// Who has paused it.
    pub paused: Option<Paused>,
    /// The slots that come next, at most five.
    pub next: Vec<Timestamp>,
    /// A slot that waits for the task of an earlier one to end.
    pub queued: Option<Timestamp>,
    /// The last decisions, newest first, at most ten.
    pub last: Vec<Decision>,
    /// How many decisions of each kind there were in all.
    pub totals: Totals,
}

/// Compares versions: by the rules of [semver](https://semver.org) if both follow them, so that `2.0.0` is newer than
/// `2.0.0-rc1`; else number by number, so that `1.10` is newer than `1.9`, and what is no number as text.
pub(crate) fn compare_versions(one: &str, other: &str) -> Ordering {
    use semver::Version;
    match (Version::parse(one), Version::parse(other)) {
        (Ok(one), Ok(other)) => one.cmp(&other),
        _ => compare_parts(one, other),
    }
}

fn compare_parts(one: &str, other: &str) -> Ordering {
    let mut others = other.split(['.', '-', '+']);
    for part in one.split(['.', '-', '+']) {
        let Some(other) = others.next() else {
            return Ordering::Greater;
        };
        let ordering = match (part.parse::<u64>(), other.parse::<u64>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            _ => part.cmp(other),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    match others.next() {
        Some(_) => Ordering::Less,
        None => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        for (lower, higher) in [
            ("1.9", "1.10"),
            ("1.2", "1.2.1"),
            ("", "0.1"),
            ("2.0.0-a", "2.0.0-b"),
            ("2.0.0-rc1", "2.0.0"),
            ("1.9.9", "2.0.0-rc1"),
            ("2.0.0-rc.9", "2.0.0-rc.10"),
            ("2026.11.2-a", "2026.11.10"),
        ] {
            assert_eq!(
                compare_versions(lower, higher),
                Ordering::Less,
                "{lower} {higher}"
            );
            assert_eq!(compare_versions(higher, lower), Ordering::Greater);
            assert_eq!(compare_versions(higher, higher), Ordering::Equal);
        }
    }
}
