//! Checkpoints: a thread of their own carries the log over into the file, so that who writes need not wait for the disk.
//!
//! SQLite would do it within a commit, once the log has a thousand pages, and everybody would wait for two flushes.
//! Another connection may do it while the writer goes on, but then there is always something new in the log, and it
//! is begun again only when all of it was carried over. So the thread does the large part, and the writer the small
//! rest, after its answers, unless nobody wrote while the thread was at it. Who asks meanwhile waits for two flushes, and
//! the next commit for a third one, so the log grows for a while before. When several processes write, one of them
//! nearly always does: once the log is large, the writer keeps them from it for that moment.
//! <https://www.sqlite.org/wal.html#checkpointing>

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

use crate::fault::{Fault, say};

/// So many pages at a time are carried over: SQLite's own figure.
const FROM: u32 = 1_000;
/// With so many in all, it is time for the log to begin anew.
const ANEW_FROM: u32 = 5_000;
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
    /// when it is twice as large: nobody can write while he waits. More than that is carried over only when they are
    /// gone. Written by the writer.
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
        // More than there are: the thread has said how far it came after the log was begun again, or others wrote them.
        let rest = n.checked_sub(n_carried).unwrap_or(n);
        let too_large = match self.n_in_vain.load(Ordering::Relaxed) {
            n_in_vain if n_carried > n_in_vain => n_in_vain + AT_MOST,
            n_in_vain => AT_MOST.max(n_in_vain.saturating_mul(2)),
        };
        match rest {
            _ if rest == 0 => Next::Nothing,
            _ if n >= too_large => Next::WriterAlone,
            _ if n >= ANEW_FROM && rest <= REST => Next::Writer,
            _ if n >= ANEW_FROM || rest >= FROM => Next::Thread,
            _ => Next::Nothing,
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
        match self.run(conn, "PRAGMA wal_checkpoint(RESTART)")? {
            Some(true) => {
                let n_before = self.n_in_vain.swap(n, Ordering::Relaxed);
                // Not the first time: whoever was in the way then may have read a page of a list.
                if n_before > 0 {
                    say(|| {
                        tracing::warn!(
                            pages = n,
                            "somebody reads an old state of the file, and its log grows until they have done so (is it open in an \
                            SQLite shell or a backup tool?)"
                        );
                    });
                }
            }
            Some(false) => self.committed(0), // as good as begun again
            None => {}
        }
        Ok(())
    }

    /// True if others were in the way for longer than they were waited for. Nothing if somebody else is at it, who is
    /// not waited for: the next commit is soon enough.
    fn run(&self, conn: &Connection, checkpoint: &str) -> Result<Option<bool>, Fault> {
        let (is_busy, n_carried): (bool, i64) =
            conn.query_row(checkpoint, [], |row| Ok((row.get(0)?, row.get(2)?)))?;
        // Below zero: somebody else is at it.
        let n_carried = u32::try_from(n_carried).ok();
        if let Some(n) = n_carried {
            self.n_carried.store(n, Ordering::Relaxed);
        }
        Ok(n_carried.map(|_| is_busy))
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
                            say(|| tracing::debug!(%fault, "the log was not carried over into the file"));
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
            say(|| {
                tracing::warn!(%fault, "the log cannot be carried over into the file, and grows until it can");
            });
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

    use tracing::{Event, Level, Metadata, span};

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

        /// The same, and what follows it; how many pages the log had then. Once it is too large this goes on only when
        /// the thread lets the writer at it: how long that takes is the disk's matter.
        fn write_in_turn(&mut self) -> u32 {
            self.write();
            let n = self.n();
            self.checkpoints.look_after();
            let begun = Instant::now();
            while self.checkpoints.log.next() == Next::WriterAlone {
                assert!(
                    begun.elapsed() < Duration::from_secs(30),
                    "the thread is at it for ever"
                );
                thread::yield_now();
                self.checkpoints.look_after();
            }
            n
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

        written.fill(ANEW_FROM);
        let reader = written.reader(); // so that there is a rest
        written.write();
        assert_eq!(written.checkpoints.log.next(), Next::Thread);
        written.checkpoints.look_after();
        written.wait_until_carried(ANEW_FROM);
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
    fn a_pause_in_which_nobody_writes_is_enough_for_the_log_to_begin_anew() {
        let mut written = Written::start();

        written.fill(ANEW_FROM);
        written.checkpoints.look_after();
        written.wait_until_carried(written.n());
        let next = written.checkpoints.log.next();
        written.write();

        assert_eq!(next, Next::Nothing, "somebody waits for the disk");
        assert!(written.n() < 100, "the log has {} pages", written.n());
    }

    #[test]
    fn who_writes_waits_for_the_disk_no_more_than_once_in_thousands_of_pages() {
        let log = Log::default();
        let (mut by_thread, mut by_writer) = (Vec::new(), Vec::new());

        // Somebody commits ten pages at a time, and is always a little ahead of the thread.
        for n in (10..=ANEW_FROM + FROM).step_by(10) {
            log.committed(n);
            match log.next() {
                Next::Nothing => {}
                Next::Thread => {
                    log.n_carried.store(n - 10, Ordering::Relaxed);
                    by_thread.push(n);
                }
                Next::Writer | Next::WriterAlone => by_writer.push(n),
            }
        }

        assert_eq!(by_thread[..4], [1_000, 1_990, 2_980, 3_970]);
        assert!(by_writer[0] >= 5_000, "{by_writer:?}");
    }

    #[test]
    fn a_log_that_is_written_without_a_pause_stays_small() {
        let mut written = Written::start();

        let n_max = (0..4_000).map(|_| written.write_in_turn()).max().unwrap();

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

        let n_max = thread::scope(|scope| {
            let _end = end; // dropped by a panic, too
            scope.spawn(move || write_beside(&path, &until));
            (0..6_000).map(|_| written.write_in_turn()).max().unwrap()
        });

        // Begun anew by chance only, it has some hundred thousand.
        assert!(n_max <= 4 * AT_MOST, "{n_max} pages");
    }

    #[test]
    fn pages_that_were_carried_over_before_the_log_began_anew_do_not_count() {
        let log = Log::default();
        log.committed(100_000);
        log.committed(FROM); // begun anew, while the thread was on the way to say how far it came

        log.n_carried.store(100_000, Ordering::Relaxed);

        assert_eq!(log.next(), Next::Thread);
    }

    #[test]
    fn a_log_that_grew_while_others_were_in_the_way_begins_anew_soon_after_they_are_gone() {
        let log = Log::default();
        log.committed(50 * AT_MOST);
        log.n_in_vain.store(30 * AT_MOST, Ordering::Relaxed);

        log.n_carried.store(30 * AT_MOST, Ordering::Relaxed); // as far as they allow
        let held_up = log.next();
        log.n_carried.store(49 * AT_MOST, Ordering::Relaxed);
        let gone = log.next();

        assert_eq!((held_up, gone), (Next::Thread, Next::WriterAlone));
    }

    #[test]
    fn a_log_that_began_anew_after_others_were_in_the_way_has_its_limit_again() {
        let log = Log::default();
        log.committed(30 * AT_MOST);
        log.n_in_vain.store(30 * AT_MOST, Ordering::Relaxed);

        log.committed(10); // begun anew
        log.committed(AT_MOST);

        assert_eq!(log.next(), Next::WriterAlone);
    }

    /// Counts the warnings of a thread.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicU32>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_reader_who_stays_while_the_log_grows_is_warned_of_when_he_is_met_again() {
        let warnings = Warnings::default();
        let _counted = tracing::subscriber::set_default(warnings.clone());
        let n = || warnings.0.load(Ordering::SeqCst);
        let mut written = Written::start();
        let _reader = written.reader();

        written.fill(AT_MOST);
        written.checkpoints.look_after();
        let at_first = n();
        written.fill(2 * AT_MOST);
        written.checkpoints.look_after();

        assert_eq!((at_first, n()), (0, 1));
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
        written.write();

        assert!(held_up < 100, "{held_up} pages");
        assert!(written.n() < 100, "the log has {} pages", written.n());
    }
}
