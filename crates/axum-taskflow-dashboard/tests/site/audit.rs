//! The page that tells who did what.

use std::time::Duration;

use axum::http::Method;
use axum_taskflow_core::TaskStatus;
use serde_json::json;

use crate::{
    live::Live,
    site::{Site, unescape},
};

#[tokio::test]
async fn the_page_of_the_audit_log_says_who_did_what_to_which_task() {
    let site = Site::open().await;
    let empty = site.page("/tasks/dashboard/audit").await;
    assert!(empty.body.contains("Nobody has done anything yet."));
    let failed = site.ended(TaskStatus::Failed).await;
    let new = site.post(&format!("/tasks/{failed}/retry")).await.json();
    let evil = json!({ "why": "<script>alert(1)</script>" });
    let record = site.manager.record_audit("<b>eve", "own_deed", None, evil);
    record.await.unwrap();
    site.clock.advance(Duration::from_secs(180));

    let page = site.page("/tasks/dashboard/audit").await;

    let rows = page.body.split_once("id=\"audit\"").unwrap().1;
    let rows: Vec<String> = rows.split("<li>").skip(1).map(unescape).collect();
    assert_eq!(rows.len(), 2, "newest first");
    for part in [
        "<b>own deed</b>",
        "<b>eve",
        "{\"why\":\"<script>alert(1)</script>\"}",
    ] {
        assert!(rows[0].contains(part), "{part} is missing in {}", rows[0]);
    }
    assert!(!page.body.contains("<script>alert"));
    let link = |id: &str| format!("href=\"/tasks/dashboard/t/{id}\"");
    let links = [
        link(&failed.to_string()),
        link(new["task_id"].as_str().unwrap()),
    ];
    let parts = [
        "<b>retry</b>",
        "anonymous",
        &links[0],
        &links[1],
        "3 min ago",
        ">2026-11-21 22:26:40 UTC<",
    ];
    for part in parts {
        assert!(rows[1].contains(part), "{part} is missing in {}", rows[1]);
    }
    assert!(page.body.contains("/audit\" aria-current=\"page\""));
}

#[tokio::test]
async fn older_leads_through_the_whole_audit_log() {
    let site = Site::open().await;
    for n in 0..120 {
        let deed = format!("deed{n}.");
        let record = site.manager.record_audit("ada", &deed, None, json!({}));
        record.await.unwrap();
    }

    let mut seen = Vec::new();
    let mut path = "/tasks/dashboard/audit".to_owned();
    loop {
        let page = site.page(&path).await;
        let deeds = page.body.split("<b>deed").skip(1);
        seen.extend(deeds.map(|rest| rest.split('.').next().unwrap().parse::<u32>().unwrap()));
        let Some((_, older)) = page.body.split_once("id=\"older\"") else {
            break;
        };
        let (_, href) = older.split_once("href=\"").unwrap();
        path = unescape(href.split('"').next().unwrap());
    }

    let wanted: Vec<u32> = (0..120).rev().collect();
    assert_eq!(seen, wanted);
    let wrong = site.page("/tasks/dashboard/audit?before=yesterday").await;
    assert_eq!(wrong.status, 422);
}

#[tokio::test(start_paused = true)]
async fn the_page_of_the_audit_log_is_read_anew_when_somebody_has_done_something() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard/audit").await;
    for wanted in ["hello", "hb", "hb"] {
        let event = live.next().await.unwrap().event;
        assert_eq!(event, wanted, "within three looks");
    }

    let record = site.manager.record_audit("ada", "deed", None, json!({}));
    record.await.unwrap();

    live.until("reset").await;
    let silence = live.next().await.unwrap().event;
    assert_eq!(silence, "hb", "it is told twice");
}

#[tokio::test]
async fn who_may_look_sees_the_audit_log_and_nobody_else() {
    let site = Site::closed().await;
    let bob = site.sign_in("bob").await;
    let ask = async |cookie: &str| {
        let headers = [("cookie", cookie), ("accept", "text/html")];
        let path = "/tasks/dashboard/audit";
        site.ask(Method::GET, path, &headers).await.status
    };

    assert_eq!(ask(&bob).await, 200);
    assert_eq!(ask("").await, 303, "to the sign-in");
}
