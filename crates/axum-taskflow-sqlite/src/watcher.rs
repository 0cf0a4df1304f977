//! Notices that another process has left something that waits.
//!
//! SQLite has no means to wake another process, so this asks it every few milliseconds whether the file was changed
//! by somebody else (`PRAGMA data_version`, which reads one number in shared memory). Only if it was, the two indexes
//! of waiting tasks are looked at, and only if something waits there or a record was changed, anybody is woken.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use rusqlite::{Connection, Statement};
use tokio::sync::watch;

use crate::{claim, connection::kept, fault::Fault};

/// Between two looks while other processes use the file: half of it is what a task waits for them on average.
const EVERY: Duration = Duration::from_millis(5);
/// The same while there is nobody else: whoever joins is noticed by then.
const EVERY_ALONE: Duration = Duration::from_millis(250);

/// What the watcher, the writer and those who wait for news share.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// Counts the news. A watch: it remembers for those who look away.
    count: Arc<watch::Sender<u64>>,
    /// True while other processes use the file. An atomic: written by the writer, read by the watcher.
    has_company: Arc<AtomicBool>,
}

impl Default for News {
    fn default() -> Self {
        Self {
            count: Arc::default(),
            has_company: Arc::new(AtomicBool::new(true)), // until it is known
        }
    }
}

impl News {
    /// Returns with the count once it differs from `seen`.
    pub(crate) async fn since(&self, seen: u64) -> u64 {
        let mut count = self.count.subscribe();
        // The sender is ours, so it cannot be gone.
        count.wait_for(|n| *n != seen).await.map_or(seen, |n| *n)
    }

    pub(crate) fn keep_company(&self, has_company: bool) {
        self.has_company.store(has_company, Ordering::Relaxed);
    }

    fn tell(&self) {
        self.count.send_modify(|n| *n += 1);
    }
}

/// What the writer's connection sees of other processes.
#[derive(Debug)]
pub(crate) struct Lookout<'c> {
    data_version: Statement<'c>,
    waits: Statement<'c>,
    seen_version: i64,
    /// Of each function that had tasks ahead, when the first was due.
    seen_ahead: Vec<(i64, i64)>,
    record_version: Statement<'c>,
    seen_record: i64,
}

impl<'c> Lookout<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            data_version: kept(conn, "PRAGMA data_version")?,
            waits: kept(conn, "SELECT 1 FROM task WHERE shelf = 1 LIMIT 1")?,
            seen_version: 0,
            seen_ahead: Vec::new(),
            record_version: kept(conn, "SELECT last FROM record_version")?,
            seen_record: 0,
        })
    }

    /// True if another process has written. Outside a transaction. Only the writer can ask: to its own connection its
    /// own commits are no change.
    pub(crate) fn look(&mut self, conn: &Connection, news: &News) -> Result<bool, Fault> {
        let version = self.data_version.query_row([], |row| row.get(0))?;
        if version == self.seen_version {
            return Ok(false);
        }
        let ahead = claim::first_ahead(conn)?;
        let record = self.record_version.query_row([], |row| row.get(0))?;
        // Of each function by itself: the first of all may be one that nobody knows any more, and stay that for ever.
        let is_new = ahead.iter().any(|first| !self.seen_ahead.contains(first))
            || record != self.seen_record;
        if is_new || self.waits.exists([])? {
            news.tell();
        }
        // At the end: if a look fails, the next one sees what it would have seen.
        (self.seen_version, self.seen_ahead, self.seen_record) = (version, ahead, record);
        Ok(true)
    }
}

/// The thread that asks the writer to look. Ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// Dropped to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    /// Calls `ask` again and again; it answers false when there is nobody to ask any more.
    pub(crate) fn start(news: News, ask: impl Fn() -> bool + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("sqlite-watcher".to_owned())
            .spawn(move || {
                loop {
                    let every = match news.has_company.load(Ordering::Relaxed) {
                        true => EVERY,
                        false => EVERY_ALONE,
                    };
                    let is_over = stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout);
                    if is_over || !ask() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Ends the thread and waits for it.
    pub(crate) fn end(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks for other processes has panicked");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, connection};

    #[test]
    fn what_a_look_that_failed_did_not_tell_is_told_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        let open =
            || connection::open_writer(&path, Durability::Process, Duration::from_secs(9)).unwrap();
        let (conn, other) = (open(), open());
        let (news, mut lookout) = (News::default(), Lookout::prepare(&conn).unwrap());
        lookout.look(&conn, &news).unwrap();

        other
            .execute_batch("UPDATE record_version SET last = last + 1")
            .unwrap();
        conn.execute_batch("CREATE TEMP TABLE task (x)").unwrap(); // stands before the real one
        lookout.look(&conn, &news).unwrap_err();
        conn.execute_batch("DROP TABLE temp.task").unwrap();
        lookout.look(&conn, &news).unwrap();

        assert_eq!(*news.count.borrow(), 1);
    }
}
