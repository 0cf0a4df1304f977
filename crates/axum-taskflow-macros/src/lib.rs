//! `#[task]` and `#[schedule]` of axum-taskflow. Use them as `axum_taskflow::task` and `axum_taskflow::schedule`.

use proc_macro::TokenStream;

mod expand;
mod options;
mod times;

/// Makes a function a task: `add_task(send_email, …)` then stores a call of it, and the task manager makes the call.
///
/// ```
/// use axum_taskflow::{Failure, task};
///
/// #[task(retries = 3, delay = "1s", backoff = 2.0)]
/// async fn send_email(address: String) -> Result<(), Failure> {
///     println!("a mail to {address}");
///     Ok(())
/// }
///
/// #[task]
/// fn thumbnail(path: String, width: u32) -> Result<u64, String> {
///     Ok(path.len() as u64 * u64::from(width))
/// }
/// ```
///
/// An `async fn` runs on the tokio runtime and must not block; a plain `fn` runs on a thread of the manager's own and
/// may.
///
/// # Parameters
/// First, if wanted, what the task provides: `TaskContext`, `Data<T>` for the application's state, or your own types
/// that are `FromTask`; three at most. Then the arguments, eight at most. They are stored as JSON, so each is owned
/// and both `Serialize` and `DeserializeOwned`:
///
/// ```
/// use axum_taskflow::{Data, TaskContext, task};
///
/// #[derive(Clone)]
/// struct Mailer;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Mail {
///     address: String,
///     lines: Vec<String>,
/// }
///
/// #[task]
/// async fn send(ctx: TaskContext, Data(mailer): Data<Mailer>, mail: Mail, copies: u8) {
///     ctx.log(format!("{copies} times {} lines to {}", mail.lines.len(), mail.address));
///     # let _ = mailer;
/// }
/// ```
///
/// A task has no lifetimes, no type parameters and no `self`: nobody could say what they are when it runs.
///
/// # Return value
/// `()`, a number, `bool`, `String`, `serde_json::Value`, `Option`, `Vec`, or a `Result`. The value in a `Result` is
/// `Serialize`; its error is anything that becomes a `Box<dyn Error + Send + Sync>`: your error type, `Failure`,
/// `anyhow::Error`, `String`.
///
/// # Options
/// All can be left out. The manager's defaults then hold, and what stands here as default if it has none. Those up to
/// `idempotency_ttl` can also be given for a single call, which goes before what is written here. A duration is a string
/// (`"500ms"`, `"30s"`, `"5m"`, `"2h 30m"`, `"1d"`) or a number of seconds (`5`, `0.5`).
///
/// | Option | Value | Default | Meaning |
/// |---|---|---|---|
/// | `retries` | whole number | 0 | Attempts that may follow the first one when it fails, panics or times out. |
/// | `delay` | duration | 0 | The wait after the first failed attempt. |
/// | `backoff` | number, at least 1 | 1.0 | How many times longer each wait is than the one before. |
/// | `max_delay` | duration | 1 hour | No wait is longer. |
/// | `jitter` | number from 0 to 1 | 0.1 | The part of each wait that is left to chance, so that tasks that failed together do not come back together. |
/// | `timeout` | duration, more than 0 | none | How long one attempt may take. |
/// | `priority` | whole number | 0 | Higher runs first. |
/// | `requeue_on_interrupt` | nothing, `true` or `false` | false | Run again if the process died while it ran. Only for functions that may run twice. |
/// | `idempotency_ttl` | duration | 1 day | How long an idempotency key stays taken after the task succeeded. |
/// | `name` | string | the function's name | Under which its tasks are stored. Two functions in a program need two names. |
/// | `aliases` | strings in brackets | none | Names that it had before: tasks that were stored under them run here. |
///
/// Five retries after about 1, 3, 9, 27 and 60 seconds, each attempt cut off after half a minute:
///
/// ```
/// # use axum_taskflow::{Failure, task};
/// #[task(retries = 5, delay = "1s", backoff = 3.0, max_delay = "1m", jitter = 0.2, timeout = "30s")]
/// async fn call_webhook(url: String) -> Result<(), Failure> {
///     # let _ = url;
///     Ok(())
/// }
/// ```
///
/// Before all others, and again if the process dies meanwhile:
///
/// ```
/// # use axum_taskflow::task;
/// #[task(priority = 10, requeue_on_interrupt)]
/// fn rebuild_index() {}
/// ```
///
/// At most one per idempotency key and week:
///
/// ```
/// # use axum_taskflow::task;
/// #[task(idempotency_ttl = "7d")]
/// async fn weekly_report(account: u64) {
///     # let _ = account;
/// }
/// ```
///
/// A function that was moved and renamed, while its tasks wait:
///
/// ```
/// # use axum_taskflow::task;
/// mod mail {
///     # use axum_taskflow::task;
///     #[task(name = "mail.send", aliases("send_email", "send_mail"))]
///     pub async fn send(address: String) {
///         # let _ = address;
///     }
/// }
/// ```
#[doc = include_str!("expansion.md")]
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(options.into(), &item.into()).into()
}

/// Runs a function with `#[task]` at set times, once in the cluster for each time.
///
/// ```
/// use axum_taskflow::{schedule, task};
///
/// #[schedule(cron = "0 9 * * Mon-Fri", tz = "Europe/Berlin")]
/// #[task(retries = 3)]
/// async fn morning_report() {}
///
/// #[schedule(every = "5m", overlap = "queue_one")]
/// #[task]
/// fn sweep() {}
/// ```
///
/// Every manager of the program has these schedules, unless its builder says `collect(false)`. They are compared with
/// what is stored at each start: see `Schedule`, which is the same by hand, for schedules that are only known at run
/// time.
///
/// # Options
/// `cron` or `every` is needed, the rest can be left out. How often a task is tried, its priority and its timeout are
/// options of `#[task]`. A duration is written as there.
///
/// | Option | Value | Default | Meaning |
/// |---|---|---|---|
/// | `cron` | string | | Five fields, or six with seconds in front. |
/// | `tz` | string | `"UTC"` | The time zone of the expression by its IANA name. |
/// | `every` | duration | | Again and again after so long, counted from the beginning of 1970 (UTC). |
/// | `args` | value or tuple | `()` | The arguments. The expression is read once, when the manager is built. |
/// | `name` | string | the task's name | One schedule of each name in the cluster. Needed if a function has several. |
/// | `missed` | `"fire_once"`, `"skip"` or `fire_all(max = 10, within = "1h")` | `"fire_once"` | What becomes of slots that came while nothing ran. |
/// | `overlap` | `"skip"`, `"allow"` or `"queue_one"` | `"skip"` | What becomes of a slot whose predecessor's task has not ended. |
/// | `tolerance` | duration | 1 minute | A slot later than this is missed. |
/// | `jitter` | duration | 0 | Each task starts after a random part of this. |
/// | `run_on_startup` | nothing, `true` or `false` | false | Also once when the first instance of the cluster starts. |
///
/// Several times, with arguments:
///
/// ```
/// use axum_taskflow::{schedule, task};
///
/// #[schedule(name = "small backup", cron = "@hourly", args = ("orders".to_owned(), false))]
/// #[schedule(
///     name = "whole backup",
///     cron = "30 3 * * Sun#1",
///     args = ("orders".to_owned(), true),
///     missed = fire_all(max = 2, within = "60d")
/// )]
/// #[task]
/// fn backup(table: String, whole: bool) {
///     # let _ = (table, whole);
/// }
/// ```
#[proc_macro_attribute]
pub fn schedule(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::schedule(options.into(), &item.into()).into()
}
