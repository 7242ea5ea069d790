//! No false refusal: 409, 400 and 404 agree with the final state and with real time.
//!
//! A refusal is about some moment between the start and the end of its request. Claims never go away, and stock only
//! comes when it is raised by hand, so each refusal can be compared with what came later.

use super::index::{CouponUser, Index, can_have_won};
use super::violation::{Check, Excerpt, Findings};
use crate::history::{ClaimRow, Endpoint, Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for op in &index.round.ops {
        let user = op.user.as_deref().map(|user| (op.coupon.as_str(), user));
        match (op.verdict(), user) {
            (Verdict::AlreadyClaimed, Some(user)) => already_claimed(index, op, user, findings),
            (Verdict::SoldOut, Some(user)) => sold_out(index, op, user, findings),
            (Verdict::NoClaim, Some(user)) => no_claim(index, op, user, findings),
            (Verdict::NoCoupon, user) if user.is_some() || op.endpoint == Endpoint::Show => {
                no_coupon(index, op, findings);
            }
            _ => {}
        }
    }
}

/// The user must have the coupon by another request that had started before this answer.
fn already_claimed<'a>(index: &Index<'a>, op: &'a Op, user: CouponUser<'_>, findings: &mut Findings) {
    let told = format!("user {:?} was told to have {:?} already, but", user.1, user.0);
    let Some(row) = index.row_of.get(&user).copied() else {
        let excerpt = Excerpt::default().op(op);
        return findings.add(Check::FalseAlreadyClaimed, format!("{told} has no row"), excerpt);
    };
    let own = index.claim_of(op);
    let claims = index.claims_of(user);
    let winner = index.known_winner(user);
    let by_http = claims.iter().any(|other| {
        let same_request =
            own.is_some_and(|own| own.id == other.id || (own.key.is_some() && own.key == other.key));
        !same_request && can_have_won(winner, other) && other.start_us < op.end_us
    });
    // A claim that won although it was refused is a violation of its own; what follows from it is not.
    let refused_but_won = index.won_from_us(user).is_none()
        && claims.iter().any(|other| other.id != op.id && other.verdict() == Verdict::NoCoupon);
    let bypassing = winner.is_none() && index.bypassing_from_us(user).is_some_and(|at_us| at_us < op.end_us);
    if !by_http && !bypassing && !refused_but_won {
        let summary = format!("{told} no other request can have taken it by then");
        findings.add(Check::FalseAlreadyClaimed, summary, Excerpt::default().op(op).rows([row]).ops(winner));
    }
}

/// As many must have won as there were at least when the request began. All of them must have asked before this answer,
/// and this user must not be one of them.
fn sold_out(index: &Index<'_>, op: &Op, user: CouponUser<'_>, findings: &mut Findings) {
    let mut add = |summary, excerpt| findings.add(Check::FalseSoldOut, summary, excerpt);
    let excerpt = Excerpt::default().op(op);
    let rows = index.rows_of(user.0);
    let Some(coupon) = index.coupons.get(user.0) else {
        return add(format!("coupon {:?} was called sold out, but does not exist", user.0), excerpt);
    };
    let least = index.amounts.least(coupon, op.start_us);
    let left = coupon.remaining - (coupon.amount - least);
    let had_it = |row: &&&ClaimRow| row.position <= least && !index.is_by_hand(user);
    let rows = &rows[..rows.len().min(usize::try_from(least).unwrap_or_default())];
    if left > 0 {
        add(format!("coupon {:?} was called sold out, but {left} are left", user.0), excerpt);
    } else if let Some(row) = index.row_of.get(&user).filter(had_it) {
        let summary = format!("user {:?} was told that {:?} is sold out, but has it", user.1, user.0);
        add(summary, excerpt.rows([*row]));
    } else if let Some(row) = index.started_from(rows, op.end_us) {
        let (name, position) = (user.0, row.position);
        let summary = format!(
            "coupon {name:?} was called sold out before the claim started that took position {position}"
        );
        add(summary, excerpt.rows([row]).ops(index.known_winner((&row.coupon, &row.user))));
    }
}

/// Nobody can have known of the coupon before this request started.
fn no_coupon(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    if let Some(proof) = index.exists.get(op.coupon.as_str()).filter(|proof| proof.end_us < op.start_us) {
        let summary = format!("coupon {:?} was not found, though it was there before", op.coupon);
        findings.add(Check::FalseNotFound, summary, Excerpt::default().op(proof).op(op));
    }
}

/// After a user was told to have the coupon, a look-up must find the claim.
fn no_claim(index: &Index<'_>, op: &Op, user: CouponUser<'_>, findings: &mut Findings) {
    if let Some(told) = index.told_before(user, op.start_us) {
        let summary = format!("user {:?} has {:?}, but a later look-up did not find it", user.1, user.0);
        findings.add(Check::FalseNotFound, summary, Excerpt::default().op(told).op(op));
    }
}
