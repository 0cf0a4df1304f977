//! Checkpoints: a thread of their own carries the log over into the file, so that who writes need not wait for the disk.
//!
//! SQLite would do it within a commit, once the log has a thousand pages, and everybody would wait for two flushes.
//! Another connection may do it while the writer goes on, but then there is always something new in the log, and it
//! is begun again only when all of it was carried over. So the thread does the large part, and the writer the small
//! rest, after its answers. When several processes write, one of them nearly always does: once the log is large, the
//! writer keeps them from it for that moment. <https://www.sqlite.org/wal.html#checkpointing>

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rusqlite::Connection;

use crate::fault::Fault;

/// Pages in the log from which it is carried over: SQLite's own figure.
const FROM: u32 = 1_000;
/// The rest that the writer carries over itself.
const REST: u32 = 250;
/// With so many, 32 MB, the writer carries over all there is, and keeps everybody from writing meanwhile.
const AT_MOST: u32 = 8_000;
/// Whoever then still reads from the log, or writes, is waited for: mostly a page of a list, or a commit.
pub(crate) const OTHERS_WAITED_FOR: Duration = Duration::from_millis(100);

/// How far the log has come. Atomics: a figure that is a moment old costs a needless look.
#[derive(Debug, Default)]
struct Log {
    /// Pages after the last commit of ours: written by the writer.
    n: AtomicU32,
    /// Those of them that are in the file: written by whoever carried them over.
    n_carried: AtomicU32,
    /// How large it was when the writer found others in the way. While they stay, as a backup does, he tries again only
    /// when it is twice as large: nobody can write while he waits. Written by the writer.
    n_in_vain: AtomicU32,
}

impl Log {
    fn committed(&self, n: u32) {
        if n < self.n.swap(n, Ordering::Relaxed) {
            self.n_carried.store(0, Ordering::Relaxed); // the log was begun again
            self.n_in_vain.store(0, Ordering::Relaxed);
        }
    }

    /// What there is to do, and by whom.
    fn next(&self) -> Next {
        let (n, n_carried) = (
            self.n.load(Ordering::Relaxed),
            self.n_carried.load(Ordering::Relaxed),
        );
        let rest = n.saturating_sub(n_carried);
        let too_large = AT_MOST.max(self.n_in_vain.load(Ordering::Relaxed).saturating_mul(2));
        match rest {
            _ if n < FROM || rest == 0 => Next::Nothing,
            _ if n >= too_large => Next::WriterAlone,
            _ if n_carried > 0 && rest <= REST => Next::Writer,
            _ => Next::Thread,
        }
    }

    /// Carries over as much as readers allow, without waiting for anybody.
    fn carry_over(&self, conn: &Connection) -> Result<(), Fault> {
        self.run(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
        Ok(())
    }

    /// Carries over everything, so that the next commit begins the log again, whichever process makes it. Others
    /// cannot write meanwhile.
    fn carry_all_over(&self, conn: &Connection) -> Result<(), Fault> {
        let n = self.n.load(Ordering::Relaxed);
        if self.run(conn, "PRAGMA wal_checkpoint(RESTART)")? {
            self.n_in_vain.store(n, Ordering::Relaxed);
        }
        Ok(())
    }

    /// True if others were in the way for longer than they were waited for.
    fn run(&self, conn: &Connection, checkpoint: &str) -> Result<bool, Fault> {
        let (is_busy, n_carried): (bool, i64) =
            conn.query_row(checkpoint, [], |row| Ok((row.get(0)?, row.get(2)?)))?;
        match u32::try_from(n_carried) {
            Ok(n) => {
                self.n_carried.store(n, Ordering::Relaxed);
                Ok(is_busy)
            }
            // Below zero: somebody else is at it, who is not waited for. The next commit is soon enough.
            Err(_) => Ok(false),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Thread,
    Writer,
    /// The writer, and nobody else writes.
    WriterAlone,
}

/// The writer's part. Ends the thread when it is dropped, and waits for it.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    log: Arc<Log>,
    /// The writer's own: it waits for others, but not as long as a write does.
    conn: Connection,
    /// Dropped to end the thread.
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    is_failing: bool,
}

impl Checkpoints {
    /// For `writer`, with connections of their own to the same file: one for the thread, one for the writer.
    pub(crate) fn start(
        writer: &mut Connection,
        [of_thread, conn]: [Connection; 2],
    ) -> Result<Self, Fault> {
        let log = Arc::new(Log::default());
        writer.wal_hook(Some({
            let log = log.clone();
            move |_: &mut _, n| {
                log.committed(u32::try_from(n).unwrap_or_default()); // never below zero
                Ok(())
            }
        }))?;
        // One place: who is woken while he works looks once more.
        let (wake, woken) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("sqlite-log".to_owned())
            .spawn({
                let log = log.clone();
                move || {
                    while woken.recv().is_ok() {
                        crash_point!("checkpoint::thread-begins");
                        if let Err(fault) = log.carry_over(&of_thread) {
                            // The writer tries as well, and complains, once the log is large.
                            tracing::debug!(%fault, "the log was not carried over into the file");
                        }
                        crash_point!("checkpoint::thread-ends");
                    }
                }
            })?;
        Ok(Self {
            log,
            conn,
            wake: Some(wake),
            thread: Some(thread),
            is_failing: false,
        })
    }

    /// To be called by the writer after its commits.
    pub(crate) fn look_after(&mut self) {
        let carry_over = match self.log.next() {
            Next::Nothing => return,
            Next::Thread => {
                if let Some(wake) = &self.wake {
                    // Full: it has been woken already. It ends only with us.
                    let _ = wake.try_send(());
                }
                return;
            }
            Next::Writer => Log::carry_over,
            Next::WriterAlone => Log::carry_all_over,
        };
        crash_point!("checkpoint::writer-begins");
        let outcome = carry_over(&self.log, &self.conn);
        crash_point!("checkpoint::writer-ends");
        if let Err(fault) = &outcome
            && !self.is_failing
        {
            tracing::warn!(%fault, "the log cannot be carried over into the file, and grows until it can");
        }
        self.is_failing = outcome.is_err();
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wake.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that carries the log over has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::{Path, PathBuf},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{Durability, connection};

    struct Written {
        folder: tempfile::TempDir,
        conn: Connection,
        checkpoints: Checkpoints,
    }

    impl Written {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tasks.db");
            let mut conn = open_writer(&path);
            conn.execute_batch("CREATE TABLE large AS SELECT randomblob(20000) AS bytes")
                .unwrap();
            let own = connection::open_checkpointers(&path).unwrap();
            let checkpoints = Checkpoints::start(&mut conn, own).unwrap();
            Self {
                folder,
                conn,
                checkpoints,
            }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("tasks.db")
        }

        /// One commit of about six pages.
        fn write(&self) {
            self.conn
                .execute("UPDATE large SET bytes = randomblob(20000)", [])
                .unwrap();
        }

        fn n(&self) -> u32 {
            self.checkpoints.log.n.load(Ordering::Relaxed)
        }

        fn n_carried(&self) -> u32 {
            self.checkpoints.log.n_carried.load(Ordering::Relaxed)
        }

        /// Somebody who reads what is there now until he commits.
        fn reader(&self) -> Connection {
            let reader = connection::open_reader(&self.path(), Duration::ZERO).unwrap();
            reader
                .execute_batch("BEGIN; SELECT count(*) FROM large")
                .unwrap();
            reader
        }

        /// Writes until the log has so many pages.
        fn fill(&mut self, n: u32) {
            while self.n() < n {
                self.write();
            }
        }

        fn wait_until_carried(&self, n: u32) {
            let begun = Instant::now();
            while self.n_carried() < n {
                assert!(
                    begun.elapsed() < Duration::from_secs(30),
                    "nobody carried it over"
                );
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn the_thread_carries_over_most_and_the_writer_the_rest_and_then_the_log_begins_anew() {
        let mut written = Written::start();

        written.fill(FROM);
        let reader = written.reader(); // so that there is a rest
        written.write();
        assert_eq!(written.checkpoints.log.next(), Next::Thread);
        written.checkpoints.look_after();
        written.wait_until_carried(FROM);
        assert!(written.n_carried() < written.n());
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(written.checkpoints.log.next(), Next::Writer);
        written.checkpoints.look_after();
        assert_eq!(written.n_carried(), written.n());
        written.write();

        assert!(written.n() < 100, "the log has {} pages", written.n());
        assert_eq!(written.checkpoints.log.next(), Next::Nothing);
    }

    #[test]
    fn a_log_that_is_written_without_a_pause_stays_small() {
        let mut written = Written::start();
        let mut n_max = 0;

        for _ in 0..4_000 {
            written.write();
            written.checkpoints.look_after();
            n_max = n_max.max(written.n());
        }

        assert!(n_max <= AT_MOST + 100, "{n_max} pages");
    }

    fn open_writer(path: &Path) -> Connection {
        connection::open_writer(path, Durability::Process, Duration::from_secs(30)).unwrap()
    }

    /// What another process would do that writes all the time too, until the sender is gone.
    fn write_beside(path: &Path, until: &mpsc::Receiver<()>) {
        let conn = open_writer(path);
        conn.execute_batch("CREATE TABLE other AS SELECT randomblob(20000) AS bytes")
            .unwrap();
        while until.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            conn.execute("UPDATE other SET bytes = randomblob(20000)", [])
                .unwrap();
        }
    }

    #[test]
    fn a_log_that_two_processes_write_without_a_pause_stays_small() {
        let mut written = Written::start();
        let path = written.path();
        let (end, until) = mpsc::channel();
        let mut n_max = 0;

        thread::scope(|scope| {
            let _end = end; // dropped by a panic, too
            scope.spawn(move || write_beside(&path, &until));
            for _ in 0..6_000 {
                written.write();
                written.checkpoints.look_after();
                n_max = n_max.max(written.n());
            }
        });

        // Both go on as long as a checkpoint of the thread takes, on a disk that may be slow. Begun anew by chance only,
        // it has some hundred thousand.
        assert!(n_max <= 4 * AT_MOST, "{n_max} pages");
    }

    #[test]
    fn what_a_reader_holds_up_is_carried_over_once_he_is_gone() {
        let mut written = Written::start();
        let reader = written.reader();

        written.fill(AT_MOST);
        written.checkpoints.look_after();
        let held_up = written.n_carried();
        assert_eq!(written.checkpoints.log.next(), Next::Thread); // nobody is kept from writing for nothing
        reader.execute_batch("COMMIT").unwrap();
        written.fill(2 * AT_MOST);
        written.checkpoints.look_after();
        let carried = written.n_carried();
        written.write();

        assert!(held_up < 100, "{held_up} pages");
        assert!(carried >= 2 * AT_MOST, "{carried} pages");
        assert!(written.n() < 100, "the log has {} pages", written.n());
    }
}
