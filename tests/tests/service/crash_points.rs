//! A process that ends at every place where the engine writes: before a batch, in the middle of a transaction, after
//! it and before anybody knows. Whatever the place, what was accepted comes to its end, and nothing is repeated
//! unasked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{Caller, Service, Settings, effects, until};
use axum_taskflow::{Backend, ListQuery, Sqlite};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::tempdir;

/// Places that every batch comes to, or every task, and how often each is passed before the process ends there.
const WHILE_IT_WORKS: [&str; 8] = [
    "writer::before-begin",
    "writer::before-commit",
    "writer::committed",
    "journal::before-write",
    "journal::written",
    "claimer::claimed",
    "executor::start-stored",
    "executor::returned",
];
const PASSED: [usize; 4] = [1, 2, 7, 23];

/// Places of an instance that joins, after another one has died that had work: that is its first transaction.
const WHILE_IT_JOINS: [&str; 4] = [
    "join::begun",
    "join::locked",
    "writer::before-commit",
    "writer::committed",
];
/// Places of an instance that leaves, or of one that buries a dead one.
const WHILE_IT_BURIES: [&str; 3] = ["bury::begun", "bury::written", "bury::unlocked"];
/// Places that are come to once the log has some thousand pages.
const WHILE_THE_LOG_IS_CARRIED_OVER: [&str; 4] = [
    "checkpoint::thread-begins",
    "checkpoint::thread-ends",
    "checkpoint::writer-begins",
    "checkpoint::writer-ends",
];

/// What was accepted: the ids by the number of the order.
type Accepted = BTreeMap<usize, BTreeSet<String>>;

/// One order after the other, of every kind, until nobody answers any more or there are `orders`.
async fn order(caller: &Caller, orders: usize, accepted: &mut Accepted) {
    for n in 0..orders {
        let label: Value = format!("{n}").into();
        let (function, args, options) = match n % 6 {
            0 => ("effect", label, json!({})),
            1 => ("effect", label, json!({ "requeue": true })),
            2 => ("effect_blocking", label, json!({})),
            3 => ("fails_before", json!([label, 2]), json!({ "retries": 3 })),
            4 => ("effect", label, json!({ "delay_by_ms": 100 })),
            _ => ("effect", label, json!({ "key": format!("key {n}") })),
        };
        let times = if n % 6 == 5 { 2 } else { 1 };
        for _ in 0..times {
            let Ok(response) = caller
                .try_add(function, args.clone(), options.clone())
                .await
            else {
                return;
            };
            if let Ok(answer) = response.json::<Value>().await
                && let Some(id) = answer["id"].as_str()
            {
                accepted.entry(n).or_default().insert(id.to_owned());
            }
        }
    }
}

/// Waits until all is calm, and checks what came of it.
async fn check(service: &Service, accepted: &Accepted, place: &str) {
    until(&format!("{place}: all at their end"), async || {
        let stored = service.all_seen().await;
        let is_live = |task: &Value| task["status"] == "pending" || task["status"] == "running";
        (!stored.iter().any(is_live)).then_some(())
    })
    .await;
    let stored: BTreeMap<String, Value> = service
        .all_seen()
        .await
        .into_iter()
        .map(|task| (task["id"].as_str().unwrap().to_owned(), task))
        .collect();
    let effects = effects(&service.folder);
    for (n, ids) in accepted {
        assert_eq!(
            ids.len(),
            1,
            "{place}: order {n} has several tasks: {ids:?}"
        );
        for id in ids {
            assert!(stored.contains_key(id), "{place}: order {n} was lost");
        }
    }
    for (id, task) in &stored {
        let ran = effects.iter().filter(|it| it.id == *id && it.what == "ran");
        let attempts: Vec<u64> = ran.map(|effect| effect.attempt).collect();
        let may_repeat = task["may_repeat"] == true;
        let distinct: BTreeSet<u64> = attempts.iter().copied().collect();
        assert!(
            may_repeat || distinct.len() == attempts.len(),
            "{place}: {task} ran at attempts {attempts:?}"
        );
        match task["status"].as_str().unwrap() {
            "success" => assert!(!attempts.is_empty(), "{place}: {task} never ran"),
            "interrupted" => assert!(!may_repeat, "{place}: {task} may be repeated"),
            _ => panic!("{place}: {task}"),
        }
    }
}

/// The locks of those who use the file, and of the dead whose locks nobody has cleared away.
fn locks(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("tasks.db-instances")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Another process starts and goes on: nothing is lost, the file is whole, and no lock of a dead one stays.
async fn check_and_open(folder: &Path, accepted: &Accepted, place: &str) {
    let service = Service::start(folder).await;
    check(&service, accepted, place).await;
    let own = format!("{}.lock", service.instance().await.as_str().unwrap());
    until(&format!("{place}: only {own}"), async || {
        (locks(folder) == [own.as_str()]).then_some(())
    })
    .await;
    let conn = Connection::open(folder.join("tasks.db")).unwrap();
    let whole: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(whole, "ok", "{place}");
}

/// Ends a process at this place, and says how many orders it had accepted.
async fn end_at(point: &str, passed: usize) -> usize {
    let (place, folder) = (format!("{point} after {passed}"), tempdir().unwrap());
    let mut accepted = Accepted::new();
    let settings = Settings::default().concurrency(2).crash_at(point, passed);
    let status = match settings.try_start(folder.path()).await {
        Ok(service) => {
            order(&service.caller, 4_000, &mut accepted).await;
            service.ended().await
        }
        Err(status) => status,
    };
    assert!(status.signal().is_some(), "{place}: {status}");

    check_and_open(folder.path(), &accepted, &place).await;
    accepted.len()
}

#[tokio::test]
async fn wherever_a_process_ends_while_it_works_nothing_accepted_is_lost_or_repeated() {
    for point in WHILE_IT_WORKS {
        for passed in PASSED {
            let n_accepted = end_at(point, passed).await;
            // It may end before it listens: at the start there are a few writes, too.
            assert!(n_accepted > 0 || passed < 7, "{point} after {passed}");
        }
    }
}

#[tokio::test]
async fn wherever_a_process_ends_while_it_shuts_down_nothing_accepted_is_lost_or_repeated() {
    let places = ["stop::begun", "stop::before-flush", "leave::committed"];
    for point in places.into_iter().chain(WHILE_IT_BURIES) {
        let folder = tempdir().unwrap();
        let mut accepted = Accepted::new();
        let service = Settings::default()
            .concurrency(2)
            .crash_at(point, 0)
            .start(folder.path())
            .await;
        order(&service.caller, 60, &mut accepted).await;
        assert_eq!(accepted.len(), 60);
        service.signal(Signal::TERM);
        let status = service.ended().await;
        assert!(status.signal().is_some(), "{point}: {status}");

        check_and_open(folder.path(), &accepted, point).await;
    }
}

#[tokio::test]
async fn wherever_a_process_ends_while_the_log_is_carried_over_nothing_is_lost_and_the_file_is_whole()
 {
    for point in WHILE_THE_LOG_IS_CARRIED_OVER {
        for passed in [0, 1] {
            let n_accepted = end_at(point, passed).await;
            assert!(n_accepted > 0, "{point} after {passed}");
        }
    }
}

#[tokio::test]
async fn wherever_a_process_ends_while_it_joins_or_buries_a_dead_one_no_lock_stays() {
    for point in WHILE_IT_JOINS.into_iter().chain(WHILE_IT_BURIES) {
        let folder = tempdir().unwrap();
        let mut accepted = Accepted::new();
        let dead = Settings::default().start(folder.path()).await;
        order(&dead.caller, 60, &mut accepted).await;
        assert_eq!(accepted.len(), 60);
        dead.kill().await;

        let dies = Settings::default().crash_at(point, 0);
        let status = match dies.try_start(folder.path()).await {
            Ok(dies) => dies.ended().await,
            Err(status) => status,
        };
        assert!(status.signal().is_some(), "{point}: {status}");

        check_and_open(folder.path(), &accepted, point).await;
    }
}

#[tokio::test]
async fn a_process_that_ends_while_it_makes_its_deleted_lock_again_leaves_none() {
    let folder = tempdir().unwrap();
    let mut accepted = Accepted::new();
    let dies = Settings::default().crash_at("lock::made-again", 0);
    let dies = dies.start(folder.path()).await;
    order(&dies.caller, 60, &mut accepted).await;
    assert_eq!(accepted.len(), 60);
    for lock in locks(folder.path()) {
        fs::remove_file(folder.path().join("tasks.db-instances").join(lock)).unwrap();
    }
    assert!(dies.ended().await.signal().is_some());

    check_and_open(folder.path(), &accepted, "lock::made-again").await;
}

#[tokio::test]
async fn a_process_that_ends_while_it_takes_another_for_dead_leaves_that_to_the_next() {
    for point in ["supersede::written", "rescuer::found"] {
        let folder = tempdir().unwrap();
        let settings = Settings::default().takeover_after(Duration::from_secs(3));
        let stopped = settings.clone().start(folder.path()).await;
        let requeue = json!({ "requeue": true });
        let id = stopped.add_with("waits", "door".into(), requeue).await;
        stopped.effect(&id, "began").await;
        let dies = settings.clone().crash_at(point, 0);
        let dies = dies.start(folder.path()).await;

        stopped.signal(Signal::STOP);
        let status = dies.ended().await;
        assert!(status.signal().is_some(), "{point}: {status}");
        let next = settings.start(folder.path()).await;
        next.open("door").await;

        let task = next.seen_as(&id, &["success"]).await;
        assert_eq!(task["instance"], next.instance().await, "{point}");
        stopped.signal(Signal::CONT);
        let later = stopped.add("effect", "later").await;
        stopped.seen_as(&later, &["success"]).await;
        assert_eq!(next.seen(&id).await, task, "{point}: nothing was written");
    }
}

#[tokio::test]
async fn a_rescuer_that_dies_in_the_middle_leaves_its_work_to_the_next() {
    for point in ["rescuer::found", "rescuer::written"] {
        let folder = tempdir().unwrap();
        let mut accepted = Accepted::new();
        let dies = Settings::default()
            .concurrency(2)
            .start(folder.path())
            .await;
        for door in ["a", "b"] {
            let id = dies.add("waits", door).await;
            dies.effect(&id, "began").await;
        }
        order(&dies.caller, 60, &mut accepted).await;
        assert_eq!(accepted.len(), 60);
        dies.kill().await;
        let rescuer = Settings::default().crash_at(point, 0);
        let Err(status) = rescuer.try_start(folder.path()).await else {
            panic!("{point}: it had nothing to rescue");
        };
        assert!(status.signal().is_some(), "{point}: {status}");

        check_and_open(folder.path(), &accepted, point).await;
    }
}

/// A process with a schedule that has a slot every 200 ms; it ends when it is dropped.
struct Fires(Child);

impl Fires {
    fn start(folder: &Path, crash_at: &str) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_coordinates"));
        program.arg(folder).env("FAILPOINTS", crash_at);
        program.stdin(Stdio::piped()); // its end is the end of the process
        let silent = program.stdout(Stdio::null()).stderr(Stdio::null());
        Self(silent.spawn().unwrap())
    }
}

impl Drop for Fires {
    fn drop(&mut self) {
        let _ = self.0.kill(); // or it has ended
        self.0.wait().unwrap();
    }
}

/// The slots of that schedule that have a task, in milliseconds.
async fn slots(folder: &Path) -> Vec<i64> {
    let Ok(store) = Sqlite::open(folder.join("tasks.db")) else {
        return Vec::new(); // the first process has not come so far
    };
    let mut query = ListQuery::default();
    query.tag = Some(("schedule".to_owned(), Some("every".to_owned())));
    query.limit = 1_000;
    let page = store.list(query).await.unwrap();
    let at = page.tasks.iter().map(|task| task.life.run_at.as_unix_ms());
    let mut slots: Vec<i64> = at.collect();
    slots.sort_unstable();
    slots
}

#[tokio::test]
async fn wherever_a_process_ends_while_it_fires_each_slot_has_one_task() {
    for point in ["scheduler::decided", "scheduler::stepped"] {
        for passed in [2, 7] {
            let (place, folder) = (format!("{point} after {passed}"), tempdir().unwrap());
            let mut dies = Fires::start(folder.path(), &format!("{point}={passed}*off->return"));
            until(&format!("{place}: it ends"), async || {
                dies.0.try_wait().unwrap()
            })
            .await;
            let n = slots(folder.path()).await.len();
            let goes_on = Fires::start(folder.path(), "");
            until(&format!("{place}: it goes on"), async || {
                (slots(folder.path()).await.len() > n + 3).then_some(())
            })
            .await;
            drop(goes_on);

            let slots = slots(folder.path()).await;

            let steps = slots.windows(2).map(|pair| pair[1] - pair[0]);
            let steps: BTreeSet<i64> = steps.collect();
            assert_eq!(steps, [200].into(), "{place}: {slots:?}");
        }
    }
}
