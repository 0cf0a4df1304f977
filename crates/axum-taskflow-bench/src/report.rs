//! Figures of many rounds as a table and as JSON.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::workloads::{Store, Workload};

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
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: BTreeMap<(Workload, String, String, Store, String), Vec<f64>>,
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
}

impl Report {
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

    pub(crate) fn json(&self) -> String {
        serde_json::json!({ "figures": self.rows().collect::<Vec<_>>() }).to_string()
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.rows
            .iter()
            .map(|((workload, figure, unit, store, who), values)| {
                let ours = (
                    *workload,
                    figure.clone(),
                    unit.clone(),
                    *store,
                    store.to_string(),
                );
                let ours = self.rows.get(&ours).filter(|_| *who != store.to_string());
                let ours = ours.map(|ours| median(ours) / median(values));
                let mut values = values.clone();
                values.sort_by(f64::total_cmp);
                Row {
                    workload: workload.to_string(),
                    figure: figure.clone(),
                    who: who.clone(),
                    unit: unit.clone(),
                    median: median(&values),
                    min: values[0],
                    max: values[values.len() - 1],
                    rounds: values.len(),
                    ours,
                }
            })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| workload | figure | of | median | min | max | unit | ours / this |"
        )?;
        writeln!(f, "|---|---|---|---:|---:|---:|---|---:|")?;
        for row in self.rows() {
            let number = |n: f64| match n {
                n if n >= 1_000.0 => format!("{n:.0}"),
                n if n >= 10.0 => format!("{n:.1}"),
                n => format!("{n:.3}"),
            };
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.workload,
                row.figure,
                row.who,
                number(row.median),
                number(row.min),
                number(row.max),
                row.unit,
                row.ours
                    .map(|ours| format!("{ours:.2}"))
                    .unwrap_or_default()
            )?;
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
