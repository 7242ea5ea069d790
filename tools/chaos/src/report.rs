//! The result of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::checker::Violation;
use crate::table::Table;
use crate::times::Times;

/// Violations that are kept completely; further ones are only counted.
const VIOLATIONS_MAX: usize = 50;

/// Unexpected ends of processes that are kept; further ones are only counted.
const UNEXPECTED_ENDS_MAX: usize = 20;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The seed that repeats it.
    pub(crate) seed: u64,
    /// Rounds that were finished and checked.
    pub(crate) rounds: u32,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Requests, by kind and answer.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Claims sent over HTTP.
    pub(crate) claims: u64,
    /// Coupons handed out.
    pub(crate) won: u64,
    /// Messages that were waiting shortly before a stream was purged or deleted, an estimate. What a restored
    /// queue lost is not known. Whether anything was lost that had been promised is for the check of false
    /// acceptances to say: every 200 must have its row.
    pub(crate) waiting_before_losses: u64,
    /// Deliveries to workers that were discarded.
    pub(crate) discarded: u64,
    /// How often an API or a worker ended unexpectedly and was started again.
    pub(crate) unexpected_end_count: u64,
    /// Status and last log line of the first of these.
    pub(crate) unexpected_ends: Vec<String>,
    /// Commits of former owners that the fence rejected.
    pub(crate) fenced: u64,
    /// Journals with gaps, so that order could be checked only in part.
    pub(crate) journals_with_gaps: u64,
    /// Faults, by name.
    pub(crate) faults: BTreeMap<String, FaultCounts>,
    /// From the end of a fault to the first claim that won again, by name of the fault.
    pub(crate) recovery: BTreeMap<String, Times>,
    /// Other durations, by name.
    pub(crate) durations: BTreeMap<String, Times>,
    /// Broken promises, by round.
    pub(crate) violations: Vec<RoundViolation>,
    pub(crate) violations_total: u64,
    /// The command that repeats the run.
    pub(crate) command: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FaultCounts {
    /// How often it was injected.
    pub(crate) injected: u64,
    /// How many of these affected something under way.
    pub(crate) effective: u64,
    /// What they affected in all: requests, frames, connections, pieces of data.
    pub(crate) hits: u64,
}

/// A violation, and where it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundViolation {
    pub(crate) round: u32,
    /// The faults of the round.
    pub(crate) faults: Vec<String>,
    pub(crate) violation: Violation,
}

impl Report {
    /// Whether every promise held.
    pub(crate) fn passed(&self) -> bool {
        self.violations_total == 0
    }

    pub(crate) fn add_fault(&mut self, fault: String, hits: u64) {
        let counts = self.faults.entry(fault).or_default();
        counts.injected += 1;
        counts.effective += u64::from(hits > 0);
        counts.hits += hits;
    }

    pub(crate) fn add_unexpected_end(&mut self, end: String) {
        self.unexpected_end_count += 1;
        if self.unexpected_ends.len() < UNEXPECTED_ENDS_MAX {
            self.unexpected_ends.push(end);
        }
    }

    pub(crate) fn add_violations(&mut self, round: u32, faults: &[String], violations: Vec<Violation>) {
        for violation in violations {
            self.violations_total += 1 + violation.more as u64;
            if self.violations.len() < VIOLATIONS_MAX {
                self.violations.push(RoundViolation { round, faults: faults.to_vec(), violation });
            }
        }
    }

    /// What was found, as text.
    pub(crate) fn violations_text(&self) -> String {
        if self.passed() {
            return "no violations\n".to_owned();
        }
        let mut text = format!("{} VIOLATIONS\n", self.violations_total);
        for RoundViolation { round, faults, violation } in &self.violations {
            let Violation { check, summary, excerpt, more } = violation;
            let faults = faults.join(", ");
            // Writing to a string cannot fail.
            let _ = write!(text, "\nround {round}, {check}: {summary}\n  faults: {faults}\n");
            for line in excerpt {
                let _ = writeln!(text, "  {line}");
            }
            if *more > 0 {
                let _ = writeln!(text, "  and {more} more of the same check");
            }
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} rounds in {:.0} s", self.seed, self.rounds, self.seconds)?;
        writeln!(f, "{} claims sent, {} coupons handed out", self.claims, self.won)?;
        writeln!(f, "{} commits of former owners were fenced", self.fenced)?;
        for (count, what) in [
            (
                self.waiting_before_losses,
                "messages were waiting shortly before a stream was purged or deleted",
            ),
            (self.discarded, "messages were not delivered to their worker at first"),
            (self.journals_with_gaps, "journals had gaps: order was checked only in part"),
            (self.unexpected_end_count, "times a process ended unexpectedly and was started again"),
        ] {
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        for end in &self.unexpected_ends {
            writeln!(f, "  {end}")?;
        }
        let mut requests = Table::new(&["request", "count"]);
        for (request, count) in &self.requests {
            requests.row([request.clone(), count.to_string()]);
        }
        let mut faults = Table::new(&["fault", "injected", "effective", "hits"]);
        for (fault, FaultCounts { injected, effective, hits }) in &self.faults {
            faults.row([fault.clone(), injected.to_string(), effective.to_string(), hits.to_string()]);
        }
        write!(f, "\n{requests}\n{faults}")?;
        write_times(f, "recovery", &self.recovery)?;
        write_times(f, "duration", &self.durations)?;
        write!(f, "\n{}\nrepeat with: {}", self.violations_text(), self.command)
    }
}

fn write_times(f: &mut fmt::Formatter<'_>, name: &str, times: &BTreeMap<String, Times>) -> fmt::Result {
    if times.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[name, "count", "median ms", "p99 ms", "worst ms"]);
    let text = |millis: Option<f64>| millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.0}"));
    for (name, times) in times {
        let count = times.millis.len().to_string();
        let (p99, worst) = (times.quantile(0.99), times.worst());
        table.row([name.clone(), count, text(times.median()), text(p99), text(worst)]);
    }
    write!(f, "\n{table}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Check;

    #[test]
    fn a_report_says_what_was_found_and_how_to_repeat_it() {
        let mut report =
            Report { seed: 42, rounds: 3, command: "chaos --seed 42".into(), ..Report::default() };
        report.add_fault("kill-nats".into(), 0);
        report.add_fault("kill-nats".into(), 7);
        report.recovery.entry("kill-nats".into()).or_default().add_us(120_000);
        report.discarded = 5;
        assert!(report.passed() && report.to_string().contains("no violations"));
        let excerpt = vec!["the line".into()];
        let violation = Violation { check: Check::Order, summary: "wrong order".into(), excerpt, more: 2 };
        report.add_violations(2, &["kill-nats".into()], vec![violation]);
        let text = report.to_string();
        for part in [
            "5 messages were not delivered",
            "3 VIOLATIONS",
            "round 2, order: wrong order",
            "the line",
            "repeat with: chaos --seed 42",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let kill = report.faults["kill-nats"];
        assert_eq!((kill.injected, kill.effective, kill.hits), (2, 1, 7));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
