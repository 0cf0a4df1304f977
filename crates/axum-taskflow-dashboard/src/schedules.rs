//! What runs at which times, and what people do about it.

use axum::{body::Bytes, extract::rejection::BytesRejection, http::HeaderMap, response::Response};
use axum_taskflow_core::{Missed, Overlap, Rule, ScheduleInfo, ScheduleState, TaskId, Timestamp};
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
    overlap: &'static str,
    origin: Value,
    version: &'a str,
    state: ScheduleState,
    paused_by: Option<&'a str>,
    paused_since: Option<Timestamp>,
    next: &'a [Timestamp],
    queued: Option<Timestamp>,
    last: Value,
}

impl<'a> ScheduleJson<'a> {
    fn of(info: &'a ScheduleInfo) -> Self {
        let (cron, zone, every_s) = match &info.rule {
            Rule::Cron { expression, zone } => (Some(&**expression), Some(&**zone), None),
            Rule::Every(every) => (None, None, Some(every.as_secs_f64())),
            _ => (None, None, None),
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
            last: serde_json::json!(info.last),
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

/// `POST /schedules/delete`.
pub(crate) async fn delete(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Which { name } = read_json(&headers, body)?;
    let manager = &call.shared.manager;
    manager.delete_schedule(&name, call.visit.actor()).await?;
    Ok(json(&Edited {
        name,
        task_id: None,
    }))
}
