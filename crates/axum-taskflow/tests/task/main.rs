//! `#[task]`: what it accepts, that this compiles and runs as written, and what it registers, seen through a manager.

mod arguments;
mod extras;
mod options;
mod ordinary;
mod registered;
mod returns;

use std::sync::Arc;

use axum_taskflow::TaskManager;

/// A manager with all functions of this program.
async fn start() -> TaskManager {
    TaskManager::builder()
        .state(7_u8)
        .state("hello")
        .state(Arc::<str>::from("shared"))
        .state(extras::Mailer("smtp"))
        .build()
        .await
        .expect("the functions of this program are in order")
}
