//! What can go wrong past the door, and how a caller is told.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use axum_taskflow_core::BackendError;
use rusqlite::ErrorCode;

/// Any failure inside this crate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// SQLite's own word.
    #[error(transparent)]
    Sql(rusqlite::Error),
    /// The file system's word, about the lock files.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The file does not lie where it was opened any more.
    #[error("the file was {0} while it was in use")]
    Lost(&'static str),
    /// Something is stored that this program does not understand.
    #[error("{0}")]
    Unreadable(String),
    /// Ours, or that of whoever writes the log lines of the program.
    #[error("there was a panic (standard error says where)")]
    Panicked,
}

/// Keeps a panic from ending a thread that others go on asking.
pub(crate) fn contain<T>(act: impl FnOnce() -> T) -> Result<T, Fault> {
    // Unwind safe: what was half done is in a transaction, which is undone.
    catch_unwind(AssertUnwindSafe(act)).map_err(|_| Fault::Panicked)
}

/// Writes a log line where others would suffer if it cannot be written, as to a closed pipe.
pub(crate) fn say(line: impl FnOnce()) {
    let _ = contain(line); // there is nowhere to tell it
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match error {
            // What is stored is of another kind than this program expects there.
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..) => {
                Self::Unreadable(format!("a stored value is unreadable: {error}"))
            }
            other => Self::Sql(other),
        }
    }
}

impl Fault {
    pub(crate) fn unreadable(what: impl Into<String>) -> Self {
        Self::Unreadable(what.into())
    }

    /// True if another process had the file locked.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Sql(sql) if sql.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
    }

    /// For the caller: the act, the file, and what to do about it.
    pub(crate) fn explain(self, act: &str, path: &Path) -> BackendError {
        Self::explain_to_many(&Arc::new(self), act, path)
    }

    /// The same for each of several callers.
    pub(crate) fn explain_to_many(self: &Arc<Self>, act: &str, path: &Path) -> BackendError {
        let said = |advice: &str| format!("cannot {act} {path:?}: {self}{advice}");
        // A file that went bad under us is not the request's fault: what is kept may find a better one.
        let of_file = |said| match act {
            "open" => BackendError::refused(said),
            _ => BackendError::unavailable(said),
        };
        let error = match &**self {
            Self::Unreadable(_) => BackendError::refused(said("")),
            Self::File(_) | Self::Panicked => BackendError::unavailable(said("")),
            Self::Lost(_) => BackendError::unavailable(said(
                "; tasks that were accepted before go on, new ones would be lost: put the file back, or restart the \
                 process",
            )),
            Self::Sql(sql) => match sql.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    BackendError::unavailable(said(
                        "; another process has locked it for too long (is it open in an SQLite shell or a backup tool?)",
                    ))
                }
                Some(ErrorCode::DiskFull) => BackendError::unavailable(said(
                    "; free some space, nothing that was stored is lost",
                )),
                Some(ErrorCode::ReadOnly) => BackendError::unavailable(said(
                    "; the file, its folder or the file system is read-only for this process",
                )),
                Some(ErrorCode::NotADatabase) => {
                    of_file(said("; it is left as it is, choose another path"))
                }
                Some(ErrorCode::DatabaseCorrupt) => of_file(said(
                    "; restore it from a backup, or try `sqlite3 <file> .recover` on a copy",
                )),
                Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                    BackendError::unavailable(said(
                        "; this process must be allowed to read and write the file and its folder",
                    ))
                }
                Some(ErrorCode::TooBig) => {
                    BackendError::refused(said("; a value is larger than SQLite can hold"))
                }
                // A file that turns read-only while it is open is no more to SQLite than this.
                Some(ErrorCode::SystemIoFailure) => BackendError::unavailable(said(
                    "; the file or its file system is read-only or over a limit, or the disk is broken (the system's \
                     log may say more)",
                )),
                // This row's own fault.
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
                    BackendError::refused(said(""))
                }
                // The whole store's, such as a table that is gone: what is kept must not be thrown away.
                _ => of_file(said("")),
            },
        };
        error.with_source(self.clone())
    }
}
