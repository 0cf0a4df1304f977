//! Takes over from the dead: when this instance starts, the tasks of those that died are let go of or ended.

use std::sync::Arc;

use tracing::{info, warn};

use super::Engine;
use crate::{
    backend::{Applied, Batch},
    change::Change,
    clock::Timestamp,
    error::BackendError,
    status::TaskStatus,
};

/// Tasks that are taken over in one step.
const BATCH_MAX: usize = 1_000;

impl Engine {
    /// Takes over at most [`BATCH_MAX`] tasks whose instance is dead; true if there may be more.
    ///
    /// What had not begun is free for all; what had begun is interrupted, or pending again if it may be repeated.
    pub(crate) async fn rescue_once(
        self: &Arc<Self>,
        now: Timestamp,
    ) -> Result<bool, BackendError> {
        let orphans = self.backend.orphans(BATCH_MAX).await?;
        let more = orphans.len() == BATCH_MAX;
        let mut batch = Batch::at(now);
        for task in &orphans {
            let change = match task.life.status {
                TaskStatus::Running => {
                    Change::interrupted(task, "the process died while this ran", now)
                }
                _ => Change::released(task),
            };
            match change {
                Ok(change) => batch.changes.push(change),
                Err(refused) => warn!(task = %task.id, %refused, "an orphan is not live"),
            }
        }
        if batch.changes.is_empty() {
            return Ok(false);
        }
        let batch = Arc::new(batch);
        let written = self.backend.write(batch.clone()).await?;
        let mut rescued = 0;
        for (change, applied) in batch.changes.iter().zip(written.changes) {
            if applied == Applied::Applied {
                rescued += 1;
                self.stored(change, applied);
            } // Stale: another instance was faster.
        }
        info!(rescued, "took over tasks of an instance that died");
        Ok(more)
    }
}
