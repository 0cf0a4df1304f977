//! What time it is: the only file that reads a clock.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{fmt::temporal::DateTimePrinter, tz::Offset};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::{sync::watch, time::Instant};

use crate::error::Error;

/// An instant in milliseconds since the Unix epoch, UTC.
///
/// Reads and prints as RFC 3339 with an offset.
///
/// ```
/// use axum_taskflow_core::Timestamp;
///
/// let at: Timestamp = "2026-11-22T09:00:00+01:00".parse()?;
///
/// assert_eq!(at.to_string(), "2026-11-22T08:00:00+00:00");
/// # Ok::<(), axum_taskflow_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The last instant that every part of the library can print: the end of the year 9998.
    pub const MAX: Self = Self(253_370_764_799_999);

    /// From milliseconds since the Unix epoch; what lies outside the years 1970 to 9998 is moved to the nearest end.
    #[must_use]
    pub const fn from_unix_ms(ms: i64) -> Self {
        if ms < 0 {
            Self(0)
        } else if ms > Self::MAX.0 {
            Self::MAX
        } else {
            Self(ms)
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_unix_ms(self) -> i64 {
        self.0
    }

    /// This instant moved forward, at most to [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_unix_ms(self.0.saturating_add(by_ms))
    }

    /// This instant moved back, at most to the Unix epoch.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_unix_ms(self.0.saturating_sub(by_ms))
    }

    /// The time from `earlier` to this instant; zero if a clock went backwards between the two.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        // "+00:00" and not "Z", and three digits of the second or none: Python before 3.11 cannot read anything else.
        let n_digits = if self.0 % 1_000 == 0 { 0 } else { 3 };
        let printer = DateTimePrinter::new().precision(Some(n_digits));
        f.write_str(&printer.timestamp_with_offset_to_string(&instant, Offset::UTC))
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let instant: jiff::Timestamp = text.parse().map_err(|error| {
            Error::invalid(format!(
                "{text:?} is not an RFC 3339 time with an offset, such as 2026-11-22T09:00:00+01:00: {error}"
            ))
        })?;
        Ok(Self::from_unix_ms(instant.as_millisecond()))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self::default().saturating_add(since),
            Err(_before_1970) => Self::default(),
        }
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(instant: jiff::Timestamp) -> Self {
        Self::from_unix_ms(instant.as_millisecond())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the engine learns the time: the system's clock, or one that a test moves by hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// An atomic for readers, a watch channel to wake sleepers when a test moves the time.
    Manual(Arc<AtomicI64>, watch::Sender<()>),
    /// The time at the beginning, and when that was for tokio's timers.
    Tokio(Timestamp, Instant),
}

impl Clock {
    /// The clock of the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(
            Arc::new(AtomicI64::new(start.as_unix_ms())),
            watch::Sender::new(()),
        ))
    }

    /// A clock that shows `start` now and goes as tokio's timers go: with tokio's time paused, it is virtual time.
    ///
    /// For simulations: with several managers on one runtime, hours pass in a moment, and every run of it is the same.
    #[must_use]
    pub fn tokio(start: Timestamp) -> Self {
        Self(Source::Tokio(start, Instant::now()))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => SystemTime::now().into(),
            Source::Manual(ms, _) => Timestamp::from_unix_ms(ms.load(Ordering::SeqCst)),
            Source::Tokio(start, begun) => start.saturating_add(begun.elapsed()),
        }
    }

    /// True for the clock of the operating system.
    pub(crate) fn is_system(&self) -> bool {
        matches!(self.0, Source::System)
    }

    /// Moves a manual clock forward and wakes whoever sleeps on it. Other clocks stay as they are.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(ms, moved) = &self.0 {
            let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            ms.fetch_add(by_ms, Ordering::SeqCst);
            moved.send_replace(());
        }
    }

    /// Returns once it is `until`.
    ///
    /// # Cancel safety
    /// Holds nothing; may be dropped at any time.
    pub async fn sleep_until(&self, until: Timestamp) {
        match &self.0 {
            // In steps of a minute: the system's clock may be set while we sleep, and a timer does not notice.
            Source::System => loop {
                let left = until.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(Duration::from_secs(60))).await;
            },
            Source::Manual(_, moved) => {
                let mut moved = moved.subscribe();
                while self.now() < until {
                    if moved.changed().await.is_err() {
                        return; // the clock is gone, and nobody can move it any more
                    }
                }
            }
            Source::Tokio(..) => tokio::time::sleep(until.since(self.now())).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text_form() {
        let at = Timestamp::from_unix_ms(1_795_300_000_123);

        let again: Timestamp = at.to_string().parse().unwrap();

        assert_eq!(again, at);
        assert_eq!(at.to_string(), "2026-11-21T22:26:40.123+00:00");
    }

    #[test]
    fn a_time_has_three_digits_of_its_second_or_none() {
        for (ms, text) in [
            (1_795_300_000_000, "2026-11-21T22:26:40+00:00"),
            (1_795_300_000_500, "2026-11-21T22:26:40.500+00:00"),
            (1_795_300_000_090, "2026-11-21T22:26:40.090+00:00"),
            (1_795_300_000_009, "2026-11-21T22:26:40.009+00:00"),
        ] {
            assert_eq!(Timestamp::from_unix_ms(ms).to_string(), text);
        }
    }

    #[test]
    fn a_time_without_an_offset_is_refused_with_an_example() {
        let error = "2026-11-22T09:00:00".parse::<Timestamp>().unwrap_err();

        assert!(error.to_string().contains("with an offset"), "{error}");
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_unix_ms(i64::MIN), Timestamp::default());
        assert!(Timestamp::MAX.to_string().starts_with("9998-12-31"));
        assert_eq!(Timestamp::default().since(Timestamp::MAX), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_manual_clock_reaches_its_time() {
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(Timestamp::from_unix_ms(2_000)).await }
        });

        clock.advance(Duration::from_millis(999));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_millis(1));

        sleeper.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_of_tokio_goes_as_its_timers_go() {
        let start = Timestamp::from_unix_ms(1_000);
        let clock = Clock::tokio(start);
        let hour = Duration::from_secs(3_600);

        tokio::time::sleep(hour).await;
        assert_eq!(clock.now(), start.saturating_add(hour));
        clock.sleep_until(start.saturating_add(2 * hour)).await;

        assert_eq!(clock.now(), start.saturating_add(2 * hour));
    }
}
