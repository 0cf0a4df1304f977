//! A router over a manager that keeps its tasks in memory, and what asks it.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use axum_taskflow_core::{
    AheadPage, AheadQuery, Applied, AuditEntry, Backend, BackendError, BackendFuture, Batch,
    Change, Claim, Claimed, Clock, Config, Count, Failure, IdSource, Instance, InstanceId,
    ListQuery, LogLevel, LogLine, Memory, Minute, Page, Peer, Prune, Pruned, Record, RecordQuery,
    Standing, Step, Stepped, Task, TaskContext, TaskDef, TaskId, TaskManager, TaskStatus,
    Timestamp, Written,
};
use axum_taskflow_dashboard::{Rights, TaskAdmin};
use tokio::sync::watch;
use tower::ServiceExt;

pub(crate) const START: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);
pub(crate) const TOKEN: &str = "a-token-of-a-program";

pub(crate) async fn greet(name: String) -> String {
    format!("hello {name}")
}

pub(crate) async fn fails(ctx: TaskContext, why: String) -> Result<(), Failure> {
    ctx.log("about to fail");
    ctx.log_at(LogLevel::Warn, "now");
    let cause = std::io::Error::other("the cause");
    Err(Failure::give_up(Because(why, cause)))
}

#[derive(Debug)]
struct Because(String, std::io::Error);

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Because {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.1)
    }
}

/// Fails, and may be tried again.
pub(crate) async fn flaky() -> Result<(), Failure> {
    Err(Failure::retry("not yet"))
}

/// Runs until it is cancelled.
pub(crate) async fn stays(ctx: TaskContext) {
    ctx.progress(0.42, "half way");
    ctx.log("it stays");
    pending::<()>().await;
}

/// What has to come, but not at once: the machine may have more to do.
pub(crate) async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    let awaited = tokio::time::timeout(Duration::from_secs(30), awaited);
    awaited.await.expect("it does not come to its end")
}

/// The routes, and the manager below them.
pub(crate) struct Site {
    pub(crate) manager: TaskManager,
    pub(crate) backend: Arc<Outage>,
    pub(crate) clock: Clock,
    pub(crate) app: Router,
    ids: IdSource,
}

impl Site {
    /// Mounted at `/tasks`, open to everybody.
    pub(crate) async fn open() -> Self {
        Self::with(|admin| Router::new().nest("/tasks", admin.insecure_no_auth().routes())).await
    }

    /// Mounted at `/tasks`, with a user who may act, one who may look, and a token.
    pub(crate) async fn closed() -> Self {
        Self::with(|admin| Router::new().nest("/tasks", people(admin).routes())).await
    }

    pub(crate) async fn with(mount: impl FnOnce(TaskAdmin) -> Router) -> Self {
        let backend = Arc::new(Outage::default());
        let clock = Clock::manual(START);
        let mut config = Config::default();
        config.backend = backend.clone();
        config.collect = false;
        config.clock = clock.clone();
        config.tasks = vec![
            TaskDef::new(greet).name("greet"),
            TaskDef::new(fails).name("fails"),
            TaskDef::new(flaky).name("flaky"),
            TaskDef::new(stays).name("stays"),
        ];
        let manager = TaskManager::start(config).await.unwrap();
        let app = mount(TaskAdmin::new(&manager));
        Self {
            manager,
            backend,
            clock,
            app,
            ids: IdSource::default(),
        }
    }

    /// Another instance on the same store, open to everybody, which knows none of the functions.
    pub(crate) async fn beside(&self) -> Self {
        let mut config = Config::default();
        config.backend = self.backend.clone();
        config.collect = false;
        config.clock = self.clock.clone();
        let manager = TaskManager::start(config).await.unwrap();
        let admin = TaskAdmin::new(&manager).insecure_no_auth();
        Self {
            manager,
            backend: self.backend.clone(),
            clock: self.clock.clone(),
            app: Router::new().nest("/tasks", admin.routes()),
            ids: IdSource::default(),
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        // A stream that should have been refused never ends.
        let (parts, bytes) = soon(async {
            let response = self.app.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            (parts, to_bytes(body, usize::MAX).await.unwrap())
        })
        .await;
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request(method, path, headers, "")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    /// As a browser that opens an address.
    pub(crate) async fn page(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[("accept", "text/html,*/*")])
            .await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.ask(Method::POST, path, &[]).await
    }

    pub(crate) async fn post_json(&self, path: &str, json: &serde_json::Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.send(request(Method::POST, path, &headers, &json.to_string()))
            .await
    }

    pub(crate) async fn post_form(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        form: &[(&str, &str)],
    ) -> Answer {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend(headers);
        self.send(request(Method::POST, path, &all, &body.finish()))
            .await
    }

    /// The cookie of a new session.
    pub(crate) async fn sign_in(&self, name: &str) -> String {
        let form = [("username", name), ("password", "secret")];
        let answer = self.post_form("/tasks/auth/login", &[], &form).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
        let cookie = answer.header("set-cookie");
        cookie.split(';').next().unwrap().to_owned()
    }

    /// A task that has ended as `status`.
    pub(crate) async fn ended(&self, status: TaskStatus) -> TaskId {
        let id = match status {
            TaskStatus::Success => self
                .manager
                .add_task(greet, "ada".to_owned())
                .await
                .unwrap(),
            TaskStatus::Failed => self.manager.add_task(fails, "no".to_owned()).await.unwrap(),
            TaskStatus::Cancelled => {
                let id = self.waiting().await;
                self.manager.cancel(id).await.unwrap();
                id
            }
            other => panic!("no function ends as {other}"),
        };
        // The error says how it ended; the caller has asked for just that.
        let _ = soon(self.manager.wait::<serde_json::Value>(id)).await;
        id
    }

    /// A task that waits for an hour.
    pub(crate) async fn waiting(&self) -> TaskId {
        self.manager
            .add_task(greet, "later".to_owned())
            .delay_by(Duration::from_secs(3_600))
            .await
            .unwrap()
    }

    /// A task whose function has begun, and stays.
    pub(crate) async fn running(&self) -> TaskId {
        let id = self.manager.add_task(stays, ()).await.unwrap();
        self.until(id, |task| task.life.status == TaskStatus::Running)
            .await;
        id
    }

    /// A task that runs at an instance which lives and answers nobody.
    pub(crate) async fn running_elsewhere(&self) -> TaskId {
        let now = self.clock.now();
        let owner = self.joined(now, |_| {}).await;
        self.stored("stays", |task| {
            task.life = Change::started(task, owner, now).unwrap().life;
        })
        .await
    }

    /// A task as another program, or a former version of this one, may have left it.
    pub(crate) async fn stored(&self, name: &str, change: impl FnOnce(&mut Task)) -> TaskId {
        let now = self.clock.now();
        let mut task = Task::new(self.ids.task(now), name, "[]");
        change(&mut task);
        let id = task.id;
        let mut batch = Batch::at(now);
        batch.tasks.push(Arc::new(task));
        self.backend.write(Arc::new(batch)).await.unwrap();
        id
    }

    /// Another instance that uses the store, seen last at `beat_at`.
    pub(crate) async fn joined(
        &self,
        beat_at: Timestamp,
        change: impl FnOnce(&mut Instance),
    ) -> InstanceId {
        let now = self.clock.now();
        let mut instance = Instance::new(self.ids.instance(now), now);
        instance.host = "host-b".to_owned();
        change(&mut instance);
        let id = instance.id;
        self.backend.join(instance).await.unwrap();
        self.backend.beat(id, beat_at).await.unwrap();
        id
    }

    /// Another instance takes a task from us that runs here.
    pub(crate) async fn taken(&self, id: TaskId) {
        let task = self.manager.get(id).await.unwrap().unwrap();
        let change = Change::interrupted(&task, "taken over", self.clock.now()).unwrap();
        let mut batch = Batch::at(self.clock.now());
        batch.changes.push(change);
        let written = self.backend.write(Arc::new(batch)).await.unwrap();
        assert_eq!(written.changes, [Applied::Applied]);
    }

    /// Looks at a task until it is as expected.
    pub(crate) async fn until(&self, id: TaskId, is_so: impl Fn(&Task) -> bool) {
        let look = async {
            while !is_so(&self.manager.get(id).await.unwrap().unwrap()) {
                tokio::task::yield_now().await;
            }
        };
        soon(look).await;
    }

    pub(crate) async fn actors(&self) -> Vec<(String, String)> {
        let entries = self.manager.audit(None, 100).await.unwrap();
        entries
            .into_iter()
            .map(|entry| (entry.actor, entry.action))
            .collect()
    }
}

pub(crate) fn people(admin: TaskAdmin) -> TaskAdmin {
    admin
        .user("ada", "secret", Rights::Operate)
        .user("bob", "secret", Rights::Read)
        .token("ci", TOKEN, Rights::Operate)
        .session_ttl(Duration::from_secs(3_600))
}

pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "site.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The `detail` of an error with this status.
    pub(crate) fn detail(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.body);
        let tasks = self.json();
        let ids = tasks
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["task_id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    /// The value of the first attribute of this name.
    pub(crate) fn attribute(&self, name: &str) -> String {
        let start = format!(" {name}=\"");
        let (_, rest) = self
            .body
            .split_once(&start)
            .unwrap_or_else(|| panic!("no {name} in {}", self.body));
        unescape(rest.split('"').next().unwrap())
    }

    pub(crate) fn csrf(&self) -> String {
        let (_, rest) = self
            .body
            .split_once("name=\"csrf\" value=\"")
            .expect("a form of ours");
        unescape(rest.split('"').next().unwrap())
    }
}

pub(crate) fn unescape(html: &str) -> String {
    html.replace("&#38;", "&")
        .replace("&#60;", "<")
        .replace("&#62;", ">")
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
}

/// Memory that can be out of reach, or answer late.
#[derive(Debug)]
pub(crate) struct Outage {
    memory: Memory,
    is_out: AtomicBool,
    /// True while answers are kept back.
    is_held: watch::Sender<bool>,
    /// How many answers wait to be let go.
    n_held: watch::Sender<usize>,
    /// Lists that are answered before lists are out of reach.
    pub(crate) lists_left: AtomicUsize,
    /// What a list looks at before it ends its page short.
    pub(crate) looked_at_max: AtomicUsize,
    /// How often somebody asked for the instances.
    pub(crate) n_instances: AtomicUsize,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            memory: Memory::with_history(50_000),
            is_out: AtomicBool::new(false),
            is_held: watch::Sender::new(false),
            n_held: watch::Sender::new(0),
            lists_left: AtomicUsize::new(usize::MAX),
            looked_at_max: AtomicUsize::new(usize::MAX),
            n_instances: AtomicUsize::new(0),
        }
    }
}

impl Outage {
    pub(crate) fn begin(&self) {
        self.is_out.store(true, Ordering::SeqCst);
    }

    pub(crate) async fn beat_now(&self, id: InstanceId, now: Timestamp) {
        let standing = self.memory.beat(id, now).await.unwrap();
        assert_eq!(standing, Standing::Alive);
    }

    pub(crate) async fn supersede_now(&self, id: InstanceId) {
        let peers = self.memory.instances().await.unwrap();
        let peer = peers.into_iter().find(|peer| peer.instance.id == id);
        let beat_at = peer.unwrap().beat_at;
        self.memory.supersede(id, beat_at).await.unwrap();
    }

    pub(crate) fn end(&self) {
        self.is_out.store(false, Ordering::SeqCst);
    }

    /// Keeps all questions back until [`Outage::let_go`].
    pub(crate) fn hold(&self) {
        self.is_held.send_replace(true);
    }

    /// Returns once an answer is held.
    pub(crate) async fn holds(&self) {
        let mut n_held = self.n_held.subscribe();
        let held = n_held.wait_for(|n| *n > 0);
        soon(held).await.unwrap();
    }

    pub(crate) fn let_go(&self) {
        self.n_held.send_replace(0);
        self.is_held.send_replace(false);
    }

    fn or<'a, T: Send + 'a>(&'a self, answer: BackendFuture<'a, T>) -> BackendFuture<'a, T> {
        if self.is_out.load(Ordering::SeqCst) {
            return Box::pin(async { Err(BackendError::unavailable("out of reach")) });
        }
        if !*self.is_held.borrow() {
            return answer;
        }
        Box::pin(async {
            self.n_held.send_modify(|n| *n += 1);
            let mut is_held = self.is_held.subscribe();
            // The sender is ours, so it does not go away.
            let _ = is_held.wait_for(|is_held| !is_held).await;
            answer.await
        })
    }
}

impl Outage {
    /// As a store lists that looks at every task, and at so many of them for one page.
    async fn list_within(&self, query: ListQuery) -> Result<Page, BackendError> {
        let looked_at_max = self.looked_at_max.load(Ordering::SeqCst);
        if looked_at_max == usize::MAX {
            return self.memory.list(query).await;
        }
        // Some statuses are found with less effort than others.
        let looked_at_max = match query.status {
            Some(TaskStatus::Failed) => looked_at_max * 3,
            _ => looked_at_max,
        };
        let mut all = ListQuery::default();
        (all.before, all.after, all.limit) = (query.before, query.after, looked_at_max);
        let mut page = self.memory.list(all).await?;
        page.tasks
            .retain(|task| query.status.is_none_or(|status| status == task.life.status));
        page.tasks
            .retain(|task| query.name.as_deref().is_none_or(|name| name == &*task.name));
        if page.tasks.len() > query.limit {
            page.tasks.truncate(query.limit);
            page.next = page.tasks.last().map(|task| task.id);
        }
        Ok(page)
    }
}

impl Backend for Outage {
    fn describe(&self) -> String {
        self.memory.describe()
    }
    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        self.or(self.memory.join(instance))
    }
    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        self.or(self.memory.beat(id, now))
    }
    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        self.n_instances.fetch_add(1, Ordering::SeqCst);
        self.or(self.memory.instances())
    }
    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        self.or(self.memory.supersede(id, seen_beat_at))
    }
    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        self.or(self.memory.leave(id))
    }
    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        self.or(self.memory.write(batch))
    }
    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        self.or(self.memory.step(step))
    }
    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        self.or(self.memory.ahead(query))
    }
    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        self.or(self.memory.records(query))
    }
    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        self.or(self.memory.claim(claim))
    }
    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        self.or(self.memory.orphans(limit))
    }
    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        self.or(self.memory.get(id))
    }
    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        let one_less = |n: usize| n.checked_sub(1);
        let left = self
            .lists_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        match left {
            Ok(_) => self.or(Box::pin(self.list_within(query))),
            Err(_) => Box::pin(async { Err(BackendError::unavailable("out of reach")) }),
        }
    }
    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        self.or(self.memory.logs(id, skip, limit))
    }
    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        self.or(self.memory.counts())
    }
    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        self.or(self.memory.series(since))
    }
    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        self.or(self.memory.audit(before, limit))
    }
    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        self.or(self.memory.prune(prune))
    }
    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        self.memory.changed(seen)
    }
    fn close(&self) -> BackendFuture<'_, ()> {
        self.memory.close()
    }
}
