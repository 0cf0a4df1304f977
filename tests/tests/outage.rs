//! The file fails for a while, in the ways files do: callers are told within their deadline, what runs goes on, what
//! it came to is kept, and everything recovers by itself.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use serde_json::json;
use support::{Service, Settings, until};
use tempfile::tempdir;

const ADD_TIMEOUT: Duration = Duration::from_secs(1);

/// An `add_task` that must fail, and in time.
async fn refused(service: &Service) {
    let asked = Instant::now();
    let response = service
        .caller
        .try_add("effect", "refused".into(), json!({}))
        .await
        .unwrap();
    let took = asked.elapsed();

    assert!(response.status().is_server_error(), "{}", response.status());
    assert!(took < ADD_TIMEOUT * 4, "{took:?}");
}

/// Returns once the service has said this to whoever reads its log.
async fn said(service: &Service, what: &str) {
    until(what, async || service.log().contains(what).then_some(())).await;
}

#[tokio::test]
async fn while_another_program_locks_the_file_outcomes_are_kept_and_written_afterwards() {
    let folder = tempdir().unwrap();
    let settings = Settings::default().add_timeout(ADD_TIMEOUT);
    let service = settings.start(folder.path()).await;
    let id = service.add("waits", "door").await;
    service.effect(&id, "began").await;
    let other = Connection::open(folder.path().join("tasks.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let locked = Instant::now();

    service.open("door").await;
    service.effect(&id, "ended").await;
    refused(&service).await;
    said(&service, "another process has locked it for too long").await;
    refused(&service).await;
    assert_eq!(service.seen(&id).await["status"], "running");
    assert!(locked.elapsed() > Duration::from_secs(4));
    other.execute_batch("COMMIT").unwrap();

    service.seen_as(&id, &["success"]).await;
    let next = service.add("effect", "afterwards").await;
    service.seen_as(&next, &["success"]).await;
}

#[tokio::test]
async fn a_file_that_was_moved_away_takes_no_new_task_and_loses_none() {
    let folder = tempdir().unwrap();
    let settings = Settings::default().add_timeout(ADD_TIMEOUT).concurrency(1);
    let service = settings.start(folder.path()).await;
    let running = service.add("waits", "door").await;
    service.effect(&running, "began").await;
    let waiting = service.add("effect", "waiting").await;
    let (here, there) = (folder.path().join("tasks.db"), folder.path().join("away"));

    fs::rename(&here, &there).unwrap();
    refused(&service).await;
    said(&service, "the file was deleted or moved away").await;
    service.open("door").await;
    service.effect(&waiting, "ran").await; // those that were accepted go on
    fs::write(&here, "something else").unwrap();
    refused(&service).await;
    said(&service, "the file was replaced by another one").await;
    fs::remove_file(&here).unwrap();
    fs::rename(&there, &here).unwrap();

    for id in [&running, &waiting] {
        service.seen_as(id, &["success"]).await;
    }
    let next = service.add("effect", "afterwards").await;
    service.seen_as(&next, &["success"]).await;
    service.kill().await;
    let again = Service::start(folder.path()).await;
    assert_eq!(again.all_seen().await.len(), 3);
}
