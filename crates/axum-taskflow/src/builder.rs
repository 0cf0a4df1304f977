//! Setters that judge nothing; [`Builder::build`] judges everything.

use std::{env::VarError, sync::Arc, time::Duration};

use axum_taskflow_core::{Backend, Clock, Config, Error, Role, Schedule, TaskDef, TaskOptions};
#[cfg(feature = "redis")]
use axum_taskflow_redis::RedisOptions;
#[cfg(feature = "sqlite")]
use axum_taskflow_sqlite::{Durability, SqliteOptions};

use crate::manager::TaskManager;

/// Settings of a [`TaskManager`].
///
/// ```standalone_crate
/// use std::time::Duration;
/// use axum_taskflow::TaskManager;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("tasks.db");
/// let manager = TaskManager::builder()
///     .sqlite(path)
///     .concurrency(50)
///     .retries(2)
///     .delay(Duration::from_secs(1))
///     .build()
///     .await?;
/// # manager.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `build().await`"]
pub struct Builder {
    config: Config,
    store: Store,
    #[cfg(feature = "sqlite")]
    durability: Option<Durability>,
    role: Option<Role>,
}

/// Where tasks are stored.
#[derive(Debug, Default)]
enum Store {
    /// As the configuration says: in memory, or in a backend of the user's own.
    #[default]
    Configured,
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteOptions),
    #[cfg(feature = "redis")]
    Redis(RedisOptions),
}

/// Says what an instance does with tasks, unless the builder does.
const ROLE_VARIABLE: &str = "TASKFLOW_ROLE";

impl Builder {
    /// Stores tasks in this SQLite file, which is made if it is not there. Its folder must be on a local disk.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(self, path: impl Into<std::path::PathBuf>) -> Self {
        self.sqlite_with(SqliteOptions::new(path))
    }

    /// Stores tasks in an SQLite file, with options.
    #[cfg(feature = "sqlite")]
    pub fn sqlite_with(mut self, options: SqliteOptions) -> Self {
        self.store = Store::Sqlite(options);
        self
    }

    /// Stores tasks in Redis or Valkey, for services on several hosts: `redis://[user:password@]host[:port][/db]`, or
    /// `rediss://` with TLS.
    #[cfg(feature = "redis")]
    pub fn redis(self, url: impl Into<String>) -> Self {
        self.redis_with(RedisOptions::new(url))
    }

    /// Stores tasks in Redis or Valkey, with options: a cluster, sentinels, a prefix.
    #[cfg(feature = "redis")]
    pub fn redis_with(mut self, options: RedisOptions) -> Self {
        self.store = Store::Redis(options);
        self
    }

    /// What a stored task survives, if it is stored in an SQLite file: see [`Durability`].
    #[cfg(feature = "sqlite")]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Stores tasks in a backend of your own.
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.config.backend = Arc::new(backend);
        self.store = Store::Configured;
        self
    }

    /// Adds a function that has no `#[task]`.
    pub fn task(mut self, task: TaskDef) -> Self {
        self.config.tasks.push(task);
        self
    }

    /// False: what has `#[task]` or `#[schedule]` is not taken, only what the builder is given. For tests that build managers
    /// with different functions.
    pub fn collect(mut self, collect: bool) -> Self {
        self.config.collect = collect;
        self
    }

    /// Gives functions a state by [`Data`](crate::Data); one of each type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.config.state(state);
        self
    }

    /// Async functions that run at once; 100 unless set.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.config.concurrency = concurrency;
        self
    }

    /// Plain functions that run at once, each on a thread; the number of cores, but at least 4, unless set.
    pub fn blocking_threads(mut self, blocking_threads: usize) -> Self {
        self.config.blocking_threads = blocking_threads;
        self
    }

    /// Attempts after the first one, for tasks that say nothing else; 0 unless set.
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.defaults.retries = Some(retries);
        self
    }

    /// The wait after the first failed attempt, for tasks that say nothing else; none unless set.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.config.defaults.delay = Some(delay);
        self
    }

    /// What tasks do unless their function or the caller says otherwise. Replaces what was set before.
    pub fn defaults(mut self, defaults: TaskOptions) -> Self {
        self.config.defaults = defaults;
        self
    }

    /// How long tasks that succeeded or were cancelled are kept; 7 days unless set.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.config.retention = retention;
        self
    }

    /// How long tasks that failed or were interrupted are kept; 30 days unless set.
    pub fn retention_failed(mut self, retention: Duration) -> Self {
        self.config.retention_failed = retention;
        self
    }

    /// How long tasks may go on when the service shuts down; 25 s unless set.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.config.shutdown_timeout = timeout;
        self
    }

    /// How long `add_task` waits at most for the store; 5 s unless set.
    pub fn add_timeout(mut self, timeout: Duration) -> Self {
        self.config.add_timeout = timeout;
        self
    }

    /// New tasks that wait to be stored, before `add_task` waits; 10,000 unless set.
    pub fn queue_max(mut self, queue_max: usize) -> Self {
        self.config.queue_max = queue_max;
        self
    }

    /// Bytes of the arguments of one task; 1 MiB unless set.
    pub fn args_max(mut self, args_max: usize) -> Self {
        self.config.args_max = args_max;
        self
    }

    /// Bytes of a result that is kept; 1 MiB unless set.
    pub fn result_max(mut self, result_max: usize) -> Self {
        self.config.result_max = result_max;
        self
    }

    /// Tasks in one `add_tasks`; 100,000 unless set.
    pub fn bulk_max(mut self, bulk_max: usize) -> Self {
        self.config.bulk_max = bulk_max;
        self
    }

    /// What this instance does with tasks: run them, only add them, or both, which it is unless set here or by the
    /// environment variable `TASKFLOW_ROLE` (`both`, `web`, `worker`). What is set here counts.
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// Runs a function at its times, once in the cluster for each slot: see [`Schedule`]. Code says what the schedule is;
    /// each start compares it with what is stored.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.config.schedules.push(schedule);
        self
    }

    /// Whether this instance may lead, which it may unless set ([`leader`](axum_taskflow_core::TaskManager::leader)).
    pub fn leads(mut self, leads: bool) -> Self {
        self.config.leads = leads;
        self
    }

    /// After so many deaths of a process while it ran a task with `requeue_on_interrupt`, the task is failed: it may be
    /// what kills them. 3 unless set.
    pub fn crashes_max(mut self, crashes_max: u32) -> Self {
        self.config.crashes_max = crashes_max;
        self
    }

    /// Takes the tasks of an instance that lives and shows no sign of life for so long, such as a process that was
    /// stopped. Off unless set, since a process may come back: its results are dropped then, but whatever its
    /// functions still do to the outside world happens twice. At least 3 s.
    pub fn takeover_after(mut self, limit: Duration) -> Self {
        self.config.takeover_after = Some(limit);
        self
    }

    /// The version of your program, shown with its instances: `env!("CARGO_PKG_VERSION")`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.config.version = version.into();
        self
    }

    /// What time it is; for tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Opens the store, takes over what a former process left, and starts to run tasks.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, in one message (`Invalid`); or why the store cannot be used
    /// (`Unavailable`).
    ///
    /// # Cancel safety
    /// Dropped while it is awaited, what it has begun is ended.
    pub async fn build(mut self) -> Result<TaskManager, Error> {
        match self.role.map_or_else(role_of_environment, Ok) {
            Ok(role) => self.config.role = role,
            Err(complaint) => self.config.complaints.push(complaint),
        }
        #[cfg(feature = "sqlite")]
        if self.durability.is_some() && !matches!(self.store, Store::Sqlite(_)) {
            let complaint = "durability is for tasks in an SQLite file: add .sqlite(path)";
            self.config.complaints.push(complaint.to_owned());
        }
        let of_store = match &self.store {
            Store::Configured => Vec::new(),
            #[cfg(feature = "sqlite")]
            Store::Sqlite(options) => options.complaints(),
            #[cfg(feature = "redis")]
            Store::Redis(options) => options.complaints(),
        };
        self.config.complaints.extend(of_store);
        let configured = self.config.backend.clone();
        let store = async {
            let backend: Arc<dyn Backend> = match self.store {
                Store::Configured => configured,
                #[cfg(feature = "sqlite")]
                Store::Sqlite(mut options) => {
                    if let Some(durability) = self.durability {
                        options = options.durability(durability);
                    }
                    Arc::new(opened(options).await?)
                }
                #[cfg(feature = "redis")]
                Store::Redis(options) => Arc::new(options.open().await?),
            };
            Ok(backend)
        };
        let started = axum_taskflow_core::TaskManager::start_with(self.config, store);
        Ok(TaskManager(started.await?))
    }
}

fn role_of_environment() -> Result<Role, String> {
    match std::env::var(ROLE_VARIABLE) {
        Ok(role) => role
            .parse()
            .map_err(|error| format!("{ROLE_VARIABLE}: {error}")),
        Err(VarError::NotPresent) => Ok(Role::default()),
        Err(error @ VarError::NotUnicode(_)) => Err(format!("{ROLE_VARIABLE}: {error}")),
    }
}

/// Opening a file may wait for another process: not on the runtime.
#[cfg(feature = "sqlite")]
async fn opened(options: SqliteOptions) -> Result<axum_taskflow_sqlite::Sqlite, Error> {
    match tokio::task::spawn_blocking(move || options.open()).await {
        Ok(opened) => opened.map_err(Error::from),
        Err(error) => Err(Error::new(
            axum_taskflow_core::ErrorKind::Unavailable,
            format!("opening the task store was cut off: {error}"),
        )),
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use axum_taskflow_core::ErrorKind;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    async fn sweep() {}

    fn daily() -> Schedule {
        Schedule::new(sweep, ()).every(DAY)
    }

    #[tokio::test]
    async fn everything_that_is_wrong_with_the_settings_is_said_at_once() {
        let builder = Builder::default()
            .collect(false)
            .durability(Durability::PowerLoss)
            .schedule(Schedule::new(sweep, ()).cron("61 * * * *"))
            .concurrency(0);

        let error = builder.build().await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        for part in [
            "durability is for tasks in an SQLite file",
            "61 * * * *",
            "concurrency must be at least 1",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn what_is_wrong_with_the_options_of_redis_is_said_with_the_other_settings_and_without_passwords()
     {
        let options = RedisOptions::new("redis://ada:secret")
            .prefix("")
            .lease(Duration::ZERO);
        let builder = Builder::default().collect(false).concurrency(0);

        let error = builder.redis_with(options).build().await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = format!("{error} {error:?}");
        for part in [
            "concurrency must be at least 1",
            "is no prefix",
            "lease",
            "\"ada\" is no address of Redis",
            "write redis://10.0.0.5:6379",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }

    #[tokio::test]
    async fn a_path_that_names_no_file_is_said_with_the_other_settings() {
        for path in ["", ":memory:"] {
            let builder = Builder::default().collect(false).concurrency(0);

            let error = builder.sqlite(path).build().await.unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let text = error.to_string();
            assert!(text.contains("concurrency must be at least 1"), "{text}");
            assert!(text.contains(&format!("cannot open {path:?}: ")), "{text}");
        }
    }

    #[tokio::test]
    async fn of_settings_that_are_wrong_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let wrong: [fn(Builder) -> Builder; 4] = [
            |builder| builder.concurrency(0),
            |builder| builder.task(TaskDef::new(sweep)).task(TaskDef::new(sweep)),
            |builder| builder.schedule(daily()).schedule(daily()),
            |builder| builder.schedule(Schedule::named("nobody_knows", "[]").every(DAY)),
        ];

        for set in wrong {
            let builder = Builder::default().collect(false);
            let builder = set(builder.sqlite(folder.path().join("tasks.db")));
            let error = builder.build().await.unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let n_files = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(n_files, 0, "{error}");
        }
    }
}
