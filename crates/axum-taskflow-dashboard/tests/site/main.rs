//! The router as programs and browsers meet it, without a network.

mod site;
mod rest;
mod doors;
mod pages;
mod live;
