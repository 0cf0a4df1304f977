//! Two tasks for looking at: one that panics, and one that takes its time.

use std::time::Duration;

use axum::{Form, extract::State, response::Redirect};
use axum_taskflow::{TaskContext, task};
use serde::Deserialize;

use crate::{
    App,
    page::{self, FormName, Problem, Values},
};

/// Divides, and panics if the divisor is zero: nobody checked. The second attempt cannot know better.
#[task(retries = 1, delay = "3s")]
pub(crate) fn divide(dividend: i64, divisor: i64) -> i64 {
    dividend / divisor
}

/// Takes a minute. Cancelling drops it at its next `.await`.
#[task]
pub(crate) async fn take_a_minute(ctx: TaskContext) {
    const SECONDS: u32 = 60;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await; // the first one is at once
    for n in 1..=SECONDS {
        second.tick().await;
        ctx.progress(
            f64::from(n) / f64::from(SECONDS),
            format!("{n} of {SECONDS} seconds"),
        );
    }
}

/// The form of the division. As text, so that a slip of the finger is answered on the page.
#[derive(Debug, Deserialize)]
pub(crate) struct Division {
    dividend: String,
    divisor: String,
}

/// Takes the form of the division.
pub(crate) async fn submit_division(
    State(app): State<App>,
    Form(form): Form<Division>,
) -> Result<Redirect, Problem> {
    let (Ok(dividend), Ok(divisor)) = (form.dividend.trim().parse(), form.divisor.trim().parse())
    else {
        let text = "Please give two whole numbers of at most 18 digits.".to_owned();
        return Err(
            Problem::unprocessable(FormName::Division, text).with(Values {
                dividend: form.dividend,
                divisor: form.divisor,
                ..Values::default()
            }),
        );
    };
    let id = app
        .manager
        .add_task(divide, (dividend, divisor))
        .await
        .map_err(|error| Problem::refused(FormName::Division, &error))?;
    Ok(page::to_task(id, false))
}

/// Takes the button of the long one.
pub(crate) async fn submit_minute(State(app): State<App>) -> Result<Redirect, Problem> {
    let id = app
        .manager
        .add_task(take_a_minute, ())
        .await
        .map_err(|error| Problem::refused(FormName::Minute, &error))?;
    Ok(page::to_task(id, false))
}
