//! What came of a laboratory, in figures and in words.

use std::{collections::BTreeMap, fmt};

use super::history::History;

/// Broken promises that are printed one by one.
const PRINTED_MAX: usize = 20;

/// A promise of `docs/promises.md` that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `P1` to `P6`.
    pub promise: &'static str,
    /// By what.
    pub what: String,
}

/// What came of a laboratory.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Orders that were answered with an id.
    pub accepted: u64,
    /// Orders without an answer.
    pub unknown: u64,
    /// Tasks that are stored.
    pub stored: u64,
    /// Those of them that came to an end.
    pub finished: u64,
    /// Tasks by what they came to.
    pub by_status: BTreeMap<&'static str, u64>,
    /// Tasks that began more than once: retries and repeats.
    pub repeated: u64,
    /// Accepted tasks that are not stored.
    pub lost: u64,
    /// Kills, ends, stops, aborts.
    pub faults: [u64; 4],
    /// What was done to the server and to links, and how often.
    pub server_faults: BTreeMap<&'static str, u64>,
    /// How often the server did not answer for long though nobody had hurt it, which excuses an interruption and a late
    /// takeover.
    pub silences: u64,
    /// How long each attempt that died with its process lay before somebody took it over, in milliseconds in which
    /// somebody could.
    pub takeovers_ms: Vec<u64>,
    /// What was broken.
    pub violations: Vec<Violation>,
}

impl Report {
    /// The figures of this history; nothing is checked.
    pub(super) fn of(history: &History) -> Self {
        let mut report = Self {
            accepted: history.accepted.len() as u64,
            unknown: history.unknown,
            stored: history.stored.len() as u64,
            faults: [
                history.n_kills,
                history.n_terms,
                history.n_stops,
                history.n_aborts,
            ],
            server_faults: history.server_faults.clone(),
            silences: history.n_silences,
            ..Self::default()
        };
        let mut begins: BTreeMap<_, u64> = BTreeMap::new();
        for effect in history.effects.iter().filter(|it| it.what == "began") {
            *begins.entry(effect.id).or_default() += 1;
        }
        report.repeated = begins.values().filter(|n| **n > 1).count() as u64;
        for task in &history.stored {
            let status = task.life.status;
            report.finished += u64::from(status.is_terminal());
            *report.by_status.entry(status.as_str()).or_default() += 1;
        }
        report
    }

    pub(super) fn broken(&mut self, promise: &'static str, what: String) {
        self.violations.push(Violation { promise, what });
    }

    /// How many tasks came to this status.
    #[must_use]
    pub fn came_to(&self, status: &str) -> u64 {
        self.by_status.get(status).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kills, terms, stops, aborts] = self.faults;
        writeln!(
            f,
            "faults     {kills} kills, {terms} clean ends, {stops} stops, {aborts} aborts"
        )?;
        if !self.server_faults.is_empty() {
            let faults = self.server_faults.iter();
            let faults: Vec<String> = faults.map(|(what, n)| format!("{n} {what}")).collect();
            writeln!(f, "server     {}", faults.join(", "))?;
        }
        if self.silences > 0 {
            let n = self.silences;
            writeln!(f, "excused    {n} times the server did not answer, unhurt")?;
        }
        writeln!(
            f,
            "orders     {} accepted, {} without an answer",
            self.accepted, self.unknown
        )?;
        write!(f, "finished   {} of {} tasks:", self.finished, self.stored)?;
        for (status, n) in &self.by_status {
            write!(f, " {n} {status}")?;
        }
        writeln!(f)?;
        let is_repeat = |it: &&Violation| it.promise == "P3";
        match self.violations.iter().filter(is_repeat).count() {
            0 => writeln!(f, "repeated   {} tasks, all of which may be", self.repeated)?,
            n => writeln!(f, "repeated   {} tasks, {n} times unasked", self.repeated)?,
        }
        let mut waits = self.takeovers_ms.clone();
        waits.sort_unstable();
        match (waits.get(waits.len() / 2), waits.last()) {
            (Some(half), Some(most)) => writeln!(
                f,
                "takeover   {} attempts, half of them within {half} ms, all within {most} ms",
                waits.len()
            )?,
            _ => writeln!(f, "takeover   none")?,
        }
        writeln!(f, "lost       {}", self.lost)?;
        match self.violations.len() {
            0 => writeln!(f, "every promise was kept"),
            n => {
                writeln!(f, "{n} times a promise was broken:")?;
                for Violation { promise, what } in self.violations.iter().take(PRINTED_MAX) {
                    writeln!(f, "  {promise}: {what}")?;
                }
                Ok(())
            }
        }
    }
}
