//! Application state: handlers take it as axum's `State`, tasks as `Data`.
//!
//! ```sh
//! cargo run -p examples --bin state
//! curl -X POST 'http://127.0.0.1:8000/accounts/ada?cents=250'
//! curl -X POST 'http://127.0.0.1:8000/accounts/ada?cents=-100'
//! curl http://127.0.0.1:8000/accounts    # {"ada":150}
//! ```
//! A task whose state was not given to the builder is refused when the service starts, not when the task runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{FromRef, Path, Query, State},
    routing::{get, post},
};
use axum_taskflow::{Data, TaskError, TaskManager, Tasks, task};
use serde::Deserialize;

/// What both sides share: here balances by account, elsewhere a connection pool or an HTTP client.
#[derive(Clone, Default)]
struct Ledger(
    /// A std mutex: held for one map entry.
    Arc<Mutex<BTreeMap<String, i64>>>,
);

impl Ledger {
    fn book(&self, account: String, cents: i64) {
        let mut balances = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let balance = balances.entry(account).or_default();
        *balance = balance.saturating_add(cents);
    }

    fn balances(&self) -> BTreeMap<String, i64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The state of the router. `FromRef` gives each handler the part that it asks for.
#[derive(Clone)]
struct App {
    manager: TaskManager,
    ledger: Ledger,
}

impl FromRef<App> for TaskManager {
    fn from_ref(app: &App) -> Self {
        app.manager.clone()
    }
}

impl FromRef<App> for Ledger {
    fn from_ref(app: &App) -> Self {
        app.ledger.clone()
    }
}

/// State first, then the arguments, which are stored with the task.
#[task]
async fn book(Data(ledger): Data<Ledger>, account: String, cents: i64) {
    ledger.book(account, cents);
}

#[derive(Deserialize)]
struct Booking {
    cents: i64,
}

/// `Tasks` finds the manager in the router's state.
async fn change(
    tasks: Tasks,
    Path(account): Path<String>,
    Query(booking): Query<Booking>,
) -> Result<String, TaskError> {
    let id = tasks.add_task(book, (account, booking.cents)).await?;
    Ok(format!("{id}\n"))
}

async fn balances(State(ledger): State<Ledger>) -> Json<BTreeMap<String, i64>> {
    Json(ledger.balances())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ledger = Ledger::default();
    let manager = TaskManager::builder().state(ledger.clone()).build().await?;
    let app = Router::new()
        .route("/accounts/{account}", post(change))
        .route("/accounts", get(balances))
        .with_state(App {
            manager: manager.clone(),
            ledger,
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(manager.shutdown_on_signal())
        .await?;
    manager.shutdown().await?;
    Ok(())
}
