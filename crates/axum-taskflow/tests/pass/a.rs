#![forbid(unsafe_code)]
#![deny(warnings)]
#![deny(missing_docs, rust_2018_idioms, unused)]
//! x
use axum_taskflow::*;
#[task(retries = 3, delay = "1s", backoff = 2.0, max_delay = "5m", jitter = 0.2, timeout = "30s", priority = -5, requeue_on_interrupt, idempotency_ttl = "1d", name = "send_email", aliases("old_name", "older"))]
async fn send_email(Data(_x): Data<u8>, address: String) -> Result<(), String> { println!("{address}"); Ok(()) }
#[task]
fn b() {}
#[task]
fn c() -> impl Future<Output = u8> + Send + 'static { async { 5 } }
fn main() {}
