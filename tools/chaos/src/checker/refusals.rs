//! No false refusal: 409, 400 and 404 agree with the final state and with real time.
//!
//! A refusal speaks about some moment between the start and the end of its request. Stock never comes back
//! and claims never go away, so each refusal can be held against what came later.

use super::index::{Holder, Index};
use super::violation::{Check, Findings};
use crate::history::{Endpoint, Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for op in &index.round.ops {
        let verdict = op.verdict();
        if op.endpoint == Endpoint::Show && verdict == Verdict::NoCoupon {
            no_coupon(index, op, findings);
        }
        let Some(user) = op.user.as_deref() else { continue };
        let holder: Holder<'_> = (&op.coupon, user);
        match verdict {
            Verdict::AlreadyClaimed => already_claimed(index, op, holder, findings),
            Verdict::SoldOut => sold_out(index, op, holder, findings),
            Verdict::NoCoupon => no_coupon(index, op, findings),
            Verdict::NoClaim => no_claim(index, op, holder, findings),
            _ => {}
        }
    }
}

/// The user must have it by another request that had started before this answer.
fn already_claimed<'a>(index: &Index<'a>, op: &'a Op, holder: Holder<'_>, findings: &mut Findings) {
    let Some(row) = index.row_of.get(&holder) else {
        findings.add(
            Check::FalseAlreadyClaimed,
            || format!("user {:?} was told to have {:?} already, but has no row", holder.1, holder.0),
            |excerpt| excerpt.op(op),
        );
        return;
    };
    let own = index.claim_of(op);
    let claims = index.claims.get(&holder).map(Vec::as_slice).unwrap_or_default();
    let winner = index.known_winner(holder);
    let by_http = claims.iter().any(|other| {
        let same_request =
            own.is_some_and(|own| own.id == other.id || (own.key.is_some() && own.key == other.key));
        let can_have_won = match winner {
            Some(winner) if winner.key.is_some() => winner.key == other.key,
            Some(winner) => winner.id == other.id,
            None => !other.verdict().is_refusal(),
        };
        !same_request && can_have_won && other.start_us < op.end_us
    });
    // A claim that won although it was refused is a violation of its own; what follows from it is not.
    let refused_but_won = index.won_from_us(holder).is_none()
        && claims.iter().any(|other| other.id != op.id && other.verdict() == Verdict::NoCoupon);
    let otherwise = winner.is_none() && index.past_the_api_us(holder).is_some_and(|at_us| at_us < op.end_us);
    if !by_http && !otherwise && !refused_but_won {
        findings.add(
            Check::FalseAlreadyClaimed,
            || {
                format!(
                    "user {:?} was told to have {:?} already, but no other request can have taken it by then",
                    holder.1, holder.0
                )
            },
            |excerpt| winner.into_iter().fold(excerpt.op(op).row(row), |excerpt, winner| excerpt.op(winner)),
        );
    }
}

/// All stock must have gone to claims that had started, and none of it to this user.
fn sold_out(index: &Index<'_>, op: &Op, holder: Holder<'_>, findings: &mut Findings) {
    let Some(coupon) = index.coupons.get(holder.0) else {
        findings.add(
            Check::FalseSoldOut,
            || format!("coupon {:?} was called sold out, but does not exist", holder.0),
            |excerpt| excerpt.op(op),
        );
        return;
    };
    if coupon.remaining > 0 {
        findings.add(
            Check::FalseSoldOut,
            || format!("coupon {:?} was called sold out, but {} are left", holder.0, coupon.remaining),
            |excerpt| excerpt.op(op),
        );
        return;
    }
    if let Some(row) = index.row_of.get(&holder).filter(|_| !index.is_by_hand(holder)) {
        findings.add(
            Check::FalseSoldOut,
            || format!("user {:?} was told that {:?} is sold out, but has it", holder.1, holder.0),
            |excerpt| excerpt.op(op).row(row),
        );
        return;
    }
    let late = index
        .rows_of(holder.0)
        .iter()
        .find(|row| index.won_from_us((&row.coupon, &row.user)).is_some_and(|from_us| from_us >= op.end_us));
    if let Some(row) = late {
        findings.add(
            Check::FalseSoldOut,
            || {
                format!(
                    "coupon {:?} was called sold out before the claim had started that took position {}",
                    holder.0, row.position
                )
            },
            |excerpt| {
                let winner = index.known_winner((&row.coupon, &row.user));
                winner.into_iter().fold(excerpt.op(op).row(row), |excerpt, winner| excerpt.op(winner))
            },
        );
    }
}

/// Nobody can have known of the coupon before this request started.
fn no_coupon(index: &Index<'_>, op: &Op, findings: &mut Findings) {
    if let Some(proof) = index.exists.get(op.coupon.as_str()).filter(|proof| proof.end_us < op.start_us) {
        findings.add(
            Check::FalseNotFound,
            || format!("coupon {:?} was not found, though it was there before", op.coupon),
            |excerpt| excerpt.op(proof).op(op),
        );
    }
}

/// A user who was told to have the coupon must be found by whoever asks afterwards.
fn no_claim(index: &Index<'_>, op: &Op, holder: Holder<'_>, findings: &mut Findings) {
    let claims = index.claims.get(&holder).map(Vec::as_slice).unwrap_or_default();
    let told = claims.iter().find(|claim| claim.verdict() == Verdict::Won && claim.end_us < op.start_us);
    if let Some(told) = told {
        findings.add(
            Check::FalseNotFound,
            || format!("user {:?} has {:?}, but a later look-up did not find it", holder.1, holder.0),
            |excerpt| excerpt.op(told).op(op),
        );
    }
}
