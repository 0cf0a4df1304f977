//! Background tasks for axum services, safe on disk.
//!
//! ```
//! use axum_taskflow::{Failure, task};
//!
//! #[task(retries = 3, delay = "1s", backoff = 2.0)]
//! async fn send_email(address: String) -> Result<(), Failure> {
//!     println!("to {address}");
//!     Ok(())
//! }
//! ```

mod manager;
mod builder;
mod extract;
mod shutdown;

pub use axum_taskflow_core::*;
pub use axum_taskflow_dashboard::{Rights, TaskAdmin};
pub use axum_taskflow_macros::task;
pub use axum_taskflow_sqlite::{Durability, Sqlite, SqliteOptions};

// Not the glob's: these know axum and the stores.
pub use crate::{
    builder::Builder,
    extract::{TaskError, Tasks},
    manager::TaskManager,
};

#[doc(hidden)]
pub mod __private {
    pub use axum_taskflow_core::__private::*;
}
