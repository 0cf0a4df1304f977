//! The handle that services hold: core's, with a builder that knows the stores, and axum's shutdown.

use std::ops::Deref;

use crate::builder::Builder;

/// Adds tasks, runs them, and tells about them. A cheap handle: clone it freely.
///
/// Everything that it can do stands on [`axum_taskflow_core::TaskManager`], to which it dereferences.
///
/// ```standalone_crate
/// use axum_taskflow::{TaskManager, task};
///
/// #[task]
/// async fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = TaskManager::builder().build().await?;
///
/// let id = manager.add_task(add, (2, 3)).await?;
///
/// assert_eq!(manager.wait::<u32>(id).await?, 5);
/// # manager.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TaskManager(pub(crate) axum_taskflow_core::TaskManager);

impl TaskManager {
    /// Settings of a new manager; without any, tasks are stored in memory.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Deref for TaskManager {
    type Target = axum_taskflow_core::TaskManager;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
