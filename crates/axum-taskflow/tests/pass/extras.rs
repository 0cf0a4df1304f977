use std::sync::Arc;

use axum_taskflow::{Data, FromTask, States, TaskContext, task};

#[derive(Clone)]
struct Mailer;

/// Something of the application's own that tasks take.
struct Attempt(u32);

impl FromTask for Attempt {
    fn from_task(ctx: &TaskContext, _: &States) -> Self {
        Self(ctx.attempt())
    }
}

#[task]
async fn context(ctx: TaskContext) {
    ctx.log("hello");
}

#[task]
async fn state(Data(_mailer): Data<Mailer>, _address: String) {}

#[task]
fn all_three(_ctx: axum_taskflow::TaskContext, _: Data<Arc<str>>, attempt: Attempt, _address: String, _n: u8) {
    let _ = attempt.0;
}

#[task]
async fn own_type_first(_attempt: Attempt, _ctx: TaskContext) {}

#[task]
async fn static_state(Data(_greeting): Data<&'static str>) {}

#[task]
#[allow(clippy::too_many_arguments)]
fn three_and_eight(
    _attempt: Attempt,
    _ctx: TaskContext,
    _mailer: Data<Mailer>,
    _a: u8,
    _b: u8,
    _c: u8,
    _d: u8,
    _e: u8,
    _f: u8,
    _g: u8,
    _h: u8,
) {
}

macro_rules! declare {
    ($name:ident, $state:ty) => {
        #[task]
        async fn $name(_: $state, _address: String) {}
    };
}

declare!(static_state_by_another_macro, Data<&'static str>);

/// `Data` is a common name: one that is stored is an argument.
mod measurements {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) struct Data<T>(pub(crate) Vec<T>);
}

#[task]
async fn store(_station: u32, data: measurements::Data<f64>) {
    let _ = data.0;
}

fn main() {}
