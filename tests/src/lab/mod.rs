//! The crash laboratory: a real service in several processes on one file or one Redis server, whose processes are killed, stopped and
//! ended at random moments while tasks are added over HTTP; and a checker that reads what the tasks did and what is
//! stored, and names each promise that was broken.
//!
//! `tests/tests/crash_lab.rs` plays a small one in every test run, `cargo run --release -p tests --bin lab` a long one.

pub mod errand;
pub mod effects;
pub mod store;
pub mod process;
pub mod history;
mod orders;
mod faults;
mod pulse;
pub mod driver;
pub mod report;
pub mod checker;
pub mod coordination;

use std::{fmt, path::PathBuf, time::Duration};

pub use report::{Report, Violation};
pub use store::Store;

/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long an instance counts as alive that says nothing, on Redis.
const LEASE: Duration = Duration::from_secs(2);

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program of the service.
    pub service: PathBuf,
    /// Where the file, the effects and the log lie.
    pub folder: PathBuf,
    /// Where the tasks are kept.
    pub store: Store,
    /// How many tasks are ordered.
    pub tasks: u64,
    /// How often a process is killed, ended or stopped, or the server is hurt.
    pub faults: u64,
    /// Processes that share the store.
    pub processes: usize,
    /// What chance is drawn from.
    pub seed: u64,
    /// Chances that a fault is one of the server or of a link, in percent. None on a file.
    pub server_percent: u64,
    /// Chances that one of a process is a stop, in percent.
    pub stops_percent: u64,
    /// Chances that one that is no stop is a clean end and not a kill, in percent.
    pub ends_percent: u64,
    /// Of a thousand tasks so many abort their process the first time.
    pub aborts_permille: u32,
    /// Where the first process ends, as `FAILPOINTS` has it: `writer::committed=7*off->return`.
    pub crash_at: Option<String>,
    /// No more is ordered after this time.
    pub orders_max: Option<Duration>,
    /// How long the last tasks may take once everything is calm.
    pub calm_max: Duration,
    /// Is told after each fault how many tasks are ordered, and how many faults that was.
    pub progress: fn(u64, u64),
}

impl Plan {
    /// The one that runs in every test run: 5,000 tasks, 30 faults of every kind, three processes.
    #[must_use]
    pub fn new(service: PathBuf, folder: PathBuf, seed: u64) -> Self {
        Self {
            service,
            folder,
            tasks: 5_000,
            store: Store::File {
                takeover_after: None,
            },
            faults: 30,
            processes: 3,
            seed,
            server_percent: 0,
            stops_percent: 15,
            ends_percent: 25,
            aborts_permille: 1,
            crash_at: None,
            orders_max: None,
            calm_max: Duration::from_secs(60),
            progress: |_, _| {},
        }
    }

    /// The same on Redis: every third fault is one of the server or of a link.
    #[must_use]
    pub fn on_redis(self) -> Self {
        Self {
            store: Store::Redis { lease: LEASE },
            server_percent: 33,
            ..self
        }
    }
}

/// Why no laboratory could be played.
pub type LabError = Box<dyn std::error::Error + Send + Sync>;

/// Plays the plan and checks what came of it.
///
/// # Errors
/// If a process cannot be started, or what it left cannot be read. A broken promise is no error: see [`Report`].
pub async fn play(plan: &Plan) -> Result<Report, LabError> {
    let history = Box::pin(driver::drive(plan)).await?; // many layers deep, which the compiler counts
    Ok(checker::check(&history))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tasks, {} faults, {} processes, seed {}",
            self.tasks, self.faults, self.processes, self.seed
        )?;
        match self.store {
            Store::File {
                takeover_after: Some(silence),
            } => write!(f, ", who is silent for {silence:?} is taken for dead")?,
            Store::File { .. } => {}
            Store::Redis { lease } => write!(f, ", on Redis with a lease of {lease:?}")?,
        }
        match &self.crash_at {
            Some(point) => write!(f, ", the first ends at {point}"),
            None => Ok(()),
        }
    }
}
