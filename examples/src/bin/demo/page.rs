//! The page of forms, and what it says when a form cannot be taken.

use askama::Template;
use axum::{
    extract::{Query, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use axum_taskflow::{Error, ErrorKind, TaskId};
use serde::Deserialize;

use crate::{
    App,
    contacts::CSV_BYTES_MAX,
    pictures::PICTURE_BYTES_MAX,
    seen::{self, Seen},
};

/// The whole page.
#[derive(Template)]
#[template(path = "page.html")]
pub(crate) struct Page {
    values: Values,
    seen: Option<Seen>,
    problem: Option<Problem>,
    picture_mib_max: usize,
    csv_mib_max: usize,
}

impl Page {
    pub(crate) fn response(
        status: StatusCode,
        seen: Option<Seen>,
        problem: Option<Problem>,
    ) -> Response {
        let values = problem
            .as_ref()
            .map(|problem| problem.values.clone())
            .unwrap_or_default();
        let page = Self {
            values,
            seen,
            problem,
            picture_mib_max: PICTURE_BYTES_MAX >> 20,
            csv_mib_max: CSV_BYTES_MAX >> 20,
        };
        html(status, &page)
    }

    /// What is wrong with this form, if anything is.
    fn problem_of(&self, name: &str) -> Option<&str> {
        let problem = self.problem.as_ref()?;
        (problem.form.as_str() == name).then_some(&*problem.text)
    }
}

/// Writes a template.
pub(crate) fn html(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        // No browser keeps it: what it says is soon out of date.
        Ok(text) => (status, [(header::CACHE_CONTROL, "no-store")], Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "the page could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The forms of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormName {
    Signup,
    Picture,
    Csv,
    Webhook,
    Division,
    Minute,
}

impl FormName {
    /// Its id on the page.
    fn as_str(self) -> &'static str {
        match self {
            Self::Signup => "signup",
            Self::Picture => "picture",
            Self::Csv => "csv",
            Self::Webhook => "webhook",
            Self::Division => "division",
            Self::Minute => "minute",
        }
    }
}

/// What the fields hold: after a mistake nobody wants to type everything again.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) pasted: String,
    pub(crate) webhook: String,
    pub(crate) message: String,
    pub(crate) dividend: String,
    pub(crate) divisor: String,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: String::new(),
            pasted: "name,email\n\
                     Ada Lovelace,ada@example.com\n\
                     Nobody,this is no address\n\
                     Grace Hopper,grace@example.com\n\
                     One,one@example.com,field too many\n\
                     Ada again,ADA@example.com\n\
                     Edsger Dijkstra,edsger@example.com\n"
                .to_owned(),
            webhook: "/flaky".to_owned(),
            message: "Hello from a background task".to_owned(),
            dividend: "1".to_owned(),
            divisor: "0".to_owned(),
        }
    }
}

/// Why a form was not taken: the page again, with the reason beside the form.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    form: FormName,
    text: String,
    values: Values,
}

impl Problem {
    fn new(status: StatusCode, form: FormName, text: String) -> Self {
        Self {
            status,
            form,
            text,
            values: Values::default(),
        }
    }

    /// The user can do better.
    pub(crate) fn unprocessable(form: FormName, text: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, form, text)
    }

    /// A file with too many bytes.
    pub(crate) fn too_large(form: FormName, bytes_max: usize) -> Self {
        let text = format!("That is too large: at most {} MiB.", bytes_max >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, form, text)
    }

    /// A file could not be stored.
    pub(crate) fn disk(form: FormName, error: &std::io::Error) -> Self {
        tracing::error!(%error, "an upload could not be stored");
        let text = format!("The file could not be stored: {error}.");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, form, text)
    }

    /// The task was not taken.
    pub(crate) fn refused(form: FormName, error: &Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, form, format!("The task was not taken: {error}."))
    }

    /// With what was typed.
    pub(crate) fn with(self, values: Values) -> Self {
        Self { values, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Page::response(self.status, None, Some(self))
    }
}

/// Where a form leads once its task is accepted.
pub(crate) fn to_task(id: TaskId, again: bool) -> Redirect {
    let again = if again { "&again=1" } else { "" };
    Redirect::to(&format!("/?task={id}{again}"))
}

/// What the page is asked to show.
#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) task: Option<String>,
    pub(crate) again: Option<String>,
}

/// The page.
pub(crate) async fn show(State(app): State<App>, Query(wanted): Query<Wanted>) -> Response {
    let Some(id) = wanted.task else {
        return Page::response(StatusCode::OK, None, None);
    };
    match seen::find(&app, &id).await {
        Ok(Some(task)) => {
            let seen = Seen::new(&task, wanted.again.is_some(), app.manager.now());
            Page::response(StatusCode::OK, Some(seen), None)
        }
        Ok(None) => Page::response(StatusCode::NOT_FOUND, Some(Seen::missing()), None),
        Err(error) => seen::unavailable(&error),
    }
}
