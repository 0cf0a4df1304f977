//! The start of the cluster: the time since which there was always somebody alive.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    Engine,
    records::{json, parse},
};
use crate::{
    backend::{Becomes, RecordChange, Step, Stepped},
    error::BackendError,
    id::{InstanceId, TaskId},
    panics,
};

const KEY: &str = "boot";

#[derive(Serialize, Deserialize)]
struct Boot {
    id: TaskId,
    /// Those who take part in it; of the dead only until somebody comes.
    members: Vec<InstanceId>,
    /// Who wrote it.
    by: TaskId,
}

impl Engine {
    /// The start of the cluster in which this instance takes part; again if it goes by another name now.
    pub(crate) async fn boot(&self) -> Result<TaskId, BackendError> {
        let mut member = self.member.lock().await;
        let me = self.me();
        if let Some((id, boot)) = *member
            && id == me
        {
            return Ok(boot);
        }
        let boot = self.join_boot(member.map(|(_, boot)| boot)).await?;
        *member = Some((me, boot));
        Ok(boot)
    }

    /// The start of the cluster that is going on, for one who does not take part in it; none before the first.
    pub(crate) async fn current_boot(&self) -> Result<Option<TaskId>, BackendError> {
        let boot: Option<Boot> = parse(self.record(KEY).await?.as_ref())?;
        Ok(boot.map(|boot| boot.id))
    }

    /// Takes part in the start of the cluster that is going on, or begins a new one if nobody alive takes part in it.
    /// `before` is the one in which this process took part: if it is that, it goes on, though all were taken for dead
    /// since the store was away for longer than a lease. Where nobody can read who takes part, those who live may.
    async fn join_boot(&self, before: Option<TaskId>) -> Result<TaskId, BackendError> {
        loop {
            let record = self.record(KEY).await?;
            let boot: Result<Option<Boot>, _> = parse(record.as_ref());
            let me = self.me();
            let alive: BTreeSet<InstanceId> = self.alive().await?;
            let now = self.clock.now();
            let by = self.ids.task(now);
            let boot = match boot {
                Ok(boot) => boot,
                Err(unreadable) if alive.iter().all(|it| *it == me) => {
                    panics::say(
                        || warn!(error = %unreadable, "nobody else is alive: it is written anew"),
                    );
                    let id = before.unwrap_or(by);
                    let members = Vec::new();
                    Some(Boot { id, members, by })
                }
                Err(unreadable) => {
                    let why = format!(
                        "{unreadable}; it is written anew by one that starts once no other instance is alive"
                    );
                    return Err(BackendError::refused(why).with_source(unreadable));
                }
            };
            let mut boot = boot.unwrap_or(Boot {
                id: by,
                members: Vec::new(),
                by,
            });
            boot.members
                .retain(|member| *member != me && alive.contains(member));
            if boot.members.is_empty() && before != Some(boot.id) {
                boot.id = by;
            }
            boot.members.push(me);
            boot.by = by;
            let mut step = Step::at(now);
            step.records.push(RecordChange {
                key: KEY.to_owned(),
                expects: record.map_or(0, |record| record.version),
                becomes: Becomes::Value(json(&boot)),
            });
            if self.step(step).await? != Stepped::Stale {
                return Ok(boot.id);
            }
        }
    }
}
