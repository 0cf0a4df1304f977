//! What a function's error means, and what is kept of it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::BoxError;

/// What a function returns to say what its failure means.
///
/// Any error becomes a `Failure` by `?` and means "try again as the task's retries allow". The constructors say
/// something else:
///
/// ```
/// use std::time::Duration;
/// use axum_taskflow_core::Failure;
///
/// async fn call_api(status: u16) -> Result<(), Failure> {
///     match status {
///         429 => Err(Failure::retry_after(Duration::from_secs(30), "asked to slow down")),
///         404 => Err(Failure::give_up("no such account")),
///         _ => {
///             let _number: i32 = "7".parse()?;
///             Ok(())
///         }
///     }
/// }
/// ```
pub struct Failure {
    meaning: Meaning,
    error: BoxError,
}

/// What should follow a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Meaning {
    /// Another attempt after the usual wait, if one is left.
    Retry,
    /// Another attempt after this wait, if one is left.
    RetryAfter(Duration),
    /// No further attempt.
    GiveUp,
}

impl Failure {
    /// Another attempt after the usual wait, if one is left. The same as `?`, for errors that `?` does not take.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self {
            meaning: Meaning::Retry,
            error: error.into(),
        }
    }

    /// Another attempt after `wait`, if one is left: for a server that said when to come back.
    pub fn retry_after(wait: Duration, error: impl Into<BoxError>) -> Self {
        Self {
            meaning: Meaning::RetryAfter(wait),
            error: error.into(),
        }
    }

    /// No further attempt: the task is failed at once.
    pub fn give_up(error: impl Into<BoxError>) -> Self {
        Self {
            meaning: Meaning::GiveUp,
            error: error.into(),
        }
    }

    /// What should follow.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        self.meaning
    }

    /// The failure in the form in which it is kept.
    #[must_use]
    pub fn report(&self) -> FailureReport {
        FailureReport::of(FailureKind::Error, &*self.error)
    }

    /// From whatever a function returned: a `Failure` in a box is found again.
    pub(crate) fn from_box(error: BoxError) -> Self {
        match error.downcast::<Boxed>() {
            Ok(boxed) => boxed.0,
            Err(error) => Self::retry(error),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.meaning, self.error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_box(Box::new(error))
    }
}

// `Failure` itself is no `std::error::Error`, so that `?` can take every error (as in anyhow). This wrapper is, so
// that a function's `Result<_, Failure>` and `Result<_, AnyError>` go one way.
struct Boxed(Failure);

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Boxed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.error.source()
    }
}

impl From<Failure> for BoxError {
    fn from(failure: Failure) -> Self {
        Box::new(Boxed(failure))
    }
}

/// What is kept of a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureReport {
    /// What kind of end it was.
    pub kind: FailureKind,
    /// The error's own message.
    pub message: String,
    /// The messages of its sources, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// `file:line:column` of a panic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The stack of a panic, if `RUST_BACKTRACE` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

/// How an attempt ended that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The function returned an error.
    Error,
    /// The function panicked.
    Panic,
    /// The attempt took longer than its timeout.
    Timeout,
    /// Somebody cancelled the task.
    Cancelled,
    /// The process shut down or died.
    Interrupted,
    /// Too many processes died while they ran it.
    Crashed,
    /// This program cannot read the stored arguments; the task waits for one that can.
    Held,
    /// This program cannot read all that is stored of the task, since a newer one wrote it: what is shown is what it can
    /// read, and the task waits for a program that reads it. Never stored.
    Unreadable,
}

/// What one message keeps at most, in bytes; the rest is cut off.
const MESSAGE_MAX: usize = 8 * 1024;
/// How many sources are kept at most.
const SOURCES_MAX: usize = 32;

impl FailureReport {
    /// Of a kind, in words, without sources.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: cut(message.into()),
            sources: Vec::new(),
            place: None,
            backtrace: None,
        }
    }

    fn of(kind: FailureKind, error: &(dyn std::error::Error + 'static)) -> Self {
        let sources = std::iter::successors(error.source(), |error| error.source())
            .take(SOURCES_MAX)
            .map(|error| cut(error.to_string()))
            .collect();
        Self {
            sources,
            ..Self::new(kind, error.to_string())
        }
    }

    /// How many bytes of text it has.
    pub(crate) fn bytes(&self) -> usize {
        let sources = self.sources.iter().map(String::len).sum::<usize>();
        let panic = [&self.place, &self.backtrace].into_iter().flatten();
        self.message.len() + sources + panic.map(String::len).sum::<usize>()
    }
}

/// The message, then each source on a line of its own, then place and stack: what a person reads.
impl fmt::Display for FailureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for source in &self.sources {
            write!(f, "\ncaused by: {source}")?;
        }
        if let Some(place) = &self.place {
            write!(f, "\nat {place}")?;
        }
        if let Some(backtrace) = &self.backtrace {
            write!(f, "\n{backtrace}")?;
        }
        Ok(())
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    fn outer() -> Outer {
        Outer("x".parse::<i32>().unwrap_err())
    }

    #[test]
    fn the_whole_chain_of_sources_is_kept() {
        let report = Failure::from(outer()).report();

        assert_eq!(report.message, "outer");
        assert_eq!(report.sources, ["invalid digit found in string"]);
        assert_eq!(
            report.to_string(),
            "outer\ncaused by: invalid digit found in string"
        );
    }

    #[test]
    fn a_failure_in_a_box_keeps_its_meaning() {
        let boxed: BoxError = Failure::give_up(outer()).into();

        let again = Failure::from_box(boxed);

        assert_eq!(again.meaning(), Meaning::GiveUp);
        assert_eq!(again.report().sources.len(), 1);
    }

    #[test]
    fn an_error_by_question_mark_means_retry() {
        fn fails() -> Result<(), Failure> {
            "x".parse::<i32>()?;
            Ok(())
        }

        assert_eq!(fails().unwrap_err().meaning(), Meaning::Retry);
    }

    #[test]
    fn an_endless_message_is_cut_at_a_character() {
        let report = FailureReport::new(FailureKind::Error, "ä".repeat(MESSAGE_MAX));

        assert!(report.message.len() <= MESSAGE_MAX + '…'.len_utf8());
        assert!(report.message.ends_with("ä…"));
    }
}
