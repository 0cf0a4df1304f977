//! The one thread that writes: everything that waits for it goes into one transaction.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum_taskflow_core::{
    BackendError, Batch, Claim, Claimed, Instance, InstanceId, Prune, Pruned, Standing, Step,
    Stepped, Timestamp, Written,
};
use rusqlite::Connection;
use tokio::sync::{
    mpsc::{
        self,
        error::{TryRecvError, TrySendError},
    },
    oneshot,
};

use crate::{
    apply::Apply,
    audit::Audit,
    checkpoints::Checkpoints,
    claim::ClaimVerb,
    connection,
    enqueue::Enqueue,
    fault::{Fault, contain, say},
    instances::Instances,
    lock::{LockFolder, Locks},
    logs::Notes,
    place::Place,
    prune::PruneVerb,
    steps::Steps,
    transaction::{LockWaits, Transaction},
    watcher::{Lookout, News, Watcher},
};

/// How many requests may wait for the writer. When they are as many, the next caller waits before it may ask.
const WAITING_MAX: usize = 1_024;
/// How many requests share one transaction at most: the first of them waits for the last.
const GROUP_MAX: usize = 256;

/// How long the writer stays awake for the next request, where one usually follows at once: to be woken takes longer.
const AWAKE_FOR: Duration = Duration::from_micros(50);
/// Where none usually follows it tries so seldom, one time of so many.
const AWAKE_SELDOM: u32 = 64;

/// The way to the writer's thread.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    thread: Option<thread::JoinHandle<()>>,
    pub(crate) news: News,
    pub(crate) waits: LockWaits,
    closing: Closing,
    watcher: Watcher,
}

/// Whether somebody asked for the end. An atomic: set once.
#[derive(Clone, Debug, Default)]
struct Closing(Arc<AtomicBool>);

impl Closing {
    fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

enum Request {
    Work(Box<dyn Work>),
    /// What is to be done is only known when it begins: later is better, so it does not share the transaction of what came
    /// before.
    Late(Box<dyn Work>),
    /// Has another process left something?
    Look,
    Close(oneshot::Sender<Result<(), BackendError>>),
}

/// Something to be done inside a transaction, and whoever waits for it.
trait Work: Send {
    /// Does it; the answer is kept until the transaction is safe. May be called again after an undone transaction.
    fn perform(&mut self, session: &mut Session<'_>) -> Result<(), Fault>;
    /// Sends the kept answer, or the error.
    fn answer(self: Box<Self>, outcome: Result<(), BackendError>);
}

struct Job<F, T> {
    verb: F,
    answer: Option<T>,
    caller: oneshot::Sender<Result<T, BackendError>>,
}

impl<F, T> Work for Job<F, T>
where
    F: FnMut(&mut Session<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn perform(&mut self, session: &mut Session<'_>) -> Result<(), Fault> {
        self.answer = Some((self.verb)(session)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), BackendError>) {
        let answer = match (outcome, self.answer) {
            (Ok(()), Some(answer)) => Ok(answer),
            (Ok(()), None) => Err(BackendError::unavailable("the request was not carried out")),
            (Err(error), _) => Err(error),
        };
        // An error here means that the caller is gone; what was written stays.
        let _ = self.caller.send(answer);
    }
}

impl Writer {
    pub(crate) fn start(conn: Connection, path: PathBuf) -> Result<Self, BackendError> {
        let (requests, inbox) = mpsc::channel(WAITING_MAX);
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let (news, waits) = (News::default(), LockWaits::default());
        let closing = Closing::default();
        let thread = thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn({
                let path = path.clone();
                let shared = (news.clone(), waits.clone(), closing.clone());
                move || run(conn, &path, shared, inbox, &ready)
            })
            .map_err(cannot_start)?;
        let watcher = Watcher::start(news.clone(), {
            let requests = requests.downgrade();
            // If the inbox is full, the writer is awake and the next look comes soon.
            move || {
                requests.upgrade().is_some_and(|requests| {
                    !matches!(
                        requests.try_send(Request::Look),
                        Err(TrySendError::Closed(_))
                    )
                })
            }
        })
        .map_err(cannot_start)?;
        let writer = Self {
            path,
            requests,
            thread: Some(thread),
            news,
            waits,
            closing,
            watcher,
        };
        match is_ready.recv() {
            Ok(outcome) => outcome.map(|()| writer),
            Err(_) => Err(writer.gone()),
        }
    }

    /// Does `verb` in a transaction, alone or with others; returns once it is committed.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        verb: impl FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.ask(verb, Request::Work).await
    }

    /// The same in a transaction that begins when everything that was asked before is committed.
    pub(crate) async fn call_late<T: Send + 'static>(
        &self,
        verb: impl FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.ask(verb, Request::Late).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        verb: impl FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
        request: impl FnOnce(Box<dyn Work>) -> Request,
    ) -> Result<T, BackendError> {
        let (caller, answer) = oneshot::channel();
        let job = Job {
            verb,
            answer: None,
            caller,
        };
        let request = request(Box::new(job));
        self.requests.send(request).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Ends the thread after everything that was asked before.
    pub(crate) async fn close(&self) -> Result<(), BackendError> {
        self.closing.ask();
        let (caller, answer) = oneshot::channel();
        let request = Request::Close(caller);
        self.requests.send(request).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> BackendError {
        if self.closing.is_asked() {
            return BackendError::refused(format!("the tasks in {:?} are closed", self.path));
        }
        BackendError::unavailable(format!(
            "cannot write to {:?}: the thread that writes tasks has ended by a panic; restart the process",
            self.path
        ))
    }
}

fn cannot_start(error: std::io::Error) -> BackendError {
    BackendError::unavailable("cannot start the threads that write tasks").with_source(error)
}

impl Drop for Writer {
    /// Waits for the thread, so that locks are free and the file is closed when the value is gone.
    fn drop(&mut self) {
        self.watcher.end();
        // The channel must be closed first: the thread ends when it is empty.
        self.requests = mpsc::channel(1).0;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = ?self.path, "the thread that writes tasks has panicked");
        }
    }
}

fn run(
    mut conn: Connection,
    path: &Path,
    shared: (News, LockWaits, Closing),
    mut inbox: mpsc::Receiver<Request>,
    ready: &std::sync::mpsc::SyncSender<Result<(), BackendError>>,
) {
    let (closing, locks) = {
        let checkpoints =
            connection::open_checkpointers(path).and_then(|own| Checkpoints::start(&mut conn, own));
        let session =
            checkpoints.and_then(|checkpoints| Session::prepare(&conn, path, shared, checkpoints));
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                // An error here means that the opener is gone, and with it the need for a writer.
                let _ = ready.send(Err(error.explain("open", path)));
                return;
            }
        };
        // As above: without an opener the channel is closed, and the loop ends at once.
        let _ = ready.send(Ok(()));
        let closing = session.serve(&mut inbox, path);
        if closing.is_some() {
            session.leave(path);
        }
        (closing, session.locks)
    };
    inbox.close();
    let outcome = close(conn, path);
    drop(locks); // after the last write
    if let Some(caller) = closing {
        // An error here means that the caller is gone; the file is closed all the same.
        let _ = caller.send(outcome);
    } else if let Err(error) = outcome {
        say(|| tracing::warn!(%error, "tasks were left without being closed"));
    }
}

fn close(conn: Connection, path: &Path) -> Result<(), BackendError> {
    let truncated = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.close()
        .map_err(|(_, error)| error)
        .and(truncated)
        .map_err(|error| Fault::from(error).explain("close", path))
}

/// What the writer does while there is nothing to do.
///
/// One caller after the other, each of whom waits for his answer, would have the thread woken for each write. So it
/// stays awake for a moment, but only as long as that pays: a core that is kept busy is taken from the service.
#[derive(Debug, Default)]
struct Rest {
    /// Grows when a request came while it was awake, shrinks when none did.
    odds: u8,
    n: u32,
}

impl Rest {
    const ODDS_MAX: u8 = 8;

    /// The next request; none if nobody can ask any more.
    fn until_next(&mut self, inbox: &mut mpsc::Receiver<Request>) -> Option<Request> {
        self.n = self.n.wrapping_add(1);
        if self.odds >= Self::ODDS_MAX / 2 || self.n.is_multiple_of(AWAKE_SELDOM) {
            let begun = Instant::now();
            while begun.elapsed() < AWAKE_FOR {
                match inbox.try_recv() {
                    Ok(request) => {
                        self.odds = (self.odds + 1).min(Self::ODDS_MAX);
                        return Some(request);
                    }
                    Err(TryRecvError::Disconnected) => return None,
                    Err(TryRecvError::Empty) => thread::yield_now(), // whoever wants the core goes first
                }
            }
            self.odds = self.odds.saturating_sub(1);
        }
        inbox.blocking_recv()
    }
}

/// Everything that the writer's thread has at hand, for as long as its connection is open.
pub(crate) struct Session<'c> {
    tx: Transaction<'c>,
    enqueue: Enqueue<'c>,
    apply: Apply<'c>,
    notes: Notes<'c>,
    audit: Audit<'c>,
    claim: ClaimVerb<'c>,
    steps: Steps<'c>,
    instances: Instances<'c>,
    prune: PruneVerb<'c>,
    lookout: Lookout<'c>,
    news: News,
    closing: Closing,
    place: Place,
    locks: Locks,
    checkpoints: Checkpoints,
}

impl<'c> Session<'c> {
    fn prepare(
        conn: &'c Connection,
        path: &Path,
        (news, waits, closing): (News, LockWaits, Closing),
        checkpoints: Checkpoints,
    ) -> Result<Self, Fault> {
        Ok(Self {
            tx: Transaction::prepare(conn, waits)?,
            enqueue: Enqueue::prepare(conn)?,
            apply: Apply::prepare(conn)?,
            notes: Notes::prepare(conn)?,
            audit: Audit::prepare(conn)?,
            claim: ClaimVerb::prepare(conn)?,
            steps: Steps::prepare(conn)?,
            instances: Instances::prepare(conn)?,
            prune: PruneVerb::prepare(conn)?,
            lookout: Lookout::prepare(conn)?,
            news,
            closing,
            place: Place::of(path)?,
            locks: Locks::of(LockFolder::beside(path)),
            checkpoints,
        })
    }

    pub(crate) fn join(&mut self, instance: &Instance) -> Result<(), Fault> {
        match self.sweep() {
            Err(Fault::File(why)) => say(|| {
                tracing::warn!(%why, "locks that dead processes have left behind cannot be cleared away");
            }),
            swept => swept?, // after an error of its own SQLite may have ended the transaction
        }
        crash_point!("join::begun");
        self.locks.take(instance.id)?;
        crash_point!("join::locked");
        self.tx.interned.join(self.tx.conn, instance)?;
        self.news.keep_company(self.instances.has_others()?);
        Ok(())
    }

    /// Removes the locks of processes that died before others knew of them. Nobody is between his lock and his row:
    /// that is one transaction, and this is another.
    fn sweep(&mut self) -> Result<(), Fault> {
        for (id, file) in self.locks.folder.files()? {
            if !self.instances.is_present(id)? {
                self.locks.folder.remove_unlocked(&file)?;
            }
        }
        Ok(())
    }

    pub(crate) fn beat(&mut self, id: InstanceId, now: Timestamp) -> Result<Standing, Fault> {
        self.place.is_same()?;
        self.locks.keep()?;
        self.instances.beat(id, now)
    }

    pub(crate) fn supersede(
        &mut self,
        id: InstanceId,
        seen_beat_at: Timestamp,
    ) -> Result<(), Fault> {
        self.instances.supersede(id, seen_beat_at)?;
        crash_point!("supersede::written");
        Ok(())
    }

    /// Removes what is left of a dead instance to whom nothing belongs, or of one of ours.
    pub(crate) fn bury(&mut self, id: InstanceId) -> Result<(), Fault> {
        crash_point!("bury::begun");
        self.locks.release(id);
        if self.instances.bury(&mut self.tx, id)? {
            crash_point!("bury::written");
            self.locks.remove(id)?;
            crash_point!("bury::unlocked");
        }
        self.news.keep_company(self.instances.has_others()?);
        Ok(())
    }

    pub(crate) fn write(&mut self, batch: &Batch) -> Result<Written, Fault> {
        let now = batch.now;
        if !batch.tasks.is_empty() {
            self.place.is_same()?; // what came before goes on, but a new task would be lost with the old file
        }
        let mut written = Written {
            tasks: self.enqueue.run_all(&mut self.tx, &batch.tasks, now)?,
            changes: Vec::with_capacity(batch.changes.len()),
        };
        for change in &batch.changes {
            written
                .changes
                .push(self.apply.run(&mut self.tx, change, now)?);
        }
        for note in &batch.notes {
            self.notes.run(&mut self.tx, note)?;
        }
        for entry in &batch.audit {
            self.audit.run(&mut self.tx, entry)?;
        }
        self.tx.latest = self.tx.latest.max(now);
        Ok(written)
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<Stepped, Fault> {
        self.place.is_same()?;
        let enqueue = &mut self.enqueue;
        let stepped = self
            .steps
            .run(&mut self.tx, step, &mut self.apply, |tx, task, now| {
                enqueue.run(tx, task, now)
            })?;
        if stepped != Stepped::Stale {
            for entry in &step.audit {
                self.audit.run(&mut self.tx, entry)?;
            }
        }
        self.tx.latest = self.tx.latest.max(step.now);
        Ok(stepped)
    }

    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<Claimed, Fault> {
        if self.closing.is_asked() {
            return Ok(Claimed::default()); // nobody would start what it brought
        }
        self.claim.run(&mut self.tx, claim)
    }

    pub(crate) fn prune_tasks(&mut self, prune: &Prune) -> Result<Pruned, Fault> {
        self.prune.tasks(&mut self.tx, prune)
    }

    pub(crate) fn prune_rest(&mut self, prune: &Prune) -> Result<bool, Fault> {
        self.prune.rest(&self.tx, prune)
    }

    /// Works until somebody closes the backend, who is the answer, or drops it.
    fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Request>,
        path: &Path,
    ) -> Option<oneshot::Sender<Result<(), BackendError>>> {
        let (mut rest, mut late) = (Rest::default(), None);
        while let Some(first) = late.take().or_else(|| rest.until_next(inbox)) {
            let (mut group, mut closing, mut look) = (Vec::new(), None, false);
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Late(_) if !group.is_empty() => {
                        late = Some(request);
                        break;
                    }
                    Request::Work(work) | Request::Late(work) => group.push(work),
                    Request::Look => look = true,
                    Request::Close(caller) => closing = Some(caller),
                }
                let is_full = closing.is_some() || group.len() >= GROUP_MAX;
                next = if is_full { None } else { inbox.try_recv().ok() };
            }
            if !group.is_empty() {
                // Whoever asked has been told, and a panic has been said.
                let _ = contain(|| self.work_off(group, path));
                let _ = contain(|| self.checkpoints.look_after());
            }
            if closing.is_some() {
                return closing;
            }
            if look {
                let _ = contain(|| self.look(path));
            }
        }
        None
    }

    /// Looks whether another process has left something, or has come.
    fn look(&mut self, path: &Path) {
        let looked = self.lookout.look(self.tx.conn, &self.news);
        let looked = looked.and_then(|is_new| {
            if is_new {
                self.news.keep_company(self.instances.has_others()?);
            }
            Ok(())
        });
        if let Err(fault) = looked {
            // It is a hint, and the next one comes soon.
            tracing::debug!(%fault, ?path, "cannot see whether other processes have left something");
        }
    }

    /// All of a group in one transaction; if that fails, each in its own, so that one bad request harms nobody else.
    ///
    /// # Errors
    /// If no transaction could begin: the database is locked or its disk is gone, which is nobody's fault here.
    fn work_off(&mut self, mut group: Vec<Box<dyn Work>>, path: &Path) -> Result<(), Arc<Fault>> {
        crash_point!("writer::before-begin");
        if let Err(fault) = self.tx.begin() {
            let fault = Arc::new(fault);
            tell(group, &fault, path);
            return Err(fault);
        }
        match self.perform(&mut group) {
            Ok(()) => {
                crash_point!("writer::committed");
                group.into_iter().for_each(|work| work.answer(Ok(())));
            }
            Err(fault) if group.len() == 1 => tell(group, &Arc::new(fault), path),
            Err(fault) => {
                let n = group.len();
                say(
                    || tracing::debug!(%fault, n, "a group of writes failed and is tried one by one"),
                );
                let mut rest = group.into_iter();
                while let Some(work) = rest.next() {
                    // The others need not wait for the same lock one after the other.
                    if let Err(fault) = self.work_off(vec![work], path) {
                        tell(rest, &fault, path);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// All of a group or nothing, in the transaction that has begun.
    fn perform(&mut self, group: &mut [Box<dyn Work>]) -> Result<(), Fault> {
        let outcome = contain(|| {
            self.locks
                .held()
                .try_for_each(|id| self.tx.keep_instance(id))?;
            group.iter_mut().try_for_each(|work| work.perform(self))?;
            crash_point!("writer::before-commit");
            self.tx.commit()
        })
        .flatten();
        if outcome.is_err() {
            self.tx.rollback()?;
        }
        outcome
    }

    /// Says good-bye: instances that hold no task any more are gone, others are found dead by the next one.
    fn leave(&mut self, path: &Path) {
        for id in self.locks.held().collect::<Vec<_>>() {
            if let Err(fault) = self.leave_as(id) {
                say(|| {
                    tracing::warn!(%id, %fault, ?path, "an instance could not say good-bye; the next one clears it away");
                });
            }
        }
    }

    fn leave_as(&mut self, id: InstanceId) -> Result<(), Fault> {
        self.tx.begin()?;
        match self.bury(id).and_then(|()| self.tx.commit()) {
            Ok(()) => {
                crash_point!("leave::committed");
                Ok(())
            }
            Err(fault) => self.tx.rollback().and(Err(fault)),
        }
    }
}

fn tell(group: impl IntoIterator<Item = Box<dyn Work>>, fault: &Arc<Fault>, path: &Path) {
    for work in group {
        work.answer(Err(fault.explain_to_many("write to", path)));
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("locks", &self.locks)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        time::Duration,
    };

    use axum_taskflow_core::{Change, Enqueued, IdSource, Task, Timestamp};
    use tracing::{Event, Metadata, span};

    use super::*;
    use crate::{Durability, connection};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

    fn writer(folder: &tempfile::TempDir) -> Arc<Writer> {
        let path = folder.path().join("tasks.db");
        let conn =
            connection::open_writer(&path, Durability::Process, Duration::from_millis(10)).unwrap();
        Arc::new(Writer::start(conn, path).unwrap())
    }

    fn batch(ids: &IdSource, args: &str) -> Batch {
        let mut batch = Batch::at(NOW);
        batch
            .tasks
            .push(Arc::new(Task::new(ids.task(NOW), "f", args)));
        batch
    }

    /// Whoever writes log lines to a pipe that nobody reads any more.
    struct ClosedPipe;

    impl ClosedPipe {
        /// For the lines of the writer's thread from now on.
        async fn log_to(writer: &Writer) {
            let log_here = |_: &mut Session<'_>| {
                std::mem::forget(tracing::subscriber::set_default(Self));
                Ok(())
            };
            writer.call(log_here).await.unwrap();
        }
    }

    impl tracing::Subscriber for ClosedPipe {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {
            panic!("failed printing to stdout: Broken pipe");
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn n_tasks(session: &mut Session<'_>) -> Result<i64, Fault> {
        // With its function: a number that was made up in an undone transaction has no name.
        let count = "SELECT n FROM counter JOIN func ON no = func WHERE name = 'f'";
        Ok(session.tx.conn.query_row(count, [], |row| row.get(0))?)
    }

    fn n_ended(session: &mut Session<'_>) -> Result<i64, Fault> {
        let sum = "SELECT coalesce(sum(n), 0) FROM minute";
        Ok(session.tx.conn.query_row(sum, [], |row| row.get(0))?)
    }

    /// The writer does nothing until this is sent: requests that come meanwhile wait together.
    async fn held_up(writer: &Arc<Writer>) -> std::sync::mpsc::Sender<()> {
        let (open_gate, gate) = std::sync::mpsc::channel::<()>();
        let (at_gate, is_at_gate) = oneshot::channel();
        let mut at_gate = Some(at_gate);
        let writer = writer.clone();
        tokio::spawn(async move {
            let held_up = move |_: &mut Session<'_>| {
                at_gate.take().map(|at_gate| at_gate.send(()));
                gate.recv().ok();
                Ok(())
            };
            writer.call(held_up).await.unwrap();
        });
        is_at_gate.await.unwrap();
        open_gate
    }

    async fn waiting(writer: &Writer, n: usize) {
        while writer.requests.capacity() > WAITING_MAX - n {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_done_late_begins_when_what_was_asked_before_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let other = connection::open_reader(&writer.path, Duration::ZERO).unwrap();
        let batch = batch(&IdSource::default(), "[]");
        let open_gate = held_up(&writer).await;
        let first = tokio::spawn({
            let writer = writer.clone();
            async move { writer.call(move |session| session.write(&batch)).await }
        });
        waiting(&writer, 1).await;
        let late = tokio::spawn({
            let writer = writer.clone();
            async move {
                let seen = move |_: &mut Session<'_>| {
                    let count = "SELECT count(*) FROM task";
                    Ok(other.query_row(count, [], |row| row.get::<_, i64>(0))?)
                };
                writer.call_late(seen).await
            }
        });
        waiting(&writer, 2).await;
        open_gate.send(()).unwrap();

        assert_eq!(first.await.unwrap().unwrap().tasks, [Enqueued::Created]);
        assert_eq!(late.await.unwrap().unwrap(), 1, "for all to see");
    }

    #[tokio::test]
    async fn requests_that_wait_share_a_transaction_and_a_bad_one_harms_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        ClosedPipe::log_to(&writer).await; // nor does what is said of it
        let ids = IdSource::default();
        let n_played = Arc::new(AtomicUsize::new(0));
        let open_gate = held_up(&writer).await;

        // They wait behind the first one.
        let calls = [Ok("[1]"), Err("no"), Ok("[2]")].map(|asked| {
            let (writer, n_played) = (writer.clone(), n_played.clone());
            let batch = batch(&ids, "[]");
            tokio::spawn(async move {
                let played = move |session: &mut Session<'_>| {
                    n_played.fetch_add(1, Ordering::SeqCst);
                    session.write(&batch)?;
                    asked.map_err(Fault::unreadable)
                };
                writer.call(played).await
            })
        });
        waiting(&writer, 3).await;
        open_gate.send(()).unwrap();

        let [good, bad, other] = calls;
        assert_eq!(good.await.unwrap().unwrap(), "[1]");
        let error = bad.await.unwrap().unwrap_err();
        assert!(error.to_string().ends_with("tasks.db\": no"), "{error}");
        assert_eq!(other.await.unwrap().unwrap(), "[2]");
        // The first two together, then each of the three alone.
        assert_eq!(n_played.load(Ordering::SeqCst), 5);
        assert_eq!(writer.call(n_tasks).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_task_that_cannot_be_read_is_passed_over_also_if_it_cannot_be_said() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let ids = IdSource::default();
        let (broken, good) = (batch(&ids, "[]"), batch(&ids, "[]"));
        let id = good.tasks[0].id;
        let prepared = move |session: &mut Session<'_>| {
            session.write(&broken)?;
            session.tx.conn.execute("UPDATE task SET source = 99", [])?;
            session.write(&good)
        };
        writer.call(prepared).await.unwrap();
        ClosedPipe::log_to(&writer).await;
        let claim = Claim {
            owner: ids.instance(NOW),
            names: Arc::from([Arc::from("f")]),
            except: Arc::default(),
            limit: 2,
            now: NOW,
            reserve: None,
        };

        let claimed = writer.call(move |session| session.claim(&claim)).await;

        let claimed = claimed.unwrap().tasks;
        assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), [id]);
    }

    #[tokio::test]
    async fn a_claim_moves_a_bounded_part_of_what_became_due_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let ids = IdSource::default();
        let mut ahead = Batch::at(NOW);
        let due = NOW.saturating_add(Duration::from_secs(60));
        for _ in 0..3_000 {
            let mut task = Task::new(ids.task(NOW), "f", "[]");
            task.life.run_at = due;
            ahead.tasks.push(Arc::new(task));
        }
        let written = writer.call(move |session| session.write(&ahead)).await;
        written.unwrap();
        let claim = Claim {
            owner: ids.instance(NOW),
            names: Arc::from([Arc::from("f")]),
            except: Arc::default(),
            limit: 1,
            now: due,
            reserve: None,
        };

        let claimed = writer.call(move |session| session.claim(&claim)).await;

        let n_moved = |session: &mut Session<'_>| -> Result<i64, Fault> {
            let moved = "SELECT count(*) FROM task WHERE shelf IS NOT 0";
            Ok(session.tx.conn.query_row(moved, [], |row| row.get(0))?)
        };
        assert_eq!(claimed.unwrap().tasks.len(), 1);
        assert_eq!(writer.call(n_moved).await.unwrap(), 1_000); // others wait to write
    }

    #[tokio::test]
    async fn a_full_disk_loses_nothing_and_is_over_when_there_is_space() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let ids = IdSource::default();
        let space = |pages: i64| {
            move |session: &mut Session<'_>| {
                Ok(session
                    .tx
                    .conn
                    .pragma_update(None, "max_page_count", pages)?)
            }
        };
        writer.call(space(100)).await.unwrap();
        let large = "x".repeat(20_000);

        let mut n_stored = 0;
        let error = loop {
            let batch = batch(&ids, &large);
            match writer.call(move |session| session.write(&batch)).await {
                Ok(_) => n_stored += 1,
                Err(error) => break error,
            }
        };

        assert!(
            error.to_string().contains("full; free some space"),
            "{error}"
        );
        assert!(!error.is_refused(), "it may work later");
        assert!(n_stored > 0);
        assert_eq!(writer.call(n_tasks).await.unwrap(), n_stored);
        writer.call(space(1_000)).await.unwrap();
        let batch = batch(&ids, &large);
        let written = writer.call(move |session| session.write(&batch)).await;
        assert_eq!(written.unwrap().tasks, [Enqueued::Created]);
        assert_eq!(writer.call(n_tasks).await.unwrap(), n_stored + 1);
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_whole_store_is_no_requests_fault() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let ids = IdSource::default();
        let drop_table = |session: &mut Session<'_>| {
            Ok(session
                .tx
                .conn
                .execute_batch("ALTER TABLE task RENAME TO other")?)
        };
        writer.call(drop_table).await.unwrap();
        let batch = batch(&ids, "[]");

        let error = writer.call(move |session| session.write(&batch)).await;

        let error = error.unwrap_err();
        assert!(error.to_string().contains("no such"), "{error}");
        assert!(!error.is_refused(), "outcomes must be kept");
    }

    #[tokio::test]
    async fn a_panic_is_an_outage_that_undoes_what_was_half_done_and_a_closed_store_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let ids = IdSource::default();
        let mut half_done = batch(&ids, "[]");
        let ended = batch(&ids, "[]").tasks.remove(0);
        half_done
            .changes
            .push(Change::cancelled(&ended, NOW).unwrap());
        half_done.tasks.push(ended);
        let panics = move |session: &mut Session<'_>| -> Result<(), Fault> {
            session.write(&half_done)?;
            panic!("on demand")
        };

        let by_panic = writer.call(panics).await.unwrap_err();
        let batch = batch(&ids, "[]");
        let after_panic = writer.call(move |session| session.write(&batch)).await;
        let n_tasks = writer.call(n_tasks).await;
        let n_ended = writer.call(n_ended).await;
        writer.close().await.unwrap();
        let after_close = writer.call(|_| Ok(())).await.unwrap_err();

        assert!(!by_panic.is_refused(), "outcomes must be kept");
        assert!(by_panic.to_string().contains("panic"), "{by_panic}");
        assert_eq!(after_panic.unwrap().tasks, [Enqueued::Created]);
        assert_eq!((n_tasks.unwrap(), n_ended.unwrap()), (1, 0));
        assert!(after_close.is_refused(), "{after_close}");
    }
}
