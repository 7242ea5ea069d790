//! Random runs of the model: none is accused, and whatever is falsified is noticed.

use chaos::checker::check;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::falsified::ALL;
use crate::model::{Shape, run};

/// The same on every machine: a run of the tests must not depend on luck.
const CASES: u32 = 300;

fn shape() -> impl Strategy<Value = Shape> {
    (1usize..5, 1usize..12, 20usize..600, any::<bool>()).prop_map(|(coupons, users, steps, losses)| Shape {
        coupons,
        users,
        steps,
        losses,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_of_the_model_has_no_violations(seed: u64, shape in shape()) {
        let round = run(seed, shape);
        prop_assert_eq!(check(&round), []);
    }

    #[test]
    fn a_run_with_gaps_in_its_journals_has_no_violations(seed: u64, shape in shape(), every in 2usize..5) {
        let mut round = run(seed, shape);
        for journal in &mut round.state.journals {
            journal.complete = false;
            let mut number = 0;
            journal.messages.retain(|_| { number += 1; number % every != 0 });
        }
        prop_assert_eq!(check(&round), []);
    }

    #[test]
    fn whatever_is_falsified_is_noticed(seed: u64, shape in shape()) {
        let valid = run(seed, shape);
        let mut rng = StdRng::seed_from_u64(seed);
        for (name, falsify) in ALL {
            let mut round = valid.clone();
            if let Some(expected) = falsify(&mut round, &mut rng) {
                let found: Vec<_> = check(&round).into_iter().map(|violation| violation.check).collect();
                prop_assert!(found.contains(&expected), "{}: expected {}, found {:?}", name, expected, found);
            }
        }
    }
}

#[test]
fn every_way_to_falsify_applies_somewhere() {
    let mut rng = StdRng::seed_from_u64(1);
    let shape = Shape { coupons: 3, users: 8, steps: 500, losses: false };
    for (name, falsify) in ALL {
        let applies = (0..50).filter(|seed| falsify(&mut run(*seed, shape), &mut rng).is_some()).count();
        assert!(applies > 0, "{name}: {applies} of 50 rounds");
    }
}
