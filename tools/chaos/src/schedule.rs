//! Which faults strike when: all of it follows from a seed.
//!
//! Each round has a random generator of its own, made from the run's seed and the round's number. So any
//! round can be repeated without those before it, and a shorter run is the beginning of a longer one. The
//! generator is seeded and versioned with the workspace's lock file; another version may draw another
//! schedule from the same seed.

mod fault;

pub use fault::{Fault, UnknownFault};

use std::fmt;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Faults of one round. More would mostly hide each other.
pub const FAULTS_MAX: usize = 6;
const FAULTS_MIN: usize = 2;

/// The first share of a round, in percent, in which nothing strikes yet, so that there is something in
/// flight when it does.
const QUIET_PERCENT: u64 = 10;

/// What there is to strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// API processes.
    pub apis: u32,
    /// Worker processes.
    pub workers: u32,
    /// Partitions of the queue.
    pub partitions: u32,
    /// How long a worker's lease lasts.
    pub lease_ms: u64,
}

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// An API process, counted from 0.
    Api(u32),
    /// A worker process, counted from 0.
    Worker(u32),
    /// The NATS server.
    Nats,
    /// The database server.
    Postgres,
    /// Every process.
    Everything,
    /// All workers.
    Workers,
    /// The link of an API to NATS.
    ApiNats(u32),
    /// The link of a worker to NATS.
    WorkerNats(u32),
    /// The link of an API to Postgres.
    ApiPostgres(u32),
    /// The link of a worker to Postgres.
    WorkerPostgres(u32),
    /// The stream of a partition.
    Partition(u32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(number) => write!(f, "api {number}"),
            Self::Worker(number) => write!(f, "worker {number}"),
            Self::Nats => f.write_str("nats"),
            Self::Postgres => f.write_str("postgres"),
            Self::Everything => f.write_str("everything"),
            Self::Workers => f.write_str("all workers"),
            Self::ApiNats(number) => write!(f, "api {number} - nats"),
            Self::WorkerNats(number) => write!(f, "worker {number} - nats"),
            Self::ApiPostgres(number) => write!(f, "api {number} - postgres"),
            Self::WorkerPostgres(number) => write!(f, "worker {number} - postgres"),
            Self::Partition(number) => write!(f, "partition {number}"),
        }
    }
}

/// One fault of a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// When it begins, from the round's beginning.
    pub start_ms: u64,
    /// How long it lasts; processes that were killed are started again at its end.
    pub duration_ms: u64,
    /// What it is.
    pub fault: Fault,
    /// What it strikes.
    pub target: Target,
    /// For whatever else is drawn while it is carried out.
    pub seed: u64,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms for {:>5} ms: {} on {}", self.start_ms, self.duration_ms, self.fault, self.target)
    }
}

/// The faults of one round, in the order of their beginnings.
///
/// Each enabled fault comes up in turn, in an order that the seed decides, so that a run of as many rounds as
/// there are faults has tried them all; the rest of a round is drawn freely. At least two faults overlap
/// wherever their lengths allow it. All are over by the end of the round.
pub fn round(
    seed: u64,
    number: u32,
    length_ms: u64,
    shape: &Shape,
    enabled: &[Fault],
    strikes_max: usize,
) -> Vec<Strike> {
    let mut rng = generator(seed, number);
    let mut turn = enabled.to_vec();
    turn.shuffle(&mut generator(seed, 0));
    let (Some(count), false) = (turn.len().checked_sub(1), enabled.is_empty()) else { return Vec::new() };
    let first = turn[(number as usize).wrapping_sub(1) % (count + 1)];

    let mut strikes: Vec<Strike> = Vec::new();
    let wanted = rng.random_range(FAULTS_MIN..=FAULTS_MAX).min(strikes_max);
    for place in 0..wanted {
        let fault = if place == 0 { first } else { *enabled.choose(&mut rng).unwrap_or(&first) };
        if strikes.iter().any(|other| fault.excludes(other.fault)) {
            continue;
        }
        let strike = draw(&mut rng, fault, length_ms, shape, strikes.first());
        // The same twice at the same place would only repeat itself.
        if !strikes.iter().any(|other| (other.fault, other.target) == (strike.fault, strike.target)) {
            strikes.push(strike);
        }
    }
    strikes.sort_by_key(|strike| strike.start_ms);
    strikes
}

/// A generator for a round; 0 stands for the run as a whole.
fn generator(seed: u64, round: u32) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&round.to_le_bytes());
    StdRng::from_seed(bytes)
}

fn draw(rng: &mut StdRng, fault: Fault, length_ms: u64, shape: &Shape, first: Option<&Strike>) -> Strike {
    let quiet_ms = length_ms * QUIET_PERCENT / 100;
    let (shortest_ms, longest_ms) = fault.duration_ms(shape.lease_ms);
    let room_ms = length_ms - quiet_ms;
    let duration_ms = rng.random_range(shortest_ms..=longest_ms).min(room_ms);
    let latest_ms = length_ms - duration_ms;
    let free_ms = rng.random_range(quiet_ms..=latest_ms.max(quiet_ms));
    // The second half of the draws aims into the first fault, so that they overlap.
    let start_ms = match first {
        Some(first) if rng.random_bool(0.5) => {
            let within_ms = first.start_ms + rng.random_range(0..=first.duration_ms);
            within_ms.min(latest_ms)
        }
        _ => free_ms,
    };
    let target = *fault.targets(shape).choose(rng).unwrap_or(&Target::Everything);
    Strike { start_ms, duration_ms, fault, target, seed: rng.random() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SHAPE: Shape = Shape { apis: 2, workers: 3, partitions: 4, lease_ms: 2_000 };
    const LENGTH_MS: u64 = 6_000;

    #[test]
    fn a_seed_repeats_its_schedule_and_another_has_another() {
        let schedule = |seed| {
            (1..50)
                .map(|number| round(seed, number, LENGTH_MS, &SHAPE, &Fault::ALL, FAULTS_MAX))
                .collect::<Vec<_>>()
        };
        assert_eq!(schedule(42), schedule(42));
        assert_ne!(schedule(42), schedule(43));
    }

    #[test]
    fn every_fault_comes_up_and_all_are_over_in_time() {
        let mut seen = HashSet::new();
        for number in 1..=Fault::ALL.len() as u32 {
            for strike in round(7, number, LENGTH_MS, &SHAPE, &Fault::ALL, FAULTS_MAX) {
                assert!(strike.start_ms + strike.duration_ms <= LENGTH_MS, "{strike}");
                assert!(strike.fault.targets(&SHAPE).contains(&strike.target), "{strike}");
                seen.insert(strike.fault);
            }
        }
        assert_eq!(seen.len(), Fault::ALL.len());
    }

    #[test]
    fn faults_overlap_in_most_rounds() {
        let overlap = |strikes: &[Strike]| {
            strikes.iter().enumerate().any(|(place, a)| {
                strikes[..place].iter().any(|b| {
                    a.start_ms < b.start_ms + b.duration_ms && b.start_ms < a.start_ms + a.duration_ms
                })
            })
        };
        let overlapping = (1..=100)
            .filter(|number| overlap(&round(1, *number, LENGTH_MS, &SHAPE, &Fault::ALL, FAULTS_MAX)))
            .count();
        assert!(overlapping > 60, "{overlapping} of 100");
    }

    #[test]
    fn only_enabled_faults_strike_and_a_short_round_is_no_trouble() {
        assert_eq!(round(1, 1, LENGTH_MS, &SHAPE, &[], FAULTS_MAX), []);
        for number in 1..20 {
            let strikes = round(1, number, 300, &SHAPE, &[Fault::KillNats], 1);
            assert!(strikes.iter().all(|strike| strike.fault == Fault::KillNats));
            assert!(strikes.iter().all(|strike| strike.start_ms + strike.duration_ms <= 300));
        }
    }

    #[test]
    fn names_are_read_back() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
        assert!("no-such-fault".parse::<Fault>().is_err());
    }
}
