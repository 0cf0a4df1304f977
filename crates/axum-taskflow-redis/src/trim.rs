//! Keeps finished tasks below a number, since the server holds them in memory: soon after they are too many, while the
//! engine deletes what is old only now and then.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum_taskflow_core::{BackendError, Timestamp};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tracing::debug;

use crate::{
    answer,
    link::{self, Link},
};

/// Between two looks, if tasks end meanwhile.
const EVERY: Duration = Duration::from_secs(1);
/// Tasks that one script looks at.
const PART: usize = 1_000;

/// What a part of deleting came to.
pub(crate) struct Part {
    pub(crate) deleted: usize,
    /// The last task that was looked at, if there are more.
    pub(crate) last: Option<Vec<u8>>,
    /// Still too many are left.
    pub(crate) more: bool,
}

/// What is to be deleted.
pub(crate) struct Old {
    pub(crate) finished_before: Timestamp,
    pub(crate) failed_before: Timestamp,
    /// From and to as `ZRANGEBYLEX` takes them.
    pub(crate) from: Vec<u8>,
    pub(crate) to: String,
    /// How many are looked at.
    pub(crate) limit: usize,
    /// How many finished ones may be left; then no more are deleted than are too many.
    pub(crate) history_max: Option<u64>,
}

/// Deletes what finished before.
pub(crate) async fn delete(link: &Link, old: &Old) -> Result<Part, BackendError> {
    let mut call = link.call(&link::PRUNE);
    call.arg(old.finished_before.as_unix_ms())
        .arg(old.failed_before.as_unix_ms())
        .arg(&old.from)
        .arg(&old.to)
        .arg(old.limit)
        .arg(old.history_max.map_or_else(String::new, |n| n.to_string()));
    let answers = answer::list(link.send(&call).await?)?;
    let Some([deleted, last, more]) = answer::groups::<3>(answers).next() else {
        return Err(answer::strange());
    };
    let last = answer::bytes(last)?;
    Ok(Part {
        deleted: usize::try_from(answer::number(deleted)?).unwrap_or(0),
        last: (!last.is_empty()).then_some(last),
        more: answer::number(more)? == 1,
    })
}

/// Where a pass has come to: what is older is live, or was when it was looked at.
struct Pass {
    from: Vec<u8>,
}

impl Pass {
    fn from_the_oldest() -> Self {
        Self {
            from: b"-".to_vec(),
        }
    }

    /// Deletes the oldest finished tasks until there are few enough, or this is to stop.
    async fn run(
        &mut self,
        link: &Link,
        history_max: u64,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), BackendError> {
        let mut came_round = false;
        while !*stopped.borrow() {
            let old = Old {
                finished_before: Timestamp::MAX,
                failed_before: Timestamp::MAX,
                from: self.from.clone(),
                to: "+".to_owned(),
                limit: PART,
                history_max: Some(history_max),
            };
            let part = delete(link, &old).await?;
            if !part.more {
                return Ok(());
            }
            match part.last {
                Some(last) => self.from = [b"(", &*last].concat(),
                None if came_round => return Ok(()), // others have begun to delete, or it is counted wrongly
                None => {
                    came_round = true;
                    *self = Self::from_the_oldest();
                }
            }
        }
        Ok(())
    }
}

/// Deletes beside everything else, over a connection of its own.
#[derive(Debug)]
pub(crate) struct Trimmer {
    /// How many may be left.
    history_max: u64,
    /// Tasks have ended, or this has.
    ends: Arc<Notify>,
    /// True when this store is closed: looked at between two parts, and heard between two passes.
    stop: watch::Sender<bool>,
    /// None once somebody waits for its end. A std mutex: held for one look.
    trimming: Mutex<Option<JoinHandle<()>>>,
}

impl Trimmer {
    pub(crate) fn start(link: Link, history_max: u64) -> Self {
        let (ends, (stop, mut stopped)) = (Arc::new(Notify::new()), watch::channel(false));
        let trimming = tokio::spawn({
            let ends = ends.clone();
            async move {
                let mut pass = Pass::from_the_oldest();
                loop {
                    ends.notified().await;
                    if let Err(error) = pass.run(&link, history_max, &stopped).await {
                        debug!(%error, "cannot delete what is too much"); // with the next end again
                    }
                    let is_over = stopped.wait_for(|stop| *stop);
                    if tokio::time::timeout(EVERY, is_over).await.is_ok() {
                        return;
                    }
                }
            }
        });
        Self {
            history_max,
            ends,
            stop,
            trimming: Mutex::new(Some(trimming)),
        }
    }

    /// Tasks have ended.
    pub(crate) fn look(&self) {
        self.ends.notify_one();
    }

    /// So many tasks have ended that are kept.
    pub(crate) fn look_at(&self, n: u64) {
        if n > self.history_max {
            self.look();
        }
    }

    /// No further part is begun.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
        self.ends.notify_one();
    }

    /// Stops, and waits for the part that is under way: a call at most, with its deadline.
    pub(crate) async fn close(&self) {
        self.stop();
        let trimming = self.trimming.lock();
        let trimming = trimming.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(trimming) = trimming {
            let _ = trimming.await; // an error: it panicked, or the runtime ends
        }
    }
}

impl Drop for Trimmer {
    fn drop(&mut self) {
        self.stop();
    }
}
