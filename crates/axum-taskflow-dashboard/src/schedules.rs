//! What runs at which times, and what people do about it.

use std::{collections::BTreeMap, time::Duration};

use axum::{body::Bytes, extract::rejection::BytesRejection, http::HeaderMap, response::Response};
use axum_taskflow_core::{
    AddTask, Decision, Missed, Overlap, Rule, Schedule, ScheduleInfo, ScheduleState, TaskId,
    TaskOptions, Timestamp, Totals,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    api::read_json,
    guard::Call,
    problem::{Problem, json},
};

#[derive(Serialize)]
struct ScheduleJson<'a> {
    name: &'a str,
    func_name: &'a str,
    /// Left out if they are no JSON, which no store gives.
    args: Option<&'a RawValue>,
    cron: Option<&'a str>,
    zone: Option<&'a str>,
    every_s: Option<f64>,
    missed: &'static str,
    missed_max: Option<usize>,
    missed_within_s: Option<f64>,
    overlap: &'static str,
    origin: Value,
    version: &'a str,
    state: ScheduleState,
    paused_by: Option<&'a str>,
    paused_since: Option<Timestamp>,
    next: &'a [Timestamp],
    queued: Option<Timestamp>,
    last: Vec<DecisionJson<'a>>,
    totals: Totals,
}

#[derive(Serialize)]
struct DecisionJson<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    /// How long after its slot; 0 if the clock that decided was ahead of it.
    late_s: f64,
}

impl<'a> DecisionJson<'a> {
    fn of(decision: &'a Decision) -> Self {
        Self {
            decision,
            late_s: decision.at.since(decision.slot).as_secs_f64(),
        }
    }
}

impl<'a> ScheduleJson<'a> {
    fn of(info: &'a ScheduleInfo) -> Self {
        let (cron, zone, every_s) = match &info.rule {
            Rule::Cron { expression, zone } => (Some(&**expression), Some(&**zone), None),
            Rule::Every(every) => (None, None, Some(every.as_secs_f64())),
            _ => (None, None, None),
        };
        let (missed_max, missed_within_s) = match info.missed {
            Missed::FireAll { max, within } => (Some(max), Some(within.as_secs_f64())),
            _ => (None, None),
        };
        Self {
            name: &info.name,
            func_name: &info.function,
            args: serde_json::from_str(&info.args).ok(),
            cron,
            zone,
            every_s,
            missed: match info.missed {
                Missed::FireOnce => "fire_once",
                Missed::Skip => "skip",
                _ => "fire_all",
            },
            missed_max,
            missed_within_s,
            overlap: match info.overlap {
                Overlap::Allow => "allow",
                Overlap::QueueOne => "queue_one",
                _ => "skip",
            },
            origin: serde_json::json!(info.origin),
            version: &info.version,
            state: info.state,
            paused_by: info.paused.as_ref().map(|paused| &*paused.by),
            paused_since: info.paused.as_ref().map(|paused| paused.since),
            next: &info.next,
            queued: info.queued,
            last: info.last.iter().map(DecisionJson::of).collect(),
            totals: info.totals,
        }
    }
}

/// `GET /schedules`: by name.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let schedules = call.shared.manager.schedules().await?;
    let list = schedules.iter().map(ScheduleJson::of);
    Ok(json(&list.collect::<Vec<_>>()))
}

#[derive(Deserialize)]
#[serde(expecting = "an object with name")]
struct Which {
    name: String,
}

#[derive(Serialize)]
struct Edited {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
}

/// `POST /schedules/pause`.
pub(crate) async fn pause(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Which { name } = read_json(&headers, body)?;
    let manager = &call.shared.manager;
    manager.pause_schedule(&name, call.visit.actor()).await?;
    Ok(json(&Edited {
        name,
        task_id: None,
    }))
}

/// `POST /schedules/resume`.
pub(crate) async fn resume(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Which { name } = read_json(&headers, body)?;
    let manager = &call.shared.manager;
    manager.resume_schedule(&name, call.visit.actor()).await?;
    Ok(json(&Edited {
        name,
        task_id: None,
    }))
}

/// `POST /schedules/run`: answers with the task.
pub(crate) async fn run(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Which { name } = read_json(&headers, body)?;
    let manager = &call.shared.manager;
    let id = manager.run_schedule(&name, call.visit.actor()).await?;
    Ok(json(&Edited {
        name,
        task_id: Some(id),
    }))
}

/// `DELETE /schedules?name=nightly`.
pub(crate) async fn delete(call: Call) -> Result<Response, Problem> {
    let name = call.params.needed("name")?;
    let manager = &call.shared.manager;
    manager.delete_schedule(name, call.visit.actor()).await?;
    Ok(json(&Edited {
        name: name.to_owned(),
        task_id: None,
    }))
}

/// A schedule as it is asked for, in the words of the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with func_name and times")]
struct Wanted {
    /// That of the function, unless it is given.
    name: Option<String>,
    func_name: String,
    args: Option<Box<RawValue>>,
    cron: Option<String>,
    zone: Option<String>,
    every_s: Option<f64>,
    #[serde(default)]
    missed: MissedWord,
    missed_max: Option<usize>,
    missed_within_s: Option<f64>,
    overlap: Option<Overlap>,
    tolerance_s: Option<f64>,
    jitter_s: Option<f64>,
    #[serde(default)]
    run_on_startup: bool,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    options: Options,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MissedWord {
    #[default]
    FireOnce,
    Skip,
    FireAll,
}

/// What is said of each task, beyond the options of its function.
#[derive(Default, Deserialize)]
pub(crate) struct Options {
    priority: Option<i32>,
    retries: Option<u32>,
    timeout_s: Option<f64>,
}

impl Options {
    fn read(self) -> Result<TaskOptions, Problem> {
        let mut options = TaskOptions::default();
        (options.priority, options.retries) = (self.priority, self.retries);
        options.timeout = seconds("timeout_s", self.timeout_s)?;
        Ok(options)
    }

    pub(crate) fn give_to(self, mut add: AddTask<'_>) -> Result<AddTask<'_>, Problem> {
        let options = self.read()?;
        if let Some(priority) = options.priority {
            add = add.priority(priority);
        }
        if let Some(retries) = options.retries {
            add = add.retries(retries);
        }
        if let Some(timeout) = options.timeout {
            add = add.timeout(timeout);
        }
        Ok(add)
    }
}

pub(crate) fn seconds(name: &str, value: Option<f64>) -> Result<Option<Duration>, Problem> {
    let read = value.map(Duration::try_from_secs_f64).transpose();
    read.map_err(|_| {
        Problem::unprocessable(format!("{name} is a number of seconds, and not negative"))
    })
}

/// The arguments as they were written: numbers of any size stay what they are.
pub(crate) fn args(args: Option<&RawValue>) -> &str {
    args.map_or("[]", RawValue::get)
}

/// `POST /schedules`: adds one, or replaces the one of its name that was not made by the program.
pub(crate) async fn define(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let wanted: Wanted = read_json(&headers, body)?;
    if wanted.cron.is_some() == wanted.every_s.is_some() {
        return Err(Problem::unprocessable("when? Give either cron or every_s"));
    }
    let name = wanted.name.unwrap_or_else(|| wanted.func_name.clone());
    let within = seconds("missed_within_s", wanted.missed_within_s)?;
    let missed = match (wanted.missed, wanted.missed_max, within) {
        (MissedWord::FireOnce, None, None) => Missed::FireOnce,
        (MissedWord::Skip, None, None) => Missed::Skip,
        (MissedWord::FireAll, Some(max), Some(within)) => Missed::FireAll { max, within },
        _ => {
            return Err(Problem::unprocessable(
                "missed_max and missed_within_s belong to \"missed\": \"fire_all\", which needs both",
            ));
        }
    };
    let mut schedule = Schedule::named(wanted.func_name, args(wanted.args.as_deref()))
        .name(&name)
        .missed(missed)
        .overlap(wanted.overlap.unwrap_or_default())
        .run_on_startup(wanted.run_on_startup)
        .options(wanted.options.read()?)
        .requested_by(call.visit.actor());
    if let Some(cron) = wanted.cron {
        schedule = schedule.cron(cron);
    }
    if let Some(zone) = wanted.zone {
        schedule = schedule.zone(zone);
    }
    if let Some(every) = seconds("every_s", wanted.every_s)? {
        schedule = schedule.every(every);
    }
    if let Some(tolerance) = seconds("tolerance_s", wanted.tolerance_s)? {
        schedule = schedule.tolerance(tolerance);
    }
    if let Some(jitter) = seconds("jitter_s", wanted.jitter_s)? {
        schedule = schedule.jitter(jitter);
    }
    for (key, value) in wanted.tags {
        schedule = schedule.tag(key, value);
    }
    call.shared.manager.schedule(schedule).await?;
    Ok(json(&Edited {
        name,
        task_id: None,
    }))
}
