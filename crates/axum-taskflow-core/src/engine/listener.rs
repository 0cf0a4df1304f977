//! Hears when other instances leave tasks that wait, or change who holds what.

use std::{sync::Arc, time::Duration};

use tracing::error;

use super::{Engine, LOOP_RETRY, jittered};
use crate::panics;

/// Looks by itself after so long, since a hint may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Engine {
    pub(crate) async fn run_listener(self: Arc<Self>) {
        let mut seen = 0;
        loop {
            let changed = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                changed = self.backend.changed(seen) => changed,
                () = tokio::time::sleep(jittered(LOOK_EVERY)) => Ok(seen),
            };
            match changed {
                Ok(n) => {
                    seen = n;
                    self.look_for_others();
                    self.tell_holds();
                }
                Err(failure) => {
                    panics::say(|| error!(error = %failure, "cannot hear of other instances"));
                    tokio::time::sleep(jittered(LOOP_RETRY)).await;
                }
            }
        }
    }
}
