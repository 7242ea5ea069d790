//! What was measured as a page: `benchmark.md` and its plots.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::report::{self, Bars};

use super::results::Results;
use super::system::System;
use super::tables::table;
use super::workload::{self, Workload};

const TITLE: &str = "# Benchmark\n\nWritten by `cargo run --release -p loadtest -- bench`.\n\n";

/// Writes `benchmark.md` into `folder`, and the plots beside it. `about` is where the figures come from.
pub(super) fn write(
    folder: &Path,
    about: &[(&str, String)],
    results: &Results,
    tables: &str,
    workloads: &[Workload],
    systems: &[System],
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut page = TITLE.to_owned();
    let rows = about.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]);
    page.push_str(&table(["", ""].map(str::to_owned), rows));
    for (file, title) in plots(folder, results, workloads, systems)? {
        page.push_str(&format!("![{title}]({file})\n\n"));
    }
    page.push_str(tables);
    let file = folder.join("benchmark.md");
    fs::write(&file, page).with_context(|| format!("writing {}", file.display()))
}

/// Draws what there are figures for. Returns the files' names and titles.
fn plots(
    folder: &Path,
    results: &Results,
    workloads: &[Workload],
    systems: &[System],
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut drawn = Vec::new();
    let rates = |workload: &Workload| {
        let rate = |system: &System| results.median(workload.name, system.name(), |m| m.rate);
        (workload.title(), systems.iter().map(rate).collect())
    };
    let groups = workloads.iter().filter(|workload| !workload.open && workload.suits(System::RowLock));
    let bars = Bars {
        title: "Decided claims per second, by workload and system (logarithmic)".to_owned(),
        systems: systems.iter().map(|system| system.title().to_owned()).collect(),
        groups: groups.map(rates).collect(),
    };
    if !bars.groups.is_empty() {
        report::bars(&folder.join("throughput.svg"), &bars)?;
        drawn.push(("throughput.svg", bars.title));
    }
    for (name, file) in [(workload::HOT, "latency.svg"), (workload::OPEN, "latency-open.svg")] {
        // The last repetition stands for all. One that fell behind has no latency of its own.
        let last = systems.iter().filter_map(|system| {
            let last = results.cell(name, system.name()).pop()?;
            (last.missed == 0 || name != workload::OPEN).then_some((system.title(), &last.latency_us))
        });
        let curves = last.collect::<Vec<_>>();
        let workload = workloads.iter().find(|workload| workload.name == name);
        if let Some(workload) = workload.filter(|_| !curves.is_empty()) {
            let title = format!("Latency by percentile, {}", workload.title());
            report::latency(&folder.join(file), &title, &curves)?;
            drawn.push((file, title));
        }
    }
    let endurance = workloads.iter().find(|workload| workload.name == workload::ENDURANCE);
    let last = results.0.iter().rev().find(|m| m.workload == workload::ENDURANCE);
    if let Some((workload, run)) = endurance.zip(last) {
        let title = format!("Decided claims per second, {}", workload.title());
        report::throughput(&folder.join("endurance.svg"), &title, &run.timeline)?;
        drawn.push(("endurance.svg", title));
    }
    Ok(drawn)
}
