//! Opening: each error names the file and what to do, and a file that is not ours is not touched.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    time::Duration,
};

use axum_taskflow_core::{Backend, BackendError};
use axum_taskflow_sqlite::{Sqlite, SqliteOptions};
use rusqlite::Connection;
use support::Boot;
use tempfile::tempdir;

fn error_of(path: impl AsRef<Path>) -> BackendError {
    Sqlite::open(path.as_ref()).expect_err("it cannot be opened")
}

#[track_caller]
fn assert_says(error: &BackendError, path: &Path, advice: &str) {
    let said = error.to_string();
    assert!(said.starts_with("cannot open "), "{said}");
    assert!(
        said.contains(path.file_name().unwrap().to_str().unwrap()),
        "{said}"
    );
    assert!(said.contains(advice), "{said}");
}

/// Every file in a folder with its bytes.
fn bytes(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect()
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("missing").join("tasks.db");

    let error = error_of(&path);

    assert_says(&error, &path, "missing\" does not exist; create it first");
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn a_folder_is_no_file() {
    let folder = tempdir().unwrap();

    assert_says(
        &error_of(folder.path()),
        folder.path(),
        "it is a folder; name a file inside it",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_mounted_by_itself_is_refused() {
    let folder = tempdir().unwrap();
    let (outside, path) = (
        folder.path().join("outside.db"),
        folder.path().join("tasks.db"),
    );
    Sqlite::open(&outside).unwrap();
    fs::write(&path, "").unwrap();
    let mounted = std::process::Command::new("mount")
        .arg("--bind")
        .args([&outside, &path])
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        println!("skipped: this test may not mount a file");
        return;
    }

    let refused = Sqlite::open(&path).map(drop); // closed, or it could not be unmounted
    let mut unmount = std::process::Command::new("umount");
    let unmounted = unmount.arg(&path).status().unwrap();

    assert!(unmounted.success());
    assert_says(&refused.unwrap_err(), &path, "mount the folder");
    assert!(!folder.path().join("tasks.db-wal").exists());
}

#[test]
fn a_file_is_no_folder() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();

    assert_says(
        &error_of(file.join("tasks.db")),
        Path::new("tasks.db"),
        "file\"",
    );
}

#[test]
fn a_database_without_a_file_is_refused() {
    assert!(error_of("").to_string().contains("is empty; name a file"));
    assert!(
        error_of(":memory:")
            .to_string()
            .contains("use the memory backend")
    );
    assert!(error_of("..").to_string().contains("it is a folder"));
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    for content in [
        "short".to_owned(),
        "a long letter to somebody\n".repeat(1_000),
    ] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("letter.txt");
        fs::write(&path, &content).unwrap();
        let before = bytes(folder.path());

        let error = error_of(&path);

        assert_says(
            &error,
            &path,
            "file is not a database; it is left as it is, choose another path",
        );
        assert!(error.is_refused());
        assert_eq!(bytes(folder.path()), before);
    }
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE user (name)")
        .unwrap();
    let before = bytes(folder.path());

    let error = error_of(&path);

    assert_says(
        &error,
        &path,
        "of another program; it is left as it is, give the tasks a file of their own",
    );
    assert!(error.is_refused());
    assert_eq!(bytes(folder.path()), before);
}

#[test]
fn a_newer_schema_is_left_as_it_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    drop(Sqlite::open(&path).unwrap());
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 1_000).unwrap();
    newer.close().unwrap();
    let before = bytes(folder.path());

    let error = error_of(&path);

    assert_says(&error, &path, "version 1000 and this program knows 4");
    assert_says(&error, &path, "use the newer program");
    assert!(error.is_refused());
    assert_eq!(bytes(folder.path()), before);
}

#[test]
fn a_damaged_file_is_left_as_it_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    drop(Sqlite::open(&path).unwrap());
    let mut content = fs::read(&path).unwrap();
    content[100..4_000].fill(0xff); // behind the header
    fs::write(&path, content).unwrap();
    let before = bytes(folder.path());

    let error = error_of(&path);

    assert_says(&error, &path, "malformed; restore it from a backup");
    assert!(error.is_refused());
    assert_eq!(bytes(folder.path())[&path], before[&path]);
}

#[test]
fn a_file_that_another_process_keeps_locked_may_be_opened_later() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    drop(Sqlite::open(&path).unwrap());
    let other = Connection::open(&path).unwrap();
    other
        .pragma_update(None, "locking_mode", "EXCLUSIVE")
        .unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = SqliteOptions::new(&path).lock_wait(Duration::from_millis(20));

    let error = options.clone().open().expect_err("it is locked");

    assert_says(&error, &path, "another process has locked it for too long");
    assert!(!error.is_refused(), "it may work later");
    drop(other);
    options.open().unwrap();
}

/// Root may write everything: then the test goes on as somebody else.
#[cfg(unix)]
#[test]
fn what_must_not_be_written_says_so() {
    use std::os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    };

    if let Some(folder) = support::role() {
        let folder = PathBuf::from(folder);
        for name in [
            "read-only.db",
            "sealed/new.db",
            "sealed/tasks.db",
            "unreadable/tasks.db",
        ] {
            println!("error {name}: {}", error_of(folder.join(name)));
        }
        return;
    }
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let allow =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for name in ["sealed", "unreadable"] {
        fs::create_dir(at(name)).unwrap();
        drop(Sqlite::open(at(name).join("tasks.db")).unwrap());
    }
    fs::copy(at("sealed/tasks.db"), at("read-only.db")).unwrap();
    allow(&at("sealed/tasks.db"), 0o666);
    allow(&at("read-only.db"), 0o444);
    allow(&at("sealed"), 0o555);
    allow(&at("unreadable"), 0o000);
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
    if is_root {
        const NOBODY: u32 = 65_534;
        // The build folder may be closed to others.
        let program = at("test");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        allow(&program, 0o755);
        allow(folder.path(), 0o755);
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        command = std::process::Command::new(program);
        command.uid(NOBODY).gid(NOBODY).current_dir(folder.path());
    }

    let mut child = support::Played::start(
        command,
        "what_must_not_be_written_says_so",
        folder.path().to_str().unwrap(),
    );

    let errors = [(); 4].map(|()| child.said("error "));
    child.kill();
    allow(&at("unreadable"), 0o755); // so that it can be deleted
    allow(&at("sealed"), 0o755);
    let [read_only, no_new, sealed, unreadable] = errors;
    assert!(
        read_only.contains("the file is read-only for this process; allow it to write"),
        "{read_only}"
    );
    assert!(
        no_new.contains(
            "the file cannot be created; this process must be allowed to write in its folder"
        ),
        "{no_new}"
    );
    assert!(
        sealed.contains("the file, its folder or the file system is read-only"),
        "{sealed}"
    );
    assert!(
        unreadable.contains("unreadable") && unreadable.contains("allowed"),
        "{unreadable}"
    );
}

#[tokio::test]
async fn many_may_open_a_new_file_at_once() {
    const N: usize = 8;
    // Often, since each race is rare.
    for _ in 0..25 {
        let folder = tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        let start = Arc::new(Barrier::new(N));

        let openers: Vec<_> = (0..N)
            .map(|_| {
                let (path, start) = (path.clone(), start.clone());
                std::thread::spawn(move || {
                    start.wait();
                    Sqlite::open(path)
                })
            })
            .collect();

        for opener in openers {
            let boot = Boot::of(opener.join().unwrap().unwrap()).await;
            boot.add(&[&boot.owned()]).await;
        }
    }
}

#[cfg(unix)] // such names can be given
#[tokio::test]
async fn a_name_is_a_name_whatever_it_looks_like() {
    let folder = tempdir().unwrap();
    for name in [
        "file:x.db?mode=memory",
        "a b%20#ü.db",
        "sqlite:",
        "'; DROP TABLE task",
    ] {
        let path = folder.path().join(name);

        let boot = Boot::at(&path).await;
        let task = boot.owned();
        boot.add(&[&task]).await;

        assert!(path.is_file(), "{name}");
        assert_eq!(boot.backend.get(task.id).await.unwrap(), Some(task));
        assert_eq!(
            boot.backend.describe(),
            format!("sqlite {}", path.display())
        );
    }
}

#[tokio::test]
async fn a_closed_file_is_whole_without_its_log() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let boot = Boot::at(&path).await;
    let task = boot.owned();
    boot.add(&[&task]).await;

    boot.backend.close().await.unwrap();

    assert!(!folder.path().join("tasks.db-wal").exists());
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    let again = Sqlite::open(copy).unwrap();
    assert_eq!(again.get(task.id).await.unwrap(), Some(task));
}
