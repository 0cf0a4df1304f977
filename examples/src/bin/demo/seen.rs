//! What the page says about a task, and the button that cancels it.

use askama::Template;
use axum::{
    Form,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use axum_taskflow::{Error, ErrorKind, Task, TaskId, TaskStatus, Timestamp};
use serde::Deserialize;

use crate::{
    App,
    contacts::Report,
    page::{self, Page, Wanted},
    pictures::Thumbnail,
    signup::Sent,
    webhook::Answer,
};

/// The part of the page that follows a task, by itself.
pub(crate) async fn show_part(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    match find(&app, &id).await {
        Ok(Some(task)) => {
            let seen = Seen::new(&task, wanted.again.is_some(), app.manager.now());
            page::html(StatusCode::OK, &seen)
        }
        Ok(None) => page::html(StatusCode::NOT_FOUND, &Seen::missing()),
        Err(error) => unavailable(&error),
    }
}

/// A task to cancel.
#[derive(Debug, Deserialize)]
pub(crate) struct Cancel {
    task: String,
}

/// Cancels a task.
pub(crate) async fn cancel(State(app): State<App>, Form(form): Form<Cancel>) -> Response {
    let Ok(id) = form.task.parse::<TaskId>() else {
        return Page::response(StatusCode::NOT_FOUND, Some(Seen::missing()), None);
    };
    match app.manager.cancel(id).await {
        // Finished meanwhile: the page says so.
        Err(error) if error.kind() != ErrorKind::Conflict => unavailable(&error),
        _ => page::to_task(id, false).into_response(),
    }
}

/// Nothing if there is no such task, or if no task could be called that.
pub(crate) async fn find(app: &App, id: &str) -> Result<Option<Task>, Error> {
    match id.parse::<TaskId>() {
        Ok(id) => app.manager.get(id).await,
        Err(_) => Ok(None),
    }
}

pub(crate) fn unavailable(error: &Error) -> Response {
    let status = match error.kind() {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n")).into_response()
}

/// A task as the page shows it.
#[derive(Template)]
#[template(path = "seen.html")]
pub(crate) struct Seen {
    /// Empty if there is none.
    id: String,
    title: &'static str,
    status: &'static str,
    /// What happened, in a sentence.
    happened: String,
    /// From 0.0 to 1.0, and what it is doing.
    progress: Option<(f64, String)>,
    error: Option<String>,
    result: Option<Found>,
    pub(crate) live: bool,
    again: bool,
}

/// What came of it.
enum Found {
    Mail(Sent),
    Pictures(Vec<Thumbnail>),
    Contacts(Report),
    Answer(Answer),
    Other(String),
}

impl Seen {
    pub(crate) fn new(task: &Task, again: bool, now: Timestamp) -> Self {
        let life = &task.life;
        let live = matches!(life.status, TaskStatus::Pending | TaskStatus::Running);
        let progress = task
            .progress
            .as_ref()
            .filter(|_| life.status == TaskStatus::Running);
        Self {
            id: task.id.to_string(),
            title: title(&task.name),
            status: life.status.as_str(),
            happened: happened(task, now),
            progress: progress.map(|progress| (progress.fraction, progress.message.clone())),
            error: life.error.as_ref().map(ToString::to_string),
            result: life
                .result
                .as_deref()
                .map(|result| Found::new(&task.name, result)),
            live,
            again,
        }
    }

    pub(crate) fn missing() -> Self {
        Self {
            id: String::new(),
            title: "No such task",
            status: "",
            happened: "There is no task with this id. Finished ones are deleted after a while."
                .to_owned(),
            progress: None,
            error: None,
            result: None,
            live: false,
            again: false,
        }
    }
}

impl Found {
    fn new(function: &str, result: &str) -> Self {
        let found = match function {
            "send_welcome" => serde_json::from_str(result).map(Self::Mail),
            "make_thumbnails" => serde_json::from_str(result).map(Self::Pictures),
            "import_contacts" => serde_json::from_str(result).map(Self::Contacts),
            "call_webhook" => serde_json::from_str(result).map(Self::Answer),
            _ => Ok(Self::Other(result.to_owned())),
        };
        // Stored by another version of the demo: shown as it is.
        found.unwrap_or_else(|_| Self::Other(result.to_owned()))
    }
}

fn title(function: &str) -> &'static str {
    match function {
        "send_welcome" => "Welcome mail",
        "make_thumbnails" => "Thumbnails",
        "import_contacts" => "CSV import",
        "call_webhook" => "Webhook",
        "divide" => "Division",
        "take_a_minute" => "A minute of work",
        _ => "Task",
    }
}

fn happened(task: &Task, now: Timestamp) -> String {
    let life = &task.life;
    let attempts = match life.attempt {
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let took = task.duration().unwrap_or_default();
    match life.status {
        TaskStatus::Pending if life.attempt == 0 => "Accepted: it is safe on disk and waits for a free slot.".to_owned(),
        TaskStatus::Pending => match life.run_at.since(now).as_millis().div_ceil(1_000) {
            0 => format!("Failed after {attempts}; the next one begins now."),
            wait_s => format!("Failed after {attempts}; the next one begins in {wait_s} s."),
        },
        TaskStatus::Running if life.attempt > 1 => format!("Running: attempt {}.", life.attempt),
        TaskStatus::Running => "Running.".to_owned(),
        TaskStatus::Success => format!("Done in {took:?}, after {attempts}."),
        TaskStatus::Failed => format!("Failed after {attempts}; no further one follows."),
        TaskStatus::Interrupted => {
            "The demo ended while it ran, and it may not be repeated unasked. Retry it on the dashboard.".to_owned()
        }
        TaskStatus::Cancelled => "Cancelled.".to_owned(),
        other => format!("It is {other}."),
    }
}
