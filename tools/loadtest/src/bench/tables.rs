//! The figures as tables, readable as text and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::{count, ms, rate};

use super::results::{Measurement, Results, Spread};
use super::system::System;
use super::workload::{self, Workload};

/// Workloads whose use of CPU and memory is shown.
const USAGE_OF: [&str; 4] = [workload::HOT, workload::CROWD, workload::FLASH_SALE, workload::ENDURANCE];

/// A table with its columns aligned.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(head: impl IntoIterator<Item = String>) -> Self {
        Self(vec![head.into_iter().collect()])
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    pub(super) fn write(&self, out: &mut String) {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.0
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths = (0..columns).map(width).collect::<Vec<_>>();
        for (index, row) in self.0.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                let _ = write!(out, "| {cell:<width$} ");
            }
            out.push_str("|\n");
            if index == 0 {
                for width in &widths {
                    let _ = write!(out, "|{}", "-".repeat(width + 2));
                }
                out.push_str("|\n");
            }
        }
        out.push('\n');
    }
}

/// All tables, one after the other.
pub(super) fn tables(results: &Results, workloads: &[Workload], systems: &[System]) -> String {
    let mut out = "The workloads:\n\n".to_owned();
    let mut about = Table::new(["workload", "what it is"].map(str::to_owned));
    for workload in workloads {
        about.row([workload.name, workload.about].map(str::to_owned));
    }
    about.write(&mut out);
    out.push_str(
        "Decided claims per second, then median and 99th percentile of the latency in milliseconds:\n\n",
    );
    throughput(results, workloads, systems).write(&mut out);
    if let Some(table) = ratios(results, workloads, systems) {
        out.push_str("This system's rate (1 API + 1 worker), divided by that of others in the same repetition: median (lowest to \
             highest):\n\n");
        table.write(&mut out);
    }
    if workloads.iter().any(|workload| USAGE_OF.contains(&workload.name)) {
        out.push_str("CPU microseconds per decided claim, and memory in MiB, by process:\n\n");
        usage(results, workloads, systems).write(&mut out);
    }
    goals(results, &mut out);
    for note in notes(results) {
        let _ = writeln!(out, "- {note}");
    }
    out
}

fn throughput(results: &Results, workloads: &[Workload], systems: &[System]) -> Table {
    let titles = systems.iter().map(|system| system.title().to_owned());
    let mut table = Table::new(["workload".to_owned()].into_iter().chain(titles));
    for workload in workloads {
        let cells = systems.iter().map(|system| cell(results, workload, *system));
        table.row([workload.name.to_owned()].into_iter().chain(cells));
    }
    table
}

fn cell(results: &Results, workload: &Workload, system: System) -> String {
    let figure = |of: fn(&Measurement) -> f64| results.median(workload.name, system.name(), of);
    let (Some(per_second), Some(p50), Some(p99)) =
        (figure(|m| m.rate), figure(|m| m.p50_ms), figure(|m| m.p99_ms))
    else {
        return String::new();
    };
    // Latencies of an open loop that fell behind are those of its queue, and grow with the length of the run.
    if workload.open && figure(|m| m.missed as f64).is_some_and(|missed| missed > 0.0) {
        return format!("{} · fell behind", rate(per_second));
    }
    format!("{} · {} · {}", rate(per_second), ms(p50), ms(p99))
}

fn ratios(results: &Results, workloads: &[Workload], systems: &[System]) -> Option<Table> {
    let ours = System::QUEUE;
    let others = systems.iter().filter(|&&system| system != ours).collect::<Vec<_>>();
    if !systems.contains(&ours) || others.is_empty() {
        return None;
    }
    let titles = others.iter().map(|system| format!("by {}", system.title()));
    let mut table = Table::new(["workload".to_owned()].into_iter().chain(titles));
    let head_only = table.0.len();
    for workload in workloads.iter().filter(|workload| !workload.open) {
        let cells = others.iter().map(|other| {
            let ids = ((workload.name, ours.name()), (workload.name, other.name()));
            results.ratio(ids.0, ids.1, |m| m.rate).map(spread).unwrap_or_default()
        });
        let cells = cells.collect::<Vec<_>>();
        if cells.iter().any(|cell| !cell.is_empty()) {
            table.row([workload.name.to_owned()].into_iter().chain(cells));
        }
    }
    (table.0.len() > head_only).then_some(table)
}

fn spread(Spread { median, min, max }: Spread) -> String {
    let digits = if median < 10.0 { 2 } else { 0 };
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

fn usage(results: &Results, workloads: &[Workload], systems: &[System]) -> Table {
    const ROLES: [&str; 5] = ["api", "worker", "nats", "postgres", "generator"];
    let mut table = Table::new(
        ["workload", "system"].into_iter().chain(ROLES).map(str::to_owned).chain(["CPU in all".to_owned()]),
    );
    for workload in workloads.iter().filter(|workload| USAGE_OF.contains(&workload.name)) {
        for system in systems {
            let median = |figure: &dyn Fn(&Measurement) -> Option<f64>| {
                let cell = results.cell(workload.name, system.name());
                Spread::of(cell.into_iter().filter_map(figure)).map(|spread| spread.median)
            };
            if results.cell(workload.name, system.name()).is_empty() {
                continue;
            }
            let cells = ROLES.iter().map(|role| {
                let cpu = median(&|m| m.cpu_us.get(role).copied());
                let memory = median(&|m| m.memory_mib.get(role).copied()).filter(|mib| *mib > 0.0);
                match (cpu, memory) {
                    (Some(cpu), Some(memory)) => format!("{cpu:.1} µs · {memory:.0} MiB"),
                    (Some(cpu), None) => format!("{cpu:.1} µs"),
                    _ => String::new(),
                }
            });
            let total = median(&|m| Some(m.cpu_us.values().sum()));
            let total = total.map(|us| format!("{us:.1} µs")).unwrap_or_default();
            let names = [workload.name, system.title()].map(str::to_owned);
            table.row(names.into_iter().chain(cells).chain([total]));
        }
    }
    table
}

/// What is compared across workloads.
fn goals(results: &Results, out: &mut String) {
    let ours = System::QUEUE.name();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "- {name}: {value}");
        }
    };
    let to_hot = |name| results.ratio((name, ours), (workload::HOT, ours), |m| m.rate).map(spread);
    for name in [workload::SEVERAL, workload::MANY] {
        line(&format!("rate of {name}, divided by that of {}", workload::HOT), to_hot(name));
    }
    let (single, endurance) = (workload::SINGLE, workload::ENDURANCE);
    let latency = results.ratio((single, ours), (single, System::RowLock.name()), |m| m.p50_ms);
    line(&format!("median latency of {single}, divided by the row lock's"), latency.map(spread));
    line(
        &format!("rate of {endurance}'s last quarter, divided by the first quarter's"),
        results.spread(endurance, ours, last_quarter).map(spread),
    );
    line(
        &format!("seconds to view the coupon with its claims after {endurance}"),
        results.spread(endurance, ours, |m| m.view_s).map(spread),
    );
}

/// The rate of a run's last quarter as a share of the first quarter's.
fn last_quarter(measurement: &Measurement) -> f64 {
    let rates = measurement.timeline.iter().map(|sample| sample.rate).collect::<Vec<_>>();
    let quarter = (rates.len() / 4).max(1);
    let sum = |rates: &[f64]| rates.iter().sum::<f64>();
    sum(&rates[rates.len().saturating_sub(quarter)..]) / sum(&rates[..quarter.min(rates.len())])
}

/// What a reader has to know before believing the figures.
fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    let unchecked = System::Ceiling.name();
    let checked = results.0.iter().filter(|m| m.system != unchecked);
    notes.push(format!(
        "After each of {} runs every answer was compared with what the API showed; {} of them broke a promise.",
        checked.clone().count(),
        checked.filter(|m| !m.broken.is_empty()).count()
    ));
    for run in results.0.iter().filter(|m| !m.broken.is_empty()) {
        notes.push(format!("BROKEN: {} on {}: {}", run.workload, run.system, run.broken.join("; ")));
    }
    for ((workload, system), (runs, most)) in where_any(results, |m| m.missed) {
        notes.push(format!(
            "{workload} on {system}: in {runs} runs claims could not be sent in time, or had no outcome; up to {}.",
            count(most)
        ));
    }
    for ((workload, system), (runs, most)) in where_any(results, |m| m.not_asked) {
        notes.push(format!(
            "{workload} on {system} ran out of time in {runs} runs; up to {} users had not asked by then.",
            count(most)
        ));
    }
    if let Some(foreign) = Spread::of(results.0.iter().map(|m| m.foreign_cpu)) {
        notes.push(format!(
            "CPU time taken by anything else during the runs: median {:.0}%, at most {:.0}%.",
            foreign.median * 100.0,
            foreign.max * 100.0
        ));
    }
    notes
}

/// The workloads and systems with runs in which there was any of something: how many runs, and how much at most.
fn where_any(
    results: &Results,
    of: fn(&Measurement) -> u64,
) -> BTreeMap<(&'static str, &'static str), (usize, u64)> {
    let mut found = BTreeMap::new();
    for run in results.0.iter().filter(|run| of(run) > 0) {
        let (runs, most) = found.entry((run.workload, run.system)).or_insert((0, 0));
        *runs += 1;
        *most = of(run).max(*most);
    }
    found
}
