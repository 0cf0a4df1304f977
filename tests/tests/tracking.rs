//! A request and everything that came of it, found by one id over real HTTP.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    http::HeaderMap,
    middleware::map_request,
    routing::{get, post},
};
use axum_taskflow::{
    Builder, Data, Error, Role, TaskAdmin, TaskError, TaskId, TaskManager, Tasks, Tracking,
    TrackingLayer, task,
};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use servers::RedisServer;
use tempfile::tempdir;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The manager, for functions that add tasks.
type Own = Data<Arc<OnceLock<TaskManager>>>;

#[task]
async fn welcome(Data(own): Own) -> Result<TaskId, Error> {
    while own.get().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await; // it may run before the builder has answered
    }
    own.get().unwrap().add_task(send_email, ()).await
}

#[task]
async fn send_email() {}

async fn signup(tasks: Tasks) -> Result<Json<TaskId>, TaskError> {
    Ok(Json(tasks.add_task(welcome, ()).await?))
}

/// A service on a port of its own.
struct Service {
    manager: TaskManager,
    url: String,
}

impl Service {
    async fn start(builder: Builder) -> Self {
        let own = Arc::new(OnceLock::new());
        let manager = builder.state(own.clone()).build().await.unwrap();
        own.set(manager.clone()).unwrap();
        let app = Router::new()
            .route("/signup", post(signup))
            .nest(
                "/tasks",
                TaskAdmin::new(&manager).insecure_no_auth().routes(),
            )
            .layer(TrackingLayer::new())
            .with_state(manager.clone());
        let url = serve(app).await;
        Self { manager, url }
    }

    async fn signup(&self, headers: &[(&'static str, &str)]) -> Response {
        ask(http().post(format!("{}/signup", self.url)), headers).await
    }

    /// The tasks of a request, newest first.
    async fn tasks_of(&self, tracking_id: &str) -> Vec<Value> {
        let url = format!("{}/tasks?tracking_id={tracking_id}", self.url);
        ask(http().get(url), &[]).await.json().await.unwrap()
    }
}

/// A client of our own.
fn http() -> Client {
    // Cargo unites the features of all crates: by the demo's, reqwest looks for a TLS library here, too. An error
    // means that another test has given it one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn ask(mut request: reqwest::RequestBuilder, headers: &[(&'static str, &str)]) -> Response {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.timeout(Duration::from_secs(20));
    request.send().await.unwrap().error_for_status().unwrap()
}

fn id_of(response: &Response) -> String {
    let id = response.headers()["x-request-id"].to_str();
    id.unwrap().to_owned()
}

fn on_file(path: &Path, role: Role) -> Builder {
    TaskManager::builder().sqlite(path).role(role)
}

#[tokio::test]
async fn a_request_is_followed_through_its_tasks_over_a_restart() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let web = Service::start(on_file(&path, Role::Web)).await;

    let response = web
        .signup(&[("x-request-id", "r-1"), ("traceparent", PARENT)])
        .await;
    assert_eq!(id_of(&response), "r-1");
    let first: TaskId = response.json().await.unwrap();
    web.signup(&[]).await;
    web.manager.shutdown().await.unwrap();
    let worker = Service::start(on_file(&path, Role::Worker)).await;
    let second: TaskId = worker.manager.wait(first).await.unwrap();
    worker.manager.wait::<()>(second).await.unwrap();

    let tasks = worker.tasks_of("r-1").await;
    let ids: Vec<&Value> = tasks.iter().map(|task| &task["task_id"]).collect();
    assert_eq!(ids, [&json!(second), &json!(first)]);
    assert!(tasks.iter().all(|task| task["tracking_id"] == "r-1"));
    for id in [first, second] {
        let task = worker.manager.get(id).await.unwrap().unwrap();
        // With a recorded span it would be that span's. Nothing is recorded here, so the request's stands.
        assert_eq!(task.trace_context.as_deref(), Some(PARENT));
    }
    worker.manager.shutdown().await.unwrap();
}

/// A process that adds and one that runs, which share nothing but a server: as on two hosts.
#[tokio::test]
async fn a_request_is_followed_through_its_tasks_over_hosts() {
    let redis = RedisServer::start();
    let on = |role| TaskManager::builder().redis(redis.url()).role(role);
    let web = Service::start(on(Role::Web)).await;
    let worker = Service::start(on(Role::Worker)).await;

    let response = web
        .signup(&[("x-request-id", "r-1"), ("traceparent", PARENT)])
        .await;
    let other = web.signup(&[("x-request-id", "r-2")]).await;
    let first: TaskId = response.json().await.unwrap();
    let second: TaskId = web.manager.wait(first).await.unwrap();
    web.manager.wait::<()>(second).await.unwrap();
    let others: TaskId = other.json().await.unwrap();
    let others = [web.manager.wait(others).await.unwrap(), others];

    for service in [&web, &worker] {
        let tasks = service.tasks_of("r-1").await;
        let ids: Vec<&Value> = tasks.iter().map(|task| &task["task_id"]).collect();
        assert_eq!(ids, [&json!(second), &json!(first)]);
        let tasks = service.tasks_of("r-2").await;
        let ids: Vec<&Value> = tasks.iter().map(|task| &task["task_id"]).collect();
        assert_eq!(ids, [&json!(others[0]), &json!(others[1])]);
    }
    for id in [first, second] {
        let task = web.manager.get(id).await.unwrap().unwrap();
        assert_eq!(task.trace_context.as_deref(), Some(PARENT));
        assert_eq!(task.life.instance, Some(worker.manager.instance().id));
    }
    worker.manager.shutdown().await.unwrap();
    web.manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn each_store_finds_the_tasks_of_a_request() {
    let folder = tempdir().unwrap();
    let redis = RedisServer::start();
    for builder in [
        TaskManager::builder(),
        TaskManager::builder().sqlite(folder.path().join("tasks.db")),
        TaskManager::builder().redis(redis.url()),
    ] {
        let service = Service::start(builder).await;
        let store = service.manager.describe();

        let trace = service.signup(&[("traceparent", PARENT)]).await;
        let made = service.signup(&[("x-request-id", "not one")]).await;
        let (trace_id, made_id) = (id_of(&trace), id_of(&made));
        for response in [trace, made] {
            let first: TaskId = response.json().await.unwrap();
            let second: TaskId = service.manager.wait(first).await.unwrap();
            service.manager.wait::<()>(second).await.unwrap();
        }

        assert_eq!(trace_id, "0af7651916cd43dd8448eb211c80319c", "{store}");
        assert_ne!(made_id, "not one", "{store}");
        for id in [trace_id, made_id] {
            let tasks = service.tasks_of(&id).await;
            let names: Vec<&Value> = tasks.iter().map(|task| &task["func_name"]).collect();
            assert_eq!(names, ["send_email", "welcome"], "{store}");
        }
        assert!(service.tasks_of("r").await.is_empty(), "{store}");
        service.manager.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn what_the_service_says_itself_counts_before_headers() {
    async fn who(Extension(tracking): Extension<Tracking>) -> String {
        tracking.id().unwrap().to_string()
    }
    let app = Router::new()
        .route("/", get(who))
        .route(
            "/own",
            get(async || {
                let mut headers = HeaderMap::new();
                headers.insert("x-request-id", "of the handler".parse().unwrap());
                headers
            }),
        )
        // Twice, as when a part of a service has one of its own.
        .layer(TrackingLayer::new())
        .layer(TrackingLayer::new());
    let named = map_request(async |mut request: axum::extract::Request| {
        let tracking = Tracking::new("of-the-service").unwrap();
        request.extensions_mut().insert(tracking);
        request
    });
    let (url, url_named) = (serve(app.clone()).await, serve(app.layer(named)).await);
    let headers = [("x-request-id", "r-1")];
    let ask = async |url: String| ask(http().get(url), &headers).await;

    let plain = ask(url.clone()).await;
    let named = ask(url_named).await;
    let own = ask(format!("{url}/own")).await;

    assert_eq!(
        (&*id_of(&plain), &*plain.text().await.unwrap()),
        ("r-1", "r-1")
    );
    assert_eq!(id_of(&named), "of-the-service");
    assert_eq!(named.text().await.unwrap(), "of-the-service");
    assert_eq!(id_of(&own), "of the handler");
}
