//! Figures of many rounds as a table and as JSON, beside what limits them and what they are to reach.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    targets::{self, Target},
    workloads::{Store, Workload},
};

/// One measured number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Of what.
    pub(crate) name: String,
    /// In which unit: `tasks/s`, `ms`, `MB`.
    pub(crate) unit: String,
    /// How much.
    pub(crate) value: f64,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit: unit.to_owned(),
            value,
        }
    }
}

/// All figures, by workload, name, unit, store, and who was measured: a store of ours, or a peer.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Machine,
    rows: BTreeMap<(Workload, String, String, Store, String), Vec<f64>>,
    /// Rounds that gave no figures, and why.
    failed: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    workload: String,
    figure: String,
    who: String,
    unit: String,
    median: f64,
    min: f64,
    max: f64,
    rounds: usize,
    /// What we measured on the same store, divided by this.
    ours: Option<f64>,
    /// This, divided by what limits it.
    of_limit: Option<f64>,
    targets: Vec<Judged>,
}

/// A target, and whether it was reached; nothing if what it is compared with was not measured.
#[derive(Serialize)]
struct Judged {
    wanted: String,
    is_reached: Option<bool>,
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            rows: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        workload: Workload,
        who: String,
        store: Store,
        figures: Vec<Figure>,
    ) {
        for Figure { name, unit, value } in figures {
            let key = (workload, name, unit, store, who.clone());
            self.rows.entry(key).or_default().push(value);
        }
    }

    pub(crate) fn failed(&mut self, why: String) {
        self.failed.push(why);
    }

    pub(crate) fn json(&self) -> String {
        serde_json::json!({
            "machine": self.machine,
            "figures": self.rows().collect::<Vec<_>>(),
            "failed": self.failed,
        })
        .to_string()
    }

    /// Of a figure of ours.
    fn median(&self, workload: Workload, figure: &str, store: Store) -> Option<f64> {
        let mut rows = self.rows.iter();
        let found = rows.find(|((of, name, _, at, who), _)| {
            (*of, &**name, *at) == (workload, figure, store) && *who == store.to_string()
        });
        Some(median(found?.1))
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.rows
            .iter()
            .map(|((workload, figure, unit, store, who), values)| {
                let is_ours = *who == store.to_string();
                let this = median(values);
                let ours = self.median(*workload, figure, *store);
                let ours = ours.filter(|_| !is_ours).map(|ours| ours / this);
                let targets = match is_ours {
                    true => targets::ours(*workload, figure, *store),
                    false => targets::theirs(*workload, figure, who),
                };
                let of_limit = |target: &Target| match target {
                    Target::OfLimit(_, of, limit) => Some(this / self.median(*of, limit, *store)?),
                    _ => None,
                };
                let judged = |target: &Target| match *target {
                    Target::AtLeast(wanted) => Judged {
                        wanted: format!("at least {}", number(wanted)),
                        is_reached: Some(this >= wanted),
                    },
                    Target::AtMost(wanted) => Judged {
                        wanted: format!("at most {}", number(wanted)),
                        is_reached: Some(this <= wanted),
                    },
                    Target::OfLimit(share, of, limit) => Judged {
                        wanted: format!("{share} of {of}: {limit}"),
                        is_reached: of_limit(target).map(|is| is >= share),
                    },
                    Target::Times(wanted) => Judged {
                        wanted: format!("ours {wanted} times"),
                        is_reached: ours.map(|ours| ours >= wanted),
                    },
                };
                Row {
                    workload: workload.to_string(),
                    figure: figure.clone(),
                    who: who.clone(),
                    unit: unit.clone(),
                    median: this,
                    min: values.iter().copied().fold(f64::INFINITY, f64::min),
                    max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    rounds: values.len(),
                    ours,
                    of_limit: targets.iter().find_map(of_limit),
                    targets: targets.iter().map(judged).collect(),
                }
            })
    }
}

/// In Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine.markdown())?;
        writeln!(
            f,
            "| workload | figure | of | median | min | max | unit | ours / this | of its limit | target | reached |"
        )?;
        writeln!(f, "|---|---|---|---:|---:|---:|---|---:|---:|---|---|")?;
        for row in self.rows() {
            let ratio = |of: Option<f64>| of.map(|of| format!("{of:.2}")).unwrap_or_default();
            let wanted = row.targets.iter().map(|target| &*target.wanted);
            let reached = row.targets.iter().map(|target| match target.is_reached {
                Some(true) => "yes",
                Some(false) => "no",
                None => "not measured",
            });
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.workload,
                row.figure,
                row.who,
                number(row.median),
                number(row.min),
                number(row.max),
                row.unit,
                ratio(row.ours),
                ratio(row.of_limit),
                wanted.collect::<Vec<_>>().join("; "),
                reached.collect::<Vec<_>>().join("; "),
            )?;
        }
        for why in &self.failed {
            writeln!(f, "\nNot measured: {why}")?;
        }
        Ok(())
    }
}

fn number(n: f64) -> String {
    match n {
        n if n >= 1_000.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.3}"),
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
