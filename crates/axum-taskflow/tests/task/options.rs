//! The forms in which options can be written. All at once, and what they become, are in `registered.rs`.

use std::time::Duration;

use axum_taskflow::{TaskOptions, task};

use crate::{registered::function, start};

#[task()]
fn empty() {}

#[task(retries = 0, delay = 5, backoff = 2, max_delay = 0.5, timeout = "2h 30m", priority = -5,)]
fn numbers() {}

#[task(requeue_on_interrupt = false)]
fn switch() {}

macro_rules! declare {
    ($name:ident, $delay:expr, $priority:expr) => {
        #[task(delay = $delay, priority = $priority)]
        fn $name() {}
    };
}

declare!(by_another_macro, "1s", -1);

#[tokio::test]
async fn options_are_read_in_each_form_that_compiles() {
    let manager = start().await;
    let none = TaskOptions::default;

    let numbers = TaskOptions {
        retries: Some(0),
        delay: Some(Duration::from_secs(5)),
        backoff: Some(2.0),
        max_delay: Some(Duration::from_millis(500)),
        timeout: Some(Duration::from_secs(9_000)),
        priority: Some(-5),
        ..none()
    };
    let switch = TaskOptions {
        requeue_on_interrupt: Some(false),
        ..none()
    };
    let by_another_macro = TaskOptions {
        delay: Some(Duration::from_secs(1)),
        priority: Some(-1),
        ..none()
    };
    for (name, written) in [
        ("empty", none()),
        ("numbers", numbers),
        ("switch", switch),
        ("by_another_macro", by_another_macro),
    ] {
        assert_eq!(function(&manager, name).options, written, "{name}");
    }
}
