//! Hostile and clumsy requests: each gets a clear answer, nothing is lost by it and nothing made.

use crate::support::{Service, answer};
use axum_taskflow::Timestamp;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::tempdir;

/// The words of an error, from a JSON body that names nothing but them.
async fn refused(request: RequestBuilder, status: u16) -> String {
    let body = answer(request, status).await;
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    let detail = body["detail"].as_str().unwrap().to_owned();
    assert!(detail.len() < 500, "{} bytes of {detail}", detail.len());
    let is_plain = |c: char| !c.is_control();
    assert!(detail.chars().all(is_plain), "{detail:?}");
    detail
}

/// A service with one task that runs.
struct Scene {
    service: Service,
    id: String,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempdir().unwrap();
        let service = Service::start(folder.path()).await;
        let id = service.add("waits", "door").await;
        service.task_as(&id, "running").await;
        Self {
            service,
            id,
            _folder: folder,
        }
    }

    async fn refused(&self, method: Method, path: &str, status: u16) -> String {
        refused(self.service.rest(method, path), status).await
    }

    /// The service goes on as if nothing had happened.
    async fn is_unharmed(&self) {
        let all = self.service.all_seen().await;
        assert_eq!(all.len(), 1, "something was made: {all:?}");
        assert_eq!(all[0]["id"], json!(self.id));
        assert_eq!(all[0]["status"], "running");
        self.service.open("door").await;
        self.service.task_as(&self.id, "success").await;
    }
}

#[tokio::test]
async fn an_unknown_or_malformed_id_is_not_found() {
    let scene = Scene::new().await;

    let long = "f".repeat(5_000);
    for id in [
        "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10", // nobody's
        "00000000-0000-0000-0000-000000000000",
        "1",
        "x",
        "..%2F..%2Fetc%2Fpasswd",
        "%00",
        "%FF%FE",
        "%F0%9F%98%80",
        "'%20OR%201=1--",
        "01993f8a41c27b1e9d0a5a2f1c9e7d1",
        "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10x",
        &long,
    ] {
        for (method, path) in [
            (Method::GET, format!("/{id}")),
            (Method::POST, format!("/{id}/cancel")),
            (Method::POST, format!("/{id}/retry")),
        ] {
            let detail = scene.refused(method, &path, 404).await;
            assert!(detail.contains("no task"), "{path}: {detail}");
        }
    }

    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_parameter_that_means_nothing_is_named_in_the_answer() {
    let scene = Scene::new().await;

    let long = "x".repeat(10 * 1_024);
    for (method, path, status, named) in [
        (Method::GET, "?limit=0".to_owned(), 422, "limit"),
        (Method::GET, "?limit=-1".to_owned(), 422, "limit"),
        (Method::GET, "?limit=ten".to_owned(), 422, "limit"),
        (
            Method::GET,
            "?limit=99999999999999999999".to_owned(),
            422,
            "limit",
        ),
        (Method::GET, "?limit=%FF".to_owned(), 422, "limit"),
        (Method::GET, "?status=done".to_owned(), 422, "status"),
        (Method::GET, "?status=%00".to_owned(), 422, "status"),
        (Method::GET, "?before=yesterday".to_owned(), 422, "before"),
        (
            Method::GET,
            "?before=2026-11-22T09:00:00".to_owned(),
            422,
            "before",
        ),
        (
            Method::GET,
            "?after=2026-13-41T99:00:00Z".to_owned(),
            422,
            "after",
        ),
        (Method::GET, format!("?func_name={long}"), 422, "func_name"),
        (Method::GET, format!("?tag={long}"), 422, "tag"),
        (Method::GET, "/audit?limit=x".to_owned(), 422, "limit"),
        (
            Method::POST,
            "/retry-failed?since=soon".to_owned(),
            400,
            "since",
        ),
        (
            Method::POST,
            "/retry-failed?since=-1h".to_owned(),
            400,
            "since",
        ),
        (Method::DELETE, "/history".to_owned(), 422, "value"),
        (
            Method::DELETE,
            "/history?value=0&unit=day".to_owned(),
            422,
            "value",
        ),
        (
            Method::DELETE,
            "/history?value=-7&unit=day".to_owned(),
            422,
            "value",
        ),
        (Method::DELETE, "/history?value=7".to_owned(), 422, "unit"),
        (
            Method::DELETE,
            "/history?value=7&unit=week".to_owned(),
            400,
            "unit",
        ),
    ] {
        let detail = scene.refused(method, &path, status).await;
        assert!(detail.contains(named), "{path}: {detail}");
    }

    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_body_that_is_not_what_it_should_be_is_refused() {
    let scene = Scene::new().await;
    let post = || scene.service.rest(Method::POST, "/bulk-retry");
    let json = |body: &[u8]| {
        let request = post().header("content-type", "application/json");
        request.body(body.to_vec())
    };

    let (no_json, something_else) = ("is no JSON", "is not what is asked for");
    for (body, says) in [
        (&b""[..], no_json),
        (b"{", no_json),
        (b"[]", something_else),
        (b"null", something_else),
        (b"{}", something_else),
        (b"{\"task_ids\": \"all\"}", something_else),
        (b"{\"task_ids\": [1, 2]}", something_else),
        (b"{\"task_ids\": [\"\xff\xfe\"]}", no_json),
        (b"\xff\xfe\x00", no_json),
    ] {
        let detail = refused(json(body), 422).await;
        assert!(detail.contains(says), "{body:?}: {detail}");
    }
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    refused(json(&deep), 422).await;
    let text = post()
        .header("content-type", "text/plain")
        .body("{\"task_ids\": []}");
    refused(text, 415).await;
    let many = json!({ "task_ids": vec!["x"; 1_001] });
    let detail = refused(post().json(&many), 422).await;
    assert!(detail.contains("1000"), "{detail}");
    let limit = 256 * 1024;
    refused(json(&vec![b' '; limit]), 422).await;
    let detail = refused(json(&vec![b' '; limit + 1]), 413).await;
    assert!(detail.contains("262144"), "{detail}");
    let million = json!({ "task_ids": vec!["01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10"; 1_000_000] });
    // The answer may come before the whole body was sent, and then sending fails.
    if let Ok(response) = post().json(&million).send().await {
        assert_eq!(response.status(), 413);
    }

    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_method_that_is_not_there_is_refused() {
    let scene = Scene::new().await;

    let id = &scene.id;
    for (method, path) in [
        (Method::POST, String::new()),
        (Method::DELETE, format!("/{id}")),
        (Method::GET, format!("/{id}/cancel")),
        (Method::PUT, "/history".to_owned()),
        (Method::PATCH, "/metrics".to_owned()),
    ] {
        scene.refused(method, &path, 405).await;
    }

    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_header_that_is_no_text_opens_no_door() {
    let scene = Scene::new().await;
    let url = format!("{}/tasks", scene.service.caller.url);
    let ask = || scene.service.caller.http.get(&url);

    for value in [
        &b"Basic \xff\xfe"[..],
        b"Basic",
        b"Basic !!!!",
        b"Basic YWRh",     // "ada" without a colon
        b"Basic 4oKs/zr/", // no UTF-8 inside
        b"Bearer ",
        b"Bearer \xff",
        b"Digest x",
        b"",
    ] {
        let value = reqwest::header::HeaderValue::from_bytes(value).unwrap();
        let response = ask().header("authorization", value).send().await.unwrap();
        assert!(
            [401, 429].contains(&response.status().as_u16()),
            "{response:?}"
        );
    }
    let cookie = reqwest::header::HeaderValue::from_bytes(b"tf_session=\xff\xfe").unwrap();
    refused(ask().header("cookie", cookie), 401).await;

    scene.is_unharmed().await;
}

#[tokio::test]
async fn what_cannot_be_added_is_refused_with_the_reason() {
    let scene = Scene::new().await;

    let mib = 1024 * 1024;
    for (args, options, reason) in [
        (json!("x"), json!({ "key": "" }), "must not be empty"),
        (
            json!("x"),
            json!({ "key": "k".repeat(10_000) }),
            "at most 512 bytes",
        ),
        (
            json!("x"),
            json!({ "delay_by_ms": u64::MAX }),
            "after the year 9998",
        ),
        (json!("x"), json!({ "timeout_ms": 0 }), "longer than zero"),
        (json!("x"), json!({ "jitter": 1.5 }), "jitter"),
        (json!("x"), json!({ "jitter": -0.5 }), "jitter"),
        (
            json!("x"),
            json!({ "tags": { "": "x" } }),
            "must not be empty",
        ),
        (
            json!("x"),
            json!({ "tags": { "k": "v".repeat(257) } }),
            "at most 256 bytes",
        ),
        (json!("x".repeat(mib)), json!({}), "the limit is 1048576"),
    ] {
        let response = scene
            .service
            .caller
            .try_add("effect", args, options.clone());
        let response = response.await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        let detail = body["detail"].as_str().unwrap();
        assert_eq!(status, 422, "{detail}");
        assert!(detail.contains(reason), "{detail}");
    }

    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_million_tasks_at_once_are_refused_and_none_is_added() {
    let scene = Scene::new().await;

    let url = format!("{}/add_many", scene.service.caller.url);
    let body = json!({ "function": "idles", "n": 1_000_000 });
    let detail = refused(scene.service.caller.http.post(url).json(&body), 422).await;

    assert!(detail.contains("at most 100000 tasks at once"), "{detail}");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_time_in_any_zone_is_the_same_instant_and_one_in_the_past_means_now() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let at = "2040-06-01T12:00:00Z".parse::<Timestamp>().unwrap();

    for same in [
        "2040-06-01T12:00:00Z",
        "2040-06-01T14:00:00+02:00",
        "2040-06-01T06:30:00-05:30",
        "2040-06-02T02:00:00.000+14:00",
    ] {
        let id = service
            .add_with("effect", "x".into(), json!({ "run_at": same }))
            .await;
        let task = service.seen(&id).await;
        assert_eq!(task["run_at"], at.as_unix_ms(), "{same}");
        assert_eq!(task["status"], "pending");
    }
    for past in [
        "1970-01-01T00:00:00Z",
        "1066-10-14T09:00:00Z",
        "0001-01-01T00:00:00Z",
    ] {
        let id = service
            .add_with("effect", "x".into(), json!({ "run_at": past }))
            .await;
        service.task_as(&id, "success").await;
    }
    let id = service
        .add_with(
            "effect",
            "x".into(),
            json!({ "run_at": "9999-12-30T22:00:00Z" }),
        )
        .await;
    assert_eq!(service.task(&id).await["status"], "pending");
    assert_eq!(
        service.task(&id).await["run_at"],
        "9998-12-31T23:59:59.999+00:00"
    );
}

#[tokio::test]
async fn control_characters_and_foreign_scripts_come_back_as_they_were() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path()).await;
    let odd = "a\u{0}b\u{7}\u{1b}[31m\r\n\u{202e}ع漢\u{1f600}\u{ffff}\"\\</script>";

    let options = json!({ "key": odd, "tags": { odd: odd } });
    let id = service.add_with("fails", odd.into(), options.clone()).await;
    let task = service.task_as(&id, "failed").await;

    assert_eq!(task["error"], format!("refused: {odd}"));
    assert_eq!(task["tags"], json!({ odd: odd }));
    assert_eq!(task["idempotency_key"], odd);
    let seen = service.seen(&id).await;
    let args: Value = serde_json::from_str(seen["args"].as_str().unwrap()).unwrap();
    assert_eq!(args, json!([odd]));
    let request = service.rest(
        Method::GET,
        &format!("?tag={}", escaped(&format!("{odd}={odd}"))),
    );
    let found = answer(request, 200).await;
    assert_eq!(found[0]["task_id"], json!(id));
    let page = service.rest(Method::GET, &format!("/dashboard/t/{id}"));
    let page = page.header("accept", "text/html").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let html = page.text().await.unwrap();
    assert!(!html.contains("</script>\""), "it must not end a script");
    let is_control = |c: char| c.is_control() && c != '\n';
    let control = html.chars().find(|c| is_control(*c));
    assert_eq!(control, None, "no control character on the page");
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
