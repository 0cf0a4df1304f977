//! What the buttons of the pages do: forms that work without a script, and answer a script in JSON.

use axum::{
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, header},
    response::Response,
};
use axum_taskflow_core::Cancelled;
use serde::Serialize;

use crate::{
    api::{cancel_one, read_body, retry_filtered, retry_one},
    auth::is_form_token,
    guard::{Call, Flash, Theme, redirect, theme_cookie},
    pages,
    problem::{Problem, json},
    query::{Filter, Params},
    sign_in::bad_form,
};

/// `POST /dashboard/t/{task_id}/retry`.
pub(crate) async fn retry(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let form = match Form::read(&call, body) {
        Ok(form) => form,
        Err(problem) => return failed(&call, &headers, problem),
    };
    let done = async { retry_one(&call, call.task_id()?).await };
    match done.await {
        Ok(new_id) => {
            let href = format!("{}/t/{new_id}", call.visit.dashboard());
            // From a task's own page on to the new task; in a list the place is kept.
            let next = match form.back.contains("/t/") {
                true => href.clone(),
                false => form.back,
            };
            let text = "Retried as a new task.";
            done_with(&headers, &next, Flash::Retried(new_id), text, Some(href))
        }
        Err(problem) => failed(&call, &headers, problem),
    }
}

/// `POST /dashboard/t/{task_id}/cancel`.
pub(crate) async fn cancel(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let form = match Form::read(&call, body) {
        Ok(form) => form,
        Err(problem) => return failed(&call, &headers, problem),
    };
    let done = async {
        let id = call.task_id()?;
        Ok((id, cancel_one(&call, id).await?))
    };
    match done.await {
        Ok((id, Cancelled::Now)) => {
            let text = "Cancelled: it will not run.";
            done_with(&headers, &form.back, Flash::Cancelled(id), text, None)
        }
        Ok((id, Cancelled::Asked)) => {
            let text = "Asked to stop: it is cancelled once its function lets go.";
            done_with(&headers, &form.back, Flash::Asked(id), text, None)
        }
        // `Sent`, or whatever else is no answer yet.
        Ok((id, _)) => {
            let text = "Asked to stop, but the process that runs it has not answered yet.";
            done_with(&headers, &form.back, Flash::Sent(id), text, None)
        }
        Err(problem) => failed(&call, &headers, problem),
    }
}

/// `POST /dashboard/retry-all`: everything that fits a filter with the status failed or interrupted.
pub(crate) async fn retry_all(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let done = async {
        let form = Form::read(&call, body)?;
        let filter = Filter::of(&form.fields)?;
        let before = form.fields.place("before")?;
        let (many, next) = retry_filtered(&call, &filter, before).await?;
        let back = match next {
            Some(next) => pages::address(&call, &filter, Some(next)),
            None => form.back,
        };
        Ok((many, back))
    };
    match done.await {
        Ok((many, back)) => {
            let text = many.to_string();
            done_with(&headers, &back, Flash::Many(many), &text, None)
        }
        Err(problem) => failed(&call, &headers, problem),
    }
}

/// `POST /dashboard/prefs`: the theme.
pub(crate) async fn prefs(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match Form::read(&call, body) {
        Ok(form) => {
            let mut response = redirect(&form.back);
            let cookie = theme_cookie(Theme::of(form.fields.get("theme")));
            response.headers_mut().append(header::SET_COOKIE, cookie);
            response
        }
        Err(problem) => failed(&call, &headers, problem),
    }
}

/// A form of ours: it carries the token of the session, and says where it stood.
pub(crate) struct Form {
    pub(crate) fields: Params,
    pub(crate) back: String,
}

impl Form {
    pub(crate) fn read(call: &Call, body: Result<Bytes, BytesRejection>) -> Result<Self, Problem> {
        let fields = Params::of(&read_body(body)?);
        let is_ours = call
            .visit
            .who
            .as_ref()
            .is_some_and(|who| is_form_token(who, fields.get("csrf").unwrap_or_default()));
        if !is_ours {
            return Err(bad_form());
        }
        let back = call.visit.local(fields.get("back"));
        Ok(Self { fields, back })
    }
}

#[derive(Serialize)]
struct Done<'a> {
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    href: Option<String>,
}

fn done_with(
    headers: &HeaderMap,
    next: &str,
    flash: Flash,
    detail: &str,
    href: Option<String>,
) -> Response {
    if wants_json(headers) {
        return json(&Done { detail, href });
    }
    let mut response = redirect(next);
    let cookie = flash.cookie();
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}

pub(crate) fn failed(call: &Call, headers: &HeaderMap, problem: Problem) -> Response {
    match wants_json(headers) {
        true => axum::response::IntoResponse::into_response(problem),
        false => pages::failed(call, &problem),
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"application/json"))
}
