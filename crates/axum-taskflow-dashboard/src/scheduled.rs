//! Tasks that wait for a time of their own.

use std::collections::BTreeMap;

use axum::{body::Bytes, extract::rejection::BytesRejection, http::HeaderMap, response::Response};
use axum_taskflow_core::{AheadQuery, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    api::{link_next, read_json, record},
    guard::Call,
    problem::{Problem, json},
    runners::Runners,
    schedules::{Options, args, seconds},
    view::TaskJson,
};

/// `GET /scheduled`: those first that come first.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let manager = &call.shared.manager;
    let before = call.params.time("before")?;
    let mut query = AheadQuery::until(before.unwrap_or(Timestamp::MAX));
    query.limit = call.params.limit()?;
    query.from = call.params.get("from").map(str::to_owned);
    let limit = query.limit;
    let page = manager.list_scheduled(query).await?;
    let runners = Runners::of_tasks(manager, &page.tasks).await?;
    let tasks = page.tasks.iter().map(|task| {
        let can_run = runners.can_run(manager, &task.name, &task.life);
        TaskJson::of(task, &[], can_run)
    });
    let mut response = json(&tasks.collect::<Vec<_>>());
    if let Some(next) = page.next {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(before) = call.params.get("before") {
            query.append_pair("before", before);
        }
        query.append_pair("limit", &limit.to_string());
        query.append_pair("from", &next);
        link_next(
            &mut response,
            &call.visit.base,
            "/scheduled",
            &query.finish(),
        );
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with func_name and a time")]
struct Wanted {
    func_name: String,
    args: Option<Box<RawValue>>,
    run_at: Option<String>,
    delay_s: Option<f64>,
    run_key: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    tracking_id: Option<String>,
    #[serde(flatten)]
    options: Options,
}

#[derive(Serialize)]
struct Added {
    task_id: TaskId,
}

/// `POST /scheduled`: adds a task of a function by its name.
pub(crate) async fn add(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let wanted: Wanted = read_json(&headers, body)?;
    let manager = &call.shared.manager;
    let mut add = manager
        .schedule_once_named(&wanted.func_name, args(wanted.args.as_deref()))
        .tags(wanted.tags);
    add = match (wanted.run_at, seconds("delay_s", wanted.delay_s)?) {
        (Some(at), None) => add.run_at(at.parse::<Timestamp>().map_err(|_| {
            Problem::unprocessable(
                "run_at must be an RFC 3339 time such as 2026-11-22T09:00:00+00:00",
            )
        })?),
        (None, Some(delay)) => add.delay_by(delay),
        _ => {
            return Err(Problem::unprocessable(
                "when? Give either run_at or delay_s",
            ));
        }
    };
    if let Some(key) = &wanted.run_key {
        add = add.run_key(key);
    }
    if let Some(id) = wanted.tracking_id {
        add = add.tracking_id(id);
    }
    let task_id = wanted.options.give_to(add)?.await?;
    let detail = serde_json::json!({ "func_name": wanted.func_name, "run_key": wanted.run_key });
    record(&call, "schedule_once", Some(task_id), detail).await;
    Ok(json(&Added { task_id }))
}

#[derive(Serialize)]
struct Cancelled<'a> {
    run_key: &'a str,
    task_id: TaskId,
}

/// `DELETE /scheduled?run_key=order:42`.
pub(crate) async fn cancel(call: Call) -> Result<Response, Problem> {
    let run_key = call.params.needed("run_key")?;
    let cancelled = call.shared.manager.cancel_scheduled(run_key).await?;
    let task_id = cancelled.ok_or_else(|| {
        Problem::new(
            axum::http::StatusCode::NOT_FOUND,
            format!("nothing waits under the run key {run_key:?}"),
        )
    })?;
    let detail = serde_json::json!({ "run_key": run_key });
    record(&call, "cancel", Some(task_id), detail).await;
    Ok(json(&Cancelled { run_key, task_id }))
}
