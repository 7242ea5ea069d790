//! Plots as SVG.

use std::path::Path;

use anyhow::anyhow;
use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::drive::percentile_ms;
use crate::timeline::Sample;

use super::number::{ms, rate};

const SIZE: (u32, u32) = (900, 420);
/// Room beside the curves for their names.
const LEGEND_WIDTH: u32 = 220;
const FONT: &str = "sans-serif";

/// Of a bar, and with the space to the next one.
const BAR_HEIGHT: i32 = 13;
const BAR_STEP: i32 = 16;
/// Of a group's headline, and between the groups.
const HEADLINE_HEIGHT: i32 = 22;
const GROUP_GAP: i32 = 12;
/// Where the title is, and its room above the first group or the curves.
const TITLE_AT: (i32, i32) = (14, 20);
const TITLE_HEIGHT: i32 = 48;
/// Where bars begin, and where the longest one ends.
const BARS_LEFT: i32 = 230;
const BARS_RIGHT: i32 = 820;

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
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Rates over the time of a run: of all answers, and of the wins where they differ.
///
/// # Errors
/// When the file cannot be written.
pub fn throughput(file: &Path, title: &str, samples: &[Sample]) -> anyhow::Result<()> {
    let end = samples.last().map_or(1.0, |sample| sample.at_s);
    let top = samples.iter().map(|sample| sample.rate).fold(1.0, f64::max) * 1.1;
    let all: Vec<_> = samples.iter().map(|sample| (sample.at_s, sample.rate)).collect();
    let won = samples.iter().map(|sample| (sample.at_s, sample.won_rate)).collect();
    let mut curves = vec![("decided claims", all), ("won claims", won)];
    // One line would hide the other.
    curves.dedup_by(|won, all| won.1 == all.1);
    let x = (0.0..end, |at: &f64| format!("{at:.1} s"));
    let y = (0.0..top, |per_second: &f64| format!("{per_second:.0}"));
    draw(file, SIZE, |canvas| lines(canvas, title, x, y, &curves))
}

/// Latency by percentile: each further nine has the same room, and so has each factor of ten in latency.
///
/// # Errors
/// When the file cannot be written.
pub fn latency(file: &Path, title: &str, latencies_us: &[(&str, &Histogram<u64>)]) -> anyhow::Result<()> {
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
    let bottom = decade_below(values().fold(top, f64::min).max(0.01));
    let percentile = |nines: &f64| match nines {
        0.0 => "fastest".to_owned(),
        nines => format!("{}%", 100.0 - 10f64.powf(2.0 - nines.round())),
    };
    let y = ((bottom..top).log_scale(), |latency: &f64| format!("{} ms", ms(*latency)));
    draw(file, SIZE, |canvas| lines(canvas, title, (0.0..4.0, percentile), y, &curves))
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

/// Draws bars over a logarithmic axis, as the systems differ by orders of magnitude. Each has its system's name in
/// front and its value behind it.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(file: &Path, bars: &Bars) -> anyhow::Result<()> {
    let rows = bars.groups.iter().map(|(_, values)| values.iter().flatten().count());
    let groups = HEADLINE_HEIGHT + GROUP_GAP;
    let height =
        TITLE_HEIGHT + groups * i32::try_from(rows.len())? + BAR_STEP * i32::try_from(rows.sum::<usize>())?;
    draw(file, (SIZE.0, u32::try_from(height)?), |canvas| draw_bars(canvas, bars))
}

fn draw(file: &Path, size: (u32, u32), picture: impl FnOnce(&Canvas<'_>) -> Drawn) -> anyhow::Result<()> {
    let canvas = SVGBackend::new(file, size).into_drawing_area();
    let drawn = canvas.fill(&WHITE).map_err(Into::into).and_then(|()| picture(&canvas));
    drawn.and_then(|()| Ok(canvas.present()?)).map_err(|error| anyhow!("{error}"))
}

/// Draws `curves`. An axis is its range, and how to write its values.
fn lines<X, Y>(
    canvas: &Canvas<'_>,
    title: &str,
    x: (X, impl Fn(&f64) -> String),
    y: (Y, impl Fn(&f64) -> String),
    curves: &[(&str, Vec<(f64, f64)>)],
) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    canvas.draw(&Text::new(title, TITLE_AT, (FONT, 16).into_font()))?;
    let below = canvas.margin(TITLE_HEIGHT, 0, 0, 0);
    let (left, right) = below.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let mut chart = ChartBuilder::on(&left)
        .margin(14)
        .margin_right(30)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(x.0, y.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(5)
        .x_label_formatter(&x.1)
        .y_label_formatter(&y.1)
        .label_style((FONT, 13))
        .draw()?;
    for (index, ((name, points), colour)) in (0..).zip(curves.iter().zip(COLOURS)) {
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        let at = 24 + 22 * index;
        right.draw(&PathElement::new([(0, at), (16, at)], colour.stroke_width(2)))?;
        right.draw(&Text::new(*name, (22, at), label(HPos::Left)))?;
    }
    Ok(())
}

fn draw_bars(canvas: &Canvas<'_>, bars: &Bars) -> Drawn {
    let values = || bars.groups.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let top = values().fold(10.0, f64::max);
    let bottom = decade_below(values().fold(top, f64::min).max(1.0));
    let span = f64::from(BARS_RIGHT - BARS_LEFT);
    #[expect(clippy::cast_possible_truncation, reason = "a place within the picture")]
    let place = |value: f64| BARS_LEFT + (span * (value / bottom).log10() / (top / bottom).log10()) as i32;
    canvas.draw(&Text::new(bars.title.as_str(), TITLE_AT, (FONT, 16).into_font()))?;
    let mut y = TITLE_HEIGHT;
    for (name, values) in &bars.groups {
        canvas.draw(&Text::new(name.as_str(), (14, y), (FONT, 13).into_font().style(FontStyle::Bold)))?;
        y += HEADLINE_HEIGHT;
        for ((system, value), colour) in bars.systems.iter().zip(values).zip(COLOURS.into_iter().cycle()) {
            let Some(value) = *value else { continue };
            let (end, middle) = (place(value.max(bottom)), y + BAR_HEIGHT / 2);
            canvas.draw(&Rectangle::new([(BARS_LEFT, y), (end, y + BAR_HEIGHT)], colour.filled()))?;
            canvas.draw(&Text::new(system.as_str(), (BARS_LEFT - 8, middle), label(HPos::Right)))?;
            canvas.draw(&Text::new(rate(value), (end + 6, middle), label(HPos::Left)))?;
            y += BAR_STEP;
        }
        y += GROUP_GAP;
    }
    Ok(())
}

/// Small text whose left or right end, at half its height, is at the point given.
fn label(side: HPos) -> TextStyle<'static> {
    (FONT, 12).into_font().color(&BLACK).pos(Pos::new(side, VPos::Center))
}

/// The next power of ten that is not above `value`.
fn decade_below(value: f64) -> f64 {
    10f64.powf(value.log10().floor())
}
