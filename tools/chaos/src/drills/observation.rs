//! From what clients saw during a drill to its metrics.

use std::collections::BTreeMap;

use super::drill::Drill;
use super::load::{Readiness, Sample};
use super::metric::{Metric, Metrics};
use crate::times::Times;
use crate::wins::{self, Win};

/// What was seen of one drill.
#[derive(Debug)]
pub(super) struct Observation {
    pub(super) drill: Drill,
    pub(super) samples: Vec<Sample>,
    pub(super) readiness: Vec<Readiness>,
    /// For each partition, whether its owner is another one now.
    pub(super) moved: Vec<bool>,
    pub(super) fault_us: u64,
    /// When a server that was away began to come back.
    pub(super) begin_return_us: u64,
    pub(super) back_us: u64,
    pub(super) grown_kib: Option<u64>,
}

impl Observation {
    /// Adds what this drill measures.
    pub(super) fn add_to(&self, metrics: &mut Metrics) {
        let mut add = |metric: Metric, value: Option<f64>| {
            let times = value.map(|_| metrics.entry((self.drill, metric)).or_default());
            times.into_iter().for_each(|times| times.millis.extend(value));
        };
        let millis = |us: Option<u64>| us.map(crate::times::millis);
        let before = wins::longest_gap_us(self.wins(), 0..self.fault_us);
        add(Metric::NormalGap, millis(before));
        if self.drill.server().is_some() {
            let answers = self.away().map(|sample| crate::times::millis(sample.end_us - sample.start_us));
            let answers = Times { millis: answers.collect() };
            add(Metric::Recovery, millis(wins::recovery_us(self.wins(), self.back_us)));
            add(Metric::AwayP99, answers.quantile(0.99));
            add(Metric::AwayMedian, answers.median());
            add(Metric::AwayOdd, Some(self.odd_answers() as f64));
            add(Metric::Unready, millis(self.all_said_us(false, self.fault_us)));
            add(Metric::Ready, millis(self.all_said_us(true, self.back_us)));
            add(Metric::GrownKib, self.grown_kib.map(|kib| kib as f64));
        } else {
            for (metric, moved) in [(Metric::MovedGap, true), (Metric::OthersGap, false)] {
                let has_moved = |win: &Win| self.moved.get(win.partition as usize) == Some(&true);
                let wins = self.wins().filter(|win| has_moved(win) == moved);
                add(metric, millis(wins::longest_gap_us(wins, self.fault_us..u64::MAX)));
            }
        }
    }

    fn wins(&self) -> impl Iterator<Item = Win> {
        let won = self.samples.iter().filter(|sample| sample.won());
        won.map(|&Sample { partition, start_us, end_us, .. }| Win { partition, start_us, end_us })
    }

    /// Claims that began while the server was away.
    fn away(&self) -> impl Iterator<Item = &Sample> {
        let away = self.fault_us..self.begin_return_us;
        self.samples.iter().filter(move |sample| away.contains(&sample.start_us))
    }

    /// Such a claim may also be lucky (200, while the server is just ending) or stay queued (202).
    fn odd_answers(&self) -> usize {
        let fine = |sample: &Sample| match sample.status {
            Some(200 | 202) => true,
            Some(503) => sample.retry_after,
            _ => false,
        };
        self.away().filter(|sample| !fine(sample)).count()
    }

    /// How long after `from_us` the last API said it was, or was not, ready.
    fn all_said_us(&self, ready: bool, from_us: u64) -> Option<u64> {
        let mut first: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for said in &self.readiness {
            let first_us = first.entry(said.api).or_default();
            if said.at_us >= from_us && said.ready == ready {
                first_us.get_or_insert(said.at_us);
            }
        }
        let first: Option<Vec<u64>> = first.into_values().collect();
        first?.into_iter().max().map(|at_us| at_us - from_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Server;

    fn sample(partition: u32, start_ms: u64, end_ms: u64, status: u16) -> Sample {
        let (start_us, end_us) = (start_ms * 1_000, end_ms * 1_000);
        Sample { partition, start_us, end_us, status: Some(status), retry_after: status == 503 }
    }

    fn said(api: u32, at_ms: u64, ready: bool) -> Readiness {
        Readiness { api, at_us: at_ms * 1_000, ready }
    }

    fn metrics_of(drill: Drill, samples: Vec<Sample>) -> Metrics {
        let observation = Observation {
            drill,
            samples,
            readiness: vec![
                said(0, 90, true),
                said(0, 130, false),
                said(0, 310, true),
                said(1, 95, false),
                said(1, 150, false),
                said(1, 305, false),
                said(1, 340, true),
            ],
            moved: vec![true, false],
            fault_us: 100_000,
            begin_return_us: 280_000,
            back_us: 300_000,
            grown_kib: Some(7),
        };
        let mut metrics = Metrics::new();
        observation.add_to(&mut metrics);
        metrics
    }

    fn metric(metrics: &Metrics, drill: Drill, metric: Metric) -> Option<f64> {
        metrics.get(&(drill, metric)).and_then(Times::worst)
    }

    #[test]
    fn gaps_are_between_wins_of_one_partition() {
        let samples = vec![
            sample(0, 5, 10, 200),
            sample(0, 20, 30, 200),
            sample(1, 20, 60, 200),
            sample(0, 80, 90, 200),
            sample(1, 90, 99, 200),
            // Not a win.
            sample(0, 100, 120, 202),
            sample(1, 100, 130, 200),
            sample(0, 150, 250, 200),
            sample(0, 255, 260, 200),
        ];
        let killed = metrics_of(Drill::WorkerKilled, samples);
        let of = |name| metric(&killed, Drill::WorkerKilled, name);
        assert_eq!(of(Metric::NormalGap), Some(60.0));
        assert_eq!(of(Metric::MovedGap), Some(160.0));
        assert_eq!(of(Metric::OthersGap), Some(31.0));
        assert_eq!(of(Metric::Recovery), None);
    }

    #[test]
    fn a_server_counts_from_its_return() {
        let samples = vec![
            sample(0, 120, 125, 503),
            sample(1, 130, 230, 503),
            sample(1, 140, 141, 500),
            // Began before the return: it proves nothing.
            sample(0, 290, 305, 200),
            sample(0, 320, 330, 200),
            sample(0, 340, 360, 200),
            sample(1, 301, 345, 200),
        ];
        let killed = metrics_of(Drill::Killed(Server::Nats), samples);
        let of = |name| metric(&killed, Drill::Killed(Server::Nats), name);
        assert_eq!(of(Metric::Recovery), Some(45.0));
        assert_eq!(of(Metric::AwayP99), Some(100.0));
        assert_eq!(of(Metric::AwayMedian), Some(5.0));
        assert_eq!(of(Metric::AwayOdd), Some(1.0));
        assert_eq!((of(Metric::Unready), of(Metric::Ready)), (Some(50.0), Some(40.0)));
        assert_eq!(of(Metric::GrownKib), Some(7.0));
        assert_eq!(of(Metric::MovedGap), None);
    }
}
