//! What `#[schedule]` registers, seen through a manager.

use std::time::Duration;

use axum_taskflow::{
    Missed, Overlap, Rule, ScheduleInfo, ScheduleState, TaskManager, schedule, task,
};

#[schedule(cron = "0 9 * * Mon-Fri", tz = "Europe/Berlin")]
#[task(retries = 3)]
async fn morning_report() {}

#[task(name = "orders.backup")]
#[schedule(
    name = "small backup",
    every = "90m",
    args = ("orders".to_owned(), false),
    missed = "skip",
    overlap = "queue_one",
    run_on_startup
)]
#[schedule(
    name = "whole backup",
    cron = "30 3 * * Sun#1",
    args = (TABLE.to_owned(), true),
    missed = fire_all(max = 2, within = "60d"),
    overlap = "allow",
    tolerance = "1h",
    jitter = 0.5
)]
fn backup(table: String, whole: bool) -> String {
    format!("{table} {whole}")
}

const TABLE: &str = "invoices";

#[cfg(any())]
#[schedule(every = "1s")]
#[task]
fn on_no_platform() {}

async fn schedules() -> Vec<ScheduleInfo> {
    let manager = TaskManager::builder()
        .build()
        .await
        .expect("the schedules of this file are in order");
    manager
        .schedules()
        .await
        .expect("the store in memory answers")
}

#[tokio::test]
async fn a_schedule_beside_a_task_is_known_to_each_manager() {
    let schedules = schedules().await;

    let names: Vec<&str> = schedules.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["morning_report", "small backup", "whole backup"]);
    for schedule in &schedules {
        assert_eq!(schedule.state, ScheduleState::Active, "{schedule:?}");
        assert_eq!(schedule.next.len(), 5, "{schedule:?}");
    }
    let functions = schedules.iter().map(|it| &*it.function);
    assert!(functions.eq(["morning_report", "orders.backup", "orders.backup"]));
    let args = schedules.iter().map(|it| &*it.args);
    assert!(args.eq(["[]", r#"["orders",false]"#, r#"["invoices",true]"#]));
}

#[tokio::test]
async fn what_was_written_is_what_is_stored() {
    let [morning, small, whole] = schedules().await.try_into().expect("three schedules");

    let cron = |expression: &str, zone: &str| Rule::Cron {
        expression: expression.to_owned(),
        zone: zone.to_owned(),
    };
    assert_eq!(morning.rule, cron("0 9 * * Mon-Fri", "Europe/Berlin"));
    assert_eq!(
        (morning.missed, morning.overlap),
        (Missed::FireOnce, Overlap::Skip)
    );
    assert_eq!(small.rule, Rule::Every(Duration::from_secs(90 * 60)));
    assert_eq!(
        (small.missed, small.overlap),
        (Missed::Skip, Overlap::QueueOne)
    );
    assert_eq!(whole.rule, cron("30 3 * * Sun#1", "UTC"));
    let within = Duration::from_secs(60 * 86_400);
    assert_eq!(
        (whole.missed, whole.overlap),
        (Missed::FireAll { max: 2, within }, Overlap::Allow)
    );
}

#[tokio::test]
async fn a_manager_that_collects_nothing_has_no_schedules() {
    let builder = TaskManager::builder().collect(false);

    let manager = builder.build().await.expect("nothing can be wrong with it");

    let schedules = manager.schedules().await;
    assert_eq!(schedules.expect("the store in memory answers"), []);
}

#[tokio::test]
async fn what_runs_at_startup_runs_with_its_arguments() {
    let manager = TaskManager::builder().build().await.expect("all in order");

    let task = loop {
        let page = manager.list(Default::default()).await;
        let page = page.expect("the store in memory answers");
        if let Some(task) = page.tasks.into_iter().next() {
            break task;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let ran: String = manager.wait(task.id).await.expect("it succeeds");

    assert_eq!(ran, "orders false");
}
