//! Takes over from the dead: their tasks are let go of, or ended. And from ourselves, if the store has gone back to an
//! earlier state and says that we hold what we do not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Engine, SUPERSEDED, jittered};
use crate::{
    backend::{Applied, Batch, Peer},
    change::{Change, HeldBy},
    clock::Timestamp,
    error::BackendError,
    health::Duty,
    id::{Epoch, InstanceId, TaskId},
    panics,
    running::Running,
    status::TaskStatus,
    task::Task,
};

/// Between two looks for the dead: their tasks are to run again within a second.
const EVERY: Duration = Duration::from_millis(300);
/// Tasks that are taken over in one step.
const BATCH_MAX: usize = 1_000;
/// Between the starts of two tasks that ran when their process died: one of them may have killed it, and must not
/// take all others with it again.
const SUSPECTS_APART: Duration = Duration::from_millis(50);
const SUSPECTS_APART_MAX: Duration = Duration::from_secs(10);
/// Between two tries of a task that the store refuses to change, at first and at most.
const REFUSED_MIN: Duration = Duration::from_secs(1);
const REFUSED_MAX: Duration = Duration::from_secs(600);
const DIED: &str = "the process died while this ran";

const LOST: &str =
    "the task store went back to an earlier state, and does not know any more what came of this";
/// Between two looks at what the store says is ours: what is on its way to or from the store has arrived.
const LOOKS_APART: Duration = Duration::from_secs(3);

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

/// What the store says is ours, and nothing runs of it here; and what runs here, and is not ours by what the store says.
#[derive(Default)]
struct Forgotten {
    /// How often the store had gone back at the last look.
    went_back: u64,
    /// When to look again.
    next: Option<Instant>,
    /// How the tasks stood at the last look.
    seen: HashMap<TaskId, (TaskStatus, Epoch)>,
    /// What ran here when the store went back, and may not be ours any more.
    doubtful: Vec<Arc<Running>>,
    /// When to look again at these.
    next_doubtful: Option<Instant>,
}

/// Refused tasks that are read beside a batch of others // more: those that lie behind them wait for them
const REFUSALS_MAX: usize = 4 * BATCH_MAX;

/// Tasks of the dead that the store refuses to change. They are tried again, since it may take them one day, but not with
/// each look.
#[derive(Default)]
pub(crate) struct Refusals {
    /// When each is tried again, and how long it waited before. A std mutex: held for one look.
    tasks: Mutex<BTreeMap<TaskId, (Instant, Duration)>>,
}

impl Refusals {
    fn len(&self) -> usize {
        self.lock().len()
    }

    /// Forgets those that are no orphans any more.
    fn keep(&self, orphans: &[Task]) {
        let mut tasks = self.lock();
        if !tasks.is_empty() {
            let ids: HashSet<TaskId> = orphans.iter().map(|task| task.id).collect();
            tasks.retain(|id, _| ids.contains(id));
        }
    }

    /// True if it is to be tried now.
    fn are_over(&self, id: TaskId) -> bool {
        let tasks = self.lock();
        tasks
            .get(&id)
            .is_none_or(|(next, _)| *next <= Instant::now())
    }

    fn remember(&self, id: TaskId) {
        let mut tasks = self.lock();
        let wait = tasks.get(&id).map_or(REFUSED_MIN, |(_, wait)| *wait * 2);
        let wait = wait.min(REFUSED_MAX);
        tasks.insert(id, (Instant::now() + wait, wait));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, (Instant, Duration)>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    pub(crate) async fn run_rescuer(self: Arc<Self>) {
        let mut watched = Watched::since(Instant::now(), self.beaten_at());
        let mut forgotten = Forgotten::default();
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
                self.rescue_own(&mut forgotten).await
            };
            let rescued: Result<(), BackendError> = rescued.await;
            match rescued {
                Ok(()) => self.troubles.end(Duty::Rescue),
                Err(failure) => {
                    self.cannot_rescue(&failure);
                    tokio::time::sleep(jittered(super::LOOP_RETRY)).await;
                }
            }
        }
    }

    /// Takes over from the dead before anything else begins. What fails is tried again by the loop: the service is more than
    /// its tasks, and whoever comes to put the store in order must not be kept out by what is wrong in it.
    pub(super) async fn rescue_first(self: &Arc<Self>) -> Result<(), BackendError> {
        loop {
            match self.rescue_once(self.clock.now()).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(failure) if failure.is_refused() => return Err(failure),
                Err(failure) => {
                    self.cannot_rescue(&failure);
                    return Ok(());
                }
            }
        }
    }

    fn cannot_rescue(&self, failure: &BackendError) {
        panics::say(|| error!(error = %failure, "cannot take over from the dead"));
        let now = self.clock.now();
        self.troubles.begin(Duty::Rescue, now, failure);
    }

    /// After the store went back: lets go of what it says is ours and we do not run, as others would if we were dead.
    /// The store's word counts: what had begun by that is interrupted, or pending again if it may be repeated.
    async fn rescue_own(self: &Arc<Self>, forgotten: &mut Forgotten) -> Result<(), BackendError> {
        let went_back = self.backend.went_back();
        if went_back != forgotten.went_back {
            forgotten.went_back = went_back;
            forgotten.next = Some(Instant::now());
            forgotten.doubtful = self.attempts();
            forgotten.doubtful.iter().for_each(|it| it.doubt());
            forgotten.next_doubtful = Some(Instant::now());
        }
        if forgotten
            .next_doubtful
            .is_some_and(|next| next <= Instant::now())
        {
            forgotten.doubtful = self.stop_what_others_run(&forgotten.doubtful).await?;
            let is_over = forgotten.doubtful.is_empty();
            forgotten.next_doubtful = (!is_over).then(|| Instant::now() + LOOKS_APART);
        }
        if forgotten.next.is_none_or(|next| next > Instant::now()) {
            return Ok(());
        }
        // What has not begun is for all again, so that none of what is found is about to begin here.
        self.let_others_have(self.ready.forget());
        self.look_on_disk();
        let mut found = HashMap::new();
        for id in self.backend.held(self.me()).await? {
            let runs = self.running().contains_key(&id);
            let stored = match runs {
                true => None, // its end is written over what is stored
                false => self.backend.get(id).await?,
            };
            let Some(task) = stored.filter(|task| task.life.owner == Some(self.me())) else {
                continue;
            };
            let stands = (task.life.status, task.life.epoch);
            if forgotten.seen.get(&id) == Some(&stands) {
                self.let_go_of_own(&task);
            } else {
                found.insert(id, stands);
            }
        }
        forgotten.next = (!found.is_empty()).then(|| Instant::now() + LOOKS_APART);
        forgotten.seen = found;
        Ok(())
    }

    /// Of what ran here when the store went back: stops what others have by now, and gives what is not ours nor another's
    /// yet. What nobody knows any more runs on, since nobody else can begin it.
    async fn stop_what_others_run(
        &self,
        attempts: &[Arc<Running>],
    ) -> Result<Vec<Arc<Running>>, BackendError> {
        let mut doubtful = Vec::new();
        for attempt in attempts {
            let id = attempt.task.id;
            let goes_on = || {
                self.running()
                    .get(&id)
                    .is_some_and(|it| Arc::ptr_eq(it, attempt))
            };
            if !goes_on() {
                continue;
            }
            let Some(task) = self.backend.get(id).await? else {
                continue;
            };
            let (life, mine) = (&task.life, attempt.task.life.owner);
            if life.owner.is_some() && life.owner != mine {
                panics::say(
                    || warn!(task = %id, function = %task.name, "{LOST}: another instance runs it, and so it is stopped here"),
                );
                attempt.interrupt(SUPERSEDED);
            } else if life.owner.is_none() && !life.status.is_terminal() {
                doubtful.push(attempt.clone()); // for anybody
            }
        }
        Ok(doubtful)
    }

    fn let_go_of_own(self: &Arc<Self>, task: &Task) {
        panics::say(
            || warn!(task = %task.id, function = %task.name, status = %task.life.status, "{LOST}"),
        );
        let change = match task.life.status {
            TaskStatus::Running => Change::interrupted(task, LOST, self.clock.now()),
            _ => Change::released(task),
        };
        match change {
            Ok(change) => self.store(change),
            Err(refused) => {
                panics::say(|| warn!(task = %task.id, %refused, "a task that is held is finished"));
            }
        }
    }

    /// What follows from the end of an attempt. One that is stale since the store went back is written over what the
    /// store has now, for it is known what came of the attempt; unless somebody else has the task by then.
    pub(crate) fn ended(self: &Arc<Self>, change: &Change, applied: Applied) {
        if applied == Applied::Applied {
            return self.stored(change, applied);
        }
        let (engine, mut change) = (self.clone(), change.clone());
        self.looks.spawn(async move {
            match engine.before(&change).await {
                Some(task) => {
                    change.expects = (task.life.status, task.life.epoch);
                    // Who claims a task that a process died of changes nothing but this.
                    change.held_by = HeldBy::now(task.life.owner);
                    engine.store(change);
                }
                None => engine.stored(&change, Applied::Stale),
            }
        });
    }

    /// The start of a task was stale. If that is since the store went back, the task is let go of.
    pub(crate) fn start_was_stale(self: &Arc<Self>, change: &Change) {
        let (engine, change) = (self.clone(), change.clone());
        self.looks.spawn(async move {
            if let Some(task) = engine.before(&change).await
                && task.life.owner.is_some()
            {
                engine.let_go_of_own(&task);
            } // one of nobody is there for all
        });
    }

    /// The task as it is stored, if that is how it was before what a change expects, with us or with nobody: epochs
    /// only grow, unless the store has gone back.
    async fn before(&self, change: &Change) -> Option<Task> {
        let task = loop {
            let stored = panics::outage(async { self.backend.get(change.id).await });
            match stored.await {
                Ok(task) => break task?,
                Err(failure) => {
                    panics::say(
                        || warn!(task = %change.id, error = %failure, "cannot look why a change of a task is stale"),
                    );
                    tokio::select! {
                        biased;
                        () = self.stopped.cancelled() => return None,
                        () = tokio::time::sleep(jittered(super::LOOP_RETRY)) => {}
                    }
                }
            }
        };
        let life = &task.life;
        let is_before = life.epoch < change.expects.1 && !life.status.is_terminal();
        (is_before && (life.owner.is_none() || life.owner == change.life.instance)).then_some(task)
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
            panics::say(
                || warn!(instance = %id, ?limit, "an instance does not respond: its tasks are taken over"),
            );
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
        let limit = BATCH_MAX + self.refusals.len().min(REFUSALS_MAX);
        self.troubles.asked(Duty::Rescue, now);
        let answer = self.backend.orphans(limit).await;
        self.troubles.answered(Duty::Rescue);
        let mut orphans = answer?;
        if orphans.len() < BATCH_MAX {
            self.refusals.keep(&orphans); // else there may be more than the answer has
        }
        if self.refusals.len() == 0 {
            self.troubles.end(Duty::Orphan);
        }
        orphans.retain(|task| self.refusals.are_over(task.id));
        orphans.truncate(BATCH_MAX);
        let mut changes = Vec::with_capacity(orphans.len());
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
                Ok(change) => changes.push(change),
                Err(refused) => {
                    panics::say(|| warn!(task = %task.id, %refused, "an orphan is not live"));
                }
            }
        }
        if changes.is_empty() {
            return Ok(false);
        }
        crash_point!("rescuer::found");
        let rescued = self.take_over(changes, now).await?;
        if rescued > 0 {
            panics::say(|| info!(rescued, "took over tasks of an instance that died"));
        }
        // A store gives fewer than it has if they are large.
        Ok(rescued > 0)
    }

    /// Stores what becomes of orphans; answers of how many. One that the store refuses for good keeps no other waiting.
    async fn take_over(
        self: &Arc<Self>,
        changes: Vec<Change>,
        now: Timestamp,
    ) -> Result<usize, BackendError> {
        let mut rescued = 0;
        let mut parts = vec![changes];
        while let Some(changes) = parts.pop() {
            let mut batch = Batch::at(now);
            batch.changes = changes;
            let batch = Arc::new(batch);
            let written = match self.backend.write(batch.clone()).await {
                Ok(written) => written,
                Err(failure) if !failure.is_refused() => return Err(failure),
                Err(failure) => {
                    match &batch.changes[..] {
                        [change] => {
                            self.refusals.remember(change.id);
                            self.troubles.begin(Duty::Orphan, now, &failure);
                            panics::say(
                                || error!(error = %failure, task = %change.id, "a task of an instance that died cannot be taken over"),
                            );
                        }
                        many => {
                            let (some, others) = many.split_at(many.len() / 2);
                            parts.extend([some.to_vec(), others.to_vec()]);
                        }
                    }
                    continue;
                }
            };
            crash_point!("rescuer::written");
            for (change, applied) in batch.changes.iter().zip(written.changes) {
                if applied == Applied::Applied {
                    rescued += 1;
                    self.stored(change, applied);
                } // Stale: another instance was faster.
            }
        }
        Ok(rescued)
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
    async fn who_beats_is_not_unresponsive_however_long_he_is_watched() {
        let (mut peer, mut watched) = watching();

        for s in 0..20 {
            tokio::time::advance(SECOND).await;
            if s % 2 == 0 {
                peer.beat_at = peer.beat_at.saturating_add(SECOND);
            }
            assert_eq!(look(&mut watched, &peer, Instant::now()), []);
        }
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
