//! What was measured, and what the repetitions say together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::drive::{Plan, percentile_ms};
use crate::sale::Report;
use crate::timeline::Sample;

use super::usage::Seconds;

/// One run of one workload against one system.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    pub(super) workload: &'static str,
    pub(super) system: &'static str,
    pub(super) repeat: u32,
    /// Decided claims per second.
    pub(super) rate: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// Requests of an open loop that could not even be sent in time, and those whose outcome is unknown.
    pub(super) missed: u64,
    /// Users of a workload with a number of them who had not asked when the time was over.
    pub(super) not_asked: u64,
    pub(super) answers: Vec<(u16, String, u64)>,
    /// Promises that did not hold.
    pub(super) broken: Vec<&'static str>,
    /// CPU microseconds per decided claim, by process.
    pub(super) cpu_us: BTreeMap<&'static str, f64>,
    /// Memory in MiB, by process.
    pub(super) memory_mib: BTreeMap<&'static str, f64>,
    /// Share of the machine's CPU time that was used by programs which have nothing to do with the measurement.
    pub(super) foreign_cpu: f64,
    /// How long the API took to show the coupons afterwards.
    pub(super) view_s: f64,
    pub(super) timeline: Vec<Sample>,
    #[serde(skip)]
    pub(super) latency_us: Histogram<u64>,
}

/// What was used of the machine during a run.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) cpu: Seconds,
    pub(super) memory_mib: BTreeMap<&'static str, f64>,
    pub(super) foreign_cpu: f64,
}

impl Measurement {
    pub(super) fn new(
        workload: &'static str,
        system: &'static str,
        repeat: u32,
        report: Report,
        used: Used,
    ) -> Self {
        let total = &report.outcome.total;
        let decided = total.finished.max(1) as f64;
        Self {
            workload,
            system,
            repeat,
            rate: report.rate(),
            p50_ms: percentile_ms(&total.latency_us, 50.0),
            p99_ms: percentile_ms(&total.latency_us, 99.0),
            max_ms: total.latency_us.max() as f64 / 1000.0,
            missed: report.outcome.unsent + report.outcome.ledger.unknown.len() as u64,
            not_asked: report
                .sale
                .mix
                .users
                .map_or(0, |_| Plan::new(&report.sale.mix).requests().saturating_sub(report.outcome.sent)),
            answers: total.answers.iter().map(|((status, code), n)| (*status, code.clone(), *n)).collect(),
            broken: report.checks.iter().filter(|c| !c.passed()).map(|c| c.promise).collect(),
            cpu_us: used.cpu.into_iter().map(|(role, seconds)| (role, seconds * 1e6 / decided)).collect(),
            memory_mib: used.memory_mib,
            foreign_cpu: used.foreign_cpu,
            view_s: report.viewed_in.as_secs_f64(),
            timeline: report.timeline,
            latency_us: report.outcome.total.latency_us,
        }
    }
}

/// Median and extremes of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` without numbers.
    pub(super) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut numbers = numbers.into_iter().collect::<Vec<_>>();
        numbers.sort_by(f64::total_cmp);
        let (&min, &max) = (numbers.first()?, numbers.last()?);
        let middle = numbers.len() / 2;
        let median = if numbers.len() % 2 == 1 {
            numbers[middle]
        } else {
            (numbers[middle - 1] + numbers[middle]) / 2.0
        };
        Some(Self { median, min, max })
    }
}

/// All measurements.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Results(pub(super) Vec<Measurement>);

impl Results {
    /// The repetitions of one cell of the table.
    pub(super) fn cell<'a>(&'a self, workload: &str, system: &str) -> Vec<&'a Measurement> {
        self.0.iter().filter(|m| m.workload == workload && m.system == system).collect()
    }

    /// The spread of a figure of one cell.
    pub(super) fn spread(
        &self,
        workload: &str,
        system: &str,
        figure: impl Fn(&Measurement) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.cell(workload, system).into_iter().map(figure))
    }

    /// The median of a figure of one cell.
    pub(super) fn median(
        &self,
        workload: &str,
        system: &str,
        figure: impl Fn(&Measurement) -> f64,
    ) -> Option<f64> {
        self.spread(workload, system, figure).map(|spread| spread.median)
    }

    /// The spread of the ratios of a figure of two cells. Only runs of the same repetition are compared: they were
    /// made one soon after the other, on a machine in much the same mood.
    pub(super) fn ratio(
        &self,
        of: (&str, &str),
        to: (&str, &str),
        figure: impl Fn(&Measurement) -> f64,
    ) -> Option<Spread> {
        let others = self.cell(to.0, to.1);
        let pairs = self.cell(of.0, of.1).into_iter().filter_map(|one| {
            let other = others.iter().find(|other| other.repeat == one.repeat)?;
            let ratio = figure(one) / figure(other);
            ratio.is_finite().then_some(ratio)
        });
        Spread::of(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let spread = |numbers: &[f64]| Spread::of(numbers.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]).map(|spread| spread.median), Some(2.5));
    }
}
