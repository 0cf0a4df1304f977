//! When a schedule is due: its slots, by arithmetic or by cron.

use std::{fmt, time::Duration};

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron, JobType,
    parser::{CronParser, Seconds},
};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// When a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rule {
    /// By a cron expression, in a time zone.
    Cron {
        /// Five fields, or six with seconds in front: `0 9 * * Mon-Fri`, `@daily`.
        expression: String,
        /// By its name in the [IANA database](https://www.iana.org/time-zones): `Europe/Berlin`.
        zone: String,
    },
    /// Again and again after so long. The slots are the multiples of it since the beginning of 1970 (UTC), so they are
    /// the same in every process and after every start.
    Every(Duration),
}

/// `0 9 * * Mon-Fri (Europe/Berlin)`, `every 1h30m`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron { expression, zone } => write!(f, "{expression} ({zone})"),
            Self::Every(every) => write!(f, "every {}", period(*every)),
        }
    }
}

/// Exact, and as it can be written into `#[schedule(every = "…")]`.
fn period(period: Duration) -> String {
    let mut left = period.as_nanos();
    let mut text = String::new();
    for (unit, ns) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("ns", 1),
    ] {
        if left >= ns {
            text.push_str(&format!("{}{unit}", left / ns));
            left %= ns;
        }
    }
    text
}

/// The shortest [`Rule::Every`]: slots are milliseconds, and each is a task.
const EVERY_MIN: Duration = Duration::from_millis(10);
const EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// How many slots are counted that were missed; more are told as so many.
pub(crate) const COUNTED_MAX: usize = 10_000;
/// How far back the last slot of a cron expression is looked for, a window after the other, so that a year of seconds
/// is not walked through. Each is three times as long as the one before: what is walked through in vain is at most half
/// of the last one.
const WINDOW_MIN_S: u64 = 3_600;
const WINDOW_MAX_S: u64 = 9 * 366 * 24 * 3_600;

/// A rule that was understood.
#[derive(Clone, Debug)]
pub(crate) enum Slots {
    Cron(Box<Cron>, Tz),
    Every(i64),
}

/// Slots that have come and were not decided on yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// How many; at most [`COUNTED_MAX`] are counted.
    pub(crate) n: usize,
    /// The latest of them, oldest first.
    pub(crate) latest: Vec<Timestamp>,
}

impl Slots {
    /// # Errors
    /// What is wrong with the rule.
    pub(crate) fn of(rule: &Rule) -> Result<Self, String> {
        match rule {
            Rule::Every(every) => {
                if !(EVERY_MIN..=EVERY_MAX).contains(every) {
                    return Err(format!(
                        "every {every:?} is not between {EVERY_MIN:?} and 366 days"
                    ));
                }
                let ms = i64::try_from(every.as_millis()).expect("at most a year");
                if Duration::from_millis(ms.unsigned_abs()) != *every {
                    return Err(format!(
                        "every {every:?} is no whole number of milliseconds"
                    ));
                }
                Ok(Self::Every(ms))
            }
            Rule::Cron { expression, zone } => {
                let zone: Tz = zone.parse().map_err(|_| {
                    format!("{zone:?} is no time zone: names are those of the IANA database, such as Europe/Berlin")
                })?;
                let parser = CronParser::builder().seconds(Seconds::Optional).build();
                let cron = parser
                    .parse(expression)
                    .map_err(|error| format!("{expression:?} is no cron expression: {error}"))?;
                let slots = Self::Cron(Box::new(cron), zone);
                // From a time at which all rules have slots ahead, so that the answer does not depend on today.
                if slots.after(Timestamp::from_unix_ms(0)).is_none() {
                    return Err(format!("{expression:?} never comes"));
                }
                Ok(slots)
            }
        }
    }

    /// The first slot after `at`; none if there is no further one.
    pub(crate) fn after(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(ms) => {
                let n = at.as_unix_ms().div_euclid(*ms);
                n.checked_add(1)?
                    .checked_mul(*ms)
                    .map(Timestamp::from_unix_ms)
            }
            Self::Cron(cron, zone) => {
                // Slots are whole seconds; the parser would keep a fraction.
                let at = Utc
                    .timestamp_opt(at.as_unix_ms().div_euclid(1_000), 0)
                    .single()?;
                match cron.determine_job_type() {
                    JobType::FixedTime => after_fixed(cron, *zone, at),
                    JobType::IntervalWildcard => after_by_wall(cron, *zone, at),
                }
            }
        }
    }

    pub(crate) fn has(&self, at: Timestamp) -> bool {
        self.after(at.saturating_sub(Duration::from_millis(1))) == Some(at)
    }

    /// The slots from `first`, which is one, to `now`, the `max` latest of them.
    pub(crate) fn due(&self, first: Timestamp, now: Timestamp, max: usize) -> Due {
        if first > now {
            return Due::default();
        }
        let max = max.clamp(1, COUNTED_MAX);
        match self {
            Self::Every(ms) => {
                let last = now.as_unix_ms().div_euclid(*ms) * ms;
                let n = (last - first.as_unix_ms()).div_euclid(*ms) + 1;
                let n = usize::try_from(n).unwrap_or(0);
                let n_latest = i64::try_from(n.min(max)).unwrap_or(i64::MAX);
                let latest = (0..n_latest).rev();
                Due {
                    n: n.min(COUNTED_MAX),
                    latest: latest
                        .map(|back| Timestamp::from_unix_ms(last - back * ms))
                        .collect(),
                }
            }
            Self::Cron(..) => {
                let windows = std::iter::successors(Some(WINDOW_MIN_S), |window| {
                    (*window < WINDOW_MAX_S).then(|| (window * 3).min(WINDOW_MAX_S))
                });
                for window in windows {
                    let from = now.saturating_sub(Duration::from_secs(window));
                    let is_whole = from <= first;
                    let (mut n, mut latest) = (0, std::collections::VecDeque::new());
                    let mut next = match is_whole {
                        true => Some(first),
                        false => self.after(from),
                    };
                    while let Some(slot) = next.filter(|slot| *slot <= now) {
                        n += 1;
                        if latest.len() == max {
                            latest.pop_front();
                        }
                        latest.push_back(slot);
                        next = self.after(slot);
                    }
                    if is_whole || n >= COUNTED_MAX {
                        return Due {
                            n: n.min(COUNTED_MAX),
                            latest: latest.into(),
                        };
                    }
                }
                // Rarer than anybody means, or missed for years: the first one is as good as any.
                Due {
                    n: 1,
                    latest: vec![first],
                }
            }
        }
    }
}

/// The next slot of what comes at one time of the day: of a time that there is twice, the first one; for a time that
/// there is not, the moment at which the clock goes on.
fn after_fixed(cron: &Cron, zone: Tz, at: DateTime<Utc>) -> Option<Timestamp> {
    // By a clock on the wall that nobody sets. By one that is set, the parser takes the gap, which its search only comes
    // by, for what it searches: what had come at 01:30 would come once more when the clock goes from 02:00 to 03:00.
    let mut wall = at.with_timezone(&zone).naive_local().and_utc();
    loop {
        wall = cron.find_next_occurrence(&wall, false).ok()?;
        let next = first_shown(zone, wall.naive_utc())?;
        if next > at {
            return Some(timestamp(&next));
        } // else it is the second time that the clock shows this
    }
}

/// When the clocks of a zone first show this, or what comes next if they leave it out.
fn first_shown(zone: Tz, mut wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    loop {
        match zone.from_local_datetime(&wall).earliest() {
            Some(shown) => return Some(shown.to_utc()),
            None => wall = wall.checked_add_signed(TimeDelta::seconds(1))?,
        }
    }
}

/// The next slot of what comes at several times of the day: whenever the clock on the wall shows it, so an hour that there is
/// twice has its slots twice. (The parser's own search would leave out the second ones.)
fn after_by_wall(cron: &Cron, zone: Tz, mut at: DateTime<Utc>) -> Option<Timestamp> {
    let offset_at = |at: &DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let mut is_included = false;
    loop {
        let offset = offset_at(&at);
        let next = cron
            .find_next_occurrence(&at.with_timezone(&offset), is_included)
            .ok()?
            .to_utc();
        // The first change of the clocks between, if there is one. By days: it may be made good before a slot that is far.
        let (mut same, mut changed) = (at, at);
        while offset_at(&changed) == offset {
            if changed == next {
                return Some(timestamp(&next));
            }
            same = changed;
            changed = next.min(changed + TimeDelta::days(1));
        }
        while changed - same > TimeDelta::seconds(1) {
            let middle = same + (changed - same) / 2;
            let middle = Utc.timestamp_opt(middle.timestamp(), 0).single()?;
            match offset_at(&middle) == offset {
                true => same = middle,
                false => changed = middle,
            }
        }
        (at, is_included) = (changed, true);
    }
}

fn timestamp<Z: TimeZone>(at: &DateTime<Z>) -> Timestamp {
    Timestamp::from_unix_ms(at.timestamp_millis())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 3_600_000;

    pub(crate) fn cron(expression: &str, zone: &str) -> Slots {
        Slots::of(&rule(expression, zone)).unwrap()
    }

    fn rule(expression: &str, zone: &str) -> Rule {
        Rule::Cron {
            expression: expression.to_owned(),
            zone: zone.to_owned(),
        }
    }

    pub(crate) fn at(text: &str) -> Timestamp {
        timestamp(&DateTime::parse_from_rfc3339(text).unwrap())
    }

    #[test]
    fn a_period_is_told_in_the_units_in_which_people_write_it() {
        for (ms, told) in [
            (10, "every 10ms"),
            (1_500, "every 1s500ms"),
            (90_000, "every 1m30s"),
            (300_000, "every 5m"),
            (5_400_000, "every 1h30m"),
            (86_400_000, "every 1d"),
            (129_600_000, "every 1d12h"),
            (604_800_000, "every 7d"),
        ] {
            assert_eq!(Rule::Every(Duration::from_millis(ms)).to_string(), told);
        }
    }

    /// The first slots after a time, in the zone's own words.
    fn next(slots: &Slots, from: &str, n: usize) -> Vec<String> {
        let Slots::Cron(_, zone) = slots else {
            panic!("not by cron");
        };
        let mut from = at(from);
        (0..n)
            .map(|_| {
                from = slots.after(from).unwrap();
                let utc = Utc.timestamp_millis_opt(from.as_unix_ms()).unwrap();
                utc.with_timezone(zone)
                    .format("%m-%d %H:%M:%S %z")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn every_is_anchored_to_the_beginning_of_1970() {
        let slots = Slots::of(&Rule::Every(Duration::from_secs(300))).unwrap();
        let now = at("2026-11-23T10:07:12.345Z");

        assert_eq!(slots.after(now), Some(at("2026-11-23T10:10:00Z")));
        assert_eq!(
            slots.after(at("2026-11-23T10:10:00Z")),
            Some(at("2026-11-23T10:15:00Z"))
        );
    }

    #[test]
    fn a_year_of_missed_seconds_is_counted_without_being_walked_through() {
        let begun = std::time::Instant::now();
        let (first, now) = (at("2025-11-23T00:00:00Z"), at("2026-11-23T00:00:00.500Z"));
        let latest = [at("2026-11-22T23:59:59Z"), at("2026-11-23T00:00:00Z")];

        let every = Slots::of(&Rule::Every(Duration::from_secs(1))).unwrap();
        for slots in [every, cron("* * * * * *", "UTC")] {
            let due = slots.due(first, now, 2);
            assert_eq!((due.n, &due.latest[..]), (COUNTED_MAX, &latest[..]));
        }

        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }

    #[test]
    fn what_is_due_are_the_latest_slots_up_to_now() {
        let slots = cron("0 * * * *", "UTC");
        let first = at("2026-11-23T08:00:00Z");

        let due = slots.due(first, at("2026-11-23T10:30:00Z"), 2);
        assert_eq!(
            (due.n, due.latest),
            (
                3,
                vec![at("2026-11-23T09:00:00Z"), at("2026-11-23T10:00:00Z")]
            )
        );
        assert_eq!(slots.due(first, first, 5).latest, [first]);
        assert_eq!(
            slots.due(first, first.saturating_sub(Duration::from_millis(1)), 5),
            Due::default()
        );
        // Once in four years, missed for one.
        let leap = cron("0 0 29 2 *", "UTC");
        let first = at("2024-02-29T00:00:00Z");
        assert_eq!(
            leap.due(first, at("2025-03-01T00:00:00Z"), 1).latest,
            [first]
        );
    }

    #[test]
    fn a_slot_that_does_not_exist_comes_when_the_clock_goes_on() {
        // On 29 March 2026 the clocks of Berlin go from 02:00 to 03:00.
        let daily = cron("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            next(&daily, "2026-03-28T12:00:00Z", 2),
            ["03-29 03:00:00 +0200", "03-30 02:30:00 +0200"]
        );
        // What comes every hour or oftener leaves out the hour that there is not.
        let often = cron("*/30 * * * *", "Europe/Berlin");
        assert_eq!(
            next(&often, "2026-03-29T00:15:00Z", 3),
            [
                "03-29 01:30:00 +0100",
                "03-29 03:00:00 +0200",
                "03-29 03:30:00 +0200"
            ]
        );
    }

    #[test]
    fn a_slot_that_exists_twice_comes_once_unless_it_comes_every_hour() {
        // On 25 October 2026 the clocks of Berlin go from 03:00 back to 02:00.
        let daily = cron("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            next(&daily, "2026-10-24T12:00:00Z", 2),
            ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]
        );
        let often = cron("*/30 * * * *", "Europe/Berlin");
        assert_eq!(
            next(&often, "2026-10-24T23:45:00Z", 6),
            [
                "10-25 02:00:00 +0200",
                "10-25 02:30:00 +0200",
                "10-25 02:00:00 +0100",
                "10-25 02:30:00 +0100",
                "10-25 03:00:00 +0100",
                "10-25 03:30:00 +0100"
            ]
        );
    }

    #[test]
    fn all_forms_of_cron_are_understood() {
        for (expression, wanted) in [
            ("0 9 * * Mon-Fri", "11-24 09:00:00 +0000"),
            ("30 0 9 * * *", "11-24 09:00:30 +0000"),
            ("0 0 L * *", "11-30 00:00:00 +0000"),
            ("0 0 1W * *", "12-01 00:00:00 +0000"),
            ("0 0 * * Fri#2", "12-11 00:00:00 +0000"),
            ("0 0 * * 5L", "11-27 00:00:00 +0000"),
            ("@daily", "11-24 00:00:00 +0000"),
            ("@hourly", "11-23 13:00:00 +0000"),
            ("0 0 1 jan *", "01-01 00:00:00 +0000"),
        ] {
            assert_eq!(
                next(&cron(expression, "UTC"), "2026-11-23T12:00:00Z", 1),
                [wanted],
                "{expression}"
            );
        }
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused_with_the_reason() {
        for (rule, reason) in [
            (rule("99 * * * *", "UTC"), "is no cron expression"),
            (rule("", "UTC"), "is no cron expression"),
            (rule("0 0 30 2 *", "UTC"), "never comes"),
            (rule("0 9 * * *", "Berlin"), "is no time zone"),
            (Rule::Every(Duration::ZERO), "is not between"),
            (
                Rule::Every(Duration::from_secs(400 * 24 * 3_600)),
                "is not between",
            ),
            (
                Rule::Every(Duration::from_micros(10_500)),
                "no whole number of milliseconds",
            ),
        ] {
            let refused = Slots::of(&rule).unwrap_err();
            assert!(refused.contains(reason), "{rule}: {refused}");
        }
    }

    /// 400 days over two changes of the clocks, in zones that change by an hour and by half of one: the slots are those
    /// that the clock on the wall shows, they only go forward, and none is given twice or left out, wherever one starts.
    #[test]
    fn over_400_days_slots_are_what_the_clock_on_the_wall_shows() {
        let start = at("2026-01-01T00:00:00Z");
        for zone in ZONES {
            for expression in EXPRESSIONS {
                let slots = cron(expression, zone);
                let (shown, end) = shown(&slots, start);
                let mut stepped = Vec::new();
                let mut cursor = start;
                while let Some(slot) = slots.after(cursor).filter(|slot| *slot <= end) {
                    assert!(
                        slot > cursor,
                        "{expression} in {zone}: {slot:?} after {cursor:?}"
                    );
                    stepped.push(slot);
                    cursor = slot;
                }
                let differ = stepped.iter().zip(&shown).find(|(ours, its)| ours != its);
                assert_eq!(differ, None, "{expression} in {zone}");
                assert_eq!(stepped.len(), shown.len(), "{expression} in {zone}");
                let due = slots.due(stepped[0], end, 3);
                assert_eq!(
                    due.latest,
                    stepped[stepped.len() - 3..],
                    "{expression} in {zone}"
                );
                assert!(
                    stepped.len() >= 13,
                    "{expression} in {zone}: {}",
                    stepped.len()
                );
            }
        }
    }

    /// Zones that change by an hour and by half of one, early in the day and at its beginning.
    pub(crate) const ZONES: [&str; 5] = [
        "Europe/Berlin",
        "Europe/London",
        "America/New_York",
        "Africa/Cairo",
        "Australia/Lord_Howe",
    ];
    /// At whole quarters of an hour: so often the wall is looked at.
    pub(crate) const EXPRESSIONS: [&str; 10] = [
        "30 2 * * *",
        "*/30 * * * *",
        "15 1-3 * * Mon-Sun",
        "0 0 L * *",
        "0 9 * * Mon-Fri",
        "45 1 * * *",
        "30 1 * * *",
        "0 3 * * *",
        "0 0 * * *",
        "45 23 * * Thu,Sat",
    ];
    const QUARTER_MS: i64 = 15 * 60_000;

    /// The slots of 400 days as somebody finds them who looks at the clock on the wall each quarter of an hour, and the
    /// end of the days.
    pub(crate) fn shown(slots: &Slots, start: Timestamp) -> (Vec<Timestamp>, Timestamp) {
        let Slots::Cron(cron, zone) = slots else {
            panic!("not by cron");
        };
        let end = Timestamp::from_unix_ms(start.as_unix_ms() + 400 * DAY_MS);
        let comes = |wall| cron.is_time_matching(&wall).unwrap();
        let wall_at = |ms| {
            let utc = Utc.timestamp_millis_opt(ms).unwrap();
            utc.with_timezone(zone).naive_local().and_utc()
        };
        let quarter = TimeDelta::milliseconds(QUARTER_MS);
        let comes_often = cron.determine_job_type() == JobType::IntervalWildcard;
        let mut new = wall_at(start.as_unix_ms()) + quarter; // what it has not shown before
        let mut shown = Vec::new();
        for ms in (start.as_unix_ms()..=end.as_unix_ms())
            .step_by(usize::try_from(QUARTER_MS).unwrap())
            .skip(1)
        {
            let wall = wall_at(ms);
            let is_slot = match comes_often {
                true => comes(wall),
                false => std::iter::successors(Some(new), |it| Some(*it + quarter))
                    .take_while(|it| *it <= wall)
                    .any(comes),
            };
            if is_slot {
                shown.push(Timestamp::from_unix_ms(ms));
            }
            new = new.max(wall + quarter);
        }
        (shown, end)
    }

    /// A clock may ask at any time, also in the hour that comes twice: the answer is never in the past, and never
    /// another slot than that which the clock on the wall will show first.
    #[test]
    fn around_each_change_of_the_clocks_the_next_slot_is_that_of_the_wall_at_every_minute() {
        const MINUTE_MS: i64 = 60_000;
        let start = at("2026-01-01T00:00:00Z");
        for zone in ZONES {
            let tz: Tz = zone.parse().unwrap();
            let offset = |ms: i64| {
                let utc = Utc.timestamp_millis_opt(ms).unwrap();
                tz.offset_from_utc_datetime(&utc.naive_utc()).fix()
            };
            let quarters = (0..400 * 24 * 4).map(|n| start.as_unix_ms() + n * QUARTER_MS);
            let changes: Vec<i64> = quarters
                .filter(|ms| offset(*ms) != offset(ms - QUARTER_MS))
                .collect();
            assert_eq!(changes.len(), 2, "{zone}");
            for expression in EXPRESSIONS {
                let slots = cron(expression, zone);
                let (shown, _) = shown(&slots, start);
                for asked in changes
                    .iter()
                    .flat_map(|change| (-180..=180).map(move |n| change + n * MINUTE_MS))
                    .map(Timestamp::from_unix_ms)
                {
                    let wanted = shown.iter().find(|slot| **slot > asked);
                    assert_eq!(
                        slots.after(asked).as_ref(),
                        wanted,
                        "{expression} in {zone} after {asked}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_comes_before_the_clocks_go_on_does_not_come_again_when_they_do() {
        // On 29 March 2026 the clocks of London go from 01:00 to 02:00.
        let midnight = cron("0 0 * * *", "Europe/London");
        assert_eq!(
            next(&midnight, "2026-03-28T12:00:00Z", 2),
            ["03-29 00:00:00 +0000", "03-30 00:00:00 +0100"]
        );
        // On 24 April 2026 those of Cairo go from 00:00 to 01:00.
        let evening = cron("45 23 * * *", "Africa/Cairo");
        assert_eq!(
            next(&evening, "2026-04-23T12:00:00Z", 2),
            ["04-23 23:45:00 +0200", "04-24 23:45:00 +0300"]
        );
    }

    #[test]
    fn what_comes_once_a_year_in_the_hour_that_there_is_twice_comes_in_both() {
        let slots = cron("*/30 2 25 10 *", "Europe/Berlin");

        assert_eq!(
            next(&slots, "2026-02-01T00:00:00Z", 5),
            [
                "10-25 02:00:00 +0200",
                "10-25 02:30:00 +0200",
                "10-25 02:00:00 +0100",
                "10-25 02:30:00 +0100",
                "10-25 02:00:00 +0200"
            ]
        );
    }

    #[test]
    fn what_was_missed_is_counted_and_not_guessed() {
        let slots = cron("0 * * * *", "UTC");
        let first = at("2026-11-21T00:00:00Z");
        for (days, n) in [(2, 49), (40, 961)] {
            let now = Timestamp::from_unix_ms(first.as_unix_ms() + days * DAY_MS);
            assert_eq!(slots.due(first, now, 1).n, n);
        }
        let years = at("2031-11-21T00:00:00Z");
        let due = slots.due(first, years, 1);
        assert_eq!((due.n, due.latest), (COUNTED_MAX, vec![years]));
    }
}
