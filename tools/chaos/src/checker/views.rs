//! A coupon as it was shown: one state that it really had during the request.

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{ClaimRow, CouponView, Op};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for op in &index.round.ops {
        let Some(view) = op.response().and_then(|response| response.view.as_ref()) else { continue };
        if let Some(wrong) = wrong(index, op, view) {
            let summary = format!("coupon {:?} was shown {wrong}", op.coupon);
            findings.add(Check::FalseView, summary, Excerpt::default().op(op));
        }
    }
}

fn wrong(index: &Index<'_>, op: &Op, view: &CouponView) -> Option<String> {
    let CouponView { amount, remaining, claimed_by } = view;
    let Some(coupon) = index.coupons.get(op.coupon.as_str()) else {
        return Some("but does not exist".into());
    };
    let possible = index.amounts.least(coupon, op.start_us)..=index.amounts.most(coupon, op.end_us);
    let is_possible = |amount: i64| possible.contains(&amount) && index.amounts.all(coupon).contains(&amount);
    if !i64::try_from(*amount).is_ok_and(is_possible) {
        return Some(format!("with amount {amount}, not {possible:?}"));
    }
    if *amount != remaining + claimed_by.len() as u64 {
        return Some(format!("with {remaining} of {amount} left and {} claims", claimed_by.len()));
    }
    let rows = index.rows_of(&op.coupon);
    if claimed_by.len() > rows.len() || !claimed_by.iter().zip(rows).all(|(user, row)| *user == row.user) {
        return Some("with other winners than its rows, or in another order".into());
    }
    // Rows are in order, so users who were told to have won before must be among those shown.
    let (shown, hidden) = rows.split_at(claimed_by.len());
    let told = |row: &&&ClaimRow| index.told_before((&row.coupon, &row.user), op.start_us).is_some();
    if let Some(row) = hidden.iter().find(told) {
        return Some(format!("without user {:?}, who had been told to have it before", row.user));
    }
    let early = index.started_from(shown, op.end_us);
    early.map(|row| format!("with user {:?}, whose claim had not started", row.user))
}
