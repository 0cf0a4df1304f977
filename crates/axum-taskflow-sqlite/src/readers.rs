//! A few threads that read, apart from the writer and from each other.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use axum_taskflow_core::BackendError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    fault::{Fault, contain},
    interned::Interned,
};

/// How many questions may wait for a reader. When they are as many, the next caller waits before it may ask.
const WAITING_MAX: usize = 256;
/// How long a caller waits at most. A question costs milliseconds; only a sick disk takes that long.
const DEADLINE: Duration = Duration::from_secs(10);

/// The way to the readers' threads.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    /// A std mutex: held to copy the sender, and to drop it at the end.
    questions: Mutex<Option<mpsc::Sender<Question>>>,
    /// A std mutex: held to take the threads out at the end.
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

type Question = Box<dyn FnOnce(&Connection, &mut Interned) + Send>;
/// The threads take turns at receiving: whoever holds the std mutex waits for the next question, the others for the
/// mutex.
type Inbox = Arc<Mutex<mpsc::Receiver<Question>>>;

impl Readers {
    /// One thread for each connection.
    pub(crate) fn start(connections: Vec<Connection>, path: PathBuf) -> Result<Self, BackendError> {
        let (questions, inbox) = mpsc::channel(WAITING_MAX);
        let inbox: Inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::new();
        for conn in connections {
            let inbox = inbox.clone();
            let thread = thread::Builder::new()
                .name("sqlite-reader".to_owned())
                .spawn(move || run(&conn, &inbox))
                .map_err(|error| {
                    BackendError::unavailable("cannot start a thread that reads tasks")
                        .with_source(error)
                })?;
            threads.push(thread);
        }
        Ok(Self {
            path,
            questions: Mutex::new(Some(questions)),
            threads: Mutex::new(threads),
        })
    }

    /// Reads in one snapshot of the file.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Connection, &mut Interned) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BackendError> {
        let (caller, answer) = oneshot::channel();
        let question: Question = Box::new(move |conn, interned| {
            if caller.is_closed() {
                return; // whoever asked has given up
            }
            // An error means that the caller gave up meanwhile.
            let _ =
                caller.send(contain(|| in_snapshot(conn, |conn| verb(conn, interned))).flatten());
        });
        let questions = self.lock_questions().clone();
        let questions = questions.ok_or_else(|| self.gone())?;
        let asked = async {
            questions.send(question).await.map_err(|_| self.gone())?;
            drop(questions);
            let outcome = answer.await.map_err(|_| self.gone())?;
            outcome.map_err(|fault| fault.explain("read", &self.path))
        };
        match tokio::time::timeout(DEADLINE, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BackendError::unavailable(format!(
                "cannot read {:?}: no answer within {DEADLINE:?}",
                self.path
            ))),
        }
    }

    /// Ends the threads after everything that was asked before. Does not wait for them.
    pub(crate) fn close(&self) {
        self.lock_questions().take();
    }

    /// Waits for the threads.
    pub(crate) fn join(&self) {
        self.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(path = ?self.path, "a thread that reads tasks has panicked");
            }
        }
    }

    fn lock_questions(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Question>>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> BackendError {
        BackendError::refused(format!("the tasks in {:?} are closed", self.path))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(conn: &Connection, inbox: &Mutex<mpsc::Receiver<Question>>) {
    let mut interned = Interned::default();
    loop {
        let question = inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        match question {
            Some(question) => question(conn, &mut interned),
            None => return,
        }
    }
}

fn in_snapshot<T>(
    conn: &Connection,
    verb: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let snapshot = conn.unchecked_transaction()?;
    let outcome = verb(&snapshot);
    snapshot.finish()?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, connection};

    #[test]
    fn an_answer_is_read_from_one_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        let writer = connection::open_writer(&path, Durability::Process, Duration::ZERO).unwrap();
        let reader = connection::open_reader(&path, Duration::ZERO).unwrap();
        let n_functions = |conn: &Connection| -> i64 {
            conn.query_row("SELECT count(*) FROM func", [], |row| row.get(0))
                .unwrap()
        };

        let before_and_after = in_snapshot(&reader, |reader| {
            let before = n_functions(reader);
            writer.execute("INSERT INTO func (name) VALUES ('f')", [])?;
            Ok((before, n_functions(reader)))
        });

        assert_eq!(before_and_after.unwrap(), (0, 0));
        assert_eq!(
            in_snapshot(&reader, |reader| Ok(n_functions(reader))).unwrap(),
            1
        );
    }

    #[tokio::test]
    async fn a_panic_is_an_outage_of_one_question_and_a_closed_store_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        let _writer = connection::open_writer(&path, Durability::Process, Duration::ZERO).unwrap();
        let reader = connection::open_reader(&path, Duration::ZERO).unwrap();
        let readers = Readers::start(vec![reader], path).unwrap();

        let panics =
            |_: &Connection, _: &mut Interned| -> Result<(), Fault> { panic!("on demand") };
        let by_panic = readers.call(panics).await.unwrap_err();
        let after_panic = readers.call(|_, _| Ok(1)).await;
        readers.close();
        let after_close = readers.call(|_, _| Ok(1)).await.unwrap_err();

        assert!(!by_panic.is_refused(), "{by_panic}");
        assert!(by_panic.to_string().contains("panic"), "{by_panic}");
        assert_eq!(after_panic.unwrap(), 1);
        assert!(after_close.is_refused(), "{after_close}");
    }
}
