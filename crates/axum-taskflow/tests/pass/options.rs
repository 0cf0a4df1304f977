use axum_taskflow::task;

#[task]
fn none() {}

#[task()]
fn empty() {}

#[task(
    retries = 3,
    delay = "1s",
    backoff = 2.0,
    max_delay = "5m",
    jitter = 0.2,
    timeout = "30s",
    priority = 5,
    requeue_on_interrupt,
    idempotency_ttl = "1d",
    name = "mail.send",
    aliases("old_name", "older"),
)]
fn all() {}

#[task(retries = 0, delay = 5, backoff = 2, max_delay = 0.5, timeout = "2h 30m", priority = -5)]
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

fn main() {}
