//! Background tasks for axum services, safe on disk.
//!
//! A handler adds a task and gets its id once the task is stored. The task runs in the same process: there is no
//! worker to deploy and no broker to run. It is retried, cancelled and logged, and seen live on a page of your own
//! service. If the process dies, the next start finds every task that was accepted.
//!
//! ```no_run
//! use axum::{Json, Router, routing::post};
//! use axum_taskflow::{Failure, TaskAdmin, TaskError, TaskId, TaskManager, Tasks, task};
//!
//! #[task(retries = 3, delay = "1s", backoff = 2.0)]
//! async fn send_email(address: String) -> Result<(), Failure> {
//!     println!("a mail to {address}");
//!     Ok(())
//! }
//!
//! async fn signup(tasks: Tasks, address: String) -> Result<Json<TaskId>, TaskError> {
//!     let id = tasks
//!         .add_task(send_email, address.clone())
//!         .idempotency_key(format!("welcome-{address}"))
//!         .await?; // safe on disk from here on
//!     Ok(Json(id))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // The port first: if it is taken, no task has begun that would be cut off.
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//!     let manager = TaskManager::builder().sqlite("tasks.db").build().await?;
//!     let app = Router::new()
//!         .route("/signup", post(signup))
//!         .nest("/tasks", TaskAdmin::new(&manager).routes())
//!         .with_state(manager.clone());
//!
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(manager.shutdown_on_signal())
//!         .await?;
//!     manager.shutdown().await?;
//!     Ok(())
//! }
//! ```
//!
//! # The parts
//!
//! **A function becomes a task** by [`#[task]`](macro@task), with its options. Before its arguments it may take a
//! [`TaskContext`] (who it is, log lines, progress, cancellation) and the application's state as [`Data`]. It returns a
//! value or an error; a [`Failure`] also says whether to try again, and when. [`TaskDef`] is the same by hand.
//!
//! **A service has a manager.** [`TaskManager::builder`] takes the settings ([`Builder`]) and starts it. Handlers get
//! it by the extractor [`Tasks`], and answer a call that failed with [`TaskError`]. When the service stops,
//! [`TaskManager::shutdown_on_signal`] lets tasks come to their end.
//!
//! **Tasks are added** by [`add_task`](axum_taskflow_core::TaskManager::add_task), or many in one step by
//! [`add_tasks`](axum_taskflow_core::TaskManager::add_tasks). [`AddTask`] lists what can be said beside the arguments:
//! keys, priorities, times, retries.
//!
//! **Functions run at set times** by [`#[schedule]`](macro@schedule), or by a [`Schedule`], once in the cluster for each
//! time.
//!
//! **Code runs in exactly one process** by a [`Leader`], a [`Lock`] or [`run_once`](axum_taskflow_core::TaskManager::run_once).
//!
//! **A request is followed** into its tasks, and into those that these add, by a [`TrackingLayer`]: one id in the log, in
//! the store, on the page and by REST. Outside of requests, [`Tracking`] does it. With the feature `otel` the spans of
//! tasks are linked to that of the request.
//!
//! **Tasks are looked at and controlled** by the other methods of the [manager](axum_taskflow_core::TaskManager): wait
//! for a result, get one [`Task`], list them by [`ListQuery`], cancel, retry, read counts and logs, follow
//! [`TaskEvent`]s. People and programs do the same by the routes of [`TaskAdmin`].
//!
//! **Tasks are stored** in a file ([`Sqlite`], [`SqliteOptions`], [`Durability`]), in [`Redis`] ([`RedisOptions`]), in
//! [`Memory`], or in a [`Backend`] of your own, which deals with [`Batch`]es of tasks and [`Change`]s. A service that needs
//! one of the first two compiles without the other: they are the features `sqlite` and `redis`, both on by default.
//!
//! What the library promises and what it does not, and the guides, are in the folder `docs` of the repository.

// docs.rs says beside each item which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod manager;
mod builder;
mod extract;
mod shutdown;
mod tracking;

pub use axum_taskflow_core::*;
pub use axum_taskflow_dashboard::{Rights, TaskAdmin};
pub use axum_taskflow_macros::{schedule, task};
#[cfg(feature = "redis")]
pub use axum_taskflow_redis::{Redis, RedisOptions};
#[cfg(feature = "sqlite")]
pub use axum_taskflow_sqlite::{Durability, Sqlite, SqliteOptions};

// Not the glob's: these know axum and the stores.
pub use crate::{
    builder::Builder,
    extract::{TaskError, Tasks},
    manager::TaskManager,
    tracking::{TrackingLayer, TrackingService},
};

#[doc(hidden)]
pub mod __private {
    pub use axum_taskflow_core::__private::*;
}
