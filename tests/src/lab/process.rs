//! One process of the service.

use std::{os::unix::process::ExitStatusExt, path::Path, process::Stdio, time::Duration};

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    LabError,
    store::{Settings, Store},
};

/// How long a process may take to start or to end.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a service is started whose server does not answer.
const STARTS_MAX: usize = 5;

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
                    return Ok(url.to_owned());
                }
            }
            Err(LabError::from("the service ended before it listened"))
        };
        let url = tokio::time::timeout(DEADLINE, listening).await??;
        // Read on, so that the service never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, url, pid })
    }

    /// The same, without a crash point. On Redis several times: others may keep the server from its processor, so that it
    /// does not answer in time, and who starts does not wait for longer.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn start_on(
        store: Store,
        service: &Path,
        folder: &Path,
        settings: Settings,
    ) -> Result<Self, LabError> {
        if matches!(store, Store::Redis { .. }) {
            for _ in 1..STARTS_MAX {
                match Self::start(service, folder, settings.clone(), None).await {
                    Ok(process) => return Ok(process),
                    Err(error) => eprintln!("lab: {error}"),
                }
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
