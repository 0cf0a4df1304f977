//! What is done about slots that have come: decided here, and written by the scheduler in one step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::slots::Slots;
use crate::{clock::Timestamp, id::TaskId};

/// What becomes of slots that came while nothing ran that could fire them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missed {
    /// One task for all of them.
    #[default]
    FireOnce,
    /// None: the schedule goes on with the next slot.
    Skip,
    /// One task for each, the latest ones.
    FireAll {
        /// At most so many, 1 to 1,000.
        max: usize,
        /// Only those that are not older.
        within: Duration,
    },
}

/// What becomes of a slot whose predecessor's task has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Overlap {
    /// Its task runs beside the other.
    Allow,
    /// No task.
    #[default]
    Skip,
    /// Its task is added when the other has ended. One slot can wait so; further ones are skipped.
    QueueOne,
}

/// How a schedule takes its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) missed: Missed,
    pub(crate) overlap: Overlap,
    /// A slot that is decided on later than this is missed.
    pub(crate) tolerance: Duration,
}

/// What was decided about a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// The slot; for several that were missed the last of them.
    pub slot: Timestamp,
    /// When it was decided, by the clock of the instance that did.
    pub at: Timestamp,
    /// What.
    pub what: Decided,
}

/// What can be decided about a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decided")]
#[non_exhaustive]
pub enum Decided {
    /// A task was added.
    Fired {
        /// Which one.
        task: TaskId,
    },
    /// The task of an earlier slot had not ended.
    Overlapped,
    /// It waits for the task of an earlier slot to end.
    Queued,
    /// So many slots came while nothing ran; of more than 10,000 as many are told.
    Missed {
        /// How many.
        n: usize,
    },
}

/// What there is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Slots for which a task is added, oldest first.
    pub(crate) fire: Vec<Timestamp>,
    /// One that is to wait for the other's end, and the one that waits now.
    pub(crate) queued: Option<Timestamp>,
    /// Slots that are left out since another one's task runs.
    pub(crate) overlapped: Vec<Timestamp>,
    /// How many were missed, and the last of them.
    pub(crate) missed: Option<(usize, Timestamp)>,
    /// The last slot that was decided on, if one was.
    pub(crate) decided: Option<Timestamp>,
    /// The first slot that has not come.
    pub(crate) next: Option<Timestamp>,
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// Tasks of one schedule that are added at once at most.
const FIRE_MAX: usize = 1_000;

/// What a schedule stands at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// The first slot that was not decided on.
    pub(crate) next: Option<Timestamp>,
    /// One that waits.
    pub(crate) queued: Option<Timestamp>,
    /// A task of it has not ended.
    pub(crate) is_busy: bool,
    /// It is to run once since the cluster has started.
    pub(crate) is_startup: bool,
}

pub(crate) fn decide(slots: &Slots, policy: Policy, standing: Standing, now: Timestamp) -> Verdict {
    let Standing {
        next,
        queued,
        is_busy,
        is_startup,
    } = standing;
    let mut verdict = Verdict {
        queued,
        next,
        ..Verdict::default()
    };
    let mut fire = Vec::new();
    if let Some(first) = next.filter(|first| *first <= now) {
        // What comes before that is missed. What comes later fires, each slot for itself, and for what was missed before.
        let in_time = now.saturating_sub(policy.tolerance);
        let too_late = in_time.saturating_sub(MILLISECOND);
        let first_in_time = match first < in_time {
            true => slots.after(too_late),
            false => Some(first),
        };
        // Not before the first that was not decided on, whatever the parser says.
        let first_in_time = first_in_time.map(|in_time| in_time.max(first));
        let due = first_in_time.map(|first| slots.due(first, now, FIRE_MAX));
        let due = due.unwrap_or_default();
        let max = match policy.missed {
            Missed::FireAll { max, .. } => max.min(FIRE_MAX).saturating_sub(due.latest.len()),
            _ => 1,
        };
        let missed = slots.due(first, too_late, max);
        let made_up_for = |slot: &&Timestamp| match policy.missed {
            Missed::FireOnce => due.latest.is_empty(),
            Missed::Skip => false,
            Missed::FireAll { within, .. } => max > 0 && now.since(**slot) <= within,
        };
        fire.extend(missed.latest.iter().filter(made_up_for));
        let n_missed = missed.n.saturating_sub(fire.len()) + due.n.saturating_sub(due.latest.len());
        if n_missed > 0 {
            let last_missed = match (fire.is_empty(), missed.latest.last()) {
                (true, Some(last)) => *last,
                _ => first, // one of those before the first that fires
            };
            verdict.missed = Some((n_missed, last_missed));
        }
        fire.extend(&due.latest);
        let last = due.latest.last().or(missed.latest.last());
        let last = last.copied().unwrap_or(first);
        // From the slot, and never from now: so a clock that is late or early makes no slot come twice.
        verdict.next = slots.after(last);
        verdict.decided = Some(last);
    }
    if is_startup && fire.is_empty() {
        // At a time that is no slot: two of them are never as close as a millisecond.
        fire.push(match slots.has(now) {
            true => now.saturating_sub(MILLISECOND),
            false => now,
        });
    }
    match policy.overlap {
        Overlap::Allow => {
            fire.splice(0..0, verdict.queued.take()); // it was another rule when it was queued
            verdict.fire = fire;
        }
        Overlap::Skip => {
            let may_fire = usize::from(!is_busy);
            // One at a time, even of those that were missed: the later ones overlap with the first.
            verdict.overlapped = fire.split_off(may_fire.min(fire.len()));
            verdict.queued = None;
            verdict.fire = fire;
        }
        Overlap::QueueOne => {
            let mut waiting: Vec<Timestamp> = verdict.queued.take().into_iter().collect();
            waiting.extend(fire);
            let mut waiting = waiting.into_iter();
            if !is_busy {
                verdict.fire = waiting.by_ref().take(1).collect();
            }
            verdict.queued = waiting.next();
            verdict.overlapped = waiting.collect();
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::slots::Rule;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_300_020_000)
            .saturating_add(MINUTE * u32::try_from(minutes).unwrap())
    }

    fn policy(missed: Missed, overlap: Overlap) -> Policy {
        Policy {
            missed,
            overlap,
            tolerance: Duration::from_secs(30),
        }
    }

    /// Each minute a slot; the first that was not decided on is that of minute 0.
    fn decided(policy: Policy, queued: Option<u64>, is_busy: bool, now: Timestamp) -> Verdict {
        let slots = Slots::of(&Rule::Every(MINUTE)).unwrap();
        decide(&slots, policy, standing(0, queued, is_busy), now)
    }

    fn standing(next: u64, queued: Option<u64>, is_busy: bool) -> Standing {
        Standing {
            next: Some(at(next)),
            queued: queued.map(at),
            is_busy,
            is_startup: false,
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_slot_that_has_not_come_is_left_alone() {
        let before = at(0).saturating_sub(Duration::from_millis(1));
        let verdict = decided(policy(Missed::FireOnce, Overlap::Skip), None, false, before);
        let expected = Verdict {
            next: Some(at(0)),
            ..Verdict::default()
        };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn a_slot_in_time_fires_whatever_is_done_about_missed_ones() {
        for missed in [
            Missed::FireOnce,
            Missed::Skip,
            Missed::FireAll {
                max: 5,
                within: MINUTE,
            },
        ] {
            let now = at(0).saturating_add(seconds(29));
            let verdict = decided(policy(missed, Overlap::Skip), None, false, now);
            let expected = Verdict {
                fire: vec![at(0)],
                decided: Some(at(0)),
                next: Some(at(1)),
                ..Verdict::default()
            };
            assert_eq!(verdict, expected);
        }
    }

    #[test]
    fn of_missed_slots_the_last_one_fires_or_none_or_the_latest() {
        let now = at(9).saturating_add(seconds(45)); // 10 slots, and none of them in time
        let fired = |missed| {
            let verdict = decided(policy(missed, Overlap::Allow), None, false, now);
            assert_eq!(verdict.next, Some(at(10)));
            (verdict.fire, verdict.missed)
        };

        assert_eq!(fired(Missed::FireOnce), (vec![at(9)], Some((9, at(0)))));
        assert_eq!(fired(Missed::Skip), (vec![], Some((10, at(9)))));
        let within = |minutes| Missed::FireAll {
            max: 4,
            within: MINUTE * minutes,
        };
        assert_eq!(
            fired(within(60)),
            (vec![at(6), at(7), at(8), at(9)], Some((6, at(0))))
        );
        assert_eq!(fired(within(2)), (vec![at(8), at(9)], Some((8, at(0)))));
        assert_eq!(fired(within(0)), (vec![], Some((10, at(9)))));
    }

    #[test]
    fn what_was_queued_under_another_rule_waits_no_more() {
        let before = at(0).saturating_sub(MINUTE);
        let now_by = |overlap| {
            let verdict = decided(policy(Missed::Skip, overlap), Some(9), false, before);
            (verdict.fire, verdict.queued)
        };

        assert_eq!(now_by(Overlap::Allow), (vec![at(9)], None));
        assert_eq!(now_by(Overlap::Skip), (vec![], None));
    }

    #[test]
    fn a_missed_slot_that_is_as_old_as_it_may_be_is_made_up_for() {
        let all = Missed::FireAll {
            max: 9,
            within: MINUTE * 2,
        };

        let verdict = decided(policy(all, Overlap::Allow), None, false, at(2));

        assert_eq!(verdict.fire, [at(0), at(1), at(2)]);
    }

    #[test]
    fn each_slot_that_is_in_time_fires_and_those_before_are_made_up_for_as_it_is_said() {
        let now = at(9).saturating_add(seconds(5)); // 7, 8 and 9 are in time
        let fired = |missed, overlap| {
            let policy = Policy {
                tolerance: seconds(2 * 60 + 5),
                ..policy(missed, overlap)
            };
            let verdict = decided(policy, None, false, now);
            assert_eq!(verdict.next, Some(at(10)));
            (verdict.fire, verdict.missed, verdict.overlapped)
        };
        let in_time = vec![at(7), at(8), at(9)];
        let missed = Some((7, at(6)));
        let all = Missed::FireAll {
            max: 5, // together with those in time
            within: MINUTE * 60,
        };

        for once_or_never in [Missed::FireOnce, Missed::Skip] {
            let fired = fired(once_or_never, Overlap::Allow);
            assert_eq!(fired, (in_time.clone(), missed, vec![]));
        }
        assert_eq!(
            fired(all, Overlap::Allow),
            ((5..10).map(at).collect(), Some((5, at(0))), vec![])
        );
        assert_eq!(
            fired(Missed::FireOnce, Overlap::Skip),
            (vec![at(7)], missed, vec![at(8), at(9)])
        );
    }

    #[test]
    fn of_too_many_that_are_in_time_the_latest_fire() {
        let slots = Slots::of(&Rule::Every(seconds(1))).unwrap();
        let policy = Policy {
            tolerance: MINUTE * 60,
            ..policy(Missed::FireOnce, Overlap::Allow)
        };

        let verdict = decide(&slots, policy, standing(0, None, false), at(20));

        assert_eq!(
            (verdict.fire.len(), verdict.fire.last()),
            (1_000, Some(&at(20)))
        );
        assert_eq!(verdict.missed, Some((201, at(0))));
    }

    #[test]
    fn a_slot_whose_predecessor_runs_is_left_out_or_waits_or_runs_beside_it() {
        let of = |overlap, queued| {
            let verdict = decided(policy(Missed::FireOnce, overlap), queued, true, at(0));
            (verdict.fire, verdict.queued, verdict.overlapped)
        };

        assert_eq!(of(Overlap::Allow, None), (vec![at(0)], None, vec![]));
        assert_eq!(of(Overlap::Skip, None), (vec![], None, vec![at(0)]));
        assert_eq!(of(Overlap::QueueOne, None), (vec![], Some(at(0)), vec![]));
        let slots = Slots::of(&Rule::Every(MINUTE)).unwrap();
        let queue = policy(Missed::FireOnce, Overlap::QueueOne);
        let verdict = decide(&slots, queue, standing(1, Some(0), true), at(1));
        assert_eq!(
            (verdict.queued, verdict.overlapped),
            (Some(at(0)), vec![at(1)])
        );
        // Its predecessor has ended: it fires, and the next one waits.
        let verdict = decide(&slots, queue, standing(1, Some(0), false), at(1));
        assert_eq!((verdict.fire, verdict.queued), (vec![at(0)], Some(at(1))));
    }

    #[test]
    fn the_run_at_the_start_is_no_slot_and_comes_if_none_does() {
        let of = |overlap, is_busy, now| {
            let slots = Slots::of(&Rule::Every(MINUTE)).unwrap();
            let standing = Standing {
                is_startup: true,
                ..standing(5, None, is_busy)
            };
            let verdict = decide(&slots, policy(Missed::FireOnce, overlap), standing, now);
            (verdict.fire, verdict.queued, verdict.overlapped)
        };
        let (now, slot) = (at(0).saturating_add(seconds(1)), at(0));
        let beside = slot.saturating_sub(MILLISECOND);

        assert_eq!(of(Overlap::Skip, false, now), (vec![now], None, vec![]));
        assert_eq!(of(Overlap::Skip, false, slot), (vec![beside], None, vec![]));
        assert_eq!(of(Overlap::Skip, true, now), (vec![], None, vec![now]));
        assert_eq!(
            of(Overlap::QueueOne, true, now),
            (vec![], Some(now), vec![])
        );
        assert_eq!(of(Overlap::Allow, true, now), (vec![now], None, vec![]));
        assert_eq!(of(Overlap::Skip, false, at(5)), (vec![at(5)], None, vec![]));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_slot_come_again() {
        let slots = Slots::of(&Rule::Every(MINUTE)).unwrap();
        let policy = policy(Missed::FireOnce, Overlap::Allow);
        let then = |next, now| {
            let standing = Standing {
                next,
                ..Standing::default()
            };
            decide(&slots, policy, standing, now)
        };
        let first = then(Some(at(0)), at(0));
        let again = then(first.next, at(0));
        let earlier = then(first.next, at(0).saturating_sub(MINUTE));

        assert_eq!(first.decided, Some(at(0)));
        assert_eq!((again.fire, earlier.fire), (vec![], vec![]));
        assert_eq!((again.next, earlier.next), (Some(at(1)), Some(at(1))));
    }

    /// Looks at random times, with outages of up to a week and clocks that are apart by minutes, over 400 days: each
    /// slot that the clock on the wall shows fires or is counted as missed, and none does twice.
    #[test]
    fn over_400_days_each_slot_is_decided_on_once_whenever_somebody_looks() {
        use crate::schedule::slots::tests::{EXPRESSIONS, ZONES, at, cron, shown};
        const MINUTE_MS: i64 = 60_000;
        let start = at("2026-01-01T00:00:00Z");
        for (seed, zone) in (1_u64..).zip(ZONES) {
            for expression in EXPRESSIONS {
                let mut chance = fastrand::Rng::with_seed(seed);
                let slots = cron(expression, zone);
                let (shown, end) = shown(&slots, start);
                let mut next = slots.after(start);
                let mut fired = Vec::new();
                let (mut n_missed, mut now) = (0, start.as_unix_ms());
                while now < end.as_unix_ms() {
                    now += match chance.u8(..) {
                        0 => chance.i64(0..7 * 24 * 60 * MINUTE_MS),
                        1..=20 => chance.i64(0..300 * MINUTE_MS),
                        _ => chance.i64(0..20 * MINUTE_MS),
                    };
                    now = now.min(end.as_unix_ms());
                    let apart = chance.i64(-5..=5) * MINUTE_MS;
                    let looks = match now == end.as_unix_ms() {
                        true => end,
                        false => Timestamp::from_unix_ms(now + apart).min(end),
                    };
                    let missed = [
                        Missed::FireOnce,
                        Missed::Skip,
                        Missed::FireAll {
                            max: 3,
                            within: MINUTE * 600,
                        },
                    ];
                    let policy = Policy {
                        tolerance: MINUTE,
                        ..policy(missed[chance.usize(..3)], Overlap::Allow)
                    };
                    let standing = Standing {
                        next,
                        ..Standing::default()
                    };
                    let verdict = decide(&slots, policy, standing, looks);
                    fired.extend(verdict.fire);
                    n_missed += verdict.missed.map_or(0, |(n, _)| n);
                    assert!(verdict.next >= next, "{expression} in {zone}");
                    next = verdict.next;
                }
                let n_fired = fired.len();
                assert!(fired.is_sorted(), "{expression} in {zone}");
                fired.dedup();
                assert_eq!(fired.len(), n_fired, "{expression} in {zone}: twice");
                let are_shown = fired.iter().all(|slot| shown.binary_search(slot).is_ok());
                assert!(are_shown, "{expression} in {zone}");
                assert_eq!(n_fired + n_missed, shown.len(), "{expression} in {zone}");
            }
        }
    }
}
