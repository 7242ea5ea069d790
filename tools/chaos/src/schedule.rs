//! Which faults are injected when: all of it follows from a seed.
//!
//! Each round has a random generator of its own, made from the run's seed and the round's number. So any
//! round can be repeated without those before it, and a shorter run is the beginning of a longer one. Another
//! version of the generator (see Cargo.lock) may draw another schedule from the same seed.

mod fault;
mod target;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

pub(crate) use fault::Fault;
pub(crate) use target::{Process, Server, Shape, Target};

use crate::seed::generator;

/// Faults of one round. More would mostly hide each other.
pub(crate) const FAULTS_MAX: usize = 6;
const FAULTS_MIN: usize = 2;

/// The first share of a round, in percent, without faults, so that requests are under way when the first begins.
const QUIET_PERCENT: u64 = 10;

/// A fault at its time and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Injection {
    /// When it begins, from the round's beginning.
    pub(crate) start_ms: u64,
    /// How long it lasts; processes that were killed are started again at its end.
    pub(crate) duration_ms: u64,
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    /// For everything else that is drawn while it is carried out.
    pub(crate) seed: u64,
}

/// The faults of one round, in the order of their beginnings.
///
/// Each enabled fault comes up in turn, in an order that the seed decides, so that a run of as many rounds as
/// there are faults has tried them all; the rest of a round is drawn freely. At least two faults overlap
/// wherever their lengths allow it. All are over by the end of the round.
pub(crate) fn round(
    seed: u64,
    number: u32,
    length_ms: u64,
    shape: &Shape,
    enabled: &[Fault],
    faults_max: usize,
) -> Vec<Injection> {
    let mut rng = generator(seed, number.into());
    let mut turn = enabled.to_vec();
    // No round has the number 0.
    turn.shuffle(&mut generator(seed, 0));
    if turn.is_empty() {
        return Vec::new();
    }
    let first = turn[(number as usize).wrapping_sub(1) % turn.len()];

    let mut injections: Vec<Injection> = Vec::new();
    let wanted = rng.random_range(FAULTS_MIN..=FAULTS_MAX).min(faults_max);
    for place in 0..wanted {
        let fault = if place == 0 { first } else { *enabled.choose(&mut rng).unwrap_or(&first) };
        if injections.iter().any(|other| fault.excludes(other.fault)) {
            continue;
        }
        let injection = draw(&mut rng, fault, length_ms, shape, injections.first());
        // The same fault at the same target would only repeat itself.
        if !injections.iter().any(|other| (other.fault, other.target) == (fault, injection.target)) {
            injections.push(injection);
        }
    }
    injections.sort_by_key(|injection| injection.start_ms);
    injections
}

fn draw(
    rng: &mut StdRng,
    fault: Fault,
    length_ms: u64,
    shape: &Shape,
    first: Option<&Injection>,
) -> Injection {
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
    Injection { start_ms, duration_ms, fault, target, seed: rng.random() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SHAPE: Shape =
        Shape { apis: 2, workers: 3, partitions: 4, lease_ms: 2_000, claim_timeouts_ms: [1_500; 2] };
    const LENGTH_MS: u64 = 6_000;

    #[test]
    fn a_seed_repeats_its_schedule_and_another_has_another() {
        let schedule = |seed| {
            (1..50)
                .map(|number| round(seed, number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX))
                .collect::<Vec<_>>()
        };
        assert_eq!(schedule(42), schedule(42));
        assert_ne!(schedule(42), schedule(43));
    }

    #[test]
    fn every_fault_comes_up_and_all_are_over_in_time() {
        let mut seen = HashSet::new();
        for number in 1..=Fault::ALL.len() as u32 {
            for injection in round(7, number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX) {
                assert!(injection.start_ms + injection.duration_ms <= LENGTH_MS, "{injection:?}");
                assert!(injection.fault.targets(&SHAPE).contains(&injection.target), "{injection:?}");
                seen.insert(injection.fault);
            }
        }
        assert_eq!(seen.len(), Fault::ALL.len());
    }

    #[test]
    fn faults_overlap_in_most_rounds() {
        let overlap = |injections: &[Injection]| {
            injections.iter().enumerate().any(|(place, a)| {
                injections[..place].iter().any(|b| {
                    a.start_ms < b.start_ms + b.duration_ms && b.start_ms < a.start_ms + a.duration_ms
                })
            })
        };
        let overlapping = (1..=100)
            .filter(|number| overlap(&round(1, *number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX)))
            .count();
        assert!(overlapping > 60, "{overlapping} of 100");
    }

    #[test]
    fn only_enabled_faults_are_injected_and_a_short_round_is_no_trouble() {
        assert_eq!(round(1, 1, LENGTH_MS, &SHAPE, &[], FAULTS_MAX), []);
        for number in 1..20 {
            let injections = round(1, number, 300, &SHAPE, &[Fault::KillNats], 1);
            assert!(injections.iter().all(|injection| injection.fault == Fault::KillNats));
            assert!(injections.iter().all(|injection| injection.start_ms + injection.duration_ms <= 300));
        }
    }
}
