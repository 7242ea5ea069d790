//! How much of a coupon there was at which time, if its stock was raised by hand.

use std::collections::{BTreeSet, HashMap};

use crate::history::{CouponRow, EventKind, Round};

/// A rise of a coupon's stock.
#[derive(Debug, Clone, Copy)]
struct Raise {
    by: i64,
    begin_us: u64,
    /// None if the statement was not answered: it may have been carried out later, or never.
    end_us: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Amounts<'a>(HashMap<&'a str, Vec<Raise>>);

impl<'a> Amounts<'a> {
    pub(super) fn new(round: &'a Round) -> Self {
        let mut raises: HashMap<&str, Vec<Raise>> = HashMap::new();
        for event in &round.events {
            if let EventKind::StockRaised { coupon, by, begin_us, certain } = &event.kind {
                let end_us = certain.then_some(event.at_us);
                raises.entry(coupon).or_default().push(Raise { by: *by, begin_us: *begin_us, end_us });
            }
        }
        Self(raises)
    }

    fn raises(&self, coupon: &str) -> &[Raise] {
        self.0.get(coupon).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the stock of this coupon was raised at all.
    pub(super) fn is_raised(&self, coupon: &str) -> bool {
        !self.raises(coupon).is_empty()
    }

    /// The least that there was at that moment and later.
    pub(super) fn least(&self, coupon: &CouponRow, at_us: u64) -> i64 {
        let may_come = |raise: &&Raise| raise.end_us.is_none_or(|end_us| end_us > at_us);
        coupon.amount - self.raises(&coupon.name).iter().filter(may_come).map(|raise| raise.by).sum::<i64>()
    }

    /// The most that there was at that moment and before.
    pub(super) fn most(&self, coupon: &CouponRow, at_us: u64) -> i64 {
        let came_later = |raise: &&Raise| raise.end_us.is_some() && raise.begin_us >= at_us;
        coupon.amount - self.raises(&coupon.name).iter().filter(came_later).map(|raise| raise.by).sum::<i64>()
    }

    /// What the coupon can have been created with.
    pub(super) fn at_first(&self, coupon: &CouponRow) -> BTreeSet<i64> {
        let (certain, uncertain): (Vec<Raise>, Vec<Raise>) =
            self.raises(&coupon.name).iter().partition(|raise| raise.end_us.is_some());
        without_some(coupon.amount - certain.iter().map(|raise| raise.by).sum::<i64>(), &uncertain)
    }

    /// All that there can have been at any time.
    pub(super) fn all(&self, coupon: &CouponRow) -> BTreeSet<i64> {
        without_some(coupon.amount, self.raises(&coupon.name))
    }
}

fn without_some(amount: i64, raises: &[Raise]) -> BTreeSet<i64> {
    raises.iter().fold(BTreeSet::from([amount]), |amounts, raise| {
        amounts.iter().flat_map(|amount| [*amount, amount - raise.by]).collect()
    })
}
