//! The smallest service with a task that is safe on disk.
//!
//! ```sh
//! cargo run -p examples --bin minimal
//! curl -X POST http://127.0.0.1:8000/hello/Ada    # answers with the task's id
//! ```
//! The terminal greets Ada. Kill the process and start it again: `minimal.db` has every task. The dashboard is at
//! <http://127.0.0.1:8000/tasks/dashboard>, and its password in the terminal.

use axum::{Router, extract::Path, routing::post};
use axum_taskflow::{TaskAdmin, TaskError, TaskManager, Tasks, task};

#[task(retries = 3, delay = "1s")]
async fn greet(name: String) {
    println!("Hello, {name}!");
}

async fn hello(tasks: Tasks, Path(name): Path<String>) -> Result<String, TaskError> {
    let id = tasks.add_task(greet, name).await?;
    Ok(format!("{id}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
    let manager = TaskManager::builder().sqlite("minimal.db").build().await?;
    let app = Router::new()
        .route("/hello/{name}", post(hello))
        .nest("/tasks", TaskAdmin::new(&manager).routes())
        .with_state(manager.clone());
    axum::serve(listener, app)
        .with_graceful_shutdown(manager.shutdown_on_signal())
        .await?;
    manager.shutdown().await?;
    Ok(())
}
