//! What instances agree on: records, and steps that are taken only if records stand as they were seen.

use std::sync::Arc;

use crate::{
    backend::{AuditEntry, Enqueued},
    change::Change,
    clock::Timestamp,
    task::Task,
};

/// A small document under a name: a schedule, who leads, what was run once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name; compared byte for byte.
    pub key: String,
    /// New at each write, and larger than every version that the store gave before, to whatever record: so that it can
    /// serve as a fencing token, even if the record was gone in between.
    pub version: u64,
    /// What it says.
    pub value: Arc<str>,
}

/// What is done in one atomic step if everything stands as it was seen, and else not at all: see
/// [`Backend::step`](crate::Backend::step).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Step {
    /// How records must stand, and what becomes of them. Each at most once.
    pub records: Vec<RecordChange>,
    /// Changes of stored tasks, each of another one; all must apply.
    pub changes: Vec<Change>,
    /// New tasks, after the changes: they find the keys free that a change has freed.
    pub tasks: Vec<Arc<Task>>,
    /// Who did what.
    pub audit: Vec<AuditEntry>,
    /// The time of the step.
    pub now: Timestamp,
}

impl Step {
    /// A step in which nothing is done, at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }
}

/// How a record must stand, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordChange {
    /// Which one.
    pub key: String,
    /// Its version; 0 if there must be none.
    pub expects: u64,
    /// What it becomes.
    pub becomes: Becomes,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// It stays as it is: the step only wants it to be so.
    Same,
    /// It says this, under a new version.
    Value(Arc<str>),
    /// It is gone.
    Gone,
}

/// What became of a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was taken, now or since it was asked for before.
    Done {
        /// For each record its version now; 0 if it is gone.
        versions: Vec<u64>,
        /// For each task.
        tasks: Vec<Enqueued>,
    },
    /// Something does not stand as it was seen: nothing was done. An answer, not an error.
    Stale,
}

/// Which records to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordQuery {
    /// Those whose name begins so.
    pub prefix: String,
    /// Only those whose name is larger, byte by byte: the next part.
    pub after: Option<String>,
    /// At most this many, of which 1,000 may be asked for.
    pub limit: usize,
}
