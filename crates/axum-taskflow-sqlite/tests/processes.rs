//! Several processes on one file, and what the dead leave behind.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use axum_taskflow_core::{
    Applied, Backend, Batch, Change, Prune, Standing, Task, TaskId, TaskStatus, Timestamp,
};
use axum_taskflow_sqlite::SqliteOptions;
use rusqlite::Connection;
use support::{Boot, NOW, Played};
use tempfile::tempdir;

fn this_test() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn lock_files(path: &Path) -> usize {
    let folder = format!("{}-instances", path.display());
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_killed_instance_leaves_orphans_and_a_living_one_does_not() {
    if let Some(path) = support::role() {
        let boot = Boot::at(Path::new(&path)).await;
        let (waiting, running) = (boot.owned(), boot.owned());
        boot.add(&[&waiting, &running]).await;
        boot.change(Change::started(&running, boot.me, NOW).unwrap())
            .await;
        println!("ready {} {}", waiting.id, running.id);
        return support::wait_for_the_parent();
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let name = "a_killed_instance_leaves_orphans_and_a_living_one_does_not";
    let mut child = Played::start(this_test(), name, path.to_str().unwrap());
    let ids = child.said("ready ");
    let boot = Boot::at(&path).await;
    let mine = boot.owned();
    boot.add(&[&mine]).await;

    assert_eq!(boot.backend.orphans(10).await.unwrap(), []);
    child.kill();
    let orphans = boot.backend.orphans(10).await.unwrap();

    let found: Vec<String> = orphans.iter().map(|task| task.id.to_string()).collect();
    assert_eq!(found.join(" "), ids);
    assert_eq!(orphans[0].life.status, TaskStatus::Pending);
    assert_eq!(orphans[1].life.status, TaskStatus::Running);
    assert_eq!(boot.backend.orphans(1).await.unwrap().len(), 1);
    assert_eq!(lock_files(&path), 2, "the dead one still owns tasks");
    for orphan in &orphans {
        let change = match orphan.life.status {
            TaskStatus::Pending => Change::released(orphan),
            _ => Change::interrupted(orphan, "its process died", NOW),
        };
        let written = boot.change(change.unwrap()).await;
        assert_eq!(written.changes, [Applied::Applied]);
    }
    assert_eq!(boot.backend.orphans(10).await.unwrap(), []);
    assert_eq!(lock_files(&path), 1, "the dead one owns nothing any more");
}

#[cfg(unix)] // there is `sleep`
#[tokio::test]
#[allow(
    clippy::zombie_processes,
    reason = "it outlives its parent, which is what is tested"
)]
async fn a_program_that_a_dead_instance_has_started_does_not_keep_its_lock() {
    if let Some(path) = support::role() {
        let boot = Boot::at(Path::new(&path)).await;
        boot.add(&[&boot.owned()]).await;
        let mut program = Command::new("sleep");
        let program = program.arg("60").stdout(Stdio::null()).spawn().unwrap();
        println!("ready {}", program.id());
        return support::wait_for_the_parent();
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let name = "a_program_that_a_dead_instance_has_started_does_not_keep_its_lock";
    let mut child = Played::start(this_test(), name, path.to_str().unwrap());
    let program = child.said("ready ");
    let boot = Boot::at(&path).await;

    child.kill();

    let still_runs = Path::new("/proc").join(program.trim()).exists();
    let n_orphans = boot.backend.orphans(10).await.unwrap().len();
    let _ = Command::new("kill").arg(program.trim()).status(); // it would end by itself
    assert_eq!((still_runs, n_orphans), (true, 1));
}

#[tokio::test]
async fn what_was_answered_is_on_disk_whenever_the_process_is_killed() {
    if let Some(path) = support::role() {
        let boot = Boot::at(Path::new(&path)).await;
        loop {
            let task = boot.owned();
            boot.add(&[&task]).await;
            println!("stored {}", task.id);
        }
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    for n_said in [1, 50, 300] {
        let name = "what_was_answered_is_on_disk_whenever_the_process_is_killed";
        let mut child = Played::start(this_test(), name, path.to_str().unwrap());
        let mut stored: Vec<String> = (0..n_said).map(|_| child.said("stored ")).collect();
        let rest = child.kill();
        stored.extend(
            rest.iter()
                .filter_map(|line| Some(line.split_once("stored ")?.1.to_owned())),
        );

        let boot = Boot::at(&path).await;

        for id in stored.iter().filter(|id| id.len() == 36) {
            let id: TaskId = id.parse().unwrap();
            assert!(
                boot.backend.get(id).await.unwrap().is_some(),
                "{id} is lost"
            );
        }
        let check = Connection::open(&path).unwrap();
        let whole: String = check
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(whole, "ok");
        let (n_tasks, n_counted): (i64, i64) = check
            .query_row(
                "SELECT (SELECT count(*) FROM task), (SELECT sum(n) FROM counter)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        assert_eq!(n_tasks, n_counted);
    }
}

#[tokio::test]
async fn the_file_says_who_an_instance_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;

    let conn = Connection::open(&path).unwrap();
    let row: ([u8; 16], String, u32, i64) = conn
        .query_row(
            "SELECT id, host, pid, started_at FROM instance",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();

    let expected = (
        *boot.me.as_bytes(),
        "test".to_owned(),
        std::process::id(),
        NOW.as_unix_ms(),
    );
    assert_eq!(row, expected);
}

#[tokio::test]
async fn an_instance_that_was_dropped_is_dead_for_the_next_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let task = boot.owned();
    boot.add(&[&task]).await;

    drop(boot);

    let next = Boot::at(&path).await;
    assert_eq!(next.backend.orphans(10).await.unwrap(), [task]);
}

#[cfg(unix)]
#[tokio::test]
async fn whoever_comes_by_a_link_finds_the_same_instances() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let link = folder.path().join("link.db");
    let boot = Boot::at(&path).await;
    std::os::unix::fs::symlink(&path, &link).unwrap();
    boot.add(&[&boot.owned()]).await;

    let other = Boot::at(&link).await;

    assert_eq!(other.backend.orphans(10).await.unwrap(), []);
    assert_eq!(lock_files(&path), 2);
}

#[tokio::test]
async fn an_instance_that_closes_without_tasks_leaves_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let task = boot.owned();
    boot.add(&[&task]).await;
    boot.change(Change::cancelled(&task, NOW).unwrap()).await;

    boot.backend.close().await.unwrap();

    assert_eq!(lock_files(&path), 0);
    let next = Boot::at(&path).await;
    assert_eq!(next.backend.orphans(10).await.unwrap(), []);
}

#[tokio::test]
async fn an_instance_is_forgotten_when_no_task_names_it_any_more() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let n_instances = || -> i64 {
        let conn = Connection::open(&path).unwrap();
        conn.query_row("SELECT count(*) FROM instance", [], |row| row.get(0))
            .unwrap()
    };
    let first = Boot::at(&path).await;
    let mut task = first.owned();
    first.add(&[&task]).await;
    let change = Change::started(&task, first.me, NOW).unwrap();
    task.life = change.life.clone();
    first.change(change).await;
    first
        .change(Change::interrupted(&task, "enough", NOW).unwrap())
        .await;
    first.backend.close().await.unwrap();
    let next = Boot::at(&path).await;
    let prune = |before: Timestamp| {
        next.backend.prune(Prune {
            finished_before: before,
            failed_before: before,
            series_before: NOW,
            from: None,
            limit: 100,
        })
    };

    assert_eq!(prune(NOW).await.unwrap().deleted, 0);
    let stored = next.backend.get(task.id).await.unwrap().unwrap();
    assert_eq!(stored.life.instance, Some(first.me));
    assert_eq!(n_instances(), 2);
    assert_eq!(
        prune(NOW.saturating_add(Duration::from_secs(1)))
            .await
            .unwrap()
            .deleted,
        1
    );

    assert_eq!(n_instances(), 1);
}

/// Deletes everything that ended before now, and the instances that nothing names any more.
async fn prune_all(boot: &Boot) {
    let later = NOW.saturating_add(Duration::from_secs(1));
    let prune = Prune {
        finished_before: later,
        failed_before: later,
        series_before: NOW,
        from: None,
        limit: 100,
    };
    boot.backend.prune(prune).await.unwrap();
}

#[tokio::test]
async fn what_an_instance_adds_that_was_forgotten_while_it_slept_is_not_lost() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (sleeper, other) = (Boot::at(&path).await, Boot::at(&path).await);
    let third = Boot::at(&path).await;
    sleeper.backend.supersede(third.me, NOW).await.unwrap();
    assert_eq!(sleeper.backend.orphans(10).await.unwrap(), []); // and clears it away, as the last that it does
    other.backend.supersede(sleeper.me, NOW).await.unwrap();
    assert_eq!(other.backend.orphans(10).await.unwrap(), []); // the same
    prune_all(&other).await;

    let task = sleeper.owned();
    sleeper.add(&[&task]).await;

    let standing = sleeper.backend.beat(sleeper.me, NOW).await.unwrap();
    assert_eq!(standing, Standing::Superseded);
    let orphans = other.backend.orphans(10).await.unwrap();
    assert_eq!(orphans, [task]);
}

#[tokio::test]
async fn an_instance_that_was_cleared_away_and_writes_is_not_forgotten_before_what_it_wrote() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (sleeper, other) = (Boot::at(&path).await, Boot::at(&path).await);
    let later = NOW.saturating_add(Duration::from_millis(1));
    let old = other.owned();
    other.add(&[&old]).await;
    other.backend.supersede(sleeper.me, NOW).await.unwrap();
    assert_eq!(other.backend.orphans(10).await.unwrap(), []); // and clears it away
    let mut task = Task::new(sleeper.ids.task(later), "f", "[]");
    task.life.owner = Some(sleeper.me);
    sleeper.add(&[&task]).await;

    other.change(Change::cancelled(&old, NOW).unwrap()).await;
    prune_all(&other).await;

    assert_eq!(other.backend.get(old.id).await.unwrap(), None);
    let next = Boot::at(&path).await; // who has not met the sleeper
    assert_eq!(next.backend.orphans(10).await.unwrap(), [task]);
}

/// This test's program, without the right to open whatever it likes if it has that.
#[cfg(unix)]
fn this_test_as_a_plain_user() -> Command {
    if Command::new("id").arg("-u").output().unwrap().stdout != b"0\n" {
        return this_test();
    }
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search");
    command.arg(std::env::current_exe().unwrap());
    command
}

#[cfg(unix)] // there are rights
#[tokio::test]
async fn a_lock_of_another_user_is_looked_at_or_counts_as_held() {
    if let Some(path) = support::role() {
        let boot = Boot::at(Path::new(&path)).await;
        let n_orphans = boot.backend.orphans(10).await.unwrap().len();
        let peers = boot.backend.instances().await.unwrap();
        let n_alive = peers.iter().filter(|peer| peer.alive).count();
        println!("found {n_orphans} orphans, {n_alive} of {}", peers.len());
        return support::wait_for_the_parent();
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let other = Boot::at(&path).await;
    other.add(&[&other.owned()]).await;
    let locks = format!("{}-instances", path.display());
    let lock = fs::read_dir(locks).unwrap().next().unwrap().unwrap().path();
    let found_with = |mode: u32| {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&lock, rights).unwrap();
        let name = "a_lock_of_another_user_is_looked_at_or_counts_as_held";
        let path = path.to_str().unwrap();
        let mut child = Played::start(this_test_as_a_plain_user(), name, path);
        let found = child.said("found ");
        child.end();
        found
    };

    let while_it_lives = [0o444, 0o000].map(found_with);
    drop(other);
    let after_it_died = [0o000, 0o444].map(found_with);

    assert_eq!(while_it_lives, ["0 orphans, 2 of 2", "0 orphans, 2 of 2"]);
    assert_eq!(after_it_died, ["0 orphans, 2 of 2", "1 orphans, 1 of 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_write_to_one_file_in_turn() {
    const N_TASKS: usize = 200;
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boots = [
        Boot::at(&path).await,
        Boot::at(&path).await,
        Boot::at(&path).await,
    ];

    let writers = boots.map(|boot| {
        tokio::spawn(async move {
            for _ in 0..N_TASKS {
                boot.add(&[&boot.owned()]).await;
            }
            boot
        })
    });
    let mut boots = Vec::new();
    for writer in writers {
        boots.push(writer.await.unwrap());
    }

    for boot in &boots {
        let counts = boot.backend.counts().await.unwrap();
        assert_eq!(counts.len(), 1);
        assert_eq!(counts[0].n, 3 * N_TASKS as u64);
    }
}

#[tokio::test]
async fn what_another_adds_for_later_is_news_whatever_waits_that_nobody_runs() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (one, other) = (Boot::at(&path).await, Boot::at(&path).await);
    let for_later = |name: &str, seconds| {
        let mut task = Task::new(other.ids.task(NOW), name, "[]");
        task.life.run_at = NOW.saturating_add(Duration::from_secs(seconds));
        task
    };
    let news = async |seen| {
        let news = one.backend.changed(seen);
        let news = tokio::time::timeout(Duration::from_secs(20), news).await;
        news.expect("nobody is told").unwrap()
    };

    other.add(&[&for_later("gone", 1)]).await; // first for ever, once its time has come
    let seen = news(0).await;
    other.add(&[&for_later("f", 60)]).await;

    assert_ne!(news(seen).await, seen);
}

#[tokio::test]
async fn a_write_fails_when_another_process_holds_the_file_for_too_long_and_works_again_after_it() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let options = SqliteOptions::new(&path).lock_wait(Duration::from_millis(20));
    let boot = Boot::of(options.open().unwrap()).await;
    let task = boot.owned();
    let mut batch = Batch::at(NOW);
    batch.tasks.push(Arc::new(task.clone()));
    let batch = Arc::new(batch);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let error = boot.backend.write(batch.clone()).await.unwrap_err();

    assert!(
        error.to_string().contains("another process has locked it"),
        "{error}"
    );
    assert!(!error.is_refused(), "it may work later");
    assert_eq!(
        boot.backend.get(task.id).await.unwrap(),
        None,
        "reading goes on"
    );
    other.execute_batch("COMMIT").unwrap();
    boot.backend.write(batch).await.unwrap();
    assert_eq!(boot.backend.get(task.id).await.unwrap(), Some(task));
}

/// Returns once `look` sees something.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), seen);
    seen.await.expect("never seen")
}

fn delete_locks(path: &Path) {
    fs::remove_dir_all(format!("{}-instances", path.display())).unwrap();
}

#[cfg(unix)] // a file can be deleted that is in use
#[tokio::test]
async fn an_instance_whose_lock_somebody_deleted_is_alive_and_makes_it_again() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (boot, other) = (Boot::at(&path).await, Boot::at(&path).await);
    let task = boot.owned();
    boot.add(&[&task]).await;

    delete_locks(&path);
    let without_locks = other.backend.orphans(9).await.unwrap();
    boot.backend.beat(boot.me, NOW).await.unwrap();
    let n_again = lock_files(&path);
    let peers = other.backend.instances().await.unwrap();
    drop(boot.backend);
    let of_the_dead = other.backend.orphans(9).await.unwrap();

    assert_eq!(without_locks, []);
    assert_eq!(n_again, 1);
    assert!(peers.iter().all(|peer| peer.alive), "{peers:?}");
    assert_eq!(of_the_dead, [task], "the new lock says so at once");
}

#[cfg(unix)] // a file can be deleted that is in use
#[tokio::test]
async fn a_dead_instance_whose_lock_somebody_deleted_is_found_dead_when_it_was_silent_for_long() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (boot, other) = (Boot::at(&path).await, Boot::at(&path).await);
    let task = boot.owned();
    boot.add(&[&task]).await;
    drop(boot);

    delete_locks(&path);

    let orphans = until(async || {
        let orphans = other.backend.orphans(9).await.unwrap();
        (!orphans.is_empty()).then_some(orphans)
    });
    assert_eq!(orphans.await, [task]);
}

#[tokio::test]
async fn a_lock_of_a_process_that_died_before_others_knew_of_it_is_cleared_away() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let living = Boot::at(&path).await;
    let unknown = living.ids.instance(NOW);
    let locks = folder.path().join("tasks.db-instances");
    fs::write(locks.join(format!("{unknown}.lock")), "").unwrap();
    fs::write(locks.join("notes.txt"), "").unwrap();

    let _next = Boot::at(&path).await;

    let left = fs::read_dir(&locks).unwrap();
    let left = left.filter(|it| {
        let name = it.as_ref().unwrap().file_name();
        name.to_str().unwrap().contains(&unknown.to_string())
    });
    assert_eq!(left.count(), 0);
    assert_eq!(
        lock_files(&path),
        3,
        "those of the living, and what is not ours"
    );
}

#[cfg(unix)] // a file can be deleted that is in use
#[tokio::test]
async fn a_file_whose_log_was_deleted_takes_no_new_task_and_goes_on_with_the_others() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let before = boot.owned();
    boot.add(&[&before]).await;

    fs::remove_file(folder.path().join("tasks.db-wal")).unwrap();
    let mut batch = Batch::at(NOW);
    batch.tasks.push(Arc::new(boot.owned()));
    let refused = boot.backend.write(Arc::new(batch)).await.unwrap_err();
    let beat = boot.backend.beat(boot.me, NOW).await;
    let started = Change::started(&before, boot.me, NOW).unwrap();

    assert!(refused.to_string().contains("its log"), "{refused}");
    assert!(!refused.is_refused(), "outcomes must be kept");
    assert!(beat.is_err(), "the health route says it");
    assert_eq!(boot.change(started).await.changes, [Applied::Applied]);
}

#[tokio::test]
async fn what_the_dead_leave_is_found_while_they_cannot_be_cleared_away() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (one, two) = (Boot::at(&path).await, Boot::at(&path).await);
    let task = one.owned();
    one.add(&[&task]).await;
    let options = SqliteOptions::new(&path).lock_wait(Duration::from_millis(10));
    let living = Boot::of(options.open().unwrap()).await;
    drop((one, two)); // the second one owns nothing
    let locker = Connection::open(&path).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();

    let orphans = living.backend.orphans(9).await;

    assert_eq!(orphans.unwrap(), [task]);
}

#[tokio::test]
async fn a_claim_that_waits_for_the_lock_when_the_store_is_closed_takes_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let task = || Task::new(boot.ids.task(NOW), "f", "[]");
    let (first, second) = (task(), task());
    let claim = || {
        boot.backend.claim(axum_taskflow_core::Claim {
            owner: boot.me,
            names: Arc::from([Arc::from("f")]),
            except: Arc::default(),
            limit: 1,
            now: NOW,
            reserve: None,
        })
    };
    boot.add(&[&first, &second]).await;
    // One that brings something, so that the next does not look before it asks.
    assert_eq!(claim().await.unwrap().tasks.len(), 1);
    let locker = Connection::open(&path).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();

    let unlocked = async { locker.execute_batch("COMMIT").unwrap() };
    let (claimed, closed, ()) = tokio::join!(claim(), boot.backend.close(), unlocked);

    closed.unwrap();
    assert_eq!(claimed.map_or(0, |claimed| claimed.tasks.len()), 0);
    let next = Boot::at(&path).await;
    let task = next.backend.get(second.id).await.unwrap().unwrap();
    assert_eq!(
        (task.life.status, task.life.owner),
        (TaskStatus::Pending, None)
    );
}
