//! A coupon as it was shown: one state that it really had during the request.

use super::index::Index;
use super::violation::{Check, Findings};
use crate::history::{CouponView, Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for op in &index.round.ops {
        let Some(view) = op.response().and_then(|response| response.view.as_ref()) else { continue };
        if let Some(wrong) = wrong(index, op, view) {
            findings.add(
                Check::FalseView,
                || format!("coupon {:?} was shown {wrong}", op.coupon),
                |excerpt| excerpt.op(op),
            );
        }
    }
}

fn wrong(index: &Index<'_>, op: &Op, view: &CouponView) -> Option<String> {
    let Some(coupon) = index.coupons.get(op.coupon.as_str()) else {
        return Some("but does not exist".into());
    };
    if i64::try_from(view.amount) != Ok(coupon.amount) {
        return Some(format!("with amount {}, not {}", view.amount, coupon.amount));
    }
    if view.amount != view.remaining + view.claimed_by.len() as u64 {
        return Some(format!(
            "with {} of {} left and {} claims",
            view.remaining,
            view.amount,
            view.claimed_by.len()
        ));
    }
    let rows = index.rows_of(&op.coupon);
    let in_order = view.claimed_by.len() <= rows.len()
        && view.claimed_by.iter().zip(rows).all(|(user, row)| *user == row.user);
    if !in_order {
        return Some("with other winners than its rows, or in another order".into());
    }
    // Rows are in order, so who was told to have won before must stand within what is shown.
    let told_before = |row: &&&crate::state::ClaimRow| {
        let claims = index.claims.get(&(row.coupon.as_str(), row.user.as_str()));
        claims
            .into_iter()
            .flatten()
            .any(|claim| claim.verdict() == Verdict::Won && claim.end_us < op.start_us)
    };
    let missing = rows[view.claimed_by.len()..].iter().find(told_before);
    if let Some(row) = missing {
        return Some(format!("without user {:?}, who had been told to have it before", row.user));
    }
    let early = rows[..view.claimed_by.len()]
        .iter()
        .find(|row| index.won_from_us((&row.coupon, &row.user)).is_some_and(|from_us| from_us >= op.end_us));
    early.map(|row| format!("with user {:?}, whose claim had not started", row.user))
}
