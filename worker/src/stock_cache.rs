//! The coupons of a partition as its owner wrote or read them last.
//!
//! Most messages hold users who have never claimed, of coupons that the messages before were about. They are decided
//! from the cache and written at once, without a look-up: the write itself proves each coupon and each user, and
//! changes nothing if one is not as expected. So a wrong entry costs time, never truth.

use std::collections::HashMap;

use crate::store::{Coupon, Snapshot};

/// Coupons per partition; one more, and all are forgotten.
const COUPONS_MAX: usize = 4_096;

/// Clean batches in a row before the cache is used. Clean means that a look-up found no earlier claim of any user, so
/// that the cache alone would have decided the same. A refused write costs more than a look-up: where users often
/// claim again, looking first is faster.
const CLEAN_BATCHES_MIN: u32 = 8;

/// One partition's coupons.
#[derive(Debug, Default)]
pub(crate) struct StockCache {
    coupons: HashMap<String, Coupon>,
    clean_batches: u32,
    server_started_us: i64,
}

impl StockCache {
    /// Forgets everything that came from another server, or from before this one's start: after a failover or a
    /// restored backup, transaction ids count from an earlier number again, and the same `xmin` may be of another
    /// write. To be called before each use, with the start time of the session's server.
    pub(crate) fn use_server(&mut self, started_us: i64) {
        if self.server_started_us != started_us {
            *self = Self { server_started_us: started_us, ..Self::default() };
        }
    }

    /// The coupons of these names, `None` for one that is not cached. Nothing at all before there were
    /// [`CLEAN_BATCHES_MIN`] clean batches in a row.
    pub(crate) fn get(&self, coupon_names: &[&str]) -> Option<Vec<Option<Coupon>>> {
        if self.clean_batches < CLEAN_BATCHES_MIN {
            return None;
        }
        Some(coupon_names.iter().map(|&name| self.coupons.get(name).copied()).collect())
    }

    /// Notes whether a decision without this look-up would have been right.
    pub(crate) fn observe(&mut self, shown: &Snapshot) {
        let is_clean = shown.taken.iter().all(Option::is_none);
        self.clean_batches = if is_clean { self.clean_batches.saturating_add(1) } else { 0 };
    }

    /// Stores how a commit left a coupon.
    pub(crate) fn put(&mut self, name: &str, coupon: Coupon) {
        if let Some(known) = self.coupons.get_mut(name) {
            *known = coupon;
            return;
        }
        if self.coupons.len() >= COUPONS_MAX {
            self.coupons.clear();
        }
        self.coupons.insert(name.to_owned(), coupon);
    }

    /// Forgets all coupons, and that batches were clean.
    pub(crate) fn clear(&mut self) {
        self.coupons.clear();
        self.clean_batches = 0;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::rules::{Stock, Taken};

    fn coupon(remaining: i32) -> Coupon {
        Coupon { stock: Stock { remaining, last_position: 7 }, xmin: 1000 }
    }

    fn observe_clean_batches(cache: &mut StockCache) {
        for _ in 0..CLEAN_BATCHES_MIN {
            assert_eq!(cache.get(&["a"]), None);
            cache.observe(&Snapshot { coupons: vec![Some(coupon(9))], taken: vec![None] });
        }
    }

    #[test]
    fn a_coupon_that_was_not_put_is_none() {
        let mut cache = StockCache::default();
        observe_clean_batches(&mut cache);
        cache.put("a", coupon(9));
        cache.put("b", coupon(8));
        cache.put("a", coupon(5));
        assert_eq!(cache.get(&["a", "b"]), Some(vec![Some(coupon(5)), Some(coupon(8))]));
        assert_eq!(cache.get(&["a", "c"]), Some(vec![Some(coupon(5)), None]));
    }

    #[test]
    fn a_repeated_user_makes_it_wait_for_clean_batches_again() {
        let mut cache = StockCache::default();
        cache.put("a", coupon(9));
        observe_clean_batches(&mut cache);
        assert!(cache.get(&["a"]).is_some());
        let taken = Taken { claim_id: Uuid::nil().into(), position: 1 };
        cache.observe(&Snapshot { coupons: vec![Some(coupon(9))], taken: vec![None, Some(taken)] });
        observe_clean_batches(&mut cache);
        assert!(cache.get(&["a"]).is_some());
        cache.clear();
        observe_clean_batches(&mut cache);
        assert_eq!(cache.get(&["a"]), Some(vec![None]));
    }

    #[test]
    fn another_server_start_empties_it() {
        let mut cache = StockCache::default();
        cache.use_server(1);
        cache.put("a", coupon(9));
        observe_clean_batches(&mut cache);
        cache.use_server(1);
        assert_eq!(cache.get(&["a"]), Some(vec![Some(coupon(9))]));
        cache.use_server(2);
        observe_clean_batches(&mut cache);
        assert_eq!(cache.get(&["a"]), Some(vec![None]));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut cache = StockCache::default();
        for number in 0..3 * COUPONS_MAX {
            cache.put(&number.to_string(), coupon(1));
            assert!(cache.coupons.len() <= COUPONS_MAX);
        }
    }
}
