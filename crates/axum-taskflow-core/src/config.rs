//! What a manager is made of: plain fields that judge nothing. [`TaskManager::start`](crate::TaskManager::start)
//! judges everything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    backend::{Backend, Role},
    clock::Clock,
    error::Error,
    memory::Memory,
    registry::{self, Registry, TaskDef},
    schedule::{self, Definition, Schedule},
    states::States,
    task::TaskOptions,
};

/// The settings of a [`TaskManager`](crate::TaskManager).
///
/// ```
/// use axum_taskflow_core::{Config, TaskManager};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut config = Config::default();
/// config.concurrency = 0;
/// config.blocking_threads = 0;
///
/// let error = TaskManager::start(config).await.unwrap_err();
///
/// assert_eq!(
///     error.to_string(),
///     "concurrency must be at least 1; blocking_threads must be at least 1"
/// );
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where tasks are stored. Memory unless set: then they are lost with the process.
    pub backend: Arc<dyn Backend>,
    /// Functions, besides those with `#[task]`.
    pub tasks: Vec<TaskDef>,
    /// What is to run at which times.
    pub schedules: Vec<Schedule>,
    /// Take all functions with `#[task]`, and all their `#[schedule]`s, in this program. True unless set.
    pub collect: bool,
    /// What [`Data`](crate::Data) gives to functions.
    pub states: States,
    /// Async functions that run at once. 100 unless set.
    pub concurrency: usize,
    /// Plain functions that run at once, each on a thread. The number of cores, but at least 4, unless set.
    pub blocking_threads: usize,
    /// What tasks do unless their function or the caller says otherwise.
    pub defaults: TaskOptions,
    /// New tasks that wait to be stored; more make `add_task` wait. 10,000 unless set.
    pub queue_max: usize,
    /// How long `add_task` waits at most. 5 s unless set.
    pub add_timeout: Duration,
    /// Bytes of the arguments of one task. 1 MiB unless set.
    pub args_max: usize,
    /// Bytes of a result that is kept. 1 MiB unless set.
    pub result_max: usize,
    /// Tasks in one `add_tasks`. 100,000 unless set.
    pub bulk_max: usize,
    /// How long tasks that succeeded or were cancelled are kept. 7 days unless set.
    pub retention: Duration,
    /// How long tasks that failed or were interrupted are kept. 30 days unless set.
    pub retention_failed: Duration,
    /// How long tasks may go on when the manager shuts down. 25 s unless set.
    pub shutdown_timeout: Duration,
    /// What this instance does with tasks. Both unless set.
    pub role: Role,
    /// Whether this instance may lead ([`TaskManager::leader`](crate::TaskManager::leader)). True unless set.
    pub leads: bool,
    /// After so many deaths of a process while it ran a task that may be repeated, the task is failed. 3 unless set.
    pub crashes_max: u32,
    /// Takes over from an instance that lives and has not beaten for so long, such as a process that was stopped. Off
    /// unless set: on one machine it is not needed. At least 3 s, since instances beat once a second.
    pub takeover_after: Option<Duration>,
    /// The version of the program, for people.
    pub version: String,
    /// What time it is.
    pub clock: Clock,
    /// The name of this machine, for people.
    pub host: String,
    /// What is wrong with settings that only whoever makes this knows: said with everything else that is wrong.
    pub complaints: Vec<String>,
}

const DAY: Duration = Duration::from_secs(24 * 3_600);
const MIB: usize = 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            backend: Arc::new(Memory::default()),
            tasks: Vec::new(),
            schedules: Vec::new(),
            collect: true,
            states: States::default(),
            concurrency: 100,
            blocking_threads: cores.max(4),
            defaults: TaskOptions::default(),
            queue_max: 10_000,
            add_timeout: Duration::from_secs(5),
            args_max: MIB,
            result_max: MIB,
            bulk_max: 100_000,
            retention: 7 * DAY,
            retention_failed: 30 * DAY,
            shutdown_timeout: Duration::from_secs(25),
            role: Role::default(),
            leads: true,
            crashes_max: 3,
            takeover_after: None,
            version: String::new(),
            clock: Clock::system(),
            host: hostname(),
            complaints: Vec::new(),
        }
    }
}

impl Config {
    /// Adds a state for [`Data`](crate::Data); one of each type, the last one counts.
    pub fn state<T: Clone + Send + Sync + 'static>(&mut self, state: T) {
        self.states.insert(state);
    }

    /// Judges everything: the functions of the program, and what it says of its schedules.
    pub(crate) fn judged(&mut self) -> Result<(Registry, BTreeMap<String, Definition>), Error> {
        let mut defs = std::mem::take(&mut self.tasks);
        let mut schedules = std::mem::take(&mut self.schedules);
        if self.collect {
            defs.extend(registry::collected());
            schedules.extend(schedule::collected());
        }
        let of_schedules = schedules.iter().filter_map(Schedule::complaint_with_place);
        self.complaints.extend(of_schedules);
        let mut complaints = self.complaints();
        let registry = Registry::new(defs, &self.states)
            .map_err(|wrong| complaints.extend(wrong))
            .unwrap_or_default();
        if !complaints.is_empty() {
            return Err(Error::invalid(complaints.join("; ")));
        }
        let (mut definitions, mut places) = (BTreeMap::new(), BTreeMap::new());
        for schedule in schedules {
            let at = schedule.at();
            let (name, definition) = schedule.define(&registry, &self.states, self.args_max)?;
            if let Some(other) = places.insert(name.clone(), at.clone()) {
                return Err(Error::invalid(format!(
                    "there are two schedules {name} ({other} and {at}): give one of them another name"
                )));
            }
            definitions.insert(name, definition);
        }
        Ok((registry, definitions))
    }

    /// Everything that is wrong with the settings.
    fn complaints(&self) -> Vec<String> {
        let counts = [
            ("concurrency", self.concurrency),
            ("blocking_threads", self.blocking_threads),
            ("queue_max", self.queue_max),
            ("args_max", self.args_max),
            ("bulk_max", self.bulk_max),
        ];
        let mut complaints = self.complaints.clone();
        let none = counts.into_iter().filter(|(_, n)| *n == 0);
        complaints.extend(none.map(|(name, _)| format!("{name} must be at least 1")));
        for (name, n, max) in [
            ("concurrency", self.concurrency, 1_000_000),
            ("blocking_threads", self.blocking_threads, 10_000),
            ("queue_max", self.queue_max, 10_000_000),
        ] {
            if n > max {
                complaints.push(format!("{name} must be at most {max}, not {n}"));
            }
        }
        if self.add_timeout.is_zero() {
            complaints.push("add_timeout must be longer than zero".to_owned());
        }
        if self.crashes_max == 0 {
            complaints.push("crashes_max must be at least 1".to_owned());
        }
        if self
            .takeover_after
            .is_some_and(|after| after < Duration::from_secs(3))
        {
            complaints.push("takeover_after must be at least 3 s".to_owned());
        }
        complaints.extend(self.defaults.complaint());
        complaints
    }
}

/// The name of this machine as the environment or the kernel tells it; empty if neither does.
fn hostname() -> String {
    std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
