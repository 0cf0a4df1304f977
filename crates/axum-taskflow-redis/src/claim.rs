//! What instances claim, and what they hold; and tasks among that which this program cannot read.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum_taskflow_core::{
    BackendError, Batch, Change, Claim, Claimed, InstanceId, Reserve, Task, TaskId, Timestamp, Turn,
};
use redis::Value;

use crate::{
    TASKS_MAX, answer,
    damage::Damage,
    link::{CLAIM, HELD, Link},
    record::{self, Stored},
    write,
};

/// When it is tried again what some damage stands in the way of.
const AGAIN_IN: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Claims {
    /// What each owner has claimed. An async mutex: held during a claim.
    numbers: tokio::sync::Mutex<HashMap<InstanceId, Numbers>>,
    /// Tasks that this program cannot read, and until when each is left to others. A std mutex: held for one look.
    unreadable: Mutex<HashMap<TaskId, Timestamp>>,
}

/// The numbers of claims: an answer may be lost, and then the next claim has to bring what that one took.
#[derive(Default)]
struct Numbers {
    /// The last one that was made.
    made: u64,
    /// The last one whose answer was heard.
    heard: u64,
}

impl Claims {
    pub(crate) async fn claim(
        &self,
        link: &Link,
        claim: &Claim,
        damage: &Damage,
    ) -> Result<Claimed, BackendError> {
        let mut numbers = self.numbers.lock().await;
        let numbers = numbers.entry(claim.owner).or_default();
        // Before it is sent: whoever waits for it may leave.
        numbers.made += 1;
        let limit = claim.limit.min(TASKS_MAX);
        // What the answer has no room for is room for those.
        let reserve = claim.reserve.map(|it| Reserve {
            n: it.n.saturating_sub(claim.limit - limit),
            ..it
        });
        let mut call = link.call_in_time(&CLAIM);
        call.once()
            .replicated()
            .though_full()
            .arg(claim.owner.to_string())
            .arg(claim.now.as_unix_ms())
            .arg(limit)
            .arg(reserve.map(|it| record::turn(it.from)).unwrap_or_default())
            .arg(reserve.map_or(0, |it| it.n))
            .arg(numbers.made)
            .arg(numbers.heard);
        let except: Vec<TaskId> = {
            let mut unreadable = self.unreadable();
            unreadable.retain(|_, until| *until > claim.now);
            let own = unreadable.keys().filter(|id| !claim.except.contains(id));
            claim.except.iter().chain(own).copied().collect()
        };
        call.arg(except.len());
        for id in except {
            call.arg(id.to_string());
        }
        for name in &*claim.names {
            call.arg(&**name);
        }
        let mut answers = answer::list(link.send(&call).await?)?.into_iter();
        let mut word = || match answers.next() {
            Some(word) => answer::text_in_part(word).map(|(word, _)| word),
            None => Ok(String::new()),
        };
        let (next_due, next_turn) = (word()?, word()?);
        let found = Found::of(answers)?;
        let mut next_due = match &*next_due {
            "" => None,
            next_due => Some(match record::number(next_due) {
                Ok(ms) => Timestamp::from_unix_ms(ms),
                Err(_) => claim.now.saturating_add(AGAIN_IN), // what is no time may hide what is due
            }),
        };
        if !found.unreadable.is_empty() {
            self.leave_to_others(link, &found.unreadable, claim.now, damage)
                .await?;
            next_due = Some(claim.now); // they stood in the way of others
        }
        let mut next_turn = match &*next_turn {
            "" => None,
            word => {
                let turn = record::read_turn(word).ok();
                if turn.is_none() {
                    next_due = Some(claim.now); // what is no turn stood in the way of others
                }
                turn
            }
        };
        // Where there may be more behind what was no use.
        let unreadable = found.unreadable.iter().map(Turn::of);
        next_turn = next_turn.into_iter().chain(unreadable).min();
        if limit < claim.limit && found.tasks.len() + found.unreadable.len() >= limit {
            next_turn = found.tasks.last().map(Turn::of); // there may be more
        }
        numbers.heard = numbers.made;
        Ok(Claimed {
            tasks: found.tasks,
            next_due,
            next_turn,
        })
    }

    /// In parts, each of which keeps the server for a moment only.
    pub(crate) async fn held(
        &self,
        link: &Link,
        owner: InstanceId,
        damage: &Damage,
    ) -> Result<Vec<TaskId>, BackendError> {
        // Held, so that no claim is under way.
        let numbers = self.numbers.lock().await;
        let heard = numbers.get(&owner).map_or(0, |numbers| numbers.heard);
        let (mut held, mut from) = (Vec::new(), b"-".to_vec());
        loop {
            let mut call = link.call(&HELD);
            call.arg(owner.to_string())
                .arg(&from)
                .arg(TASKS_MAX)
                .arg(heard);
            let mut answers = answer::list(link.send(&call).await?)?.into_iter();
            let last = answer::bytes(answers.next().ok_or_else(answer::strange)?)?;
            for id in answers {
                let (id, _) = answer::text_in_part(id)?;
                match id.parse() {
                    Ok(id) => held.push(id),
                    Err(_) => damage.tell(&format!("o:{owner}"), &id, "it is no task"),
                }
            }
            if last.is_empty() {
                return Ok(held);
            }
            from = [b"(", &*last].concat();
        }
    }

    /// Gives back what a claim has brought and this program cannot read, with the reason.
    async fn leave_to_others(
        &self,
        link: &Link,
        tasks: &[Task],
        now: Timestamp,
        damage: &Damage,
    ) -> Result<(), BackendError> {
        /// Then they are tried again: somebody may have repaired them.
        const FOR: Duration = Duration::from_secs(600);
        /// How many are remembered // more: they wait a minute between two tries
        const MAX: usize = 1_000;
        let mut batch = Batch::at(now);
        for task in tasks {
            let why = why_unreadable(task);
            tracing::error!(task = %task.id, why, "a stored task waits for a program that can read it");
            if &*task.name == record::NO_NAME {
                continue; // it could be put nowhere; those who take over from us may know more
            }
            let mut unreadable = self.unreadable();
            let again_at = if unreadable.len() < MAX {
                unreadable.insert(task.id, now.saturating_add(FOR));
                now // at once, by anybody else
            } else {
                now.saturating_add(AGAIN_IN)
            };
            match Change::held(task, why, again_at) {
                Ok(change) => batch.changes.push(change),
                Err(refused) => {
                    tracing::warn!(task = %task.id, %refused, "a finished task was claimed");
                }
            }
        }
        write::write(link, &batch, damage).await?;
        Ok(())
    }

    fn unreadable(&self) -> MutexGuard<'_, HashMap<TaskId, Timestamp>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tasks that a script has given.
#[derive(Default)]
struct Found {
    tasks: Vec<Task>,
    /// Those that this program cannot read, in part.
    unreadable: Vec<Task>,
}

impl Found {
    fn of(answers: impl IntoIterator<Item = Value>) -> Result<Self, BackendError> {
        let mut found = Self::default();
        for parts in answer::groups::<4>(answers) {
            let stored = Stored::of(parts)?;
            match stored.task(usize::MAX) {
                Ok(task) => found.tasks.push(task),
                // One that cannot be read must not keep all others waiting. Without an id it is no task: who looks at
                // what is held says so.
                Err(why) => found.unreadable.extend(stored.in_part(0, &why)),
            }
        }
        Ok(found)
    }
}

fn why_unreadable(task: &Task) -> &str {
    let why = task.life.error.as_deref();
    why.map_or("", |report| &report.message)
}
