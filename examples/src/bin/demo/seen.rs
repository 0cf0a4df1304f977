//! What the page says about a task, and the button that cancels it.

use std::time::Duration;

use askama::Template;
use axum::{
    Form,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use axum_taskflow::{Error, ErrorKind, FailureReport, Task, TaskId, TaskStatus, Timestamp};
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
    let missing = || Page::response(StatusCode::NOT_FOUND, Some(Seen::missing()), None);
    let Ok(id) = form.task.parse::<TaskId>() else {
        return missing();
    };
    match app
        .manager
        .cancel(id)
        .await
        .map_err(|error| (error.kind(), error))
    {
        Err((ErrorKind::NotFound, _)) => missing(),
        // It has finished meanwhile, and the page says so.
        Ok(_) | Err((ErrorKind::Conflict, _)) => page::to_task(id, false).into_response(),
        Err((_, error)) => unavailable(&error),
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
    tracing::error!(%error, "the task store does not answer");
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
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

/// It is HTML: its own template has escaped what needs it.
impl askama::filters::HtmlSafe for Seen {}

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
            error: life.error.as_deref().map(in_short),
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

/// What happened, in a sentence.
fn happened(task: &Task, now: Timestamp) -> String {
    let life = &task.life;
    let n = life.attempt;
    match life.status {
        TaskStatus::Pending if n == 0 => "Accepted: it waits for a free slot.".to_owned(),
        TaskStatus::Pending => match life.run_at.since(now).as_millis().div_ceil(1_000) {
            0 => format!("Attempt {n} did not succeed; the next one begins now."),
            wait_s => format!("Attempt {n} did not succeed; the next one begins in {wait_s} s."),
        },
        TaskStatus::Running if n > 1 => format!("Running: attempt {n}."),
        TaskStatus::Running => "Running.".to_owned(),
        TaskStatus::Success => {
            let took = in_words(task.duration().unwrap_or_default());
            let tries = if n > 1 { format!(" at attempt {n}") } else { String::new() };
            format!("Done{tries} in {took}.")
        }
        TaskStatus::Failed if n > 1 => format!("Failed, {n} times; it is not tried again."),
        TaskStatus::Failed => "Failed; it is not tried again.".to_owned(),
        TaskStatus::Interrupted => {
            "The demo ended while it ran, and it may not be repeated unasked. Retry it on the dashboard.".to_owned()
        }
        TaskStatus::Cancelled => "Cancelled.".to_owned(),
        other => format!("It is {other}."),
    }
}

fn in_words(took: Duration) -> String {
    match took.as_millis() {
        0 => "less than a millisecond".to_owned(),
        ms @ 1..1_000 => format!("{ms} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

/// Why an attempt failed, without the stack: that is on the dashboard.
fn in_short(error: &FailureReport) -> String {
    let causes = error
        .sources
        .iter()
        .map(|cause| format!("caused by: {cause}"));
    let place = error.place.iter().map(|place| format!("at {place}"));
    let lines = std::iter::once(error.message.clone())
        .chain(causes)
        .chain(place);
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum_taskflow::FailureKind;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

    fn task() -> Task {
        Task::new(TaskId::floor(NOW), "divide", "[1,0]")
    }

    #[test]
    fn a_task_that_waits_for_its_next_attempt_says_when() {
        let mut task = task();
        task.life.attempt = 2;
        task.life.run_at = NOW.saturating_add(Duration::from_millis(2_100));

        let said = happened(&task, NOW);

        assert_eq!(
            said,
            "Attempt 2 did not succeed; the next one begins in 3 s."
        );
    }

    #[test]
    fn a_failure_shows_its_causes_and_place_but_no_stack() {
        let mut report = FailureReport::new(FailureKind::Panic, "<b>panicked</b>");
        report.sources = vec!["a disk".to_owned()];
        report.place = Some("a.rs:1:2".to_owned());
        report.backtrace = Some("0: main".to_owned());
        let mut task = task();
        task.life.status = TaskStatus::Failed;
        task.life.error = Some(Arc::new(report));

        let page = Seen::new(&task, false, NOW).render().unwrap();

        assert!(
            page.contains("&#60;b&#62;panicked&#60;/b&#62;\ncaused by: a disk\nat a.rs:1:2"),
            "{page}"
        );
        assert!(!page.contains("0: main"), "{page}");
        assert!(!page.contains("data-live"), "{page}");
    }

    #[test]
    fn a_result_that_this_demo_does_not_understand_is_shown_as_it_is() {
        let mut task = task();
        task.name = "send_welcome".into();
        task.life.status = TaskStatus::Success;
        task.life.result = Some("{\"old\":true}".into());

        let page = Seen::new(&task, false, NOW).render().unwrap();

        assert!(page.contains("old"), "{page}");
    }

    #[test]
    fn a_live_task_is_followed_and_can_be_cancelled() {
        let page = Seen::new(&task(), true, NOW).render().unwrap();

        assert!(
            page.contains(&format!("data-live=\"/seen/{}?again=1\"", task().id)),
            "{page}"
        );
        assert!(page.contains("action=\"/cancel\""), "{page}");
    }
}
