//! What can go wrong for a caller, and for a backend.

use std::{fmt, time::Duration};

/// Any error with its sources, as functions and drivers hand it to us.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call to the [`TaskManager`](crate::TaskManager) did not do what was asked.
///
/// What a task's own function returns is never this type: it is recorded with the task.
#[derive(thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<BoxError>,
}

/// The few kinds of [`Error`] that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, option or setting that cannot be used. HTTP 422.
    Invalid,
    /// There is no task with this id, no schedule of this name, or nobody holds it. HTTP 404.
    NotFound,
    /// What is stored does not allow it: the task's status, a key of another function's task, a lead or lock that is not
    /// held any more, a schedule of the program. HTTP 409.
    Conflict,
    /// Too much waits to be written already, and nothing was done; try again later. HTTP 503 with `Retry-After`.
    Overloaded,
    /// The store cannot be reached, or does not do what it is asked for. HTTP 503 with `Retry-After`.
    Unavailable,
    /// The manager is shutting down. HTTP 503 with `Retry-After`.
    ShuttingDown,
    /// The store did not answer within [`Config::add_timeout`](crate::Config::add_timeout): what was asked for may be done
    /// or not. HTTP 504.
    TimedOut,
}

impl Error {
    /// An error of this kind. The message names the act and the value.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn not_found(id: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no task {id}"))
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Of a call that changes something.
    pub(crate) fn no_answer(within: Duration) -> Self {
        Self::new(
            ErrorKind::TimedOut,
            format!("the task store did not answer within {within:?}: it may be done or not"),
        )
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(
            ErrorKind::ShuttingDown,
            "the task manager is shutting down and takes no more tasks",
        )
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Which of the few kinds it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// For people, too: it is what they see of a `main` that returns an error, and of an `unwrap`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut said = self.message.clone();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let why = error.to_string();
            // Most messages quote their cause.
            if !said.contains(&why) {
                write!(f, "; caused by: {why}")?;
                said.push_str(&why);
            }
            source = error.source();
        }
        Ok(())
    }
}

impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            format!("the task store failed: {error}"),
        )
        .with_source(error)
    }
}

/// What a [`Backend`](crate::Backend) says when it could not do something.
///
/// Whether the engine tries again is decided by [`BackendError::is_refused`]; the rest is for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    refused: bool,
    full: bool,
    message: String,
    #[source]
    source: Option<BoxError>,
}

impl BackendError {
    /// The store cannot be reached, is locked or full: the same call may succeed later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            refused: false,
            full: false,
            message: message.into(),
            source: None,
        }
    }

    /// The store has no room for new tasks. The same call may succeed later; and what makes no new tasks may be stored
    /// already now, so it is tried without any.
    pub fn full(message: impl Into<String>) -> Self {
        Self {
            full: true,
            ..Self::unavailable(message)
        }
    }

    /// The same call will never succeed: the file is not a database, its schema is newer than this program.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            refused: true,
            full: false,
            message: message.into(),
            source: None,
        }
    }

    /// Adds what the store's own library said.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// True if trying again is pointless.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// True if there is no room for new tasks.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_that_returns_an_error_prints_it_for_people_with_each_cause_once() {
        let disk = std::io::Error::other("disk is full");
        let named = BackendError::refused("cannot open \"jobs.db\": it cannot be written")
            .with_source(disk);

        let shown = format!("{:?}", Error::from(named));

        assert_eq!(
            shown,
            "Unavailable: the task store failed: cannot open \"jobs.db\": it cannot be written; caused by: disk is full"
        );
    }
}
