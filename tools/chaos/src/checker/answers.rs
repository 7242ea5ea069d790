//! No false acceptance: what an answer says was done, was done.

use std::collections::HashMap;

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Endpoint, Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let mut created: HashMap<&str, &Op> = HashMap::new();
    for op in &index.round.ops {
        match op.verdict() {
            Verdict::Won => won(index, op, findings),
            Verdict::Created => {
                creation(index, op, findings);
                if let Some(first) = created.insert(&op.coupon, op) {
                    let summary = format!("coupon {:?} was created twice", op.coupon);
                    findings.add(Check::FalseCreation, summary, Excerpt::default().op(first).op(op));
                }
            }
            Verdict::Exists => exists(index, op, findings),
            _ => {}
        }
    }
}

/// There must be a row with the claim's id and position of the answer.
fn won(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    let (Some(user), Some(response)) = (&op.user, op.response()) else { return };
    let row = index.row_of.get(&(op.coupon.as_str(), user.as_str())).copied();
    let same = row.is_some_and(|row| {
        response.claim_id.as_deref() == Some(&row.claim_id)
            && response.position.is_some_and(|position| i64::try_from(position) == Ok(row.position))
    });
    if !same {
        let summary = match row {
            Some(_) => format!("user {user:?} was told another claim of {:?} than the row's", op.coupon),
            None => format!("user {user:?} was told to have {:?}, but there is no row", op.coupon),
        };
        findings.add(Check::FalseAcceptance, summary, Excerpt::default().op(op).rows(row));
    }
    let Some((coupon, position)) = index.coupons.get(op.coupon.as_str()).zip(response.position) else {
        return;
    };
    let most = index.amounts.most(coupon, op.end_us);
    if i64::try_from(position).is_ok_and(|position| position > most) {
        let summary = format!("position {position} of {:?} was told when there were only {most}", op.coupon);
        findings.add(Check::Conservation, summary, Excerpt::default().op(op));
    }
}

fn creation(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    let coupon = index.coupons.get(op.coupon.as_str());
    let row = coupon.map(|coupon| coupon.amount);
    let amount = op.amount.and_then(|amount| i64::try_from(amount).ok());
    let possible = coupon.map(|coupon| index.amounts.at_first(coupon)).unwrap_or_default();
    if !amount.is_some_and(|amount| possible.contains(&amount)) {
        let summary = format!("coupon {:?} was created, but its row is missing or another", op.coupon);
        let excerpt = Excerpt::default().op(op).text(format!("coupon: amount {row:?}"));
        findings.add(Check::FalseCreation, summary, excerpt);
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
        let summary = format!("coupon {:?} was said to exist before anyone can have created it", op.coupon);
        findings.add(Check::FalseCreation, summary, Excerpt::default().op(op));
    }
}
