//! Records as values, and who is alive: what holds, schedules and the start of the cluster are made of.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

use super::Engine;
use crate::{
    backend::{Record, RecordQuery, Step, Stepped},
    error::BackendError,
    id::InstanceId,
    panics,
};

/// Records and tasks of which it was said that they cannot be read // more: nothing is said of them
const TOLD_MAX: usize = 1_000;

/// Of which records and tasks it was said that they cannot be read: they are looked at every few seconds.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Their names and ids. A std mutex: held for one look.
    names: Mutex<BTreeSet<String>>,
}

impl Told {
    /// True if nothing was said of it yet.
    pub(super) fn is_news(&self, name: &str) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.len() < TOLD_MAX && names.insert(name.to_owned())
    }
}

impl Engine {
    pub(crate) async fn record(&self, key: &str) -> Result<Option<Record>, BackendError> {
        let query = RecordQuery {
            prefix: key.to_owned(),
            after: None,
            limit: 1,
        };
        let first = self.records(query).await?.into_iter().next();
        Ok(first.filter(|record| record.key == key))
    }

    async fn records(&self, query: RecordQuery) -> Result<Vec<Record>, BackendError> {
        panics::outage(async { self.backend.records(query).await }).await
    }

    /// That the store's code panics is an outage here, too: who looks after a lock must not end with it.
    pub(crate) async fn step(&self, step: Step) -> Result<Stepped, BackendError> {
        panics::outage(async { self.backend.step(Arc::new(step)).await }).await
    }

    /// All records whose names begin so.
    pub(crate) async fn all_records(&self, prefix: &str) -> Result<Vec<Record>, BackendError> {
        const PART: usize = 1_000;
        let mut records = Vec::new();
        loop {
            let query = RecordQuery {
                prefix: prefix.to_owned(),
                after: records.last().map(|record: &Record| record.key.clone()),
                limit: PART,
            };
            let part = self.records(query).await?;
            let is_last = part.len() < PART;
            records.extend(part);
            if is_last {
                return Ok(records);
            }
        }
    }

    pub(super) async fn alive(&self) -> Result<BTreeSet<InstanceId>, BackendError> {
        let peers = panics::outage(async { self.backend.instances().await }).await?;
        let alive = peers.into_iter().filter(|peer| peer.alive);
        Ok(alive.map(|peer| peer.instance.id).collect())
    }
}

/// What a record says; the default if there is none.
pub(crate) fn parse<T: DeserializeOwned + Default>(
    record: Option<&Record>,
) -> Result<T, BackendError> {
    record.map_or_else(
        || Ok(T::default()),
        |record| {
            serde_json::from_str(&record.value).map_err(|error| {
                // Never as if it were free: a newer program may have written it.
                let why = format!(
                    "the record {:?} cannot be read: it is damaged, or a newer version of this library wrote it",
                    record.key
                );
                BackendError::refused(why).with_source(error)
            })
        },
    )
}

pub(crate) fn json(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value)
        .expect("ids, numbers and text can be written as JSON")
        .into()
}
