//! The file fails for a while, in the ways files do: callers are told within their deadline, what runs goes on, what
//! it came to is kept, and everything recovers by itself.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::support::{
    Service, Settings,
    disk::{self, ReadOnly, SmallDisk, limit_file_size},
    effects, until,
};
use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::tempdir;

const ADD_TIMEOUT: Duration = Duration::from_secs(1);
/// What a machine that does something else needs besides. Together they are less than SQLite waits for a lock.
const SLOW: Duration = Duration::from_secs(3);
const LOCKED_FOR: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    // One slot, so that what is added second waits in the store.
    Settings::default().add_timeout(ADD_TIMEOUT).concurrency(1)
}

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
    assert!(took < ADD_TIMEOUT + SLOW, "{took:?}");
}

/// Returns once the service has said this to whoever reads its log.
async fn said(service: &Service, what: &str) {
    until(what, async || service.log().contains(what).then_some(())).await;
}

/// Returns once the health route answers with this status, with the answer.
async fn health(service: &Service, status: u16) -> Value {
    until(&format!("{status} of the health route"), async || {
        let response = service.rest(Method::GET, "/health").send().await.unwrap();
        let is_so = response.status() == status;
        is_so.then_some(response.json().await.unwrap())
    })
    .await
}

/// What was accepted before the outage.
struct Accepted {
    running: String,
    waiting: String,
}

impl Accepted {
    async fn by(service: &Service) -> Self {
        let running = service.add("waits", "door").await;
        service.effect(&running, "began").await;
        let waiting = service.add("effect", "waiting").await;
        Self { running, waiting }
    }

    /// While nothing can be written: callers and whoever watches are told why, and what runs goes on to its end.
    async fn go_on(&self, service: &Service, why: &str) {
        refused(service).await;
        said(service, why).await;
        let health = health(service, 503).await;
        let reasons = health["reasons"].to_string();
        assert!(
            reasons.contains("the task store cannot be written"),
            "{health}"
        );
        service.open("door").await;
        service.effect(&self.running, "ended").await;
        refused(service).await;
        assert_eq!(service.seen(&self.running).await["status"], "running");
    }

    /// Once it can be written again: everything comes to its end, once, and is still there after the process.
    async fn end_well(&self, service: Service, settings: Settings) {
        for id in [&self.running, &self.waiting] {
            service.seen_as(id, &["success"]).await;
        }
        health(&service, 200).await;
        let next = service.add("effect", "afterwards").await;
        service.seen_as(&next, &["success"]).await;
        let folder = service.folder.clone();
        service.kill().await;

        let again = settings.start(&folder).await;
        let expected: [(_, &[_]); 3] = [
            (&self.running, &["began", "ended"]),
            (&self.waiting, &["ran"]),
            (&next, &["ran"]),
        ];
        for (id, did) in expected {
            assert_eq!(again.seen(id).await["status"], "success");
            let effects = effects(&folder).into_iter().filter(|it| it.id == *id);
            assert_eq!(effects.map(|it| it.what).collect::<Vec<_>>(), did);
        }
    }
}

/// For how long a process has kept a processor busy.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields[11..=12]
        .iter()
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn while_another_program_locks_the_file_outcomes_are_kept_and_written_afterwards() {
    let folder = tempdir().unwrap();
    let service = settings().start(folder.path()).await;
    let accepted = Accepted::by(&service).await;
    let other = Connection::open(folder.path().join("tasks.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (locked, cpu_before) = (Instant::now(), cpu_time(service.pid()));

    let why = "another process has locked it for too long";
    accepted.go_on(&service, why).await;
    while locked.elapsed() < LOCKED_FOR {
        refused(&service).await;
        health(&service, 503).await;
    }
    let log = service.log();
    let of_calls = "cannot answer a request"; // one for each that was refused
    let n_lines = log.lines().filter(|line| !line.contains(of_calls)).count();
    assert!(n_lines < 60, "{n_lines} lines in a minute");
    let cpu = cpu_time(service.pid()) - cpu_before;
    assert!(cpu < locked.elapsed() / 4, "{cpu:?} of a minute");
    other.execute_batch("COMMIT").unwrap();

    accepted.end_well(service, settings()).await;
}

#[tokio::test]
async fn on_a_full_disk_outcomes_are_kept_and_written_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return disk::skip("mount a small disk");
    };
    let folder = tempdir().unwrap();
    let settings = settings().database(&disk.path().join("tasks.db"));
    let service = settings.clone().start(folder.path()).await;
    let accepted = Accepted::by(&service).await;

    disk.fill();
    let why = "is full; free some space, nothing that was stored is lost";
    accepted.go_on(&service, why).await;
    disk.make_room();

    accepted.end_well(service, settings).await;
}

/// Of a file that is open already, rights say nothing any more. This is what does.
#[tokio::test]
async fn while_the_file_is_read_only_outcomes_are_kept_and_written_afterwards() {
    let folder = tempdir().unwrap();
    let service = settings().start(folder.path()).await;
    let accepted = Accepted::by(&service).await;

    let files = ["tasks.db", "tasks.db-wal"].map(|name| folder.path().join(name));
    let Some(read_only) = ReadOnly::make(files.into()) else {
        return disk::skip("make files read-only");
    };
    accepted
        .go_on(&service, "the file or its file system is read-only")
        .await;
    drop(read_only);

    accepted.end_well(service, settings()).await;
}

#[tokio::test]
async fn while_writes_fail_outcomes_are_kept_and_written_afterwards() {
    let folder = tempdir().unwrap();
    let service = settings().start(folder.path()).await;
    let accepted = Accepted::by(&service).await;

    // What SQLite is told is an I/O error, as of a broken disk.
    limit_file_size(service.pid(), &size(&folder.path().join("tasks.db-wal")));
    accepted.go_on(&service, "disk I/O error; ").await;
    limit_file_size(service.pid(), "unlimited");

    accepted.end_well(service, settings()).await;
}

fn size(file: &Path) -> String {
    fs::metadata(file).unwrap().len().to_string()
}

#[tokio::test]
async fn a_file_that_was_moved_away_takes_no_new_task_and_loses_none() {
    let folder = tempdir().unwrap();
    let service = settings().start(folder.path()).await;
    let running = service.add("waits", "door").await;
    service.effect(&running, "began").await;
    let waiting = service.add("effect", "waiting").await;
    let (here, there) = (folder.path().join("tasks.db"), folder.path().join("away"));

    fs::rename(&here, &there).unwrap();
    refused(&service).await;
    said(&service, "the file was deleted or moved away").await;
    health(&service, 503).await;
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

#[tokio::test]
async fn a_file_that_was_deleted_takes_no_new_task() {
    let folder = tempdir().unwrap();
    let service = settings().start(folder.path()).await;
    let running = service.add("waits", "door").await;
    service.effect(&running, "began").await;

    fs::remove_file(folder.path().join("tasks.db")).unwrap();

    refused(&service).await;
    said(&service, "the file was deleted or moved away").await;
    health(&service, 503).await;
    service.open("door").await;
    service.effect(&running, "ended").await;
    refused(&service).await;
}
