//! Plots as SVG.

use std::path::Path;

use anyhow::anyhow;
use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::drive::percentile_ms;
use crate::timeline::Sample;

use super::number::{ms, rate};

const SIZE: (u32, u32) = (900, 420);
/// Room beside the bars for the names of the systems.
const LEGEND_WIDTH: u32 = 220;
const FONT: &str = "sans-serif";

/// Colours that stay apart for colour-blind readers: Okabe and Ito's set.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Rates over the time of a run.
///
/// # Errors
/// When the file cannot be written.
pub fn throughput(file: &Path, samples: &[Sample]) -> anyhow::Result<()> {
    let canvas = canvas(file)?;
    let end = samples.last().map_or(1.0, |sample| sample.at_s);
    let top = samples.iter().map(|sample| sample.rate).fold(1.0, f64::max) * 1.1;
    let all: Vec<_> = samples.iter().map(|sample| (sample.at_s, sample.rate)).collect();
    let won = samples.iter().map(|sample| (sample.at_s, sample.won_rate)).collect();
    let axes = Axes {
        title: "Answers per second",
        legend: SeriesLabelPosition::LowerRight,
        x: Axis { range: 0.0..end, name: "seconds", label: &|at| format!("{at:.1}") },
        y: Axis { range: 0.0..top, name: "", label: &|per_second| rate(*per_second) },
    };
    let mut curves = vec![("all", all), ("won", won)];
    // One line would hide the other.
    curves.dedup_by(|won, all| won.1 == all.1);
    lines(&canvas, axes, &curves).map_err(|error| anyhow!("{error}"))
}

/// Latency by percentile: each further nine has the same room, and so has each factor of ten in latency.
///
/// # Errors
/// When the file cannot be written.
pub fn latency(file: &Path, latencies_us: &[(&str, &Histogram<u64>)]) -> anyhow::Result<()> {
    let canvas = canvas(file)?;
    // 0, 1, 2, 3, 4 nines: p0, p90, p99, p99.9, p99.99.
    let nines = (0..=80).map(|step| f64::from(step) / 20.0);
    let curves = latencies_us
        .iter()
        .map(|(name, latency)| {
            let point = |nines: f64| (nines, percentile_ms(latency, 100.0 * (1.0 - 10f64.powf(-nines))));
            (*name, nines.clone().map(point).collect::<Vec<_>>())
        })
        .collect::<Vec<_>>();
    let values = || curves.iter().flat_map(|(_, points)| points).map(|point| point.1);
    let top = values().fold(1.0, f64::max) * 1.3;
    // Decades, as the compared systems differ by that much.
    let bottom = 10f64.powf(values().fold(top, f64::min).max(0.01).log10().floor());
    let percentile = |nines: &f64| match nines {
        0.0 => "0".to_owned(),
        nines => format!("{}%", 100.0 - 10f64.powf(2.0 - nines.round())),
    };
    let axes = Axes {
        title: "Latency by percentile, milliseconds",
        legend: SeriesLabelPosition::LowerRight,
        x: Axis { range: 0.0..4.0, name: "", label: &percentile },
        y: Axis { range: (bottom..top).log_scale(), name: "", label: &|latency| ms(*latency) },
    };
    lines(&canvas, axes, &curves).map_err(|error| anyhow!("{error}"))
}

/// Groups of bars: one group per workload, one bar per system.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Headline.
    pub title: String,
    /// The systems, in the order of the bars.
    pub systems: Vec<String>,
    /// The workloads, each with a value per system; `None` where it was not run.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
}

/// Draws bars over a logarithmic axis, as the systems differ by orders of magnitude.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(file: &Path, bars: &Bars) -> anyhow::Result<()> {
    let canvas = canvas(file)?;
    draw_bars(&canvas, bars).map_err(|error| anyhow!("{error}"))
}

fn canvas(file: &Path) -> anyhow::Result<Canvas<'_>> {
    let canvas = SVGBackend::new(file, SIZE).into_drawing_area();
    canvas.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    Ok(canvas)
}

/// The range of an axis, its name, and how to write its values.
struct Axis<'a, Range> {
    range: Range,
    name: &'a str,
    label: &'a dyn Fn(&f64) -> String,
}

struct Axes<'a, X, Y> {
    title: &'a str,
    /// Where the curves leave room for their names.
    legend: SeriesLabelPosition,
    x: Axis<'a, X>,
    y: Axis<'a, Y>,
}

fn lines<X, Y>(
    canvas: &Canvas<'_>,
    axes: Axes<'_, X, Y>,
    curves: &[(&str, Vec<(f64, f64)>)],
) -> Result<(), Box<dyn std::error::Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(canvas)
        .caption(axes.title, (FONT, 18))
        .margin(14)
        .margin_right(36)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(axes.x.range, axes.y.range)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(axes.x.name)
        .y_desc(axes.y.name)
        .x_labels(5)
        .x_label_formatter(&axes.x.label)
        .y_label_formatter(&axes.y.label)
        .label_style((FONT, 13))
        .draw()?;
    for ((name, points), colour) in curves.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(axes.legend)
        .border_style(TRANSPARENT)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 13))
        .draw()?;
    canvas.present()?;
    Ok(())
}

fn draw_bars(canvas: &Canvas<'_>, bars: &Bars) -> Result<(), Box<dyn std::error::Error>> {
    let values = || bars.groups.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let top = values().fold(10.0, f64::max) * 1.5;
    let bottom = 10f64.powf(values().fold(top, f64::min).max(1.0).log10().floor());
    let (left, right) = canvas.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let mut chart = ChartBuilder::on(&left)
        .caption(&bars.title, (FONT, 18))
        .margin(14)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..bars.groups.len() as f64, (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .y_label_formatter(&|value: &f64| rate(*value))
        .label_style((FONT, 13))
        .draw()?;
    let width = 0.8 / bars.systems.len().max(1) as f64;
    for (system, (name, colour)) in bars.systems.iter().zip(COLOURS.into_iter().cycle()).enumerate() {
        let left = |group: usize| group as f64 + 0.1 + system as f64 * width;
        let boxes = bars.groups.iter().enumerate().filter_map(|(group, (_, values))| {
            let value = values.get(system).copied().flatten()?;
            let corners = [(left(group), bottom), (left(group) + width * 0.92, value.max(bottom))];
            Some(Rectangle::new(corners, colour.filled()))
        });
        chart.draw_series(boxes)?;
        let y = 60 + 22 * i32::try_from(system)?;
        right.draw(&Rectangle::new([(0, y), (12, y + 12)], colour.filled()))?;
        right.draw(&Text::new(name.as_str(), (18, y), (FONT, 13)))?;
    }
    for (group, (name, values)) in bars.groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(group as f64 + 0.5, bottom));
        let half = 3 * i32::try_from(name.len())?;
        canvas.draw(&Text::new(name.as_str(), (x - half, y + 10), (FONT, 13)))?;
        for (system, value) in values.iter().enumerate() {
            let Some(value) = *value else { continue };
            let (x, y) = chart.backend_coord(&(group as f64 + 0.1 + system as f64 * width, value));
            canvas.draw(&Text::new(short(value), (x, y - 12), (FONT, 9)))?;
        }
    }
    canvas.present()?;
    Ok(())
}

/// A rate as short as a bar is wide.
fn short(per_second: f64) -> String {
    match per_second {
        small if small < 1_000.0 => format!("{small:.0}"),
        medium if medium < 10_000.0 => format!("{:.1}k", medium / 1_000.0),
        large => format!("{:.0}k", large / 1_000.0),
    }
}
