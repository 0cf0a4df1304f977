//! Shutdown that plugs into axum's.

use tracing::{error, info};

use crate::manager::TaskManager;

impl TaskManager {
    /// Waits for SIGTERM or Ctrl-C, then [drains](axum_taskflow_core::TaskManager::drain): the future for axum's
    /// `with_graceful_shutdown`.
    ///
    /// The server goes on answering while tasks come to their end, and closes when they have: what handlers add
    /// meanwhile is safe in the store and waits for another process or the next start.
    ///
    /// ```no_run
    /// # use axum::Router;
    /// # use axum_taskflow::TaskManager;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let manager = TaskManager::builder().sqlite("tasks.db").build().await?;
    /// let app: Router = Router::new();
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
    ///
    /// axum::serve(listener, app)
    ///     .with_graceful_shutdown(manager.shutdown_on_signal())
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown_on_signal(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let manager = self.clone();
        async move {
            signal().await;
            manager.drain().await;
        }
    }
}

/// Returns at SIGTERM or Ctrl-C.
async fn signal() {
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
        () = interrupt => info!("asked to stop by Ctrl-C"),
        () = terminate => info!("asked to stop by SIGTERM"),
    }
}
