//! The one thread that writes: everything that waits for it goes into one transaction.

use std::{
    fmt,
    path::{Path, PathBuf},
    thread,
};

use axum_taskflow_core::{
    BackendError, Batch, Claim, Claimed, Instance, InstanceId, Prune, Pruned, Task, Written,
};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    apply::Apply,
    audit::Audit,
    claim::ClaimVerb,
    enqueue::Enqueue,
    fault::Fault,
    lock::{Lock, Locks},
    logs::Notes,
    orphans::Orphans,
    prune::PruneVerb,
    transaction::Transaction,
};

/// How many requests may wait for the writer. When they are as many, the next caller waits before it may ask.
const WAITING_MAX: usize = 1_024;
/// How many requests share one transaction at most: the first of them waits for the last.
const GROUP_MAX: usize = 256;

/// The way to the writer's thread.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Request {
    Work(Box<dyn Work>),
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
        let thread = thread::Builder::new()
            .name("taskflow-sqlite-writer".to_owned())
            .spawn({
                let path = path.clone();
                move || run(conn, &path, inbox, &ready)
            })
            .map_err(|error| {
                BackendError::unavailable("cannot start the thread that writes tasks")
                    .with_source(error)
            })?;
        let writer = Self {
            path,
            requests,
            thread: Some(thread),
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
        let (caller, answer) = oneshot::channel();
        let job = Job {
            verb,
            answer: None,
            caller,
        };
        let request = Request::Work(Box::new(job));
        self.requests.send(request).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Ends the thread after everything that was asked before.
    pub(crate) async fn close(&self) -> Result<(), BackendError> {
        let (caller, answer) = oneshot::channel();
        let request = Request::Close(caller);
        self.requests.send(request).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> BackendError {
        BackendError::refused(format!("the tasks in {:?} are closed", self.path))
    }
}

impl Drop for Writer {
    /// Waits for the thread, so that locks are free and the file is closed when the value is gone.
    fn drop(&mut self) {
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
    conn: Connection,
    path: &Path,
    mut inbox: mpsc::Receiver<Request>,
    ready: &std::sync::mpsc::SyncSender<Result<(), BackendError>>,
) {
    let mut locks_held = Vec::new();
    let closing = {
        let mut session = match Session::prepare(&conn, Locks::beside(path)) {
            Ok(session) => session,
            Err(error) => {
                // An error here means that the opener is gone, and with it the need for a writer.
                let _ = ready.send(Err(Fault::from(error).explain("open", path)));
                return;
            }
        };
        // As above: without an opener the channel is closed, and the loop ends at once.
        let _ = ready.send(Ok(()));
        let closing = session.serve(&mut inbox, path);
        if closing.is_some() {
            session.leave(path);
        }
        locks_held.append(&mut session.locks_held);
        closing
    };
    inbox.close();
    let outcome = close(conn, path);
    drop(locks_held); // after the last write
    if let Some(caller) = closing {
        // An error here means that the caller is gone; the file is closed all the same.
        let _ = caller.send(outcome);
    } else if let Err(error) = outcome {
        tracing::warn!(%error, "tasks were left without being closed");
    }
}

fn close(conn: Connection, path: &Path) -> Result<(), BackendError> {
    let truncated = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.close()
        .map_err(|(_, error)| error)
        .and(truncated)
        .map_err(|error| Fault::from(error).explain("close", path))
}

/// Everything that the writer's thread has at hand, for as long as its connection is open.
pub(crate) struct Session<'c> {
    tx: Transaction<'c>,
    enqueue: Enqueue<'c>,
    apply: Apply<'c>,
    notes: Notes<'c>,
    audit: Audit<'c>,
    claim: ClaimVerb<'c>,
    orphans: Orphans<'c>,
    prune: PruneVerb<'c>,
    locks: Locks,
    /// Of the instances that joined through this backend: one, as a rule.
    locks_held: Vec<(InstanceId, Lock)>,
}

impl<'c> Session<'c> {
    fn prepare(conn: &'c Connection, locks: Locks) -> rusqlite::Result<Self> {
        Ok(Self {
            tx: Transaction::prepare(conn)?,
            enqueue: Enqueue::prepare(conn)?,
            apply: Apply::prepare(conn)?,
            notes: Notes::prepare(conn)?,
            audit: Audit::prepare(conn)?,
            claim: ClaimVerb::prepare(conn)?,
            orphans: Orphans::prepare(conn)?,
            prune: PruneVerb::prepare(conn)?,
            locks,
            locks_held: Vec::new(),
        })
    }

    pub(crate) fn join(&mut self, instance: &Instance) -> Result<(), Fault> {
        // Once more after an undone transaction: the lock is held already.
        if !self.locks_held.iter().any(|(id, _)| *id == instance.id) {
            let lock = self.locks.take(instance.id)?;
            self.locks_held.push((instance.id, lock));
        }
        self.tx.interned.join(self.tx.conn, instance)
    }

    pub(crate) fn write(&mut self, batch: &Batch) -> Result<Written, Fault> {
        let now = batch.now;
        let mut written = Written {
            tasks: Vec::with_capacity(batch.tasks.len()),
            changes: Vec::with_capacity(batch.changes.len()),
        };
        for task in &batch.tasks {
            written
                .tasks
                .push(self.enqueue.run(&mut self.tx, task, now)?);
        }
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

    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<Claimed, Fault> {
        self.claim.run(&mut self.tx, claim)
    }

    pub(crate) fn orphans(&mut self, limit: usize) -> Result<Vec<Task>, Fault> {
        self.orphans.run(&mut self.tx, &self.locks, limit)
    }

    pub(crate) fn prune(&mut self, prune: &Prune) -> Result<Pruned, Fault> {
        self.prune.run(&mut self.tx, prune)
    }

    /// Works until somebody closes the backend, who is the answer, or drops it.
    fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Request>,
        path: &Path,
    ) -> Option<oneshot::Sender<Result<(), BackendError>>> {
        let mut group = Vec::new();
        while let Some(first) = inbox.blocking_recv() {
            let mut closing = None;
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Work(work) => group.push(work),
                    Request::Close(caller) => closing = Some(caller),
                }
                let is_full = closing.is_some() || group.len() >= GROUP_MAX;
                next = if is_full { None } else { inbox.try_recv().ok() };
            }
            self.work_off(&mut group, path);
            if closing.is_some() {
                return closing;
            }
        }
        None
    }

    /// All of a group in one transaction; if that fails, each in its own, so that one bad request harms nobody else.
    fn work_off(&mut self, group: &mut Vec<Box<dyn Work>>, path: &Path) {
        if group.is_empty() {
            return;
        }
        match self.in_transaction(group) {
            Ok(()) => group.drain(..).for_each(|work| work.answer(Ok(()))),
            Err(fault) if group.len() == 1 => {
                let error = fault.explain("write to", path);
                if let Some(work) = group.pop() {
                    work.answer(Err(error));
                }
            }
            Err(fault) => {
                tracing::debug!(%fault, n = group.len(), "a group of writes failed and is tried one by one");
                for mut work in group.drain(..) {
                    let alone = std::slice::from_mut(&mut work);
                    let outcome = self.in_transaction(alone);
                    work.answer(outcome.map_err(|fault| fault.explain("write to", path)));
                }
            }
        }
    }

    fn in_transaction(&mut self, group: &mut [Box<dyn Work>]) -> Result<(), Fault> {
        self.tx.begin()?;
        let outcome = group
            .iter_mut()
            .try_for_each(|work| work.perform(self))
            .and_then(|()| self.tx.commit());
        if outcome.is_err() {
            self.tx.rollback()?;
        }
        outcome
    }

    /// Says good-bye: instances that hold no task any more are gone, others are found dead by the next one.
    fn leave(&mut self, path: &Path) {
        for (id, lock) in std::mem::take(&mut self.locks_held) {
            let left = self.tx.begin().and_then(|()| {
                let left = self.orphans.leave(&mut self.tx, id);
                match left.and_then(|left| self.tx.commit().map(|()| left)) {
                    Err(fault) => self.tx.rollback().and(Err(fault)),
                    left => left,
                }
            });
            let done = left.and_then(|left| match left {
                true => Ok(lock.remove()?),
                false => Ok(()),
            });
            if let Err(fault) = done {
                tracing::warn!(%id, %fault, ?path, "an instance could not say good-bye; the next one clears it away");
            }
        }
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("locks", &self.locks)
            .finish_non_exhaustive()
    }
}
