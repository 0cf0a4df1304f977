//! The service in processes of its own: asked, killed, and with a store that fails. One program, since most of these tests
//! wait most of the time.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod bad_input;
mod cancels;
mod crash_points;
mod e2e;
mod kill;
mod outage;
mod redis;
mod redis_lab;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
