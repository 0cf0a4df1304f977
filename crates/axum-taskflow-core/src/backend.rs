//! The contract between the engine and whatever stores its tasks.

use std::{
    cmp::Reverse, collections::BTreeSet, fmt, pin::Pin, str::FromStr, sync::Arc, time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    change::Change,
    clock::Timestamp,
    error::{BackendError, Error},
    id::{Epoch, InstanceId, TaskId},
    status::TaskStatus,
    task::{LogLine, Progress, Task},
};

/// The future of a backend's answer, boxed so that the trait is object-safe.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// Makes up the next batch of what waits at that moment; none if nothing does. May be called on any thread; it does not
/// wait.
pub type NextBatch = Box<dyn FnOnce() -> Option<Arc<Batch>> + Send>;

/// Stores tasks. Written for SQLite, Redis, memory, and for yours.
///
/// A backend compares and sets; it decides nothing: what a task becomes is worked out by the engine and arrives as
/// a [`Change`]. Time is always an argument; a backend reads no clock. Batches go in and out, since the cost of a
/// store is mostly that of the round trip or the commit.
///
/// Feature `conformance` holds the suite that every backend must pass.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// What it is and where, for log lines and the page: `sqlite tasks.db`.
    fn describe(&self) -> String;

    /// Makes `instance` known, so that tasks can belong to it. Called before everything else, and again with a new
    /// id if the former one was [superseded](Backend::supersede).
    fn join(&self, instance: Instance) -> BackendFuture<'_, ()>;

    /// Shows the others that this instance is well, and learns whether they still take it for alive.
    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing>;

    /// How long an instance counts as alive after a [beat](Backend::beat). One that could not beat for nearly so long
    /// stops what it runs, before others may start it.
    ///
    /// None, unless a driver says otherwise: as long as its process lives, which the driver knows by its own means.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// All instances that joined and have not left, oldest first; of the dead at least those that tasks still
    /// belong to.
    fn instances(&self) -> BackendFuture<'_, Vec<Peer>>;

    /// From now on whatever belongs or will belong to this instance is orphaned, and its [beat](Backend::beat) says
    /// so: for one that holds its tasks and does not respond. Nothing happens if it is not known, or has beaten since
    /// `seen_beat_at`, which is the [`Peer::beat_at`] that it was taken for dead by.
    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()>;

    /// Forgets an instance of this process. What still belongs to it is orphaned.
    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()>;

    /// Does everything in `batch`, or nothing: new tasks first, then changes in their order, then notes. The answer
    /// comes once it is safe.
    ///
    /// - A task whose id is stored already is [`Enqueued::Created`] and left as it is: the engine writes a batch
    ///   again if it did not hear the answer. This is looked at before the key.
    /// - A task whose idempotency key is taken is not stored; the answer names the task that has the key. That may
    ///   be a task further up in the same batch, or one that was deleted since: a key outlives its task.
    /// - A key is taken without an end when its task is stored. [`KeyFate::Freed`](crate::KeyFate) frees it, and
    ///   [`KeyFate::KeptUntil`](crate::KeyFate) gives it an end: from that time on ([`Batch::now`] is not earlier)
    ///   it is free. Both only touch a key that still belongs to the changed task, and only if the change applies.
    /// - A change whose expectation ([`expects`](Change::expects), [`held_by`](Change::held_by)) does not hold, or whose
    ///   task is not stored, is [`Applied::Stale`] and changes nothing. But if its [`life`](Change::life) is what is
    ///   stored already, it is [`Applied::Applied`] and changes nothing either: it was written before, and the answer
    ///   was lost.
    /// - A note counts if the task, after the changes above, still has the note's epoch, whatever its status; else
    ///   it is dropped. So are a log line whose epoch and `seq` the task has already, and an audit entry whose id
    ///   is known: a batch that is written twice doubles nothing.
    /// - A change that ends in a terminal status counts in the minute of its `finished_at`, with the time from
    ///   `started_at` to `finished_at`, or none if it never started.
    /// - A store that has no room for new tasks, and takes the rest, says [`BackendError::full`]: the rest comes alone then.
    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written>;

    /// Does everything in `step`, or nothing: its changes first, then its tasks and audit entries as
    /// [`write`](Backend::write) does. It is [`Stepped::Stale`] unless every record has the version that is expected of
    /// it, and every change applies.
    ///
    /// But if every record says already what it is to become, or is gone as it is to be, or has the version that is
    /// expected of it if it is to stay the same, and every changed task has the [`life`](Change::life) of its change,
    /// then the step was taken before and its answer was lost: it is [`Stepped::Done`], and nothing changes. (So a
    /// value should say who wrote it.) The same if one of its tasks is stored already, whatever others have done to its
    /// records and changed tasks since. That each task is stored once follows from its id.
    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped>;

    /// Records in the order of their names, byte by byte. Cost does not grow with what is not asked for.
    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>>;

    /// Gives at most `limit` tasks that wait, are due (`run_at` is not after `now`) and belong to nobody to `owner`,
    /// in one atomic step: highest priority first, then earliest `run_at`, then smallest id, over all functions in
    /// `names` together, with room for [`Claim::reserve`]. Cost does not grow with what waits.
    ///
    /// Each has [begun](crate::Life::begun) by that step: its owner has a slot for it. Only of those whose process died
    /// before ([`crashes`](crate::Life) is not 0) nothing but the owner changes: they are not started together.
    ///
    /// An owner that was superseded gets nothing: it may not know it yet, and what it began would be taken from it as
    /// if it had crashed. One that has not joined may get nothing either.
    ///
    /// A store whose answers can be lost gives what such a claim took to the next one of the same owner and functions: an
    /// engine that has heard nothing, or is to ask again, claims once more, also before it leaves.
    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed>;

    /// At most `limit` live tasks whose owner is dead, which the backend knows by its own means, has left or was
    /// superseded. Asked often: if nobody died, it costs next to nothing.
    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>>;

    /// How many batches of tasks that run here may be on their way at once; 1 unless said. More keep a store at work that
    /// is far away. They change different tasks, so the store may do them in any order, and one without the other; each is
    /// atomic all the same, beside these as beside any other call.
    fn writes_at_once(&self) -> usize {
        1
    }

    /// True if the store can be asked for a batch that it takes later ([`pull`](Backend::pull)): while it writes one, it is
    /// asked for the next. For a store near by that writes one batch after the other, and should not have to wait between
    /// them. False unless said.
    fn pulls(&self) -> bool {
        false
    }

    /// Writes the batch that `next` gives as [`write`](Backend::write) does. `next` is called once the store can begin with
    /// it, when what was asked before is done: by then more waits. If it gives none, nothing is written and the answer has
    /// nothing in it.
    ///
    /// A `next` that is not called loses nothing: what waits goes into another batch. So a store that is closed, or fails
    /// before it can begin, drops it and answers with an error. Without one, it is called before the answer is sent. Two are
    /// never called at once.
    fn pull(&self, next: NextBatch) -> BackendFuture<'_, Written> {
        match next() {
            Some(batch) => self.write(batch),
            None => Box::pin(std::future::ready(Ok(Written::default()))),
        }
    }

    /// How often the store may have gone back to an earlier state while this was open: its server was restarted without
    /// the last writes, or a replica that did not have them stands in for it. Looked at several times a second; 0 for
    /// ever if a store cannot go back while an instance lives.
    fn went_back(&self) -> u64 {
        0
    }

    /// The live tasks that `owner` holds, by what is stored; not those of a claim whose answer was lost, which another
    /// claim will bring. Asked after the store [went back](Backend::went_back), and only then.
    fn held(&self, owner: InstanceId) -> BackendFuture<'_, Vec<TaskId>> {
        let _ = owner; // a store that never goes back is not asked
        Box::pin(async { Ok(Vec::new()) })
    }

    /// One task with its past attempts: at least the last 1,000.
    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>>;

    /// A page of tasks, newest first, whichever of [`ListQuery::before`] and [`ListQuery::after`] are given. Cost
    /// does not grow with what is stored: a page may be short or empty and still name a [`Page::next`], which is
    /// older than the page's tasks and than `before`.
    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page>;

    /// Tasks that nobody holds and whose time comes after `query.after` and before `query.before`, those first that come
    /// first; of one moment in an order of the store's own. Takes no longer if more wait for later, or have ended. What
    /// comes before the time of the latest claim may be left out: it is due.
    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage>;

    /// The log lines of a task in the order in which they were said, by epoch and then `seq`: at most `limit`, after
    /// the first `skip`. At least the last 10,000 lines of a task are kept.
    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>>;

    /// How many stored tasks there are of each function and status, in no order; kept as tasks change, never
    /// counted.
    fn counts(&self) -> BackendFuture<'_, Vec<Count>>;

    /// What ended in each minute that begins at `since` or later, oldest first; kept as tasks change, and not
    /// touched by the deletion of tasks.
    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>>;

    /// At most `limit` audit entries, newest first, older than `before` if that is given.
    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>>;

    /// Deletes finished tasks that are old enough, with their attempts and log lines: a bounded part of the work.
    /// Their keys stay taken as long as they were to be. When [`Pruned::next`] is empty, one round is over and
    /// everything that was old enough at its beginning is gone.
    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned>;

    /// Returns when another instance may have left something that waits, or changed a record: with a number, as soon as
    /// that differs from `seen`, which is the number of the last answer, 0 at first. A hint: it may come for nothing, late or
    /// never.
    ///
    /// Unless a driver says otherwise it never comes: there is nobody else.
    fn changed(&self, _seen: u64) -> BackendFuture<'_, u64> {
        Box::pin(std::future::pending())
    }

    /// Forgets the instances of this process and lets go of the store. Tasks stay. Calls after this one fail.
    fn close(&self) -> BackendFuture<'_, ()>;
}

/// One boot of one process, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// New at each boot.
    pub id: InstanceId,
    /// The machine, for people.
    pub host: String,
    /// The process, for people.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// The version of the program, for people.
    pub version: String,
    /// What it does.
    pub role: Role,
    /// The functions that it knows.
    pub functions: Arc<[Arc<str>]>,
}

impl Instance {
    /// An instance of this process, with nothing else to say.
    #[must_use]
    pub fn new(id: InstanceId, started_at: Timestamp) -> Self {
        Self {
            id,
            host: String::new(),
            pid: std::process::id(),
            started_at,
            version: String::new(),
            role: Role::default(),
            functions: Arc::default(),
        }
    }
}

/// What an instance does with tasks. Each can add them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Adds tasks and runs them: what it adds it runs itself if it can do so soon.
    #[default]
    Both,
    /// Adds tasks and runs none.
    Web,
    /// Runs tasks. The same as [`Role::Both`] to the engine; tells people that it serves no requests.
    Worker,
}

impl Role {
    /// True if tasks run here.
    #[must_use]
    pub fn runs_tasks(self) -> bool {
        self != Self::Web
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Web => "web",
            Self::Worker => "worker",
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Both, Self::Web, Self::Worker]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{text:?} is not a role; the roles are both, web, worker"
                ))
            })
    }
}

/// How the others see an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its tasks are its own.
    Alive,
    /// They were taken from it: it must stop what it runs, and go on under a new id.
    Superseded,
}

/// An instance with what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Who.
    pub instance: Instance,
    /// Its last [beat](Backend::beat), by its own clock; when it started if there was none. For people.
    pub beat_at: Timestamp,
    /// False if it is dead or superseded.
    pub alive: bool,
}

impl Peer {
    /// An instance that beat last at `beat_at`.
    #[must_use]
    pub fn new(instance: Instance, beat_at: Timestamp, alive: bool) -> Self {
        Self {
            instance,
            beat_at,
            alive,
        }
    }
}

/// What is written in one atomic step.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// New tasks as they are to be stored: pending, and [`Life::owner`](crate::Life) says whether somebody holds them;
    /// or running, if their owner begins at once.
    pub tasks: Vec<Arc<Task>>,
    /// Changes of stored tasks, or of those above, in their order.
    pub changes: Vec<Change>,
    /// What functions said while they ran.
    pub notes: Vec<Note>,
    /// Who did what.
    pub audit: Vec<AuditEntry>,
    /// The time of the write.
    pub now: Timestamp,
}

impl Batch {
    /// An empty batch at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }
}

/// Something that an attempt said while it ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Of which task.
    pub id: TaskId,
    /// By which attempt; a superseded one has nothing to say. Before the first, at [`Epoch::ZERO`], nothing is said, and no
    /// store has to keep it.
    pub epoch: Epoch,
    /// What.
    pub what: Said,
}

/// What an attempt can say.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Said {
    /// A log line.
    Log(LogLine),
    /// How far it has come; replaces what the task said before, and stays until it is replaced.
    Progress(Progress),
}

/// The answers to a [`Batch`], one for each task and change, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// For each task.
    pub tasks: Vec<Enqueued>,
    /// For each change.
    pub changes: Vec<Applied>,
}

/// What became of a new task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It is stored.
    Created,
    /// Its idempotency key is taken by this task.
    Exists {
        /// The task that has the key.
        id: TaskId,
        /// The name of that task's function.
        name: Arc<str>,
    },
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is stored, now or since it was written before.
    Applied,
    /// The task did not stand where the change expected it: nothing was changed. An answer, not an error.
    Stale,
}

/// A small document under a name: a schedule, who leads, what was run once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name; compared byte for byte.
    pub key: String,
    /// New at each write, and larger than every version that the store gave before, to whatever record: so that it can
    /// serve as a fencing token, even if the record was gone in between.
    pub version: u64,
    /// What it says.
    pub value: Arc<str>,
}

/// What is done in one atomic step if everything stands as it was seen, and else not at all: see
/// [`Backend::step`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Step {
    /// How records must stand, and what becomes of them. Each at most once.
    pub records: Vec<RecordChange>,
    /// Changes of stored tasks, each of another one; all must apply.
    pub changes: Vec<Change>,
    /// New tasks, after the changes: they find the keys free that a change has freed.
    pub tasks: Vec<Arc<Task>>,
    /// Who did what.
    pub audit: Vec<AuditEntry>,
    /// The time of the step.
    pub now: Timestamp,
}

impl Step {
    /// A step in which nothing is done, at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }
}

/// How a record must stand, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordChange {
    /// Which one.
    pub key: String,
    /// Its version; 0 if there must be none.
    pub expects: u64,
    /// What it becomes.
    pub becomes: Becomes,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// It stays as it is: the step only wants it to be so.
    Same,
    /// It says this, under a new version.
    Value(Arc<str>),
    /// It is gone.
    Gone,
}

/// What became of a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was taken, now or since it was asked for before.
    Done {
        /// For each record its version now; 0 if it is gone.
        versions: Vec<u64>,
        /// For each task.
        tasks: Vec<Enqueued>,
    },
    /// Something does not stand as it was seen: nothing was done. An answer, not an error.
    Stale,
}

/// Which records to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordQuery {
    /// Those whose name begins so.
    pub prefix: String,
    /// Only those whose name is larger, byte by byte: the next part.
    pub after: Option<String>,
    /// At most this many, of which 1,000 may be asked for.
    pub limit: usize,
}

/// A wish for tasks to run.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who wants them.
    pub owner: InstanceId,
    /// Of which functions. None: none.
    pub names: Arc<[Arc<str>]>,
    /// Not these: the claimer cannot read their arguments, and leaves them to somebody who can. A few at most.
    pub except: Arc<BTreeSet<TaskId>>,
    /// At most how many: as many as can begin at once.
    pub limit: usize,
    /// What is due by then, and when it begins.
    pub now: Timestamp,
    /// Room in that limit for what the claimer holds itself.
    pub reserve: Option<Reserve>,
}

/// Room that a [`Claim`] keeps for tasks that the claimer holds, so that none that comes later starts before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The turn of the first of them.
    pub from: Turn,
    /// How many they are. A task whose turn is not before `from` is claimed only if the limit has room for it and these.
    pub n: usize,
}

impl Claim {
    /// True if a task is not to be claimed after `n_claimed` others that come before it.
    pub fn has_no_room(&self, n_claimed: usize, turn: Turn) -> bool {
        let reserved = match self.reserve {
            Some(reserve) if turn >= reserve.from => reserve.n,
            _ => 0,
        };
        n_claimed.saturating_add(reserved) >= self.limit
    }
}

/// When a task that waits is to start: before those whose turn is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The highest first.
    pub priority: Reverse<i32>,
    /// Then the earliest.
    pub run_at: Timestamp,
    /// Then the one that was created first.
    pub id: TaskId,
}

impl Turn {
    /// That of a task.
    pub fn of(task: &Task) -> Self {
        Self {
            priority: Reverse(task.priority),
            run_at: task.life.run_at,
            id: task.id,
        }
    }

    /// That of a task that waits once this is stored.
    pub fn after(change: &Change) -> Self {
        Self {
            priority: Reverse(change.priority),
            run_at: change.life.run_at,
            id: change.id,
        }
    }
}

/// The answer to a [`Claim`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claimed {
    /// The tasks, in the order in which they are to run; they belong to the claimer now.
    pub tasks: Vec<Task>,
    /// The earliest `run_at` after [`Claim::now`] of a pending task that belongs to nobody, of any function. Or now, if the
    /// claim is to be made again: something was in the way of others.
    pub next_due: Option<Timestamp>,
    /// If fewer were claimed than the limit although there are more: the turn of the first of those, or an earlier one that
    /// none was left before. The [`Reserve`] may have kept them from being claimed, or the answer has room for no more.
    pub next_turn: Option<Turn>,
}

/// Which tasks to list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ListQuery {
    /// Only those with this status.
    pub status: Option<TaskStatus>,
    /// Only those of this function.
    pub name: Option<String>,
    /// Only those with this tag; without a value, with any value of it.
    pub tag: Option<(String, Option<String>)>,
    /// Only those with this tracking id. Each store finds them without looking at others.
    pub tracking_id: Option<String>,
    /// Only those older than this id: the next page.
    pub before: Option<TaskId>,
    /// Only those newer than this id.
    pub after: Option<TaskId>,
    /// At most this many.
    pub limit: usize,
    /// At most this many bytes of [`Task::args`] and of [`Life::result`](crate::Life), as many whole characters as
    /// fit.
    pub payload_max: usize,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            status: None,
            name: None,
            tag: None,
            tracking_id: None,
            before: None,
            after: None,
            limit: 100,
            payload_max: 4 * 1024,
        }
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The tasks, newest first.
    pub tasks: Vec<Task>,
    /// Where to go on with [`ListQuery::before`]; nothing if this was the end.
    pub next: Option<TaskId>,
}

/// Which tasks that wait for their time are wanted: those that come after one moment and before another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AheadQuery {
    /// Those after this moment.
    pub after: Timestamp,
    /// Those before this moment.
    pub before: Timestamp,
    /// Where the page before has ended: its [`AheadPage::next`].
    pub from: Option<String>,
    /// At most this many.
    pub limit: usize,
    /// At most this many bytes of [`Task::args`].
    pub payload_max: usize,
}

impl AheadQuery {
    /// Those that come before this moment.
    pub fn until(before: impl Into<Timestamp>) -> Self {
        Self {
            after: Timestamp::from_unix_ms(0),
            before: before.into(),
            from: None,
            limit: 100,
            payload_max: 4 * 1024,
        }
    }
}

impl AheadQuery {
    /// A place in an order by time and then by id, for [`AheadPage::next`].
    #[must_use]
    pub fn name_of(run_at: Timestamp, id: TaskId) -> String {
        format!("{}.{id}", run_at.as_unix_ms())
    }

    /// The place after which the page begins, for stores that name places by [`name_of`](AheadQuery::name_of).
    ///
    /// # Errors
    /// [`from`](AheadQuery::from) is none of its names.
    pub fn place(&self) -> Result<(Timestamp, TaskId), BackendError> {
        let first = (self.after, TaskId::from_bytes([0xff; 16]));
        let Some(from) = &self.from else {
            return Ok(first);
        };
        let place = from.split_once('.').and_then(|(run_at, id)| {
            let run_at = Timestamp::from_unix_ms(run_at.parse().ok()?);
            Some((run_at, id.parse().ok()?))
        });
        let place = place.ok_or_else(|| Self::is_no_place(from))?;
        Ok(place.max(first))
    }

    /// The error for a place that no page has named.
    #[must_use]
    pub fn is_no_place(from: &str) -> BackendError {
        BackendError::refused(format!("{from:?} is no place where a page has ended"))
    }
}

impl<T: Into<Timestamp>> From<T> for AheadQuery {
    fn from(before: T) -> Self {
        Self::until(before)
    }
}

/// One page of what waits for its time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AheadPage {
    /// The tasks, those first that come first.
    pub tasks: Vec<Task>,
    /// Where to go on with [`AheadQuery::from`], in words of the store's own; nothing if this was the end.
    pub next: Option<String>,
}

/// How many tasks of a function have a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The function.
    pub name: Arc<str>,
    /// The status.
    pub status: TaskStatus,
    /// How many; never zero.
    pub n: u64,
}

/// What ended in one minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// Its beginning.
    pub at: Timestamp,
    /// The function.
    pub name: Arc<str>,
    /// The terminal status that tasks came to.
    pub status: TaskStatus,
    /// How many.
    pub n: u64,
    /// How long their last attempts ran, together.
    pub run: Duration,
}

/// Somebody's action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its id; ids sort by time.
    pub id: TaskId,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What: `retry`, `cancel`, `pause_schedule` and so on.
    pub action: String,
    /// To which task; nothing if to many.
    pub task: Option<TaskId>,
    /// What else is worth keeping, JSON.
    pub detail: serde_json::Value,
}

/// What is to be deleted.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Tasks that succeeded or were cancelled, and finished before this.
    pub finished_before: Timestamp,
    /// Tasks that failed or were interrupted, and finished before this.
    pub failed_before: Timestamp,
    /// Minutes that began before this, and audit entries from before it.
    pub series_before: Timestamp,
    /// Go on from here ([`Pruned::next`]); nothing at the beginning of a round.
    pub from: Option<TaskId>,
    /// Look at this many tasks at most, at least 1.
    pub limit: usize,
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many tasks.
    pub deleted: usize,
    /// Where the next part begins; nothing if the round is over.
    pub next: Option<TaskId>,
}
