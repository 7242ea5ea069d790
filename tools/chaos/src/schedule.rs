//! Which faults are injected when: all of it follows from a seed.
//!
//! Each round has a random generator of its own, made from the run's seed and the round's number. So any
//! round can be repeated without those before it, and a shorter run is the beginning of a longer one. Another
//! version of the generator (see Cargo.lock) may draw another schedule from the same seed.

mod fault;
mod target;
mod theme;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

pub(crate) use fault::Fault;
pub(crate) use target::{Process, Server, Shape, Target};
pub(crate) use theme::{Theme, Themes};

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
/// Each enabled fault comes up in turn, in an order that the seed decides, so that as many rounds without a theme
/// as there are faults have tried them all; the rest of a round is drawn freely. A round with a theme has only its
/// faults. At least two faults overlap wherever their lengths allow it. All are over by the end of the round.
pub(crate) fn round(
    seed: u64,
    number: u32,
    length_ms: u64,
    shape: &Shape,
    enabled: &[Fault],
    faults_max: usize,
    themes: Themes,
) -> Vec<Injection> {
    let mut rng = generator(seed, number.into());
    let (theme, before) = themes.of(number);
    let enabled: Vec<Fault> = match theme {
        Some(theme) => theme.faults().iter().copied().filter(|fault| enabled.contains(fault)).collect(),
        None => enabled.to_vec(),
    };
    let mut turn = enabled.clone();
    // No round has the number 0.
    turn.shuffle(&mut generator(seed, 0));
    if turn.is_empty() {
        return Vec::new();
    }
    let first = turn[before % turn.len()];

    let mut injections: Vec<Injection> = Vec::new();
    let wanted = rng.random_range(FAULTS_MIN..=FAULTS_MAX).min(faults_max);
    for place in 0..wanted {
        let fault = if place == 0 { first } else { *enabled.choose(&mut rng).unwrap_or(&first) };
        if injections.iter().any(|other| fault.excludes(other.fault)) {
            continue;
        }
        let mut targets = fault.targets(shape);
        targets.retain(|target| theme.is_none_or(|theme| theme.includes(*target)));
        let duration_ms = fault.duration_ms(shape.lease_ms);
        let injection = draw(&mut rng, fault, &targets, duration_ms, length_ms, injections.first());
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
    targets: &[Target],
    (shortest_ms, longest_ms): (u64, u64),
    length_ms: u64,
    first: Option<&Injection>,
) -> Injection {
    let quiet_ms = length_ms * QUIET_PERCENT / 100;
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
    let target = *targets.choose(rng).unwrap_or(&Target::Everything);
    Injection { start_ms, duration_ms, fault, target, seed: rng.random() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SHAPE: Shape = Shape {
        apis: 2,
        workers: 3,
        partitions: 4,
        lease_ms: 2_000,
        claim_timeouts_ms: [1_500; 2],
        purge_interval_ms: 1_000,
    };
    const LENGTH_MS: u64 = 6_000;

    #[test]
    fn a_seed_repeats_its_schedule_and_another_has_another() {
        let schedule = |seed| {
            (1..50)
                .map(|number| round(seed, number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX, Themes::None))
                .collect::<Vec<_>>()
        };
        assert_eq!(schedule(42), schedule(42));
        assert_ne!(schedule(42), schedule(43));
    }

    #[test]
    fn every_fault_comes_up_and_all_are_over_in_time() {
        let mut seen = HashSet::new();
        for number in 1..=Fault::ALL.len() as u32 {
            for injection in round(7, number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX, Themes::None) {
                assert!(injection.start_ms + injection.duration_ms <= LENGTH_MS, "{injection:?}");
                assert!(injection.fault.targets(&SHAPE).contains(&injection.target), "{injection:?}");
                seen.insert(injection.fault);
            }
        }
        assert_eq!(seen.len(), Fault::ALL.len());
    }

    #[test]
    fn every_third_round_has_a_theme_and_the_others_still_try_every_fault() {
        let mut seen = HashSet::new();
        let mut themes = HashSet::new();
        for number in 1..=Fault::ALL.len() as u32 * 3 / 2 + 1 {
            let injections = round(7, number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX, Themes::InTurn);
            match Themes::InTurn.of(number) {
                (Some(theme), _) => {
                    assert_eq!(number % 3, 0);
                    assert!(!injections.is_empty(), "{theme}");
                    let is_of_theme = |injection: &Injection| {
                        theme.faults().contains(&injection.fault) && theme.includes(injection.target)
                    };
                    assert!(injections.iter().all(is_of_theme), "{theme}: {injections:?}");
                    themes.insert(theme);
                }
                (None, _) => seen.extend(injections.iter().map(|injection| injection.fault)),
            }
        }
        assert_eq!((seen.len(), themes.len()), (Fault::ALL.len(), Theme::ALL.len()));
    }

    #[test]
    fn a_theme_of_a_whole_run_tries_each_of_its_faults() {
        for theme in Theme::ALL {
            let rounds = 1..=theme.faults().len() as u32;
            let of =
                |number| round(7, number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX, Themes::Only(*theme));
            let seen: HashSet<Fault> = rounds.flat_map(of).map(|injection| injection.fault).collect();
            assert_eq!(seen.len(), theme.faults().len(), "{theme}");
        }
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
            .filter(|number| {
                overlap(&round(1, *number, LENGTH_MS, &SHAPE, Fault::ALL, FAULTS_MAX, Themes::None))
            })
            .count();
        assert!(overlapping > 60, "{overlapping} of 100");
    }

    #[test]
    fn only_enabled_faults_are_injected_and_a_short_round_is_no_trouble() {
        assert_eq!(round(1, 1, LENGTH_MS, &SHAPE, &[], FAULTS_MAX, Themes::InTurn), []);
        for number in 1..20 {
            let injections = round(1, number, 300, &SHAPE, &[Fault::KillNats], 1, Themes::None);
            assert!(injections.iter().all(|injection| injection.fault == Fault::KillNats));
            assert!(injections.iter().all(|injection| injection.start_ms + injection.duration_ms <= 300));
        }
    }
}
