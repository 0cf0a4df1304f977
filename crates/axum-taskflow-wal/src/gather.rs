//! Which writes to a log are put together, and when they have to be on their way.

/// A header of a frame, in bytes.
const HEADER: usize = 24;
/// Where it has the size of the database after the commit, in pages; 0 in all frames of a transaction but the last.
const SIZE_AFTER_COMMIT: std::ops::Range<usize> = 4..8;
/// So many bytes go at once, and it does not pay to wait for more.
const MAX: usize = 96 * 1024;

/// Frames of a transaction that has not committed, to be written with one call. What they are is seen in the
/// [format of the log](https://www.sqlite.org/fileformat2.html#the_write_ahead_log): SQLite appends a header of 24 bytes
/// and a page for each, and a header that is not 0 from its fourth to its eighth byte begins the last one.
///
/// Anything else is passed on as it comes, behind what was gathered. So what SQLite has been told is written and is not,
/// belongs to a transaction whose last frame is still to come; nobody else looks at such frames. And it is there only as
/// long as SQLite holds the lock of those who write: afterwards, others write at the same places.
#[derive(Debug)]
pub(crate) struct Gather {
    frames: Vec<u8>,
    /// Where they begin in the file.
    at: i64,
    /// Where the last write ended.
    end: i64,
    next: Next,
    is_locked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Header,
    /// The page of a header that waits.
    Page {
        is_last: bool,
    },
}

impl Default for Gather {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            at: 0,
            end: -1, // unknown: whatever comes first is passed on
            next: Next::Header,
            is_locked: false,
        }
    }
}

impl Gather {
    /// Nobody else writes to the log from here on.
    pub(crate) fn locked(&mut self) {
        self.is_locked = true;
    }

    /// Others may write from here on. What is still gathered belongs to a transaction that did not commit.
    pub(crate) fn unlocked(&mut self) {
        self.is_locked = false;
        self.frames.clear();
        self.next = Next::Header;
    }

    /// SQLite writes. `write` is the file's.
    ///
    /// # Errors
    /// Those of `write`. What SQLite was told is written is kept then, for the next time: the transaction may still go on.
    pub(crate) fn write<E>(
        &mut self,
        bytes: &[u8],
        at: i64,
        mut write: impl FnMut(&[u8], i64) -> Result<(), E>,
    ) -> Result<(), E> {
        let outcome = self.take(bytes, at, &mut write);
        if outcome.is_err() {
            self.end = -1;
        }
        outcome
    }

    fn take<E>(
        &mut self,
        bytes: &[u8],
        at: i64,
        write: &mut impl FnMut(&[u8], i64) -> Result<(), E>,
    ) -> Result<(), E> {
        let follows = at == self.end;
        // Pages are powers of two long. SQLite may write one in two parts, and flush the first; 24 bytes behind such a
        // part are the rest of the page, and no header.
        self.end = match bytes.len() {
            len if len == HEADER || len.is_power_of_two() => at + len as i64,
            _ => -1,
        };
        match std::mem::replace(&mut self.next, Next::Header) {
            Next::Page { is_last } if follows => {
                let n_before = self.frames.len().saturating_sub(HEADER);
                self.frames.extend_from_slice(bytes);
                if !is_last && self.frames.len() < MAX {
                    return Ok(());
                }
                let outcome = self.flush(&mut *write);
                if outcome.is_err() {
                    self.frames.truncate(n_before); // neither this page nor its header is written, as SQLite hears
                }
                outcome
            }
            Next::Header if follows && self.is_locked && bytes.len() == HEADER => {
                let size = bytes.get(SIZE_AFTER_COMMIT).unwrap_or_default();
                self.next = Next::Page {
                    is_last: size.iter().any(|byte| *byte != 0),
                };
                if self.frames.is_empty() {
                    self.at = at;
                }
                self.frames.extend_from_slice(bytes);
                Ok(())
            }
            _ => {
                self.flush(&mut *write)?;
                write(bytes, at)
            }
        }
    }

    /// Writes what was gathered.
    ///
    /// # Errors
    /// Those of `write`. It is kept then, for the next time: the transaction may still go on.
    pub(crate) fn flush<E>(
        &mut self,
        mut write: impl FnMut(&[u8], i64) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.frames.is_empty() {
            write(&self.frames, self.at)?;
            self.frames.clear();
        }
        // A header that is written already has no page to wait for.
        self.next = Next::Header;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "this is test code")]
mod tests {
    use super::*;

    const PAGE: usize = 512;
    const FRAME: i64 = (HEADER + PAGE) as i64;

    /// A file that says which calls it has seen, and fails if it is told to.
    #[derive(Default)]
    struct File {
        bytes: Vec<u8>,
        calls: Vec<(i64, usize)>,
        fails: bool,
    }

    impl File {
        fn write(&mut self, bytes: &[u8], at: i64) -> Result<(), &'static str> {
            if self.fails {
                return Err("full");
            }
            self.calls.push((at, bytes.len()));
            let at = at as usize;
            self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn calls(&mut self) -> Vec<(i64, usize)> {
            std::mem::take(&mut self.calls)
        }
    }

    fn header(is_last: bool) -> [u8; HEADER] {
        let mut header = [7; HEADER];
        header[SIZE_AFTER_COMMIT].copy_from_slice(&[0, 0, 0, u8::from(is_last)]);
        header
    }

    fn frame(
        gather: &mut Gather,
        file: &mut File,
        n: i64,
        is_last: bool,
    ) -> Result<(), &'static str> {
        let at = 32 + n * FRAME;
        gather.write(&header(is_last), at, |bytes, at| file.write(bytes, at))?;
        let page = [n as u8; PAGE];
        gather.write(&page, at + HEADER as i64, |bytes, at| file.write(bytes, at))
    }

    /// A log with its own header.
    fn begun() -> (Gather, File) {
        let (mut gather, mut file) = (Gather::default(), File::default());
        gather.locked();
        let own = [1; 32];
        gather
            .write(&own, 0, |bytes, at| file.write(bytes, at))
            .unwrap();
        assert_eq!(file.calls(), [(0, 32)]);
        (gather, file)
    }

    #[test]
    fn a_transaction_is_written_with_its_last_frame() {
        let (mut gather, mut file) = begun();

        for n in 0..3 {
            frame(&mut gather, &mut file, n, false).unwrap();
        }
        assert_eq!(file.calls(), []);
        frame(&mut gather, &mut file, 3, true).unwrap();

        assert_eq!(file.calls(), [(32, 4 * FRAME as usize)]);
        let mut expected = vec![1; 32];
        for n in 0..4 {
            expected.extend(header(n == 3));
            expected.extend([n as u8; PAGE]);
        }
        assert_eq!(file.bytes, expected);
        frame(&mut gather, &mut file, 4, true).unwrap();
        assert_eq!(
            file.calls(),
            [(32 + 4 * FRAME, FRAME as usize)],
            "so is the next"
        );
    }

    #[test]
    fn what_does_not_follow_goes_its_own_way_behind_what_was_gathered() {
        let (mut gather, mut file) = begun();
        frame(&mut gather, &mut file, 0, false).unwrap();
        frame(&mut gather, &mut file, 1, false).unwrap();

        // A page that changes once more in the same transaction, and its checksums.
        let (page, at) = ([9; PAGE], 32 + HEADER as i64);
        gather
            .write(&page, at, |bytes, at| file.write(bytes, at))
            .unwrap();
        assert_eq!(file.calls(), [(32, 2 * FRAME as usize), (at, PAGE)]);
        frame(&mut gather, &mut file, 2, true).unwrap();
        let own = [
            (32 + 2 * FRAME, HEADER),
            (32 + 2 * FRAME + HEADER as i64, PAGE),
        ];
        assert_eq!(file.calls(), own, "another process may have been there");
        for n in 0..3 {
            let at = 32 + n * FRAME;
            gather
                .write(&header(n == 2), at, |bytes, at| file.write(bytes, at))
                .unwrap();
            assert_eq!(file.calls(), [(at, HEADER)], "no page comes behind it");
        }
    }

    #[test]
    fn no_more_than_a_bounded_part_of_a_transaction_is_kept() {
        let (mut gather, mut file) = begun();

        for n in 0..1_000 {
            frame(&mut gather, &mut file, n, false).unwrap();
            assert!(gather.frames.len() < MAX);
        }
        frame(&mut gather, &mut file, 1_000, true).unwrap();

        let calls = file.calls();
        assert!(calls.len() < 10, "{calls:?}");
        let mut end = 32;
        for (at, len) in calls {
            assert_eq!(at, end);
            end += len as i64;
        }
        assert_eq!(end, 32 + 1_001 * FRAME);
    }

    #[test]
    fn after_a_write_that_failed_the_transaction_may_go_on_with_all_that_was_written() {
        for n in [1, 1_000] {
            let (mut gather, mut file) = begun();
            let first_of_last = (0..n)
                .rev()
                .find(|k| k * FRAME % (MAX as i64 / FRAME * FRAME + FRAME) == 0)
                .unwrap();
            for k in 0..n {
                frame(&mut gather, &mut file, k, false).unwrap();
            }
            file.fails = true;
            assert_eq!(frame(&mut gather, &mut file, n, true), Err("full"));
            file.fails = false;
            file.calls();

            // Something else is written in its place.
            frame(&mut gather, &mut file, n, true).unwrap();

            let at = 32 + n * FRAME;
            let kept = (
                32 + first_of_last * FRAME,
                ((n - first_of_last) * FRAME) as usize,
            );
            let own = [kept, (at, HEADER), (at + HEADER as i64, PAGE)];
            assert_eq!(file.calls(), own);
        }
    }

    #[test]
    fn nothing_is_put_behind_a_write_that_failed() {
        let (mut gather, mut file) = begun();
        for n in 0..3 {
            frame(&mut gather, &mut file, n, false).unwrap();
        }
        file.fails = true;
        let (page, at) = ([9; PAGE], 32 + HEADER as i64);
        let again = gather.write(&page, at, |bytes, at| file.write(bytes, at));
        assert_eq!(again, Err("full"));
        file.fails = false;

        // Back to a point behind the first one.
        frame(&mut gather, &mut file, 1, true).unwrap();

        let at = 32 + FRAME;
        let all = (32, 3 * FRAME as usize);
        assert_eq!(
            file.calls(),
            [all, (at, HEADER), (at + HEADER as i64, PAGE)]
        );
    }

    #[test]
    fn what_has_not_committed_is_forgotten_when_others_may_write() {
        let (mut gather, mut file) = begun();
        frame(&mut gather, &mut file, 0, false).unwrap();
        frame(&mut gather, &mut file, 1, false).unwrap();
        gather.unlocked();

        gather.flush(|bytes, at| file.write(bytes, at)).unwrap();
        gather.locked();
        frame(&mut gather, &mut file, 5, true).unwrap();

        let at = 32 + 5 * FRAME;
        assert_eq!(file.calls(), [(at, HEADER), (at + HEADER as i64, PAGE)]);
    }

    #[test]
    fn nothing_is_gathered_without_the_lock() {
        let (mut gather, mut file) = begun();
        gather.unlocked();

        frame(&mut gather, &mut file, 0, false).unwrap();

        assert_eq!(file.calls(), [(32, HEADER), (32 + HEADER as i64, PAGE)]);
    }

    #[test]
    fn the_rest_of_a_page_is_no_header() {
        let (mut gather, mut file) = begun();
        let (page, first) = ([0; PAGE], PAGE - HEADER);
        let at = 32 + HEADER as i64;
        gather
            .write(&header(true), 32, |bytes, at| file.write(bytes, at))
            .unwrap();
        gather
            .write(&page[..first], at, |bytes, at| file.write(bytes, at))
            .unwrap();
        gather.flush(|bytes, at| file.write(bytes, at)).unwrap();
        assert_eq!(file.calls(), [(32, PAGE)]);

        let at = at + first as i64;
        gather
            .write(&page[first..], at, |bytes, at| file.write(bytes, at))
            .unwrap();

        assert_eq!(file.calls(), [(at, HEADER)]);
        frame(&mut gather, &mut file, 1, true).unwrap();
        assert_eq!(
            file.calls(),
            [(32 + FRAME, FRAME as usize)],
            "and the next one is whole"
        );
    }

    #[test]
    fn what_cannot_be_written_before_a_read_is_kept_for_the_commit() {
        let (mut gather, mut file) = begun();
        frame(&mut gather, &mut file, 0, false).unwrap();
        file.fails = true;
        assert!(gather.flush(|bytes, at| file.write(bytes, at)).is_err());

        file.fails = false;
        frame(&mut gather, &mut file, 1, true).unwrap();

        assert_eq!(file.calls(), [(32, 2 * FRAME as usize)]);
    }

    #[test]
    fn a_header_that_was_written_before_a_read_has_its_page_behind_it() {
        let (mut gather, mut file) = begun();
        gather
            .write(&header(false), 32, |bytes, at| file.write(bytes, at))
            .unwrap();
        gather.flush(|bytes, at| file.write(bytes, at)).unwrap();

        let page = [3; PAGE];
        gather
            .write(&page, 32 + HEADER as i64, |bytes, at| file.write(bytes, at))
            .unwrap();

        assert_eq!(file.calls(), [(32, HEADER), (32 + HEADER as i64, PAGE)]);
    }
}
