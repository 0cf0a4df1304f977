//! Takes over from the dead: their tasks are let go of, or ended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Engine, jittered};
use crate::{
    backend::{Applied, Batch, Peer},
    change::Change,
    clock::Timestamp,
    error::BackendError,
    health::Duty,
    id::InstanceId,
    status::TaskStatus,
};

/// Between two looks for the dead: their tasks are to run again within a second.
const EVERY: Duration = Duration::from_millis(300);
/// Tasks that are taken over in one step.
const BATCH_MAX: usize = 1_000;
/// Between the starts of two tasks that ran when their process died: one of them may have killed it, and must not
/// take all others with it again.
const SUSPECTS_APART: Duration = Duration::from_millis(50);
const SUSPECTS_APART_MAX: Duration = Duration::from_secs(10);
const DIED: &str = "the process died while this ran";

/// Between two looks at the others, and between two beats of our own: after more than this, they may have been unable
/// to beat for the same reason.
const GAP_MAX: Duration = Duration::from_secs(2);

/// When each instance was last seen to beat, by our own clock: two hosts' clocks are never compared.
pub(crate) struct Watched {
    seen: BTreeMap<InstanceId, (Timestamp, Instant)>,
    last: Look,
}

/// A look at the others.
#[derive(Clone, Copy)]
struct Look {
    /// From before they were asked for: the answer may be old when it is read, if this process was stopped meanwhile.
    asked: Instant,
    /// When this instance itself began its last beat that was stored.
    beaten: Instant,
}

impl Watched {
    fn since(asked: Instant, beaten: Instant) -> Self {
        Self {
            seen: BTreeMap::new(),
            last: Look { asked, beaten },
        }
    }

    /// Those of `peers` that live and have not beaten for so long, with their last beats.
    ///
    /// Only the time counts in which this instance could beat: while another program has the store locked, or this
    /// process was stopped, the others may have wanted to beat and could not.
    fn unresponsive(
        &mut self,
        peers: Vec<Peer>,
        look: Look,
        limit: Duration,
    ) -> Vec<(InstanceId, Timestamp)> {
        let now = Instant::now();
        let last = std::mem::replace(&mut self.last, look);
        let was_away = look.asked.saturating_duration_since(last.asked) > GAP_MAX
            || look.beaten.saturating_duration_since(last.beaten) > GAP_MAX;
        if was_away {
            self.seen.clear();
        }
        let until = look.asked.min(look.beaten);
        let peers: BTreeMap<_, _> = peers
            .into_iter()
            .filter(|peer| peer.alive)
            .map(|peer| (peer.instance.id, peer.beat_at))
            .collect();
        self.seen.retain(|id, _| peers.contains_key(id));
        let mut unresponsive = Vec::new();
        for (id, beat_at) in peers {
            let (last_beat, seen) = self.seen.entry(id).or_insert((beat_at, now));
            if *last_beat != beat_at {
                (*last_beat, *seen) = (beat_at, now);
            } else if until.saturating_duration_since(*seen) >= limit {
                unresponsive.push((id, beat_at));
            }
        }
        unresponsive
    }
}

impl Engine {
    pub(crate) async fn run_rescuer(self: Arc<Self>) {
        let mut watched = Watched::since(Instant::now(), self.beaten_at());
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(jittered(EVERY)) => {}
            }
            let rescued = async {
                if let Some(limit) = self.takeover_after {
                    self.supersede_once(&mut watched, limit).await?;
                }
                while self.rescue_once(self.clock.now()).await? {}
                Ok(())
            };
            let rescued: Result<(), BackendError> = rescued.await;
            match rescued {
                Ok(()) => self.troubles.end(Duty::Rescue),
                Err(failure) => {
                    error!(error = %failure, "cannot take over from the dead");
                    self.troubles
                        .begin(Duty::Rescue, self.clock.now(), &failure);
                    tokio::time::sleep(jittered(super::LOOP_RETRY)).await;
                }
            }
        }
    }

    /// Takes those for dead that live and do not respond.
    async fn supersede_once(
        &self,
        watched: &mut Watched,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let me = self.instance().id;
        let look = Look {
            asked: Instant::now(),
            beaten: self.beaten_at(),
        };
        let mut peers = self.backend.instances().await?;
        peers.retain(|peer| peer.instance.id != me);
        for (id, beat_at) in watched.unresponsive(peers, look, limit) {
            warn!(instance = %id, ?limit, "an instance does not respond: its tasks are taken over");
            self.backend.supersede(id, beat_at).await?;
        }
        Ok(())
    }

    /// Takes over at most [`BATCH_MAX`] tasks whose instance is dead; true if there may be more.
    ///
    /// What had not begun is free for all; what had begun is interrupted, or pending again if it may be repeated.
    pub(crate) async fn rescue_once(
        self: &Arc<Self>,
        now: Timestamp,
    ) -> Result<bool, BackendError> {
        let orphans = self.backend.orphans(BATCH_MAX).await?;
        let mut batch = Batch::at(now);
        let mut n_suspects = 0;
        for task in &orphans {
            let change = if task.life.status == TaskStatus::Running {
                let apart = (SUSPECTS_APART * n_suspects).min(SUSPECTS_APART_MAX);
                n_suspects += u32::from(task.requeue_on_interrupt);
                let again_at = now.saturating_add(apart);
                Change::crashed(task, DIED, self.crashes_max, again_at, now)
            } else {
                Change::released(task)
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
        crash_point!("rescuer::found");
        let written = self.backend.write(batch.clone()).await?;
        crash_point!("rescuer::written");
        let mut rescued = 0;
        for (change, applied) in batch.changes.iter().zip(written.changes) {
            if applied == Applied::Applied {
                rescued += 1;
                self.stored(change, applied);
            } // Stale: another instance was faster.
        }
        info!(rescued, "took over tasks of an instance that died");
        // A store gives fewer than it has if they are large.
        Ok(rescued > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::Instance, id::IdSource};

    const LIMIT: Duration = Duration::from_secs(5);
    const SECOND: Duration = Duration::from_secs(1);

    /// A peer that beats no more, and who watches it.
    fn watching() -> (Peer, Watched) {
        let at = Timestamp::from_unix_ms(1_000);
        let peer = Peer::new(
            Instance::new(IdSource::default().instance(at), at),
            at,
            true,
        );
        let now = Instant::now();
        let mut watched = Watched::since(now, now);
        assert_eq!(look(&mut watched, &peer, now), []);
        (peer, watched)
    }

    /// Looks now; `beaten` is when we have beaten ourselves.
    fn look(watched: &mut Watched, peer: &Peer, beaten: Instant) -> Vec<(InstanceId, Timestamp)> {
        let asked = Instant::now();
        watched.unresponsive(vec![peer.clone()], Look { asked, beaten }, LIMIT)
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_beat_for_the_limit_while_we_do_is_unresponsive() {
        let (peer, mut watched) = watching();

        for _ in 0..4 {
            tokio::time::advance(SECOND).await;
            assert_eq!(look(&mut watched, &peer, Instant::now()), []);
        }
        tokio::time::advance(SECOND).await;

        let silent = look(&mut watched, &peer, Instant::now());
        assert_eq!(silent, [(peer.instance.id, peer.beat_at)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_read_late_makes_nobody_look_dead() {
        let (peer, mut watched) = watching();
        for _ in 0..4 {
            tokio::time::advance(SECOND).await;
            assert_eq!(look(&mut watched, &peer, Instant::now()), []);
        }

        let asked = Instant::now();
        let late = Look {
            asked,
            beaten: asked,
        };
        tokio::time::advance(LIMIT).await;

        assert_eq!(watched.unresponsive(vec![peer], late, LIMIT), []);
    }

    #[tokio::test(start_paused = true)]
    async fn while_nobody_can_beat_nobody_looks_dead_and_afterwards_everybody_has_the_whole_limit()
    {
        let (peer, mut watched) = watching();
        let beaten = Instant::now();
        for _ in 0..60 {
            tokio::time::advance(SECOND).await;
            assert_eq!(look(&mut watched, &peer, beaten), []);
        }

        for _ in 0..5 {
            assert_eq!(look(&mut watched, &peer, Instant::now()), []);
            tokio::time::advance(SECOND).await;
        }

        assert_eq!(look(&mut watched, &peer, Instant::now()).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_stopped_itself_gives_everybody_the_whole_limit() {
        let (peer, mut watched) = watching();

        tokio::time::advance(LIMIT * 2).await;

        for _ in 0..5 {
            // The last beat may be one from before, and the next one comes later.
            assert_eq!(look(&mut watched, &peer, Instant::now()), []);
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(look(&mut watched, &peer, Instant::now()).len(), 1);
    }
}
