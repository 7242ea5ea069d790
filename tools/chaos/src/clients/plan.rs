//! What there is to claim in a round.

use common::ids::CouponName;
use common::partition::PartitionId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Names must survive paths, the queue and the database, whatever is in them.
const ENDINGS: [&str; 6] = ["", "/slash", ".*.>", " with spaces", " 🎉", "'\"\\%20"];

/// Stock that no round uses up.
const LASTING_AMOUNT: u32 = 1_000_000;

/// The share of intents that are deliberate repetitions, by round: about a third in all. Workers skip the look-up
/// while all users are new, so there are rounds of both kinds.
const REPEAT_SHARES: [f64; 4] = [0.02, 0.05, 0.4, 0.7];

/// The longest pause of a client between two intents, in most rounds.
const PAUSE_MS_MAX: u64 = 80;

/// Names that are tried to find one that belongs to a certain partition.
const NAMES_MAX: u32 = 1_000;

/// The first of `name 0`, `name 1`, … that belongs to this partition.
pub(crate) fn name_in(name: &str, partition: u32, partitions: u32) -> Option<String> {
    let belongs = |name: &String| {
        CouponName::new(name).is_ok_and(|name| PartitionId::of(&name, partitions).number() == partition)
    };
    (0..NAMES_MAX).map(|number| format!("{name} {number}")).find(belongs)
}

/// A coupon of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coupon {
    pub(crate) name: String,
    pub(crate) amount: u32,
    /// How often it is wanted, relative to the others.
    pub(crate) weight: u32,
    /// When it is created, from the round's beginning.
    pub(crate) create_at_ms: u64,
    /// Whether a second creation is tried.
    pub(crate) created_twice: bool,
}

impl Coupon {
    /// Whether no round uses it up.
    pub(crate) fn lasts(&self) -> bool {
        self.amount == LASTING_AMOUNT
    }
}

/// All coupons of a round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// What all their names begin with.
    pub(crate) prefix: String,
    pub(crate) coupons: Vec<Coupon>,
    /// The share of intents that are repetitions.
    pub(crate) repeat_share: f64,
    /// The longest pause of a client between two intents.
    pub(crate) pause_ms_max: u64,
}

impl Plan {
    /// A few that everybody wants and that sell out, early or late; in every partition one that lasts, so that
    /// there is always something to win; many small ones; and some that are created late.
    pub(crate) fn draw(seed: u64, round: u32, length_ms: u64, partitions: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(round) << 32));
        let repeat_share = REPEAT_SHARES[rng.random_range(0..REPEAT_SHARES.len())];
        let prefix = format!("round {round}: ");
        let mut plan = Self { prefix, coupons: Vec::new(), repeat_share, pause_ms_max: PAUSE_MS_MAX };
        for amounts in [30..150, 150..600, 600..1_500] {
            let name = plan.name("hot", &mut rng);
            plan.add(name, rng.random_range(amounts), 8, 0, &mut rng);
        }
        for partition in 0..partitions {
            let name = plan.name_in(partition, partitions, &mut rng);
            plan.add(name, LASTING_AMOUNT, 6, 0, &mut rng);
        }
        for _ in 0..10 {
            let name = plan.name("cold", &mut rng);
            plan.add(name, rng.random_range(1..12), 2, 0, &mut rng);
        }
        for _ in 0..3 {
            let name = plan.name("late", &mut rng);
            let create_at_ms = rng.random_range(length_ms / 10..=length_ms * 6 / 10);
            plan.add(name, rng.random_range(5..300), 3, create_at_ms, &mut rng);
        }
        plan
    }

    fn add(&mut self, name: String, amount: u32, weight: u32, create_at_ms: u64, rng: &mut StdRng) {
        let created_twice = rng.random_bool(0.3);
        self.coupons.push(Coupon { name, amount, weight, create_at_ms, created_twice });
    }

    fn name(&self, kind: &str, rng: &mut StdRng) -> String {
        let ending = ENDINGS[rng.random_range(0..ENDINGS.len())];
        format!("{}{kind} {}{ending}", self.prefix, self.coupons.len())
    }

    /// A name that belongs to this partition.
    fn name_in(&self, partition: u32, partitions: u32, rng: &mut StdRng) -> String {
        let name = self.name("lasting", rng);
        name_in(&name, partition, partitions).unwrap_or(name)
    }

    /// Draws a coupon by its weight.
    pub(super) fn pick(&self, rng: &mut StdRng) -> usize {
        let total: u32 = self.coupons.iter().map(|coupon| coupon.weight).sum();
        let mut drawn = rng.random_range(0..total);
        for (number, coupon) in self.coupons.iter().enumerate() {
            match drawn.checked_sub(coupon.weight) {
                Some(rest) => drawn = rest,
                None => return number,
            }
        }
        0
    }
}
