//! The pages of schedules, and of leaders and locks: printed by the server, and worked by forms.

use std::hash::{DefaultHasher, Hash, Hasher};

use askama::Template;
use axum::{
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use axum_taskflow_core::{
    Decided, Decision, Error, HoldKind, Holder, Origin, ScheduleInfo, ScheduleState, TaskId,
    TaskManager, Timestamp, Totals,
};
use serde::Serialize;

use crate::{
    actions::{Form, failed},
    guard::{Call, Flash, redirect},
    pages::{self, Frame, print},
    problem::Problem,
    query::Params,
    text,
    view::At,
};

/// Decisions about a slot are as late as this in the ordinary course of things.
const LATE_MIN_MS: u128 = 1_000;
/// Rows on one of these pages: there may be a lock for each of very many things.
const ROWS_MAX: usize = 200;
/// Bytes of the arguments that are shown.
const ARGS_CHARS: usize = 200;

/// One of these pages, for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duties {
    Schedules,
    Holders,
    Audit,
}

impl Duties {
    pub(crate) fn of(word: &str) -> Result<Self, Problem> {
        [Self::Schedules, Self::Holders, Self::Audit]
            .into_iter()
            .find(|page| page.word() == word)
            .ok_or_else(|| Problem::unprocessable("page is schedules, holders or audit"))
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Schedules => "schedules",
            Self::Holders => "holders",
            Self::Audit => "audit",
        }
    }

    /// What the page would show now, in short: another mark means that it has to be read anew.
    pub(crate) async fn mark(self, manager: &TaskManager) -> Result<u64, Error> {
        Ok(match self {
            Self::Schedules => mark_of(&for_all(&manager.schedules().await?)),
            Self::Holders => mark_of(&manager.holders().await?),
            Self::Audit => {
                let last = manager.audit(None, 1).await?;
                mark_of(&last.first().map(|entry| entry.id))
            }
        })
    }

    /// Around the page that shows this.
    pub(super) fn frame(self, call: &Call, shown: &impl Serialize) -> Frame {
        let mut frame = Frame::of_page(call, self.word());
        let (dashboard, word, mark) = (call.visit.dashboard(), self.word(), mark_of(shown));
        frame.stream = format!("{dashboard}/stream?page={word}&mark={mark}");
        frame
    }
}

/// The same for the same in all processes of one build; another build makes the page be read once more.
fn mark_of(shown: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(shown)
        .unwrap_or_default() // plain data
        .hash(&mut hasher);
    hasher.finish()
}

/// Without whether this instance knows the functions: the stream may be another one's, which knows others, and then the
/// page would be read anew again and again.
fn for_all(schedules: &[ScheduleInfo]) -> Vec<ScheduleInfo> {
    let mut schedules = schedules.to_vec();
    for schedule in &mut schedules {
        if schedule.state == ScheduleState::UnknownFunction {
            schedule.state = ScheduleState::Active;
        }
    }
    schedules
}

// ---- schedules -------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "schedules.html")]
struct SchedulesPage {
    frame: Frame,
    n: usize,
    rows: Vec<ScheduleRow>,
    may_operate: bool,
}

struct ScheduleRow {
    name: String,
    /// As it is stored, for the forms.
    key: String,
    function: String,
    args: String,
    rule: String,
    state: &'static str,
    /// Why it does not fire.
    why: String,
    is_manual: bool,
    can_pause: bool,
    can_delete: bool,
    next: Vec<At>,
    last: Vec<LastRow>,
    totals: Totals,
}

struct LastRow {
    slot: At,
    what: String,
    task: Option<TaskId>,
    late: Option<String>,
}

impl ScheduleRow {
    fn of(info: &ScheduleInfo, now: Timestamp) -> Self {
        let (state, why) = match (info.state, &info.paused) {
            (ScheduleState::Paused, Some(paused)) => {
                let since = text::relative(paused.since, now);
                (
                    "paused",
                    format!("paused by {} {since}", text::clean(&paused.by)),
                )
            }
            (ScheduleState::Retired, _) => (
                "retired",
                "the program has it no more: it does not fire".to_owned(),
            ),
            (ScheduleState::UnknownFunction, _) => (
                "unknown",
                "its function is not known here: only an instance that knows it fires it"
                    .to_owned(),
            ),
            _ => ("active", String::new()),
        };
        Self {
            name: text::clean(&info.name),
            key: info.name.clone(),
            function: text::clean(&info.function),
            args: match &*info.args {
                "[]" => String::new(),
                args => text::head(args, ARGS_CHARS),
            },
            rule: text::clean(&info.rule.to_string()),
            state,
            why,
            is_manual: info.origin == Origin::Manual,
            can_pause: info.paused.is_none() && info.state != ScheduleState::Retired,
            can_delete: info.origin == Origin::Manual || info.state == ScheduleState::Retired,
            next: info.next.iter().map(|slot| At::of(*slot, now)).collect(),
            last: info.last.iter().map(|it| LastRow::of(it, now)).collect(),
            totals: info.totals,
        }
    }
}

impl LastRow {
    fn of(decision: &Decision, now: Timestamp) -> Self {
        let (what, task) = match decision.what {
            Decided::Fired { task } => ("fired".to_owned(), Some(task)),
            Decided::Overlapped => (
                "left out: the task before it had not ended".to_owned(),
                None,
            ),
            Decided::Queued => ("waits for the end of the task before it".to_owned(), None),
            Decided::Missed { n } => (format!("{n} missed while nothing ran"), None),
            _ => ("decided by a newer program".to_owned(), None),
        };
        let late = decision.at.since(decision.slot);
        Self {
            slot: At::of(decision.slot, now),
            what,
            task,
            late: (late.as_millis() >= LATE_MIN_MS).then(|| text::duration(late)),
        }
    }
}

/// `GET /dashboard/schedules`.
pub(crate) async fn schedules(call: Call) -> Response {
    let made = async {
        let schedules = call.shared.manager.schedules().await?;
        let now = call.visit.now;
        let page = SchedulesPage {
            frame: Duties::Schedules.frame(&call, &for_all(&schedules)),
            n: schedules.len(),
            rows: schedules
                .iter()
                .take(ROWS_MAX)
                .map(|info| ScheduleRow::of(info, now))
                .collect(),
            may_operate: call.visit.may_operate(),
        };
        Ok(print(StatusCode::OK, &page))
    };
    made.await
        .unwrap_or_else(|problem: Problem| pages::failed(&call, &problem))
}

/// `POST /dashboard/schedules/pause`.
pub(crate) async fn pause(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    act(&call, &headers, body, async |fields| {
        let manager = &call.shared.manager;
        let name = needed(fields, "name")?;
        manager.pause_schedule(name, call.visit.actor()).await?;
        Ok(None)
    })
    .await
}

/// `POST /dashboard/schedules/resume`.
pub(crate) async fn resume(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    act(&call, &headers, body, async |fields| {
        let manager = &call.shared.manager;
        let name = needed(fields, "name")?;
        manager.resume_schedule(name, call.visit.actor()).await?;
        Ok(None)
    })
    .await
}

/// `POST /dashboard/schedules/run`.
pub(crate) async fn run(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    act(&call, &headers, body, async |fields| {
        let manager = &call.shared.manager;
        let name = needed(fields, "name")?;
        let id = manager.run_schedule(name, call.visit.actor()).await?;
        Ok(Some(Flash::Added(id)))
    })
    .await
}

/// `POST /dashboard/schedules/delete`.
pub(crate) async fn delete(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    act(&call, &headers, body, async |fields| {
        let manager = &call.shared.manager;
        let name = needed(fields, "name")?;
        manager.delete_schedule(name, call.visit.actor()).await?;
        Ok(None)
    })
    .await
}

// ---- leaders and locks -----------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "holders.html")]
struct HoldersPage {
    frame: Frame,
    n: usize,
    rows: Vec<HolderRow>,
    may_operate: bool,
}

struct HolderRow {
    kind: &'static str,
    /// In words.
    does: &'static str,
    name: String,
    /// As it is stored, for the form.
    key: String,
    epoch: u64,
    state: &'static str,
    host: String,
    pid: u32,
    instance: String,
    is_here: bool,
    since: At,
    waiting: usize,
}

impl HolderRow {
    fn of(holder: &Holder, call: &Call) -> Self {
        Self {
            kind: holder.kind.as_str(),
            does: match holder.kind {
                HoldKind::Leader => "leads",
                HoldKind::Lock => "has the lock",
                HoldKind::Once => "runs it once",
                _ => "holds it",
            },
            name: text::clean(&holder.name),
            key: holder.name.clone(),
            epoch: holder.epoch,
            state: if holder.is_alive { "alive" } else { "dead" },
            host: text::clean(&holder.host),
            pid: holder.pid,
            instance: holder.instance.to_string(),
            is_here: holder.instance == call.shared.manager.instance().id,
            since: At::of(holder.since, call.visit.now),
            waiting: holder.waiting,
        }
    }
}

/// `GET /dashboard/holders`.
pub(crate) async fn holders(call: Call) -> Response {
    let made = async {
        let holders = call.shared.manager.holders().await?;
        let page = HoldersPage {
            frame: Duties::Holders.frame(&call, &holders),
            n: holders.len(),
            rows: holders
                .iter()
                .take(ROWS_MAX)
                .map(|it| HolderRow::of(it, &call))
                .collect(),
            may_operate: call.visit.may_operate(),
        };
        Ok(print(StatusCode::OK, &page))
    };
    made.await
        .unwrap_or_else(|problem: Problem| pages::failed(&call, &problem))
}

/// `POST /dashboard/holders/release`.
pub(crate) async fn release(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    act(&call, &headers, body, async |fields| {
        let manager = &call.shared.manager;
        let (kind, name) = (needed(fields, "kind")?, needed(fields, "name")?);
        let kind = HoldKind::ALL.into_iter().find(|it| it.as_str() == kind);
        let kind = kind.ok_or_else(|| Problem::unprocessable("kind is leader, lock or once"))?;
        manager.release(kind, name, call.visit.actor()).await?;
        Ok(Some(Flash::Released))
    })
    .await
}

// ---- forms -----------------------------------------------------------------------------------------------------

fn needed<'a>(fields: &'a Params, name: &str) -> Result<&'a str, Problem> {
    let value = fields.get(name);
    value.ok_or_else(|| Problem::unprocessable(format!("{name} is missing in the form")))
}

/// Does what a form asks for, and goes back to where it stood.
async fn act(
    call: &Call,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    act: impl AsyncFnOnce(&Params) -> Result<Option<Flash>, Problem>,
) -> Response {
    let done = async {
        let form = Form::read(call, body)?;
        let flash = act(&form.fields).await?;
        let mut response = redirect(&form.back);
        if let Some(flash) = flash {
            let cookie = flash.cookie();
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    };
    done.await
        .unwrap_or_else(|problem| failed(call, headers, problem))
}
