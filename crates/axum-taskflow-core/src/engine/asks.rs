//! Cancels what runs at another instance: asks it to, and does what others ask of this one.
//!
//! Who cancels a task that another instance runs leaves a record that names the attempt. That instance hears of it as of
//! all that others leave, cancels the attempt as if it had been told itself, and takes the record away: that is its answer.
//! Nobody else takes it away as long as the attempt goes on, so one that is gone was heard. It names an attempt and no
//! task: whatever becomes of it, no later attempt is cancelled by it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info};

use super::{Engine, LOOP_RETRY, jittered, records::json};
use crate::{
    backend::{Becomes, Record, RecordChange, Step},
    error::{BackendError, Error},
    id::{InstanceId, TaskId},
    panics,
    status::TaskStatus,
    task::Task,
};

const PREFIX: &str = "cancel:";
/// Looks by itself after so long if something runs here, since a hint may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at least, however much others leave; and until the next one if something is asked that is not known
/// here: it is about to begin, or has just ended. Each such look doubles it.
const LOOKS_APART: Duration = Duration::from_millis(100);
/// Between the first two looks for an answer at least, however much others leave; each doubles it, up to the above.
const ANSWERS_APART: Duration = Duration::from_millis(10);
/// Between two looks for what was asked of attempts that are over, after one at the start.
const CLEAR_EVERY: Duration = Duration::from_secs(600);

/// What came of asking the instance that runs an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The attempt was told to stop.
    Heard,
    /// Its instance has not answered. The wish stays until it does, or the attempt is over.
    Sent,
    /// The attempt was over before.
    IsOver,
}

/// Under which name the attempt is asked for that runs this task; none if none runs.
fn key_of(task: &Task) -> Option<String> {
    let life = &task.life;
    let owner = life.owner.filter(|_| life.status == TaskStatus::Running)?;
    Some(format!("{}{}:{}", prefix(owner), task.id, life.epoch))
}

fn prefix(owner: InstanceId) -> String {
    format!("{PREFIX}{owner}:")
}

fn task_of(key: &str) -> Option<TaskId> {
    key.strip_prefix(PREFIX)?.split(':').nth(1)?.parse().ok()
}

/// True if the attempt that is asked for under this name does not run any more, by what is stored.
fn is_over(key: &str, task: Option<&Task>) -> bool {
    match task {
        // Of one that is read in part, it may not be known who runs it. A newer program does, and it may go on.
        Some(task) if task.unreadable().is_some() => task.life.status.is_terminal(),
        task => task.and_then(key_of).is_none_or(|runs| runs != key),
    }
}

impl Engine {
    // ---- who asks ---------------------------------------------------------------------------------------------

    /// Has the attempt cancelled that runs this task, by the instance that does; waits until `latest` for its answer.
    ///
    /// # Errors
    /// The store fails or does not answer: then it may have been asked or not.
    pub(crate) async fn ask_to_cancel(
        &self,
        task: &Task,
        latest: Option<Instant>,
    ) -> Result<Asked, Error> {
        let Some(key) = key_of(task) else {
            return Ok(Asked::IsOver);
        };
        let mut step = Step::at(self.clock.now());
        step.records.push(RecordChange {
            key: key.clone(),
            expects: 0,
            becomes: Becomes::Value(json(&self.me())),
        });
        let (mut changes, mut apart) = (self.hold_changes(), ANSWERS_APART);
        // Stale: somebody else has asked for the same.
        self.until(latest, self.step(step)).await?;
        self.asked.notify_one(); // it may be this instance, which has just begun it and does not know it yet
        loop {
            changes.mark_unchanged(); // before the look, so that nothing is missed
            let next_look = Instant::now() + apart;
            let looking = async {
                // In this order: the record of an attempt that goes on is taken away by its instance only.
                let record = self.record(&key).await?;
                Ok((record, self.stands(task.id).await?))
            };
            let (record, stands) = match self.until(latest, looking).await {
                Ok(seen) => seen,
                // It is stored, and nobody has answered until now.
                Err(_) if self.is_late(latest) => return Ok(Asked::Sent),
                Err(failure) => return Err(failure),
            };
            let is_over = is_over(&key, stands.as_ref());
            if is_over && let Some(record) = &record {
                self.until(latest, self.forget_ask(record)).await?;
            }
            let has_come_true = stands.is_some_and(|it| {
                (it.life.status, it.life.epoch) == (TaskStatus::Cancelled, task.life.epoch)
            });
            return Ok(match (is_over, record) {
                (true, _) if has_come_true => Asked::Heard,
                (true, _) => Asked::IsOver,
                (false, None) => Asked::Heard,
                (false, Some(_)) if self.is_late(latest) => Asked::Sent,
                (false, Some(_)) => {
                    changes.next(latest).await;
                    tokio::time::sleep_until(next_look).await;
                    apart = (apart * 2).min(LOOKS_APART);
                    continue;
                }
            });
        }
    }

    /// The task as it is stored.
    async fn stands(&self, task: TaskId) -> Result<Option<Task>, BackendError> {
        panics::outage(async { self.backend.get(task).await }).await
    }

    /// What the store says, if it does so in time.
    async fn until<T>(
        &self,
        latest: Option<Instant>,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, Error> {
        let Some(latest) = latest else {
            return Ok(work.await?);
        };
        // Who has waited for the other instance until the end has one more look.
        let latest = latest.max(Instant::now() + LOOKS_APART);
        match tokio::time::timeout_at(latest, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Error::no_answer(self.add_timeout)),
        }
    }

    fn is_late(&self, latest: Option<Instant>) -> bool {
        self.stopped.is_cancelled() || latest.is_some_and(|latest| Instant::now() >= latest)
    }

    // ---- who is asked -----------------------------------------------------------------------------------------

    /// Does what others ask of this instance, until nothing runs here any more.
    pub(crate) async fn run_asks(self: Arc<Self>) {
        let (mut seen, mut wait, mut clear_at) = (0, LOOK_EVERY, Instant::now());
        loop {
            if Instant::now() >= clear_at {
                let next = match self.clear_asks().await {
                    Ok(()) => CLEAR_EVERY,
                    Err(failure) => {
                        cannot_look(&failure);
                        LOOK_EVERY
                    }
                };
                clear_at = Instant::now() + jittered(next);
            }
            let is_news = tokio::select! {
                biased;
                changed = self.backend.changed(seen) => match changed {
                    Ok(n) => {
                        seen = n;
                        true
                    }
                    Err(_told_by_the_listener) => {
                        tokio::time::sleep(jittered(LOOP_RETRY)).await;
                        false
                    }
                },
                () = self.asked.notified() => true,
                () = tokio::time::sleep(jittered(wait)) => false,
            };
            let all_done = wait == LOOK_EVERY;
            if is_news || !all_done || !self.running().is_empty() {
                wait = match self.heed_all().await {
                    Ok(true) => LOOK_EVERY,
                    Ok(false) if is_news => LOOKS_APART,
                    Ok(false) => (wait * 2).min(LOOK_EVERY),
                    Err(failure) => {
                        cannot_look(&failure);
                        LOOP_RETRY
                    }
                };
            }
            tokio::time::sleep(LOOKS_APART).await;
        }
    }

    /// One look; true if everything is done that is asked.
    async fn heed_all(&self) -> Result<bool, BackendError> {
        let asks = self.all_records(&prefix(self.me())).await?;
        // All are told before what was asked of one is taken away: the store may be slow to do so.
        let told: Vec<bool> = asks.iter().map(|ask| self.tell(ask)).collect();
        let mut all_done = true;
        for (ask, is_told) in asks.iter().zip(told) {
            match self.answer(ask, is_told).await {
                Ok(is_done) => all_done &= is_done,
                // It keeps no other waiting.
                Err(failure) => {
                    all_done = false;
                    cannot_take_away(ask, &failure);
                }
            }
        }
        Ok(all_done)
    }

    /// Cancels the attempt that is asked for; false if it does not run here.
    fn tell(&self, ask: &Record) -> bool {
        let task = task_of(&ask.key).filter(|task| self.cancel_attempt(*task, &ask.key));
        task.inspect(|task| {
            panics::say(
                || info!(%task, asked_by = %ask.value, "cancelled at the wish of another process"),
            );
        })
        .is_some()
    }

    /// Takes away what was asked; false if the attempt does not run here, and may be about to.
    async fn answer(&self, ask: &Record, is_told: bool) -> Result<bool, BackendError> {
        let Some(task) = task_of(&ask.key) else {
            return Ok(true); // nobody of this version wrote it
        };
        if !is_told && !is_over(&ask.key, self.stands(task).await?.as_ref()) {
            return Ok(false);
        }
        self.forget_ask(ask).await?;
        Ok(true)
    }

    /// False if it does not run here. In one step with the look, as in [`Engine::cancel_here`].
    fn cancel_attempt(&self, task: TaskId, key: &str) -> bool {
        let running = self.running();
        let attempt = running.get(&task);
        let attempt = attempt.filter(|it| key_of(&it.task).is_some_and(|runs| runs == key));
        attempt.inspect(|it| it.cancel()).is_some()
    }

    // ---- what is left -----------------------------------------------------------------------------------------

    /// Takes away what was asked of attempts that are over: their instance died, or is of a version that hears nothing, and
    /// so did or does who asked.
    async fn clear_asks(&self) -> Result<(), BackendError> {
        for ask in self.all_records(PREFIX).await? {
            match self.clear(&ask).await {
                Ok(()) => {}
                // It keeps no other from it.
                Err(failure) if failure.is_refused() => cannot_take_away(&ask, &failure),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn clear(&self, ask: &Record) -> Result<(), BackendError> {
        let Some(task) = task_of(&ask.key) else {
            return Ok(()); // nobody of this version wrote it
        };
        match is_over(&ask.key, self.stands(task).await?.as_ref()) {
            true => self.forget_ask(ask).await,
            false => Ok(()),
        }
    }

    async fn forget_ask(&self, record: &Record) -> Result<(), BackendError> {
        let mut step = Step::at(self.clock.now());
        step.records.push(RecordChange {
            key: record.key.clone(),
            expects: record.version,
            becomes: Becomes::Gone,
        });
        self.step(step).await?; // stale: others were faster
        self.tell_holds();
        Ok(())
    }
}

fn cannot_look(failure: &BackendError) {
    panics::say(|| debug!(error = %failure, "cannot look what others want to be cancelled"));
}

fn cannot_take_away(ask: &Record, failure: &BackendError) {
    panics::say(|| debug!(error = %failure, ask = %ask.key, "cannot take away what was asked"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Change,
        clock::Timestamp,
        failure::{FailureKind, FailureReport},
        id::IdSource,
    };

    #[test]
    fn a_name_means_one_attempt_of_one_task_at_one_instance() {
        let (ids, now) = (IdSource::default(), Timestamp::from_unix_ms(1_000));
        let mut task = Task::new(ids.task(now), "f", "[]");
        assert_eq!(key_of(&task), None, "it waits");
        let owner = ids.instance(now);
        task.life = Change::started(&task, owner, now).unwrap().life;

        let key = key_of(&task).unwrap();

        assert!(key.starts_with(&prefix(owner)));
        assert_eq!(task_of(&key), Some(task.id));
        assert!(!is_over(&key, Some(&task)));
        assert!(is_over(&key, None));
        task.life = Change::interrupted(&task, "died", now).unwrap().life;
        assert!(is_over(&key, Some(&task)));
    }

    #[test]
    fn of_a_task_that_is_read_in_part_an_attempt_is_over_once_it_has_ended() {
        let (ids, now) = (IdSource::default(), Timestamp::from_unix_ms(1_000));
        let mut task = Task::new(ids.task(now), "f", "[]");
        task.life = Change::started(&task, ids.instance(now), now).unwrap().life;
        let key = key_of(&task).unwrap();

        task.life.owner = None; // as a store leaves it out
        task.life.error = Some(Arc::new(FailureReport::new(FailureKind::Unreadable, "new")));

        assert!(!is_over(&key, Some(&task)));
        task.life.status = TaskStatus::Success;
        assert!(is_over(&key, Some(&task)));
    }

    #[test]
    fn what_is_no_name_of_this_version_means_no_task() {
        for key in ["", "cancel:", "cancel:x:y", "hold:lock:x"] {
            assert_eq!(task_of(key), None, "{key}");
        }
    }
}
