//! What the tests of the whole share: a service in a process of its own, and a client.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

pub(crate) mod disk;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// How long a test waits for what must come. Long, since machines are slow; never waited for in a green test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks until there is something to see, and fails at the deadline with what was wanted.
pub(crate) async fn until<T>(wanted: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "never seen: {wanted}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// How a service is started.
#[derive(Clone, Default)]
pub(crate) struct Settings(Vec<(&'static str, String)>);

impl Settings {
    pub(crate) fn concurrency(self, n: usize) -> Self {
        self.with("CONCURRENCY", n)
    }

    pub(crate) fn shutdown_timeout(self, timeout: Duration) -> Self {
        self.with("SHUTDOWN_TIMEOUT_MS", timeout.as_millis())
    }

    pub(crate) fn role(self, role: &str) -> Self {
        self.with("TASKFLOW_ROLE", role)
    }

    pub(crate) fn takeover_after(self, limit: Duration) -> Self {
        self.with("TAKEOVER_AFTER_MS", limit.as_millis())
    }

    pub(crate) fn crashes_max(self, n: usize) -> Self {
        self.with("CRASHES_MAX", n)
    }

    /// The process ends the next time that it comes to this place, after it has passed it `n` times.
    pub(crate) fn crash_at(self, point: &str, n: usize) -> Self {
        self.with("FAILPOINTS", format!("{point}={n}*off->return"))
    }

    pub(crate) fn add_timeout(self, timeout: Duration) -> Self {
        self.with("ADD_TIMEOUT_MS", timeout.as_millis())
    }

    /// The tasks are stored in this file.
    pub(crate) fn database(self, path: &Path) -> Self {
        self.with("DATABASE", path.display())
    }

    /// The tasks are stored in Redis, and an instance that says nothing counts as alive for so long.
    pub(crate) fn redis(self, url: &str, lease: Duration) -> Self {
        self.with("REDIS_URL", url)
            .with("REDIS_LEASE_MS", lease.as_millis())
    }

    /// The addresses in `redis`, with spaces between them, are nodes of a cluster.
    pub(crate) fn cluster(self) -> Self {
        self.with("REDIS_CLUSTER", 1)
    }

    /// The addresses in `redis`, with spaces between them, are sentinels that know the server by this name.
    pub(crate) fn sentinel(self, name: &str) -> Self {
        self.with("REDIS_SENTINEL", name)
    }

    /// So many replicas must have what is written before it counts.
    pub(crate) fn min_replicas(self, n: usize) -> Self {
        self.with("REDIS_MIN_REPLICAS", n)
    }

    /// The service wants to lead what has this name.
    pub(crate) fn leads(self, name: &str) -> Self {
        self.with("LEADS", name)
    }

    /// Sessions do not outlive the process.
    pub(crate) fn forget_sessions(self) -> Self {
        self.with("FORGET_SESSIONS", 1)
    }

    pub(crate) fn port(self, port: u16) -> Self {
        self.with("PORT", port)
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// What the service says that must not start with these settings.
    pub(crate) async fn fails(self, folder: &Path) -> String {
        let mut child = self.spawn(folder);
        let _stdin = child.stdin.take();
        let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
        assert!(!ended.expect("it starts").unwrap().success());
        fs::read_to_string(folder.join("log")).unwrap()
    }

    fn spawn(self, folder: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_service"))
            .arg(folder)
            .envs(self.0)
            .stdin(Stdio::piped()) // closed when we are gone, and then the service ends
            .stdout(Stdio::piped())
            .stderr(log(folder))
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Starts the service in this folder and waits until it listens.
    pub(crate) async fn start(self, folder: &Path) -> Service {
        match self.try_start(folder).await {
            Ok(service) => service,
            Err(status) => panic!(
                "the service does not start, {status}: {}",
                fs::read_to_string(folder.join("log")).unwrap_or_default()
            ),
        }
    }

    /// The same; how the process ended if it did so before.
    pub(crate) async fn try_start(self, folder: &Path) -> Result<Service, ExitStatus> {
        let mut child = self.spawn(folder);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut service = Service {
            child,
            folder: folder.to_owned(),
            caller: Caller::default(),
        };
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(url) = line.strip_prefix("listening on ") {
                    return Some(url.to_owned());
                }
            }
            None
        };
        let url = tokio::time::timeout(DEADLINE, listening).await;
        match url.expect("it neither listens nor ends") {
            Some(url) => service.caller.url = url,
            None => return Err(service.ended().await),
        }
        // Read on, so that the service never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(service)
    }
}

fn log(folder: &Path) -> fs::File {
    let mut options = fs::OpenOptions::new();
    let options = options.create(true).append(true);
    options.open(folder.join("log")).unwrap()
}

/// A client of the service.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) url: String,
    pub(crate) http: Client,
}

impl Default for Caller {
    fn default() -> Self {
        Self {
            url: String::new(),
            http: http().build().unwrap(),
        }
    }
}

/// A client of our own that keeps nothing between requests unless told to.
pub(crate) fn http() -> ClientBuilder {
    // Cargo unites the features of all crates: by the demo's, reqwest looks for a TLS library here, too, and the
    // demo gives it one. An error means that another test has done so already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy()
}

impl Caller {
    /// Asks for a task; the service may be gone before it answers.
    pub(crate) async fn try_add(
        &self,
        function: &str,
        args: Value,
        mut options: Value,
    ) -> reqwest::Result<Response> {
        options["function"] = function.into();
        options["args"] = args;
        let url = format!("{}/add", self.url);
        self.http.post(url).json(&options).send().await
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.url);
        let response = self.http.get(url).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }
}

/// A service that runs. Killed when it is dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) folder: PathBuf,
    pub(crate) caller: Caller,
}

impl Service {
    pub(crate) async fn start(folder: &Path) -> Self {
        Settings::default().start(folder).await
    }

    /// Adds a task of this function, with options: the id, once the service has accepted it.
    pub(crate) async fn add_with(&self, function: &str, args: Value, options: Value) -> String {
        let response = self.caller.try_add(function, args, options).await.unwrap();
        let (status, body) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{function} was not accepted: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn add(&self, function: &str, args: impl Into<Value>) -> String {
        self.add_with(function, args.into(), json!({})).await
    }

    /// Adds a task for each argument, in one step.
    pub(crate) async fn add_many(&self, function: &str, args: &[String]) -> Vec<String> {
        let url = format!("{}/add_many", self.caller.url);
        let body = json!({ "function": function, "args": args });
        let response = self.caller.http.post(url).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// Lets everything that waits at this door go on.
    pub(crate) async fn open(&self, door: &str) {
        let url = format!("{}/open/{door}", self.caller.url);
        let response = self.caller.http.post(url).send().await.unwrap();
        assert_eq!(response.status(), 204);
    }

    /// What is stored of a task; null if nothing is.
    pub(crate) async fn seen(&self, id: &str) -> Value {
        self.caller.get(&format!("/seen/{id}")).await
    }

    /// The same, unless the service is gone.
    pub(crate) async fn try_seen(&self, id: &str) -> Option<Value> {
        let url = format!("{}/seen/{id}", self.caller.url);
        let response = self.caller.http.get(url).send().await.ok()?;
        response.json().await.ok()
    }

    /// The name that the instance goes by.
    pub(crate) async fn instance(&self) -> Value {
        self.caller.get("/instance").await
    }

    /// What is stored of all tasks, newest first.
    pub(crate) async fn all_seen(&self) -> Vec<Value> {
        match self.caller.get("/seen").await {
            Value::Array(tasks) => tasks,
            other => panic!("{other}"),
        }
    }

    /// What is stored of a task once it has one of these statuses.
    pub(crate) async fn seen_as(&self, id: &str, statuses: &[&str]) -> Value {
        until(&format!("task {id} as {statuses:?}"), async || {
            let task = self.seen(id).await;
            let status = task["status"].as_str()?.to_owned();
            statuses.contains(&&*status).then_some(task)
        })
        .await
    }

    /// Returns once a task has written this.
    pub(crate) async fn effect(&self, id: &str, what: &str) {
        until(&format!("task {id} has written {what:?}"), async || {
            let effects = effects(&self.folder);
            let found = effects.iter().find(|e| e.id == id && e.what == what);
            found.map(|_| ())
        })
        .await;
    }

    /// A request to the REST routes below the mount, signed in as somebody who may do everything.
    pub(crate) fn rest(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/tasks{path}", self.caller.url);
        let request = self.caller.http.request(method, url);
        request.basic_auth("ada", Some("correct horse"))
    }

    /// The answer to a GET that must succeed.
    pub(crate) async fn rest_get(&self, path: &str) -> Value {
        answer(self.rest(Method::GET, path), 200).await
    }

    /// The answer to a POST without a body, which must have this status.
    pub(crate) async fn rest_post(&self, path: &str, status: u16) -> Value {
        answer(self.rest(Method::POST, path), status).await
    }

    /// A task as the REST routes show it.
    pub(crate) async fn task(&self, id: &str) -> Value {
        self.rest_get(&format!("/{id}")).await
    }

    /// A task as the REST routes show it, once it has this status.
    pub(crate) async fn task_as(&self, id: &str, status: &str) -> Value {
        until(&format!("task {id} as {status}"), async || {
            let task = self.task(id).await;
            (task["status"] == status).then_some(task)
        })
        .await
    }

    /// Ends the process as the kernel would: it gets no chance to do anything.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How the process ended, once it has.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let stdin = self.child.stdin.take(); // `wait` would close it, and that would end the service
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        drop(stdin);
        match ended {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("the service does not end: {}", self.log()),
        }
    }

    /// What the service said on stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// The JSON answer to a request, which must have this status.
pub(crate) async fn answer(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let (got, url) = (response.status(), response.url().clone());
    let body = response.text().await.unwrap();
    assert_eq!(got, status, "{url}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{url}: {e}: {body}"))
}

/// Where the `Link` header says that the list goes on.
pub(crate) fn next_of(response: &Response) -> Option<String> {
    let link = response.headers().get("link")?.to_str().unwrap();
    let (address, kind) = link.split_once(';').unwrap();
    assert_eq!(kind.trim(), "rel=\"next\"", "{link}");
    let address = address
        .strip_prefix('<')
        .unwrap()
        .strip_suffix('>')
        .unwrap();
    Some(address.to_owned())
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.id().is_none() {
            return; // it was waited for
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            eprintln!("the service has ended by itself: {status}");
        }
        let _ = self.child.start_kill(); // an error means that it has ended
        let deadline = Instant::now() + DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
        if std::thread::panicking() {
            eprintln!("the service said:\n{}", self.log());
        }
    }
}

/// A line that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) id: String,
    pub(crate) attempt: u64,
    pub(crate) what: String,
    pub(crate) label: String,
}

/// Everything that tasks wrote in this folder, in all lives of the service.
pub(crate) fn effects(folder: &Path) -> Vec<Effect> {
    let effects = tests::lab::effects::read(folder).unwrap();
    effects
        .into_iter()
        .map(|effect| Effect {
            id: effect.id.to_string(),
            attempt: effect.attempt.into(),
            what: effect.what,
            label: effect.label,
        })
        .collect()
}
