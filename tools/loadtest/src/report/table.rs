//! A run's summary as text.

use std::fmt::Write as _;

use crate::drive::{Fault, Pace, percentile_ms};
use crate::sale::Report;

use super::number::{PERCENTILES, count, ms, rate};

/// The summary shown at the end of a run.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let (sale, outcome) = (&report.sale, &report.outcome);
    let total = &outcome.total;
    let pace = match sale.pace {
        Pace::Closed => "closed loop".to_owned(),
        Pace::Open { rate: per_second } => format!("open loop at {}/s", rate(per_second)),
    };
    writeln!(out)?;
    writeln!(out, "  {pace}, {} connections, {:.2} s", sale.connections, outcome.elapsed.as_secs_f64())?;
    writeln!(out)?;
    writeln!(out, "  {:<28}{:>14}{:>14}", "", "number", "per second")?;
    writeln!(out, "  {:<28}{:>14}{:>14}", "claims decided", count(total.finished), rate(report.rate()))?;
    writeln!(out, "  {:<28}{:>14}{:>14}", "  of which won", count(total.won), rate(report.won_rate()))?;
    for ((status, code), answers) in &total.answers {
        let name = format!("  answer {status} {code}");
        writeln!(out, "  {name:<28}{:>14}", count(*answers))?;
    }
    let rare = [
        ("sent again", total.retries),
        ("asked for the outcome", total.follow_ups),
        ("outcome unknown", outcome.ledger.unknown.len() as u64),
        ("due, but never sent", outcome.unsent),
    ];
    let faults = Fault::ALL.iter().zip(total.faults).map(|(fault, number)| (fault.name(), number));
    for (name, number) in rare.into_iter().chain(faults).filter(|(_, number)| *number > 0) {
        writeln!(out, "  {name:<28}{:>14}", count(number))?;
    }

    writeln!(out)?;
    write!(out, "  {:<12}{:>9}", "latency, ms", "mean")?;
    PERCENTILES.iter().try_for_each(|(_, name)| write!(out, "{name:>9}"))?;
    writeln!(out, "{:>9}", "max")?;
    for (name, latency) in [("all", &total.latency_us), ("won", &total.won_latency_us)] {
        if latency.is_empty() {
            continue;
        }
        write!(out, "  {name:<12}{:>9}", ms(latency.mean() / 1000.0))?;
        PERCENTILES.iter().try_for_each(|(at, _)| write!(out, "{:>9}", ms(percentile_ms(latency, *at))))?;
        writeln!(out, "{:>9}", ms(latency.max() as f64 / 1000.0))?;
    }

    if !report.checks.is_empty() {
        writeln!(out)?;
    }
    for check in &report.checks {
        let mark = if check.passed() { "ok    " } else { "FAILED" };
        writeln!(out, "  {mark}  {} ({} checked)", check.promise, count(check.checked))?;
        if !check.passed() {
            writeln!(out, "            {} violations, for example:", count(check.violations))?;
        }
        for example in &check.examples {
            writeln!(out, "            {example}")?;
        }
    }
    Ok(())
}
