use axum_taskflow::task;

#[task(retires = 3)]
fn unknown() {}

#[task(concurrency = 3)]
fn unlike_anything() {}

#[task(delay = "1 fortnight")]
fn unknown_unit() {}

#[task(delay = "5")]
fn no_unit() {}

#[task(delay = 5s)]
fn no_quotes() {}

#[task(timeout = -1)]
fn negative_duration() {}

#[task(timeout = 0)]
fn no_time() {}

#[task(retries = -1, jitter = 1.5, backoff = 0.5, priority = 3_000_000_000)]
fn out_of_range() {}

#[task(backoff = f64::NAN)]
fn not_a_literal() {}

#[task(retries)]
fn no_value() {}

#[task(retries = 1, retries = 2)]
fn twice() {}

#[task(name = "")]
fn empty_name() {}

#[task(name = 3)]
fn name_of_number() {}

#[task(aliases = "old")]
fn alias_without_brackets() {}

#[task(aliases())]
fn no_alias() {}

#[task(aliases(old))]
fn alias_without_quotes() {}

#[task(requeue_on_interrupt = "yes")]
fn not_a_bool() {}

#[task("send_email")]
fn not_an_option() {}

#[task(3)]
fn bare_number() {}

#[task(every = "5m")]
fn option_of_the_schedule() {}

fn main() {}
