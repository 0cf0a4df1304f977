//! The handle that services hold.

use std::{collections::BTreeMap, panic::Location, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use smallvec::{SmallVec, smallvec};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    add::{AddTask, AddTasks, RUN_KEY_TAG, Request, retry_of, store, stored_run_key},
    backend::{
        AheadPage, AheadQuery, Applied, AuditEntry, Backend, Count, Enqueued, Instance, ListQuery,
        Minute, Page, Peer,
    },
    change::Change,
    clock::Timestamp,
    config::Config,
    engine::{Engine, asks::Asked, scheduler::Edit},
    error::{Error, ErrorKind},
    event::EventStream,
    failure::FailureReport,
    handler::{Args, IntoArgs, TaskFn},
    health::Health,
    hold::{self, HoldKind, Holder, Leader, Lock},
    id::TaskId,
    once::{Once, Scope},
    registry::FunctionInfo,
    schedule::{Definition, Origin, Schedule, ScheduleInfo},
    status::TaskStatus,
    task::{IdempotencyKey, LogLine, Task, TaskOptions},
};

/// Adds tasks, runs them, and tells about them. A cheap handle: clone it freely.
///
/// ```
/// use axum_taskflow_core::{Config, TaskManager};
///
/// async fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = TaskManager::start(Config::default()).await?;
///
/// let id = manager.add_task(add, (2, 3)).priority(5).await?;
///
/// assert_eq!(manager.wait::<u32>(id).await?, 5);
/// # manager.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TaskManager {
    pub(crate) engine: Arc<Engine>,
}

/// What [`TaskManager::cancel`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancelled {
    /// The task had not begun, and never will.
    Now,
    /// The task runs, here or at another instance: its token has fired. An async function is dropped at its next await; a
    /// plain one ends when it looks. It may end otherwise before that, but it does not begin again there. If others took that
    /// instance for dead, they may have the task by then.
    Asked,
    /// The task runs at another instance, which has not answered within [`Config::add_timeout`]: its process may be
    /// stopped, or of a version that cannot be asked. It is told to stop as above as soon as it looks, unless the attempt
    /// ends before; a later attempt is not cancelled by that.
    Sent,
}

/// Why there is no result to wait for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The task ended without success.
    #[error("task {} is {}{}", .0.id, .0.life.status, reason(.0.life.error.as_deref()))]
    NotSuccessful(Box<Task>),
    /// The result is stored, but it is not of the type that was asked for, or was too large to be kept.
    #[error("the result of the task is not of the type that was asked for")]
    Result(#[source] serde_json::Error),
    /// The task could not be looked at.
    #[error(transparent)]
    Manager(#[from] Error),
}

fn reason(error: Option<&FailureReport>) -> String {
    error
        .map(|error| format!(": {}", error.message))
        .unwrap_or_default()
}

/// Between two looks at a task that somebody waits for and that may end in another process, at first and at most.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(20);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(500);
/// How often a change of a waiting task is tried that others change at the same time.
const CHANGE_TRIES: usize = 20;

impl TaskManager {
    /// Joins the store, takes over what a former process left, and starts to run tasks.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, in one message; or why the store cannot be used.
    ///
    /// # Cancel safety
    /// Dropped while it is awaited, what it has begun is ended.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let backend = config.backend.clone();
        Self::start_with(config, async { Ok(backend) }).await
    }

    /// As [`start`](TaskManager::start), with a store that is opened once nothing is wrong with the settings, instead of
    /// [`Config::backend`]: who got one wrong finds no empty store afterwards.
    ///
    /// # Errors
    /// As [`start`](TaskManager::start), or why the store cannot be opened.
    pub async fn start_with(
        mut config: Config,
        opened: impl Future<Output = Result<Arc<dyn Backend>, Error>>,
    ) -> Result<Self, Error> {
        let (registry, schedules) = config.judged()?;
        config.backend = opened.await?;
        let starting = Engine::start(config, registry).await?;
        let manager = Self {
            engine: starting.engine.clone(),
        };
        if let Err(error) = manager.install(schedules).await {
            let _ = manager.shutdown().await; // why it cannot start says more
            return Err(error);
        }
        manager.engine.work();
        starting.done();
        Ok(manager)
    }

    /// Adds a task: `.await` answers with its id once it is safe in the store.
    ///
    /// One argument is given as it is, several as a tuple, none as `()`. See [`AddTask`] for options and errors.
    ///
    /// Functions with `#[task]` (or in [`Config::tasks`]) can be taken over by any process of the program. Any other
    /// function, and a closure that captures nothing, can be added as well, with a limit: its tasks are stored under
    /// its path, and after a restart they wait until the function is added again, since only then it is known.
    /// A closure that captures values does not compile: pass them as arguments.
    ///
    /// ```compile_fail
    /// # #[tokio::main]
    /// # async fn main() {
    /// # let config = axum_taskflow_core::Config::default();
    /// # let manager = axum_taskflow_core::TaskManager::start(config).await.unwrap();
    /// let name = String::new();
    /// manager.add_task(move || println!("{name}"), ()).await;
    /// # }
    /// ```
    #[track_caller]
    pub fn add_task<F, P, M, A>(&self, function: F, args: A) -> AddTask<'_>
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
        A: IntoArgs<P, F>,
    {
        AddTask::new(
            &self.engine,
            self.request(function, [args], Location::caller()),
        )
    }

    /// Adds a task for a time to come: as [`add_task`](TaskManager::add_task), and its [`source`](Task::source) says so.
    /// Give it [`run_at`](AddTask::run_at) or [`delay_by`](AddTask::delay_by), and a [`run_key`](AddTask::run_key) if it may
    /// have to be moved or cancelled. It costs no memory while it waits.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use axum_taskflow_core::{Config, TaskManager};
    /// async fn auto_complete(order: u64) {}
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), axum_taskflow_core::Error> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let day = Duration::from_secs(24 * 3_600);
    /// let id = manager.schedule_once(auto_complete, 42).delay_by(day).run_key("order:42").await?;
    ///
    /// let coming = manager.list_scheduled(manager.now().saturating_add(2 * day)).await?;
    /// assert_eq!(coming.tasks[0].id, id);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn schedule_once<F, P, M, A>(&self, function: F, args: A) -> AddTask<'_>
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
        A: IntoArgs<P, F>,
    {
        self.add_task(function, args).scheduled()
    }

    /// As [`schedule_once`](TaskManager::schedule_once), of a function by its name; its arguments are a JSON array.
    pub fn schedule_once_named(&self, function: &str, args: &str) -> AddTask<'_> {
        let request = self.engine.registry.named(function, args);
        let request = request.map(|def| Request {
            def,
            args: smallvec![args.to_owned()],
        });
        AddTask::new(&self.engine, request).scheduled()
    }

    /// Tasks that wait for their time, those first that come first: what was scheduled, and what waits for another
    /// attempt ([`Life::attempt`](crate::Life) is not 0). Of how many, is said by the query; cost does not grow with those
    /// that it does not ask for.
    ///
    /// # Errors
    /// `Invalid` if [`AheadQuery::from`] is none that a page has named, `Unavailable` if the store cannot be read.
    pub async fn list_scheduled(&self, query: impl Into<AheadQuery>) -> Result<AheadPage, Error> {
        let mut query: AheadQuery = query.into();
        query.after = query.after.max(self.now()); // the others are due
        let has_place = query.from.is_some();
        self.engine.backend.ahead(query).await.map_err(|failure| {
            match has_place && failure.is_refused() {
                true => Error::invalid(failure.to_string()),
                false => failure.into(),
            }
        })
    }

    /// A lead: at most one instance in the cluster has it at a time, and another one takes it when that dies, shuts down
    /// or cannot reach the store.
    ///
    /// ```
    /// # use axum_taskflow_core::{Config, TaskManager};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), axum_taskflow_core::Error> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let mails = manager.leader("mailer").run(async |lead| {
    ///     // Here, and nowhere else until this is dropped.
    ///     format!("sent in term {}", lead.epoch())
    /// });
    ///
    /// assert!(mails.await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn leader(&self, name: impl Into<String>) -> Leader {
        Leader {
            engine: self.engine.clone(),
            name: hold::name(HoldKind::Leader, name.into()),
        }
    }

    /// A lock: at most one holder in the cluster has it at a time. It is free when its guard is dropped, and when the
    /// instance that holds it dies.
    ///
    /// ```
    /// # use axum_taskflow_core::{Config, TaskManager};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), axum_taskflow_core::Error> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let guard = manager.lock("report:42").acquire().await?;
    ///
    /// assert!(manager.lock("report:42").try_acquire().await?.is_none());
    /// guard.release().await?;
    /// assert!(manager.lock("report:42").try_acquire().await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl Into<String>) -> Lock<'_> {
        Lock {
            engine: &self.engine,
            name: hold::name(HoldKind::Lock, name.into()),
        }
    }

    /// Stores the schedules of the program.
    async fn install(&self, schedules: BTreeMap<String, Definition>) -> Result<(), Error> {
        // Before anybody hears that this instance is there: then another one may leave, and the cluster goes on.
        self.engine.boot().await?;
        self.engine.install(schedules).await
    }

    /// Adds a schedule, or changes the one of its name: in the store, for all instances and all starts to come.
    ///
    /// # Errors
    /// What is wrong with it; a schedule of the program has this name; or the store fails.
    pub async fn schedule(&self, schedule: Schedule) -> Result<(), Error> {
        let mut schedule = schedule;
        let actor = schedule.actor.take();
        let engine = &self.engine;
        let (name, definition) =
            schedule.define(&engine.registry, &engine.states, engine.args_max)?;
        let defined = engine.define(&name, definition, Origin::Manual, actor);
        engine.in_time(defined).await
    }

    /// All schedules by name, with their next slots and last decisions.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn schedules(&self) -> Result<Vec<ScheduleInfo>, Error> {
        self.engine.schedules().await
    }

    /// Fires no slot of this schedule until it is resumed, whatever starts or stops. `actor` is written to the audit.
    ///
    /// # Errors
    /// There is none of this name, or the store fails.
    pub async fn pause_schedule(&self, name: &str, actor: &str) -> Result<(), Error> {
        let edited = self.edit_schedule(name, Edit::Pause, actor);
        edited.await.map(drop)
    }

    /// Goes on with the next slot that comes.
    ///
    /// # Errors
    /// As [`TaskManager::pause_schedule`].
    pub async fn resume_schedule(&self, name: &str, actor: &str) -> Result<(), Error> {
        let edited = self.edit_schedule(name, Edit::Resume, actor);
        edited.await.map(drop)
    }

    /// Adds a task of this schedule now, beside its slots; paused or not.
    ///
    /// # Errors
    /// As [`TaskManager::pause_schedule`], and this instance does not know the function.
    pub async fn run_schedule(&self, name: &str, actor: &str) -> Result<TaskId, Error> {
        let edited = self.edit_schedule(name, Edit::Run, actor).await?;
        edited.ok_or_else(|| Error::conflict("no task was added"))
    }

    /// Deletes a schedule that was added while the program ran, or that the program has no more, or whose function nobody
    /// alive knows.
    ///
    /// # Errors
    /// As [`TaskManager::pause_schedule`], and the program has it.
    pub async fn delete_schedule(&self, name: &str, actor: &str) -> Result<(), Error> {
        let edited = self.edit_schedule(name, Edit::Delete, actor);
        edited.await.map(drop)
    }

    async fn edit_schedule(
        &self,
        name: &str,
        edit: Edit,
        actor: &str,
    ) -> Result<Option<TaskId>, Error> {
        let edited = self.engine.edit_schedule(name, edit, actor);
        self.engine.in_time(edited).await
    }

    /// Something that is run once: in one process of all that ask for it. The others wait for its outcome; if the process
    /// dies, one of them runs it.
    ///
    /// ```
    /// # use axum_taskflow_core::{Config, OnceOutcome, Scope, TaskManager};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let migrate = || async { Ok::<(), std::io::Error>(()) };
    ///
    /// let first = manager.run_once("migrate-2026-11", Scope::Forever, migrate).await?;
    /// let again = manager.run_once("migrate-2026-11", Scope::Forever, migrate).await?;
    ///
    /// assert_eq!((first, again), (OnceOutcome::Ran, OnceOutcome::AlreadyDone));
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_once<F>(&self, name: impl Into<String>, scope: Scope, work: F) -> Once<'_, F> {
        let name = hold::name(HoldKind::Once, name.into());
        Once::new(&self.engine, name, scope, work)
    }

    /// Who holds what: leads, locks, and what is being run once, in the order of their names.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn holders(&self) -> Result<Vec<Holder>, Error> {
        self.engine.holders().await
    }

    /// Takes a hold away from whoever has it; gives the epoch that was ended. The holder learns it within a moment, and
    /// what it still does under its [`Fence`](crate::Fence) is refused at once. `actor` is written to the audit.
    ///
    /// # Errors
    /// Nobody holds it, or the store fails.
    pub async fn release(
        &self,
        kind: HoldKind,
        name: impl Into<String>,
        actor: &str,
    ) -> Result<u64, Error> {
        let name = hold::name(kind, name.into())?;
        let released = self.engine.force_release(&name, actor);
        self.engine.in_time(released).await
    }

    /// Adds many tasks of one function in one step: all are safe in the store, or none is there.
    ///
    /// ```
    /// # use axum_taskflow_core::{Config, TaskManager};
    /// # async fn send_email(address: String) {}
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), axum_taskflow_core::Error> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let addresses = ["a@example.org", "b@example.org"].map(str::to_owned);
    ///
    /// let ids = manager.add_tasks(send_email, addresses).await?;
    ///
    /// assert_eq!(ids.len(), 2);
    /// # manager.shutdown().await
    /// # }
    /// ```
    #[track_caller]
    pub fn add_tasks<F, P, M, A>(
        &self,
        function: F,
        args: impl IntoIterator<Item = A>,
    ) -> AddTasks<'_>
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
        A: IntoArgs<P, F>,
    {
        AddTasks::new(
            &self.engine,
            self.request(function, args, Location::caller()),
        )
    }

    fn request<F, P, M, A>(
        &self,
        function: F,
        args: impl IntoIterator<Item = A>,
        place: &Location<'_>,
    ) -> Result<Request, Error>
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
        A: IntoArgs<P, F>,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "a closure that captures values cannot be a task, since it cannot be stored: pass the values as arguments"
            );
        }
        let (def, is_new) =
            self.engine
                .registry
                .of_function(function, place, &self.engine.states)?;
        if is_new {
            // Tasks of it may wait in the store since another process ran.
            self.engine.look_on_disk();
        }
        let max = self.engine.bulk_max;
        let mut encoded = SmallVec::new();
        for args in args {
            if encoded.len() == max {
                return Err(Error::invalid(format!(
                    "add_tasks takes at most {max} tasks at once: add the rest in further calls"
                )));
            }
            encoded.push(def.encode(&args.into_args())?);
        }
        Ok(Request { def, args: encoded })
    }

    /// Cancels a task: one that has not begun never runs, one that runs is asked to stop, whichever instance runs it.
    ///
    /// # Errors
    /// `NotFound` if there is no such task; `Conflict` if it has ended; `Unavailable` or `TimedOut` if the store fails or
    /// does not answer in time: the task may be cancelled or not; `Overloaded` if too much waits for it already.
    ///
    /// # Cancel safety
    /// Dropped while it is awaited, the task may be cancelled or not.
    pub async fn cancel(&self, id: TaskId) -> Result<Cancelled, Error> {
        let latest = Instant::now().checked_add(self.engine.add_timeout);
        for _ in 0..CHANGE_TRIES {
            if self.engine.cancel_here(id).await? {
                return Ok(Cancelled::Asked);
            }
            let task = self.engine.readable(id).await?;
            let task = task.ok_or_else(|| Error::not_found(id))?;
            match task.life.status {
                TaskStatus::Pending => {
                    let now = self.engine.clock.now();
                    let change = Change::cancelled(&task, now)
                        .map_err(|refused| Error::conflict(refused.to_string()))?;
                    if self.apply(change).await? == Applied::Applied {
                        return Ok(Cancelled::Now);
                    }
                }
                // It may have begun, or ended, since we looked at what runs here.
                TaskStatus::Running if self.engine.running().contains_key(&id) => {}
                TaskStatus::Running => match self.engine.ask_to_cancel(&task, latest).await? {
                    Asked::Heard => return Ok(Cancelled::Asked),
                    Asked::Sent => return Ok(Cancelled::Sent),
                    Asked::IsOver => {} // as above
                },
                status => {
                    return Err(Error::conflict(format!(
                        "only pending or running tasks can be cancelled, and task {id} is {status}"
                    )));
                }
            }
        }
        Err(Error::conflict(format!(
            "task {id} changes too fast to be cancelled"
        )))
    }

    /// Cancels the task with this [run key](AddTask::run_key) if it waits; answers with its id, or with none if nothing
    /// waits under this key.
    ///
    /// # Errors
    /// The store fails.
    pub async fn cancel_scheduled(&self, run_key: &str) -> Result<Option<TaskId>, Error> {
        for _ in 0..CHANGE_TRIES {
            let waiting = self.waiting_under(run_key).await?;
            if waiting.is_empty() {
                return Ok(None);
            }
            for task in waiting {
                let cancelled = Change::cancelled(&task, self.engine.clock.now());
                let Ok(change) = cancelled else {
                    continue;
                };
                if self.apply(change).await? == Applied::Applied {
                    return Ok(Some(task.id));
                } // else it has begun, or another one has taken its place and waits by now
            }
        }
        Err(Error::conflict(format!(
            "the task with run key {run_key:?} changes too fast to be cancelled"
        )))
    }

    async fn waiting_under(&self, run_key: &str) -> Result<Vec<Task>, Error> {
        let mut query = ListQuery {
            status: Some(TaskStatus::Pending),
            tag: Some((RUN_KEY_TAG.to_owned(), Some(run_key.to_owned()))),
            ..ListQuery::default()
        };
        let key = stored_run_key(run_key);
        let mut waiting = Vec::new();
        loop {
            let page = self.list(query.clone()).await?;
            // Anybody may use the tag: the key is what counts.
            let has_key = |task: &Task| {
                task.idempotency_key
                    .as_ref()
                    .is_some_and(|it| it.key == key)
            };
            waiting.extend(page.tasks.into_iter().filter(has_key));
            match page.next {
                Some(next) => query.before = Some(next),
                None => return Ok(waiting),
            }
        }
    }

    /// Adds a new task that repeats a finished one: same function, arguments, options, tags, key and
    /// tracking id.
    ///
    /// # Errors
    /// `NotFound` if there is no such task; `Conflict` if it is not failed, interrupted or cancelled, if its function
    /// is not known here, if its idempotency key is taken by now, or if another retry of it waits, runs or has succeeded in
    /// the last day.
    pub async fn retry(&self, id: TaskId) -> Result<TaskId, Error> {
        let old = self.engine.readable(id).await?;
        let old = old.ok_or_else(|| Error::not_found(id))?;
        if !old.life.status.can_be_retried() {
            return Err(Error::conflict(format!(
                "only failed, interrupted or cancelled tasks can be retried, and task {id} is {}",
                old.life.status
            )));
        }
        let Some(def) = self.engine.registry.by_name(&old.name) else {
            return Err(Error::conflict(format!(
                "no function called {} is registered in this process, so task {id} cannot be retried",
                old.name
            )));
        };
        let task = retry_of(&self.engine, &old, &def);
        let new_id = task.id;
        let is_of_retries = task
            .idempotency_key
            .as_ref()
            .is_some_and(IdempotencyKey::is_of_retries);
        match store(&self.engine, smallvec![Arc::new(task)]).await?.pop() {
            Some(Enqueued::Exists { id: other, .. }) if is_of_retries => Err(Error::conflict(
                format!("task {id} has been retried already, as task {other}"),
            )),
            Some(Enqueued::Exists { id: other, .. }) => Err(Error::conflict(format!(
                "the idempotency key of task {id} is taken by task {other}"
            ))),
            _ => Ok(new_id),
        }
    }

    /// One task with its past attempts, if there is one.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn get(&self, id: TaskId) -> Result<Option<Task>, Error> {
        Ok(self.engine.backend.get(id).await?)
    }

    /// The log lines of a task, oldest first: at most `limit` after the first `skip`.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn logs(&self, id: TaskId, skip: usize, limit: usize) -> Result<Vec<LogLine>, Error> {
        Ok(self.engine.backend.logs(id, skip, limit).await?)
    }

    /// A page of tasks, newest first. Go on with [`ListQuery::before`] set to [`Page::next`].
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn list(&self, query: ListQuery) -> Result<Page, Error> {
        Ok(self.engine.backend.list(query).await?)
    }

    /// How many tasks there are of each function and status.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn counts(&self) -> Result<Vec<Count>, Error> {
        Ok(self.engine.backend.counts().await?)
    }

    /// What ended in each minute from `since` on.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn series(&self, since: Timestamp) -> Result<Vec<Minute>, Error> {
        Ok(self.engine.backend.series(since).await?)
    }

    /// Who did what, newest first: at most `limit`, older than `before` if that is given.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn audit(
        &self,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, Error> {
        Ok(self.engine.backend.audit(before, limit).await?)
    }

    /// Keeps a record of somebody's action.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written, `TimedOut` if it does not answer in time: it may be kept or not.
    /// `Overloaded` if too many wait for it already.
    pub async fn record_audit(
        &self,
        actor: &str,
        action: &str,
        task: Option<TaskId>,
        detail: serde_json::Value,
    ) -> Result<(), Error> {
        let now = self.engine.clock.now();
        let entry = AuditEntry {
            id: self.engine.ids.task(now),
            at: now,
            actor: actor.to_owned(),
            action: action.to_owned(),
            task,
            detail,
        };
        let recorded = self.engine.journal.audit(entry);
        self.engine.in_time(recorded).await
    }

    /// Deletes tasks that finished before then; answers how many.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written; some may be deleted by then.
    pub async fn delete_history(&self, finished_before: Timestamp) -> Result<usize, Error> {
        Ok(self.engine.delete_history(finished_before).await?)
    }

    /// Waits until the task has succeeded, and reads its result. If it ends in another process, this is noticed within half a
    /// second; if it ends here, at once.
    ///
    /// # Errors
    /// See [`WaitError`]: the task ended otherwise, the result is of another type, or the task cannot be looked at.
    ///
    /// # Cancel safety
    /// May be dropped at any time; use `tokio::time::timeout` for a deadline.
    pub async fn wait<T: DeserializeOwned>(&self, id: TaskId) -> Result<T, WaitError> {
        let mut look_again = LOOK_AGAIN_MIN;
        loop {
            let mut ended = self.engine.wait_for(id);
            let task = self.get(id).await?.ok_or_else(|| Error::not_found(id))?;
            match task.life.status {
                TaskStatus::Success => {
                    let result = task.life.result.as_deref().unwrap_or("null");
                    return serde_json::from_str(result).map_err(WaitError::Result);
                }
                status if status.is_terminal() => {
                    return Err(WaitError::NotSuccessful(Box::new(task)));
                }
                _ if self.engine.drained.is_cancelled() => {
                    return Err(Error::shutting_down().into());
                }
                // All only mean: look again. Of what ends in another process nobody tells.
                _ => tokio::select! {
                    () = ended.ended() => {}
                    () = self.engine.drained.cancelled() => {}
                    () = tokio::time::sleep(look_again) => {
                        look_again = (look_again * 2).min(LOOK_AGAIN_MAX);
                    }
                },
            }
        }
    }

    /// Everything that happens to tasks from now on, as a stream.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.engine.feed.subscribe()
    }

    /// The functions that are known here.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionInfo> {
        self.engine.registry.functions()
    }

    /// True if this process can run tasks of this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.engine.registry.by_name(name).is_some()
    }

    /// How many attempts after the first one a task has: by its call, its function or the defaults.
    #[must_use]
    pub fn retries(&self, task: &Task) -> u32 {
        self.options(task).retry_policy().retries
    }

    /// How long one attempt of a task may take: by its call, its function or the defaults. Without any of them, for ever.
    #[must_use]
    pub fn timeout(&self, task: &Task) -> Option<Duration> {
        self.options(task).timeout
    }

    fn options(&self, task: &Task) -> TaskOptions {
        match self.engine.registry.by_name(&task.name) {
            Some(def) => self.engine.options(task, &def),
            None => task.options.or(&self.engine.defaults),
        }
    }

    /// This boot of this process. Goes on under a new id after others took it for dead.
    #[must_use]
    pub fn instance(&self) -> Arc<Instance> {
        self.engine.instance()
    }

    /// All instances that use the store, oldest first.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub async fn instances(&self) -> Result<Vec<Peer>, Error> {
        Ok(self.engine.backend.instances().await?)
    }

    /// What does not work at the moment. Asks nobody: what it tells is a second old at most.
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine.troubles.health(self.engine.add_timeout)
    }

    /// Results that came too late since this manager started: the task had been taken over from the attempt.
    #[must_use]
    pub fn stale_results(&self) -> u64 {
        self.engine.feed.n_stale()
    }

    /// The store, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        self.engine.backend.describe()
    }

    /// The time, by the manager's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.engine.clock.now()
    }

    /// Fires when shutdown begins: end what would keep connections open.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.engine.stopping.clone()
    }

    /// Stops starting tasks, lets those that run go on until the deadline, cancels the rest, and stores everything.
    ///
    /// Afterwards nothing runs, and what is added waits in the store for another process or the next start. For
    /// services that still answer requests while they shut down; [`TaskManager::shutdown`] goes on and closes.
    ///
    /// # Cancel safety
    /// Dropped while it is awaited, the work goes on; another call waits for its end.
    pub async fn drain(&self) {
        self.engine.drain().await;
    }

    /// Makes a shutdown that is under way wait no longer: what still runs is cancelled now, as after the deadline.
    pub fn hurry(&self) {
        self.engine.hurry();
    }

    /// [Drains](TaskManager::drain), then takes no more tasks and closes the store. Called several times, each call returns
    /// when that is done.
    ///
    /// # Errors
    /// If the store cannot be closed; everything that could be stored is.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.engine.shutdown().await
    }

    async fn apply(&self, change: Change) -> Result<Applied, Error> {
        if self.engine.journal.is_closed() {
            return Err(Error::shutting_down());
        }
        if self.engine.journal.is_full() {
            let why = "too many changes wait to be stored already: nothing was changed";
            return Err(Error::new(ErrorKind::Overloaded, why));
        }
        let (sender, answer) = oneshot::channel();
        let engine = self.engine.clone();
        let then = Box::new(move |change: &Change, applied| {
            if applied == Applied::Applied {
                engine.stored(change, applied);
            }
            let _ = sender.send(applied); // the caller may have stopped waiting
        });
        self.engine.journal.change(change, then);
        tokio::time::timeout(self.engine.add_timeout, answer)
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::TimedOut,
                    "the task store did not answer in time: the change is kept and tried again",
                )
            })?
            .map_err(|_| Error::shutting_down())
    }
}
