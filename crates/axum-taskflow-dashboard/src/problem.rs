//! What went wrong, as an HTTP answer.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use axum_taskflow_core::{Error, ErrorKind, TaskId};
use serde::Serialize;

/// An answer that is not what was asked for: a status and a sentence for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
    pub(crate) retry_after_s: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    /// A parameter or body that cannot be used.
    pub(crate) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// Whoever has a link to a task wants to know where it went.
    pub(crate) fn no_task(id: TaskId) -> Self {
        let detail = format!(
            "there is no task {id}: it was never added here, or it ended long ago and was deleted"
        );
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// A path that names a task by what is no id.
    pub(crate) fn no_task_id(text: &str) -> Self {
        let detail = format!("there is no task {text:?}: that is no id of one");
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The status is final for this task: asking again is pointless.
    pub(crate) fn wrong_status(what: &str, id: TaskId, status: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("{what}, and task {id} is {status}"),
        )
    }

    pub(crate) fn try_later(status: StatusCode, after_s: u64, detail: impl Into<String>) -> Self {
        Self {
            retry_after_s: Some(after_s),
            ..Self::new(status, detail)
        }
    }

    /// Puts the status and `Retry-After` on a body.
    pub(crate) fn dress(&self, mut response: Response) -> Response {
        *response.status_mut() = self.status;
        if let Some(after_s) = self.retry_after_s {
            let after_s = HeaderValue::from(after_s);
            response.headers_mut().insert(header::RETRY_AFTER, after_s);
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::ShuttingDown => {
                return Self::try_later(StatusCode::SERVICE_UNAVAILABLE, 2, error.to_string());
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "detail": self.detail });
        self.dress(json(&body))
    }
}

/// A JSON body.
pub(crate) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let json = HeaderValue::from_static("application/json");
            let mut response = Response::new(Body::from(bytes));
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot write JSON"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_status_and_a_busy_store_says_when_to_come_back() {
        let of = |kind| Problem::from(Error::new(kind, "x"));

        assert_eq!(of(ErrorKind::NotFound).status, 404);
        assert_eq!(of(ErrorKind::Conflict).status, 409);
        assert_eq!(of(ErrorKind::Invalid).status, 422);
        assert_eq!(of(ErrorKind::TimedOut).status, 504);
        for kind in [
            ErrorKind::Overloaded,
            ErrorKind::Unavailable,
            ErrorKind::ShuttingDown,
        ] {
            let response = of(kind).into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        }
    }
}
