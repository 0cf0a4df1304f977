//! A backend of your own: here one that wraps another, and counts what goes through.
//!
//! ```sh
//! cargo run -p examples --bin custom_backend
//! curl -X POST http://127.0.0.1:8000/tasks/1000    # 1,000 tasks, added one by one by 1,000 callers at once
//! curl http://127.0.0.1:8000/writes                # {"writes":…,"tasks":1000,"changes":2000,"notes":0}
//! ```
//! There are far fewer writes than tasks: callers that wait at the same time share one. A wrapper is also how to
//! mirror tasks elsewhere, or to simulate an outage. For a backend from scratch, `Memory` is the model, and the
//! suite in `axum_taskflow_core::conformance` says whether it keeps the contract.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json, Router,
    extract::{FromRef, Path, State},
    routing::{get, post},
};
use axum_taskflow::{
    AheadPage, AheadQuery, AuditEntry, Backend, BackendFuture, Batch, Claim, Claimed, Count,
    Instance, InstanceId, ListQuery, LogLine, Memory, Minute, Page, Peer, Prune, Pruned, Record,
    RecordQuery, Standing, Step, Stepped, Task, TaskError, TaskId, TaskManager, Tasks, Timestamp,
    Written, task,
};
use serde_json::{Value, json};

/// Counts what is written to the backend inside.
#[derive(Debug, Default)]
struct Counting<B> {
    inner: B,
    writes: Arc<Writes>,
}

/// What was written so far. Atomics: each number stands for itself.
#[derive(Debug, Default)]
struct Writes {
    writes: AtomicU64,
    tasks: AtomicU64,
    changes: AtomicU64,
    notes: AtomicU64,
}

impl Writes {
    fn add(&self, batch: &Batch) {
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        add(&self.writes, 1);
        add(&self.tasks, batch.tasks.len());
        add(&self.changes, batch.changes.len());
        add(&self.notes, batch.notes.len());
    }
}

impl<B: Backend> Backend for Counting<B> {
    fn describe(&self) -> String {
        format!("counting, {}", self.inner.describe())
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        Box::pin(async move {
            let written = self.inner.write(batch.clone()).await?;
            // After the answer: what could not be written is not counted.
            self.writes.add(&batch);
            Ok(written)
        })
    }

    // The rest is handed on as it is.

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        self.inner.join(instance)
    }

    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        self.inner.beat(id, now)
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        self.inner.instances()
    }

    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        self.inner.supersede(id, seen_beat_at)
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        self.inner.leave(id)
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        self.inner.step(step)
    }

    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        self.inner.ahead(query)
    }

    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        self.inner.records(query)
    }

    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        self.inner.claim(claim)
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        self.inner.orphans(limit)
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        self.inner.get(id)
    }

    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        self.inner.list(query)
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        self.inner.logs(id, skip, limit)
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        self.inner.counts()
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        self.inner.series(since)
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        self.inner.audit(before, limit)
    }

    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        self.inner.prune(prune)
    }

    fn close(&self) -> BackendFuture<'_, ()> {
        self.inner.close()
    }
}

#[task]
async fn square(n: u64) -> u64 {
    n * n
}

/// The state of the router.
#[derive(Clone)]
struct App {
    manager: TaskManager,
    writes: Arc<Writes>,
}

impl FromRef<App> for TaskManager {
    fn from_ref(app: &App) -> Self {
        app.manager.clone()
    }
}

async fn add(tasks: Tasks, Path(n): Path<u16>) -> Result<String, TaskError> {
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..n {
        let tasks = tasks.clone();
        callers.spawn(async move { tasks.add_task(square, u64::from(n)).await });
    }
    for added in callers.join_all().await {
        added?;
    }
    Ok(format!("{n} tasks are accepted\n"))
}

async fn writes(State(app): State<App>) -> Json<Value> {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Json(json!({
        "writes": read(&app.writes.writes),
        "tasks": read(&app.writes.tasks),
        "changes": read(&app.writes.changes),
        "notes": read(&app.writes.notes),
    }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = Counting::<Memory>::default();
    let writes_so_far = backend.writes.clone();
    let manager = TaskManager::builder().backend(backend).build().await?;
    let app = Router::new()
        .route("/tasks/{n}", post(add))
        .route("/writes", get(writes))
        .with_state(App {
            manager: manager.clone(),
            writes: writes_so_far,
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(manager.shutdown_on_signal())
        .await?;
    manager.shutdown().await?;
    Ok(())
}
