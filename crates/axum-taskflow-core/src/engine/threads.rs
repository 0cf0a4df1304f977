//! A bounded pool of threads for plain functions, so that they stall neither the runtime nor the service's own
//! blocking pool.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{runtime::Runtime, task::JoinHandle};

/// tokio's own pool, in a runtime that does nothing else: threads start when needed and end when idle.
pub(crate) struct Threads {
    /// Taken at shutdown. A std mutex: held to hand over one closure.
    runtime: Mutex<Option<Runtime>>,
}

impl Threads {
    pub(crate) fn new(threads_max: usize) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(threads_max)
            .thread_keep_alive(Duration::from_secs(10))
            .thread_name("taskflow-blocking")
            .build()?;
        Ok(Self {
            runtime: Mutex::new(Some(runtime)),
        })
    }

    /// Runs `work` on a thread; nothing after [`Threads::close`].
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        Some(runtime.as_ref()?.spawn_blocking(work))
    }

    /// Takes no more work; what runs is left to itself.
    pub(crate) fn close(&self) {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close(); // a runtime that is dropped inside another one would panic
    }
}
