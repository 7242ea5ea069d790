//! What each request asks for: a pure function of its number, so that a run can be repeated and checked.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

/// The user ids, the coupons and their popularity.
#[derive(Debug)]
pub struct Plan {
    /// Ranks from 1: a few coupons that most want, and a long tail.
    popularity: Zipf<f64>,
    /// Share of the requests that come from a new user, of 2^32.
    fresh_share: u64,
    /// Users who have claimed before the first request of this plan.
    earlier_users: u32,
    requests: u64,
    seed: u64,
}

/// One claim: this user wants this coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask {
    /// Index of the coupon.
    pub coupon: u32,
    /// Index of the user.
    pub user: u32,
}

/// What a [`Plan`] is made from.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Number of coupons, at least one.
    pub coupons: u32,
    /// Zipf exponent of the coupons' popularity; 0 for all alike.
    pub skew: f64,
    /// Share (0 to 1) of the requests in which a user asks again for the coupon asked for before.
    pub repeat_share: f64,
    /// New users; `None` for as many as the time allows.
    pub users: Option<u32>,
    /// Users `0..earlier_users` have asked already, and may ask again.
    pub earlier_users: u32,
    /// Another seed draws other coupons and other repeats.
    pub seed: u64,
}

impl Plan {
    /// Prepares the plan.
    pub fn new(mix: &Mix) -> Self {
        let fresh_share = fixed_point(1.0 - mix.repeat_share);
        let room = u32::MAX - mix.earlier_users;
        let users = u64::from(mix.users.unwrap_or(room).min(room));
        let requests = match (users, fresh_share) {
            (0, _) if mix.users.is_some() && fresh_share > 0 => 0,
            // Nobody new: everyone asks again, until the time is up.
            (_, 0) => u64::MAX,
            // Up to and including the request of the last new user.
            (users, share) => ((users.saturating_sub(1)) << 32) / share + 1,
        };
        // One coupon at least, and a skew that is no number below 0: nothing is left to fail.
        let popularity = Zipf::new(f64::from(mix.coupons.max(1)), mix.skew.max(0.0))
            .unwrap_or_else(|error| unreachable!("{error}"));
        Self { popularity, fresh_share, earlier_users: mix.earlier_users, requests, seed: mix.seed }
    }

    /// Number of requests until every user has asked; `u64::MAX` when none is new.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// What request `number` (from 0) asks for; `None` past the end.
    pub fn ask(&self, number: u64) -> Option<Ask> {
        if number >= self.requests {
            return None;
        }
        let known = self.users_before(number);
        let user = if self.users_before(number + 1) > known {
            known
        } else {
            // Evenly among all who came before, who may still be waiting for their first answer.
            random(self.seed, number).random_range(0..known)
        };
        Some(Ask { coupon: self.coupon_of(user), user })
    }

    /// A number that neither another request of this plan has nor one of the earlier users.
    pub fn serial(&self, number: u64) -> u64 {
        number + u64::from(self.earlier_users)
    }

    /// Users who have asked at least once before request `number`, the earlier ones included.
    pub fn users_before(&self, number: u64) -> u32 {
        // Rounded up: the first request comes from a new user.
        let fresh = (u128::from(number) * u128::from(self.fresh_share)).div_ceil(1 << 32);
        u32::try_from(fresh + u128::from(self.earlier_users)).unwrap_or(u32::MAX)
    }

    /// The one coupon that a user asks for, each time.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank of a u32")]
    pub fn coupon_of(&self, user: u32) -> u32 {
        // Never the numbers of a request.
        let mut random = random(!self.seed, user.into());
        self.popularity.sample(&mut random) as u32 - 1
    }
}

/// Random numbers that are the same each time.
fn random(seed: u64, number: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1 before")]
fn fixed_point(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 2f64.powi(32)).round() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn mixed(repeat_share: f64, users: Option<u32>, earlier_users: u32) -> Plan {
        Plan::new(&Mix { coupons: 10, skew: 1.0, repeat_share, users, earlier_users, seed: 7 })
    }

    #[test]
    fn every_user_asks_and_the_last_one_ends_the_plan() {
        for share in [0.0, 0.1, 0.5, 0.9, 1.0 / 3.0] {
            let plan = mixed(share, Some(1000), 0);
            let asks = (0..).map_while(|number| plan.ask(number)).collect::<Vec<_>>();
            let users = asks.iter().map(|ask| ask.user).collect::<HashSet<_>>();
            assert_eq!(users.len(), 1000, "share {share}");
            assert_eq!(asks.len() as u64, plan.requests());
            assert_eq!(asks.last().map(|ask| ask.user), Some(999));
            let repeats = 1.0 - 1000.0 / asks.len() as f64;
            assert!((repeats - share).abs() < 0.01, "share {share}: {repeats}");
        }
    }

    #[test]
    fn a_user_always_wants_the_same_coupon() {
        let plan = mixed(0.7, Some(500), 0);
        let mut wanted = [None; 500];
        for ask in (0..).map_while(|number| plan.ask(number)) {
            assert_eq!(*wanted[ask.user as usize].get_or_insert(ask.coupon), ask.coupon);
        }
    }

    #[test]
    fn only_repeats_come_from_the_earlier_users() {
        let plan = mixed(1.0, None, 50);
        let users = (0..5000).map(|number| plan.ask(number).unwrap().user).collect::<HashSet<_>>();
        assert_eq!((users.len(), users.iter().max()), (50, Some(&49)));
        assert_eq!(plan.users_before(5000), 50);
    }

    #[test]
    fn no_users_is_no_request() {
        assert_eq!(mixed(0.5, Some(0), 3).ask(0), None);
    }

    #[test]
    fn coupons_are_as_popular_as_zipf_says() {
        for (coupons, skew) in [(1, 1.0), (7, 0.0), (50, 1.0), (1000, 0.8), (1000, 1.4)] {
            let mix =
                Mix { coupons, skew, repeat_share: 0.0, users: Some(400_000), earlier_users: 0, seed: 7 };
            let plan = Plan::new(&mix);
            let mut seen = vec![0u32; coupons as usize];
            (0..400_000).for_each(|user| seen[plan.coupon_of(user) as usize] += 1);
            let total: f64 = (1..=coupons).map(|rank| f64::from(rank).powf(-skew)).sum();
            for (rank, seen) in (1..=coupons).zip(seen) {
                let (seen, expected) = (f64::from(seen) / 400_000.0, f64::from(rank).powf(-skew) / total);
                // Five standard deviations of a count, as a share.
                let tolerance = 5.0 * (expected / 400_000.0).sqrt();
                assert!(
                    (seen - expected).abs() <= tolerance,
                    "rank {rank} of {coupons}, skew {skew}: {seen}"
                );
            }
        }
    }
}
