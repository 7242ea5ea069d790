//! From what clients saw during a drill to its figures.

use std::collections::BTreeMap;

use super::load::{Readiness, Shot};
use super::{Drill, Figures};
use crate::report::Times;

/// A figure of a drill, in milliseconds unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// The longest time in which a partition that changed hands handed nothing out.
    MovedGap,
    /// The same of the partitions that stayed where they were.
    OthersGap,
    /// The same of all partitions before the strike: what is normal.
    NormalGap,
    /// From the server's return to a win in every partition, by a claim that began after it.
    Recovery,
    /// How long 99 of 100 claims took at most that began while the server was away.
    AwayP99,
    /// How long one took that was told to try again, in the median.
    AwayMedian,
    /// Answers of that time that were neither 503 with `Retry-After` nor true in another way, a count.
    AwayOdd,
    /// From the strike to every API calling itself unready.
    Unready,
    /// From the server's return to every API calling itself ready.
    Ready,
    /// By how many KiB an API grew while the server was away.
    GrownKib,
}

impl Figure {
    /// What the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MovedGap => "longest gap, partitions that moved",
            Self::OthersGap => "longest gap, all other partitions",
            Self::NormalGap => "longest gap before",
            Self::Recovery => "claims go on after its return",
            Self::AwayP99 => "answer while away, 99th percentile",
            Self::AwayMedian => "answer while away, median",
            Self::AwayOdd => "answers while away without Retry-After (count)",
            Self::Unready => "unready after",
            Self::Ready => "ready after its return",
            Self::GrownKib => "API's memory grew (KiB)",
        }
    }
}

/// What figures must not exceed, in the worst of all repetitions; each must have measured them. The answers while
/// a server is frozen have no limit: it has to be noticed first.
pub const LIMITS: &[((Drill, Figure), f64)] = &[
    ((Drill::WorkerKilled, Figure::MovedGap), 3_000.0),
    ((Drill::WorkerStopped, Figure::MovedGap), 200.0),
    ((Drill::WorkerJoined, Figure::MovedGap), 200.0),
    ((Drill::NatsKilled, Figure::Recovery), 3_000.0),
    ((Drill::NatsKilled, Figure::AwayP99), 100.0),
    ((Drill::NatsKilled, Figure::AwayOdd), 0.0),
    ((Drill::NatsKilled, Figure::Unready), 2_000.0),
    ((Drill::NatsKilled, Figure::Ready), 2_000.0),
    ((Drill::NatsKilled, Figure::GrownKib), 8_192.0),
    ((Drill::NatsFrozen, Figure::Recovery), 3_000.0),
    ((Drill::NatsFrozen, Figure::Unready), 2_000.0),
    ((Drill::NatsFrozen, Figure::Ready), 2_000.0),
    ((Drill::NatsFrozen, Figure::GrownKib), 8_192.0),
    ((Drill::PostgresKilled, Figure::Recovery), 3_000.0),
    ((Drill::PostgresKilled, Figure::AwayP99), 100.0),
    ((Drill::PostgresKilled, Figure::AwayOdd), 0.0),
    ((Drill::PostgresKilled, Figure::Unready), 2_000.0),
    ((Drill::PostgresKilled, Figure::Ready), 2_000.0),
    ((Drill::PostgresKilled, Figure::GrownKib), 8_192.0),
    ((Drill::PostgresFrozen, Figure::Recovery), 3_000.0),
    ((Drill::PostgresFrozen, Figure::Unready), 2_000.0),
    ((Drill::PostgresFrozen, Figure::Ready), 2_000.0),
    ((Drill::PostgresFrozen, Figure::GrownKib), 8_192.0),
];

/// What was seen of one drill.
#[derive(Debug)]
pub(super) struct Drilled {
    pub(super) drill: Drill,
    pub(super) shots: Vec<Shot>,
    pub(super) readiness: Vec<Readiness>,
    /// For each partition, whether its owner is another one now.
    pub(super) moved: Vec<bool>,
    pub(super) strike_us: u64,
    /// When a server that was away began to come back.
    pub(super) begin_return_us: u64,
    pub(super) back_us: u64,
    pub(super) grown_kib: Option<u64>,
}

impl Drilled {
    /// Adds what this drill measures.
    pub(super) fn add_to(&self, figures: &mut Figures) {
        let mut add = |figure: Figure, value: Option<f64>| {
            if let Some(value) = value {
                figures.entry((self.drill, figure)).or_default().add(value);
            }
        };
        add(Figure::NormalGap, self.longest_gap_ms(|_| true, 0, self.strike_us));
        match self.drill {
            Drill::WorkerKilled | Drill::WorkerJoined | Drill::WorkerStopped => {
                let moved = |partition: u32| self.moved.get(partition as usize) == Some(&true);
                add(Figure::MovedGap, self.longest_gap_ms(moved, self.strike_us, u64::MAX));
                let stayed = |partition| !moved(partition);
                add(Figure::OthersGap, self.longest_gap_ms(stayed, self.strike_us, u64::MAX));
            }
            Drill::NatsKilled | Drill::NatsFrozen | Drill::PostgresKilled | Drill::PostgresFrozen => {
                add(Figure::Recovery, self.recovery_ms());
                let away = self.answers_while_away();
                add(Figure::AwayP99, away.quantile(0.99));
                add(Figure::AwayMedian, away.median());
                add(Figure::AwayOdd, Some(self.odd_answers() as f64));
                add(Figure::Unready, self.turned_ms(false, self.strike_us));
                add(Figure::Ready, self.turned_ms(true, self.back_us));
                add(Figure::GrownKib, self.grown_kib.map(|kib| kib as f64));
            }
        }
    }

    /// The longest time between two wins of the same partition of which the later one is within the bounds.
    fn longest_gap_ms(&self, which: impl Fn(u32) -> bool, from_us: u64, to_us: u64) -> Option<f64> {
        let mut wins: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for shot in self.shots.iter().filter(|shot| shot.won() && which(shot.partition)) {
            wins.entry(shot.partition).or_default().push(shot.end_us);
        }
        let gaps = wins.into_values().flat_map(|mut ends| {
            ends.sort_unstable();
            let within = |pair: &&[u64]| (from_us..to_us).contains(&pair[1]);
            ends.windows(2).filter(within).map(|pair| pair[1] - pair[0]).max()
        });
        gaps.max().map(millis)
    }

    fn recovery_ms(&self) -> Option<f64> {
        let mut first: BTreeMap<u32, u64> = BTreeMap::new();
        for shot in self.shots.iter().filter(|shot| shot.won() && shot.start_us >= self.back_us) {
            let first = first.entry(shot.partition).or_insert(shot.end_us);
            *first = shot.end_us.min(*first);
        }
        first.into_values().max().map(|end_us| millis(end_us - self.back_us))
    }

    fn away(&self) -> impl Iterator<Item = &Shot> {
        self.shots.iter().filter(|shot| (self.strike_us..self.begin_return_us).contains(&shot.start_us))
    }

    fn answers_while_away(&self) -> Times {
        Times { millis: self.away().map(|shot| millis(shot.end_us - shot.start_us)).collect() }
    }

    /// A claim of that time may be lucky (200, while the server's end is on its way) or stay queued (202).
    fn odd_answers(&self) -> usize {
        let fine = |shot: &Shot| match shot.status {
            Some(200 | 202) => true,
            Some(503) => shot.retry_after,
            _ => false,
        };
        self.away().filter(|shot| !fine(shot)).count()
    }

    /// How long after `from_us` the last API said it was, or was not, ready.
    fn turned_ms(&self, to: bool, from_us: u64) -> Option<f64> {
        let mut first: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for said in &self.readiness {
            let first = first.entry(said.api).or_default();
            if said.at_us >= from_us && said.ready == to && first.is_none() {
                *first = Some(said.at_us);
            }
        }
        first
            .into_values()
            .collect::<Option<Vec<u64>>>()?
            .into_iter()
            .max()
            .map(|at_us| millis(at_us - from_us))
    }
}

fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(partition: u32, start_ms: u64, end_ms: u64, status: u16) -> Shot {
        let (start_us, end_us) = (start_ms * 1_000, end_ms * 1_000);
        Shot { partition, start_us, end_us, status: Some(status), retry_after: status == 503 }
    }

    fn said(api: u32, at_ms: u64, ready: bool) -> Readiness {
        Readiness { api, at_us: at_ms * 1_000, ready }
    }

    fn drilled(drill: Drill, shots: Vec<Shot>) -> Figures {
        let drilled = Drilled {
            drill,
            shots,
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
            strike_us: 100_000,
            begin_return_us: 280_000,
            back_us: 300_000,
            grown_kib: Some(7),
        };
        let mut figures = Figures::new();
        drilled.add_to(&mut figures);
        figures
    }

    fn figure(figures: &Figures, drill: Drill, figure: Figure) -> Option<f64> {
        figures.get(&(drill, figure)).and_then(Times::worst)
    }

    #[test]
    fn gaps_are_between_wins_of_one_partition() {
        let shots = vec![
            shot(0, 5, 10, 200),
            shot(0, 20, 30, 200),
            shot(1, 20, 60, 200),
            shot(0, 80, 90, 200),
            shot(1, 90, 99, 200),
            // Not a win.
            shot(0, 100, 120, 202),
            shot(1, 100, 130, 200),
            shot(0, 150, 250, 200),
            shot(0, 255, 260, 200),
        ];
        let killed = drilled(Drill::WorkerKilled, shots);
        let of = |name| figure(&killed, Drill::WorkerKilled, name);
        assert_eq!(of(Figure::NormalGap), Some(60.0));
        assert_eq!(of(Figure::MovedGap), Some(160.0));
        assert_eq!(of(Figure::OthersGap), Some(31.0));
        assert_eq!(of(Figure::Recovery), None);
    }

    #[test]
    fn a_server_counts_from_its_return() {
        let shots = vec![
            shot(0, 120, 125, 503),
            shot(1, 130, 230, 503),
            shot(1, 140, 141, 500),
            // Began before the return: it proves nothing.
            shot(0, 290, 305, 200),
            shot(0, 320, 330, 200),
            shot(0, 340, 360, 200),
            shot(1, 301, 345, 200),
        ];
        let killed = drilled(Drill::NatsKilled, shots);
        let of = |name| figure(&killed, Drill::NatsKilled, name);
        assert_eq!(of(Figure::Recovery), Some(45.0));
        assert_eq!(of(Figure::AwayP99), Some(100.0));
        assert_eq!(of(Figure::AwayMedian), Some(5.0));
        assert_eq!(of(Figure::AwayOdd), Some(1.0));
        assert_eq!((of(Figure::Unready), of(Figure::Ready)), (Some(50.0), Some(40.0)));
        assert_eq!(of(Figure::GrownKib), Some(7.0));
        assert_eq!(of(Figure::MovedGap), None);
    }
}
