//! The metrics of all drills, and whether they are within their limits.

use std::fmt;

use super::drill::{Drill, REPETITION};
use super::metric::{Metric, Metrics};
use crate::table::Table;

/// What is printed in the end.
#[derive(Debug)]
pub(crate) struct Summary {
    table: Table,
    missed: usize,
}

impl Summary {
    /// Compares the metrics of so many repetitions with their limits. One that a repetition did not measure misses
    /// its limit, too: an API that stays ready while a server is paused has no time after which it was unready.
    pub(crate) fn new(metrics: &Metrics, repeats: u32) -> Self {
        let head = ["drill", "metric", "count", "median", "worst", "limit", ""];
        let mut summary = Self { table: Table::new(&head), missed: 0 };
        for (drill, metric) in all() {
            let limit = metric.limit(drill);
            let times = metrics.get(&(drill, metric)).cloned().unwrap_or_default();
            let (count, worst) = (times.millis.len(), times.worst());
            let flag = match limit {
                None if count == 0 => continue,
                Some(_) if count == 0 => "NOT MEASURED",
                Some(_) if count < expected(drill, repeats) => "NOT ALWAYS MEASURED",
                Some(limit) if worst.is_none_or(|worst| worst > limit) => "MISSED",
                _ => "",
            };
            summary.missed += usize::from(!flag.is_empty());
            let count = count.to_string();
            let (median, worst, limit) = (number(times.median()), number(worst), number(limit));
            let cells = [drill.name(), metric.name(), &count, &median, &worst, &limit, flag];
            summary.table.row(cells.map(str::to_owned));
        }
        summary
    }

    /// Whether every metric was within its limit.
    pub(crate) fn passed(&self) -> bool {
        self.missed == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nmilliseconds, unless it says otherwise; ", self.table)?;
        match self.missed {
            0 => writeln!(f, "all limits were kept"),
            missed => writeln!(f, "{missed} LIMITS WERE MISSED"),
        }
    }
}

/// Each drill with each metric.
fn all() -> impl Iterator<Item = (Drill, Metric)> {
    let mut drills = REPETITION.to_vec();
    drills.sort();
    drills.dedup();
    drills.into_iter().flat_map(|drill| Metric::ALL.map(|metric| (drill, metric)))
}

/// How many values so many repetitions give of each metric of a drill.
fn expected(drill: Drill, repeats: u32) -> usize {
    REPETITION.iter().filter(|of| **of == drill).count() * repeats as usize
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| {
        if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_only_if_every_repetition_measured_it() {
        let repeats = 3;
        let limited = || all().filter_map(|(drill, metric)| Some(((drill, metric), metric.limit(drill)?)));
        assert_eq!(limited().count(), 23);
        let mut metrics = Metrics::new();
        for ((drill, metric), limit) in limited() {
            let times = metrics.entry((drill, metric)).or_default();
            times.millis = vec![limit; expected(drill, repeats)];
        }
        assert!(Summary::new(&metrics, repeats).passed());
        for (of, limit) in limited() {
            let mut slow = metrics.clone();
            slow.entry(of).or_default().millis[0] = limit + 1.0;
            let mut missing = metrics.clone();
            missing.entry(of).or_default().millis.pop();
            let mut never = metrics.clone();
            never.remove(&of);
            for (metrics, flag) in
                [(slow, "MISSED"), (missing, "NOT ALWAYS MEASURED"), (never, "NOT MEASURED")]
            {
                let summary = Summary::new(&metrics, repeats);
                assert!(!summary.passed() && summary.to_string().contains(flag), "{of:?}:\n{summary}");
            }
        }
    }
}
