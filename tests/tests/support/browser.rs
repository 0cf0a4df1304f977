//! A real browser, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>): the few commands that we need.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread::available_parallelism,
    time::Duration,
};

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::{DEADLINE, http, until};

/// The name under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with a profile of its own. It and everything that it started is killed when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    http: Client,
    session: String,
    _profile: TempDir,
    _turn: SemaphorePermit<'static>,
}

/// As many browsers at a time as processors, however many tests there are: they compute, where other tests wait.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Runs in each page before its own scripts: keeps what must not happen, and what the live stream has told.
const WATCH: &str = "
    window.complaints = [];
    window.heard = [];
    window.EventSource = class extends EventSource {
        constructor(...args) {
            super(...args);
            window.stream = this;
            for (const name of ['tasks', 'log']) this.addEventListener(name, (e) => heard.push(e.data));
        }
    };
    addEventListener('error', (e) => complaints.push(`error: ${e.message ?? e.target}`));
    addEventListener('unhandledrejection', (e) => complaints.push(`rejection: ${e.reason}`));
    addEventListener('securitypolicyviolation', (e) => complaints.push(`policy: ${e.violatedDirective} ${e.blockedURI}`));
";

impl Browser {
    /// Waits until there is a processor for it.
    pub(crate) async fn start() -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = driver().await;
        let mut browser = Self {
            driver,
            http: http().timeout(Duration::from_secs(60)).build().unwrap(),
            session: String::new(),
            _profile: profile,
            _turn: turn,
        };
        let base = format!("http://127.0.0.1:{port}/session");
        let answer = call(&browser.http, &base, browser.wishes()).await.unwrap();
        let id = answer["sessionId"].as_str().unwrap();
        browser.session = format!("{base}/{id}");
        browser.width(1_280).await;
        browser.before_each_page(WATCH).await;
        browser
    }

    /// Runs a script in each page from now on, before the page's own.
    pub(crate) async fn before_each_page(&self, script: &str) {
        let command = "Page.addScriptToEvaluateOnNewDocument";
        self.cdp(command, json!({ "source": script })).await;
    }

    fn wishes(&self) -> Value {
        let profile = self._profile.path().display();
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(), // it is small in containers
            "--no-first-run".to_owned(),
            "--no-proxy-server".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--user-data-dir={profile}"),
        ];
        json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } })
    }

    pub(crate) async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    /// What a script returns. It finds its arguments in `arguments`.
    pub(crate) async fn run(&self, script: &str, args: Value) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": args }))
            .await
    }

    /// The value of an expression.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return {expression}"), json!([])).await
    }

    /// Returns once an expression is true.
    pub(crate) async fn becomes(&self, expression: &str) {
        until(expression, async || {
            // A page that is just being replaced may have no such thing yet.
            let guarded = format!(
                "(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()"
            );
            (self.eval(&guarded).await == true).then_some(())
        })
        .await;
    }

    /// The text of an element, as a person sees it, once there is one.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? null";
        until(selector, async || {
            let text = self.run(script, json!([selector])).await;
            text.as_str().map(str::to_owned)
        })
        .await
    }

    /// Clicks as a person does: scrolls there, and fails if something is in the way.
    pub(crate) async fn click(&self, selector: &str) {
        until(selector, async || {
            let element = self.find(selector).await;
            let url = format!("{}/element/{element}/click", self.session);
            match call(&self.http, &url, json!({})).await {
                Ok(_) => Some(()),
                // A live page has put another one in its place since it was found; nothing was clicked.
                Err(error) if error.contains("stale element") => None,
                Err(error) => panic!("a click on {selector}: {error}"),
            }
        })
        .await;
    }

    /// Lays the mouse on it and presses; [`Browser::let_go`] ends the click.
    pub(crate) async fn press(&self, selector: &str) {
        let element = self.find(selector).await;
        self.mouse(json!([
            { "type": "pointerMove", "x": 0, "y": 0, "origin": { ELEMENT: element } },
            { "type": "pointerDown", "button": 0 },
        ]))
        .await;
    }

    pub(crate) async fn let_go(&self) {
        self.mouse(json!([{ "type": "pointerUp", "button": 0 }]))
            .await;
    }

    async fn mouse(&self, actions: Value) {
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": actions });
        self.post("actions", json!({ "actions": [mouse] })).await;
    }

    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        let body = json!({ "text": text });
        self.post(&format!("element/{element}/value"), body).await;
    }

    async fn find(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        until(selector, async || {
            let url = format!("{}/element", self.session);
            let found = call(&self.http, &url, wanted.clone()).await.ok()?;
            found[ELEMENT].as_str().map(str::to_owned)
        })
        .await
    }

    /// The width of the window, in CSS pixels; narrow ones are phones.
    pub(crate) async fn width(&self, width: u32) {
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Pages that are opened from now on run no script.
    pub(crate) async fn without_scripts(&self) {
        self.cdp(
            "Emulation.setScriptExecutionDisabled",
            json!({ "value": true }),
        )
        .await;
    }

    /// The cookies of the site that is open, as a request sends them.
    pub(crate) async fn cookies(&self) -> String {
        let answer = self.cdp("Network.getCookies", json!({})).await;
        let cookies = answer["cookies"].as_array().unwrap().iter();
        let pairs = cookies.map(|cookie| {
            let [name, value] = ["name", "value"].map(|field| cookie[field].as_str().unwrap());
            format!("{name}={value}")
        });
        pairs.collect::<Vec<_>>().join("; ")
    }

    async fn cdp(&self, command: &str, params: Value) -> Value {
        let body = json!({ "cmd": command, "params": params });
        self.post("goog/cdp/execute", body).await
    }

    /// What the page and the browser complained about, on the page that is open and in the console since last asked.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        for entry in self
            .post("se/log", json!({ "type": "browser" }))
            .await
            .as_array()
            .unwrap()
        {
            if entry["level"] == "SEVERE" || entry["level"] == "WARNING" {
                all.push(entry["message"].as_str().unwrap().to_owned());
            }
        }
        if let Value::Array(seen) = self.eval("window.complaints").await {
            all.extend(seen.iter().map(ToString::to_string));
        }
        all
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/{path}", self.session);
        match call(&self.http, &url, body.clone()).await {
            Ok(value) => value,
            Err(error) => panic!("{path} {body}: {error}"),
        }
    }
}

async fn call(http: &Client, url: &str, body: Value) -> Result<Value, String> {
    let response = http.post(url).json(&body).send().await;
    let response = response.map_err(|error| error.to_string())?;
    let is_ok = response.status().is_success();
    let mut answer: Value = response.json().await.map_err(|error| error.to_string())?;
    match is_ok {
        true => Ok(answer["value"].take()),
        false => Err(answer["value"]["message"].to_string()),
    }
}

/// A driver, and the port on which it says that it listens. It draws one for IPv4 and wants the same for IPv6: if somebody
/// else has that, it ends.
async fn driver() -> (Child, u16) {
    const TRIES: usize = 5;
    let mut said = Vec::new();
    for _ in 0..TRIES {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // the browser joins it, so that both can be killed at once
            .spawn()
            .expect("chromedriver is missing: tests/run installs it, or says what to install");
        let stdout = BufReader::new(driver.stdout.take().unwrap());
        let port = tokio::task::spawn_blocking(|| port_of(stdout));
        match tokio::time::timeout(DEADLINE, port).await {
            Ok(port) => match port.unwrap() {
                Ok(port) => return (driver, port),
                Err(lines) => said.push(lines),
            },
            Err(_) => said.push("it says nothing".to_owned()),
        }
        kill(&mut driver);
    }
    panic!("chromedriver does not start: {said:?}");
}

/// Where the driver says that it listens, or what it says instead. Ends at the latest with the driver, and so with its output.
fn port_of(stdout: impl BufRead) -> Result<u16, String> {
    let mut said = String::new();
    for line in stdout.lines() {
        let line = line.unwrap();
        if let Some((_, port)) = line.rsplit_once("successfully on port ") {
            return Ok(port.trim_end_matches('.').parse().unwrap());
        }
        said.push_str(&line);
    }
    Err(said)
}

/// With the browser, if it has one.
fn kill(driver: &mut Child) {
    // A group cannot be gone before its leader was waited for, so this is nobody else's.
    if let Ok(pid) = i32::try_from(driver.id())
        && let Some(group) = Pid::from_raw(pid)
    {
        let _ = kill_process_group(group, Signal::KILL); // it may have ended by itself
    }
    let _ = driver.wait();
}

impl Drop for Browser {
    fn drop(&mut self) {
        kill(&mut self.driver);
    }
}
