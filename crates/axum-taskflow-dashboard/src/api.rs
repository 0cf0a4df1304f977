//! The routes for programs: fastapi-taskflow's, with its JSON.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use axum_taskflow_core::{
    Cancelled, Error, ErrorKind, LogLine, Task, TaskId, TaskManager, TaskStatus, Timestamp,
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    guard::{Call, Many, redirect},
    pages,
    problem::{Problem, json},
    query::{Filter, Params},
    runners::Runners,
    view::{AuditJson, TaskJson},
};

/// Log lines of each task in a list.
const LOGS_IN_LIST: usize = 100;
/// Log lines of one task, as many as a store keeps at least.
const LOGS_OF_TASK: usize = 10_000;
/// Bytes of log lines in one answer; what is over is left out, the newest tasks' lines come first.
const LOGS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Reads of one answer that the store is asked for at the same time: most of the time of one is its way.
const READS_AT_ONCE: usize = 16;
/// Log lines that are read at once.
const LOGS_PAGE: usize = 100;
/// Ids in one bulk retry.
const BULK_MAX: usize = 1_000;
/// Tasks that one retry of many looks at.
pub(crate) const RETRY_MANY_MAX: usize = 10_000;
/// Tasks that are read at once on the way there.
const RETRY_FAILED_PAGE: usize = 500;
/// Short pages of each status on the way there. A store gives one when it has looked at as much as it may for a page and
/// those that fit are rare: the next call goes on from there.
const SHORT_PAGES_MAX: usize = 3;
/// Retries that wait for the store together, so that they share a commit.
const RETRIES_AT_ONCE: usize = 64;

/// `GET /`: the newest tasks, or those older or newer than an id or a time. A browser is sent to the dashboard.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    if call.visit.wants_html {
        return Ok(redirect(&call.visit.dashboard()));
    }
    let manager = &call.shared.manager;
    let filter = Filter::of(&call.params)?;
    let mut query = filter.query();
    query.limit = call.params.limit()?;
    query.before = call.params.place("before")?;
    query.after = call.params.place("after")?;
    let limit = query.limit;
    let page = filter.page(manager, query).await?;
    let logs = logs_of_all(manager, &page.tasks).await?;
    let runners = Runners::of_tasks(manager, &page.tasks).await?;
    let tasks = page.tasks.iter().zip(&logs).map(|(task, logs)| {
        let can_run = runners.can_run(manager, &task.name, &task.life);
        TaskJson::of(task, logs, can_run).in_list()
    });
    let mut response = json(&tasks.collect::<Vec<_>>());
    if let Some(next) = page.next {
        let mut query = form_urlencoded::Serializer::new(String::new());
        filter.write(&mut query);
        query.append_pair("limit", &limit.to_string());
        if let Some(after) = call.params.get("after") {
            query.append_pair("after", after);
        }
        query.append_pair("before", &next.to_string());
        link_next(&mut response, &call.visit.base, "/", &query.finish());
    }
    Ok(response)
}

/// `Link: <…>; rel="next"` (RFC 8288).
pub(crate) fn link_next(response: &mut Response, base: &str, path: &str, query: &str) {
    let path = if base.is_empty() {
        path
    } else {
        path.trim_end_matches('/')
    };
    // A base that is no header value was no path of a request either.
    if let Ok(link) = HeaderValue::from_str(&format!("<{base}{path}?{query}>; rel=\"next\"")) {
        response.headers_mut().insert(header::LINK, link);
    }
}

/// The first log lines of each task, and no more bytes than one answer has in all.
async fn logs_of_all(manager: &TaskManager, tasks: &[Task]) -> Result<Vec<Vec<LogLine>>, Error> {
    // By their ids: futures that borrow from the page would not be futures of a handler.
    let begun = tasks.iter().map(|task| has_begun(task).then_some(task.id));
    let begun: Vec<Option<TaskId>> = begun.collect();
    let reads = begun.into_iter().map(|id| async move {
        match id {
            Some(id) => manager.logs(id, 0, LOGS_IN_LIST).await,
            None => Ok(Vec::new()),
        }
    });
    let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
    let mut bytes_left = LOGS_BYTES_MAX;
    let mut logs = Vec::with_capacity(tasks.len());
    while bytes_left > 0
        && let Some(lines) = reads.next().await
    {
        let mut lines = lines?;
        let those_that_fit = lines.iter().take_while(|line| fits(line, &mut bytes_left));
        let n = those_that_fit.count();
        lines.truncate(n);
        logs.push(lines);
    }
    logs.resize(tasks.len(), Vec::new());
    Ok(logs)
}

/// What never began has said nothing: most of a list of waiting tasks costs no read.
fn has_begun(task: &Task) -> bool {
    task.life.epoch.get() > 0
}

/// True if the line takes no more bytes than are left; else none are left.
fn fits(line: &LogLine, bytes_left: &mut usize) -> bool {
    let left = bytes_left.checked_sub(line.message.len());
    *bytes_left = left.unwrap_or(0);
    left.is_some()
}

/// The first log lines of a task: at most `lines_max`, and no more bytes than are left.
async fn logs_of(
    manager: &TaskManager,
    task: &Task,
    lines_max: usize,
    bytes_left: &mut usize,
) -> Result<Vec<LogLine>, Error> {
    let mut lines: Vec<LogLine> = Vec::new();
    while has_begun(task) && lines.len() < lines_max && *bytes_left > 0 {
        let wanted = LOGS_PAGE.min(lines_max - lines.len());
        let page = manager.logs(task.id, lines.len(), wanted).await?;
        let is_last = page.len() < wanted;
        for line in page {
            if !fits(&line, bytes_left) {
                return Ok(lines);
            }
            lines.push(line);
        }
        if is_last {
            break;
        }
    }
    Ok(lines)
}

/// `GET /{task_id}`.
pub(crate) async fn task(call: Call) -> Response {
    let told = async { one_task(&call.shared.manager, call.task_id()?).await };
    told.await
        .unwrap_or_else(|problem| pages::refused(&call, problem))
}

async fn one_task(manager: &TaskManager, id: TaskId) -> Result<Response, Problem> {
    let told = Told::of(manager, id).await?;
    Ok(json(&told.json(manager)))
}

/// A task with everything that is told of it.
struct Told {
    task: Task,
    logs: Vec<LogLine>,
    runners: Runners,
}

impl Told {
    async fn of(manager: &TaskManager, id: TaskId) -> Result<Self, Problem> {
        let task = manager.get(id).await?.ok_or_else(|| Problem::no_task(id))?;
        let mut bytes_left = LOGS_BYTES_MAX;
        Ok(Self {
            logs: logs_of(manager, &task, LOGS_OF_TASK, &mut bytes_left).await?,
            runners: Runners::of_tasks(manager, std::slice::from_ref(&task)).await?,
            task,
        })
    }

    fn json(&self, manager: &TaskManager) -> TaskJson<'_> {
        let task = &self.task;
        let can_run = self.runners.can_run(manager, &task.name, &task.life);
        TaskJson::of(task, &self.logs, can_run)
    }
}

#[derive(Serialize)]
struct Metrics {
    total: u64,
    success: u64,
    failed: u64,
    running: u64,
    pending: u64,
    interrupted: u64,
    cancelled: u64,
    success_rate: f64,
    /// Of the attempts that ended tasks in the last hour.
    avg_duration_seconds: f64,
    /// Here, since the start.
    stale_results: u64,
}

/// `GET /metrics`: from counters, whose number does not grow with the tasks.
pub(crate) async fn metrics(call: Call) -> Result<Response, Problem> {
    let manager = &call.shared.manager;
    let counts = manager.counts().await?;
    let n = |status| -> u64 {
        let counts = counts.iter().filter(|count| count.status == status);
        counts.map(|count| count.n).sum()
    };
    let hour_ago = call.visit.now.saturating_sub(Duration::from_secs(3_600));
    let series = manager.series(hour_ago).await?;
    let (ended, ran) = series
        .iter()
        .fold((0, Duration::ZERO), |(ended, ran), minute| {
            (ended + minute.n, ran.saturating_add(minute.run))
        });
    let total: u64 = counts.iter().map(|count| count.n).sum();
    let success = n(TaskStatus::Success);
    Ok(json(&Metrics {
        total,
        success,
        failed: n(TaskStatus::Failed),
        running: n(TaskStatus::Running),
        pending: n(TaskStatus::Pending),
        interrupted: n(TaskStatus::Interrupted),
        cancelled: n(TaskStatus::Cancelled),
        success_rate: share(success as f64, total),
        avg_duration_seconds: (share(ran.as_secs_f64(), ended) * 1e6).round() / 1e6,
        stale_results: manager.stale_results(),
    }))
}

fn share(part: f64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part / of as f64 }
}

/// `GET /audit`: newest first.
pub(crate) async fn audit(call: Call) -> Result<Response, Problem> {
    let limit = call.params.limit()?;
    let before = call.params.place("before")?;
    let mut entries = call.shared.manager.audit(before, limit + 1).await?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let list: Vec<AuditJson<'_>> = entries.iter().map(AuditJson::of).collect();
    let mut response = json(&list);
    if let Some(last) = entries.last().filter(|_| has_more) {
        let query = format!("limit={limit}&before={}", last.id);
        link_next(&mut response, &call.visit.base, "/audit", &query);
    }
    Ok(response)
}

#[derive(Serialize)]
struct Acted<'a> {
    task_id: TaskId,
    task: TaskJson<'a>,
}

/// `POST /{task_id}/retry`: answers with the new task.
pub(crate) async fn retry(call: Call) -> Result<Response, Problem> {
    let new_id = retry_one(&call, call.task_id()?).await?;
    acted(&call.shared.manager, new_id).await
}

/// `POST /{task_id}/cancel`: answers with the task, which may still run until it looks; 202 if the instance that runs it
/// has not answered.
pub(crate) async fn cancel(call: Call) -> Result<Response, Problem> {
    let id = call.task_id()?;
    let cancelled = cancel_one(&call, id).await?;
    let mut response = acted(&call.shared.manager, id).await?;
    if cancelled == Cancelled::Sent {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(response)
}

async fn acted(manager: &TaskManager, id: TaskId) -> Result<Response, Problem> {
    let told = Told::of(manager, id).await?;
    Ok(json(&Acted {
        task_id: id,
        task: told.json(manager),
    }))
}

/// Retries one task, and keeps a record of it.
pub(crate) async fn retry_one(call: &Call, id: TaskId) -> Result<TaskId, Problem> {
    let manager = &call.shared.manager;
    let task = manager.get(id).await?.ok_or_else(|| Problem::no_task(id))?;
    if !task.life.status.can_be_retried() {
        let rule = "only failed, interrupted or cancelled tasks can be retried";
        return Err(Problem::wrong_status(rule, id, task.life.status));
    }
    let new_id = manager.retry(id).await?;
    let detail = serde_json::json!({ "new_task_id": new_id });
    record(call, "retry", Some(id), detail).await;
    Ok(new_id)
}

/// Cancels one task, and keeps a record of it.
pub(crate) async fn cancel_one(call: &Call, id: TaskId) -> Result<Cancelled, Problem> {
    let manager = &call.shared.manager;
    let task = manager.get(id).await?.ok_or_else(|| Problem::no_task(id))?;
    if task.life.status.is_terminal() {
        let rule = "only pending or running tasks can be cancelled";
        return Err(Problem::wrong_status(rule, id, task.life.status));
    }
    let cancelled = manager.cancel(id).await?;
    record(call, "cancel", Some(id), serde_json::json!({})).await;
    Ok(cancelled)
}

/// Keeps a record of what was done. It is done already, so a store that cannot keep the record does not turn the
/// answer into an error: whoever got one would do it again.
pub(crate) async fn record(
    call: &Call,
    action: &str,
    task: Option<TaskId>,
    detail: serde_json::Value,
) {
    let manager = &call.shared.manager;
    let actor = call.visit.actor();
    if let Err(error) = manager.record_audit(actor, action, task, detail).await {
        tracing::error!(
            actor,
            action,
            task = task.map(tracing::field::display),
            error = &error as &dyn std::error::Error,
            "an action is missing in the audit log"
        );
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object with task_ids")]
struct BulkRetry {
    task_ids: Vec<String>,
}

/// What a retry of many tasks came to.
#[derive(Default, Serialize)]
struct Retried {
    dispatched: usize,
    skipped: usize,
    results: Vec<RetriedTask>,
    /// True if there are more tasks than one call looks at.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
    /// Then: where the next call goes on, by its parameter `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_before: Option<TaskId>,
}

#[derive(Serialize)]
struct RetriedTask {
    original_task_id: TaskId,
    new_task_id: TaskId,
}

/// Part of a bulk retry was done when the store failed: says what, so that nobody does it again.
#[derive(Serialize)]
struct HalfRetried<'a> {
    detail: &'a str,
    #[serde(flatten)]
    retried: &'a Retried,
}

/// `POST /bulk-retry` with `{"task_ids": […]}`.
pub(crate) async fn bulk_retry(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body: BulkRetry = read_json(&headers, body)?;
    if body.task_ids.len() > BULK_MAX {
        return Err(Problem::unprocessable(format!(
            "task_ids must have at most {BULK_MAX} ids, and has {}: send the rest in further requests",
            body.task_ids.len()
        )));
    }
    let mut seen = HashSet::new();
    let ids: Vec<TaskId> = body
        .task_ids
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|id| seen.insert(*id))
        .collect();
    let mut retried = Retried {
        skipped: body.task_ids.len() - ids.len(),
        ..Retried::default()
    };
    let outcome = retry_all(&call.shared.manager, ids, &mut retried).await;
    // They may be no ids, and of any length.
    let head = body.task_ids.iter().take(20);
    let head: Vec<String> = head.map(|id| crate::text::head(id, 64)).collect();
    let detail = serde_json::json!({
        "dispatched": retried.dispatched, "skipped": retried.skipped, "task_ids": head,
    });
    record(&call, "bulk_retry", None, detail).await;
    Ok(retried_many(outcome, &retried))
}

fn retried_many(outcome: Result<(), Error>, retried: &Retried) -> Response {
    match outcome {
        Ok(()) => json(retried),
        Err(error) => {
            let problem = Problem::from(error);
            problem.dress(json(&HalfRetried {
                detail: &problem.detail,
                retried,
            }))
        }
    }
}

/// Retries what can be retried and skips the rest; stops only if the store fails.
async fn retry_all(
    manager: &TaskManager,
    ids: Vec<TaskId>,
    retried: &mut Retried,
) -> Result<(), Error> {
    let mut answers = stream::iter(ids)
        .map(|id| async move { (id, manager.retry(id).await) })
        .buffered(RETRIES_AT_ONCE);
    let mut outcome = Ok(());
    // To the end even after a failure: what is on its way is to be told.
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(new_task_id) => {
                retried.dispatched += 1;
                retried.results.push(RetriedTask {
                    original_task_id: id,
                    new_task_id,
                });
            }
            Err(error) if is_skipped(&error) => retried.skipped += 1,
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

fn is_skipped(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict)
}

/// `POST /retry-failed?since=6h&func_name=`: the failed and interrupted tasks of a time, newest first, page by page.
pub(crate) async fn retry_failed(call: Call) -> Result<Response, Problem> {
    call.params.only(&["since", "func_name", "before"])?;
    let since = call.params.get("since").unwrap_or("6h");
    let after = after(since, call.visit.now)?;
    let func_name = call.params.func_name()?;
    let before = call.params.place("before")?;
    let mut query = axum_taskflow_core::ListQuery::default();
    query.name.clone_from(&func_name);
    (query.before, query.after) = (before, after);
    let failed = Failed::new(&query, &[TaskStatus::Failed, TaskStatus::Interrupted]);
    let (outcome, retried) = retry_found(&call.shared.manager, failed).await;
    let detail = serde_json::json!({
        "since": since, "func_name": func_name, "dispatched": retried.dispatched, "skipped": retried.skipped,
    });
    record(&call, "bulk_retry", None, detail).await;
    Ok(retried_many(outcome, &retried))
}

/// For the page: retries what fits a filter, from a place on and older, and keeps a record of it. Tells where to go on,
/// if there is more.
pub(crate) async fn retry_filtered(
    call: &Call,
    filter: &Filter,
    before: Option<TaskId>,
) -> Result<(Many, Option<TaskId>), Problem> {
    let status = filter.ended_badly().ok_or_else(|| {
        Problem::unprocessable("status must be failed or interrupted to retry all of it")
    })?;
    let mut query = filter.query();
    query.before = before;
    let failed = Failed::new(&query, &[status]);
    let (outcome, retried) = retry_found(&call.shared.manager, failed).await;
    let mut detail: serde_json::Map<String, serde_json::Value> = filter
        .fields()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    detail.insert("dispatched".to_owned(), retried.dispatched.into());
    detail.insert("skipped".to_owned(), retried.skipped.into());
    record(call, "bulk_retry", None, detail.into()).await;
    if let Err(error) = outcome {
        let mut problem = Problem::from(error);
        problem.detail = format!(
            "{}; {} were retried by then",
            problem.detail, retried.dispatched
        );
        return Err(problem);
    }
    let many = Many {
        retried: retried.dispatched,
        skipped: retried.skipped,
        has_more: retried.next_before.is_some(),
    };
    Ok((many, retried.next_before))
}

/// Retries what is found, page by page and up to a bound, and tells where to go on.
async fn retry_found(manager: &TaskManager, mut failed: Failed) -> (Result<(), Error>, Retried) {
    let mut retried = Retried::default();
    let mut looked_at = 0;
    let mut last = None;
    let mut outcome = Ok(());
    while looked_at < RETRY_MANY_MAX {
        let limit = RETRY_FAILED_PAGE.min(RETRY_MANY_MAX - looked_at);
        match failed.next(manager, limit).await {
            Ok(ids) if ids.is_empty() => break,
            Ok(ids) => {
                looked_at += ids.len();
                last = ids.last().copied();
                outcome = retry_all(manager, ids, &mut retried).await;
            }
            Err(error) => outcome = Err(error),
        }
        if outcome.is_err() {
            break;
        }
    }
    let mut rest = Ok(None);
    if outcome.is_ok() {
        rest = failed.rest(manager, last).await;
    }
    match rest {
        Ok(next_before) => {
            retried.more = Some(next_before.is_some() || outcome.is_err());
            retried.next_before = next_before;
        }
        // What was done is told and recorded all the same.
        Err(error) => {
            (retried.more, retried.next_before) = (Some(true), last);
            outcome = Err(error);
        }
    }
    (outcome, retried)
}

/// The smallest id of the tasks that are meant: `6h`, `7d`, `all`.
fn after(since: &str, now: Timestamp) -> Result<Option<TaskId>, Problem> {
    if since == "all" {
        return Ok(None);
    }
    let hours = since.strip_suffix('h').map(|n| (n, 3_600));
    let span = hours.or_else(|| since.strip_suffix('d').map(|n| (n, 24 * 3_600)));
    match span {
        Some((n, unit_s)) if !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()) => {
            let n: u64 = n.parse().unwrap_or(u64::MAX); // too many digits: longer than anybody lives
            let span = Duration::from_secs(n.saturating_mul(unit_s));
            Ok(Some(TaskId::floor(now.saturating_sub(span))))
        }
        _ => {
            let head: String = since.chars().take(64).collect();
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!(
                    "since must be a number of hours or days, such as 6h or 7d, or all; not {head:?}"
                ),
            ))
        }
    }
}

/// Tasks of some statuses together, newest first. A list has one status, so theirs are merged.
struct Failed(Vec<Lane>);

struct Lane {
    query: axum_taskflow_core::ListQuery,
    /// Read and not handed out yet.
    ids: VecDeque<TaskId>,
    is_over: bool,
    /// Short pages that may still be read.
    short_pages_left: usize,
}

impl Failed {
    fn new(query: &axum_taskflow_core::ListQuery, statuses: &[TaskStatus]) -> Self {
        let lane = |status: &TaskStatus| {
            let mut query = query.clone();
            query.status = Some(*status);
            query.limit = RETRY_FAILED_PAGE;
            query.payload_max = 0;
            Lane {
                query,
                ids: VecDeque::new(),
                is_over: false,
                short_pages_left: SHORT_PAGES_MAX,
            }
        };
        Self(statuses.iter().map(lane).collect())
    }

    /// At most `limit` further ids; none if there are no more, or if looking on would take too long.
    async fn next(&mut self, manager: &TaskManager, limit: usize) -> Result<Vec<TaskId>, Error> {
        let mut ids = Vec::new();
        while ids.len() < limit {
            self.fill(manager).await?;
            match self.newest().and_then(|lane| lane.ids.pop_front()) {
                Some(id) => ids.push(id),
                None => break,
            }
        }
        Ok(ids)
    }

    /// What to go on before, if there may be more; `last` was handed out last.
    async fn rest(
        &mut self,
        manager: &TaskManager,
        last: Option<TaskId>,
    ) -> Result<Option<TaskId>, Error> {
        self.fill(manager).await?;
        Ok(match self.newest() {
            Some(_) => last,
            None => self.horizon(),
        })
    }

    async fn fill(&mut self, manager: &TaskManager) -> Result<(), Error> {
        for lane in &mut self.0 {
            lane.fill(manager).await?;
        }
        Ok(())
    }

    /// The lane whose turn it is. What lies beyond the horizon has to wait: the other lane may have newer ones.
    fn newest(&mut self) -> Option<&mut Lane> {
        let horizon = self.horizon();
        self.0
            .iter_mut()
            .filter(|lane| lane.ids.front().is_some_and(|id| Some(*id) >= horizon))
            .max_by_key(|lane| lane.ids.front().copied())
    }

    /// How far back everything was looked at; nothing if that is all there is.
    fn horizon(&self) -> Option<TaskId> {
        let unread = self
            .0
            .iter()
            .filter(|lane| lane.ids.is_empty() && !lane.is_over);
        unread.filter_map(|lane| lane.query.before).max()
    }
}

impl Lane {
    async fn fill(&mut self, manager: &TaskManager) -> Result<(), Error> {
        while self.ids.is_empty() && !self.is_over && self.short_pages_left > 0 {
            let page = manager.list(self.query.clone()).await?;
            if page.tasks.len() < self.query.limit {
                self.short_pages_left -= 1;
            }
            self.ids.extend(page.tasks.iter().map(|task| task.id));
            self.is_over = page.next.is_none();
            self.query.before = page.next;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Deleted {
    deleted: usize,
    store: usize,
    backend: usize,
}

/// `DELETE /history?value=&unit=min|hour|day`: finished tasks that are older than that.
pub(crate) async fn delete_history(call: Call) -> Result<Response, Problem> {
    call.params.only(&["value", "unit"])?;
    let span = span_of(&call.params)?;
    let deleted = call
        .shared
        .manager
        .delete_history(call.visit.now.saturating_sub(span))
        .await?;
    let detail = serde_json::json!({
        "value": call.params.get("value"), "unit": call.params.get("unit"), "deleted": deleted,
    });
    record(&call, "delete_history", None, detail).await;
    Ok(json(&Deleted {
        deleted,
        store: 0, // all that is stored is in the backend
        backend: deleted,
    }))
}

fn span_of(params: &Params) -> Result<Duration, Problem> {
    let missing =
        |name: &str| Problem::unprocessable(format!("{name} is missing: value=7&unit=day"));
    // A million days lie before every clock's beginning, and still can be counted in seconds.
    let value = params.number("value", 1, 1_000_000)?;
    let value = value.ok_or_else(|| missing("value"))?;
    let unit_s = match params.get("unit").ok_or_else(|| missing("unit"))? {
        "min" => 60,
        "hour" => 3_600,
        "day" => 24 * 3_600,
        other => {
            let head: String = other.chars().take(64).collect();
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("unit must be min, hour or day, not {head:?}"),
            ));
        }
    };
    Ok(Duration::from_secs(value * unit_s))
}

/// A body that has to be JSON.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    if !is_content_type(headers, "application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON, with Content-Type: application/json",
        ));
    }
    let body = read_body(body)?;
    serde_json::from_slice(&body).map_err(|error| {
        let what = match error.is_data() {
            true => "the body is not what is asked for here",
            false => "the body is no JSON",
        };
        Problem::unprocessable(format!("{what}: {error}"))
    })
}

pub(crate) fn read_body(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        let status = rejection.status();
        let detail = match status {
            StatusCode::PAYLOAD_TOO_LARGE => {
                format!("the body must have at most {} bytes", crate::BODY_BYTES_MAX)
            }
            _ => rejection.body_text(),
        };
        Problem::new(status, detail)
    })
}

pub(crate) fn is_content_type(headers: &HeaderMap, wanted: &str) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}

/// A path that exists, asked with a method that does not.
pub(crate) async fn wrong_method(call: Call, method: Method) -> Response {
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible here"),
    );
    pages::refused(&call, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

    #[test]
    fn since_is_hours_days_or_all() {
        let floor = |s| Some(TaskId::floor(NOW.saturating_sub(Duration::from_secs(s))));

        assert_eq!(after("all", NOW).unwrap(), None);
        assert_eq!(after("6h", NOW).unwrap(), floor(6 * 3_600));
        assert_eq!(after("7d", NOW).unwrap(), floor(7 * 24 * 3_600));
        assert_eq!(
            after("99999999999999999999999d", NOW).unwrap(),
            Some(TaskId::floor(Timestamp::default()))
        );
        for wrong in ["", "h", "6", "6m", "-1h", "+1h", "1.5h", "6 h", "ALL"] {
            assert_eq!(after(wrong, NOW).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn a_span_needs_a_number_and_a_unit() {
        let span = |query: &str| span_of(&Params::of(query.as_bytes()));

        assert_eq!(
            span("value=2&unit=hour").unwrap(),
            Duration::from_secs(7_200)
        );
        assert_eq!(span("value=2&unit=week").unwrap_err().status, 400);
        for wrong in [
            "",
            "value=2",
            "unit=day",
            "value=0&unit=day",
            "value=x&unit=day",
        ] {
            assert_eq!(span(wrong).unwrap_err().status, 422, "{wrong}");
        }
    }
}
