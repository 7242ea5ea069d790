//! No false acceptance: whatever was told to have been done, was done.

use std::collections::HashMap;

use super::index::Index;
use super::violation::{Check, Findings};
use crate::history::{Endpoint, Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let mut created: HashMap<&str, &Op> = HashMap::new();
    for op in &index.round.ops {
        match op.verdict() {
            Verdict::Won => won(index, op, findings),
            Verdict::Created => {
                creation(index, op, findings);
                if let Some(first) = created.insert(&op.coupon, op) {
                    findings.add(
                        Check::FalseCreation,
                        || format!("coupon {:?} was created twice", op.coupon),
                        |excerpt| excerpt.op(first).op(op),
                    );
                }
            }
            Verdict::Exists => exists(index, op, findings),
            _ => {}
        }
    }
}

/// The row must be there, with the claim's id and position that were told.
fn won(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    let Some(user) = op.user.as_deref() else { return };
    let (Some(response), row) = (op.response(), index.row_of.get(&(op.coupon.as_str(), user))) else {
        return;
    };
    let same = row.is_some_and(|row| {
        response.claim_id.as_deref() == Some(&row.claim_id)
            && response.position.is_some_and(|position| i64::try_from(position) == Ok(row.position))
    });
    if !same {
        findings.add(
            Check::FalseAcceptance,
            || match row {
                Some(_) => format!("user {user:?} was told another claim of {:?} than the row's", op.coupon),
                None => format!("user {user:?} was told to have {:?}, but there is no row", op.coupon),
            },
            |excerpt| row.into_iter().fold(excerpt.op(op), |excerpt, row| excerpt.row(row)),
        );
    }
}

fn creation(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    let coupon = index.coupons.get(op.coupon.as_str());
    let amount = op.amount.and_then(|amount| i64::try_from(amount).ok());
    if coupon.is_none_or(|coupon| Some(coupon.amount) != amount) {
        findings.add(
            Check::FalseCreation,
            || format!("coupon {:?} was created, but its row is missing or another", op.coupon),
            |excerpt| match coupon {
                Some(coupon) => excerpt.op(op).text(format!("coupon: amount {}", coupon.amount)),
                None => excerpt.op(op),
            },
        );
    }
}

/// "Exists" needs a coupon, and another request that can have created it.
fn exists(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    let other = index.round.ops.iter().any(|other| {
        other.id != op.id
            && other.endpoint == Endpoint::Create
            && other.coupon == op.coupon
            && other.start_us < op.end_us
            && other.verdict() != Verdict::Exists
    });
    if !other || !index.coupons.contains_key(op.coupon.as_str()) {
        findings.add(
            Check::FalseCreation,
            || format!("coupon {:?} was said to exist before anyone can have created it", op.coupon),
            |excerpt| excerpt.op(op),
        );
    }
}
