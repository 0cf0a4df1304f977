//! Plots of what was measured, as SVG for the documentation.

use std::path::Path;

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use serde::Deserialize;

use crate::workloads::Result;

const OURS: RGBColor = RGBColor(63, 81, 181);
const THEIRS: RGBColor = RGBColor(176, 176, 186);
const GREY: RGBColor = RGBColor(90, 90, 98);
const WIDTH: u32 = 760;
const FONT: &str = "sans-serif";

#[derive(Debug, Deserialize)]
struct Report {
    figures: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    workload: String,
    figure: String,
    who: String,
    unit: String,
    median: f64,
    min: f64,
    max: f64,
    /// What we measured on the same store, divided by this: only others have one.
    ours: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Soak {
    store: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    at_s: f64,
    rate: f64,
    pickup_p50_ms: f64,
    pickup_p99_ms: f64,
    resident_mb: f64,
    store_mb: f64,
}

/// Figures as bars: `w1.svg`, `w2.svg` and `w3.svg` in `folder`.
pub(crate) fn figures(folder: &Path, json: &str) -> Result<()> {
    let report: Report = serde_json::from_str(json)?;
    bars(folder, "w2", "end to end", &report)?;
    bars(folder, "w1", "64 producers", &report)?;
    bars(folder, "w3", "pickup p50", &report)
}

/// A soak as curves: `soak-STORE.svg` in `folder`.
pub(crate) fn soak(folder: &Path, json: &str) -> Result<()> {
    curves(folder, &serde_json::from_str(json)?)
}

/// One bar for each who was measured, with a line from the smallest to the largest.
fn bars(folder: &Path, workload: &str, figure: &str, report: &Report) -> Result<()> {
    const ROW: u32 = 30;
    const LABELS: i32 = 220;
    let of_this = |row: &&Row| row.workload == workload && row.figure == figure;
    let rows: Vec<&Row> = report.figures.iter().filter(of_this).collect();
    let Some(max) = rows.iter().map(|row| row.max).reduce(f64::max) else {
        return Ok(()); // it was not measured
    };
    let unit = &rows[0].unit;
    let path = folder.join(format!("{workload}.svg"));
    let height = ROW * rows.len() as u32 + 12;
    let area = SVGBackend::new(&path, (WIDTH, height)).into_drawing_area();
    // The page may be dark or light.
    let pixels_per_unit = f64::from(WIDTH as i32 - LABELS - 110) / max;
    let x = |value: f64| LABELS + (value * pixels_per_unit) as i32;
    let label = |anchor| {
        (FONT, 14)
            .into_font()
            .color(&GREY)
            .pos(Pos::new(anchor, VPos::Center))
    };
    for (n, row) in rows.iter().enumerate() {
        let top = n as i32 * ROW as i32 + 6;
        let middle = top + ROW as i32 / 2;
        let color = if row.ours.is_some() { THEIRS } else { OURS };
        let name = match row.ours {
            Some(_) => row.who.clone(),
            None => format!("axum-taskflow, {}", row.who),
        };
        area.draw_text(&name, &label(HPos::Right), (LABELS - 10, middle))?;
        let bar = [(LABELS, top + 4), (x(row.median), top + ROW as i32 - 4)];
        area.draw(&Rectangle::new(bar, color.filled()))?;
        let spread = [(x(row.min), middle), (x(row.max), middle)];
        area.draw(&PathElement::new(spread, GREY))?;
        let value = match row.median {
            median if median >= 100.0 => format!("{median:.0} {unit}"),
            median => format!("{median:.2} {unit}"),
        };
        area.draw_text(&value, &label(HPos::Left), (x(row.max) + 8, middle))?;
    }
    area.present()?;
    Ok(())
}

/// Four plots over the time of a soak, one above the other.
fn curves(folder: &Path, soak: &Soak) -> Result<()> {
    type Of = fn(&Sample) -> f64;
    let path = folder.join(format!("soak-{}.svg", soak.store));
    let area = SVGBackend::new(&path, (WIDTH, 640)).into_drawing_area();
    let plots: [(&str, &[Of]); 4] = [
        ("tasks a second", &[|sample| sample.rate]),
        (
            "pickup, p50 and p99, ms",
            &[|sample| sample.pickup_p50_ms, |sample| sample.pickup_p99_ms],
        ),
        ("resident memory, MB", &[|sample| sample.resident_mb]),
        ("store, MB", &[|sample| sample.store_mb]),
    ];
    for (part, (title, lines)) in area.split_evenly((4, 1)).iter().zip(plots) {
        let minutes = |sample: &Sample| sample.at_s / 60.0;
        let end = soak.samples.last().map_or(1.0, minutes);
        let max = lines
            .iter()
            .flat_map(|of| soak.samples.iter().map(of))
            .fold(0.0, f64::max);
        let lines = lines.iter().map(|of| {
            let points = soak.samples.iter();
            points.map(|sample| (minutes(sample), of(sample))).collect()
        });
        curve(part, title, (end, max * 1.15), lines.collect())?;
    }
    area.present()?;
    Ok(())
}

fn curve(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    (end, max): (f64, f64),
    lines: Vec<Vec<(f64, f64)>>,
) -> Result<()> {
    let style = (FONT, 13).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(24) // the last number of the axis stands in the middle below its mark
        .caption(title, style.clone())
        .x_label_area_size(22)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..max)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(GREY)
        .label_style(style)
        .y_labels(4)
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .draw()?;
    for (line, color) in lines.into_iter().zip([OURS, THEIRS]) {
        chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
    }
    Ok(())
}
