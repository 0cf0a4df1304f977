//! Records, and the one counter of their versions.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::backend::{Becomes, Record, RecordChange, RecordQuery};

#[derive(Debug, Default)]
pub(super) struct Records {
    by_key: BTreeMap<String, (u64, Arc<str>)>,
    /// The last version that was given.
    last: u64,
}

impl Records {
    pub(super) fn version(&self, key: &str) -> u64 {
        self.by_key.get(key).map_or(0, |(version, _)| *version)
    }

    /// True if the record is as the change would leave it.
    pub(super) fn is_changed(&self, change: &RecordChange) -> bool {
        let found = self.by_key.get(&change.key);
        match &change.becomes {
            Becomes::Same => self.version(&change.key) == change.expects,
            Becomes::Value(wanted) => found.is_some_and(|(_, value)| value == wanted),
            Becomes::Gone => found.is_none(),
        }
    }

    pub(super) fn apply(&mut self, change: &RecordChange) {
        match &change.becomes {
            Becomes::Same => {}
            Becomes::Value(value) => {
                self.last += 1;
                self.by_key
                    .insert(change.key.clone(), (self.last, value.clone()));
            }
            Becomes::Gone => {
                self.last += 1;
                self.by_key.remove(&change.key);
            }
        }
    }

    pub(super) fn read(&self, query: &RecordQuery) -> Vec<Record> {
        let first = match &query.after {
            Some(after) if *after >= query.prefix => Bound::Excluded(after),
            _ => Bound::Included(&query.prefix),
        };
        let records = self.by_key.range::<String, _>((first, Bound::Unbounded));
        records
            .take_while(|(key, _)| key.starts_with(&query.prefix))
            .take(query.limit)
            .map(|(key, (version, value))| Record {
                key: key.clone(),
                version: *version,
                value: value.clone(),
            })
            .collect()
    }
}
