//! The router as programs and browsers meet it, without a network.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod site;
mod rest;
mod health;
mod instances;
mod doors;
mod pages;
mod duties;
mod audit;
mod live;
