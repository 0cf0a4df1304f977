//! The stream: what changes, in few bytes, and never more than the browser takes.

use std::time::Duration;

use axum::{Router, body::Body, http::Method};
use axum_taskflow_core::{TaskId, TaskStatus};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tower::ServiceExt;

use crate::site::{Site, TOKEN, greet, people, request, soon, stays};

/// An open stream.
pub(crate) struct Live {
    body: axum::body::BodyDataStream,
    text: String,
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) event: String,
    id: Option<String>,
    pub(crate) data: Value,
    bytes: usize,
}

impl Live {
    pub(crate) async fn open(site: &Site, path: &str, headers: &[(&str, &str)]) -> Self {
        let request = request(Method::GET, path, headers, "");
        let response = site.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(
            response.headers()["cache-control"],
            "no-store, no-transform"
        );
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert!(!response.headers().contains_key("content-encoding"));
        Self {
            body: Body::into_data_stream(response.into_body()),
            text: String::new(),
        }
    }

    /// The stream that a page names.
    pub(crate) async fn of_page(site: &Site, path: &str) -> Self {
        let page = site.page(path).await;
        let stream = page.attribute("data-stream");
        let accept = [("accept", "text/event-stream"), ("accept-encoding", "gzip")];
        Self::open(site, &stream, &accept).await
    }

    /// The next frame; nothing at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let frame = parse(frame);
                self.text = rest.to_owned();
                return Some(frame);
            }
            let more = tokio::time::timeout(Duration::from_secs(60), self.body.next());
            let bytes = more.await.expect("a frame within a minute")?.unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The next frame of this kind; others are left out.
    pub(crate) async fn until(&mut self, event: &str) -> Frame {
        loop {
            let frame = self.next().await.expect("the stream goes on");
            if frame.event == event {
                return frame;
            }
            assert_ne!(frame.event, "hb", "silence instead of {event}");
        }
    }

    /// The next change of this task.
    pub(crate) async fn change_of(&mut self, id: TaskId) -> (Value, usize) {
        loop {
            let frame = self.until("tasks").await;
            let deltas = frame.data["u"].as_array().cloned().unwrap_or_default();
            let n = deltas.len();
            if let Some(delta) = deltas.into_iter().find(|delta| delta["id"] == json!(id)) {
                return (delta, if n == 1 { frame.bytes } else { 0 });
            }
        }
    }
}

fn parse(text: &str) -> Frame {
    let field = |name: &str| {
        let start = format!("{name}: ");
        text.lines()
            .find_map(|line| line.strip_prefix(&start))
            .map(str::to_owned)
    };
    Frame {
        event: field("event").unwrap_or_else(|| text.to_owned()),
        id: field("id"),
        data: field("data").map_or(Value::Null, |data| serde_json::from_str(&data).unwrap()),
        bytes: text.len() + 2,
    }
}

#[tokio::test]
async fn a_stream_begins_with_a_greeting_and_the_numbers() {
    let site = Site::open().await;
    site.ended(TaskStatus::Success).await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;

    let hello = live.next().await.unwrap();
    assert_eq!(hello.event, "hello");
    assert_eq!(
        (&hello.data["v"], &hello.data["now"]),
        (&json!(1), &json!(1_795_300_000_000_i64))
    );
    let page = site.page("/tasks/dashboard").await;
    assert_eq!(hello.data["build"], page.attribute("data-build"));
    let counts = live.until("counts").await;
    assert_eq!(counts.data, json!({ "all": "1", "success": "1" }));
}

#[tokio::test]
async fn a_visible_row_is_patched_in_at_most_160_bytes_a_change() {
    let site = Site::open().await;
    let id = site
        .manager
        .add_task(greet, "ada".to_owned())
        .delay_by(Duration::from_secs(60))
        .await
        .unwrap();
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    site.clock.advance(Duration::from_secs(60));
    let _: String = soon(site.manager.wait(id)).await.unwrap();

    loop {
        let (delta, bytes) = live.change_of(id).await;
        assert!(bytes <= 160, "{bytes} bytes: {delta}");
        if delta["s"] == "success" {
            assert_eq!(
                delta,
                json!({ "id": id, "s": "success", "a": 1, "d": "0 ms" })
            );
            break;
        }
    }
}

#[tokio::test]
async fn a_cancelled_row_tells_why_and_the_counts_follow() {
    let site = Site::open().await;
    let id = site.waiting().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    assert_eq!(
        live.until("counts").await.data,
        json!({ "all": "1", "pending": "1" })
    );

    site.manager.cancel(id).await.unwrap();

    let (delta, _) = live.change_of(id).await;
    assert_eq!(
        (&delta["s"], &delta["e"]),
        (&json!("cancelled"), &json!("cancelled before it ran"))
    );
    assert_eq!(
        live.until("counts").await.data,
        json!({ "cancelled": "1", "pending": "0" })
    );
}

#[tokio::test]
async fn new_tasks_are_counted_and_not_sent() {
    let site = Site::open().await;
    site.waiting().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    for _ in 0..20 {
        site.waiting().await;
    }

    let mut n = 0;
    while n < 20 {
        let frame = live.until("tasks").await;
        assert!(frame.data.get("u").is_none(), "{frame:?}");
        assert!(frame.bytes < 100);
        n = frame.data["n"].as_u64().unwrap();
    }
    assert_eq!(n, 20);
}

#[tokio::test(start_paused = true)]
async fn of_new_tasks_of_other_instances_no_more_than_a_thousand_are_remembered() {
    let site = Site::open().await;
    site.joined(site.clock.now(), |_| {}).await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    let mut told = 0;
    for round in 0..7 {
        for _ in 0..200 {
            let later = site.clock.now().saturating_add(Duration::from_secs(3_600));
            site.stored("greet", |task| task.life.run_at = later).await;
        }
        // The store is looked at once a second. The numbers follow each look, so those of the last round were read after
        // the rows of the one before.
        let all = ["200", "400", "600", "800", "1,000", "1,200", "1,400"][round];
        loop {
            let frame = live.next().await.expect("the stream goes on");
            if let Some(n) = frame.data["n"].as_u64().filter(|_| frame.event == "tasks") {
                told = n;
            }
            if frame.event == "counts" && frame.data["all"] == all {
                break;
            }
        }
    }

    assert_eq!(told, 1_000);
}

#[tokio::test]
async fn only_new_tasks_that_fit_the_page_are_counted() {
    let site = Site::open().await;
    let mut failed = Live::of_page(&site, "/tasks/dashboard?status=failed").await;
    let mut tagged = Live::of_page(&site, "/tasks/dashboard?tag=plan%3Dpro").await;
    let mut tracked = Live::of_page(&site, "/tasks/dashboard?tracking_id=r-1").await;
    failed.until("counts").await;
    tagged.until("hello").await;
    tracked.until("hello").await;

    site.ended(TaskStatus::Success).await;
    let add_fitting = async || {
        let add = site.manager.add_task(greet, "x".to_owned());
        let add = add.tag("plan", "pro").tracking_id("r-1");
        add.delay_by(Duration::from_secs(60)).await.unwrap();
    };
    add_fitting().await;
    site.ended(TaskStatus::Failed).await;

    assert_eq!(failed.until("tasks").await.data, json!({ "n": 1 }));
    assert_eq!(tagged.until("tasks").await.data, json!({ "n": 1 }));
    assert_eq!(tracked.until("tasks").await.data, json!({ "n": 1 }));
    // A first frame comes at the first task, whichever it is. The second one tells of all.
    add_fitting().await;
    assert_eq!(tagged.until("tasks").await.data, json!({ "n": 2 }));
    assert_eq!(tracked.until("tasks").await.data, json!({ "n": 2 }));
}

#[tokio::test]
async fn an_older_task_that_comes_to_the_status_of_a_page_is_told_if_the_page_shows_all_there_is() {
    let site = Site::open().await;
    let [first, second] = [site.running().await, site.running().await];
    site.clock.advance(Duration::from_secs(1));
    let mut empty = Live::of_page(&site, "/tasks/dashboard?status=cancelled").await;
    empty.until("counts").await;
    site.manager.cancel(second).await.unwrap();
    assert_eq!(empty.change_of(second).await.0["s"], "cancelled");

    let mut of_one = Live::of_page(&site, "/tasks/dashboard?status=cancelled").await;
    of_one.until("counts").await;
    site.manager.cancel(first).await.unwrap();
    assert_eq!(of_one.change_of(first).await.0["s"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn an_older_task_that_another_instance_ends_makes_a_page_of_its_status_be_read_again() {
    let site = Site::open().await;
    let running = site.running_elsewhere().await;
    site.clock.advance(Duration::from_secs(1));
    let mut live = Live::of_page(&site, "/tasks/dashboard?status=interrupted").await;
    live.until("counts").await;

    site.taken(running).await;

    assert_eq!(live.until("reset").await.data, json!({ "why": "gap" }));
}

#[tokio::test]
async fn what_has_left_the_status_again_is_not_counted_as_new_any_more() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard?status=running").await;
    live.until("counts").await;

    let id = site.running().await;
    assert_eq!(live.until("tasks").await.data, json!({ "n": 1 }));
    site.manager.cancel(id).await.unwrap();

    assert_eq!(live.until("tasks").await.data, json!({ "n": 0 }));
}

#[tokio::test(start_paused = true)]
async fn what_has_left_the_status_again_at_another_instance_is_not_counted_as_new_either() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard?status=running").await;
    live.until("counts").await;

    let id = site.running_elsewhere().await;
    assert_eq!(live.until("tasks").await.data, json!({ "n": 1 }));
    site.taken(id).await;

    assert_eq!(live.until("tasks").await.data, json!({ "n": 0 }));
}

#[tokio::test]
async fn what_happened_between_the_page_and_the_stream_is_told() {
    let site = Site::open().await;
    let id = site.waiting().await;
    let page = site.page("/tasks/dashboard").await;
    site.manager.cancel(id).await.unwrap();
    site.waiting().await;

    let mut live = Live::open(&site, &page.attribute("data-stream"), &[]).await;

    let frame = live.until("tasks").await;
    assert_eq!(
        (&frame.data["u"][0]["s"], &frame.data["n"]),
        (&json!("cancelled"), &json!(1))
    );
}

#[tokio::test]
async fn what_a_page_of_one_status_lost_meanwhile_makes_it_be_read_again() {
    let site = Site::open().await;
    let id = site.waiting().await;
    let page = site.page("/tasks/dashboard?status=pending").await;
    site.manager.cancel(id).await.unwrap();

    let mut live = Live::open(&site, &page.attribute("data-stream"), &[]).await;

    assert_eq!(live.until("reset").await.data, json!({ "why": "gap" }));
}

#[tokio::test]
async fn a_reader_that_comes_back_is_told_only_what_it_missed() {
    let site = Site::open().await;
    let (early, late) = (site.waiting().await, site.waiting().await);
    let page = site.page("/tasks/dashboard").await;
    let stream = page.attribute("data-stream");
    let mut live = Live::open(&site, &stream, &[]).await;
    site.manager.cancel(early).await.unwrap();
    let told = live.until("tasks").await.id.unwrap();
    drop(live);
    site.clock.advance(Duration::from_secs(30));
    site.manager.cancel(late).await.unwrap();
    let heard = (told.parse::<i64>().unwrap() + 10_000).to_string();

    let mut live = Live::open(&site, &stream, &[("last-event-id", &heard)]).await;

    let frame = live.until("tasks").await;
    let ids: Vec<&Value> = frame.data["u"]
        .as_array()
        .unwrap()
        .iter()
        .map(|delta| &delta["id"])
        .collect();
    assert_eq!(ids, [&json!(late)]);
}

#[tokio::test]
async fn a_flood_reaches_a_slow_reader_as_few_frames_with_the_last_state() {
    let site = Site::open().await;
    let id = site.waiting().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    // More than the feed keeps: nobody reads meanwhile.
    for _ in 0..30 {
        let names = (0..200).map(|n| n.to_string());
        site.manager
            .add_tasks(greet, names)
            .delay_by(Duration::from_secs(60))
            .await
            .unwrap();
    }
    site.manager.cancel(id).await.unwrap();

    // In whichever order they come.
    let (mut frames, mut state, mut pending) = (0, Value::Null, Value::Null);
    while state.is_null() || pending.is_null() {
        let frame = live.next().await.expect("the stream goes on");
        assert_ne!(frame.event, "hb", "{state} {pending}");
        frames += 1;
        match &*frame.event {
            "counts" => pending = frame.data["pending"].clone(),
            "tasks" => {
                let deltas = frame.data["u"].as_array().cloned().unwrap_or_default();
                let ours = deltas.into_iter().find(|delta| delta["id"] == json!(id));
                state = ours.map_or(state, |delta| delta["s"].clone());
            }
            _ => {}
        }
    }
    assert_eq!((state, pending), (json!("cancelled"), json!("6,000")));
    assert!(frames < 10, "{frames} frames");
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_goes_on_does_not_put_off_the_rows_for_ever() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    for _ in 0..6 {
        // More than the feed keeps, so that each time something is missed.
        let names = (0..5_000).map(|n| n.to_string());
        let hour = Duration::from_secs(3_600);
        let add = site.manager.add_tasks(greet, names).delay_by(hour);
        add.await.unwrap();
        let until = tokio::time::Instant::now() + Duration::from_millis(600);
        while let Ok(frame) = tokio::time::timeout_at(until, live.next()).await {
            if frame.expect("the stream goes on").event == "tasks" {
                return;
            }
        }
    }
    panic!("no rows in 3.6 s");
}

#[tokio::test]
async fn a_task_that_was_taken_over_elsewhere_is_shown_as_it_is_stored() {
    let site = Site::open().await;
    let id = site.running().await;
    let mut list = Live::of_page(&site, "/tasks/dashboard").await;
    let mut page = Live::of_page(&site, &format!("/tasks/dashboard/t/{id}")).await;
    list.until("counts").await;
    let (delta, _) = page.change_of(id).await;
    assert_eq!(delta["s"], "running");
    site.taken(id).await;

    site.manager.cancel(id).await.unwrap();

    for live in [&mut list, &mut page] {
        let mut told = live.change_of(id).await.0;
        while told["s"] != "interrupted" {
            told = live.change_of(id).await.0; // how far it is was told before
        }
        assert_eq!(told["e"], "taken over");
    }
}

#[tokio::test]
async fn a_frame_stays_small_however_much_changes() {
    let site = Site::open().await;
    let names = (0..200).map(|n| n.to_string());
    let ids = site
        .manager
        .add_tasks(greet, names)
        .delay_by(Duration::from_secs(60))
        .await
        .unwrap();
    let mut live = Live::of_page(&site, "/tasks/dashboard?limit=200").await;
    live.until("counts").await;

    for id in &ids {
        site.manager.cancel(*id).await.unwrap();
    }

    let mut told = std::collections::HashSet::new();
    while told.len() < 200 {
        let frame = live.until("tasks").await;
        assert!(frame.bytes <= 8 * 1_024, "{} bytes", frame.bytes);
        told.extend(
            frame.data["u"]
                .as_array()
                .unwrap()
                .iter()
                .map(|delta| delta["id"].to_string()),
        );
    }
}

#[tokio::test]
async fn a_task_page_gets_its_log_in_order_and_without_a_gap() {
    let site = Site::open().await;
    let id = site.running().await;
    site.until(id, |task| task.progress.is_some()).await;
    let path = format!("/tasks/dashboard/stream?id={id}&lines=0");
    let mut live = Live::open(&site, &path, &[]).await;

    let (delta, _) = live.change_of(id).await;
    assert_eq!(
        (&delta["s"], &delta["t"]),
        (&json!("running"), &json!(1_795_300_000_000_i64))
    );
    let log = live.until("log").await;
    assert_eq!(
        log.data,
        json!({ "from": 0, "lines": [["22:26:40.000", "info", 1, "it stays"]] })
    );

    let other = site.manager.add_task(stays, ()).await.unwrap();
    site.manager.cancel(id).await.unwrap();
    let (delta, _) = live.change_of(id).await;
    assert_eq!(delta["s"], "cancelled");
    site.manager.cancel(other).await.unwrap();
}

#[tokio::test]
async fn progress_is_told_with_its_message_on_the_task_page_and_without_in_the_list() {
    let site = Site::open().await;
    let id = site.waiting().await;
    let mut list = Live::of_page(&site, "/tasks/dashboard").await;
    list.until("counts").await;
    let running = site.manager.add_task(stays, ()).await.unwrap();
    let path = format!("/tasks/dashboard/stream?id={running}");
    let mut task = Live::open(&site, &path, &[]).await;

    let page = Live::of_page(&site, "/tasks/dashboard").await;
    drop((page, id));
    loop {
        let (delta, _) = task.change_of(running).await;
        if delta.get("p").is_some() {
            assert_eq!(
                (&delta["p"], &delta["m"]),
                (&json!(0.42), &json!("half way"))
            );
            break;
        }
        if site
            .manager
            .get(running)
            .await
            .unwrap()
            .unwrap()
            .progress
            .is_some()
        {
            break; // said before the stream was open: the page has printed it
        }
    }
    assert_eq!(list.until("tasks").await.data, json!({ "n": 1 }));
    site.manager.cancel(running).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_when_the_manager_stops() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    soon(site.manager.shutdown()).await.unwrap();

    assert_eq!(
        live.until("bye").await.data,
        json!({ "why": "shutdown", "retry": 2_000 })
    );
    assert!(live.next().await.is_none());
}

#[tokio::test]
async fn a_stream_says_so_when_the_store_is_out_of_reach() {
    let site = Site::open().await;
    let page = site.page("/tasks/dashboard").await;
    site.waiting().await;
    site.backend.begin();

    let mut live = Live::open(&site, &page.attribute("data-stream"), &[]).await;

    let bye = live.until("bye").await;
    assert_eq!(bye.data["why"], "store");
    assert!(live.next().await.is_none());
}

#[tokio::test]
async fn a_page_on_which_nothing_changes_is_told_at_once_that_the_store_has_answered() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard/holders").await;
    assert_eq!(live.next().await.unwrap().event, "hello");

    // The beat that breaks the silence comes after 15 s.
    let told = tokio::time::timeout(Duration::from_secs(10), live.next());

    assert_eq!(told.await.expect("at once").unwrap().event, "hb");
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_few_bytes_that_a_script_can_hear() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    live.until("counts").await;

    let beat = live.next().await.unwrap();

    assert_eq!(beat.event, "hb", "{beat:?}");
    assert!(beat.bytes <= 24, "{} bytes", beat.bytes);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_session() {
    let site = Site::with(|admin| Router::new().nest("/tasks", people(admin).routes())).await;
    let cookie = site.sign_in("ada").await;
    let path = "/tasks/dashboard/stream";
    let mut live = Live::open(&site, path, &[("cookie", &cookie)]).await;
    live.until("counts").await;

    site.clock.advance(Duration::from_secs(3_600));

    let mut last = live.next().await.unwrap();
    while last.event == "hb" {
        last = live.next().await.unwrap(); // it looks every now and then
    }
    assert_eq!((&*last.event, &last.data["why"]), ("bye", &json!("auth")));
    assert!(live.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_two_minutes_so_that_who_vanished_keeps_no_place() {
    let site = Site::open().await;
    let begun = tokio::time::Instant::now();
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;

    let mut last = live.next().await.unwrap();
    while last.event != "bye" {
        last = live.next().await.unwrap();
    }

    assert_eq!(last.data, json!({ "why": "age", "retry": 100 }));
    assert!(live.next().await.is_none());
    assert_eq!(begun.elapsed().as_secs(), 120);
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_until_one_ends() {
    let mount = |admin: axum_taskflow_dashboard::TaskAdmin| {
        Router::new().nest("/tasks", admin.insecure_no_auth().streams_max(2).routes())
    };
    let site = Site::with(mount).await;
    let path = "/tasks/dashboard/stream";
    let one = Live::open(&site, path, &[]).await;
    let _two = Live::open(&site, path, &[]).await;

    let refused = site.get(path).await;
    assert_eq!(refused.header("retry-after"), "10");
    refused.detail(503);
    drop(one);
    Live::open(&site, path, &[]).await;
}

#[tokio::test]
async fn one_session_or_token_has_eight_streams_at_most_and_leaves_the_rest_to_others() {
    let site = Site::closed().await;
    let (ada, again, bob) = (
        site.sign_in("ada").await,
        site.sign_in("ada").await,
        site.sign_in("bob").await,
    );
    let token = format!("Bearer {TOKEN}");
    let path = "/tasks/dashboard/stream";

    for own in [("cookie", &*ada), ("authorization", &*token)] {
        let mut open = Vec::new();
        for _ in 0..8 {
            open.push(Live::open(&site, path, &[own]).await);
        }

        let ninth = site.ask(Method::GET, path, &[own]).await;

        assert_eq!(ninth.header("retry-after"), "10");
        let detail = ninth.detail(503);
        assert!(detail.starts_with("8 of your pages are live"), "{detail}");
        for other in [&again, &bob] {
            Live::open(&site, path, &[("cookie", other)]).await;
        }
        open.pop();
        Live::open(&site, path, &[own]).await;
    }
}

#[tokio::test]
async fn where_nobody_signs_in_only_all_streams_together_have_a_bound() {
    let site = Site::open().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Live::open(&site, "/tasks/dashboard/stream", &[]).await);
    }

    let more = site.get("/tasks/dashboard/stream").await;

    assert!(more.detail(503).starts_with("too many pages are live"));
}

#[tokio::test]
async fn a_stream_with_wrong_parameters_is_refused() {
    let site = Site::open().await;
    for query in [
        "id=x",
        "lo=x",
        "hi=x",
        "n=1000",
        "since=x",
        "status=x",
        "id=01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10&lines=-1",
        "id=&hi=%FF",
    ] {
        let answer = site.get(&format!("/tasks/dashboard/stream?{query}")).await;
        answer.detail(422);
    }
}
