//! The driver with real servers. One program, since each links the client with its TLS; the flood has one to itself.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod clocks;
mod cluster;
mod conformance;
mod errors;
mod history;
mod late_calls;
mod links;
mod lost_claims;
mod outage;
mod sentinel;
mod start;
mod support;
mod takeover;
mod unreadable;
mod went_back;
mod wrong_types;
