//! What a task can take before its arguments.
#![allow(unused_qualifications, reason = "a whole path is read, too")]

use std::sync::Arc;

use axum_taskflow::{Data, FromTask, States, TaskContext, task};

use crate::start;

#[derive(Clone)]
pub(crate) struct Mailer(pub(crate) &'static str);

/// Something of the application's own that tasks take.
struct Attempt(u32);

impl FromTask for Attempt {
    fn from_task(ctx: &TaskContext, _: &States) -> Self {
        Self(ctx.attempt())
    }
}

#[task]
async fn context(ctx: TaskContext) -> String {
    ctx.id().to_string()
}

#[task]
async fn state(Data(mailer): Data<Mailer>, address: String) -> String {
    format!("{} {address}", mailer.0)
}

#[task]
fn all_three(
    _ctx: axum_taskflow::TaskContext,
    Data(shared): Data<Arc<str>>,
    attempt: Attempt,
    address: String,
    n: u8,
) -> String {
    format!("{shared} {} {address} {n}", attempt.0)
}

#[task]
async fn own_type_first(attempt: Attempt, _ctx: TaskContext) -> u32 {
    attempt.0
}

#[task]
async fn static_state(Data(greeting): Data<&'static str>) -> String {
    greeting.to_owned()
}

#[task]
#[allow(clippy::too_many_arguments)]
fn three_and_eight(
    _attempt: Attempt,
    _ctx: TaskContext,
    _mailer: Data<Mailer>,
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
) -> Vec<u8> {
    vec![a, b, c, d, e, f, g, h]
}

macro_rules! declare {
    ($name:ident, $state:ty) => {
        #[task]
        async fn $name(Data(greeting): $state, address: String) -> String {
            format!("{greeting} {address}")
        }
    };
}

declare!(static_state_by_another_macro, Data<&'static str>);

/// `Data` is a common name: one that is stored is an argument.
mod measurements {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) struct Data<T>(pub(crate) Vec<T>);
}

#[task]
async fn store(station: u32, data: measurements::Data<f64>) -> f64 {
    f64::from(station) + data.0.into_iter().sum::<f64>()
}

#[tokio::test]
async fn what_a_task_provides_reaches_the_function_before_its_arguments() {
    let tasks = start().await;
    let a = || "a".to_owned();

    let context = tasks.add_task(context, ()).await.unwrap();
    let by_macro = tasks.add_task(static_state_by_another_macro, a());
    for (id, ran) in [
        (context, context.to_string()),
        (tasks.add_task(state, a()).await.unwrap(), "smtp a".into()),
        (
            tasks.add_task(all_three, (a(), 5)).await.unwrap(),
            "shared 1 a 5".into(),
        ),
        (
            tasks.add_task(static_state, ()).await.unwrap(),
            "hello".into(),
        ),
        (by_macro.await.unwrap(), "hello a".into()),
    ] {
        assert_eq!(tasks.wait::<String>(id).await.unwrap(), ran);
    }
    let own = tasks.add_task(own_type_first, ()).await.unwrap();
    assert_eq!(tasks.wait::<u32>(own).await.unwrap(), 1);
    let eight = tasks.add_task(three_and_eight, (1, 2, 3, 4, 5, 6, 7, 8));
    let eight = tasks.wait::<Vec<u8>>(eight.await.unwrap()).await.unwrap();
    assert_eq!(eight, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn a_data_that_is_stored_is_an_argument() {
    let tasks = start().await;
    let data = measurements::Data(vec![0.5, 0.25]);

    let id = tasks.add_task(store, (1, data)).await.unwrap();

    assert_eq!(tasks.wait::<f64>(id).await.unwrap(), 1.75);
}
