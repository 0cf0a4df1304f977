//! `#[schedule]` alone: in a program of its own, since no manager of it can be built.

use axum_taskflow::{ErrorKind, TaskManager, schedule};

#[schedule(every = "5m")]
fn sweep() {}
/// Where the function above stands.
const SWEEP_LINE: u32 = line!() - 2;

#[tokio::test]
async fn a_function_that_is_no_task_is_refused_with_its_place() {
    let error = TaskManager::builder().build().await;

    let error = error.expect_err("it has no task");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    let place = format!("tests/schedule_without_task.rs:{SWEEP_LINE}");
    assert!(text.contains(&place), "{text}");
    assert!(text.contains("has no #[task]"), "{text}");
}
