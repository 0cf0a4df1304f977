use axum_taskflow::{Data, Failure, TaskContext, Tasks, schedule, task};

// an option of the other attribute
#[task(cron = "@daily")]
fn cron_on_task() {}

#[task(every = "5m")]
fn every_on_task() {}

#[schedule(every = "5m", timeout = "5s")]
#[task]
fn timeout_on_schedule() {}

// names of the field
#[task(max_retries = 3)]
fn max_retries() {}

#[task(retry = 3)]
fn retry() {}

#[task(tags = "a")]
fn tags() {}

#[task(queue = "mail")]
fn queue() {}

const N: u32 = 3;
#[task(retries = N)]
fn constant() {}

#[task(retries = "3")]
fn text() {}

#[task(retries: 3)]
fn colon() {}

#[task(retries = 3; delay = "1s")]
fn semicolon() {}

#[task(retries = 3 delay = "1s")]
fn no_comma() {}

#[task(delay = Duration::from_secs(1))]
fn duration_value() {}

#[task(retries(3))]
fn call() {}

#[schedule(name = "", every = "5m")]
#[task]
fn empty_schedule_name() {}

#[schedule(name = 5, every = "5m")]
#[task]
fn number_schedule_name() {}

#[schedule(every = "0s")]
#[task]
fn every_zero() {}

#[schedule(cron = "0 9 * * *", zone = "Europe/Berlin")]
#[task]
fn zone() {}

#[schedule(cron = "61 9 * * *")]
#[task]
fn bad_cron() {}

#[schedule("0 9 * * *")]
#[task]
fn bare_cron() {}

#[schedule(every = "5m", missed = fire_all(max = 10, within = "1 hor"))]
#[task]
fn fire_all_unit() {}

#[schedule(every = "5m", missed = fire_all(max = 10, within = 3600))]
#[task]
fn fire_all_number() {}

#[schedule(every = "5m", missed(fire_all(max = 10, within = "1h")))]
#[task]
fn fire_all_list() {}

#[schedule(every = "5m")]
#[task]
fn with_context(ctx: TaskContext, n: u32) { let _ = (ctx, n); }

#[task]
impl Foo { fn x() {} }

#[task]
mod m {}

#[task]
async fn returns_result_no_serialize() -> Result<std::time::Instant, Failure> { unimplemented!() }

#[task]
async fn returns_ref(a: String) -> &'static str { let _ = a; "x" }

#[task]
async fn returns_never(a: String) -> ! { let _ = a; panic!() }

#[task]
async fn returns_impl(a: String) -> impl std::fmt::Display { a }

#[task]
fn returns_tuple() -> (u32, u32) { (1, 2) }

#[task]
async fn data_ref(db: &Data<String>) { let _ = db; }

#[task]
async fn ctx_ref(ctx: &TaskContext, n: u32) { let _ = (ctx, n); }

#[task]
async fn ctx_last(n: u32, ctx: TaskContext) { let _ = (ctx, n); }

#[task]
fn boxed(f: Box<dyn Fn(u32) + Send>) { let _ = f; }

#[task]
async fn tasks_param(tasks: Tasks) { let _ = tasks; }

#[task]
async fn state_param(axum::extract::State(s): axum::extract::State<String>, n: u32) { let _ = (s, n); }

#[task]
fn await_in_plain(n: u32) -> Result<(), Failure> { std::future::ready(n).await; Ok(()) }

#[task]
#[task]
fn two_attributes() {}

#[task]
async fn question(s: String) { let n: u32 = s.parse()?; let _ = n; }

fn main() {}
