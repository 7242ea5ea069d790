//! The rows themselves: stock, one row per user, positions, and the request behind each row.

use std::collections::HashSet;

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{ClaimRow, CouponRow};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for coupon in index.coupons.values() {
        let rows = index.rows_of(&coupon.name);
        conservation(coupon, rows, findings);
        once_per_user(coupon, rows, findings);
        positions(coupon, rows, findings);
    }
    for (name, rows) in index.rows.iter().filter(|(name, _)| !index.coupons.contains_key(*name)) {
        let summary = format!("{} claims of coupon {name:?}, which does not exist", rows.len());
        let excerpt = Excerpt::default().rows(rows.iter().take(3).copied());
        findings.add(Check::RowWithoutRequest, summary, excerpt);
    }
    for row in &index.round.state.claims {
        let user = (row.coupon.as_str(), row.user.as_str());
        let excerpt = Excerpt::default().rows([row]);
        if index.asked_from_us(user).is_none() {
            let summary =
                format!("user {:?} has coupon {:?} without ever asking for it", row.user, row.coupon);
            findings.add(Check::RowWithoutRequest, summary, excerpt);
        } else if index.won_from_us(user).is_none() {
            let summary =
                format!("user {:?} has coupon {:?}, but every request was refused", row.user, row.coupon);
            let excerpt = excerpt.ops(index.claims_of(user).iter().copied());
            findings.add(Check::WonAfterRefusal, summary, excerpt);
        }
    }
}

fn conservation(coupon: &CouponRow, rows: &[&ClaimRow], findings: &mut Findings) {
    let CouponRow { name, amount, remaining, .. } = coupon;
    let claimed = rows.len() as i64;
    if *remaining < 0 || *amount != remaining + claimed {
        let summary =
            format!("coupon {name:?}: amount {amount} is not remaining {remaining} and {claimed} claims");
        findings.add(Check::Conservation, summary, Excerpt::default());
    }
}

fn once_per_user(coupon: &CouponRow, rows: &[&ClaimRow], findings: &mut Findings) {
    let mut seen = HashSet::new();
    for repeated in rows.iter().filter(|row| !seen.insert(&row.user)) {
        let summary = format!("user {:?} has coupon {:?} more than once", repeated.user, coupon.name);
        let same = rows.iter().filter(|row| row.user == repeated.user).copied();
        findings.add(Check::OncePerUser, summary, Excerpt::default().rows(same));
    }
}

/// Rows are sorted by position, so the first wrong one shows the gap or the repetition.
fn positions(coupon: &CouponRow, rows: &[&ClaimRow], findings: &mut Findings) {
    let wrong = (1..).zip(rows).find(|(expected, row)| row.position != *expected);
    if let Some((expected, row)) = wrong {
        let summary =
            format!("coupon {:?}: position {} where {expected} is expected", coupon.name, row.position);
        let around = rows.iter().skip((expected as usize).saturating_sub(2)).take(2).copied();
        findings.add(Check::Positions, summary, Excerpt::default().rows(around));
    }
}
