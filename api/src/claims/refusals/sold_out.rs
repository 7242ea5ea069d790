//! The sold-out coupons that are remembered, within a limit of winners.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use common::ids::CouponName;

use crate::store::CouponVersion;

/// How long a coupon's winners are remembered at least. All that are claimed at the same time may be too many: then
/// some go through the queue, rather than each being read again and again in place of the others.
const KEEP_MIN: Duration = Duration::from_secs(60);

/// How long a coupon whose winners could not be remembered is not tried again. Every refusal by the queue would have
/// them read anew.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Coupons that wait for [`RETRY_AFTER`] at the same time; beyond that, some are tried too often.
const RETRIES_MAX: usize = 10_000;

/// What a coupon costs beside its winners, counted in winners.
const COUPON_WEIGHT: usize = 32;

/// Entries of the order that may be out of date before it is cleaned up.
const STALE_MAX: usize = 64;

/// A sold-out coupon.
pub(super) struct SoldOut {
    pub(super) version: CouponVersion,
    pub(super) read_at: Instant,
    /// Fingerprints of the winners. Two users may share one; then the queue tells them apart.
    pub(super) winners: HashSet<u64, BuildHasherDefault<FingerprintHasher>>,
}

impl SoldOut {
    /// Its winners, and its own entry as if it were a few.
    fn weight(&self) -> usize {
        self.winners.len() + COUPON_WEIGHT
    }
}

/// A fingerprint is a hash already, so this hashes nothing.
#[derive(Default)]
pub(super) struct FingerprintHasher(u64);

impl Hasher for FingerprintHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are written as u64");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// The sold-out coupons that are remembered.
pub(super) struct SoldOutCoupons {
    coupons: HashMap<CouponName, SoldOut>,
    /// In the order in which they were read, to forget the oldest. Entries may be out of date.
    order: VecDeque<(CouponName, Instant)>,
    /// Those that could not be remembered, and until when they are not tried again.
    retry_at: HashMap<CouponName, Instant>,
    /// What all of them weigh.
    weight: usize,
    /// What they may weigh (`SOLD_OUT_WINNERS_MAX`).
    weight_max: usize,
}

impl SoldOutCoupons {
    /// Remembers `winners_max` winners at most.
    pub(super) fn new(winners_max: usize) -> Self {
        Self {
            coupons: HashMap::new(),
            order: VecDeque::new(),
            retry_at: HashMap::new(),
            weight: 0,
            weight_max: winners_max,
        }
    }

    /// A coupon, if it is remembered.
    pub(super) fn get(&self, name: &CouponName) -> Option<&SoldOut> {
        self.coupons.get(name)
    }

    /// Whether the coupon's winners are worth reading now.
    pub(super) fn is_worth_reading(&self, name: &CouponName) -> bool {
        let waits = || self.retry_at.get(name).is_some_and(|at| *at > Instant::now());
        self.weight_max > 0 && !self.coupons.contains_key(name) && !waits()
    }

    /// Whether a coupon of so many winners can be remembered, once those are forgotten that may be.
    pub(super) fn has_room_for(&self, winners: usize) -> bool {
        let kept = self.coupons.values().filter(|coupon| coupon.read_at.elapsed() < KEEP_MIN);
        kept.map(SoldOut::weight).sum::<usize>() + winners + COUPON_WEIGHT <= self.weight_max
    }

    /// Notes that a coupon could not be remembered.
    pub(super) fn retry_later(&mut self, name: CouponName) {
        let now = Instant::now();
        if self.retry_at.len() >= RETRIES_MAX {
            self.retry_at.retain(|_, at| *at > now);
        }
        if self.retry_at.len() < RETRIES_MAX {
            self.retry_at.insert(name, now + RETRY_AFTER);
        }
    }

    /// Remembers a coupon, and forgets the oldest ones that have no room any more.
    pub(super) fn insert(&mut self, name: CouponName, coupon: SoldOut) {
        self.remove(&name);
        self.retry_at.remove(&name);
        self.weight += coupon.weight();
        self.order.push_back((name.clone(), coupon.read_at));
        self.coupons.insert(name, coupon);
        while self.weight > self.weight_max
            && let Some((oldest, read_at)) = self.order.pop_front()
        {
            if self.is_current(&oldest, read_at) {
                self.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.coupons.len() + STALE_MAX {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|(name, read_at)| self.is_current(name, *read_at));
            self.order = order;
        }
    }

    /// Forgets a coupon, if it is remembered in this version.
    pub(super) fn remove_version(&mut self, name: &CouponName, version: CouponVersion) {
        if self.coupons.get(name).is_some_and(|coupon| coupon.version == version) {
            self.remove(name);
        }
    }

    fn remove(&mut self, name: &CouponName) {
        if let Some(coupon) = self.coupons.remove(name) {
            self.weight -= coupon.weight();
        }
    }

    /// Whether an entry of the order is about what is remembered now.
    fn is_current(&self, name: &CouponName, read_at: Instant) -> bool {
        self.coupons.get(name).is_some_and(|coupon| coupon.read_at == read_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coupon(winners: u64, read_at: Instant) -> SoldOut {
        let version = CouponVersion { transaction: 1, last_position: winners as i64 };
        SoldOut { version, read_at, winners: (0..winners).collect() }
    }

    fn name(name: &str) -> CouponName {
        CouponName::new(name).unwrap()
    }

    #[test]
    fn what_was_read_just_now_is_not_forgotten_for_another() {
        let mut coupons = SoldOutCoupons::new(200);
        assert!(coupons.has_room_for(168));
        assert!(!coupons.has_room_for(169), "it would be forgotten at once");
        coupons.insert(name("a"), coupon(100, Instant::now()));
        assert!(coupons.has_room_for(36));
        assert!(!coupons.has_room_for(37));
    }

    #[test]
    fn what_was_read_anew_is_the_youngest() {
        let mut coupons = SoldOutCoupons::new(3 * (10 + COUPON_WEIGHT));
        let now = Instant::now();
        coupons.insert(name("a"), coupon(10, now - 3 * KEEP_MIN));
        coupons.insert(name("b"), coupon(10, now - 2 * KEEP_MIN));
        // Its version has changed meanwhile.
        coupons.remove_version(&name("a"), CouponVersion { transaction: 1, last_position: 10 });
        coupons.insert(name("a"), coupon(10, now));
        coupons.insert(name("c"), coupon(10, now));
        coupons.insert(name("d"), coupon(10, now));
        let mut names: Vec<_> = coupons.coupons.keys().map(CouponName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c", "d"]);
    }

    #[test]
    fn what_was_read_a_while_ago_makes_room() {
        let mut coupons = SoldOutCoupons::new(200);
        coupons.insert(name("a"), coupon(100, Instant::now() - KEEP_MIN));
        assert!(coupons.has_room_for(168));
        coupons.insert(name("b"), coupon(168, Instant::now()));
        assert_eq!(coupons.coupons.keys().collect::<Vec<_>>(), [&name("b")]);
        assert_eq!(coupons.weight, 200);
    }

    #[test]
    fn what_cannot_be_remembered_is_not_tried_again_at_once() {
        let mut coupons = SoldOutCoupons::new(200);
        assert!(coupons.is_worth_reading(&name("a")));
        coupons.retry_later(name("a"));
        assert!(!coupons.is_worth_reading(&name("a")) && coupons.is_worth_reading(&name("b")));
    }

    #[test]
    fn the_order_of_what_is_read_again_and_again_does_not_grow() {
        let mut coupons = SoldOutCoupons::new(2_000);
        for _ in 0..10 * STALE_MAX {
            coupons.insert(name("a"), coupon(10, Instant::now()));
            let version = coupons.get(&name("a")).unwrap().version;
            coupons.remove_version(&name("a"), version);
        }
        assert!(coupons.order.len() <= STALE_MAX + 2, "{}", coupons.order.len());
    }
}
