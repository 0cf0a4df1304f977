//! Names of things: the only file that makes ids.

use std::{fmt, str::FromStr, sync::Mutex};

use serde::{Deserialize, Serialize};
use uuid::{ContextV7, Uuid, timestamp::Timestamp as UuidTime};

use crate::{clock::Timestamp, error::Error};

/// The name of one task: a UUID of version 7 ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7)),
/// so ids sort by creation, and a range of ids is a range of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Uuid);

impl TaskId {
    /// The smallest id that a task created at `at` or later can have.
    #[must_use]
    pub fn floor(at: Timestamp) -> Self {
        let ms = u64::try_from(at.as_unix_ms()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid())
    }

    /// When the task was created, in milliseconds.
    #[must_use]
    pub fn created_at(self) -> Timestamp {
        let (head, _) = self.0.as_u64_pair();
        Timestamp::from_unix_ms(i64::try_from(head >> 16).unwrap_or(i64::MAX))
    }

    /// The 16 bytes, which sort as the ids do.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From the 16 bytes of [`TaskId::as_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TaskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match Uuid::try_parse(text) {
            Ok(id) => Ok(Self(id)),
            Err(error) => Err(Error::invalid(format!(
                "{:?} is not a task id: {error}",
                text.chars().take(64).collect::<String>()
            ))),
        }
    }
}

/// One boot of one process. Never a host name or a worker's name: those come back, and a process that was
/// thought dead would write under its successor's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From the 16 bytes of [`InstanceId::as_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The fencing token of an attempt: it only grows, and a write that names an old one changes nothing.
///
/// Give it to outside systems that can refuse a smaller one
/// ([Kleppmann, 2016](https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html)).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch of a task that no attempt has begun yet.
    pub const ZERO: Self = Self(0);

    /// The epoch of the next attempt.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// From the number of [`Epoch::get`].
    #[must_use]
    pub fn from_u32(epoch: u32) -> Self {
        Self(epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes ids that grow, even within a millisecond and when the clock is set back by up to a minute.
///
/// Set back by more, as after it was a year ahead for a moment, they begin anew at the clock's time and grow from
/// there. Otherwise all that this process adds would bear the time of the jump: it would be kept by so much longer, and
/// stand before everything that other processes add.
#[derive(Debug, Default)]
pub struct IdSource {
    /// The counter inside the millisecond. A std mutex: held for one addition.
    context: Mutex<ContextV7>,
}

/// How far ids may be ahead of the clock: time servers set a clock back by less, and to no retention is it long.
const AHEAD_SECONDS_MAX: u64 = 60;

impl IdSource {
    /// The id of a task that is created now.
    pub fn task(&self, now: Timestamp) -> TaskId {
        TaskId(self.next(now))
    }

    /// The id of an instance that starts now.
    pub fn instance(&self, now: Timestamp) -> InstanceId {
        InstanceId(self.next(now))
    }

    fn next(&self, now: Timestamp) -> Uuid {
        let ms = u64::try_from(now.as_unix_ms()).unwrap_or(0);
        let nanos = u32::try_from(ms % 1_000).expect("below a thousand") * 1_000_000;
        let mut context = self
            .context
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let draw = |context: &ContextV7| UuidTime::from_unix(context, ms / 1_000, nanos);
        let mut time = draw(&context);
        if time.to_unix().0.saturating_sub(ms / 1_000) > AHEAD_SECONDS_MAX {
            // It counts from a random number, as one of another process does: no id comes again.
            *context = ContextV7::new();
            time = draw(&context);
        }
        Uuid::new_v7(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_within_one_millisecond_and_when_the_clock_goes_back() {
        let source = IdSource::default();
        let times = [5_000, 5_000, 5_001, 4_000, 5_002];

        let ids: Vec<TaskId> = times
            .iter()
            .flat_map(|ms| (0..100).map(|_| source.task(Timestamp::from_unix_ms(*ms))))
            .collect();

        assert!(ids.is_sorted());
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_for_a_moment_leaves_no_trace_in_later_ids() {
        let source = IdSource::default();
        let (now, year) = (1_795_300_000_123, 365 * 24 * 3_600 * 1_000);
        let at = |ms| source.task(Timestamp::from_unix_ms(ms));
        let before = at(now);
        let astray = at(now + year);

        let times = [now, now, now + 1, now - 1_000, now + 2];
        let ids: Vec<TaskId> = times
            .iter()
            .flat_map(|ms| (0..100).map(|_| at(*ms)))
            .collect();

        assert_eq!(astray.created_at().as_unix_ms(), now + year);
        assert_eq!(ids[0].created_at().as_unix_ms(), now);
        assert_eq!(ids[499].created_at().as_unix_ms(), now + 2);
        assert!(ids.is_sorted());
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(!ids.contains(&before));
    }

    #[test]
    fn ids_grow_while_the_clock_is_behind_them_by_up_to_a_minute() {
        let source = IdSource::default();
        let (now, minute) = (1_795_300_000_123, 60_000);
        let at = |ms| source.task(Timestamp::from_unix_ms(ms));

        let first = at(now);
        let ids = [at(now - 1), at(now - minute), at(now - minute / 2)];
        let anew = at(now - minute - 1_000);

        assert!(first < ids[0] && ids.is_sorted());
        assert!(ids.iter().all(|id| id.created_at().as_unix_ms() == now));
        assert_eq!(anew.created_at().as_unix_ms(), now - minute - 1_000);
    }

    #[test]
    fn an_id_tells_when_its_task_was_created() {
        let now = Timestamp::from_unix_ms(1_795_300_000_123);
        let id = IdSource::default().task(now);

        assert_eq!(id.created_at(), now);
        assert!(TaskId::floor(now) <= id);
        assert!(TaskId::floor(now.saturating_add(std::time::Duration::from_millis(1))) > id);
    }

    #[test]
    fn a_malformed_id_is_refused_and_named() {
        let error = "undefined".parse::<TaskId>().unwrap_err();

        assert!(error.to_string().contains("\"undefined\" is not a task id"));
    }
}
