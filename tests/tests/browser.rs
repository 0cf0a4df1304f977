//! The live page in a real browser.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;
#[path = "support/browser.rs"]
mod browser;

use browser::Browser;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use servers::Port;
use support::{Service, Settings, answer, until};
use tempfile::{TempDir, tempdir};

/// A service, and somebody who looks at it.
struct Scene {
    browser: Browser,
    service: Service,
    folder: TempDir,
}

impl Scene {
    async fn new(settings: Settings) -> Self {
        let folder = tempdir().unwrap();
        Self {
            browser: Browser::start().await,
            service: settings.start(folder.path()).await,
            folder,
        }
    }

    /// With the sign-in behind us.
    async fn signed_in(settings: Settings) -> Self {
        let scene = Self::new(settings).await;
        scene.open("/dashboard").await;
        scene.sign_in().await;
        scene
    }

    async fn open(&self, path: &str) {
        let url = format!("{}/tasks{path}", self.service.caller.url);
        self.browser.open(&url).await;
    }

    /// The list, once its stream is open.
    async fn open_live(&self, path: &str) {
        self.open(path).await;
        self.browser
            .becomes("document.querySelector('#live').dataset.s === 'live'")
            .await;
    }

    /// The page of leads and locks shows a new term.
    async fn leads_otherwise_than(&self, epoch: &str) {
        let shown = format!(
            "![{}, undefined].includes(document.querySelector('[data-kind=leader] .mono')?.innerText)",
            json!(epoch)
        );
        self.browser.becomes(&shown).await;
    }

    async fn sign_in(&self) {
        self.browser.type_into("[name=username]", "ada").await;
        self.browser
            .type_into("[name=password]", "correct horse")
            .await;
        self.browser.click("#sign-in button").await;
        self.browser
            .becomes("location.pathname.startsWith('/tasks/dashboard')")
            .await;
    }

    /// Returns once the row of a task shows this state.
    async fn row_shows(&self, id: &str, state: &str) {
        let row = format!("document.getElementById('t-{id}')");
        self.browser
            .becomes(&format!("{row}.dataset.s === '{state}' && {row}.querySelector('.state').innerText.trim() === '{state}'"))
            .await;
    }

    /// Everything went without a word in the console, and nothing came from elsewhere.
    async fn ends_clean(self) {
        let foreign = "[...performance.getEntriesByType('resource')].map((r) => r.name).filter((n) => !n.startsWith(location.origin))";
        assert_eq!(self.browser.eval(foreign).await, json!([]), "foreign hosts");
        assert_eq!(self.browser.complaints().await, Vec::<String>::new());
    }
}

/// A port for a service that is to come back where it was. Nobody else takes it meanwhile, not even for a connection.
fn place() -> (Port, Settings) {
    let port = Port::free();
    let settings = Settings::default().port(port.number);
    (port, settings)
}

/// The button of a row that does this.
fn button(id: &str, action: &str) -> String {
    format!("#t-{id} .act[formaction$='/{action}']")
}

/// Begins to count what changes below an element, apart from the ticking of clocks.
const COUNT_CHANGES: &str = "
    window.changes = [];
    const isClock = (node) => (node.nodeType === 1 ? node : node.parentElement)?.closest('time, [data-since], .when');
    new MutationObserver((records) => {
        for (const r of records) if (!isClock(r.target)) changes.push(`${r.type} ${r.target.nodeName} ${r.target.className ?? ''}`);
    }).observe(document.querySelector(arguments[0]), { subtree: true, childList: true, attributes: true, characterData: true });
";

/// Two frames later, everything that was to be drawn is.
const DRAWN: &str = "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";

#[tokio::test]
async fn a_task_is_seen_through_its_life_while_no_other_row_is_touched() {
    let scene = Scene::signed_in(Settings::default().concurrency(1)).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let done = service.add("effect", "x").await;
    service.seen_as(&done, &["success"]).await;
    let first = service.add("waits", "one").await;
    let second = service.add("waits", "two").await;
    service.effect(&first, "began").await;

    scene.open_live("/dashboard").await;
    scene.row_shows(&done, "success").await;
    scene.row_shows(&first, "running").await;
    scene.row_shows(&second, "pending").await;
    browser
        .run(COUNT_CHANGES, json!([format!("#t-{done}")]))
        .await;
    browser
        .eval("window.rows = [...document.querySelectorAll('#rows tr')]")
        .await;
    service.open("one").await;
    scene.row_shows(&first, "success").await;
    scene.row_shows(&second, "running").await;
    service.open("two").await;
    scene.row_shows(&second, "success").await;

    let same = browser.eval("[...document.querySelectorAll('#rows tr')].every((row, n) => row === rows[n]) && rows.length").await;
    assert_eq!(
        same, 3,
        "the page was not loaded again, and no row was replaced"
    );
    assert_eq!(browser.eval("changes").await, json!([]), "in another row");
    let duration = browser.text(&format!("#t-{second} .c-duration")).await;
    assert!(
        duration.contains("ms") || duration.contains('s'),
        "{duration}"
    );
    browser
        .becomes("document.querySelector('[data-count=success]').innerText === '3'")
        .await;
    browser
        .becomes("document.querySelector('[data-count=running]').innerText === '0'")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn tasks_are_cancelled_and_retried_by_button() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let failed = service.add("fails", "no route").await;
    let later = service
        .add_with("effect", "x".into(), json!({ "delay_by_ms": 3_600_000 }))
        .await;
    let running = service.add("waits", "door").await;
    service.seen_as(&failed, &["failed"]).await;
    service.effect(&running, "began").await;

    scene.open_live("/dashboard").await;
    scene.row_shows(&later, "scheduled").await;
    browser.click(&button(&later, "cancel")).await;
    scene.row_shows(&later, "cancelled").await;
    browser.click(&button(&running, "cancel")).await;
    scene.row_shows(&running, "cancelled").await;
    browser.click(&button(&failed, "retry")).await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;

    scene.row_shows(&failed, "failed").await;
    assert_eq!(service.task(&later).await["status"], "cancelled");
    assert_eq!(service.task(&running).await["status"], "cancelled");
    let list = service.rest_get("").await;
    assert_eq!(list[0]["source"], "retry");
    assert_eq!(list.as_array().unwrap().len(), 4);
    let audit = service.rest_get("/audit").await;
    let actions: Vec<&Value> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(actions, ["retry", "cancel", "cancel"]);
    scene.ends_clean().await;
}

#[tokio::test]
async fn new_tasks_wait_behind_a_pill_and_move_no_row() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    scene.open_live("/dashboard").await;
    assert!(browser.text("#empty").await.contains("No tasks yet"));

    let first = service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
    browser.click("#pill").await;
    scene.row_shows(&first, "success").await;
    let ids = service
        .add_many("effect", &["a".to_owned(), "b".to_owned()])
        .await;
    browser
        .becomes("document.querySelector('#pill').innerText === '2 new tasks, show'")
        .await;
    assert_eq!(
        browser
            .eval("document.querySelectorAll('#rows tr').length")
            .await,
        1
    );
    browser.click("#pill").await;
    scene.row_shows(&ids[1], "success").await;

    let order = browser
        .eval("[...document.querySelectorAll('#rows tr')].map((row) => row.id)")
        .await;
    let wanted = [&ids[1], &ids[0], &first].map(|id| format!("t-{id}"));
    assert_eq!(order, json!(wanted));
    assert_eq!(
        browser.eval("document.querySelector('#pill').hidden").await,
        true
    );
    scene.ends_clean().await;
}

#[tokio::test]
async fn the_pill_of_new_tasks_lies_over_nothing_of_the_header_however_narrow_the_screen() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    scene.open_live("/dashboard").await;

    service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;

    for width in [320, 390, 1_280] {
        browser.width(width).await;
        let is_clear = "(() => {
            const pill = document.querySelector('#pill').getBoundingClientRect();
            const header = document.querySelector('.top').getBoundingClientRect();
            return pill.width > 0 && pill.bottom <= innerHeight && pill.top >= header.bottom;
        })()";
        assert_eq!(browser.eval(is_clear).await, true, "at {width}");
    }
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_fresh_copy_of_the_list_leaves_the_focus_on_a_tab_whose_number_has_changed() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    scene.open_live("/dashboard").await;
    let id = service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
    // As when one more task has ended by the time the copy is printed.
    let tab =
        "const tab = document.querySelector('.tabs a:nth-child(2)'); tab.append(' 7'); tab.focus()";
    browser.run(tab, json!([])).await;

    browser
        .eval("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'n' }))")
        .await;
    scene.row_shows(&id, "success").await;

    let focused = "document.activeElement === document.querySelector('.tabs a:nth-child(2)')";
    assert_eq!(browser.eval(focused).await, true);
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_paused_page_stands_still_and_then_shows_how_it_ended() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let waits = service.add("waits", "door").await;
    let retried = json!({ "retries": 1, "delay_ms": 700, "jitter": 0.0 });
    let retried = service
        .add_with("fails_behind", json!(["door", 2]), retried)
        .await;
    service.effect(&waits, "began").await;
    scene.open_live("/dashboard").await;
    scene.row_shows(&waits, "running").await;
    scene.row_shows(&retried, "running").await;

    browser.click("#pause").await;
    browser.run(COUNT_CHANGES, json!(["#rows"])).await;
    service.open("door").await;
    for id in [&waits, &retried] {
        let told = format!(
            "heard.some((data) => JSON.parse(data).u?.some((u) => u.id === '{id}' && u.s === 'success'))"
        );
        browser.becomes(&told).await;
    }
    browser.run(DRAWN, json!([])).await;
    assert_eq!(browser.eval("changes").await, json!([]));
    assert_eq!(browser.text("#live").await.trim(), "Paused");
    browser.click("#pause").await;

    scene.row_shows(&waits, "success").await;
    scene.row_shows(&retried, "success").await;
    let left = format!("#t-{retried} .err");
    assert_eq!(
        browser.text(&left).await,
        "",
        "the error of the first attempt is gone"
    );
    let since = format!("document.querySelectorAll('#t-{retried} [data-since]').length");
    assert_eq!(browser.eval(&since).await, 0, "its clock does not go on");
    assert_eq!(browser.text(&format!("#t-{retried} .at")).await, "2");
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_task_has_a_page_that_follows_it() {
    let scene = Scene::signed_in(Settings::default().concurrency(1)).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let first = service.add("waits", "first").await;
    let options = json!({ "tags": { "plan": "pro" }, "key": "order-7" });
    let id = service
        .add_with("talks", json!(["hello there", "second"]), options)
        .await;
    service.effect(&first, "began").await;

    scene.open_live(&format!("/dashboard/t/{id}")).await;
    assert_eq!(browser.text("h1").await, "talks");
    browser
        .becomes("document.querySelector('#task').dataset.s === 'pending'")
        .await;
    service.open("first").await;
    browser
        .becomes("document.querySelector('#task').dataset.s === 'running'")
        .await;
    browser
        .becomes("document.querySelector('#log').innerText.includes('hello there')")
        .await;
    browser
        .becomes("document.querySelector('#progress progress').value === 0.5")
        .await;
    // As long as nothing changes, the page is not read again and again.
    let reads = "performance.getEntriesByType('resource').filter((it) => it.initiatorType === 'fetch').length";
    let before = browser.eval(reads).await.as_u64().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let after = browser.eval(reads).await.as_u64().unwrap();
    assert!(after <= before + 2, "{before} reads, and then {after}");
    service.open("second").await;
    browser
        .becomes("document.querySelector('#task').dataset.s === 'success'")
        .await;
    browser
        .becomes("document.querySelector('#result').innerText.trim() === '42'")
        .await;

    let facts = browser.text("#facts").await;
    assert!(
        facts.contains("plan=pro") && facts.contains("order-7"),
        "{facts}"
    );
    assert!(browser.text("#args").await.contains("\"hello there\""));
    assert_eq!(
        browser
            .eval("performance.getEntriesByType('navigation').length")
            .await,
        1
    );
    scene.ends_clean().await;
}

#[tokio::test]
async fn everything_works_without_scripts() {
    let scene = Scene::new(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let failed = service.add("fails", "no route").await;
    let running = service.add("waits", "door").await;
    let labels: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    service.add_many("effect", &labels).await;
    let later = service
        .add_with("effect", "x".into(), json!({ "delay_by_ms": 3_600_000 }))
        .await;
    service.seen_as(&failed, &["failed"]).await;
    browser.without_scripts().await;

    scene.open("/dashboard").await;
    scene.sign_in().await;
    browser.click(&button(&later, "cancel")).await;
    assert!(
        browser
            .text("#notice")
            .await
            .contains("Cancelled: it will not run.")
    );
    assert_eq!(
        browser.text(&format!("#t-{later} .state")).await.trim(),
        "cancelled"
    );
    browser.click("#older").await;
    assert!(
        browser
            .text(&format!("#t-{failed} .err"))
            .await
            .contains("no route")
    );
    browser.click(&format!("#t-{running} .name")).await;
    browser.click("#acts .act[formaction$='/cancel']").await;
    assert!(browser.text("#notice").await.contains("Asked to stop"));
    service.task_as(&running, "cancelled").await;
    browser.click(".crumbs a").await;
    browser.click(".tabs a[href*='status=failed']").await;
    browser.click(&button(&failed, "retry")).await;
    assert!(browser.text("#notice").await.contains("Retried"));

    assert_eq!(service.rest_get("").await[0]["source"], "retry");
    assert_eq!(
        browser.eval("document.querySelector('#live').hidden").await,
        true,
        "what needs a script is hidden"
    );
    browser.click("#menu summary").await;
    browser.click("#sign-out button").await;
    browser
        .becomes("location.pathname === '/tasks/auth/login'")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_restart_of_the_server_is_seen_and_made_good() {
    let (_port, settings) = place();
    let scene = Scene::signed_in(settings.clone()).await;
    let Scene {
        browser,
        service,
        folder,
    } = scene;
    let running = service.add("waits", "door").await;
    service.effect(&running, "began").await;
    let url = format!("{}/tasks/dashboard", service.caller.url);
    browser.open(&url).await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
    browser.eval("window.sameDocument = true").await;

    service.kill().await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'off'")
        .await;
    assert!(
        browser
            .text("#live")
            .await
            .contains("Reconnecting, data from")
    );
    let service = settings.start(folder.path()).await;

    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
    let row = format!("document.getElementById('t-{running}')");
    browser
        .becomes(&format!("{row}.dataset.s === 'interrupted'"))
        .await;
    let again = service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
    browser.click("#pill").await;
    browser
        .becomes(&format!(
            "document.getElementById('t-{again}').dataset.s === 'success'"
        ))
        .await;
    assert_eq!(
        browser.eval("window.sameDocument").await,
        true,
        "without a reload"
    );
    let complaints = browser.complaints().await;
    let others: Vec<_> = complaints
        .iter()
        .filter(|said| !said.contains("net::ERR_"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn a_log_shows_each_line_once_also_after_its_stream_has_come_back() {
    let (_port, settings) = place();
    let scene = Scene::signed_in(settings.clone()).await;
    // It runs elsewhere, so that it goes on while the stream is gone.
    let other = Settings::default().start(scene.folder.path()).await;
    let id = other.add("tells", json!([150, "door"])).await;
    other.seen_as(&id, &["running"]).await;
    scene.open_live(&format!("/dashboard/t/{id}")).await;
    let Scene {
        browser,
        service,
        folder,
    } = scene;
    let told = |times: usize| {
        format!("heard.filter((data) => data.includes('line 150')).length >= {times}")
    };
    other.open("door").await;
    browser.becomes(&told(1)).await;

    service.kill().await;
    let _service = settings.start(folder.path()).await;
    browser.becomes(&told(2)).await;

    browser.run(DRAWN, json!([])).await;
    let lines = "document.querySelector('#log').innerText.match(/line [0-9]+/g)";
    let wanted: Vec<String> = (1..=150).map(|n| format!("line {n}")).collect();
    assert_eq!(browser.eval(lines).await, json!(wanted));
}

/// Makes the tab one that nobody sees, or shows it again. The half minute after which it gives its stream back is over at
/// once.
const SEEN: &str = "
    const wait = window.setTimeout;
    window.setTimeout = (call, ms, ...rest) => wait(call, ms === 30000 ? 0 : ms, ...rest);
    Object.defineProperty(document, 'hidden', { value: !arguments[0], configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
    window.setTimeout = wait;
";

#[tokio::test]
async fn a_tab_that_came_back_while_the_server_was_gone_is_live_when_it_is_there_again() {
    let (_port, settings) = place();
    let scene = Scene::signed_in(settings.clone()).await;
    scene.open_live("/dashboard").await;
    let Scene {
        browser,
        service,
        folder,
    } = scene;
    browser.run(SEEN, json!([false])).await;
    browser
        .becomes("stream.readyState === EventSource.CLOSED")
        .await;

    service.kill().await;
    browser.run(SEEN, json!([true])).await;
    browser
        .becomes("document.querySelector('#live').innerText.startsWith('Not reachable')")
        .await;
    let service = settings.start(folder.path()).await;

    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
    service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
}

#[tokio::test]
async fn a_tab_that_was_opened_behind_others_takes_no_connection_until_somebody_sees_it() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let id = service.add("waits", "door").await;
    service.effect(&id, "began").await;
    let behind = "Object.defineProperty(document, 'hidden', { value: true, configurable: true })";
    browser.before_each_page(behind).await;

    scene.open(&format!("/dashboard/t/{id}")).await;
    assert_eq!(browser.eval("typeof window.stream").await, "undefined");

    service.open("door").await;
    service.seen_as(&id, &["success"]).await;
    browser.run(SEEN, json!([true])).await;
    browser
        .becomes("document.querySelector('#task').dataset.s === 'success'")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_tab_that_came_back_while_the_server_hangs_does_not_say_that_it_is_live() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    scene.open_live("/dashboard").await;
    browser.run(SEEN, json!([false])).await;
    browser
        .becomes("stream.readyState === EventSource.CLOSED")
        .await;

    service.signal(Signal::STOP);
    // The seconds after which an answer is not waited for any more are over at once.
    let at_once = "const timeout = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = () => timeout(0)";
    browser.run(at_once, json!([])).await;
    browser.run(SEEN, json!([true])).await;
    browser
        .becomes("document.querySelector('#live').innerText.startsWith('Not reachable')")
        .await;
    let state = browser
        .eval("document.querySelector('#live').dataset.s")
        .await;
    browser.eval("AbortSignal.timeout = () => undefined").await;
    service.signal(Signal::CONT);

    assert_eq!(state, "off");
    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
}

/// The clock of the page is ahead from now on: what takes long is over at once.
const LATER: &str = "
    const clock = Date.now.bind(Date);
    Date.now = () => clock() + arguments[0];
";

#[tokio::test]
async fn a_server_that_says_nothing_any_more_is_seen_though_nobody_hung_up() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    scene.open_live("/dashboard").await;

    service.signal(Signal::STOP);
    browser.run(LATER, json!([60_000])).await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'off'")
        .await;
    let told = browser.text("#live").await;
    service.signal(Signal::CONT);

    assert!(told.starts_with("Reconnecting, data from"), "{told}");
    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn how_old_the_data_is_counts_from_what_the_store_has_answered_last() {
    let scene = Scene::signed_in(Settings::default()).await;
    let browser = &scene.browser;
    scene.open_live("/dashboard").await;
    let tell = async |event: &str, data: Value| {
        let script = "stream.dispatchEvent(new MessageEvent(arguments[0], { data: arguments[1] }))";
        browser.run(script, json!([event, data.to_string()])).await;
    };
    let state = async || {
        browser
            .eval("document.querySelector('#live').dataset.s")
            .await
    };

    // The store cannot be reached for an hour. In one step: else the page could look at its clock in between, and take
    // the link for dead.
    let bye = json!({ "why": "store", "retry": 3_600_000 }).to_string();
    let gone = format!(
        "const began = Date.now(); {LATER}
        stream.dispatchEvent(new MessageEvent('bye', {{ data: arguments[1] }})); return began"
    );
    let began = browser.run(&gone, json!([3_600_000, bye])).await;
    let age =
        "[...Array(60).keys()].findIndex((s) => document.querySelector('#live').innerText.endsWith(
        new Date(arguments[0] + 2000 - 1000 * s).toLocaleTimeString()))";
    let age = browser.run(&format!("return {age}"), json!([began])).await;
    let told = browser.text("#live").await;
    assert_ne!(age, -1, "{told}");
    // The service greets, whatever its store does.
    let build = browser.eval("document.body.dataset.build").await;
    let now = browser.eval("Date.now()").await;
    tell("hello", json!({ "now": now, "build": build, "hb": 15 })).await;
    // To pause and to go on makes nothing true.
    browser.click("#pause").await;
    browser.click("#pause").await;
    assert_eq!(state().await, "off");
    assert_eq!(browser.text("#live").await, told);

    tell("hb", json!({})).await;
    assert_eq!(state().await, "live");
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_page_that_the_browser_kept_for_the_way_back_is_read_anew() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    scene.open_live("/dashboard").await;
    browser.eval("window.sameDocument = true").await;
    let leaves = "dispatchEvent(new PageTransitionEvent(arguments[0], { persisted: true }))";

    browser.run(leaves, json!(["pagehide"])).await;
    let first = service.add("effect", "x").await;
    service.seen_as(&first, &["success"]).await;
    browser.run(leaves, json!(["pageshow"])).await;

    scene.row_shows(&first, "success").await;
    let second = service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
    browser.click("#pill").await;
    scene.row_shows(&second, "success").await;
    assert_eq!(browser.eval("window.sameDocument").await, true);

    // Whoever has signed out meanwhile finds the door, and not what was on the page.
    browser.run(leaves, json!(["pagehide"])).await;
    let leave =
        "return fetch('/tasks/auth/logout', { method: 'POST' }).then((answer) => answer.status)";
    assert_eq!(browser.run(leave, json!([])).await, 200);
    browser.run(leaves, json!(["pageshow"])).await;
    browser
        .becomes("location.pathname === '/tasks/auth/login'")
        .await;
}

/// Each stream is refused, as the one too many.
const REFUSED: &str = "
    window.EventSource = class {
        static OPEN = 1;
        static CLOSED = 2;
        readyState = 2;
        constructor() { setTimeout(() => this.onerror(), 0); }
        addEventListener() {}
        close() {}
    };
";

#[tokio::test]
async fn a_page_whose_stream_is_refused_is_read_anew_now_and_then_and_says_so() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    browser.before_each_page(REFUSED).await;
    scene.open("/dashboard").await;
    browser.eval("window.sameDocument = true").await;

    let id = service.add("effect", "x").await;
    scene.row_shows(&id, "success").await;

    let told = browser.text("#live").await;
    assert!(told.starts_with("Reconnecting, data from"), "{told}");
    assert_eq!(browser.eval("window.sameDocument").await, true);
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_page_whose_stream_is_refused_says_why() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let cookies = browser.cookies().await;
    browser.open("about:blank").await;
    let url = format!("{}/tasks/dashboard/stream", service.caller.url);
    let mut others = Vec::new();
    until("eight live pages", async || {
        let request = service.caller.http.get(&url).header("cookie", &cookies);
        let stream = request.send().await.unwrap();
        others.extend((stream.status() == 200).then_some(stream));
        (others.len() == 8).then_some(())
    })
    .await;

    scene.open("/dashboard").await;

    let told = "document.querySelector('#live').innerText.trim()";
    let why = "8 of your pages are live already, data from";
    browser
        .becomes(&format!("{told}.startsWith('{why}')"))
        .await;
    drop(others);
    browser.becomes(&format!("{told} === 'Live'")).await;
}

/// A stream that ends as the server ends each after a while, and the next one, which goes on.
const ENDS: &str = "
    const Real = EventSource;
    window.streams = 0;
    window.said = [];
    window.EventSource = class extends Real {
        constructor(...args) {
            super(...args);
            streams += 1;
            const bye = new MessageEvent('bye', { data: '{\"why\":\"age\",\"retry\":100}' });
            if (streams === 1) this.addEventListener('counts', () => setTimeout(() => this.dispatchEvent(bye)));
        }
    };
    addEventListener('DOMContentLoaded', () => {
        const live = document.querySelector('#live');
        if (live) new MutationObserver(() => said.push(live.innerText.trim())).observe(live, { subtree: true, childList: true, characterData: true, attributes: true });
    });
";

#[tokio::test]
async fn a_page_goes_on_with_the_next_stream_without_a_word_when_one_has_come_to_its_end() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    browser.before_each_page(ENDS).await;
    scene.open_live("/dashboard").await;
    browser.becomes("window.streams === 2").await;

    service.add("effect", "x").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;

    let lost = "said.filter((text) => text.includes('data from'))";
    assert_eq!(browser.eval(lost).await, json!([]));
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_restart_that_ends_all_sessions_leads_to_the_sign_in() {
    let (_port, settings) = place();
    let settings = settings.forget_sessions();
    let scene = Scene::signed_in(settings.clone()).await;
    let Scene {
        browser,
        service,
        folder,
    } = scene;
    let url = format!("{}/tasks/dashboard", service.caller.url);
    browser.open(&url).await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;

    service.kill().await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'off'")
        .await;
    let _service = settings.start(folder.path()).await;

    browser
        .becomes("location.pathname === '/tasks/auth/login'")
        .await;
}

#[tokio::test]
async fn what_tasks_say_is_text_and_never_markup() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let evil = "\"'><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></textarea></pre>&lt;b&gt;{{7*7}}";
    let options = json!({ "tags": { "<b>tag</b>": evil }, "key": evil });
    let talks = service
        .add_with("talks", json!([evil, "door"]), options)
        .await;
    until("it talks", async || {
        let task = service.task(&talks).await;
        (!task["progress"].is_null()).then_some(())
    })
    .await;
    let slow = json!({ "delay_by_ms": 1_500 });
    let fails = service.add_with("fails", evil.into(), slow).await;

    scene.open_live("/dashboard").await;
    scene.row_shows(&fails, "failed").await; // by the stream
    let error = browser.text(&format!("#t-{fails} .err")).await;
    assert!(
        error.contains("<script>window.hacked = 1</script>"),
        "{error}"
    );
    let args = browser.text(&format!("#t-{talks} .args")).await;
    assert!(args.contains("<img src=x"), "{args}");
    let nowhere = "document.querySelectorAll('main script, main img, main b b, [onerror]').length === 0 && window.hacked === undefined";
    assert_eq!(browser.eval(nowhere).await, true);
    scene.open_live(&format!("/dashboard/t/{talks}")).await;
    for part in ["#log", "#args", "#facts", "#progress"] {
        let text = browser.text(part).await;
        assert!(text.contains("<script>"), "{part}: {text}");
    }
    service.open("door").await;
    browser
        .becomes("document.querySelector('#task').dataset.s === 'success'")
        .await;
    assert_eq!(browser.eval(nowhere).await, true);
    scene.open(&format!("/dashboard/t/{fails}")).await;
    assert!(browser.text("#error-text").await.contains("<script>"));
    assert_eq!(browser.eval(nowhere).await, true);
    let q = "%22%3E%3Cscript%3Ewindow.hacked%3D1%3C%2Fscript%3E";
    for path in [
        format!("/dashboard?q={q}"),
        format!("/dashboard?func_name={q}"),
        format!("/dashboard?tag={q}"),
    ] {
        scene.open(&path).await;
        assert_eq!(browser.eval(nowhere).await, true, "{path}");
    }
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_phone_shows_everything_without_scrolling_sideways() {
    let scene = Scene::new(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let long = "averyveryverylongwordwithoutanyplacetobreakit".repeat(5);
    let options = json!({ "tags": { "plan": long }, "key": long });
    let fails = service
        .add_with("fails", long.clone().into(), options)
        .await;
    let talks = service.add("talks", json!([long, "door"])).await;
    service.seen_as(&fails, &["failed"]).await;
    until("it talks", async || {
        let task = service.task(&talks).await;
        (!task["progress"].is_null()).then_some(())
    })
    .await;

    for width in [320, 390] {
        browser.width(width).await;
        let fits = format!("document.documentElement.scrollWidth <= {width}");
        scene.open("/auth/login").await;
        if width == 320 {
            assert_eq!(browser.eval(&fits).await, true, "sign-in at {width}");
            scene.sign_in().await;
        }
        for path in [
            "/dashboard".to_owned(),
            format!("/dashboard/t/{fails}"),
            format!("/dashboard/t/{talks}"),
        ] {
            scene.open(&path).await;
            browser.text("h1").await;
            assert_eq!(browser.eval(&fits).await, true, "{path} at {width}");
        }
        scene.open_live("/dashboard").await;
        let button = button(&fails, "retry");
        let inside = format!(
            "(() => {{ const b = document.querySelector(\"{button}\").getBoundingClientRect(); return b.width > 0 && b.right <= {width} && b.left >= 0 }})()"
        );
        assert_eq!(browser.eval(&inside).await, true, "{button} at {width}");
    }
    browser.click(&button(&talks, "cancel")).await;
    scene.row_shows(&talks, "cancelled").await;
    scene.open_live("/dashboard?status=cancelled").await;
    let here = "(() => { const t = document.querySelector('.tabs [aria-current]').getBoundingClientRect(); return t.left >= 0 && t.right <= 390 })()";
    assert_eq!(browser.eval(here).await, true, "the tab that is shown");
    scene.ends_clean().await;
}

/// Letters that are smaller than this many CSS pixels are hard to read.
const SMALL: &str = "[...document.querySelectorAll('body *')].filter((it) =>
    [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
    && it.offsetParent !== null && parseFloat(getComputedStyle(it).fontSize) < 12)
    .map((it) => `${it.tagName} ${it.className} ${getComputedStyle(it).fontSize}`)";

#[tokio::test]
async fn letters_are_as_large_as_they_are_meant_to_be_and_follow_the_readers_choice() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let id = service.add("fails", "no route").await;
    service.seen_as(&id, &["failed"]).await;

    for path in [
        "/dashboard",
        "/dashboard/audit",
        &format!("/dashboard/t/{id}"),
    ] {
        scene.open(path).await;
        browser.text("h1").await;
        assert_eq!(browser.eval(SMALL).await, json!([]), "{path}");
        let sizes = "['html', 'body', 'h1'].map((it) => getComputedStyle(document.querySelector(it)).fontSize)";
        assert_eq!(browser.eval(sizes).await, json!(["16px", "14px", "20px"]));
    }
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_phone_shows_all_tabs_at_once_wraps_what_is_long_and_has_large_buttons() {
    let scene = Scene::signed_in(Settings::default().leads("mailer")).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let wanted =
        json!({ "name": "first", "func_name": "effect", "args": ["x"], "cron": "0 9 * * *" });
    let made = service.rest(Method::POST, "/schedules").json(&wanted);
    answer(made, 200).await;
    let long = "no route to the host of the customer ".repeat(3);
    let fails = service.add("fails", long.clone()).await;
    service.seen_as(&fails, &["failed"]).await;
    let talks = service.add("talks", json!([long.repeat(3), "door"])).await;
    until("it talks", async || {
        let task = service.task(&talks).await;
        (!task["progress"].is_null()).then_some(())
    })
    .await;

    for width in [320, 390, 880, 961] {
        browser.width(width).await;
        for path in [
            "/dashboard?status=failed&func_name=fails",
            "/dashboard/schedules",
            "/dashboard/holders",
            "/dashboard/audit",
            &format!("/dashboard/t/{talks}"),
        ] {
            scene.open_live(path).await;
            let fits = format!("document.documentElement.scrollWidth <= {width}");
            assert_eq!(browser.eval(&fits).await, true, "{path} at {width}");
            let wrapped = match width < 600 {
                true => ".tabs, .tabs a, .top, .log, .rows .err",
                false => ".tabs, .tabs a, .top, .log", // a row is short there
            };
            let wide = format!(
                "[...document.querySelectorAll('{wrapped}')].filter((it) => it.scrollWidth > it.clientWidth || it.getBoundingClientRect().right > innerWidth).map((it) => it.className || it.innerText)"
            );
            assert_eq!(browser.eval(&wide).await, json!([]), "{path} at {width}");
            let low = "[...document.querySelectorAll('.btn, .chip a')].filter((it) => it.offsetParent && it.offsetHeight < 40).map((it) => it.innerText)";
            if width < 600 {
                assert_eq!(browser.eval(low).await, json!([]), "{path} at {width}");
            }
        }
    }
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_page_of_failed_tasks_that_has_none_shows_the_one_that_was_there_before_it() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let id = service.add("fails_behind", json!(["door", 2])).await;
    service.seen_as(&id, &["running"]).await;
    scene.open_live("/dashboard?status=failed").await;
    browser.text("#empty").await;

    service.open("door").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
    browser.click("#pill").await;

    scene.row_shows(&id, "failed").await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn the_pill_goes_when_what_it_counts_has_left_the_status_of_the_page_again() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let first = service.add("waits", "first").await;
    let soon = json!({ "delay_by_ms": 4_000 });
    let between = service.add_with("waits", "between".into(), soon).await;
    let last = service.add("waits", "last").await;
    for id in [&first, &last] {
        service.effect(id, "began").await;
    }
    scene.open_live("/dashboard?status=running").await;
    let rows = "document.querySelectorAll('#rows tr').length";
    assert_eq!(browser.eval(rows).await, 2);

    service.effect(&between, "began").await;
    browser
        .becomes("document.querySelector('#pill').innerText === '1 new task, show'")
        .await;
    service.open("between").await;

    browser
        .becomes("document.querySelector('#pill').hidden")
        .await;
    assert_eq!(browser.eval(rows).await, 2);
    scene.ends_clean().await;
}

#[tokio::test]
async fn all_that_failed_is_retried_by_one_button_once_it_has_said_what_it_does() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    for message in ["one", "two"] {
        let id = service.add("fails", message).await;
        service.seen_as(&id, &["failed"]).await;
    }
    scene.open_live("/dashboard?status=failed").await;

    browser.click("#retry-all summary").await;
    let says = browser.text("#retry-all p").await;
    assert!(says.contains("2 failed tasks"), "{says}");
    browser.click("#retry-all button").await;

    let told = browser.text("#notice").await;
    assert_eq!(told, "Retried 2 tasks as new ones.");
    let list = service.rest_get("").await;
    let retries = list.as_array().unwrap().iter();
    assert_eq!(retries.filter(|task| task["source"] == "retry").count(), 2);
    browser.click(".nav [href$='/audit']").await;
    let entry = browser.text("#audit li").await;
    assert!(
        entry.contains("bulk retry") && entry.contains("ada"),
        "{entry}"
    );
    scene.ends_clean().await;
}

#[tokio::test]
async fn escape_closes_a_menu_and_gives_the_focus_back_to_what_opened_it() {
    let scene = Scene::signed_in(Settings::default()).await;
    let browser = &scene.browser;
    scene.open_live("/dashboard").await;
    browser.click("#menu summary").await;
    browser
        .eval("document.querySelector('#menu [value=dark]').focus()")
        .await;

    browser
        .run(
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))",
            json!([]),
        )
        .await;
    browser.run(DRAWN, json!([])).await;

    let is_back = "!document.querySelector('#menu').open && document.activeElement === document.querySelector('#menu summary')";
    assert_eq!(browser.eval(is_back).await, true);
    scene.ends_clean().await;
}

#[tokio::test]
async fn an_instance_that_is_not_well_is_told_at_the_head_of_an_open_page() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, folder, ..
    } = &scene;
    let other = tempdir().unwrap();
    let file = folder.path().join("tasks.db");
    let beside = Settings::default().database(&file).start(other.path());
    let beside = beside.await;
    scene.open_live("/dashboard").await;
    assert_eq!(
        browser.eval("document.querySelector('#unwell')").await,
        Value::Null
    );

    beside.signal(Signal::STOP);
    browser
        .becomes("document.querySelector('#unwell').innerText.trim() === '1 instance unresponsive'")
        .await;
    beside.signal(Signal::CONT);
    browser
        .becomes("document.querySelector('#unwell') === null")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_log_that_goes_on_is_shown_from_its_end_and_one_that_ended_from_its_beginning() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let id = service.add("tells", json!([150, "door"])).await;
    service.open("door").await;
    until("it has told everything", async || {
        let task = service.task(&id).await;
        (task["logs"].as_array()?.len() == 150).then_some(())
    })
    .await;
    let log = |is: &str| {
        format!("(() => {{ const log = document.querySelector('#log'); return {is} }})()")
    };

    scene.open_live(&format!("/dashboard/t/{id}")).await;
    browser
        .becomes(&log(
            "log.scrollTop > 0 && log.scrollHeight - log.scrollTop - log.clientHeight < 40",
        ))
        .await;
    browser.click("#acts .act[formaction$='/cancel']").await;
    service.seen_as(&id, &["cancelled"]).await;
    scene.open(&format!("/dashboard/t/{id}")).await;
    assert_eq!(browser.eval(&log("log.scrollTop")).await, 0);
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_page_is_found_again_after_the_sign_in() {
    let scene = Scene::new(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let id = service.add("effect", "x").await;

    scene.open(&format!("/dashboard/t/{id}")).await;
    browser
        .becomes("location.pathname === '/tasks/auth/login'")
        .await;
    browser.type_into("[name=username]", "ada").await;
    browser.type_into("[name=password]", "wrong").await;
    browser.click("#sign-in button").await;
    assert!(
        browser
            .text("#problem")
            .await
            .contains("wrong user name or password")
    );
    browser.type_into("[name=password]", "correct horse").await;
    browser.click("#sign-in button").await;

    browser
        .becomes(&format!("location.pathname === '/tasks/dashboard/t/{id}'"))
        .await;
    assert_eq!(browser.text("h1").await, "effect");
    let bob = service
        .caller
        .http
        .get(format!("{}/tasks/{id}", service.caller.url));
    answer(bob.basic_auth("bob", Some("battery staple")), 200).await;
}

#[tokio::test]
async fn who_may_only_look_is_shown_no_buttons() {
    let scene = Scene::new(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let id = service.add("fails", "no").await;
    service.seen_as(&id, &["failed"]).await;

    scene.open("/dashboard").await;
    browser.type_into("[name=username]", "bob").await;
    browser.type_into("[name=password]", "battery staple").await;
    browser.click("#sign-in button").await;
    scene.row_shows(&id, "failed").await;

    assert_eq!(browser.text("#read-only").await, "Read-only");
    assert_eq!(
        browser
            .eval("document.querySelectorAll('.act').length")
            .await,
        0
    );
    scene.open(&format!("/dashboard/t/{id}")).await;
    assert_eq!(browser.text("h1").await, "fails");
    assert_eq!(
        browser
            .eval("document.querySelectorAll('.act').length")
            .await,
        0
    );
    let list = service.rest(Method::GET, "");
    assert_eq!(answer(list, 200).await.as_array().unwrap().len(), 1);
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_page_of_schedules_follows_them_and_leaves_open_what_is_open() {
    let scene = Scene::signed_in(Settings::default().leads("mailer")).await;
    let Scene {
        browser, service, ..
    } = &scene;
    for name in ["first", "second"] {
        let wanted =
            json!({ "name": name, "func_name": "effect", "args": ["x"], "cron": "0 9 * * *" });
        let made = service.rest(Method::POST, "/schedules").json(&wanted);
        answer(made, 200).await;
    }
    scene.open("/dashboard/schedules").await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
    browser.click("[data-name=second] .duty summary").await;
    browser
        .eval("document.querySelector('[data-name=second] [formaction$=\"/run\"]').focus()")
        .await;

    let named = json!({ "name": "first" });
    let paused = service.rest(Method::POST, "/schedules/pause").json(&named);
    answer(paused, 200).await;

    browser
        .becomes("document.querySelector('[data-name=first]').dataset.s === 'paused'")
        .await;
    let open =
        "[...document.querySelectorAll('main [open]')].map((it) => it.closest('li').dataset.name)";
    assert_eq!(browser.eval(open).await, json!(["second"]));
    let focused = "document.activeElement.getAttribute('aria-label')";
    assert_eq!(browser.eval(focused).await, "Run now: second");

    scene.open("/dashboard/holders").await;
    let epoch = browser.text("[data-kind=leader] .mono").await;
    let leader = json!({ "kind": "leader", "name": "mailer" });
    let released = service.rest(Method::POST, "/holders/release").json(&leader);
    answer(released, 200).await;
    scene.leads_otherwise_than(&epoch).await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_click_counts_though_the_page_is_printed_anew_between_press_and_release() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    for name in ["first", "second"] {
        let wanted =
            json!({ "name": name, "func_name": "effect", "args": ["x"], "cron": "0 9 * * *" });
        let made = service.rest(Method::POST, "/schedules").json(&wanted);
        answer(made, 200).await;
    }
    scene.open_live("/dashboard/schedules").await;
    browser.run(COUNT_READS, json!([])).await;

    browser
        .press("[data-name=second] [formaction$='/pause']")
        .await;
    let named = json!({ "name": "first" });
    let paused = service.rest(Method::POST, "/schedules/pause").json(&named);
    answer(paused, 200).await;
    browser.becomes("window.reads > 0").await;
    browser.let_go().await;

    for name in ["first", "second"] {
        browser
            .becomes(&format!(
                "document.querySelector('[data-name={name}]').dataset.s === 'paused'"
            ))
            .await;
    }
    scene.ends_clean().await;
}

/// Counts the copies of the page that its script has read to their ends.
const COUNT_READS: &str = "
    window.reads = 0;
    const parse = DOMParser.prototype.parseFromString;
    DOMParser.prototype.parseFromString = function (...args) {
        window.reads += 1;
        return parse.apply(this, args);
    };
";

#[tokio::test]
async fn who_clicks_and_leaves_the_page_before_there_is_an_answer_has_clicked() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    for _ in 0..5 {
        let later = json!({ "delay_by_ms": 3_600_000 });
        let id = service.add_with("effect", "x".into(), later).await;
        scene.open_live("/dashboard").await;
        service.signal(Signal::STOP);
        browser.click(&button(&id, "cancel")).await;
        browser.open("about:blank").await;
        service.signal(Signal::CONT);

        service.seen_as(&id, &["cancelled"]).await;
    }
    scene.ends_clean().await;
}

/// The next request of the page's script is answered by a server in trouble, while the stream goes on.
const FAIL_ONCE: &str = "
    const ask = window.fetch;
    window.fetch = async () => {
        window.fetch = ask;
        window.failed = true;
        return new Response('', { status: 503 });
    };
";

#[tokio::test]
async fn a_fresh_copy_that_could_not_be_had_is_asked_for_again_though_the_stream_is_silent() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let wanted =
        json!({ "name": "first", "func_name": "effect", "args": ["x"], "cron": "0 9 * * *" });
    let made = service.rest(Method::POST, "/schedules").json(&wanted);
    answer(made, 200).await;
    scene.open_live("/dashboard/schedules").await;
    browser.run(FAIL_ONCE, json!([])).await;

    let named = json!({ "name": "first" });
    let paused = service.rest(Method::POST, "/schedules/pause").json(&named);
    answer(paused, 200).await;
    browser.becomes("window.failed").await;

    browser
        .becomes("document.querySelector('[data-name=first]').dataset.s === 'paused'")
        .await;
    browser
        .becomes("document.querySelector('#live').dataset.s === 'live'")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn instances_that_could_not_be_read_are_asked_for_again_though_the_stream_is_silent() {
    let scene = Scene::signed_in(Settings::default()).await;
    let Scene {
        browser, folder, ..
    } = &scene;
    scene.open_live("/dashboard").await;
    browser
        .becomes("document.querySelectorAll('#instances li').length === 1")
        .await;
    browser.run(FAIL_ONCE, json!([])).await;

    let other = tempdir().unwrap();
    let file = folder.path().join("tasks.db");
    let beside = Settings::default().database(&file).start(other.path());
    let _beside = beside.await;
    browser.becomes("window.failed").await;

    browser
        .becomes("document.querySelectorAll('#instances li').length === 2")
        .await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn schedules_are_worked_and_leads_released_by_button_on_any_screen() {
    let scene = Scene::signed_in(Settings::default().leads("mailer")).await;
    let Scene {
        browser, service, ..
    } = &scene;
    let make = async |name: &str, times: Value| {
        let mut wanted = json!({ "name": name, "func_name": "effect", "args": ["x"] });
        wanted
            .as_object_mut()
            .unwrap()
            .extend(times.as_object().unwrap().clone());
        let made = service.rest(Method::POST, "/schedules").json(&wanted);
        answer(made, 200).await;
    };
    let long = "averyveryverylongwordwithoutanyplacetobreakit".repeat(4);
    make("often", json!({ "every_s": 1 })).await;
    let cron = json!({ "cron": "0 9 * * Mon-Fri", "zone": "Europe/Berlin" });
    make(&long, cron).await;
    let act = |verb: &str| format!("[data-name=often] [formaction$='/{verb}']");
    let shows = |state: &str| {
        format!("document.querySelector('[data-name=often]').dataset.s === '{state}'")
    };

    scene.open("/dashboard").await;
    browser.click(".nav [href$='/schedules']").await;
    assert_eq!(browser.text("h1").await, "Schedules");
    assert_eq!(browser.text(".nav [aria-current]").await, "Schedules");
    browser.click(&act("pause")).await;
    browser.becomes(&shows("paused")).await;
    assert!(
        browser
            .text("[data-name=often] .why")
            .await
            .contains("by ada")
    );
    browser.click(&act("run")).await;
    assert!(browser.text("#notice").await.contains("Added a task"));
    browser.click(&act("resume")).await;
    browser.becomes(&shows("active")).await;
    until("a time has come", async || {
        scene.open("/dashboard/schedules").await;
        let fired = "document.querySelector('[data-name=often] .times a') !== null";
        (browser.eval(fired).await == true).then_some(())
    })
    .await;
    browser.click("[data-name=often] summary").await;
    browser.click("[data-name=often] .times a").await;
    assert_eq!(browser.text("h1").await, "effect");

    for width in [320, 390, 1_280] {
        browser.width(width).await;
        let fits = format!("document.documentElement.scrollWidth <= {width}");
        for path in ["/dashboard/schedules", "/dashboard/holders"] {
            scene.open(path).await;
            assert_eq!(browser.eval(&fits).await, true, "{path} at {width}");
            browser.click(".duties li .confirm summary").await;
            browser
                .becomes(&format!(
                    "(() => {{ const b = document.querySelector('.confirm[open] button').getBoundingClientRect(); return b.width > 0 && b.right <= {width} && b.left >= 0 }})()"
                ))
                .await;
            assert_eq!(browser.eval(&fits).await, true, "{path} at {width}, asking");
        }
    }

    scene.open("/dashboard/holders").await;
    let epoch = browser.text("[data-kind=leader] .mono").await;
    browser.click("[data-kind=leader] .confirm summary").await;
    browser.click("[data-kind=leader] .confirm button").await;
    assert!(browser.text("#notice").await.contains("Released"));
    scene.leads_otherwise_than(&epoch).await;
    scene.ends_clean().await;
}
