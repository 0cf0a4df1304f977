//! What `#[task]` registers, seen through a manager.

use std::{collections::BTreeMap, time::Duration};

use axum_taskflow::{
    Data, ErrorKind, Executor, FunctionInfo, TaskContext, TaskManager, TaskOptions, task,
};

use crate::start;

#[task(
    name = "mail.send",
    aliases("send_email", "send_mail"),
    retries = 3,
    delay = "1s",
    backoff = 2.0,
    max_delay = "5m",
    jitter = 0.2,
    timeout = "30s",
    priority = 5,
    requeue_on_interrupt,
    idempotency_ttl = "1d"
)]
async fn send_email(address: String) -> usize {
    address.len()
}
/// Where the function above stands: the line of its name.
const SEND_EMAIL_LINE: u32 = line!() - 4;

#[task]
fn double(n: u64) -> u64 {
    n * 2
}

#[task]
fn tabulate(
    _ctx: TaskContext,
    Data(_state): Data<u8>,
    _title: String,
    table: BTreeMap<(u8, u8), u8>,
) {
    drop(table);
}

mod elsewhere {
    #[axum_taskflow::task(name = "elsewhere.double")]
    pub(crate) fn double(n: u64) -> u64 {
        n + n
    }
}

/// What a manager knows of a function.
pub(crate) fn function(manager: &TaskManager, name: &str) -> FunctionInfo {
    let functions = manager.functions();
    functions
        .into_iter()
        .find(|function| &*function.name == name)
        .unwrap_or_else(|| panic!("{name} is not registered"))
}

#[tokio::test]
async fn names_and_options_are_registered_as_written() {
    let manager = start().await;

    let registered = function(&manager, "mail.send");

    assert_eq!(
        registered.options,
        TaskOptions {
            retries: Some(3),
            delay: Some(Duration::from_secs(1)),
            backoff: Some(2.0),
            max_delay: Some(Duration::from_secs(300)),
            jitter: Some(0.2),
            timeout: Some(Duration::from_secs(30)),
            priority: Some(5),
            requeue_on_interrupt: Some(true),
            idempotency_ttl: Some(Duration::from_secs(86_400)),
        }
    );
    let aliases: Vec<&str> = registered.aliases.iter().map(|alias| &**alias).collect();
    assert_eq!(aliases, ["send_email", "send_mail"]);
    assert_eq!(registered.executor, Executor::Async);
    assert!(manager.knows("send_mail"));
    assert_eq!(function(&manager, "double").executor, Executor::Thread);
    assert_eq!(function(&manager, "double").options, TaskOptions::default());
}

#[tokio::test]
async fn the_registered_place_is_that_of_the_function() {
    let manager = start().await;

    let place = function(&manager, "mail.send").place;

    assert_eq!(place, format!("{}:{SEND_EMAIL_LINE}", file!()));
}

#[tokio::test]
async fn a_function_with_the_attribute_runs_as_a_task_and_as_a_function() {
    let manager = start().await;

    let stored = manager
        .add_task(send_email, "a@example.org".to_owned())
        .await
        .unwrap();
    let named_alike = manager.add_task(elsewhere::double, 21).await.unwrap();

    assert_eq!(manager.wait::<usize>(stored).await.unwrap(), 13);
    assert_eq!(manager.wait::<u64>(named_alike).await.unwrap(), 42);
    let task = manager.get(named_alike).await.unwrap().unwrap();
    assert_eq!(&*task.name, "elsewhere.double");
    assert_eq!(send_email("a@example.org".to_owned()).await, 13);
    assert_eq!(double(21), 42);
}

#[tokio::test]
async fn an_argument_that_cannot_be_stored_is_named_in_the_error() {
    let manager = start().await;
    let table = BTreeMap::from([((1, 2), 3)]);

    let error = manager
        .add_task(tabulate, ("t".to_owned(), table))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        "cannot store the argument `table` of tabulate: key must be a string"
    );
}
