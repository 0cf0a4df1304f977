//! Spans of OpenTelemetry: those of tasks point to where the tasks were added.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    http::Request,
    routing::post,
};
use axum_taskflow::{
    Data, Error, Failure, Role, TaskError, TaskId, TaskManager, Tasks, Tracking, TrackingLayer,
    task,
};
use opentelemetry::trace::{SpanContext, SpanId, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tempfile::tempdir;
use tower::ServiceExt;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// The manager, for functions that add tasks.
type Own = Data<Arc<OnceLock<TaskManager>>>;

#[task]
async fn parent(Data(own): Own) -> Result<TaskId, Error> {
    while own.get().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await; // it may run before the builder has answered
    }
    own.get().unwrap().add_task(child, ()).await
}

#[task]
fn child() {}

#[task]
async fn fails() -> Result<(), Failure> {
    Err(Failure::give_up("no way"))
}

async fn signup(tasks: Tasks) -> Result<Json<TaskId>, TaskError> {
    let request = tracing::info_span!("request");
    let adding = async move { tasks.add_task(parent, ()).await };
    Ok(Json(adding.instrument(request).await?))
}

/// Where all spans of this program go.
fn spans() -> &'static InMemorySpanExporter {
    static EXPORTER: OnceLock<(InMemorySpanExporter, SdkTracerProvider)> = OnceLock::new();
    let (exporter, _) = EXPORTER.get_or_init(|| {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::set_global_default(subscriber).unwrap();
        (exporter, provider)
    });
    exporter
}

/// The span of the task's attempt, once it is over.
async fn span_of(id: TaskId) -> SpanData {
    let id = id.to_string();
    let looking = async {
        loop {
            let spans = spans().get_finished_spans().unwrap();
            let of_task = spans.into_iter().find(|span| {
                let mut attributes = span.attributes.iter();
                span.name == "task"
                    && attributes.any(|it| it.key.as_str() == "task" && it.value.as_str() == id)
            });
            if let Some(span) = of_task {
                return span;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let deadline = std::time::Duration::from_secs(20);
    tokio::time::timeout(deadline, looking).await.unwrap()
}

fn is_linked_to(span: &SpanData, other: &SpanContext) -> bool {
    let [link] = &span.links.links[..] else {
        return false;
    };
    (link.span_context.trace_id(), link.span_context.span_id())
        == (other.trace_id(), other.span_id())
}

async fn start(path: &std::path::Path, role: Role) -> TaskManager {
    let own = Arc::new(OnceLock::new());
    let builder = TaskManager::builder().sqlite(path).state(own.clone());
    let manager = builder.role(role).build().await.unwrap();
    own.set(manager.clone()).unwrap();
    manager
}

#[tokio::test]
async fn over_a_restart_the_span_of_a_task_is_linked_to_that_of_its_request() {
    spans();
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let web = start(&path, Role::Web).await;
    let app = Router::new()
        .route("/", post(signup))
        .layer(TrackingLayer::new())
        .with_state(web.clone());
    let request = Request::post("/").header("x-request-id", "r-1");

    let answer = app.oneshot(request.body(Body::empty()).unwrap()).await;
    let id = to_bytes(answer.unwrap().into_body(), 99).await.unwrap();
    let first: TaskId = serde_json::from_slice(&id).unwrap();
    web.shutdown().await.unwrap();
    let worker = start(&path, Role::Worker).await;
    let second: TaskId = worker.wait(first).await.unwrap();
    worker.wait::<()>(second).await.unwrap();

    let (of_first, of_second) = (span_of(first).await, span_of(second).await);
    let all = spans().get_finished_spans().unwrap();
    let request = all.iter().find(|span| span.name == "request").unwrap();
    assert!(is_linked_to(&of_first, &request.span_context));
    assert!(is_linked_to(&of_second, &of_first.span_context));
    for span in [&of_first, &of_second] {
        assert_eq!(span.parent_span_id, SpanId::INVALID, "a link, and no child");
        assert_ne!(
            span.span_context.trace_id(),
            request.span_context.trace_id()
        );
        let is_tracked = |it: &opentelemetry::KeyValue| {
            it.key.as_str() == "tracking_id" && it.value.as_str() == "r-1"
        };
        assert!(span.attributes.iter().any(is_tracked), "{span:?}");
        assert_eq!(span.status, Status::Unset);
    }
    worker.shutdown().await.unwrap();
}

#[tokio::test]
async fn where_no_span_is_recorded_the_header_of_the_request_counts() {
    spans();
    let own = Arc::new(OnceLock::<TaskManager>::new());
    let manager = TaskManager::builder().state(own).build().await.unwrap();
    let header = format!("00-{TRACE}-{SPAN}-01");
    let tracking = Tracking::of_trace(&header, "a=1").unwrap();

    let id = tracking.sync_scope(|| manager.add_task(child, ()));
    let id = id.await.unwrap();

    let span = span_of(id).await;
    let link = &span.links.links[0].span_context;
    assert_eq!(link.trace_id().to_string(), TRACE);
    assert_eq!(link.span_id().to_string(), SPAN);
    assert_eq!(link.trace_state().header(), "a=1");
    assert!(link.is_remote() && link.is_sampled());
}

#[tokio::test]
async fn the_span_of_an_attempt_that_fails_says_why() {
    spans();
    let own = Arc::new(OnceLock::<TaskManager>::new());
    let manager = TaskManager::builder().state(own).build().await.unwrap();

    let id = manager.add_task(fails, ()).await.unwrap();

    let span = span_of(id).await;
    assert_eq!(span.status, Status::error("no way"));
    assert!(span.links.links.is_empty(), "it was added nowhere");
}
