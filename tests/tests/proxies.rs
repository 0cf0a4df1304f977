//! Several instances behind a real Nginx and a real Traefik, with the files of `examples/deploy`: whichever instance
//! answers, people and programs see one service.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;
#[path = "support/proxy.rs"]
mod proxy;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use proxy::{Kind, Ports, Proxy};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use servers::{Port, RedisServer};
use support::{DEADLINE, Service, Settings, answer, effects, http, until};
use tempfile::{TempDir, tempdir};

/// A stream that is held back tells nothing for minutes; one that is not tells of this instance after a moment and of
/// others after a second. The rest is for slow machines.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long an instance counts as alive on Redis. A quarter of it is what a call has, also where everybody waits for a
/// processor.
const LEASE: Duration = Duration::from_secs(8);

// ---- where ---------------------------------------------------------------------------------------------------

/// Where tasks are stored.
enum Store {
    OneFile,
    Redis,
}

/// Each test, behind each proxy.
macro_rules! behind_each_proxy {
    ($($test:ident),* $(,)?) => {
        behind!(nginx_and_one_file, Kind::Nginx, Store::OneFile, $($test),*);
        behind!(traefik_and_one_file, Kind::Traefik, Store::OneFile, $($test),*);
        behind!(nginx_and_redis, Kind::Nginx, Store::Redis, $($test),*);
        behind!(traefik_and_redis, Kind::Traefik, Store::Redis, $($test),*);
    };
}

macro_rules! behind {
    ($place:ident, $kind:expr, $store:expr, $($test:ident),*) => {
        mod $place {
            use super::{Kind, Store};

            $(#[tokio::test]
            async fn $test() {
                super::$test($kind, $store).await;
            })*
        }
    };
}

behind_each_proxy! {
    one_sign_in_is_good_for_all_instances,
    a_change_that_another_site_asks_for_is_refused,
    every_instance_shows_the_tasks_of_all,
    a_live_page_is_told_at_once_what_any_instance_does,
    the_stream_of_a_live_page_goes_on_when_the_proxy_reloads,
    when_an_instance_is_killed_the_service_and_its_pages_go_on,
    with_sticky_sessions_one_instance_answers_as_long_as_it_lives,
    the_dashboard_can_have_an_instance_of_its_own,
    who_guesses_passwords_keeps_nobody_else_from_signing_in,
}

/// Two instances that share a store, and a proxy in front of them.
struct Site {
    proxy: Proxy,
    instances: Vec<Service>,
    settings: Settings,
    /// Of the instance that a test may start for the dashboard.
    dashboard: Port,
    folder: TempDir,
    _redis: Option<RedisServer>,
}

impl Site {
    async fn open(kind: Kind, store: Store) -> Self {
        Self::with(kind, store, false).await
    }

    async fn sticky(kind: Kind, store: Store) -> Self {
        Self::with(kind, store, true).await
    }

    async fn with(kind: Kind, store: Store, is_sticky: bool) -> Self {
        let folder = tempdir().unwrap();
        let (settings, redis) = match store {
            Store::OneFile => (Settings::default(), None),
            Store::Redis => {
                let redis = RedisServer::start();
                (Settings::default().redis(&redis.url(), LEASE), Some(redis))
            }
        };
        let first = settings.clone().start(folder.path()).await;
        let second = settings.clone().start(folder.path()).await;
        let dashboard = Port::free();
        let ports = Ports {
            instances: [port(&first), port(&second)],
            dashboard: dashboard.number,
        };
        Self {
            proxy: Proxy::start(kind, ports, is_sticky).await,
            instances: vec![first, second],
            settings,
            dashboard,
            folder,
            _redis: redis,
        }
    }

    fn visitor(&self) -> Visitor {
        Visitor::of(self.proxy.url())
    }
}

fn port(service: &Service) -> u16 {
    let (_, port) = service.caller.url.rsplit_once(':').unwrap();
    port.parse().unwrap()
}

/// Somebody with a browser: keeps cookies, and sees the proxy only.
struct Visitor {
    url: String,
    http: Client,
}

impl Visitor {
    fn of(url: String) -> Self {
        // A connection for each request: one that is kept may be closed by a reload in the moment in which it is used.
        let http = http().cookie_store(true).pool_max_idle_per_host(0);
        let http = http.build().unwrap();
        Self { url, http }
    }

    async fn sign_in(&self) {
        let request = self.ask(Method::POST, "/tasks/auth/login");
        let credentials = json!({ "username": "ada", "password": "correct horse" });
        answer(request.json(&credentials), 200).await;
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    async fn get(&self, path: &str) -> Value {
        answer(self.ask(Method::GET, path), 200).await
    }

    /// Adds a task: its id, and the instance that took it.
    async fn add(&self, function: &str, args: impl Into<Value>) -> (String, String) {
        let order = json!({ "function": function, "args": args.into() });
        let added = answer(self.ask(Method::POST, "/add").json(&order), 200).await;
        (text(&added["id"]), text(&added["instance"]))
    }

    /// Which instances answer so many requests in a row.
    async fn answering(&self, n: usize) -> BTreeSet<String> {
        let mut answering = BTreeSet::new();
        for _ in 0..n {
            answering.insert(text(&self.get("/instance").await));
        }
        answering
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A page of the list, as a browser keeps it: it follows the stream that the page names, and comes back if that ends.
struct LivePage<'v> {
    visitor: &'v Visitor,
    stream: String,
    /// The status of each row.
    shown: BTreeMap<String, String>,
    response: Option<Response>,
    text: String,
    last_id: Option<String>,
    /// How often it came back.
    n_returns: usize,
}

impl<'v> LivePage<'v> {
    async fn open(visitor: &'v Visitor) -> Self {
        let mut page = Self {
            visitor,
            stream: String::new(),
            shown: BTreeMap::new(),
            response: None,
            text: String::new(),
            last_id: None,
            n_returns: 0,
        };
        page.print().await;
        page.follow().await;
        page
    }

    /// Asks for the page.
    async fn print(&mut self) {
        let request = self.visitor.ask(Method::GET, "/tasks/dashboard");
        let response = request.header("accept", "text/html").send().await.unwrap();
        assert_eq!(response.status(), 200);
        let html = response.text().await.unwrap();
        self.stream = between(&html, "data-stream=\"", "\"")
            .replace("&amp;", "&")
            .replace("&#38;", "&");
        let rows = html.split("<tr id=\"t-").skip(1);
        self.shown = rows
            .map(|row| {
                let (id, rest) = row.split_once('"').unwrap();
                (id.to_owned(), between(rest, "data-s=\"", "\"").to_owned())
            })
            .collect();
        (self.last_id, self.text) = (None, String::new());
    }

    /// Opens the stream, and waits for its first event.
    async fn follow(&mut self) {
        let request = || {
            let request = self.visitor.ask(Method::GET, &self.stream);
            match &self.last_id {
                Some(id) => request.header("last-event-id", id),
                None => request,
            }
        };
        let (response, asked) = until("a stream", async || {
            let asked = Instant::now();
            let response = tokio::time::timeout(DEADLINE, request().send()).await;
            let response = response.expect("the stream is held back").ok()?;
            (response.status() == 200).then_some((response, asked))
        })
        .await;
        (self.response, self.text) = (Some(response), String::new());
        self.event("hello").await;
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    }

    /// Reads until an event of this name.
    async fn event(&mut self, wanted: &str) {
        while self.next().await.as_deref() != Some(wanted) {}
    }

    /// Reads until the row of this task shows this status: how long it took.
    async fn shows(&mut self, id: &str, status: &str) -> Duration {
        let begun = Instant::now();
        while self.shown.get(id).is_none_or(|shown| shown != status) {
            if self.next().await.is_none() {
                self.n_returns += 1;
                self.follow().await;
            }
            assert!(begun.elapsed() < DEADLINE, "never shown: {status}");
        }
        begun.elapsed()
    }

    /// Takes the next event over, and gives its name; none if the stream has ended.
    async fn next(&mut self) -> Option<String> {
        let (event, rest) = loop {
            if let Some(event) = self.text.split_once("\n\n") {
                break event;
            }
            let chunk = self.response.as_mut().unwrap().chunk();
            let chunk = tokio::time::timeout(DEADLINE, chunk).await;
            let bytes = chunk.expect("the stream is silent").ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        };
        let (event, rest) = (event.to_owned(), rest.to_owned());
        self.text = rest;
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        if let Some(id) = field("id: ") {
            self.last_id = Some(id.to_owned());
        }
        let name = field("event: ").unwrap_or_default();
        if name == "tasks" {
            let told: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
            for delta in told["u"].as_array().into_iter().flatten() {
                if let Some(status) = delta["s"].as_str() {
                    self.shown.insert(text(&delta["id"]), status.to_owned());
                }
            }
        }
        Some(name.to_owned())
    }
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let (_, rest) = text.split_once(start).unwrap();
    rest.split_once(end).unwrap().0
}

#[test]
fn the_guide_shows_what_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    // What is switched off, remarks and the depth of a line do not count.
    let lines = |text: &str| {
        let lines = text
            .lines()
            .map(|line| line.split(" #").next().unwrap().trim());
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let guide = read("docs/several-hosts.md");

    let mut n = 0;
    for (language, file) in [
        ("nginx", "examples/deploy/nginx.conf"),
        ("yaml", "examples/deploy/traefik-dynamic.yml"),
    ] {
        for block in guide.split(&format!("```{language}\n")).skip(1) {
            let block = lines(block.split("```").next().unwrap());
            assert!(
                lines(&read(file)).contains(&block),
                "not in {file}:\n{block}"
            );
            n += 1;
        }
    }
    assert_eq!(n, 5);
}

// ---- what ----------------------------------------------------------------------------------------------------

async fn one_sign_in_is_good_for_all_instances(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let visitor = site.visitor();

    visitor.sign_in().await;

    let mut answering = BTreeSet::new();
    for _ in 0..10 {
        let instances = visitor.get("/tasks/instances").await;
        let mut instances = instances.as_array().unwrap().iter();
        let here = instances.find(|instance| instance["is_here"] == true);
        answering.insert(text(&here.unwrap()["id"]));
    }
    assert_eq!(answering.len(), 2, "both have answered");
    let stranger = site.visitor();
    answer(stranger.ask(Method::GET, "/tasks"), 401).await;
}

async fn a_change_that_another_site_asks_for_is_refused(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let visitor = site.visitor();
    visitor.sign_in().await;

    for _ in 0..4 {
        let (id, _) = visitor.add("fails", "no").await;
        site.instances[0].task_as(&id, "failed").await;
        let retry = || visitor.ask(Method::POST, &format!("/tasks/{id}/retry"));
        answer(retry(), 403).await;
        answer(retry().header("origin", "http://evil.example"), 403).await;
        let lies = retry().header("origin", "http://evil.example");
        answer(lies.header("sec-fetch-site", "cross-site"), 403).await;
        let retried = answer(retry().header("origin", &visitor.url), 200).await;
        let new_id = retried["task_id"].as_str().unwrap();
        site.instances[0].task_as(new_id, "failed").await;
        answer(retry().header("sec-fetch-site", "same-origin"), 200).await;
    }
}

async fn every_instance_shows_the_tasks_of_all(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let visitor = site.visitor();
    visitor.sign_in().await;

    let (mut wanted, mut took) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..20 {
        let (id, instance) = visitor.add("effect", format!("{n}")).await;
        wanted.insert(id);
        took.insert(instance);
    }

    assert_eq!(took.len(), 2, "both have taken some");
    assert_eq!(visitor.answering(10).await.len(), 2);
    for _ in 0..6 {
        let list = visitor.get("/tasks?limit=100").await;
        let listed: BTreeSet<String> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|t| text(&t["task_id"]))
            .collect();
        assert_eq!(listed, wanted);
    }
    for id in &wanted {
        site.instances[0].task_as(id, "success").await;
    }
    let ran: Vec<String> = effects(site.folder.path())
        .into_iter()
        .map(|effect| effect.id)
        .collect();
    assert_eq!(ran.len(), wanted.len(), "each once");
}

async fn a_live_page_is_told_at_once_what_any_instance_does(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let visitor = site.visitor();
    visitor.sign_in().await;
    let mut running = Vec::new();
    for service in &site.instances {
        let id = service.add("waits", "door").await;
        service.effect(&id, "began").await;
        running.push(id);
    }
    let mut page = LivePage::open(&visitor).await;
    for id in &running {
        assert_eq!(page.shown[id], "running");
    }

    // One of the two is not the instance that sends the stream.
    for (service, id) in site.instances.iter().zip(&running) {
        service.open("door").await;
        let took = page.shows(id, "success").await;
        println!("shown after {took:?}");
        assert!(took < AT_ONCE, "{took:?}");
    }
    assert_eq!(page.n_returns, 0, "by one stream, which is open");
}

async fn the_stream_of_a_live_page_goes_on_when_the_proxy_reloads(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let visitor = site.visitor();
    visitor.sign_in().await;
    let mut running = Vec::new();
    for service in &site.instances {
        let id = service.add("waits", "door").await;
        service.effect(&id, "began").await;
        running.push(id);
    }
    let mut pages = [
        LivePage::open(&visitor).await,
        LivePage::open(&visitor).await,
    ];
    assert_eq!(visitor.answering(6).await.len(), 2);

    site.proxy.set_sticky(true);
    until("the proxy does as the new file says", async || {
        (visitor.answering(6).await.len() == 1).then_some(())
    })
    .await;
    for service in &site.instances {
        service.open("door").await;
    }

    for page in &mut pages {
        for id in &running {
            page.shows(id, "success").await;
        }
        assert_eq!(page.n_returns, 0, "its stream went on over the reload");
    }
}

async fn when_an_instance_is_killed_the_service_and_its_pages_go_on(kind: Kind, store: Store) {
    let mut site = Site::open(kind, store).await;
    let visitor = site.visitor();
    visitor.sign_in().await;
    let dies = site.instances.remove(0);
    let lives = &site.instances[0];
    lives.open("door").await;
    let requeue = json!({ "requeue": true });
    let again = dies.add_with("waits", "door".into(), requeue).await;
    let once = dies.add("waits", "door").await;
    dies.effect(&again, "began").await;
    dies.effect(&once, "began").await;
    let mut pages = Vec::new();
    for _ in 0..4 {
        pages.push(LivePage::open(&visitor).await);
        visitor.answering(1).await; // an odd number of requests: each instance sends two of the streams
    }

    dies.kill().await;

    let mut added = Vec::new();
    for n in 0..20 {
        added.push(visitor.add("effect", format!("{n}")).await.0);
        visitor.get("/tasks").await;
    }
    for page in &mut pages {
        page.shows(&again, "success").await;
        page.shows(&once, "interrupted").await;
    }
    let n_returns: usize = pages.iter().map(|page| page.n_returns).sum();
    assert_eq!(n_returns, 2, "those that the dead one sent came back");
    for id in &added {
        lives.task_as(id, "success").await;
    }
    assert_eq!(lives.task(&again).await["crashes"], 1);
}

async fn with_sticky_sessions_one_instance_answers_as_long_as_it_lives(kind: Kind, store: Store) {
    let mut site = Site::sticky(kind, store).await;
    let visitor = site.visitor();
    visitor.sign_in().await;

    let answering = visitor.answering(10).await;
    assert_eq!(answering.len(), 1, "{answering:?}");
    let (id, took) = visitor.add("waits", "door").await;
    assert!(answering.contains(&took));
    let mut page = LivePage::open(&visitor).await;
    assert_eq!(visitor.answering(10).await, answering);

    let first = text(&site.instances[0].instance().await);
    let dies = site.instances.remove(usize::from(first != took));
    dies.effect(&id, "began").await;
    dies.kill().await;

    // Traefik sends those with the dead one's cookie there until its next health check.
    until("the proxy goes on with the other one", async || {
        let request = visitor.ask(Method::GET, "/instance");
        (request.send().await.unwrap().status() == 200).then_some(())
    })
    .await;
    let answering = visitor.answering(10).await;
    assert_eq!(answering.len(), 1, "{answering:?}");
    assert!(!answering.contains(&took), "the other one");
    page.shows(&id, "interrupted").await;
    assert_eq!(page.n_returns, 1);
}

async fn the_dashboard_can_have_an_instance_of_its_own(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let settings = site.settings.clone().port(site.dashboard.number);
    let own = settings.role("web").start(site.folder.path()).await;
    let staff = Visitor::of(site.proxy.dashboard_url());
    let running = site.instances[0].add("waits", "door").await;
    site.instances[0].effect(&running, "began").await;

    staff.sign_in().await;
    let mut page = LivePage::open(&staff).await;
    assert_eq!(page.shown[&running], "running");
    site.instances[0].open("door").await;
    page.shows(&running, "success").await;

    let me = text(&own.instance().await);
    for _ in 0..4 {
        let instances = staff.get("/tasks/instances").await;
        let mut instances = instances.as_array().unwrap().iter();
        let here = instances.find(|instance| instance["is_here"] == true);
        assert_eq!(text(&here.unwrap()["id"]), me);
    }
    let visitor = site.visitor();
    assert!(
        !visitor.answering(10).await.contains(&me),
        "nobody else comes to it"
    );
    let service = staff.ask(Method::GET, "/instance").send().await.unwrap();
    assert_eq!(service.status(), 404, "it is for the dashboard alone");
}

async fn who_guesses_passwords_keeps_nobody_else_from_signing_in(kind: Kind, store: Store) {
    let site = Site::open(kind, store).await;
    let from = |address: [u8; 4]| {
        let http = http().local_address(IpAddr::from(address));
        http.pool_max_idle_per_host(0).build().unwrap()
    };
    let (guesser, other) = (from([127, 0, 0, 2]), from([127, 0, 0, 3]));
    let sign_in = async |http: &Client, password: &str, said: &str| {
        let request = http.post(format!("{}/tasks/auth/login", site.proxy.url()));
        let request = request.header("x-forwarded-for", said);
        let credentials = json!({ "username": "ada", "password": password });
        let answer = request.json(&credentials).send().await.unwrap();
        answer.status().as_u16()
    };

    // Each of the two instances counts for itself. What the guesser says of his address changes nothing.
    let mut statuses = Vec::new();
    for n in 0..20 {
        let said = format!("203.0.113.{n}, 127.0.0.1");
        statuses.push(sign_in(&guesser, "wrong", &said).await);
    }

    assert_eq!(
        statuses.iter().filter(|status| **status == 401).count(),
        10,
        "{statuses:?}"
    );
    assert_eq!(statuses.last(), Some(&429));
    for _ in 0..4 {
        assert_eq!(
            sign_in(&guesser, "correct horse", "203.0.113.99").await,
            429
        );
        assert_eq!(sign_in(&other, "correct horse", "127.0.0.2").await, 200);
    }
}
