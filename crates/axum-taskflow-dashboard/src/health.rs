//! Whether this instance does its work, for load balancers and whoever else is not signed in.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use axum_taskflow_core::Timestamp;
use serde::Serialize;

use crate::{guard::Call, problem::json};

#[derive(Serialize)]
struct HealthJson {
    status: &'static str,
    reasons: Vec<Reason>,
}

/// What is wrong, in words that are the same wherever the service runs. Why it is may name files and servers, and
/// everybody can read this: that stands in the log.
#[derive(Serialize)]
struct Reason {
    reason: &'static str,
    since: Timestamp,
}

/// `GET /health`: 200, or 503 while something does not work or the service shuts down. Asks nobody, so that the
/// answer comes at once when the store hangs.
pub(crate) async fn health(call: Call) -> Response {
    let health = call.shared.manager.health();
    let reasons = health.troubles.iter().map(|trouble| Reason {
        reason: trouble.duty.complaint(),
        since: trouble.since,
    });
    let (code, status) = match health.is_ready() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let mut response = json(&HealthJson {
        status,
        reasons: reasons.collect(),
    });
    *response.status_mut() = code;
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}
