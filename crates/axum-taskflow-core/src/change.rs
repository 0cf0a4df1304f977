//! Where "what happens next" is decided: an outcome and a task become a [`Change`], which a backend applies.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    failure::{Failure, FailureKind, FailureReport, Meaning},
    id::{Epoch, InstanceId, TaskId},
    retry::RetryPolicy,
    status::{Cause, Refused, TaskStatus},
    task::{Attempt, Life, Task},
};

/// What stands for the words of a function that the store refuses.
const UNTOLD: &str = "the task store refuses what was said of this: it stands in the log";

/// What one attempt came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The function returned; its result as JSON, or nothing for `()`.
    Done(Option<Arc<str>>),
    /// The function returned an error.
    Failed(Failure),
    /// The function panicked.
    Panicked(FailureReport),
    /// The attempt took longer than its timeout.
    TimedOut(Duration),
    /// Somebody cancelled the task.
    Cancelled,
    /// The process shuts down, or died.
    Interrupted(&'static str),
}

/// One compare-and-set of a stored task: if the task still stands where `expects` says, `life` replaces what is
/// stored of it. A backend decides nothing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// Which task.
    pub id: TaskId,
    /// Its function, for the counters.
    pub name: Arc<str>,
    /// Its priority, for its place among those that wait.
    pub priority: i32,
    /// The task's tracking id, for the log.
    pub tracking_id: Option<Arc<str>>,
    /// The status and epoch that the stored task must have; else the change is [`Applied::Stale`](crate::Applied).
    pub expects: (TaskStatus, Epoch),
    /// Who must hold the stored task beside that, as above. Most changes leave it open: epochs only grow, and whoever
    /// takes a task from its holder raises it.
    pub held_by: HeldBy,
    /// What is stored from now on.
    pub life: Life,
    /// An attempt that ended and is not the last, to be kept apart.
    pub ended: Option<Attempt>,
    /// What becomes of the task's idempotency key, if it has one.
    pub key: KeyFate,
    /// The task has neither tags nor a tracking id.
    pub is_untagged: bool,
    /// No attempt of the task has said anything, and this is the only one: there are no log lines, no progress and no past
    /// attempts. False if that is not known. A store may remember it of a task that has ended, so that whoever deletes the
    /// task need not look for them; what is said later all the same is to be deleted, too.
    pub is_silent: bool,
}

/// Who must hold a task for a change of it to apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeldBy {
    /// Whoever it is.
    #[default]
    Anybody,
    /// Nobody.
    Nobody,
    /// This instance.
    Instance(InstanceId),
}

impl HeldBy {
    /// The one who holds a task now, by its [`owner`](Life::owner).
    #[must_use]
    pub fn now(owner: Option<InstanceId>) -> Self {
        owner.map_or(Self::Nobody, Self::Instance)
    }

    /// True if a task with this [`owner`](Life::owner) is held so.
    #[must_use]
    pub fn is(self, owner: Option<InstanceId>) -> bool {
        self == Self::Anybody || self == Self::now(owner)
    }
}

/// What becomes of an idempotency key when its task changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFate {
    /// It stays as it is.
    Stays,
    /// It is free again.
    Freed(String),
    /// It stays taken until then.
    KeptUntil(String, Timestamp),
}

impl Change {
    /// An attempt begins on `instance`.
    ///
    /// # Errors
    /// [`Refused`] if the task is not pending.
    pub fn started(task: &Task, instance: InstanceId, now: Timestamp) -> Result<Self, Refused> {
        task.life.status.on(Cause::Started)?;
        Ok(Self::of(task, task.life.begun(task.id, instance, now)))
    }

    /// The beginning of an attempt that is stored already: by a claim, or with the new task.
    pub(crate) fn claimed(task: &Task) -> Self {
        Self {
            expects: (
                TaskStatus::Pending,
                Epoch::from_u32(task.life.epoch.get().saturating_sub(1)),
            ),
            ..Self::of(task, task.life.clone())
        }
    }

    /// The current attempt ended with `outcome`; `chance` from 0.0 to 1.0 is for the jitter.
    ///
    /// # Errors
    /// [`Refused`] if the task is not running.
    pub fn finished(
        task: &Task,
        outcome: Outcome,
        policy: &RetryPolicy,
        chance: f64,
        now: Timestamp,
    ) -> Result<Self, Refused> {
        let attempt = task.life.attempt;
        let again = |wait: Option<Duration>| {
            let wait = wait.unwrap_or_else(|| policy.delay_before(attempt, chance));
            match policy.allows_another(attempt) {
                true => (Cause::WillRetry, wait),
                false => (Cause::GaveUp, Duration::ZERO),
            }
        };
        let (cause, wait, result, error) = match outcome {
            Outcome::Done(result) => (Cause::Succeeded, Duration::ZERO, result, None),
            Outcome::Failed(failure) => {
                let (cause, wait) = match failure.meaning() {
                    Meaning::Retry => again(None),
                    Meaning::RetryAfter(wait) => again(Some(wait)),
                    Meaning::GiveUp => (Cause::GaveUp, Duration::ZERO),
                };
                (cause, wait, None, Some(failure.report()))
            }
            Outcome::Panicked(report) => {
                let (cause, wait) = again(None);
                (cause, wait, None, Some(report))
            }
            Outcome::TimedOut(limit) => {
                let (cause, wait) = again(None);
                let message = format!("the attempt took longer than its timeout of {limit:?}");
                let report = FailureReport::new(FailureKind::Timeout, message);
                (cause, wait, None, Some(report))
            }
            Outcome::Cancelled => return Self::stopped(task, now),
            Outcome::Interrupted(why) => return Self::interrupted(task, why, now),
        };
        Self::ended(task, cause, result, error, now.saturating_add(wait), now)
    }

    /// Somebody cancelled the task while it ran.
    ///
    /// # Errors
    /// [`Refused`] if the task is not running.
    pub(crate) fn stopped(task: &Task, now: Timestamp) -> Result<Self, Refused> {
        let report = FailureReport::new(FailureKind::Cancelled, "cancelled while it ran");
        Self::ended(task, Cause::Cancelled, None, Some(report), now, now)
    }

    /// The current attempt was cut off: the task is `interrupted`, or `pending` again if it may be repeated.
    ///
    /// # Errors
    /// [`Refused`] if the task is not running.
    pub fn interrupted(task: &Task, why: &str, now: Timestamp) -> Result<Self, Refused> {
        let cause = match task.requeue_on_interrupt {
            true => Cause::Requeued,
            false => Cause::Interrupted,
        };
        let report = FailureReport::new(FailureKind::Interrupted, why);
        let mut change = Self::ended(task, cause, None, Some(report), now, now)?;
        if cause == Cause::Requeued {
            // No attempt is burnt: the next one has the same number, and a larger epoch.
            change.life.attempt = task.life.attempt.saturating_sub(1);
        }
        Ok(change)
    }

    /// The current attempt is given up by an instance that is about to end, and its function may still run: as
    /// [`Change::interrupted`], but a task that may be repeated stays with the instance until that is gone.
    ///
    /// # Errors
    /// [`Refused`] if the task is not running.
    pub(crate) fn given_up(task: &Task, why: &str, now: Timestamp) -> Result<Self, Refused> {
        let mut change = Self::interrupted(task, why, now)?;
        if change.life.status == TaskStatus::Pending {
            change.life.owner = task.life.owner;
        }
        Ok(change)
    }

    /// The process died in the middle of the current attempt: as [`Change::interrupted`], but after `crashes_max` such
    /// deaths the task is failed. One that may be repeated waits until `again_at`.
    ///
    /// # Errors
    /// [`Refused`] if the task is not running.
    pub fn crashed(
        task: &Task,
        why: &str,
        crashes_max: u32,
        again_at: Timestamp,
        now: Timestamp,
    ) -> Result<Self, Refused> {
        let crashes = task.life.crashes.saturating_add(1);
        let mut change = if task.requeue_on_interrupt && crashes >= crashes_max {
            let message = match crashes {
                1 => "the process died while running this".to_owned(),
                n => format!("the process died {n} times while running this"),
            };
            let report = FailureReport::new(FailureKind::Crashed, message);
            Self::ended(task, Cause::Poisoned, None, Some(report), now, now)?
        } else {
            let mut change = Self::interrupted(task, why, now)?;
            if change.life.status == TaskStatus::Pending {
                change.life.run_at = again_at;
            }
            change
        };
        change.life.crashes = crashes;
        Ok(change)
    }

    /// Somebody cancelled a task that no attempt has begun.
    ///
    /// # Errors
    /// [`Refused`] if the task is not pending.
    pub fn cancelled(task: &Task, now: Timestamp) -> Result<Self, Refused> {
        let status = task.life.status.on(Cause::Cancelled)?;
        let error = FailureReport::new(FailureKind::Cancelled, "cancelled before it ran");
        let life = Life {
            status,
            owner: None,
            // Nothing ran until now: the last attempt, if there was one, is among the past ones.
            started_at: None,
            finished_at: Some(now),
            error: Some(Arc::new(error)),
            ..task.life.clone()
        };
        Ok(Self {
            key: freed(task),
            ..Self::of(task, life)
        })
    }

    /// A task that runs gives up its idempotency key, and goes on.
    pub(crate) fn passes_key(task: &Task) -> Self {
        Self {
            key: freed(task),
            ..Self::of(task, task.life.clone())
        }
    }

    /// An instance lets go of a task whose function it has not called, or is made to; any instance may claim it. No
    /// attempt is burnt. The epoch grows: whoever held the task cannot start it any more. Applies only while the task is
    /// held as it was.
    ///
    /// # Errors
    /// [`Refused`] if the task is finished.
    pub fn released(task: &Task) -> Result<Self, Refused> {
        Ok(Self {
            held_by: HeldBy::now(task.life.owner),
            ..Self::of(task, let_go(task, Cause::Released)?)
        })
    }

    /// This program cannot read the task's arguments: it waits until `again_at` for one that can. The epoch grows, as
    /// in [`Change::released`]: written once more, it must not take the task from whoever holds it by then.
    ///
    /// # Errors
    /// [`Refused`] if the task is finished.
    pub fn held(task: &Task, why: &str, again_at: Timestamp) -> Result<Self, Refused> {
        let life = Life {
            run_at: again_at,
            error: Some(Arc::new(FailureReport::new(FailureKind::Held, why))),
            ..let_go(task, Cause::Held)?
        };
        Ok(Self::of(task, life))
    }

    /// The same without what a function said, for a store that refuses it, as one that cannot hold each character; nothing if
    /// there is nothing to leave out.
    pub(crate) fn without_words(&self) -> Option<Self> {
        let mut plain = self.clone();
        plain.life.result = None;
        let untold =
            |report: &Arc<FailureReport>| Arc::new(FailureReport::new(report.kind, UNTOLD));
        plain.life.error = plain.life.error.as_ref().map(untold);
        if let Some(attempt) = &mut plain.ended {
            attempt.error = attempt.error.as_ref().map(untold);
        }
        (plain != *self).then_some(plain)
    }

    fn of(task: &Task, life: Life) -> Self {
        Self {
            id: task.id,
            name: task.name.clone(),
            priority: task.priority,
            tracking_id: task.tracking_id.clone(),
            expects: (task.life.status, task.life.epoch),
            held_by: HeldBy::Anybody,
            life,
            ended: None,
            key: KeyFate::Stays,
            is_untagged: task.tags.is_empty() && task.tracking_id.is_none(),
            is_silent: false,
        }
    }

    fn ended(
        task: &Task,
        cause: Cause,
        result: Option<Arc<str>>,
        error: Option<FailureReport>,
        run_at: Timestamp,
        now: Timestamp,
    ) -> Result<Self, Refused> {
        let status = task.life.status.on(cause)?;
        let error = error.map(Arc::new);
        // A clock that was set back, or a start that was moved on to the creation.
        let now = task.life.started_at.map_or(now, |started| now.max(started));
        let life = Life {
            status,
            owner: None,
            finished_at: Some(now),
            error: error.clone(),
            result,
            ..task.life.clone()
        };
        let mut change = Self::of(task, life);
        match status {
            TaskStatus::Pending => {
                change.life.run_at = run_at;
                change.ended = Some(Attempt {
                    number: task.life.attempt,
                    epoch: task.life.epoch,
                    instance: task.life.instance,
                    started_at: task.life.started_at,
                    finished_at: now,
                    outcome: match cause {
                        Cause::Requeued => TaskStatus::Interrupted,
                        _ => TaskStatus::Failed,
                    },
                    error,
                });
            }
            TaskStatus::Success => {
                // One that is free at the end is not kept until now, which may be later by another clock.
                if let Some(key) = &task.idempotency_key
                    && key.ttl > Duration::ZERO
                {
                    let until = now.saturating_add(key.ttl);
                    change.key = KeyFate::KeptUntil(key.key.clone(), until);
                } else {
                    change.key = freed(task);
                }
            }
            _ => change.key = freed(task),
        }
        Ok(change)
    }
}

/// What a task is whose function was surely not called, even if the start of its attempt is stored.
fn let_go(task: &Task, cause: Cause) -> Result<Life, Refused> {
    let mut life = Life {
        status: task.life.status.on(cause)?,
        epoch: task.life.epoch.next(),
        owner: None,
        ..task.life.clone()
    };
    if task.life.status == TaskStatus::Running {
        life.attempt = task.life.attempt.saturating_sub(1);
        life.instance = None;
        life.started_at = None;
    }
    Ok(life)
}

fn freed(task: &Task) -> KeyFate {
    match &task.idempotency_key {
        Some(key) => KeyFate::Freed(key.key.clone()),
        None => KeyFate::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::IdSource, task::IdempotencyKey};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

    fn policy(retries: u32) -> RetryPolicy {
        RetryPolicy {
            retries,
            delay: Duration::from_secs(2),
            jitter: 0.0,
            ..RetryPolicy::default()
        }
    }

    fn running() -> Task {
        let ids = IdSource::default();
        let mut task = Task::new(ids.task(NOW), "f", "[]");
        task.idempotency_key = Some(IdempotencyKey {
            key: "k".to_owned(),
            ttl: Duration::from_secs(60),
        });
        task.life = Change::started(&task, ids.instance(NOW), NOW).unwrap().life;
        task
    }

    fn finish(task: &Task, outcome: Outcome, retries: u32) -> Change {
        Change::finished(task, outcome, &policy(retries), 0.0, NOW).unwrap()
    }

    #[test]
    fn the_deaths_of_processes_are_counted_apart_from_attempts_and_have_a_limit() {
        let mut task = running();
        task.requeue_on_interrupt = true;
        let again_at = NOW.saturating_add(Duration::from_secs(1));
        let ids = IdSource::default();

        for crashes in 1..3 {
            let change = Change::crashed(&task, "it died", 3, again_at, NOW).unwrap();
            assert_eq!(change.life.status, TaskStatus::Pending);
            assert_eq!((change.life.crashes, change.life.attempt), (crashes, 0));
            assert_eq!(change.life.run_at, again_at);
            task.life = change.life;
            let start = Change::started(&task, ids.instance(NOW), NOW).unwrap();
            task.life = start.life;
        }
        let last = Change::crashed(&task, "it died", 3, again_at, NOW).unwrap();

        assert_eq!(last.life.status, TaskStatus::Failed);
        assert_eq!(
            last.life.error.unwrap().message,
            "the process died 3 times while running this"
        );
        assert_eq!(last.key, KeyFate::Freed("k".to_owned()));
    }

    #[test]
    fn who_let_go_of_a_task_cannot_start_it() {
        let ids = IdSource::default();
        let task = Task::new(ids.task(NOW), "f", "[]");
        let late_start = Change::started(&task, ids.instance(NOW), NOW).unwrap();

        let released = Change::released(&task).unwrap();
        let held = Change::held(&task, "cannot be read", NOW).unwrap();

        for let_go in [released, held] {
            let stored = (let_go.life.status, let_go.life.epoch);
            assert_ne!(late_start.expects, stored);
            assert_ne!(let_go.expects, stored, "nor let go of it again");
        }
    }

    #[test]
    fn a_task_is_let_go_of_only_as_long_as_it_is_held_as_it_was() {
        let ids = IdSource::default();
        let mut task = Task::new(ids.task(NOW), "f", "[]");
        for owner in [None, Some(ids.instance(NOW))] {
            task.life.owner = owner;

            let released = Change::released(&task).unwrap();

            assert_eq!(released.held_by, HeldBy::now(owner));
        }
    }

    #[test]
    fn what_cannot_be_read_waits_until_it_is_to_be_tried_again() {
        let task = Task::new(IdSource::default().task(NOW), "f", "[]");
        let again_at = NOW.saturating_add(Duration::from_secs(60));

        let held = Change::held(&task, "no such field", again_at).unwrap();

        assert_eq!(held.life.run_at, again_at);
        assert_eq!(held.life.error.unwrap().message, "no such field");
    }

    #[test]
    fn a_failure_with_attempts_left_waits_on_disk_and_keeps_its_key() {
        let change = finish(&running(), Outcome::Failed(Failure::retry("no")), 1);

        assert_eq!(change.life.status, TaskStatus::Pending);
        assert_eq!(
            change.life.run_at,
            NOW.saturating_add(Duration::from_secs(2))
        );
        assert_eq!(change.life.owner, None);
        assert_eq!(change.ended.unwrap().number, 1);
        assert_eq!(change.key, KeyFate::Stays);
    }

    #[test]
    fn the_last_failure_frees_the_key() {
        let change = finish(&running(), Outcome::Failed(Failure::retry("no")), 0);

        assert_eq!(change.life.status, TaskStatus::Failed);
        assert_eq!(change.key, KeyFate::Freed("k".to_owned()));
    }

    #[test]
    fn giving_up_ends_it_whatever_is_left() {
        let change = finish(&running(), Outcome::Failed(Failure::give_up("no")), 9);

        assert_eq!(change.life.status, TaskStatus::Failed);
    }

    #[test]
    fn retry_after_is_the_functions_own_wait() {
        let wait = Duration::from_secs(77);

        let change = finish(
            &running(),
            Outcome::Failed(Failure::retry_after(wait, "429")),
            1,
        );

        assert_eq!(change.life.run_at, NOW.saturating_add(wait));
    }

    #[test]
    fn success_keeps_the_key_for_its_time() {
        let change = finish(&running(), Outcome::Done(Some("7".into())), 1);

        assert_eq!(change.life.result.as_deref(), Some("7"));
        assert_eq!(
            change.key,
            KeyFate::KeptUntil("k".to_owned(), NOW.saturating_add(Duration::from_secs(60)))
        );
    }

    #[test]
    fn an_attempt_ends_no_earlier_than_it_began_though_a_clock_was_set_back() {
        let task = running();
        let back = NOW.saturating_sub(Duration::from_secs(1));

        let done = Outcome::Done(None);
        let change = Change::finished(&task, done, &policy(0), 0.0, back).unwrap();

        assert_eq!(task.life.started_at, Some(NOW));
        assert_eq!(change.life.finished_at, Some(NOW));
    }

    #[test]
    fn a_key_that_is_kept_for_no_time_is_free_at_the_end_and_not_until_now() {
        let mut task = running();
        let key = task.idempotency_key.as_mut().unwrap();
        key.ttl = Duration::ZERO;

        let change = finish(&task, Outcome::Done(None), 1);

        assert_eq!(change.key, KeyFate::Freed("k".to_owned()));
    }

    #[test]
    fn an_interruption_burns_no_attempt_if_the_task_may_be_repeated() {
        let mut task = running();
        assert_eq!(
            Change::interrupted(&task, "died", NOW).unwrap().life.status,
            TaskStatus::Interrupted
        );
        task.requeue_on_interrupt = true;

        let change = Change::interrupted(&task, "died", NOW).unwrap();

        assert_eq!(change.life.status, TaskStatus::Pending);
        assert_eq!(change.life.attempt, 0);
        assert_eq!(change.life.epoch, task.life.epoch);
        assert_eq!(change.ended.unwrap().outcome, TaskStatus::Interrupted);
    }

    #[test]
    fn a_task_cancelled_between_two_attempts_has_not_run_since_the_first() {
        let mut task = running();
        task.life = finish(&task, Outcome::Failed(Failure::retry("no")), 1).life;
        let later = NOW.saturating_add(Duration::from_secs(3_600));

        task.life = Change::cancelled(&task, later).unwrap().life;

        assert_eq!(task.life.status, TaskStatus::Cancelled);
        assert_eq!(task.duration(), None);
    }
}
