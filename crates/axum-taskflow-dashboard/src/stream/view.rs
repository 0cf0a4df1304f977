//! What is on the screen of an open page, and what belongs on it.

use axum_taskflow_core::{Task, TaskId};

use crate::{guard::Call, pages::duties::Duties, problem::Problem, query::Filter};

/// Rows that a page can show.
pub(super) const ROWS_ON_PAGE_MAX: usize = 200;

/// What is on the screen.
pub(super) enum View {
    List {
        filter: Filter,
        /// The ids on the page, oldest and newest.
        lo: TaskId,
        hi: TaskId,
        /// How many rows it shows.
        n: usize,
        /// What is newer belongs on top of it.
        is_top: bool,
        /// What is older belongs below it: the page shows all there is.
        is_all: bool,
    },
    Task {
        id: TaskId,
        /// Log lines that it shows already.
        lines: usize,
    },
    Duties {
        page: Duties,
        /// What it shows, in short.
        mark: u64,
    },
}

impl View {
    pub(super) fn of(call: &Call) -> Result<Self, Problem> {
        let params = &call.params;
        if let Some(id) = params.place("id")? {
            let lines = params.number("lines", 0, 1_000_000_000)?;
            return Ok(Self::Task {
                id,
                lines: lines.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            });
        }
        if let Some(page) = params.get("page") {
            return Ok(Self::Duties {
                page: Duties::of(page)?,
                mark: params.number("mark", 0, u64::MAX)?.unwrap_or(0),
            });
        }
        let filter = Filter::of(params)?;
        // Without a page everything is new that comes from now on.
        let now = TaskId::floor(call.visit.now);
        let n = params.number("n", 0, ROWS_ON_PAGE_MAX as u64)?;
        Ok(Self::List {
            filter,
            lo: params.place("lo")?.unwrap_or(now),
            hi: params.place("hi")?.unwrap_or(now),
            n: n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            is_top: params.get("top").is_some(),
            is_all: params.get("all").is_some(),
        })
    }
}

/// Of a change only the function's name is told, and not the task.
pub(super) fn fits(filter: &Filter, name: &str, task: Option<&Task>) -> bool {
    if filter
        .func_name
        .as_deref()
        .is_some_and(|wanted| wanted != name)
    {
        return false;
    }
    let Some(task) = task else {
        return true;
    };
    if filter.tracking_id.is_some() && filter.tracking_id.as_deref() != task.tracking_id.as_deref()
    {
        return false;
    }
    let tag = filter.tag.as_ref();
    tag.is_none_or(|tag| tag.is_of(&task.tags))
}

pub(super) fn id_after(id: TaskId) -> Option<TaskId> {
    let n = u128::from_be_bytes(*id.as_bytes()).checked_add(1)?;
    Some(TaskId::from_bytes(n.to_be_bytes()))
}

pub(super) fn id_before(id: TaskId) -> Option<TaskId> {
    let n = u128::from_be_bytes(*id.as_bytes()).checked_sub(1)?;
    Some(TaskId::from_bytes(n.to_be_bytes()))
}
