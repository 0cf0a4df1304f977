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

pub use axum_taskflow_core::*;
pub use axum_taskflow_macros::task;

#[doc(hidden)]
pub mod __private {
    pub use axum_taskflow_core::__private::*;
}
