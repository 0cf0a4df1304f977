//! A real service, asked over real HTTP as its clients would.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::support::{DEADLINE, Service, Settings, answer, effects, http, next_of, until};
use axum_taskflow::{Clock, TaskAdmin, TaskManager, Timestamp};
use reqwest::{Method, StatusCode, header};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::tempdir;

// ---- seen ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_task_is_seen_in_all_its_fields() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let options = json!({
        "key": "order-7", "priority": 5, "tags": { "plan": "pro" }, "run_at": "2026-01-02T03:04:05+01:00",
    });

    let id = service
        .add_with("talks", json!(["hello", "door"]), options)
        .await;
    let running = until("progress", async || {
        let task = service.task(&id).await;
        (!task["progress"].is_null()).then_some(task)
    })
    .await;
    service.open("door").await;
    let done = service.task_as(&id, "success").await;

    assert_eq!(running["status"], "running");
    assert_eq!(running["end_time"], Value::Null);
    assert_eq!(running["duration"], Value::Null);
    assert_eq!(running["result"], Value::Null);
    for (field, value) in [
        ("task_id", json!(id)),
        ("func_name", json!("talks")),
        ("retries_used", json!(0)),
        ("error", Value::Null),
        ("stacktrace", Value::Null),
        ("tags", json!({ "plan": "pro" })),
        ("source", json!("manual")),
        ("priority", json!(5)),
        ("executor", json!("async")),
        ("queue", json!("default")),
        ("run_at", json!("2026-01-02T02:04:05+00:00")),
        ("attempt", json!(1)),
        ("result", json!(42)),
        ("progress", json!({ "fraction": 0.5, "message": "hello" })),
        ("idempotency_key", json!("order-7")),
    ] {
        assert_eq!(done[field], value, "{field}");
    }
    let time = |field: &str| -> Timestamp {
        let text = done[field].as_str().unwrap();
        assert!(text.ends_with("+00:00"), "{field}: {text}");
        text.parse().unwrap()
    };
    let (created, started, ended) = (time("created_at"), time("start_time"), time("end_time"));
    assert!(created <= started && started <= ended, "{done}");
    assert_eq!(done["duration"], json!(ended.since(started).as_secs_f64()));
    assert!(done["instance"].is_string());
    let logs = done["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 1);
    assert!(logs[0].as_str().unwrap().ends_with("Z hello"), "{logs:?}");
    assert_eq!(
        service.rest_get("").await,
        json!([done]),
        "and so in the list"
    );
}

#[tokio::test]
async fn a_failure_is_seen_with_its_sources_and_a_panic_with_its_place() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;

    let retried = json!({ "retries": 1 });
    let fails = service.add_with("fails", "no route".into(), retried).await;
    let panics = service.add("panics", "out of paper").await;

    let task = service.task_as(&fails, "failed").await;
    assert_eq!(task["error"], "refused: no route");
    assert_eq!(task["stacktrace"], "refused: no route\ncaused by: no route");
    assert_eq!(task["retries_used"], 1);
    assert_eq!(task["attempt"], 2);
    let task = service.task_as(&panics, "failed").await;
    assert_eq!(task["error"], "panicked: out of paper");
    let stacktrace = task["stacktrace"].as_str().unwrap();
    assert!(stacktrace.contains("service.rs:"), "{stacktrace}");
}

#[tokio::test]
async fn a_plain_function_runs_on_a_thread_and_says_so() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;

    let id = service.add("effect_blocking", "label").await;

    let task = service.task_as(&id, "success").await;
    assert_eq!(task["executor"], "thread");
    assert_eq!(effects(folder.path())[0].id, id);
}

#[tokio::test]
async fn following_the_link_header_meets_every_task_once_while_more_are_added() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let labels: Vec<String> = (0..57).map(|n| n.to_string()).collect();
    let mut wanted = service.add_many("effect", &labels).await;
    wanted.reverse();

    let mut met = Vec::new();
    let mut n_pages = 0;
    let mut next = Some("/tasks?limit=10".to_owned());
    while let Some(path) = next {
        let url = format!("{}{path}", service.caller.url);
        let request = service.caller.http.get(url);
        let request = request.basic_auth("ada", Some("correct horse"));
        let response = request.send().await.unwrap();
        next = next_of(&response);
        let page: Vec<Value> = response.json().await.unwrap();
        n_pages += 1;
        met.extend(
            page.iter()
                .map(|task| task["task_id"].as_str().unwrap().to_owned()),
        );
        service.add("effect", "newer").await;
    }

    assert_eq!(met, wanted, "newest first, and none of those added since");
    assert_eq!(n_pages, 6);
}

#[tokio::test]
async fn a_list_can_be_narrowed() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let tagged = |value: &str| json!({ "tags": { "plan": value } });
    let first = service.add_with("effect", "a".into(), tagged("pro")).await;
    let second = service.add_with("effect", "b".into(), tagged("free")).await;
    let third = service.add("fails", "no").await;
    let fourth = service
        .add_with("effect", "c".into(), json!({ "delay_by_ms": 3_600_000 }))
        .await;
    for id in [&first, &second] {
        service.task_as(id, "success").await;
    }
    service.task_as(&third, "failed").await;

    for (query, wanted) in [
        ("status=failed".to_owned(), vec![&third]),
        ("status=pending".to_owned(), vec![&fourth]),
        ("status=running".to_owned(), vec![]),
        (
            "func_name=effect".to_owned(),
            vec![&fourth, &second, &first],
        ),
        (
            "func_name=effect&status=success".to_owned(),
            vec![&second, &first],
        ),
        ("func_name=eff".to_owned(), vec![]),
        ("tag=plan".to_owned(), vec![&second, &first]),
        ("tag=plan%3Dpro".to_owned(), vec![&first]),
        (format!("before={third}"), vec![&second, &first]),
        (format!("after={second}"), vec![&fourth, &third]),
        (
            format!("after={first}&before={fourth}"),
            vec![&third, &second],
        ),
        ("limit=1".to_owned(), vec![&fourth]),
        ("before=2020-01-01T00:00:00Z".to_owned(), vec![]),
        (
            "after=2020-01-01T00:00:00%2B02:00&limit=2".to_owned(),
            vec![&fourth, &third],
        ),
    ] {
        let list = service.rest_get(&format!("?{query}")).await;

        let ids: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["task_id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, wanted, "{query}");
    }
}

#[tokio::test]
async fn metrics_count_what_is_stored() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let done = service.add("effect", "a").await;
    let also_done = service.add("effect_blocking", "b").await;
    let failed = service.add("fails", "no").await;
    let later = service
        .add_with("effect", "c".into(), json!({ "delay_by_ms": 3_600_000 }))
        .await;
    let running = service.add("waits", "door").await;
    service.task_as(&done, "success").await;
    service.task_as(&also_done, "success").await;
    service.task_as(&failed, "failed").await;
    service.task_as(&running, "running").await;
    service.rest_post(&format!("/{later}/cancel"), 200).await;

    let metrics = service.rest_get("/metrics").await;

    for (field, n) in [
        ("total", 5),
        ("success", 2),
        ("failed", 1),
        ("running", 1),
        ("pending", 0),
        ("interrupted", 0),
        ("cancelled", 1),
    ] {
        assert_eq!(metrics[field], n, "{field} in {metrics}");
    }
    assert_eq!(metrics["success_rate"], 0.4);
    assert!(metrics["avg_duration_seconds"].as_f64().unwrap() >= 0.0);
}

// ---- acted on ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_retry_is_a_new_task_and_the_audit_log_says_who_asked() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let tagged = json!({ "tags": { "plan": "pro" }, "priority": 3 });
    let id = service.add_with("fails", "no".into(), tagged).await;
    service.task_as(&id, "failed").await;

    let answer = service.rest_post(&format!("/{id}/retry"), 200).await;

    let new_id = answer["task_id"].as_str().unwrap();
    assert_ne!(new_id, id);
    assert_eq!(answer["task"]["task_id"], new_id);
    let task = service.task_as(new_id, "failed").await;
    assert_eq!(task["source"], "retry");
    assert_eq!(task["priority"], 3);
    assert_eq!(task["tags"], json!({ "plan": "pro" }));
    assert_eq!(task["error"], "refused: no", "with the same arguments");
    assert_eq!(service.task(&id).await["status"], "failed");
    let audit = service.rest_get("/audit").await;
    assert_eq!(audit.as_array().unwrap().len(), 1);
    assert_eq!(audit[0]["action"], "retry");
    assert_eq!(audit[0]["actor"], "ada");
    assert_eq!(audit[0]["task_id"], json!(id));
    assert_eq!(audit[0]["detail"], json!({ "new_task_id": new_id }));
}

#[tokio::test]
async fn only_what_ended_without_success_can_be_retried_and_only_what_lives_cancelled() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let done = service.add("effect", "a").await;
    service.task_as(&done, "success").await;
    let running = service.add("waits", "door").await;
    service.task_as(&running, "running").await;

    let answer = service.rest_post(&format!("/{done}/retry"), 400).await;
    assert!(
        answer["detail"].as_str().unwrap().contains("is success"),
        "{answer}"
    );
    let answer = service.rest_post(&format!("/{running}/retry"), 400).await;
    assert!(
        answer["detail"].as_str().unwrap().contains("is running"),
        "{answer}"
    );
    let answer = service.rest_post(&format!("/{done}/cancel"), 400).await;
    assert!(
        answer["detail"].as_str().unwrap().contains("is success"),
        "{answer}"
    );
    assert_eq!(service.all_seen().await.len(), 2, "nothing was added");
}

#[tokio::test]
async fn a_cancelled_task_stops_or_never_begins() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let running = service.add("waits", "door").await;
    let blocking = service.add("blocks", "door").await;
    let later = service
        .add_with("effect", "later".into(), json!({ "delay_by_ms": 2_000 }))
        .await;

    let answer = service.rest_post(&format!("/{later}/cancel"), 200).await;
    assert_eq!(answer["task"]["status"], "cancelled");
    service.effect(&running, "began").await;
    service.effect(&blocking, "began").await;
    service.rest_post(&format!("/{running}/cancel"), 200).await;
    service.rest_post(&format!("/{blocking}/cancel"), 200).await;

    service.task_as(&running, "cancelled").await;
    service.effect(&blocking, "stopped").await;
    service.task_as(&blocking, "cancelled").await;
    // One that was due after the cancelled one has run, so that one would have.
    let other = service
        .add_with("effect", "other".into(), json!({ "delay_by_ms": 2_000 }))
        .await;
    service.task_as(&other, "success").await;
    assert!(
        !effects(folder.path())
            .iter()
            .any(|line| line.id == later || line.what == "ended")
    );
}

#[tokio::test]
async fn many_are_retried_by_id_and_what_cannot_be_is_skipped() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let failed = service.add("fails", "no").await;
    let cancelled = service
        .add_with("effect", "a".into(), json!({ "delay_by_ms": 3_600_000 }))
        .await;
    let done = service.add("effect", "b").await;
    service.task_as(&failed, "failed").await;
    service.task_as(&done, "success").await;
    service
        .rest_post(&format!("/{cancelled}/cancel"), 200)
        .await;

    let unknown = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";
    let body = json!({ "task_ids": [failed, done, cancelled, unknown, "nonsense", failed] });
    let request = service.rest(Method::POST, "/bulk-retry").json(&body);
    let retried = answer(request, 200).await;

    assert_eq!(retried["dispatched"], 2);
    assert_eq!(retried["skipped"], 4);
    let results = retried["results"].as_array().unwrap();
    let originals: Vec<&Value> = results.iter().map(|r| &r["original_task_id"]).collect();
    assert_eq!(originals, [&json!(failed), &json!(cancelled)]);
    for result in results {
        let new_id = result["new_task_id"].as_str().unwrap();
        assert_eq!(service.task(new_id).await["source"], "retry");
    }
}

#[tokio::test]
async fn what_failed_is_retried_by_function_and_time() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let mut failed = BTreeSet::new();
    for n in 0..5 {
        failed.insert(service.add("fails", format!("{n}")).await);
    }
    let panicked = service.add("panics", "no").await;
    for id in failed.iter().chain([&panicked]) {
        service.task_as(id, "failed").await;
    }

    let retried = service
        .rest_post("/retry-failed?since=6h&func_name=fails", 200)
        .await;

    assert_eq!(retried["dispatched"], 5);
    assert_eq!(retried["skipped"], 0);
    let results = retried["results"].as_array().unwrap();
    let originals: BTreeSet<String> = results
        .iter()
        .map(|r| r["original_task_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(originals, failed);
}

#[tokio::test]
async fn old_history_is_deleted_and_what_lives_is_kept() {
    async fn returns(fail: bool) -> Result<(), String> {
        if fail { Err("no".to_owned()) } else { Ok(()) }
    }
    let folder = tempdir().unwrap();
    let clock = Clock::manual("2026-11-22T09:00:00Z".parse().unwrap());
    let manager = TaskManager::builder()
        .sqlite(folder.path().join("tasks.db"))
        .collect(false)
        .clock(clock.clone())
        .build()
        .await
        .unwrap();
    let admin =
        TaskAdmin::new(&manager).token("ci", "0123456789abcdef", axum_taskflow::Rights::Operate);
    let app = axum::Router::<()>::new().nest("/tasks", admin.routes());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/tasks", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let old = [
        manager.add_task(returns, false).await.unwrap(),
        manager.add_task(returns, true).await.unwrap(),
    ];
    manager.wait::<()>(old[0]).await.unwrap();
    manager.wait::<()>(old[1]).await.unwrap_err();
    let waiting = manager
        .add_task(returns, false)
        .delay_by(Duration::from_secs(86_400))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(3 * 3_600));
    let new = manager.add_task(returns, false).await.unwrap();
    manager.wait::<()>(new).await.unwrap();

    let request = http()
        .build()
        .unwrap()
        .delete(format!("{url}/history?value=2&unit=hour"));
    let deleted = answer(request.bearer_auth("0123456789abcdef"), 200).await;

    assert_eq!(deleted["deleted"], 2);
    let list = answer(
        http()
            .build()
            .unwrap()
            .get(&url)
            .bearer_auth("0123456789abcdef"),
        200,
    )
    .await;
    let left: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|task| &task["task_id"])
        .collect();
    assert_eq!(left, [&json!(new), &json!(waiting)]);
    let audit = answer(
        http()
            .build()
            .unwrap()
            .get(format!("{url}/audit"))
            .bearer_auth("0123456789abcdef"),
        200,
    )
    .await;
    assert_eq!(audit[0]["actor"], "ci");
    assert_eq!(audit[0]["action"], "delete_history");
    server.abort();
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn of_many_clients_with_one_key_all_get_the_same_task() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;

    let clients: Vec<_> = (0..30)
        .map(|n| {
            let caller = service.caller.clone();
            tokio::spawn(async move {
                let response =
                    caller.try_add("effect", format!("{n}").into(), json!({ "key": "one" }));
                let body: Value = response.await.unwrap().json().await.unwrap();
                body["id"].as_str().unwrap().to_owned()
            })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for client in clients {
        ids.insert(client.await.unwrap());
    }

    assert_eq!(ids.len(), 1);
    let id = ids.first().unwrap();
    service.task_as(id, "success").await;
    assert_eq!(effects(folder.path()).len(), 1);
}

// ---- the door ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_is_told_and_nothing_done_without_a_sign_in() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let id = service.add("waits", "secret-argument").await;
    service.task_as(&id, "running").await;
    let anonymous = http()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();

    for (method, path) in [
        (Method::GET, String::new()),
        (Method::GET, "/metrics".to_owned()),
        (Method::GET, "/audit".to_owned()),
        (Method::GET, format!("/{id}")),
        (Method::POST, format!("/{id}/retry")),
        (Method::POST, format!("/{id}/cancel")),
        (Method::POST, "/bulk-retry".to_owned()),
        (Method::POST, "/retry-failed".to_owned()),
        (Method::DELETE, "/history?value=1&unit=min".to_owned()),
        (Method::GET, "/dashboard".to_owned()),
        (Method::GET, "/dashboard/stream".to_owned()),
        (Method::GET, format!("/dashboard/stream?id={id}")),
        (Method::GET, format!("/dashboard/t/{id}")),
        (Method::POST, format!("/dashboard/t/{id}/cancel")),
        (Method::POST, format!("/dashboard/t/{id}/retry")),
    ] {
        let url = format!("{}/tasks{path}", service.caller.url);
        let basic = |user: &'static str, password: &'static str| {
            let request = anonymous.request(method.clone(), &url);
            request.basic_auth(user, Some(password))
        };
        for (who, request) in [
            ("nobody", anonymous.request(method.clone(), &url)),
            ("a wrong user", basic("eve", "correct horse")),
            (
                "a wrong token",
                anonymous
                    .request(method.clone(), &url)
                    .bearer_auth("0123456789abcdee"),
            ),
            (
                "a made-up session",
                anonymous
                    .request(method.clone(), &url)
                    .header("cookie", "tf_session=YWRh.1.2"),
            ),
            (
                "a browser",
                anonymous
                    .request(method.clone(), &url)
                    .header("accept", "text/html"),
            ),
        ] {
            let response = request.send().await.unwrap();
            let status = response.status();
            let body = response.text().await.unwrap();
            let wanted = [
                StatusCode::UNAUTHORIZED,
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::SEE_OTHER,
            ];
            assert!(
                wanted.contains(&status),
                "{method} {path} by {who}: {status} {body}"
            );
            assert!(
                !body.contains("secret-argument") && !body.contains(&id),
                "{method} {path}: {body}"
            );
        }
    }
    assert_eq!(
        service.seen(&id).await["status"],
        "running",
        "nobody cancelled it"
    );
}

#[tokio::test]
async fn who_may_look_may_not_change() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let id = service.add("waits", "door").await;
    let http = &service.caller.http;
    let url = format!("{}/tasks", service.caller.url);
    let bob = |request: reqwest::RequestBuilder| request.basic_auth("bob", Some("battery staple"));

    answer(bob(http.get(&url)), 200).await;
    answer(bob(http.get(format!("{url}/{id}"))), 200).await;
    for request in [
        http.post(format!("{url}/{id}/cancel")),
        http.post(format!("{url}/{id}/retry")),
        http.post(format!("{url}/retry-failed")),
        http.post(format!("{url}/bulk-retry"))
            .json(&json!({ "task_ids": [] })),
        http.delete(format!("{url}/history?value=1&unit=min")),
    ] {
        let refused = answer(bob(request), 403).await;
        assert!(
            refused["detail"].as_str().unwrap().contains("bob"),
            "{refused}"
        );
    }
    answer(
        http.post(format!("{url}/{id}/cancel"))
            .bearer_auth("0123456789abcdef"),
        200,
    )
    .await;
}

#[tokio::test]
async fn a_session_needs_proof_that_its_own_page_asks() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let browser = http().cookie_store(true).build().unwrap();
    let url = format!("{}/tasks", service.caller.url);
    let login = json!({ "username": "ada", "password": "correct horse" });

    let wrong = json!({ "username": "ada", "password": "incorrect horse" });
    answer(browser.post(format!("{url}/auth/login")).json(&wrong), 401).await;
    answer(browser.get(&url), 401).await;
    let response = browser
        .post(format!("{url}/auth/login"))
        .json(&login)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let cookie = response.headers()[header::SET_COOKIE]
        .to_str()
        .unwrap()
        .to_owned();
    for flag in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    answer(browser.get(&url), 200).await;

    let id = service.add("waits", "door").await;
    let cancel = || browser.post(format!("{url}/{id}/cancel"));
    for (header, value) in [
        ("x-nothing", "at all"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        answer(cancel().header(header, value), 403).await;
    }
    assert_eq!(
        service.seen_as(&id, &["running"]).await["status"],
        "running"
    );
    answer(cancel().header("origin", &service.caller.url), 200).await;
    service.task_as(&id, "cancelled").await;
    answer(
        browser
            .post(format!("{url}/{id}/retry"))
            .header("sec-fetch-site", "same-origin"),
        200,
    )
    .await;

    let logout = browser.post(format!("{url}/auth/logout"));
    answer(logout.header("sec-fetch-site", "same-origin"), 200).await;
    let stolen = cookie.split(';').next().unwrap();
    let again = http().build().unwrap().get(&url).header("cookie", stolen);
    answer(again, 401).await;
}

// ---- the end -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn sigterm_lets_running_tasks_end_and_the_process_with_them() {
    shuts_down_gracefully(Signal::TERM).await;
}

#[tokio::test]
async fn ctrl_c_lets_running_tasks_end_and_the_process_with_them() {
    shuts_down_gracefully(Signal::INT).await;
}

async fn shuts_down_gracefully(signal: Signal) {
    let folder = tempdir().unwrap();
    let service = Settings::default()
        .concurrency(1)
        .start(folder.path())
        .await;
    let running = service.add("waits", "door").await;
    let blocking = service.add("blocks", "door").await;
    service.effect(&running, "began").await;
    service.effect(&blocking, "began").await;
    let waiting = service.add("effect", "waiting").await;
    // Two viewers, connected all the time.
    let mut stream = service
        .rest(Method::GET, "/dashboard/stream")
        .send()
        .await
        .unwrap();
    let path = format!("/dashboard/stream?id={running}");
    let mut other = service.rest(Method::GET, &path).send().await.unwrap();
    let hello = stream.chunk().await.unwrap().unwrap();
    assert!(hello.starts_with(b"retry: "), "{hello:?}");

    service.signal(signal);
    let bye = read_to_end(&mut stream).await;
    assert!(bye.contains("event: bye"), "{bye}");
    // It goes on answering while tasks run; what it accepts now waits for the next start.
    let late = service.add("effect", "late").await;
    service.open("door").await;
    let status = service.ended().await;

    assert!(status.success(), "{status}");
    assert!(read_to_end(&mut other).await.contains("event: bye"));
    let lines = effects(folder.path());
    let ended: Vec<_> = lines.iter().filter(|line| line.what == "ended").collect();
    assert_eq!(ended.len(), 2, "what ran came to its end: {lines:?}");
    assert_eq!(lines.len(), 4, "nothing else began: {lines:?}");
    let service = Service::start(folder.path()).await;
    for id in [&running, &blocking, &waiting, &late] {
        service.task_as(id, "success").await;
    }
    assert_eq!(effects(folder.path()).len(), 6, "each ran once");
}

async fn read_to_end(stream: &mut reqwest::Response) -> String {
    let mut all = Vec::new();
    let reading = async {
        while let Some(chunk) = stream.chunk().await.unwrap() {
            all.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .expect("the stream ends");
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn what_does_not_end_in_time_is_interrupted_or_runs_again() {
    let folder = tempdir().unwrap();
    let settings = Settings::default().shutdown_timeout(Duration::from_millis(200));
    let service = settings.start(folder.path()).await;
    let stuck = service.add("waits", "door").await;
    let again = service
        .add_with("waits", "door".into(), json!({ "requeue": true }))
        .await;
    let told = service.add("blocks", "door").await;
    for id in [&stuck, &again, &told] {
        service.effect(id, "began").await;
    }
    let mut stream = service
        .rest(Method::GET, "/dashboard/stream")
        .send()
        .await
        .unwrap();

    service.signal(Signal::TERM);
    let status = service.ended().await;

    assert!(status.success(), "{status}");
    read_to_end(&mut stream).await;
    let service = Service::start(folder.path()).await;
    for id in [&stuck, &told] {
        let task = service.task(id).await;
        assert_eq!(task["status"], "interrupted", "{task}");
        assert_eq!(task["error"], "interrupted by shutdown");
    }
    service.open("door").await;
    service.task_as(&again, "success").await;
}

// ---- history -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_has_finished_takes_no_memory() {
    const STEP: u32 = 20_000;
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let idle = async |n: u32| {
        let url = format!("{}/add_many", service.caller.url);
        // In parts that a slow disk stores in time.
        let body = json!({ "function": "idles", "n": n / 20 });
        for _ in 0..20 {
            answer(service.caller.http.post(&url).json(&body), 200).await;
        }
        until("everything has run", async || {
            let metrics = service.rest_get("/metrics").await;
            (metrics["success"] == metrics["total"]).then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        idle(STEP).await; // until caches and pools are full
    }
    let before = memory(&service);

    idle(STEP).await;

    let grown = memory(&service).saturating_sub(before);
    let n_more = u64::from(STEP);
    assert!(
        grown < n_more * 150,
        "{} bytes for each finished task",
        grown / n_more
    );
    let metrics = service.rest_get("/metrics").await;
    assert_eq!(metrics["success"], 4 * STEP);
}

/// Bytes of the process that are in memory.
fn memory(service: &Service) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kb: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kb * 1024
}
