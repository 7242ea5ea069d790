//! What the owner of a partition knows of its coupons without asking: what it wrote last.
//!
//! Most batches hold users who have never claimed, of coupons that the batch before was about. They can
//! be decided from memory and written at once, without looking first: the write itself refuses to take
//! place when a stock or a user is not as remembered. So a wrong memory costs time, never truth. Where
//! some coupons are not known, a look at these is enough.

use std::collections::HashMap;

use crate::store::{Coupon, Snapshot};

/// Coupons that are remembered per partition; one more, and all are forgotten.
pub(crate) const REMEMBERED_COUPONS_MAX: usize = 4_096;

/// Batches in a row that memory alone would have decided rightly, before it is trusted. A refused write
/// costs more than a look: where users often claim again, looking first is faster.
const TRUST_AFTER: u32 = 8;

/// One partition's coupons, as its owner left them.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    coupons: HashMap<String, Coupon>,
    unsurprising: u32,
}

impl Memory {
    /// The coupons of these names, `None` for one that is not known; nothing at all before memory has
    /// earned trust.
    pub(crate) fn recall(&self, coupon_names: &[&str]) -> Option<Vec<Option<Coupon>>> {
        if self.unsurprising < TRUST_AFTER {
            return None;
        }
        Some(coupon_names.iter().map(|&name| self.coupons.get(name).copied()).collect())
    }

    /// Notes what a look has shown: whether a decision without it would have been refused.
    pub(crate) fn compare(&mut self, shown: &Snapshot) {
        let surprising = shown.taken.iter().any(Option::is_some);
        self.unsurprising = if surprising { 0 } else { self.unsurprising.saturating_add(1) };
    }

    /// Notes how a committed batch left its coupons.
    pub(crate) fn keep(&mut self, coupons: Vec<(&str, Coupon)>) {
        for (name, coupon) in coupons {
            if let Some(known) = self.coupons.get_mut(name) {
                *known = coupon;
                continue;
            }
            if self.coupons.len() >= REMEMBERED_COUPONS_MAX {
                self.coupons.clear();
            }
            self.coupons.insert(name.to_owned(), coupon);
        }
    }

    /// Forgets everything: what the database holds is not what was thought, or not known.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::rules::{Stock, Taken};

    fn coupon(remaining: i32) -> Coupon {
        Coupon { stock: Stock { remaining, last_position: 7 }, created: [1; 8] }
    }

    fn earn_trust(memory: &mut Memory) {
        for _ in 0..TRUST_AFTER {
            assert_eq!(memory.recall(&["a"]), None);
            memory.compare(&Snapshot { coupons: vec![Some(coupon(9))], taken: vec![None] });
        }
    }

    #[test]
    fn what_is_not_known_is_left_open() {
        let mut memory = Memory::default();
        earn_trust(&mut memory);
        memory.keep(vec![("a", coupon(9)), ("b", coupon(8))]);
        memory.keep(vec![("a", coupon(5))]);
        assert_eq!(memory.recall(&["a", "b"]), Some(vec![Some(coupon(5)), Some(coupon(8))]));
        assert_eq!(memory.recall(&["a", "c"]), Some(vec![Some(coupon(5)), None]));
    }

    #[test]
    fn users_who_claim_again_cost_it_its_trust() {
        let mut memory = Memory::default();
        memory.keep(vec![("a", coupon(9))]);
        earn_trust(&mut memory);
        assert!(memory.recall(&["a"]).is_some());
        let taken = Taken { claim_id: Uuid::nil().into(), position: 1 };
        memory.compare(&Snapshot { coupons: vec![Some(coupon(9))], taken: vec![None, Some(taken)] });
        earn_trust(&mut memory);
        assert!(memory.recall(&["a"]).is_some());
        memory.clear();
        earn_trust(&mut memory);
        assert_eq!(memory.recall(&["a"]), Some(vec![None]));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut memory = Memory::default();
        for number in 0..3 * REMEMBERED_COUPONS_MAX {
            memory.keep(vec![(number.to_string().as_str(), coupon(1))]);
            assert!(memory.coupons.len() <= REMEMBERED_COUPONS_MAX);
        }
    }
}
