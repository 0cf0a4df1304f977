//! Two servers to try the webhook on: one that repeats what it is told, and one that fails twice before it succeeds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use crate::App;

/// The longest that `/echo` waits.
const WAIT_MAX_S: u64 = 30;
/// How many keys are remembered; then all are forgotten.
const KEYS_MAX: usize = 10_000;

/// How often `/flaky` was called with each idempotency key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(
    /// A std mutex: held for one map entry.
    Arc<Mutex<HashMap<String, u32>>>,
);

impl Calls {
    /// The number of this call.
    fn count(&self, key: &str) -> u32 {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= KEYS_MAX {
            calls.clear();
        }
        let n = calls.entry(key.to_owned()).or_default();
        *n += 1;
        *n
    }
}

/// What `/echo` is asked to do.
#[derive(Debug, Deserialize)]
pub(crate) struct Wish {
    /// The status to answer with.
    status: Option<u16>,
    /// Seconds to wait before.
    wait: Option<u64>,
}

/// Repeats what it is told.
pub(crate) async fn echo(
    Query(wish): Query<Wish>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    if let Some(wait_s) = wish.wait {
        tokio::time::sleep(Duration::from_secs(wait_s.min(WAIT_MAX_S))).await;
    }
    // Below 200 there is no answer yet.
    let status = match wish.status.map(StatusCode::from_u16) {
        None => StatusCode::OK,
        Some(Ok(status)) if status.as_u16() >= 200 => status,
        Some(_) => {
            return (
                StatusCode::BAD_REQUEST,
                "status must be a number from 200 to 999\n",
            )
                .into_response();
        }
    };
    let told = json!({
        "method": method.as_str(),
        "uri": uri.to_string(),
        "idempotency_key": key(&headers),
        "body": body,
    });
    (status, Json(told)).into_response()
}

/// Fails at the first call with a key, is busy at the second, and succeeds from then on.
pub(crate) async fn flaky(State(app): State<App>, headers: HeaderMap) -> Response {
    match app.calls.count(key(&headers).unwrap_or_default()) {
        1 => (StatusCode::INTERNAL_SERVER_ERROR, "something broke\n").into_response(),
        2 => (
            StatusCode::TOO_MANY_REQUESTS,
            [(RETRY_AFTER, "3")],
            "come back later\n",
        )
            .into_response(),
        n => Json(json!({ "calls": n })).into_response(),
    }
}

fn key(headers: &HeaderMap) -> Option<&str> {
    headers.get("idempotency-key")?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_key_and_the_keys_are_bounded() {
        let calls = Calls::default();

        assert_eq!(
            (calls.count("a"), calls.count("b"), calls.count("a")),
            (1, 1, 2)
        );

        for n in 0..KEYS_MAX * 2 {
            calls.count(&n.to_string());
        }
        assert!(calls.0.lock().unwrap().len() <= KEYS_MAX);
    }
}
