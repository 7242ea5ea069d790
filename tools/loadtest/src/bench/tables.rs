//! The figures as tables, readable as text and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::iter;

use comfy_table::presets::ASCII_MARKDOWN;

use crate::report::{count, ms, rate};

use super::results::{Measurement, Results, Spread};
use super::system::System;
use super::workload::{self, Workload};

/// Workloads whose use of CPU and memory is shown.
const USAGE_OF: [&str; 4] = [workload::HOT, workload::CROWD, workload::FLASH_SALE, workload::ENDURANCE];

/// A table with its columns aligned, in Markdown, and an empty line after it.
pub(super) fn table(
    head: impl IntoIterator<Item = String>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let head = head.into_iter().collect::<Vec<_>>();
    format!("{}\n\n", comfy_table::Table::new().load_style(ASCII_MARKDOWN).set_header(head).add_rows(rows))
}

/// All tables, one after the other.
pub(super) fn tables(results: &Results, workloads: &[Workload], systems: &[System]) -> String {
    let mut out = "The workloads:\n\n".to_owned();
    let about = workloads.iter().map(|workload| [workload.name, workload.about].map(str::to_owned).to_vec());
    out.push_str(&table(["workload", "what it is"].map(str::to_owned), about));
    out.push_str(
        "Decided claims per second, then median and 99th percentile of the latency in milliseconds:\n\n",
    );
    out.push_str(&throughput(results, workloads, systems));
    if let Some(ratios) = ratios(results, workloads, systems) {
        out.push_str(
            "The rate of this system (1 API + 1 worker), divided by that of others in the same repetition: ",
        );
        out.push_str("median (lowest to highest):\n\n");
        out.push_str(&ratios);
    }
    if workloads.iter().any(|workload| USAGE_OF.contains(&workload.name)) {
        out.push_str("CPU microseconds per decided claim, and memory in MiB, by process:\n\n");
        out.push_str(&usage(results, workloads, systems));
    }
    goals(results, &mut out);
    for note in notes(results) {
        let _ = writeln!(out, "- {note}");
    }
    out
}

fn throughput(results: &Results, workloads: &[Workload], systems: &[System]) -> String {
    let rows = workloads.iter().map(|workload| {
        let cells = systems.iter().map(|system| cell(results, workload, *system));
        iter::once(workload.name.to_owned()).chain(cells).collect()
    });
    let titles = systems.iter().map(|system| system.title().to_owned());
    table(iter::once("workload".to_owned()).chain(titles), rows)
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

fn ratios(results: &Results, workloads: &[Workload], systems: &[System]) -> Option<String> {
    let ours = System::QUEUE;
    let others = systems.iter().filter(|&&system| system != ours).collect::<Vec<_>>();
    let rows = workloads.iter().filter(|workload| !workload.open).map(|workload| {
        let cells = others.iter().map(|other| {
            let (of, to) = ((workload.name, ours.name()), (workload.name, other.name()));
            results.ratio(of, to, |m| m.rate).map(spread).unwrap_or_default()
        });
        iter::once(workload.name.to_owned()).chain(cells).collect::<Vec<_>>()
    });
    // Only those with a ratio.
    let rows = rows.filter(|row| row.iter().skip(1).any(|cell| !cell.is_empty())).collect::<Vec<_>>();
    let titles = others.iter().map(|system| format!("by {}", system.title()));
    (!rows.is_empty()).then(|| table(iter::once("workload".to_owned()).chain(titles), rows))
}

fn spread(Spread { median, min, max }: Spread) -> String {
    let digits = if median < 10.0 { 2 } else { 0 };
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

fn usage(results: &Results, workloads: &[Workload], systems: &[System]) -> String {
    const ROLES: [&str; 5] = ["api", "worker", "nats", "postgres", "generator"];
    let shown = workloads.iter().filter(|workload| USAGE_OF.contains(&workload.name));
    let pairs = shown.flat_map(|workload| systems.iter().map(move |system| (workload, system)));
    let rows = pairs.filter_map(|(workload, system)| {
        let cell = results.cell(workload.name, system.name());
        let median = |figure: &dyn Fn(&Measurement) -> Option<f64>| {
            Spread::of(cell.iter().filter_map(|m| figure(m))).map(|spread| spread.median)
        };
        let total = median(&|m| Some(m.cpu_us.values().sum()))?;
        let cells = ROLES.iter().map(|role| {
            let memory = median(&|m| m.memory_mib.get(role).copied()).filter(|mib| *mib > 0.0);
            match (median(&|m| m.cpu_us.get(role).copied()), memory) {
                (Some(cpu), Some(memory)) => format!("{cpu:.1} µs · {memory:.0} MiB"),
                (Some(cpu), None) => format!("{cpu:.1} µs"),
                _ => String::new(),
            }
        });
        let names = [workload.name, system.title()].map(str::to_owned);
        Some(names.into_iter().chain(cells).chain([format!("{total:.1} µs")]).collect())
    });
    let head = ["workload", "system"].into_iter().chain(ROLES).chain(["CPU in all"]);
    table(head.map(str::to_owned), rows)
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
