//! A small application whose slow work happens in tasks: a welcome mail, thumbnails, an import, a webhook.
//!
//! `cargo run -p examples --bin demo`, then open <http://127.0.0.1:8000/>. The environment may say:
//! - `DATABASE`: the SQLite file (default `demo.db`), or `memory`
//! - `PORT`: default 8000; 0 picks one
//! - `PASSWORD`: of the dashboard's user `admin`; without it one is made, kept in `DATA` and printed
//! - `DATA`: the folder for uploads, mails and thumbnails (default `demo-data`)
//! - `DEMO_ALLOW_ANY_HOST=1`: webhooks may leave this machine
//!
//! Each form is a file: the task and the handler that adds it stand together.

#![allow(clippy::needless_pass_by_value)] // a task owns what it takes

mod contacts;
mod files;
mod folders;
mod guard;
mod page;
mod pictures;
mod practice;
mod seen;
mod settings;
mod sign_in;
mod signup;
mod trouble;
mod upload;
mod webhook;

use std::{
    error::Error,
    io::{self, IsTerminal},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
    routing::{any, get, post},
};
use axum_taskflow::{TaskAdmin, TaskManager};
use tokio::net::TcpListener;

use crate::{
    folders::Folders, practice::Calls, settings::Settings, sign_in::SignIn, signup::Mailer,
    webhook::Webhooks,
};

/// What the handlers need. Tasks get theirs by type, see [`run`].
#[derive(Clone)]
struct App {
    manager: TaskManager,
    folders: Folders,
    webhooks: Webhooks,
    calls: Calls,
}

impl FromRef<App> for TaskManager {
    fn from_ref(app: &App) -> Self {
        app.manager.clone()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // To the terminal, without colours if it goes elsewhere.
    let colours = io::stdout().is_terminal();
    tracing_subscriber::fmt()
        .with_target(false)
        .with_ansi(colours)
        .init();
    let settings = match Settings::from_env(|name| std::env::var_os(name)) {
        Ok(settings) => settings,
        Err(complaints) => {
            eprintln!("The demo cannot start:\n{complaints}");
            return ExitCode::from(2);
        }
    };
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The demo cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    // First of all: a second demo is to fail before it touches anything.
    let listener = listen(settings.port).await?;
    let home = format!("http://{}/", listener.local_addr()?);
    let folders = Folders::below(&settings.folder)?;
    let webhooks = Webhooks::new(home.parse()?, settings.any_host)?;
    let sign_in = SignIn::new(settings.password.clone(), &settings.folder)?;

    let builder = TaskManager::builder()
        // Whatever a task takes as `Data<T>`; a missing one is told here, not at its first run.
        .state(Mailer::into_folder(&folders.outbox))
        .state(folders.clone())
        .state(webhooks.clone())
        // Nobody waits a minute for a demo to end.
        .shutdown_timeout(Duration::from_secs(3));
    let builder = match &settings.database {
        Some(path) => builder.sqlite(path),
        None => builder,
    };
    let manager = builder.build().await?;

    let app = App {
        manager: manager.clone(),
        folders,
        webhooks,
        calls: Calls::default(),
    };
    let admin = sign_in.guard(TaskAdmin::new(&manager));
    let routes = routes(app).merge(admin.at("/tasks"));
    announce(&home, &settings, &sign_in);
    axum::serve(listener, routes)
        .with_graceful_shutdown(manager.shutdown_on_signal())
        .await?;
    // Nobody can ask any more: the store is closed.
    manager.shutdown().await?;
    Ok(())
}

/// Says where to look.
fn announce(home: &str, settings: &Settings, sign_in: &SignIn) {
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let password = match settings.password {
        Some(_) => "as in PASSWORD",
        None => &sign_in.password,
    };
    let tasks = match &settings.database {
        Some(path) => shown(path).display().to_string(),
        None => "in memory: they are gone when the demo ends".to_owned(),
    };
    println!(
        "\n  forms      {home}\n  dashboard  {home}tasks/dashboard\n             user admin, password {password}\n  \
         tasks      {tasks}\n  files      {}\n",
        shown(&settings.folder).display()
    );
}

fn routes(app: App) -> Router {
    let forms = Router::new()
        .route("/", get(page::show))
        .route("/seen/{id}", get(seen::show_part))
        .route("/cancel", post(seen::cancel))
        .route("/signup", post(signup::submit))
        .route("/picture", post(pictures::submit))
        .route("/csv", post(contacts::submit))
        .route("/webhook", post(webhook::submit))
        .route("/division", post(trouble::submit_division))
        .route("/minute", post(trouble::submit_minute))
        .route("/outbox/{name}", get(files::mail))
        .route("/thumbnails/{name}", get(files::thumbnail))
        .route("/demo.css", get(files::css))
        .route("/demo.js", get(files::js))
        .route("/demo.svg", get(files::svg))
        .layer(DefaultBodyLimit::max(upload::REQUEST_BYTES_MAX))
        .layer(middleware::from_fn(guard::guard));
    // What webhooks are sent to is no form: programs call it.
    let practice = Router::new()
        .route("/echo", any(practice::echo))
        .route("/flaky", post(practice::flaky));
    forms.merge(practice).with_state(app)
}

async fn listen(port: u16) -> Result<TcpListener, String> {
    // This machine only: nobody has to sign in to use the forms.
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} is in use, perhaps by another demo; choose one with PORT=8001, or let PORT=0 find one"
        ),
        io::ErrorKind::PermissionDenied => format!("port {port} needs more rights; choose one above 1023 with PORT"),
        _ => format!("cannot listen on port {port}: {error}"),
    })
}
