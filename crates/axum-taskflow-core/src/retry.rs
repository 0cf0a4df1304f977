//! How long to wait before the next attempt: pure arithmetic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often a failed task is tried again, and how long it waits before each attempt.
///
/// ```
/// use std::time::Duration;
/// use axum_taskflow_core::RetryPolicy;
///
/// let policy = RetryPolicy {
///     retries: 3,
///     delay: Duration::from_secs(1),
///     backoff: 2.0,
///     jitter: 0.0,
///     ..RetryPolicy::default()
/// };
///
/// let waits: Vec<_> = (1..=3).map(|attempt| policy.delay_before(attempt, 0.5).as_secs()).collect();
/// assert_eq!(waits, [1, 2, 4]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts after the first one. Zero: one attempt in all.
    pub retries: u32,
    /// The wait after the first failed attempt.
    pub delay: Duration,
    /// Each further wait is this many times the one before.
    pub backoff: f64,
    /// No wait is longer.
    pub max_delay: Duration,
    /// The part of each wait that is left to chance, from 0.0 (none) to 1.0 (all of it, "full jitter" in
    /// [Brooker, 2015](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)), so that tasks
    /// that failed together do not come back together.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 0,
            delay: Duration::ZERO,
            backoff: 1.0,
            max_delay: Duration::from_secs(3_600),
            jitter: 0.1,
        }
    }
}

impl RetryPolicy {
    /// The wait after the failed attempt number `attempt` (the first is 1); `chance` is drawn from 0.0 to 1.0.
    ///
    /// The wait lies between `(1 - jitter)` and once the exponential delay, and is at most `max_delay`.
    #[must_use]
    pub fn delay_before(&self, attempt: u32, chance: f64) -> Duration {
        let exponent = f64::from(attempt.saturating_sub(1).min(1_000));
        let full_s = self.delay.as_secs_f64() * self.backoff.powf(exponent);
        let capped_s = full_s.min(self.max_delay.as_secs_f64());
        let drawn_s = capped_s * (1.0 - self.jitter * chance);
        // Not a number or below zero only by a policy that `complaint` refuses.
        Duration::try_from_secs_f64(drawn_s).unwrap_or(self.max_delay)
    }

    /// True if attempt number `attempt`, which failed, is followed by another one.
    #[must_use]
    pub fn allows_another(&self, attempt: u32) -> bool {
        attempt <= self.retries
    }

    /// What is wrong with the policy, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        if !(self.backoff >= 1.0 && self.backoff.is_finite()) {
            return Some(format!(
                "backoff must be a number of at least 1, not {}",
                self.backoff
            ));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some(format!(
                "jitter must be between 0 and 1, not {}",
                self.jitter
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        retries: 5,
        delay: Duration::from_secs(10),
        backoff: 3.0,
        max_delay: Duration::from_secs(60),
        jitter: 0.5,
    };

    #[test]
    fn waits_grow_to_the_maximum_and_stay_there() {
        let waits: Vec<u64> = (1..=5)
            .map(|attempt| POLICY.delay_before(attempt, 0.0).as_secs())
            .collect();

        assert_eq!(waits, [10, 30, 60, 60, 60]);
    }

    #[test]
    fn jitter_takes_at_most_its_part_of_the_wait() {
        assert_eq!(POLICY.delay_before(1, 1.0), Duration::from_secs(5));
        assert_eq!(POLICY.delay_before(9, 1.0), Duration::from_secs(30));
    }

    #[test]
    fn an_enormous_attempt_or_delay_is_the_maximum() {
        let huge = RetryPolicy {
            delay: Duration::MAX,
            ..POLICY
        };

        assert_eq!(huge.delay_before(u32::MAX, 0.0), Duration::from_secs(60));
        assert_eq!(POLICY.delay_before(u32::MAX, 0.0), Duration::from_secs(60));
    }

    #[test]
    fn three_retries_are_four_attempts() {
        let policy = RetryPolicy {
            retries: 3,
            ..POLICY
        };

        let attempts = 1 + (1..10).take_while(|n| policy.allows_another(*n)).count();

        assert_eq!(attempts, 4);
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused() {
        for bad in [f64::NAN, 0.5, f64::INFINITY, -1.0] {
            let policy = RetryPolicy {
                backoff: bad,
                ..POLICY
            };
            assert!(policy.complaint().is_some(), "{bad}");
        }
        assert!(
            RetryPolicy {
                jitter: 1.1,
                ..POLICY
            }
            .complaint()
            .is_some()
        );
        assert_eq!(POLICY.complaint(), None);
    }
}
