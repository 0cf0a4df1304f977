//! What people see of holds, and what they may do about them.

use std::collections::{BTreeSet, HashMap};

use serde::{Serialize, de::DeserializeOwned};
use tracing::{info, warn};

use super::{Claimant, HOLD, HoldKind, HoldName, LINE, Line};
use crate::{
    backend::{AuditEntry, Becomes, Record, RecordChange, Step, Stepped},
    clock::Timestamp,
    engine::{Engine, records::parse},
    error::Error,
    id::InstanceId,
    panics,
};

/// Who holds something, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// What for.
    pub kind: HoldKind,
    /// Of what.
    pub name: String,
    /// The fencing token: larger than that of every holder before.
    pub epoch: u64,
    /// The instance that holds it.
    pub instance: InstanceId,
    /// Its machine, for people.
    pub host: String,
    /// Its process, for people.
    pub pid: u32,
    /// Since when, by its clock.
    pub since: Timestamp,
    /// False if the instance is dead: whoever wants the hold can take it.
    pub is_alive: bool,
    /// How many wait for it.
    pub waiting: usize,
}

impl Engine {
    /// All holds, in the order of their kinds and names.
    pub(crate) async fn holders(&self) -> Result<Vec<Holder>, Error> {
        let failed = Error::from;
        let peers = self.backend.instances().await.map_err(failed)?;
        let alive: BTreeSet<InstanceId> = peers
            .iter()
            .filter(|peer| peer.alive)
            .map(|peer| peer.instance.id)
            .collect();
        let records = self.all_records(HOLD).await.map_err(failed)?;
        // All at once: a look for each hold would take a while where there are many, and pages that are live look often.
        let lines = self.all_records(LINE).await.map_err(failed)?;
        let lines: HashMap<String, Record> = lines
            .into_iter()
            .map(|line| (line.key.clone(), line))
            .collect();
        let mut holders = Vec::with_capacity(records.len());
        for record in records {
            let Some(name) = HoldName::of_record(&record.key) else {
                continue; // of a kind that a newer program knows
            };
            // What cannot be read hides nothing else.
            let line = lines.get(&name.line());
            let line: Line = self.shown(line).unwrap_or_default();
            let Some(held) = self.shown::<Option<Claimant>>(Some(&record)).flatten() else {
                continue;
            };
            let waiting = line.waiting.iter();
            holders.push(Holder {
                kind: name.kind,
                name: name.name.to_string(),
                epoch: record.version,
                is_alive: alive.contains(&held.instance),
                instance: held.instance,
                host: held.host,
                pid: held.pid,
                since: held.since,
                waiting: waiting.filter(|it| alive.contains(&it.instance)).count(),
            });
        }
        Ok(holders)
    }

    /// As [`parse`]; none if it cannot be read, which is logged.
    fn shown<T: DeserializeOwned + Default>(&self, record: Option<&Record>) -> Option<T> {
        let read = parse(record);
        if let (Err(failure), Some(record)) = (&read, record)
            && self.told.is_news(&record.key)
        {
            warn!(error = %failure, "a hold is not shown as it is");
        }
        read.ok()
    }

    /// Takes a hold away from whoever has it; the epoch of what was ended.
    pub(crate) async fn force_release(&self, name: &HoldName, actor: &str) -> Result<u64, Error> {
        let failed = Error::from;
        loop {
            let Some(record) = self.record(&name.hold()).await.map_err(failed)? else {
                return Err(Error::new(
                    crate::ErrorKind::NotFound,
                    format!("nobody holds {name}"),
                ));
            };
            let now = self.clock.now();
            let mut step = Step::at(now);
            step.audit.push(AuditEntry {
                id: self.ids.task(now),
                at: now,
                actor: actor.to_owned(),
                action: "release".to_owned(),
                task: None,
                detail: serde_json::json!({ "kind": name.kind, "name": &*name.name, "epoch": record.version }),
            });
            step.records.push(RecordChange {
                key: record.key,
                expects: record.version,
                becomes: Becomes::Gone,
            });
            let stepped = self.step(step).await.map_err(failed)?;
            if stepped != Stepped::Stale {
                panics::say(|| info!(%name, epoch = record.version, actor, "released by force"));
                self.tell_holds();
                return Ok(record.version);
            }
        }
    }
}
