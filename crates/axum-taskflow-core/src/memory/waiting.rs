//! The tasks that wait and belong to nobody, in the order in which they are to run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use crate::{
    backend::{Claim, Turn},
    clock::Timestamp,
    id::TaskId,
};

/// Due tasks are ordered for running, the others by time, so that those ahead are never in the way of a claim.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The time of the last claim or of a later write: what divides the two below.
    horizon: Timestamp,
    /// With a `run_at` up to the horizon, by function.
    due: BTreeMap<Arc<str>, BTreeSet<Turn>>,
    /// With a later one.
    ahead: BTreeMap<(Timestamp, TaskId), (Arc<str>, i32)>,
}

impl Waiting {
    pub(super) fn insert(&mut self, name: &Arc<str>, priority: i32, run_at: Timestamp, id: TaskId) {
        if run_at > self.horizon {
            self.ahead.insert((run_at, id), (name.clone(), priority));
        } else {
            let turn = turn(priority, run_at, id);
            match self.due.get_mut(name) {
                Some(due) => due.insert(turn),
                None => self.due.entry(name.clone()).or_default().insert(turn),
            };
        }
    }

    pub(super) fn remove(&mut self, name: &str, priority: i32, run_at: Timestamp, id: TaskId) {
        if run_at > self.horizon {
            self.ahead.remove(&(run_at, id));
        } else if let Some(due) = self.due.get_mut(name) {
            due.remove(&turn(priority, run_at, id));
            if due.is_empty() {
                self.due.remove(name);
            }
        }
    }

    /// Takes the first tasks that the claim asks for; and the turn of the first one for which its reserve leaves no room.
    pub(super) fn take(&mut self, claim: &Claim) -> (Vec<TaskId>, Option<Turn>) {
        self.move_horizon(claim.now);
        let mut names: Vec<&Arc<str>> = claim.names.iter().collect();
        names.sort_unstable();
        names.dedup();
        // The first of each function; the smallest of these is the next one of all.
        let mut heads: BinaryHeap<Reverse<(Turn, &Arc<str>)>> = names
            .into_iter()
            .filter_map(|name| Some(Reverse((*self.due.get(name)?.first()?, name))))
            .collect();
        let mut taken = Vec::new();
        while taken.len() < claim.limit
            && let Some(Reverse((turn, name))) = heads.pop()
        {
            if let Some(due) = self.due.get(name)
                && let Some(next) = due.range((Excluded(turn), Unbounded)).next()
            {
                heads.push(Reverse((*next, name)));
            }
            if claim.except.contains(&turn.id) {
                continue;
            }
            if claim.has_no_room(taken.len(), turn) {
                return (taken, Some(turn));
            }
            taken.push(turn.id);
            self.remove(name, turn.priority.0, turn.run_at, turn.id);
        }
        (taken, None)
    }

    /// Those ahead after one place and before another, those first that come first.
    pub(super) fn ahead(
        &self,
        after: (Timestamp, TaskId),
        before: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, TaskId)> {
        let later = self.ahead.range((Excluded(after), Unbounded));
        later
            .map(|(place, _)| *place)
            .take_while(move |(run_at, _)| *run_at < before)
    }

    /// The earliest `run_at` after the time of the claim that was just made.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.ahead.first_key_value().map(|((run_at, _), _)| *run_at)
    }

    /// Puts what has become due into its order; a write does so too, to leave little of that to the next claim.
    pub(super) fn advance(&mut self, now: Timestamp) {
        if now > self.horizon {
            self.move_horizon(now);
        }
    }

    fn move_horizon(&mut self, now: Timestamp) {
        if now < self.horizon {
            self.move_back(now);
        }
        self.horizon = now;
        while let Some(first) = self.ahead.first_entry()
            && first.key().0 <= now
        {
            let ((run_at, id), (name, priority)) = first.remove_entry();
            self.insert(&name, priority, run_at, id);
        }
    }

    /// The clock was set back: what was due is ahead again. Goes from priority to priority, since within one what
    /// lies ahead stands at the end.
    fn move_back(&mut self, now: Timestamp) {
        let last_id = TaskId::from_bytes([0xff; 16]);
        for (name, due) in &mut self.due {
            let mut level = due.first().map(|turn| turn.priority.0);
            while let Some(priority) = level {
                let now_ahead = (
                    Excluded(turn(priority, now, last_id)),
                    Included(turn(priority, Timestamp::MAX, last_id)),
                );
                let moved: Vec<Turn> = due.range(now_ahead).copied().collect();
                for turn in moved {
                    due.remove(&turn);
                    self.ahead
                        .insert((turn.run_at, turn.id), (name.clone(), priority));
                }
                let below = Excluded(turn(priority, Timestamp::MAX, last_id));
                let next = due.range((below, Unbounded)).next();
                level = next.map(|turn| turn.priority.0);
            }
        }
        self.due.retain(|_, due| !due.is_empty());
    }
}

fn turn(priority: i32, run_at: Timestamp, id: TaskId) -> Turn {
    Turn {
        priority: Reverse(priority),
        run_at,
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdSource;

    #[test]
    fn a_clock_that_is_set_back_makes_no_task_due_early_and_loses_none() {
        let ids = IdSource::default();
        let mut waiting = Waiting::default();
        let (f, g): (Arc<str>, Arc<str>) = ("f".into(), "g".into());
        let at = Timestamp::from_unix_ms;
        let id = || ids.task(at(0));
        let (early, late, low, other) = (id(), id(), id(), id());
        waiting.insert(&f, 1, at(10), early);
        waiting.insert(&f, 1, at(20), late);
        waiting.insert(&f, 0, at(30), low);
        waiting.insert(&g, 7, at(40), other);

        let claim = |names: &[Arc<str>], now| Claim {
            owner: ids.instance(at(0)),
            names: names.into(),
            except: Arc::default(),
            limit: 9,
            now: at(now),
            reserve: None,
        };
        let take = |waiting: &mut Waiting, names, now| waiting.take(&claim(names, now)).0;
        assert_eq!(take(&mut waiting, &[], 50), []);
        let names = [f, g];
        assert_eq!(take(&mut waiting, &names, 15), [early]);
        assert_eq!(waiting.next_due(), Some(at(20)));
        assert_eq!(take(&mut waiting, &names, 50), [other, late, low]);
        assert_eq!(waiting.next_due(), None);
        assert!(waiting.due.is_empty() && waiting.ahead.is_empty());
    }
}
