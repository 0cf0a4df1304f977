//! One process of the service.

use std::{
    fmt,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use axum_taskflow::{BackendError, ErrorKind};

use super::{
    LabError,
    store::{Settings, Store},
};

/// How long a process may take to start or to end.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a service is started whose server does not answer.
const STARTS_MAX: usize = 5;

/// What a service ends with if its store did not answer at the start, and may do so later (`EX_TEMPFAIL` of sysexits).
pub const TRY_AGAIN: u8 = 75;

/// Ends the process if it is worth while to start it again: the store was asked, and may answer later.
pub fn end_if_worth_another_try(error: &axum_taskflow::Error) {
    let source = std::error::Error::source(error);
    let store = source.and_then(|source| source.downcast_ref::<BackendError>());
    let is_refused = store.is_some_and(BackendError::is_refused);
    if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) && !is_refused {
        eprintln!("Error: {error:?}"); // as `main` would
        std::process::exit(TRY_AGAIN.into());
    }
}

/// A service that has ended before it listened.
#[derive(Debug)]
struct Ended(ExitStatus);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service ended before it listened: {}", self.0)
    }
}

impl std::error::Error for Ended {}

fn is_worth_another_try(error: &LabError) -> bool {
    let ended = error.downcast_ref::<Ended>();
    ended.is_some_and(|Ended(status)| status.code() == Some(TRY_AGAIN.into()))
}

/// A service that runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where it listens.
    pub url: String,
    /// Its number.
    pub pid: u32,
}

impl Process {
    /// Starts the service in this folder, and waits until it listens. It ends at a crash point if one is named, as
    /// `FAILPOINTS` has it.
    ///
    /// # Errors
    /// If it ends before.
    pub(super) async fn start(
        service: &Path,
        folder: &Path,
        settings: Settings,
        crash_at: Option<&str>,
    ) -> Result<Self, LabError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))?;
        let mut child = Command::new(service)
            .arg(folder)
            .env("CRASHES_MAX", "1000") // whoever is killed so often is no poison
            .env("SHUTDOWN_TIMEOUT_MS", "200")
            .env("CONCURRENCY", "16")
            .env("FAILPOINTS", crash_at.unwrap_or_default())
            .envs(settings)
            .stdin(Stdio::piped()) // closed when we are gone, and then the service ends
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or("a process without a number")?;
        let stdout = child.stdout.take().ok_or("a process without output")?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(url) = line.strip_prefix("listening on ") {
                    return Ok(Some(url.to_owned()));
                }
            }
            Ok(None)
        };
        let url: Result<Option<String>, LabError> =
            tokio::time::timeout(DEADLINE, listening).await?;
        let Some(url) = url? else {
            let status = tokio::time::timeout(DEADLINE, child.wait()).await??;
            return Err(Ended(status).into());
        };
        // Read on, so that the service never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, url, pid })
    }

    /// The same, without a crash point. On Redis again if the server did not answer: others may keep it from its processor,
    /// and who starts does not wait for longer.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn start_on(
        store: Store,
        service: &Path,
        folder: &Path,
        settings: Settings,
    ) -> Result<Self, LabError> {
        let starts_max = match store {
            Store::Redis { .. } => STARTS_MAX,
            Store::File { .. } => 1,
        };
        for _ in 1..starts_max {
            match Self::start(service, folder, settings.clone(), None).await {
                Err(error) if is_worth_another_try(&error) => eprintln!("lab: {error}"),
                started => return started,
            }
        }
        Self::start(service, folder, settings, None).await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let pid = i32::try_from(self.pid)?;
        let pid = Pid::from_raw(pid).ok_or("a process with the number 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// True if it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns once it has ended: true if it aborted.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn ended(&mut self) -> Result<bool, LabError> {
        let stdin = self.child.stdin.take(); // `wait` would close it, and that would end the service
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        drop(stdin);
        let status = ended.map_err(|_| "a process that was told to end goes on")??;
        Ok(status.signal() == Some(Signal::ABORT.as_raw()))
    }
}

/// Asks a service for JSON.
///
/// # Errors
/// If it does not answer.
pub async fn ask(http: &Client, url: &str, path: &str) -> Result<Value, LabError> {
    let response = http.get(format!("{url}{path}")).send().await?;
    Ok(response.error_for_status()?.json().await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is test code")]
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Starts a program that does this at its n-th start, and counts how often it was started.
    async fn start(store: Store, program: &str) -> (Result<Process, LabError>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let service = folder.path().join("service");
        let text =
            format!("#!/bin/sh\necho >>\"$1\"/starts\nn=$(wc -l <\"$1\"/starts)\n{program}\n");
        fs::write(&service, text).unwrap();
        fs::set_permissions(&service, fs::Permissions::from_mode(0o700)).unwrap();
        let started = Process::start_on(store, &service, folder.path(), Vec::new()).await;
        let starts = fs::read_to_string(folder.path().join("starts")).unwrap();
        (started, starts.lines().count())
    }

    const FILE: Store = Store::File {
        takeover_after: None,
    };
    const REDIS: Store = Store::Redis {
        lease: Duration::from_secs(2),
    };

    #[tokio::test]
    async fn a_service_whose_server_did_not_answer_is_started_again_and_no_other() {
        let (started, n) = start(
            REDIS,
            "[ $n -lt 3 ] && exit 75; echo listening on nothing; cat",
        )
        .await;
        assert_eq!((started.unwrap().url.as_str(), n), ("nothing", 3));

        let (started, n) = start(REDIS, "exit 75").await;
        assert_eq!(n, STARTS_MAX);
        assert!(started.unwrap_err().to_string().contains("75"));

        for (store, other) in [
            (REDIS, "exit 1"),
            (REDIS, "exit 101"),
            (REDIS, "kill -9 $$"),
            (FILE, "exit 75"),
        ] {
            let (started, n) = start(store, other).await;
            assert_eq!((started.is_err(), n), (true, 1), "{other}");
        }
    }
}
