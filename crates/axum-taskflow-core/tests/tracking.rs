//! What goes from a request to its tasks, and from a task to those that it adds.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use axum_taskflow_core::{
    Data, Error, ErrorKind, ListQuery, Task, TaskContext, TaskId, TaskManager, TaskStatus,
    Tracking, WaitError,
};
use support::{config, start};
use tokio::sync::watch;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The manager, for functions that add tasks.
type Own = Data<watch::Receiver<Option<TaskManager>>>;

async fn started() -> TaskManager {
    let (sender, receiver) = watch::channel(None);
    let mut config = config();
    config.state(receiver);
    let manager = start(config).await;
    sender.send_replace(Some(manager.clone()));
    manager
}

fn tracking() -> Tracking {
    Tracking::of_trace(PARENT, "")
        .unwrap()
        .with_id("r-1")
        .unwrap()
}

async fn get(manager: &TaskManager, id: TaskId) -> Task {
    manager.get(id).await.unwrap().unwrap()
}

fn is_tracked(task: &Task) -> bool {
    task.tracking_id.as_deref() == Some("r-1") && task.trace_context.as_deref() == Some(PARENT)
}

async fn grandchild() {}

async fn child(Data(own): Own) -> Result<TaskId, Error> {
    let manager = own.borrow().clone().unwrap();
    manager.add_task(grandchild, ()).await
}

fn plain_parent(ctx: TaskContext, Data(own): Own) -> Result<TaskId, String> {
    assert_eq!(ctx.tracking_id(), Some("r-1"));
    let manager = own.borrow().clone().unwrap();
    let adding = manager.add_task(child, ());
    tokio::runtime::Handle::current()
        .block_on(adding.into_future())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn tasks_inherit_over_two_generations_also_from_a_plain_function() {
    let manager = started().await;

    let adding = tracking().scope(async { manager.add_task(plain_parent, ()).await });
    let first = adding.await.unwrap();
    let second: TaskId = manager.wait(first).await.unwrap();
    let third: TaskId = manager.wait(second).await.unwrap();

    for id in [first, second, third] {
        assert!(is_tracked(&get(&manager, id).await), "{id}");
    }
    let mut query = ListQuery::default();
    query.tracking_id = Some("r-1".to_owned());
    let found = manager.list(query).await.unwrap().tasks;
    let found: Vec<TaskId> = found.iter().map(|task| task.id).collect();
    assert_eq!(found, [third, second, first]);
}

#[tokio::test]
async fn the_call_counts_and_not_the_place_where_it_is_awaited() {
    let manager = started().await;

    let inside = tracking().sync_scope(|| manager.add_task(grandchild, ()));
    let inside = inside.await.unwrap();
    let outside = manager.add_task(grandchild, ());
    let outside = tracking().scope(outside.into_future()).await.unwrap();
    let many = tracking().sync_scope(|| manager.add_tasks(grandchild, [(), ()]));
    let many = many.await.unwrap();

    assert!(is_tracked(&get(&manager, inside).await));
    let outside = get(&manager, outside).await;
    assert_eq!((outside.tracking_id, outside.trace_context), (None, None));
    for id in many {
        assert!(is_tracked(&get(&manager, id).await));
    }
}

#[tokio::test]
async fn a_call_can_name_its_own_and_a_wrong_one_is_refused() {
    let manager = started().await;

    let adding = tracking().sync_scope(|| manager.add_task(grandchild, ()).tracking_id("mine"));
    let task = get(&manager, adding.await.unwrap()).await;
    let refused = manager.add_task(grandchild, ()).tracking_id("a b").await;

    assert_eq!(task.tracking_id.as_deref(), Some("mine"));
    assert_eq!(task.trace_context.as_deref(), Some(PARENT));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_task_keeps_it_through_retries_by_itself_and_by_hand() {
    async fn fails(ctx: TaskContext) -> Result<(), String> {
        Err(format!("{:?}", ctx.tracking_id()))
    }
    let manager = started().await;

    let adding = tracking().sync_scope(|| {
        let adding = manager.add_task(fails, ());
        adding.retries(1).delay(Duration::ZERO)
    });
    let id = adding.await.unwrap();
    let Err(WaitError::NotSuccessful(task)) = manager.wait::<()>(id).await else {
        panic!("it fails");
    };
    // Somebody else's request asks for it.
    let other = Tracking::new("other").unwrap();
    let again = other.scope(manager.retry(id)).await.unwrap();

    assert_eq!(task.life.attempt, 2);
    let error = &task.life.error.as_ref().unwrap().message;
    assert!(error.contains("r-1"), "{error}");
    assert!(is_tracked(&task));
    assert!(is_tracked(&get(&manager, again).await));
}

#[tokio::test]
async fn what_a_function_does_before_it_returns_its_future_is_inside_as_well() {
    fn early() -> impl Future<Output = bool> + Send {
        let tracking = Tracking::current();
        async move { tracking == self::tracking() }
    }
    let manager = started().await;

    let adding = tracking().sync_scope(|| manager.add_task(early, ()));
    let id = adding.await.unwrap();

    assert!(manager.wait::<bool>(id).await.unwrap());
}

// ---- log lines ---------------------------------------------------------------------------------------------------

/// What was logged: the fields of the line and of all spans around it.
type Line = BTreeMap<String, String>;

#[derive(Default)]
struct Capture;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Into<'a>(&'a mut Line);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        let mut fields = Line::new();
        attributes.record(&mut Into(&mut fields));
        cx.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &tracing::Event<'_>, cx: Context<'_, S>) {
        let mut line = Line::new();
        for span in cx.event_scope(event).into_iter().flatten() {
            let in_span = format!("span {}", span.name());
            line.insert(in_span, String::new());
            if let Some(fields) = span.extensions().get::<Line>() {
                line.extend(fields.clone());
            }
        }
        event.record(&mut Into(&mut line));
        LINES.lock().unwrap().push(line);
    }
}

fn capture() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        tracing::subscriber::set_global_default(Registry::default().with(Capture)).unwrap();
    });
}

fn lines_with(message: &str) -> Vec<Line> {
    let lines = LINES.lock().unwrap();
    let with = lines.iter().filter(|line| line["message"] == message);
    with.cloned().collect()
}

#[tokio::test]
async fn every_line_that_a_function_logs_names_its_task_and_its_request() {
    async fn logs_async() -> Result<(), String> {
        tracing::info!("async before");
        tokio::task::yield_now().await;
        tracing::info!("async after");
        Err("once more".to_owned())
    }
    fn logs_plain() {
        tracing::info!("plain");
    }
    capture();
    let manager = started().await;

    let (asynchronous, plain) = tracking().sync_scope(|| {
        let asynchronous = manager.add_task(logs_async, ());
        let asynchronous = asynchronous.retries(1).delay(Duration::ZERO);
        (asynchronous, manager.add_task(logs_plain, ()))
    });
    // Whatever span somebody leaves open on this thread is no part of the task.
    let _around = tracing::info_span!("around").entered();
    let (asynchronous, plain) = (asynchronous.await.unwrap(), plain.await.unwrap());
    assert!(manager.wait::<()>(asynchronous).await.is_err());
    manager.wait::<()>(plain).await.unwrap();

    for (message, id, attempts, name) in [
        (
            "async before",
            asynchronous,
            ["1", "2"].as_slice(),
            "logs_async",
        ),
        ("async after", asynchronous, &["1", "2"], "logs_async"),
        ("plain", plain, &["1"], "logs_plain"),
    ] {
        let lines = lines_with(message);
        assert_eq!(lines.len(), attempts.len(), "{message}");
        for (line, attempt) in lines.iter().zip(attempts) {
            assert_eq!(line["task"], id.to_string(), "{message}");
            assert_eq!(line["attempt"], **attempt, "{message}");
            assert_eq!(line["tracking_id"], "r-1", "{message}");
            assert!(line["name"].contains(name), "{line:?}");
            assert!(line.contains_key("span task"), "{line:?}");
            assert!(!line.contains_key("span around"), "{line:?}");
        }
    }
}

#[tokio::test]
async fn the_lines_about_a_task_name_its_request_and_others_name_none() {
    capture();
    let manager = started().await;
    let mut events = manager.events();

    let tracked = tracking().scope(async { manager.add_task(grandchild, ()).await });
    let tracked = tracked.await.unwrap();
    let other = manager.add_task(grandchild, ()).await.unwrap();
    for id in [tracked, other] {
        manager.wait::<()>(id).await.unwrap();
    }
    support::ended(&mut events, other, TaskStatus::Success).await;

    for message in ["task added", "task started", "task succeeded"] {
        let lines = lines_with(message);
        let of = |id: TaskId| {
            let mut lines = lines.iter();
            lines.find(|line| line["task"] == id.to_string()).unwrap()
        };
        assert_eq!(of(tracked)["tracking_id"], "r-1", "{message}");
        assert!(!of(other).contains_key("tracking_id"), "{message}");
    }
}
