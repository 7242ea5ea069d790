//! Rows among themselves: stock, one row per user, positions, and where each row comes from.

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::state::{ClaimRow, CouponRow};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for coupon in index.coupons.values() {
        let rows = index.rows_of(&coupon.name);
        conservation(coupon, rows, findings);
        once_per_user(coupon, rows, findings);
        positions(coupon, rows, findings);
    }
    for (name, rows) in &index.rows {
        if !index.coupons.contains_key(name) {
            findings.add(
                Check::RowWithoutRequest,
                || format!("{} claims of coupon {name:?}, which does not exist", rows.len()),
                |excerpt| rows.iter().take(3).fold(excerpt, |excerpt, row| excerpt.row(row)),
            );
        }
    }
    for row in &index.round.state.claims {
        let holder = (row.coupon.as_str(), row.user.as_str());
        if index.asked_from_us(holder).is_some() && index.won_from_us(holder).is_none() {
            let claims = index.claims.get(&holder).into_iter().flatten().copied();
            findings.add(
                Check::WonAfterRefusal,
                || format!("user {:?} has coupon {:?}, but every request was refused", row.user, row.coupon),
                |excerpt| excerpt.row(row).ops(claims),
            );
        }
        if index.asked_from_us(holder).is_none() {
            findings.add(
                Check::RowWithoutRequest,
                || format!("user {:?} has coupon {:?} without ever asking for it", row.user, row.coupon),
                |excerpt| excerpt.row(row),
            );
        }
    }
}

fn coupon_line(coupon: &CouponRow) -> String {
    format!("coupon: {:?} amount {} remaining {}", coupon.name, coupon.amount, coupon.remaining)
}

fn conservation(coupon: &CouponRow, rows: &[&ClaimRow], findings: &mut Findings) {
    let claimed = rows.len() as i64;
    if coupon.remaining < 0 || coupon.amount != coupon.remaining + claimed {
        findings.add(
            Check::Conservation,
            || {
                format!(
                    "coupon {:?}: amount {} is not remaining {} and {claimed} claims",
                    coupon.name, coupon.amount, coupon.remaining
                )
            },
            |excerpt| excerpt.text(coupon_line(coupon)),
        );
    }
}

fn once_per_user(coupon: &CouponRow, rows: &[&ClaimRow], findings: &mut Findings) {
    for repeated in Index::repeated(rows) {
        findings.add(
            Check::OncePerUser,
            || format!("user {:?} has coupon {:?} more than once", repeated.user, coupon.name),
            |excerpt| {
                rows.iter()
                    .filter(|row| row.user == repeated.user)
                    .fold(excerpt, |excerpt, row| excerpt.row(row))
            },
        );
    }
}

fn positions(coupon: &CouponRow, rows: &[&ClaimRow], findings: &mut Findings) {
    // Rows are in the order of their positions, so the first that is off shows the gap or the repeat.
    let off = rows.iter().enumerate().find(|(place, row)| row.position != *place as i64 + 1);
    if let Some((place, row)) = off {
        findings.add(
            Check::Positions,
            || {
                format!(
                    "coupon {:?}: position {} stands where {} belongs",
                    coupon.name,
                    row.position,
                    place + 1
                )
            },
            |excerpt: Excerpt| match place.checked_sub(1) {
                Some(before) => excerpt.row(rows[before]).row(row),
                None => excerpt.row(row),
            },
        );
    }
}
