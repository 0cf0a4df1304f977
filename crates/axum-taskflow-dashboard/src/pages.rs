//! The pages for people, printed by the server: each works without a script.

pub(crate) mod audit;
pub(crate) mod duties;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use askama::Template;
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use axum_taskflow_core::{Count, Error, ListQuery, Page, Task, TaskId, TaskManager, TaskStatus};
use axum_taskflow_dashboard_assets as assets;

use crate::{
    api::RETRY_MANY_MAX,
    auth::Rights,
    guard::{Call, Flash, redirect},
    instances::{Instances, Runner},
    problem::Problem,
    query::{Filter, Tag, Wanted},
    runners::Runners,
    text,
    view::{Detail, LogText, Logs, Row},
};

/// Rows on a page.
const ROWS: usize = 50;
/// Bytes of the arguments that a row needs.
const ARGS_BYTES: usize = 512;
/// Log lines on a task's page: the last ones.
const LOG_LINES: usize = 500;
/// Log lines that are read at once to find the last ones.
const LOG_PAGE: usize = 1_000;
/// Log lines that are read for that at most.
const LOG_LINES_READ_MAX: usize = 20_000;
/// Functions that the search box proposes.
const NAMES_MAX: usize = 200;

/// What stands around every page.
struct Frame {
    base: String,
    title: String,
    style: String,
    script: String,
    icons: String,
    favicon: String,
    build: String,
    theme: &'static str,
    /// Who is signed in.
    user: Option<Arc<str>>,
    is_read_only: bool,
    /// Nobody has to sign in.
    is_open: bool,
    /// True if there is a session that can be ended.
    has_session: bool,
    csrf: String,
    /// Where forms come back to.
    back: String,
    /// Which of the pages in the navigation this is, or nothing.
    page: &'static str,
    /// The live stream of this page, or nothing.
    stream: String,
    /// The status that the list shows.
    status: &'static str,
    /// What is in the search box.
    q: String,
    names: Vec<String>,
    about: String,
    notice: Option<Notice>,
    /// Reads the page again by itself where there is no script.
    refreshes: bool,
}

/// What the last action came to.
struct Notice {
    text: Cow<'static, str>,
    href: Option<String>,
}

impl Frame {
    fn of(call: &Call) -> Self {
        let visit = &call.visit;
        let manager = &call.shared.manager;
        let asset =
            |asset: &assets::Asset| format!("{}/dashboard/assets/{}", visit.base, asset.name());
        let who = visit.who.as_ref();
        let instance = manager.instance();
        Self {
            base: visit.base.clone(),
            title: text::clean(&call.shared.title),
            style: asset(&assets::STYLE),
            script: asset(&assets::SCRIPT),
            icons: asset(&assets::ICONS),
            favicon: asset(&assets::FAVICON),
            build: build(),
            theme: visit.theme.word(),
            user: who.map(|who| who.name.clone()),
            is_read_only: who.is_some_and(|who| who.rights != Rights::Operate),
            is_open: call.shared.auth.is_open(),
            has_session: who.is_some_and(|who| who.session.is_some()),
            csrf: who.map(|who| who.form_token.clone()).unwrap_or_default(),
            back: format!("{}{}", visit.base, visit.below),
            page: "",
            stream: String::new(),
            status: "",
            q: String::new(),
            names: Vec::new(),
            about: text::clean(&format!(
                "{} · {} · process {}",
                manager.describe(),
                instance.host,
                instance.pid
            )),
            notice: visit.flash.map(|flash| notice(flash, &visit.dashboard())),
            refreshes: false,
        }
    }

    /// Around a page of the navigation.
    fn of_page(call: &Call, page: &'static str) -> Self {
        Self {
            page,
            refreshes: true,
            ..Self::of(call)
        }
    }
}

/// Names the assets, and so the version of the page.
pub(crate) fn build() -> String {
    format!("{:016x}", assets::build())
}

fn notice(flash: Flash, dashboard: &str) -> Notice {
    let (text, id) = match flash {
        Flash::Retried(id) => ("Retried as a new task.", Some(id)),
        Flash::Added(id) => ("Added a task, beside its times.", Some(id)),
        Flash::Cancelled(id) => ("Cancelled: it will not run.", Some(id)),
        Flash::Asked(id) => (
            "Asked to stop: it is cancelled once its function lets go.",
            Some(id),
        ),
        Flash::Sent(id) => (
            "Asked to stop, but the process that runs it has not answered yet.",
            Some(id),
        ),
        Flash::Released => (
            "Released: whoever waits for it has it next, perhaps the same process again.",
            None,
        ),
        Flash::Many(many) => {
            return Notice {
                text: many.to_string().into(),
                href: None,
            };
        }
    };
    Notice {
        text: text.into(),
        href: id.map(|id| format!("{dashboard}/t/{id}")),
    }
}

/// One tab above the list.
struct Tab {
    word: &'static str,
    title: &'static str,
    href: String,
    is_here: bool,
    /// How many, or nothing if only counting could tell.
    count: Option<String>,
}

/// A part of the filter, and the same page without it.
struct Chip {
    text: String,
    without: String,
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    frame: Frame,
    tabs: Vec<Tab>,
    chips: Vec<Chip>,
    rows: Vec<Row>,
    may_operate: bool,
    is_all: bool,
    /// The first page: what is newer belongs on top of it.
    is_top: bool,
    newest: String,
    older: Option<String>,
    /// Nothing that fits was found, but not everything was looked at: how far it was.
    looked_back_to: Option<String>,
    /// Nothing has this name: these sound like it.
    proposals: Option<Vec<Chip>>,
    retry_all: Option<RetryAll>,
    instances: Instances,
}

/// The button that retries everything that fits.
struct RetryAll {
    what: String,
    /// What it means, for the form.
    fields: Vec<(&'static str, String)>,
}

impl RetryAll {
    /// Offered only of what ended badly, and only while there is something of it.
    fn of(
        call: &Call,
        filter: &Filter,
        before: Option<TaskId>,
        totals: Option<&BTreeMap<&'static str, u64>>,
    ) -> Option<Self> {
        let status = filter.ended_badly()?.as_str();
        if !call.visit.may_operate() {
            return None;
        }
        let n = totals.and_then(|totals| totals.get(status)).copied();
        let those = match (before, n) {
            (Some(_), _) => format!("the {status} tasks on this page and all older ones"),
            (None, Some(1)) => format!("1 {status} task"),
            (None, Some(n)) => format!("{} {status} tasks", text::count(n)),
            (None, None) => format!("all {status} tasks that fit"),
        };
        let mut fields = filter.fields();
        fields.extend(before.map(|id| ("before", id.to_string())));
        Some(Self {
            what: format!(
                "Retries {those}, at most {} at once. What has been retried already is left out.",
                text::count(RETRY_MANY_MAX as u64)
            ),
            fields,
        })
    }
}

/// `GET /dashboard`: the tasks, newest first.
pub(crate) async fn list(call: Call) -> Response {
    let made = async {
        match call.params.get("q") {
            Some(q) => find(&call, q.trim()).await,
            None => list_page(&call, None).await,
        }
    };
    made.await.unwrap_or_else(|problem| failed(&call, &problem))
}

async fn list_page(
    call: &Call,
    proposals: Option<(String, Vec<String>)>,
) -> Result<Response, Problem> {
    let manager = &call.shared.manager;
    let filter = Filter::of(&call.params)?;
    let before = call.params.place("before")?;
    let after = call.params.place("after")?;
    let limit = call.params.number("limit", 1, 200)?;
    let mut query = filter.query();
    (query.before, query.after) = (before, after);
    query.limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(ROWS);
    query.payload_max = ARGS_BYTES;
    let page = match proposals {
        Some(_) => Page::default(), // nothing was found
        None => filter.page(manager, query).await?,
    };
    let counts = manager.counts().await?;
    let peers = manager.instances().await?;
    let runners = Runners::of(&peers);
    let is_top = before.is_none() && after.is_none();
    let now = call.visit.now;
    let rows: Vec<Row> = page
        .tasks
        .iter()
        .map(|task| Row::of(task, manager, &runners, now))
        .collect();
    let mut frame = Frame::of(call);
    frame.page = "tasks";
    frame.names = names(manager, &counts);
    frame.names.truncate(NAMES_MAX);
    frame.status = filter.status_word();
    frame.refreshes = is_top;
    let links = Links {
        dashboard: call.visit.dashboard(),
        limit,
    };
    if proposals.is_none() {
        frame.stream = stream_of_list(call, &filter, &page, is_top);
    }
    let older = page.next.map(|next| links.between(&filter, after, next));
    let looked_back_to = match (&page.next, rows.is_empty()) {
        (Some(next), true) => Some(text::absolute(next.created_at())),
        _ => None,
    };
    let proposals = proposals.map(|(q, names)| {
        frame.q = q;
        names
            .into_iter()
            .map(|name| {
                let filter = Filter {
                    func_name: Some(name.clone()),
                    ..nothing_filtered()
                };
                Chip {
                    text: text::clean(&name),
                    without: links.to(&filter),
                }
            })
            .collect()
    });
    let totals = totals(&filter, &counts);
    // A page between two places is a part that its button could not name.
    let retry_all = match rows.is_empty() || after.is_some() {
        true => None,
        false => RetryAll::of(call, &filter, before, totals.as_ref()),
    };
    Ok(print(
        StatusCode::OK,
        &ListPage {
            retry_all,
            tabs: tabs(&filter, totals.as_ref(), &links),
            chips: chips(&filter, &links),
            may_operate: call.visit.may_operate(),
            is_all: filter.is_all() && is_top,
            is_top,
            newest: links.to(&filter),
            older,
            looked_back_to,
            proposals,
            instances: Instances::of(&peers, manager, now),
            rows,
            frame,
        },
    ))
}

fn nothing_filtered() -> Filter {
    Filter {
        status: Wanted::All,
        func_name: None,
        tag: None,
        tracking_id: None,
    }
}

struct Links {
    dashboard: String,
    limit: Option<u64>,
}

impl Links {
    /// To the newest of these tasks.
    fn to(&self, filter: &Filter) -> String {
        self.with(filter, [("after", None), ("before", None)])
    }

    /// To those of a part of the time.
    fn between(&self, filter: &Filter, after: Option<TaskId>, before: TaskId) -> String {
        self.with(filter, [("after", after), ("before", Some(before))])
    }

    fn with(&self, filter: &Filter, ends: [(&str, Option<TaskId>); 2]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        filter.write(&mut query);
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        for (name, end) in ends {
            if let Some(id) = end {
                query.append_pair(name, &id.to_string());
            }
        }
        let query = query.finish();
        match query.is_empty() {
            true => self.dashboard.clone(),
            false => format!("{}?{query}", self.dashboard),
        }
    }
}

/// The page of these tasks, or of those older than a place.
pub(crate) fn address(call: &Call, filter: &Filter, before: Option<TaskId>) -> String {
    let links = Links {
        dashboard: call.visit.dashboard(),
        limit: None,
    };
    links.with(filter, [("after", None), ("before", before)])
}

fn stream_of_list(call: &Call, filter: &Filter, page: &Page, is_top: bool) -> String {
    let now = call.visit.now;
    // Without rows everything is new that comes from now on.
    let end = |task: Option<&Task>| task.map_or(TaskId::floor(now), |task| task.id);
    let (lo, hi) = (end(page.tasks.last()), end(page.tasks.first()));
    let mut query = form_urlencoded::Serializer::new(String::new());
    filter.write(&mut query);
    query
        .append_pair("lo", &lo.to_string())
        .append_pair("hi", &hi.to_string())
        .append_pair("n", &page.tasks.len().to_string())
        .append_pair("since", &now.as_unix_ms().to_string());
    if is_top {
        query.append_pair("top", "1");
    }
    if is_top && page.next.is_none() {
        query.append_pair("all", "1");
    }
    format!("{}/stream?{}", call.visit.dashboard(), query.finish())
}

const TABS: [(&str, &str); 7] = [
    ("", "All"),
    ("pending", "Pending"),
    ("running", "Running"),
    ("success", "Success"),
    ("failed", "Failed"),
    ("interrupted", "Interrupted"),
    ("cancelled", "Cancelled"),
];

fn tabs(filter: &Filter, totals: Option<&BTreeMap<&'static str, u64>>, links: &Links) -> Vec<Tab> {
    let tab = |(word, title): (&'static str, &'static str)| {
        let status = word.parse::<TaskStatus>().map_or(Wanted::All, Wanted::Only);
        let to = Filter {
            status,
            ..filter.clone()
        };
        Tab {
            word: if word.is_empty() { "all" } else { word },
            title,
            href: links.to(&to),
            is_here: status == filter.status,
            count: totals.map(|totals| text::count(totals.get(word).copied().unwrap_or(0))),
        }
    };
    TABS.into_iter().map(tab).collect()
}

/// How many tasks there are of each status, and under "" of all: of one function if the filter names one.
pub(crate) fn totals(filter: &Filter, counts: &[Count]) -> Option<BTreeMap<&'static str, u64>> {
    if filter.is_uncounted() {
        return None;
    }
    let mut totals = BTreeMap::new();
    for count in counts {
        if filter
            .func_name
            .as_deref()
            .is_none_or(|name| name == &*count.name)
        {
            *totals.entry("").or_insert(0) += count.n;
            *totals.entry(count.status.as_str()).or_insert(0) += count.n;
        }
    }
    Some(totals)
}

fn chips(filter: &Filter, links: &Links) -> Vec<Chip> {
    let mut chips = Vec::new();
    if let Some(name) = &filter.func_name {
        let without = Filter {
            func_name: None,
            ..filter.clone()
        };
        chips.push(Chip {
            text: format!("function {}", text::clean(name)),
            without: links.to(&without),
        });
    }
    if let Some(tag) = &filter.tag {
        let without = Filter {
            tag: None,
            ..filter.clone()
        };
        chips.push(Chip {
            text: format!("tag {}", text::clean(&tag.to_string())),
            without: links.to(&without),
        });
    }
    if let Some(tracking_id) = &filter.tracking_id {
        let without = Filter {
            tracking_id: None,
            ..filter.clone()
        };
        chips.push(Chip {
            text: format!("tracking id {}", text::clean(tracking_id)),
            without: links.to(&without),
        });
    }
    chips
}

fn names(manager: &TaskManager, counts: &[Count]) -> Vec<String> {
    let known = manager.functions();
    let names: BTreeSet<&str> = known
        .iter()
        .map(|function| &*function.name)
        .chain(counts.iter().map(|count| &*count.name))
        .collect();
    names.into_iter().map(str::to_owned).collect()
}

/// What somebody typed into the search box: a task's id, `key=value` of a tag, or a function's name or a part of it.
/// Each leads to an address of its own, which can be kept and passed on.
async fn find(call: &Call, q: &str) -> Result<Response, Problem> {
    let links = Links {
        dashboard: call.visit.dashboard(),
        limit: None,
    };
    if q.is_empty() {
        return Ok(redirect(&links.dashboard));
    }
    if q.len() > 512 {
        return Err(Problem::unprocessable(
            "a search must have at most 512 bytes",
        ));
    }
    if let Ok(id) = q.parse::<TaskId>() {
        return Ok(redirect(&format!("{}/t/{id}", links.dashboard)));
    }
    let manager = &call.shared.manager;
    let names = names(manager, &manager.counts().await?);
    let lower = q.to_lowercase();
    let exact = names.iter().find(|name| **name == q);
    let similar: Vec<&String> = names
        .iter()
        .filter(|name| name.to_lowercase().contains(&lower))
        .collect();
    let only = match similar[..] {
        [only] => Some(only),
        _ => None,
    };
    if let Some(name) = exact.or(only) {
        let filter = Filter {
            func_name: Some(name.clone()),
            ..nothing_filtered()
        };
        return Ok(redirect(&links.to(&filter)));
    }
    if q.contains('=') {
        let filter = Filter {
            tag: Some(Tag::of(q)),
            ..nothing_filtered()
        };
        return Ok(redirect(&links.to(&filter)));
    }
    if let Some((lo, hi)) = ids_with_head(q) {
        let mut query = ListQuery::default();
        (query.after, query.before, query.limit) = (Some(lo), Some(hi), 2);
        if let [task] = &manager.list(query).await?.tasks[..] {
            return Ok(redirect(&format!("{}/t/{}", links.dashboard, task.id)));
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("after", &lo.to_string())
            .append_pair("before", &hi.to_string())
            .finish();
        return Ok(redirect(&format!("{}?{query}", links.dashboard)));
    }
    let similar = match similar.is_empty() {
        true => names,
        false => similar.into_iter().cloned().collect(),
    };
    list_page(
        call,
        Some((q.to_owned(), similar.into_iter().take(20).collect())),
    )
    .await
}

/// The ids around those that begin like this: 8 hexadecimal digits or more, as a row shows them.
fn ids_with_head(q: &str) -> Option<(TaskId, TaskId)> {
    let digits: String = q.chars().filter(|char| *char != '-').collect();
    let is_head =
        (8..32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let filled = |fill: char| -> Option<TaskId> {
        let text: String = digits
            .chars()
            .chain(std::iter::repeat(fill))
            .take(32)
            .collect();
        text.parse().ok()
    };
    is_head.then(|| filled('0').zip(filled('f'))).flatten()
}

#[derive(Template)]
#[template(path = "task.html")]
struct TaskPage {
    frame: Frame,
    task: Detail,
    runner: Option<Runner>,
    may_operate: bool,
}

/// `GET /dashboard/t/{task_id}`.
pub(crate) async fn task(call: Call) -> Response {
    task_page(&call)
        .await
        .unwrap_or_else(|problem| failed(&call, &problem))
}

async fn task_page(call: &Call) -> Result<Response, Problem> {
    let manager = &call.shared.manager;
    let id = call.task_id()?;
    let task = manager.get(id).await?.ok_or_else(|| Problem::no_task(id))?;
    let logs = match task.life.epoch.get() {
        0 => Logs::default(),
        _ => last_lines(manager, id).await?,
    };
    // Here it is known who this is; who another one is, the store is asked.
    let runs_at = task.life.instance;
    let (runners, peers) = match runs_at.filter(|id| *id != manager.instance().id) {
        Some(_) => {
            let peers = manager.instances().await?;
            (Runners::of(&peers), peers)
        }
        None => {
            let tasks = std::slice::from_ref(&task);
            (Runners::of_tasks(manager, tasks).await?, Vec::new())
        }
    };
    let now = call.visit.now;
    let mut frame = Frame::of(call);
    frame.page = "tasks";
    if !task.life.status.is_terminal() {
        frame.refreshes = true;
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("id", &id.to_string())
            .append_pair("lines", &logs.total.to_string())
            .append_pair("since", &call.visit.now.as_unix_ms().to_string())
            .finish();
        frame.stream = format!("{}/stream?{query}", call.visit.dashboard());
    }
    let detail = Detail::of(&task, logs, manager, &runners, now);
    Ok(print(
        StatusCode::OK,
        &TaskPage {
            frame,
            runner: runs_at.map(|id| Runner::of(id, &peers, manager, now)),
            may_operate: call.visit.may_operate(),
            task: detail,
        },
    ))
}

/// The end of a log. A store counts lines from the first one, so they are read through, in bounded parts.
async fn last_lines(manager: &TaskManager, id: TaskId) -> Result<Logs, Error> {
    let mut last = VecDeque::with_capacity(LOG_LINES);
    let mut total = 0;
    loop {
        let lines = manager.logs(id, total, LOG_PAGE).await?;
        let is_end = lines.len() < LOG_PAGE;
        total += lines.len();
        for line in lines {
            if last.len() == LOG_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        if is_end || total >= LOG_LINES_READ_MAX {
            break;
        }
    }
    let mut attempt = 0;
    let texts = last.iter().map(|line| {
        let is_first = line.attempt != attempt;
        attempt = line.attempt;
        LogText::of(line, is_first)
    });
    Ok(Logs {
        total,
        left_out: total - last.len(),
        lines: texts.collect(),
    })
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    frame: Frame,
    next: &'a str,
    name: &'a str,
    problem: Option<&'a str>,
}

/// The form at the door.
pub(crate) fn sign_in(call: &Call, next: &str, name: &str, problem: Option<&Problem>) -> Response {
    let page = SignInPage {
        frame: Frame::of(call),
        next,
        name,
        problem: problem.map(|problem| &*problem.detail),
    };
    match problem {
        Some(problem) => problem.dress(print(problem.status, &page)),
        None => print(StatusCode::OK, &page),
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    title: &'static str,
    detail: &'a str,
    again: bool,
}

/// What went wrong: a page for a browser that opens an address, JSON for everybody else.
pub(crate) fn refused(call: &Call, problem: Problem) -> Response {
    match call.visit.wants_html {
        true => failed(call, &problem),
        false => problem.into_response(),
    }
}

/// A page that says what went wrong.
pub(crate) fn failed(call: &Call, problem: &Problem) -> Response {
    let title = match problem.status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "Not here",
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT => "Not possible any more",
        StatusCode::UNPROCESSABLE_ENTITY => "This address cannot be read",
        StatusCode::FORBIDDEN => "Not allowed",
        _ => "The task store does not answer",
    };
    let page = ProblemPage {
        frame: Frame::of(call),
        title,
        detail: &problem.detail,
        again: problem.retry_after_s.is_some() || problem.status.is_server_error(),
    };
    problem.dress(print(problem.status, &page))
}

/// A path below the mount that nothing is at.
pub(crate) async fn missing(call: Call) -> Response {
    let visit = &call.visit;
    let (path, query) = visit
        .below
        .split_at(visit.below.find('?').unwrap_or(visit.below.len()));
    if let Some(page) = path.strip_suffix('/').filter(|_| visit.wants_html) {
        // Somebody typed a slash too many. Only a page of ours is such a place.
        let page = format!("{}{page}", visit.base);
        if visit.local(Some(&page)) == page {
            return redirect(&format!("{page}{query}"));
        }
    }
    let path = text::head(&format!("{}{path}", visit.base), 200);
    let problem = Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"));
    refused(&call, problem)
}

fn print(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => {
            let mut response = (status, Body::from(html)).into_response();
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, html);
            response
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot print a page"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// `GET /dashboard/assets/{file}`: the name holds a hash, so it may be kept for ever.
pub(crate) async fn asset(call: Call) -> Response {
    let Some(asset) = assets::find(call.file()) else {
        return Problem::new(StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.content_type.to_owned()),
        (
            header::CACHE_CONTROL,
            "public, max-age=31536000, immutable".to_owned(),
        ),
        (header::ETAG, asset.etag()),
    ];
    (headers, asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_id_is_a_range_of_ids() {
        let id: TaskId = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10".parse().unwrap();

        for head in [
            "01993f8a",
            "01993F8A-41c2",
            "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d1",
        ] {
            let (lo, hi) = ids_with_head(head).unwrap();
            assert!(lo <= id && id <= hi, "{head}");
        }
        for other in ["01993f8", "01993f8b", "send_email", "01993f8a-41c2-zz"] {
            let range = ids_with_head(other);
            assert!(range.is_none_or(|(lo, hi)| id < lo || hi < id), "{other}");
        }
    }

    #[test]
    fn no_template_prints_anything_unescaped_or_inline() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/templates");
        let mut n = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            n += 1;
            for banned in [
                "|safe",
                "| safe",
                "escape false",
                "style=",
                "<script>",
                " onclick",
                " onload",
                "javascript:",
            ] {
                assert!(!text.contains(banned), "{banned} in {}", path.display());
            }
        }
        assert!(n >= 5, "only {n} templates were looked at");
    }
}
