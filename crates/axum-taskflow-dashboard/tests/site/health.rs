//! What load balancers ask.

use std::time::Duration;

use axum::http::Method;
use axum_taskflow_core::ErrorKind;
use serde_json::json;

use crate::site::{Site, greet, soon};

const PATH: &str = "/tasks/health";

#[tokio::test]
async fn health_is_told_to_everybody_and_kept_nowhere() {
    let site = Site::closed().await;

    let wrong = ("authorization", "Basic YWRhOndyb25n");
    for headers in [vec![], vec![wrong], vec![("accept", "text/html")]] {
        let answer = site.ask(Method::GET, PATH, &headers).await;
        assert_eq!(answer.status, 200, "{headers:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.json(), json!({ "status": "ok", "reasons": [] }));
    }
    let head = site.ask(Method::HEAD, PATH, &[]).await;
    assert_eq!((head.status.as_u16(), &*head.body), (200, ""));
    assert_eq!(site.post(PATH).await.status, 401, "it can only be asked");
}

#[tokio::test]
async fn a_store_that_fails_is_a_503_with_the_reason_and_its_beginning_but_not_the_stores_own_words()
 {
    let site = Site::closed().await;
    site.backend.begin();
    let failed = site.manager.add_task(greet, "ada".to_owned()).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);

    let answer = site.get(PATH).await;

    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json()["status"], "unavailable");
    let reasons = answer.json()["reasons"].as_array().unwrap().clone();
    let expected = json!({ "reason": "the task store cannot be written", "since": "2026-11-21T22:26:40+00:00" });
    assert!(reasons.contains(&expected), "{reasons:?}");
    assert!(!answer.body.contains("out of reach"), "{}", answer.body);
    assert_eq!(answer.json().as_object().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn health_comes_back_by_itself_with_the_store() {
    let site = Site::closed().await;
    site.backend.begin();
    let added = site.manager.add_task(greet, "ada".to_owned()).await;
    assert!(added.is_err());
    assert_eq!(site.get(PATH).await.status, 503);

    site.backend.end();

    let healthy = async {
        while site.get(PATH).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await; // of paused time: the engine's loops have their turn
        }
    };
    tokio::time::timeout(Duration::from_secs(60), healthy)
        .await
        .expect("it stays unavailable");
}

#[tokio::test(start_paused = true)]
async fn health_answers_while_the_store_hangs_and_says_so() {
    let site = Site::closed().await;
    let asked = async || {
        let answer = tokio::time::timeout(Duration::from_secs(10), site.get(PATH)).await;
        answer.expect("it waits for the store")
    };
    site.backend.hold();
    assert_eq!(asked().await.status, 200);

    let added = site.manager.add_task(greet, "ada".to_owned()).await;

    assert_eq!(added.unwrap_err().kind(), ErrorKind::TimedOut);
    let answer = soon(async {
        loop {
            let answer = asked().await;
            if answer.status == 503 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await; // of paused time
        }
    });
    let reasons = answer.await.json()["reasons"].to_string();
    assert!(
        reasons.contains("the task store cannot be written"),
        "{reasons}"
    );
    site.backend.let_go();
    soon(async {
        while asked().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await; // of paused time
        }
    })
    .await;
}

#[tokio::test]
async fn while_it_shuts_down_load_balancers_look_elsewhere() {
    let site = Site::closed().await;
    let running = site.running().await;
    let manager = site.manager.clone();
    let drained = tokio::spawn(async move { manager.drain().await });
    let stopping = site.manager.stopping();
    soon(stopping.cancelled()).await;

    let answer = site.get(PATH).await;

    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json()["reasons"][0]["reason"],
        "the task manager is shutting down"
    );
    site.manager.cancel(running).await.unwrap();
    soon(drained).await.unwrap();
    soon(site.manager.shutdown()).await.unwrap();
    assert_eq!(site.get(PATH).await.status, 503, "and stays so");
}
