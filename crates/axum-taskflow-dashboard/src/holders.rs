//! Who leads, who has a lock, and who is running what is run once.

use axum::{body::Bytes, extract::rejection::BytesRejection, http::HeaderMap, response::Response};
use axum_taskflow_core::{HoldKind, Holder, InstanceId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    api::read_json,
    guard::Call,
    problem::{Problem, json},
};

#[derive(Serialize)]
struct HolderJson<'a> {
    kind: &'static str,
    name: &'a str,
    epoch: u64,
    instance: InstanceId,
    host: &'a str,
    pid: u32,
    since: Timestamp,
    is_alive: bool,
    is_here: bool,
    waiting: usize,
}

/// `GET /holders`: by kind and name.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let manager = &call.shared.manager;
    let me = manager.instance().id;
    let holders = manager.holders().await?;
    let list = holders.iter().map(|holder: &Holder| HolderJson {
        kind: holder.kind.as_str(),
        name: &holder.name,
        epoch: holder.epoch,
        instance: holder.instance,
        host: &holder.host,
        pid: holder.pid,
        since: holder.since,
        is_alive: holder.is_alive,
        is_here: holder.instance == me,
        waiting: holder.waiting,
    });
    Ok(json(&list.collect::<Vec<_>>()))
}

#[derive(Deserialize)]
#[serde(expecting = "an object with kind and name")]
struct Release {
    kind: HoldKind,
    name: String,
}

#[derive(Serialize)]
struct Released {
    kind: HoldKind,
    name: String,
    epoch: u64,
}

/// `POST /holders/release`: takes it away from whoever has it. In the audit log by the same step.
pub(crate) async fn release(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Release { kind, name } = read_json(&headers, body)?;
    let manager = &call.shared.manager;
    let epoch = manager.release(kind, &*name, call.visit.actor()).await?;
    Ok(json(&Released { kind, name, epoch }))
}
