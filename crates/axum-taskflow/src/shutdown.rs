//! Shutdown that plugs into axum's.

use tracing::{error, info, warn};

use crate::manager::TaskManager;

impl TaskManager {
    /// Waits for SIGTERM or Ctrl-C, then [drains](axum_taskflow_core::TaskManager::drain): the future for axum's
    /// `with_graceful_shutdown`.
    ///
    /// A second signal means: leave now. What still runs is cancelled, everything is stored, and if the process is not
    /// done by then it ends all the same, with the exit code 130 (Ctrl-C) or 143 (SIGTERM).
    ///
    /// The server goes on answering while tasks come to their end, and closes when they have: what handlers add
    /// meanwhile is safe in the store and waits for another process or the next start. Afterwards
    /// [`shutdown`](axum_taskflow_core::TaskManager::shutdown) closes the store.
    ///
    /// ```no_run
    /// # use axum::Router;
    /// # use axum_taskflow::TaskManager;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
    /// let manager = TaskManager::builder().sqlite("tasks.db").build().await?;
    /// let app: Router = Router::new();
    ///
    /// axum::serve(listener, app)
    ///     .with_graceful_shutdown(manager.shutdown_on_signal())
    ///     .await?;
    /// manager.shutdown().await?; // closes the store
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown_on_signal(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let manager = self.clone();
        async move {
            signal().await;
            // Beside what is to come: the server may wait for its clients long after the tasks are done.
            tokio::spawn(leave_at_second_signal(manager.clone()));
            manager.drain().await;
        }
    }
}

async fn leave_at_second_signal(manager: TaskManager) {
    let code = signal().await;
    warn!("asked to stop twice: leaving now");
    manager.hurry();
    if let Err(error) = manager.shutdown().await {
        error!(%error, "the task store could not be closed");
    }
    std::process::exit(code);
}

/// Returns at SIGTERM or Ctrl-C, with the exit code of a process that ends by it.
async fn signal() -> i32 {
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            error!(%error, "cannot listen for Ctrl-C");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(error) => {
                error!(%error, "cannot listen for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();

    tokio::select! {
        () = interrupt => {
            info!("asked to stop by Ctrl-C");
            130
        }
        () = terminate => {
            info!("asked to stop by SIGTERM");
            143
        }
    }
}
