//! What a task can return.

use std::{error::Error, io, pin::Pin, result};

use axum_taskflow::{Failure, TaskStatus, WaitError, task};
use serde_json::{Value, json};

use crate::start;

#[derive(serde::Serialize)]
struct Report {
    rows: u64,
}

/// As in the anyhow crate: no `std::error::Error` itself, but becomes one.
struct AnyError(Box<dyn Error + Send + Sync>);

impl<E: Error + Send + Sync + 'static> From<E> for AnyError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<AnyError> for Box<dyn Error + Send + Sync> {
    fn from(error: AnyError) -> Self {
        error.0
    }
}

type Result<T, E = AnyError> = result::Result<T, E>;

#[task]
async fn any_error(n: String) -> Result<i32> {
    Ok(n.parse()?)
}

#[task]
async fn string_error() -> Result<(), String> {
    Err("no".to_owned())
}

#[task]
async fn str_error() -> Result<(), &'static str> {
    Err("no")
}

#[task]
async fn boxed_error() -> Result<Report, Box<dyn Error + Send + Sync>> {
    Ok(Report { rows: 1 })
}

#[task]
fn io_error() -> io::Result<Vec<String>> {
    Ok(Vec::new())
}

#[task]
fn failure(n: String) -> Result<Option<Report>, Failure> {
    let rows = n.parse()?;
    Ok(Some(Report { rows }))
}

#[task]
fn unit() {}

#[task]
fn number() -> f64 {
    0.5
}

#[task]
async fn reports() -> Vec<Report> {
    Vec::new()
}

#[task]
async fn no_report() -> Option<Report> {
    None
}

#[task]
async fn some_report() -> Result<impl serde::Serialize + Send, String> {
    Ok(Report { rows: 1 })
}

#[task]
fn some_rows() -> Result<impl serde::Serialize + Send, String> {
    Ok(1)
}

/// A plain function that returns a future is an async one.
#[task]
#[allow(clippy::manual_async_fn, reason = "this form is read, too")]
fn future() -> impl Future<Output = u8> + Send + 'static {
    async { 5 }
}

#[task]
fn boxed_future(n: u8) -> Pin<Box<dyn Future<Output = Result<u8>> + Send>> {
    Box::pin(async move { Ok(n) })
}

#[tokio::test]
async fn what_a_task_returns_is_its_result() {
    let manager = start().await;
    let report = json!({ "rows": 1 });
    let n = || "1".to_owned();

    for (id, result) in [
        (manager.add_task(any_error, n()).await, json!(1)),
        (manager.add_task(boxed_error, ()).await, report.clone()),
        (manager.add_task(io_error, ()).await, json!([])),
        (manager.add_task(failure, n()).await, report.clone()),
        (manager.add_task(unit, ()).await, Value::Null),
        (manager.add_task(number, ()).await, json!(0.5)),
        (manager.add_task(reports, ()).await, json!([])),
        (manager.add_task(no_report, ()).await, Value::Null),
        (manager.add_task(some_report, ()).await, report),
        (manager.add_task(some_rows, ()).await, json!(1)),
        (manager.add_task(future, ()).await, json!(5)),
        (manager.add_task(boxed_future, 6).await, json!(6)),
    ] {
        let returned: Value = manager.wait(id.unwrap()).await.unwrap();
        assert_eq!(returned, result);
    }
}

#[tokio::test]
async fn what_can_become_an_error_fails_the_task_in_its_own_words() {
    let manager = start().await;
    let n = || "x".to_owned();

    for (id, words) in [
        (
            manager.add_task(any_error, n()).await,
            "invalid digit found in string",
        ),
        (
            manager.add_task(failure, n()).await,
            "invalid digit found in string",
        ),
        (manager.add_task(string_error, ()).await, "no"),
        (manager.add_task(str_error, ()).await, "no"),
    ] {
        let ended = manager.wait::<Value>(id.unwrap()).await;
        let Err(WaitError::NotSuccessful(task)) = ended else {
            panic!("{ended:?} instead of {words}");
        };
        assert_eq!(task.life.status, TaskStatus::Failed);
        let error = task.life.error.expect("a failed task has an error");
        assert_eq!(error.message, words);
    }
}
