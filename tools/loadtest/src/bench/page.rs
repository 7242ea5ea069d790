//! The measured part of `docs/PERFORMANCE.md`, and its plots.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use crate::report::{self, Bars};

use super::machine::Machine;
use super::results::Results;
use super::system::System;
use super::workload::Workload;

/// What is between these lines is replaced; the rest of the page is written by hand.
const BEGIN: &str = "<!-- figures: begin (written by `cargo run --release -p loadtest -- bench`) -->";
const END: &str = "<!-- figures: end -->";

/// The page's beginning when there is none yet.
const TITLE: &str = "# Performance\n\n";

/// Writes the figures into `PERFORMANCE.md` in `folder`, and the plots beside it.
pub(super) fn write(
    folder: &Path,
    machine: &Machine,
    results: &Results,
    tables: &str,
    workloads: &[Workload],
    systems: &[System],
    how: &str,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let mut figures = about(machine, how);
    for (file, title) in plots(folder, results, workloads, systems)? {
        figures.push_str(&format!("![{title}]({file})\n\n"));
    }
    figures.push_str(tables);
    let file = folder.join("PERFORMANCE.md");
    let page = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => TITLE.to_owned(),
        page => page.with_context(|| format!("reading {}", file.display()))?,
    };
    fs::write(&file, replaced(&page, &figures)).with_context(|| format!("writing {}", file.display()))
}

/// The page with its figures replaced, or with figures at its end when it had none.
fn replaced(page: &str, figures: &str) -> String {
    let figures = figures.trim_end();
    let (before, after) = match (page.find(BEGIN), page.find(END)) {
        (Some(begin), Some(end)) if begin < end => (&page[..begin], &page[end + END.len()..]),
        _ => (page, "\n"),
    };
    format!("{before}{BEGIN}\n\n{figures}\n\n{END}{after}")
}

fn about(machine: &Machine, how: &str) -> String {
    let durability = machine.durability.iter().map(|(name, value)| format!("{name}={value}"));
    let durability = durability.collect::<Vec<_>>().join(", ");
    format!(
        "Measured on {} at commit {}, on {} ({} cores, {:.0} GiB, Linux {}), load generator and all servers on this \
         one machine. PostgreSQL {} ({durability}), NATS {} (sync_interval: always), {}. {how}\n\n",
        machine.date,
        machine.commit,
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.postgres,
        machine.nats,
        machine.rustc,
    )
}

/// Draws what there are figures for. Returns the files' names and titles.
fn plots(
    folder: &Path,
    results: &Results,
    workloads: &[Workload],
    systems: &[System],
) -> anyhow::Result<Vec<(&'static str, &'static str)>> {
    let mut drawn = Vec::new();
    let rates = |workload: &Workload| {
        let rate = |system: &System| {
            results.spread(workload.id, system.name(), |m| m.rate).map(|spread| spread.median)
        };
        (workload.id.to_owned(), systems.iter().map(rate).collect())
    };
    let groups = workloads.iter().filter(|workload| !workload.open && workload.suits(System::RowLock));
    let bars = Bars {
        title: "Decided claims per second".to_owned(),
        systems: systems.iter().map(|system| system.title().to_owned()).collect(),
        groups: groups.map(rates).collect(),
    };
    if !bars.groups.is_empty() {
        report::bars(&folder.join("throughput.svg"), &bars)?;
        drawn.push(("throughput.svg", "Decided claims per second by workload and system"));
    }
    for (workload, file, title) in [
        ("a256", "latency.svg", "Latency of a hot coupon at 256 connections by percentile"),
        ("f", "latency-open.svg", "Latency at 5,000 claims per second by percentile"),
    ] {
        // The last repetition stands for all. One that fell behind has no latency of its own.
        let last = systems.iter().filter_map(|system| {
            let last = results.cell(workload, system.name()).pop()?;
            (last.missed == 0 || workload != "f").then_some((system.title(), &last.latency_us))
        });
        let curves = last.collect::<Vec<_>>();
        if !curves.is_empty() {
            report::latency(&folder.join(file), &curves)?;
            drawn.push((file, title));
        }
    }
    if let Some(run) = results.0.iter().rev().find(|m| m.workload == "g") {
        report::throughput(&folder.join("endurance.svg"), &run.timeline)?;
        drawn.push(("endurance.svg", "Claims per second during 2,000,000 claims on one coupon"));
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figures_of_a_page_are_replaced() {
        let first = replaced("# Performance\n\nBy hand.\n\n", "old\n");
        let page = format!("{first}\nAlso by hand.\n");
        let second = replaced(&page, "new\n\n");
        assert!(second.starts_with("# Performance\n\nBy hand.\n\n<!--"), "{second}");
        assert!(second.ends_with("end -->\n\nAlso by hand.\n"), "{second}");
        assert!(second.contains("\n\nnew\n\n") && !second.contains("old"), "{second}");
        assert_eq!(replaced(&second, "new"), second);
    }
}
