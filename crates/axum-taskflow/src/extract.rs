//! Tasks in handlers: the extractor, and the error as a response.

use std::{convert::Infallible, ops::Deref};

use axum::{
    Json,
    extract::{FromRef, FromRequestParts},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use axum_taskflow_core::{Error, ErrorKind};
use serde_json::json;

use crate::manager::TaskManager;

/// The task manager in a handler, from the application's state.
///
/// The state is the manager itself, or a struct from which axum's `FromRef` gets it:
///
/// ```
/// use axum::{Json, Router, extract::FromRef, routing::post};
/// use axum_taskflow::{TaskError, TaskId, TaskManager, Tasks, task};
///
/// #[task]
/// async fn send_email(address: String) {}
///
/// #[derive(Clone, FromRef)]
/// struct App {
///     tasks: TaskManager,
/// }
///
/// async fn signup(tasks: Tasks, address: String) -> Result<Json<TaskId>, TaskError> {
///     Ok(Json(tasks.add_task(send_email, address).await?))
/// }
///
/// fn router(app: App) -> Router {
///     Router::new().route("/signup", post(signup)).with_state(app)
/// }
/// ```
///
/// Where a state is in the way, give the manager by a layer and take it as axum's `Extension`:
///
/// ```
/// use axum::{Extension, Router, routing::post};
/// use axum_taskflow::{TaskError, TaskManager, task};
///
/// #[task]
/// async fn send_email(address: String) {}
///
/// async fn signup(tasks: Extension<TaskManager>, address: String) -> Result<(), TaskError> {
///     tasks.add_task(send_email, address).await?;
///     Ok(())
/// }
///
/// fn router(manager: TaskManager) -> Router {
///     Router::new().route("/signup", post(signup)).layer(Extension(manager))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Tasks(TaskManager);

impl Deref for Tasks {
    type Target = TaskManager;

    fn deref(&self) -> &TaskManager {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Tasks
where
    TaskManager: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(TaskManager::from_ref(state)))
    }
}

/// An [`Error`] as the answer of a handler: `?` makes it.
///
/// The status tells the kind: 422, 404, 409, 503 with `Retry-After`, or 504, if what was asked for may be done or not; the
/// body is `{"detail": "…"}`. What the store says stays in the log: it may name files and hosts.
#[derive(Debug)]
pub struct TaskError(pub Error);

impl<E: Into<Error>> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for TaskError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status.is_server_error() {
            tracing::error!(%error, "cannot answer a request");
        }
        let detail = match error.kind() {
            _ if !status.is_server_error() => error.to_string(),
            ErrorKind::TimedOut => {
                "the task store did not answer in time: what was asked for may be done or not"
                    .to_owned()
            }
            ErrorKind::ShuttingDown => "the service is shutting down; try again later".to_owned(),
            _ => "the task store is busy or cannot be reached; try again later".to_owned(),
        };
        let mut response = (status, Json(json!({ "detail": detail }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    /// Status, `Retry-After` and what the caller reads.
    async fn answer(kind: ErrorKind) -> (u16, bool, String) {
        let error = TaskError(Error::new(kind, "jobs.db is locked"));
        let response = error.into_response();
        let status = response.status().as_u16();
        let has_retry_after = response.headers().contains_key(header::RETRY_AFTER);
        let body = to_bytes(response.into_body(), 1_000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let detail = body["detail"].as_str().unwrap().to_owned();
        (status, has_retry_after, detail)
    }

    #[tokio::test]
    async fn each_kind_of_error_has_its_status_and_says_what_to_do_and_nothing_of_the_store() {
        for (kind, status, retry_after, said) in [
            (ErrorKind::Invalid, 422, false, "jobs.db is locked"),
            (ErrorKind::NotFound, 404, false, "jobs.db is locked"),
            (ErrorKind::Conflict, 409, false, "jobs.db is locked"),
            (ErrorKind::Overloaded, 503, true, "is busy or"),
            (ErrorKind::Unavailable, 503, true, "cannot be reached"),
            (ErrorKind::ShuttingDown, 503, true, "is shutting down"),
            (ErrorKind::TimedOut, 504, false, "may be done or not"),
        ] {
            let (is, has_retry_after, detail) = answer(kind).await;

            assert_eq!((is, has_retry_after), (status, retry_after), "{kind:?}");
            assert!(detail.contains(said), "{kind:?}: {detail}");
            assert!(status < 500 || !detail.contains("jobs.db"), "{detail}");
        }
    }
}
