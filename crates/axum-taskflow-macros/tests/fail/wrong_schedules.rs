use axum_taskflow::{schedule, task};

#[schedule]
#[task]
fn never() {}

#[schedule(cron = "@daily", every = "1d")]
#[task]
fn both() {}

#[schedule(every = "1h", tz = "Europe/Berlin")]
#[task]
fn zone_of_a_duration() {}

#[schedule(cron = 9, tz = 1)]
#[task]
fn no_strings() {}

#[schedule(every = "5 minuets")]
#[task]
fn unknown_unit() {}

#[schedule(every = "5m", missed = fire_all(10))]
#[task]
fn which_ten() {}

#[schedule(every = "5m", missed = "fire_twice", overlap = "queue_two")]
#[task]
fn unknown_words() {}

#[schedule(every = "5m", retries = 3)]
#[task]
fn option_of_the_task() {}

#[schedule("0 9 * * *")]
#[task]
fn bare_expression() {}

#[schedule("5m", overlap = "allow")]
#[task]
fn bare_duration() {}

#[schedule(300)]
#[task]
fn bare_number() {}

#[schedule(cron = "0 9 * * *", zone = "Europe/Berlin")]
#[task]
fn zone_by_another_word() {}

#[schedule(interval = "5m")]
#[task]
fn every_by_another_word() {}

#[schedule(every = "5m", name = "")]
#[task]
fn empty_name() {}

#[schedule(every = "5m", name = 5)]
#[task]
fn name_of_number() {}

#[schedule(every = "5m", args = "ada@example.org")]
#[task]
fn wrong_argument(address: String) {
    println!("{address}");
}

#[schedule(every = "5m")]
#[task]
fn no_argument(address: String) {
    println!("{address}");
}

#[schedule(every = "5m")]
struct NoFunction;

fn main() {}
