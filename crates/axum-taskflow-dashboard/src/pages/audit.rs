//! The page that tells who did what.

use askama::Template;
use axum::{http::StatusCode, response::Response};
use axum_taskflow_core::{AuditEntry, TaskId, Timestamp};

use super::{Frame, duties::Duties};
use crate::{guard::Call, pages, problem::Problem, text, view::At};

/// Entries on a page.
const ROWS: usize = 50;
/// Characters of what else is kept of an action.
const DETAIL_CHARS: usize = 300;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    rows: Vec<AuditRow>,
    is_top: bool,
    older: Option<String>,
}

struct AuditRow {
    action: String,
    actor: String,
    task: Option<TaskId>,
    /// What a retry made.
    new_task: Option<TaskId>,
    detail: String,
    at: At,
}

impl AuditRow {
    fn of(entry: &AuditEntry, now: Timestamp) -> Self {
        let new_task = entry.detail["new_task_id"].as_str();
        let new_task = new_task.and_then(|id| id.parse().ok());
        let says_more =
            new_task.is_none() && entry.detail.as_object().is_none_or(|it| !it.is_empty());
        Self {
            action: text::clean(&entry.action).replace('_', " "),
            actor: text::clean(&entry.actor),
            task: entry.task,
            new_task,
            detail: match says_more {
                true => text::head(&entry.detail.to_string(), DETAIL_CHARS),
                false => String::new(),
            },
            at: At::of(entry.at, now),
        }
    }
}

/// `GET /dashboard/audit`: newest first, or those older than `before`.
pub(crate) async fn page(call: Call) -> Response {
    audit_page(&call)
        .await
        .unwrap_or_else(|problem| pages::failed(&call, &problem))
}

async fn audit_page(call: &Call) -> Result<Response, Problem> {
    let before = call.params.place("before")?;
    let mut entries = call.shared.manager.audit(before, ROWS + 1).await?;
    let has_more = entries.len() > ROWS;
    entries.truncate(ROWS);
    let frame = match before {
        None => Duties::Audit.frame(call, &entries.first().map(|entry| entry.id)),
        Some(_) => Frame {
            page: Duties::Audit.word(),
            ..Frame::of(call)
        },
    };
    let older = entries.last().filter(|_| has_more);
    let older = older.map(|last| format!("{}/audit?before={}", call.visit.dashboard(), last.id));
    let now = call.visit.now;
    Ok(pages::print(
        StatusCode::OK,
        &AuditPage {
            frame,
            rows: entries
                .iter()
                .map(|entry| AuditRow::of(entry, now))
                .collect(),
            is_top: before.is_none(),
            older,
        },
    ))
}
