//! Retention: deletes finished tasks that are old enough, in small steps.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error};

use super::Engine;
use crate::{backend::Prune, clock::Timestamp, error::BackendError};

/// Between two rounds at most: each looks at everything that is kept and older than the shortest time.
const EVERY_MAX: Duration = Duration::from_secs(600);
const EVERY_MIN: Duration = Duration::from_secs(1);
/// So many rounds in the shortest time: what is kept is at most a tenth more than what was asked for.
const ROUNDS: u32 = 10;
/// Tasks that one step looks at, a millisecond of the store: whoever writes meanwhile waits for it. A thousand made the
/// pickup of one task in a hundred 15 ms longer.
const STEP: usize = 100;
/// Minutes and audit entries are kept for at least so long.
const SERIES_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

impl Engine {
    pub(crate) async fn run_pruner(self: Arc<Self>) {
        let kept = self.retention.min(self.retention_failed);
        let every = (kept / ROUNDS).clamp(EVERY_MIN, EVERY_MAX);
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(super::jittered(every)) => {}
            }
            let now = self.clock.now();
            let round = Prune {
                finished_before: now.saturating_sub(self.retention),
                failed_before: now.saturating_sub(self.retention_failed),
                series_before: now.saturating_sub(SERIES_KEPT),
                from: None,
                limit: STEP,
            };
            let deleted = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                deleted = self.prune(round) => deleted,
            };
            match deleted {
                Ok(0) => {}
                Ok(deleted) => debug!(deleted, "deleted finished tasks that were old enough"),
                Err(failure) => error!(error = %failure, "cannot delete finished tasks"),
            }
        }
    }

    /// A whole round; answers how many tasks were deleted.
    pub(crate) async fn prune(&self, mut round: Prune) -> Result<usize, BackendError> {
        let mut deleted = 0;
        loop {
            let step = self.backend.prune(round).await?;
            deleted += step.deleted;
            match step.next {
                Some(next) => round.from = Some(next),
                None => return Ok(deleted),
            }
            // Others want to write, too.
            tokio::task::yield_now().await;
        }
    }

    /// Deletes everything that finished before `cutoff`.
    pub(crate) async fn delete_history(&self, cutoff: Timestamp) -> Result<usize, BackendError> {
        self.prune(Prune {
            finished_before: cutoff,
            failed_before: cutoff,
            series_before: Timestamp::default(),
            from: None,
            limit: STEP,
        })
        .await
    }
}
