//! One open page: what happens is gathered until the browser takes the next frame.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use axum::response::sse::Event;
use axum_taskflow_core::{
    Error, EventStream, Life, Task, TaskEvent, TaskId, TaskStatus, Timestamp,
};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;

use super::{
    Permit,
    view::{ROWS_ON_PAGE_MAX, View, fits, id_after, id_before},
};
use crate::{
    Shared,
    auth::Session,
    guard::Call,
    instances::Told,
    pages::{self, duties::Duties},
    query::Wanted,
    runners::Runners,
    text,
    view::{Delta, LogText},
};

/// Between two frames of changes.
const FRAME_EVERY: Duration = Duration::from_millis(250);
/// What comes together is told together: a short task is one frame, not three.
const FRAME_AFTER: Duration = Duration::from_millis(40);
/// Between two readings of the counters.
const COUNTS_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at the instances, or at what the page of schedules or of holders shows.
const INSTANCES_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at what other instances did, while there are any: the feed tells only what happens in this one.
const OTHERS_EVERY: Duration = Duration::from_secs(1);
/// Silence that is broken, so that proxies do not hang up, and so that a page knows that what it shows is still true.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two looks at whether the session is still good.
const SESSION_EVERY: Duration = Duration::from_secs(30);
/// Rows in a frame, about 8 KB.
const ROWS_IN_FRAME: usize = 60;
/// Changed rows that wait for a frame; with more, what is on the screen is read again instead.
const ROWS_WAITING_MAX: usize = 256;
/// New tasks that are counted one by one.
const FRESH_MAX: usize = 1_000;
/// Log lines in a frame.
const LINES_IN_FRAME: usize = 100;
/// Changes from shortly before a reader's last frame are told again: they do no harm, and may have been missed. Another
/// instance may have sent that frame or made the change, and its clock may be a little off.
const OVERLAP: Duration = Duration::from_secs(5);
/// What the browser does after the end of a stream.
const RETRY: Duration = Duration::from_secs(2);
/// How long a stream goes on; a page that is still there opens the next one. What is written to a browser that has
/// vanished without a word, behind a router that forgot it, is taken by the system for a quarter of an hour: its place
/// would be held for as long. It still is if the connection has no more room: then nobody asks for the last frame.
const LIFE: Duration = Duration::from_secs(120);
/// What a stream does when the store does not answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// One open page.
pub(super) struct Viewer {
    shared: Arc<Shared>,
    events: EventStream,
    view: View,
    session: Option<Session>,
    /// Frames that are ready.
    ready: VecDeque<Event>,
    /// Changed rows; the last change of a row wins.
    rows: BTreeMap<TaskId, Delta>,
    /// Tasks that are newer than the page and belong on it.
    fresh: HashSet<TaskId>,
    fresh_told: usize,
    /// Everything before this is on the screen, or in `rows`.
    synced_at: Timestamp,
    /// What the screen shows of the rows that were last read.
    told: BTreeMap<TaskId, Delta>,
    /// Something was missed: what is on the screen has to be read again.
    must_read: bool,
    must_read_log: bool,
    /// Tasks on the screen that others may have changed: each has to be read.
    doubtful: BTreeSet<TaskId>,
    must_count: bool,
    counts: BTreeMap<&'static str, u64>,
    /// What the page shows of the instances, and what they can run.
    instances: Option<Told>,
    runners: Runners,
    instances_due: Instant,
    /// There are other instances, or were a moment ago.
    has_others: bool,
    others_due: Instant,
    /// When the next frame may be sent, and when it is due because something waits for it.
    frame_from: Instant,
    frame_due: Option<Instant>,
    counts_from: Instant,
    session_due: Instant,
    heartbeat_due: Instant,
    ends_at: Instant,
    is_over: bool,
    _permit: Permit,
}

#[derive(Serialize)]
struct Hello {
    v: u32,
    now: i64,
    build: String,
    hb: u64,
}

#[derive(Serialize)]
struct Rows<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    u: &'a [Delta],
    /// How many new tasks there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<usize>,
}

#[derive(Serialize)]
struct Lines {
    from: usize,
    /// Time, level, attempt, text.
    lines: Vec<(String, &'static str, u32, String)>,
}

#[derive(Serialize)]
struct Bye {
    why: &'static str,
    retry: u64,
}

impl Viewer {
    pub(super) fn new(call: &Call, view: View, synced_at: Timestamp, permit: Permit) -> Self {
        let now = Instant::now();
        let mut viewer = Self {
            shared: call.shared.clone(),
            // From here on nothing is missed; what happened before is read.
            events: call.shared.manager.events(),
            view,
            session: call.visit.who.as_ref().and_then(|who| who.session),
            ready: VecDeque::new(),
            rows: BTreeMap::new(),
            fresh: HashSet::new(),
            fresh_told: 0,
            synced_at: synced_at.saturating_sub(OVERLAP),
            told: BTreeMap::new(),
            must_read: true,
            must_read_log: true,
            doubtful: BTreeSet::new(),
            must_count: true,
            counts: BTreeMap::new(),
            instances: None,
            runners: Runners::default(),
            instances_due: now,
            has_others: false,
            others_due: now,
            frame_from: now,
            frame_due: Some(now),
            counts_from: now,
            session_due: now + SESSION_EVERY,
            heartbeat_due: now, // once the store has answered
            ends_at: now + LIFE,
            is_over: false,
            _permit: permit,
        };
        viewer.push_with(
            Event::default().retry(RETRY),
            "hello",
            &Hello {
                v: 1,
                now: call.visit.now.as_unix_ms(),
                build: pages::build(),
                hb: HEARTBEAT.as_secs(),
            },
        );
        viewer
    }

    /// The next frame, as soon as there is one; nothing after the last one.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let stopping = self.shared.manager.stopping();
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            let due = self.due();
            tokio::select! {
                // In this order: under a flood of events the others have their turn all the same.
                biased;
                () = stopping.cancelled() => self.end("shutdown"),
                () = sleep_until(self.ends_at) => self.end("age"),
                () = sleep_until(due) => self.work().await,
                event = self.events.next() => match event {
                    Some(event) => self.take(event),
                    None => self.end("shutdown"),
                },
            }
        }
    }

    /// When there is something to do, whatever happens until then.
    fn due(&self) -> Instant {
        let counts = self.must_count.then_some(self.counts_from);
        let others = self.has_others.then_some(self.others_due);
        let frame = self.frame_due.unwrap_or(self.heartbeat_due);
        [counts, others, Some(self.instances_due)]
            .into_iter()
            .flatten()
            .fold(self.session_due.min(frame), Instant::min)
    }

    async fn work(&mut self) {
        let now = Instant::now();
        if now >= self.session_due {
            self.session_due = now + SESSION_EVERY;
            let at = self.shared.manager.now();
            if self
                .session
                .is_some_and(|session| !self.shared.auth.is_live(session, at))
            {
                return self.end("auth");
            }
        }
        let mut outcome = Ok(());
        if now >= self.instances_due {
            self.instances_due = now + INSTANCES_EVERY;
            outcome = match self.view {
                View::Duties { page, mark } => self.look_at_duties(page, mark).await,
                View::List { .. } | View::Task { .. } => self.look_at_instances().await,
            };
        }
        if self.has_others && now >= self.others_due {
            self.others_due = now + OTHERS_EVERY;
            self.look_at_others();
        }
        if outcome.is_ok() && self.frame_due.is_some_and(|due| now >= due) {
            self.frame_due = None;
            self.frame_from = now + FRAME_EVERY;
            outcome = self.frame().await;
        }
        if outcome.is_ok() && self.must_count && now >= self.counts_from {
            self.must_count = false;
            self.counts_from = now + COUNTS_EVERY;
            outcome = self.count().await;
        }
        if let Err(why) = outcome {
            tracing::debug!(why, "a live page cannot be kept up to date");
            // A part of the news would look like all of it; the next stream reads all of it again.
            self.ready.clear();
            return self.end("store");
        }
        // Not before a frame: until then something may be untold.
        if self.ready.is_empty() && self.frame_due.is_none() && now >= self.heartbeat_due {
            // Not a comment, which no script hears.
            self.push("hb", &serde_json::json!({}));
        }
        if !self.ready.is_empty() {
            self.heartbeat_due = now + HEARTBEAT;
        }
    }

    /// Other instances may have changed what is on the screen: it is read again, and what differs is told.
    fn look_at_others(&mut self) {
        self.must_read = true;
        self.must_read_log = matches!(self.view, View::Task { .. });
        self.must_count |= self.is_list();
        self.frame_due = Some(self.frame_from); // with what is told already
    }

    fn end(&mut self, why: &'static str) {
        let retry = match why {
            "store" => 5_000,
            "age" => 100,
            _ => 2_000,
        };
        self.push("bye", &Bye { why, retry });
        self.is_over = true;
    }

    // ---- Events ----

    fn take(&mut self, event: TaskEvent) {
        match event {
            TaskEvent::Added(task) => {
                self.must_count |= self.is_list();
                if let View::List {
                    filter,
                    hi,
                    is_top: true,
                    ..
                } = &self.view
                    && task.id > *hi
                    && matches!(
                        filter.status,
                        Wanted::All | Wanted::Only(TaskStatus::Pending)
                    )
                    && fits(filter, &task.name, Some(&task))
                {
                    self.is_fresh(task.id);
                }
            }
            TaskEvent::Changed {
                id,
                name,
                from,
                life,
            } => {
                self.must_count |= self.is_list() && from != life.status;
                let manager = &self.shared.manager;
                let is_shown = match &self.view {
                    View::Task { id: shown, .. } => *shown == id,
                    View::List {
                        filter,
                        lo,
                        hi,
                        is_top,
                        is_all,
                        ..
                    } => {
                        let fits = fits(filter, &name, None);
                        // It has come to the status that the page shows, or left it. Whether it has the page's tag
                        // or tracking id is not told.
                        let is_counted = fits && from != life.status && !filter.is_uncounted();
                        let comes = is_counted && filter.status == Wanted::Only(life.status);
                        let leaves = is_counted && filter.status == Wanted::Only(from);
                        if comes && *is_top && id > *hi {
                            self.is_fresh(id);
                            return;
                        }
                        if leaves && self.fresh.remove(&id) {
                            self.frame_soon();
                            return;
                        }
                        let is_below = *is_all && id < *lo && (comes || leaves);
                        fits && (*lo..=*hi).contains(&id) || is_below
                    }
                    View::Duties { .. } => false,
                };
                if is_shown {
                    let can_run = self.runners.can_run(manager, &name, &life);
                    let delta = Delta::of_life(id, &name, &life, can_run, manager.now());
                    self.changed(delta);
                }
            }
            TaskEvent::Progress { id, progress } => {
                let (is_shown, with_message) = match &self.view {
                    View::Task { id: shown, .. } => (*shown == id, true),
                    View::List { lo, hi, .. } => ((*lo..=*hi).contains(&id), false),
                    View::Duties { .. } => (false, false),
                };
                if is_shown {
                    self.changed(Delta::of_progress(id, &progress, with_message));
                }
            }
            TaskEvent::Log { id, .. } => {
                // Told after it was stored: it is read from there, in order and without a gap.
                if matches!(&self.view, View::Task { id: shown, .. } if *shown == id) {
                    self.must_read_log = true;
                    self.frame_soon();
                }
            }
            TaskEvent::Stale { id, name, .. } => {
                // Another instance took the task over, and the feed tells only what happens in this one.
                let is_shown = match &self.view {
                    View::Task { id: shown, .. } => *shown == id,
                    View::List { filter, lo, hi, .. } => {
                        fits(filter, &name, None) && (*lo..=*hi).contains(&id)
                    }
                    View::Duties { .. } => false,
                };
                if is_shown {
                    self.doubtful.insert(id); // at most as many as there are rows
                    self.must_count |= self.is_list();
                    self.frame_soon();
                }
            }
            TaskEvent::Missed(_) => self.lost(),
            _ => {}
        }
    }

    fn is_list(&self) -> bool {
        matches!(self.view, View::List { .. })
    }

    fn is_fresh(&mut self, id: TaskId) {
        if self.fresh.len() < FRESH_MAX && self.fresh.insert(id) {
            self.frame_soon();
        }
    }

    fn changed(&mut self, delta: Delta) {
        if self.must_read {
            return; // it will be read
        }
        if self.rows.len() >= ROWS_WAITING_MAX && !self.rows.contains_key(&delta.id) {
            return self.lost();
        }
        match self.rows.entry(delta.id) {
            std::collections::btree_map::Entry::Occupied(mut old) => old.get_mut().merge(delta),
            std::collections::btree_map::Entry::Vacant(new) => {
                new.insert(delta);
            }
        }
        self.frame_soon();
    }

    /// There is more to tell than is remembered: what is on the screen is read instead.
    fn lost(&mut self) {
        self.rows.clear();
        self.must_read_log = true;
        self.must_count |= self.is_list();
        if std::mem::replace(&mut self.must_read, true) && self.frame_due.is_some() {
            return; // it is due already, and a flood that goes on must not put it off again and again
        }
        // Not with each frame, or a flood would be one of reads.
        let due = self.frame_from.max(Instant::now() + COUNTS_EVERY);
        self.frame_due = Some(self.frame_due.unwrap_or(due).max(due));
    }

    fn frame_soon(&mut self) {
        let due = self.frame_from.max(Instant::now() + FRAME_AFTER);
        self.frame_due.get_or_insert(due);
    }

    // ---- Frames ----

    async fn frame(&mut self) -> Result<(), String> {
        // Before the reads: what happens meanwhile waits in the feed.
        let now = self.shared.manager.now();
        if self.must_read {
            within(self.read()).await?;
            self.must_read = false;
        }
        for id in std::mem::take(&mut self.doubtful) {
            within(self.read_one(id)).await?;
        }
        self.synced_at = now;
        let deltas: Vec<Delta> = std::mem::take(&mut self.rows).into_values().collect();
        for delta in &deltas {
            if let Some(told) = self.told.get_mut(&delta.id) {
                told.merge(delta.clone());
            }
        }
        let n = (self.fresh.len() != self.fresh_told).then_some(self.fresh.len());
        self.fresh_told = self.fresh.len();
        let id = now.as_unix_ms().to_string();
        let mut parts = deltas.chunks(ROWS_IN_FRAME).peekable();
        if parts.peek().is_none() && n.is_some() {
            self.push_with(Event::default().id(&id), "tasks", &Rows { u: &[], n });
        }
        let mut n = n;
        for part in parts {
            let rows = Rows {
                u: part,
                n: n.take(),
            };
            self.push_with(Event::default().id(&id), "tasks", &rows);
        }
        if self.must_read_log {
            self.must_read_log = false;
            within(self.read_log()).await?;
        }
        Ok(())
    }

    async fn read_one(&mut self, id: TaskId) -> Result<(), Error> {
        let manager = &self.shared.manager;
        if let Some(task) = manager.get(id).await? {
            let delta = self.delta_of(&task);
            self.rows.insert(id, delta);
        }
        Ok(())
    }

    /// What a row or a task's page shows of this task.
    fn delta_of(&self, task: &Task) -> Delta {
        let manager = &self.shared.manager;
        let can_run = self.runners.can_run(manager, &task.name, &task.life);
        let mut delta = Delta::of_life(task.id, &task.name, &task.life, can_run, manager.now());
        if let (TaskStatus::Running, Some(progress)) = (task.life.status, &task.progress) {
            let with_message = matches!(self.view, View::Task { .. });
            delta.merge(Delta::of_progress(task.id, progress, with_message));
        }
        delta
    }

    /// Reads what is on the screen, and tells what has changed of it since it was in step.
    async fn read(&mut self) -> Result<(), Error> {
        let manager = &self.shared.manager;
        let mut told = BTreeMap::new();
        match &self.view {
            View::Task { id, .. } => match manager.get(*id).await? {
                Some(task) => {
                    let delta = self.delta_of(&task);
                    if self.told.get(id) != Some(&delta) {
                        self.rows.insert(*id, delta.clone());
                    }
                    told.insert(*id, delta);
                }
                None => self.push("reset", &serde_json::json!({ "why": "gone" })),
            },
            View::List {
                filter,
                lo,
                hi,
                n,
                is_top,
                is_all,
            } => {
                let mut query = filter.query();
                // The ends of the page belong to it, those of a query do not.
                (query.after, query.before) = (id_before(*lo), id_after(*hi));
                (query.limit, query.payload_max) = (ROWS_ON_PAGE_MAX, 0);
                // What other instances did may have come below the last row.
                let looks_below = *is_all && filter.is_rare();
                if looks_below {
                    query.after = None;
                }
                let page = match *n {
                    0 if !looks_below => axum_taskflow_core::Page::default(),
                    _ => filter.page(manager, query.clone()).await?,
                };
                // Only a page of one status loses rows by their changes, and then it has to be read again as a whole.
                let is_torn = page.tasks.len() != *n && matches!(filter.status, Wanted::Only(_));
                for task in &page.tasks {
                    let delta = self.delta_of(task);
                    let differs = match self.told.get(&task.id) {
                        Some(told) => *told != delta,
                        None => self.may_differ(&task.life), // from what was printed
                    };
                    if differs {
                        self.rows.insert(task.id, delta.clone());
                    }
                    told.insert(task.id, delta);
                }
                if *is_top && self.fresh.len() < FRESH_MAX {
                    (query.after, query.before) = (Some(*hi), None);
                    let newer = filter.page(manager, query).await?;
                    if newer.next.is_none() && matches!(filter.status, Wanted::Only(_)) {
                        self.fresh.clear(); // some may have another status by now
                    }
                    let room = FRESH_MAX - self.fresh.len();
                    self.fresh
                        .extend(newer.tasks.iter().take(room).map(|task| task.id));
                }
                if is_torn {
                    self.push("reset", &serde_json::json!({ "why": "gap" }));
                }
            }
            View::Duties { .. } => {} // looked at by itself
        }
        self.told = told;
        Ok(())
    }

    fn may_differ(&self, life: &Life) -> bool {
        let changed_at = life.started_at.max(life.finished_at);
        let is_held = life.status == TaskStatus::Pending && life.error.is_some();
        changed_at.is_some_and(|at| at >= self.synced_at) || is_held
    }

    async fn read_log(&mut self) -> Result<(), Error> {
        let View::Task { id, lines: from } = self.view else {
            return Ok(());
        };
        let manager = &self.shared.manager;
        let lines = manager.logs(id, from, LINES_IN_FRAME).await?;
        if lines.is_empty() {
            return Ok(());
        }
        let has_more = lines.len() == LINES_IN_FRAME;
        self.view = View::Task {
            id,
            lines: from + lines.len(),
        };
        let lines = lines.iter().map(|line| {
            let line = LogText::of(line, false);
            (line.time, line.level, line.attempt, line.text)
        });
        let lines = lines.collect();
        self.push("log", &Lines { from, lines });
        if has_more {
            self.must_read_log = true;
            self.frame_soon();
        }
        Ok(())
    }

    async fn look_at_instances(&mut self) -> Result<(), String> {
        let manager = &self.shared.manager;
        let peers = within(manager.instances()).await?;
        let me = manager.instance().id;
        self.runners = Runners::of(&peers);
        let told = Told::of(&peers, manager.now());
        if self.is_list() && self.instances.as_ref() != Some(&told) {
            self.push("instances", &told);
            self.instances = Some(told);
        }
        let has_others = peers.iter().any(|peer| peer.instance.id != me);
        if std::mem::replace(&mut self.has_others, has_others) && !has_others {
            self.look_at_others(); // for the last time: they may have changed something before they went
        }
        Ok(())
    }

    /// No event tells of them, and other instances change them, too. There are few: the page is read anew as a whole.
    async fn look_at_duties(&mut self, page: Duties, shown: u64) -> Result<(), String> {
        let mark = within(page.mark(&self.shared.manager)).await?;
        if mark != shown {
            self.push("reset", &serde_json::json!({ "why": "changed" }));
            self.view = View::Duties { page, mark };
        }
        Ok(())
    }

    async fn count(&mut self) -> Result<(), String> {
        let View::List { filter, .. } = &self.view else {
            return Ok(());
        };
        if filter.is_uncounted() {
            return Ok(());
        }
        let counts = within(self.shared.manager.counts()).await?;
        let Some(mut totals) = pages::totals(filter, &counts) else {
            return Ok(());
        };
        let all = totals.remove("").unwrap_or(0);
        totals.insert("all", all);
        // A status that nothing has any more is no longer counted.
        for word in self.counts.keys() {
            totals.entry(word).or_insert(0);
        }
        let changed: BTreeMap<&str, String> = totals
            .iter()
            .filter(|(word, n)| self.counts.get(*word) != Some(n))
            .map(|(word, n)| (*word, text::count(*n)))
            .collect();
        if !changed.is_empty() {
            self.push("counts", &changed);
        }
        self.counts = totals;
        Ok(())
    }

    fn push(&mut self, name: &str, body: &impl Serialize) {
        self.push_with(Event::default(), name, body);
    }

    fn push_with(&mut self, event: Event, name: &str, body: &impl Serialize) {
        match serde_json::to_string(body) {
            Ok(json) => self.ready.push_back(event.event(name).data(json)),
            Err(error) => tracing::error!(%error, name, "cannot write a frame"),
        }
    }
}

/// An answer of the store, or why there is none in time.
async fn within<T>(read: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "the task store did not answer within {READ_TIMEOUT:?}"
        )),
    }
}
