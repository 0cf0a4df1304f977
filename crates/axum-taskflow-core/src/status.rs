//! Every change of status there is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Where a task stands. Lower case on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TaskStatus {
    /// Waits for a free slot, for its `run_at`, or for its next attempt.
    Pending,
    /// An attempt has begun.
    Running,
    /// The function returned without an error.
    Success,
    /// The last attempt failed, or the function gave up.
    Failed,
    /// Its process died or shut down while the function ran, and it may not be repeated unasked.
    Interrupted,
    /// Somebody cancelled it.
    Cancelled,
}

/// What happened to a task; with its status it decides the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// An attempt begins.
    Started,
    /// The attempt returned without an error.
    Succeeded,
    /// The attempt failed, and another one is due later.
    WillRetry,
    /// The attempt failed, and it was the last.
    GaveUp,
    /// Somebody cancelled the task.
    Cancelled,
    /// The attempt was cut off, and the task may not be repeated unasked.
    Interrupted,
    /// The attempt was cut off, and the task is `requeue_on_interrupt`.
    Requeued,
    /// The attempt was cut off by the death of its process, and too many were before.
    Poisoned,
    /// An instance lets go of a task whose function it has not called, or is made to.
    Released,
    /// This instance cannot decode the arguments; the task waits for one that can.
    Held,
}

/// A pair of status and cause that is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {status} cannot be changed by {cause:?}")]
pub struct Refused {
    /// The status that the task had.
    pub status: TaskStatus,
    /// What was to change it.
    pub cause: Cause,
}

impl TaskStatus {
    /// All of them, in the order of a task's life.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Success,
        Self::Failed,
        Self::Interrupted,
        Self::Cancelled,
    ];

    /// The status after `cause`: the one table of the state machine.
    ///
    /// # Errors
    /// A pair that is not listed is [`Refused`].
    pub fn on(self, cause: Cause) -> Result<Self, Refused> {
        use Cause as C;
        use TaskStatus as S;
        Ok(match (self, cause) {
            (S::Pending, C::Started) => S::Running,
            (S::Pending, C::Cancelled) => S::Cancelled,
            (S::Pending | S::Running, C::Released | C::Held) => S::Pending,
            (S::Running, C::Succeeded) => S::Success,
            (S::Running, C::WillRetry) => S::Pending,
            (S::Running, C::GaveUp) => S::Failed,
            (S::Running, C::Cancelled) => S::Cancelled,
            (S::Running, C::Interrupted) => S::Interrupted,
            (S::Running, C::Requeued) => S::Pending,
            (S::Running, C::Poisoned) => S::Failed,
            (status, cause) => return Err(Refused { status, cause }),
        })
    }

    /// True if nothing can change the task any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// True if [`TaskManager::retry`](crate::TaskManager::retry) makes a new task of it.
    #[must_use]
    pub fn can_be_retried(self) -> bool {
        matches!(self, Self::Failed | Self::Interrupted | Self::Cancelled)
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Started,
        Self::Succeeded,
        Self::WillRetry,
        Self::GaveUp,
        Self::Cancelled,
        Self::Interrupted,
        Self::Requeued,
        Self::Poisoned,
        Self::Released,
        Self::Held,
    ];
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TaskStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{text:?} is not a status; the statuses are {}",
                    Self::ALL.map(Self::as_str).join(", ")
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_a_terminal_status() {
        for status in TaskStatus::ALL.into_iter().filter(|s| s.is_terminal()) {
            for cause in Cause::ALL {
                assert_eq!(status.on(cause), Err(Refused { status, cause }));
            }
        }
    }

    #[test]
    fn every_status_is_reached_from_pending() {
        let mut reached = vec![TaskStatus::Pending];
        let mut next = 0;
        while next < reached.len() {
            for cause in Cause::ALL {
                if let Ok(status) = reached[next].on(cause)
                    && !reached.contains(&status)
                {
                    reached.push(status);
                }
            }
            next += 1;
        }

        assert_eq!(reached.len(), TaskStatus::ALL.len());
    }
}
