//! The result of a run, for people and for programs.

pub(crate) mod table;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checker::Violation;
use table::Table;

/// Violations that are kept whole; of more there is only the number.
const VIOLATIONS_MAX: usize = 50;

/// Last words that are kept of processes that ended by themselves.
const LAST_WORDS_MAX: usize = 20;

/// Everything worth saying about a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    /// Rounds that were finished and checked.
    pub rounds: u32,
    /// How long it took.
    pub seconds: f64,
    /// Requests, by kind and answer.
    pub requests: BTreeMap<String, u64>,
    /// Claims sent over HTTP.
    pub claims: u64,
    /// Coupons handed out.
    pub won: u64,
    /// Messages that were waiting shortly before a stream was purged or deleted. Some may have been applied until
    /// then, and others have come. What a queue lost that was set back is not known. Whether anything was lost
    /// that had been promised is for the check of false acceptances to say: every 200 must have its row.
    pub waiting_before_losses: u64,
    /// How often an API or a worker ended by itself and was started again.
    pub ended_by_themselves: u64,
    /// What they said last; of many only the first.
    pub last_words: Vec<String>,
    /// Commits of former owners that the fence rejected.
    pub fenced: u64,
    /// Journals that had gaps, so that order could be checked only in part.
    pub journals_with_gaps: u64,
    /// Faults, by name.
    pub faults: BTreeMap<String, FaultFigures>,
    /// From the end of a fault to the first claim that went through again, by name of the fault.
    pub recovery: BTreeMap<String, Times>,
    /// Other figures worth holding against a limit, by name.
    pub figures: BTreeMap<String, Times>,
    /// Broken promises, by round; not more than a few dozen are kept.
    pub violations: Vec<RoundViolation>,
    /// How many there were in all.
    pub violations_total: u64,
    /// The command that repeats the run.
    pub command: String,
}

/// How often a fault struck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultFigures {
    /// How often it was carried out.
    pub strikes: u64,
    /// How many of these hit something in flight.
    pub struck_something: u64,
    /// What they hit, altogether: requests, frames, connections, pieces of data.
    pub hits: u64,
}

/// A sample of durations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// In milliseconds, in the order in which they were measured.
    pub millis: Vec<f64>,
}

/// A violation, and where it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundViolation {
    /// The round.
    pub round: u32,
    /// The faults that struck in it.
    pub faults: Vec<String>,
    /// What was found.
    pub violation: Violation,
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, millis: f64) {
        self.millis.push(millis);
    }

    /// The value that this share of the sample does not exceed, from 0 to 1; nothing for an empty sample.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The middle of the sample.
    pub fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The longest.
    pub fn worst(&self) -> Option<f64> {
        self.quantile(1.0)
    }
}

impl Report {
    /// Whether every promise held.
    pub fn passed(&self) -> bool {
        self.violations_total == 0
    }

    /// Counts one strike of a fault.
    pub fn add_strike(&mut self, fault: &str, hits: u64) {
        let figures = self.faults.entry(fault.to_owned()).or_default();
        figures.strikes += 1;
        figures.struck_something += u64::from(hits > 0);
        figures.hits += hits;
    }

    /// Counts a process that ended by itself.
    pub fn add_end(&mut self, last_words: String) {
        self.ended_by_themselves += 1;
        if self.last_words.len() < LAST_WORDS_MAX {
            self.last_words.push(last_words);
        }
    }

    /// Counts what a round's check found.
    pub fn add_violations(&mut self, round: u32, faults: &[String], violations: Vec<Violation>) {
        for violation in violations {
            self.violations_total += 1 + violation.more as u64;
            if self.violations.len() < VIOLATIONS_MAX {
                self.violations.push(RoundViolation { round, faults: faults.to_vec(), violation });
            }
        }
    }

    /// The report as JSON, with all samples.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} rounds in {:.0} s", self.seed, self.rounds, self.seconds)?;
        writeln!(f, "{} claims sent, {} coupons handed out", self.claims, self.won)?;
        writeln!(f, "{} commits of former owners were fenced", self.fenced)?;
        if self.waiting_before_losses > 0 {
            let waiting = self.waiting_before_losses;
            writeln!(f, "{waiting} messages were waiting shortly before a stream was purged or deleted")?;
        }
        if self.journals_with_gaps > 0 {
            writeln!(
                f,
                "{} journals had gaps: order was checked as far as they go",
                self.journals_with_gaps
            )?;
        }
        if self.ended_by_themselves > 0 {
            writeln!(
                f,
                "{} times a process ended by itself and was started again",
                self.ended_by_themselves
            )?;
        }
        for words in &self.last_words {
            writeln!(f, "  {words}")?;
        }
        self.write_requests(f)?;
        self.write_faults(f)?;
        write_times(f, "recovery", &self.recovery)?;
        write_times(f, "figure", &self.figures)?;
        self.write_violations(f)?;
        write!(f, "\nrepeat with: {}", self.command)
    }
}

impl Report {
    fn write_requests(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["request", "count"]);
        for (request, count) in &self.requests {
            table.row([request.clone(), count.to_string()]);
        }
        write!(f, "\n{table}")
    }

    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["fault", "strikes", "hit something", "hits"]);
        for (fault, figures) in &self.faults {
            let FaultFigures { strikes, struck_something, hits } = figures;
            table.row([fault.clone(), strikes.to_string(), struck_something.to_string(), hits.to_string()]);
        }
        write!(f, "\n{table}")
    }

    /// Prints what was found, and nothing else.
    pub fn print_violations(&self) {
        struct Violations<'a>(&'a Report);
        impl fmt::Display for Violations<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_violations(f)
            }
        }
        println!("{}", Violations(self));
    }

    fn write_violations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed() {
            return writeln!(f, "\nno violations");
        }
        writeln!(f, "\n{} VIOLATIONS", self.violations_total)?;
        for RoundViolation { round, faults, violation } in &self.violations {
            writeln!(f, "\nround {round}, {}: {}", violation.check, violation.summary)?;
            writeln!(f, "  faults: {}", faults.join(", "))?;
            for line in &violation.excerpt {
                writeln!(f, "  {line}")?;
            }
            if violation.more > 0 {
                writeln!(f, "  and {} more of the kind", violation.more)?;
            }
        }
        Ok(())
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
    fn quantiles_are_values_of_the_sample() {
        let mut times = Times::default();
        assert_eq!(times.median(), None);
        for millis in [5.0, 1.0, 4.0, 2.0, 3.0] {
            times.add(millis);
        }
        assert_eq!((times.median(), times.worst()), (Some(3.0), Some(5.0)));
        assert_eq!((times.quantile(0.0), times.quantile(0.2)), (Some(1.0), Some(1.0)));
    }

    #[test]
    fn a_report_says_what_was_found_and_how_to_repeat_it() {
        let mut report =
            Report { seed: 42, rounds: 3, command: "chaos --seed 42".into(), ..Report::default() };
        report.add_strike("kill-nats", 0);
        report.add_strike("kill-nats", 7);
        report.recovery.entry("kill-nats".into()).or_default().add(120.0);
        assert!(report.passed() && report.to_string().contains("no violations"));
        let excerpt = vec!["the line".into()];
        let violation = Violation { check: Check::Order, summary: "wrong order".into(), excerpt, more: 2 };
        report.add_violations(2, &["kill-nats".into()], vec![violation]);
        let text = report.to_string();
        for part in
            ["3 VIOLATIONS", "round 2, order: wrong order", "the line", "repeat with: chaos --seed 42"]
        {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let kill = report.faults["kill-nats"];
        assert_eq!((kill.strikes, kill.struck_something, kill.hits), (2, 1, 7));
        assert_eq!(serde_json::from_str::<Report>(&report.to_json().unwrap()).unwrap(), report);
    }
}
