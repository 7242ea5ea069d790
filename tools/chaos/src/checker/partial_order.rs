//! What an incomplete journal still proves about order.
//!
//! A claim can have been in the queue twice: its client repeated it, or its message was published again. The
//! copy that nobody saw may have come first. So this looks only at users who sent exactly one claim over HTTP
//! and had none published otherwise.
//!
//! Such a claim keeps its sequence number, also in a stream that was set back to an older copy, and
//! wherever it is, everything that stood before it is there as well. So of two of them that were seen in one
//! generation, the one with the lower number was applied first, whichever generation it was applied in. Only
//! after a purge at an unknown moment may one be gone while others behind it were applied: then two
//! winners can still be out of order, but a loser in front of a winner proves nothing.

use std::collections::BTreeMap;

use super::index::{CouponUser, Index};
use super::violation::{Check, Excerpt, Findings};
use crate::history::{ClaimRow, Journal, Message};

/// A claim in the queue, and its row if it is the one that won.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    message: &'a Message,
    place: usize,
    user: CouponUser<'a>,
    row: Option<&'a ClaimRow>,
}

pub(super) fn check(index: &Index<'_>, journal: &Journal, findings: &mut Findings) {
    let mut lines: BTreeMap<(&str, u64), Vec<Seen<'_>>> = BTreeMap::new();
    for message in &journal.messages {
        for (place, claim) in message.claims.iter().enumerate() {
            let user: CouponUser<'_> = (&claim.coupon, &claim.user);
            let here = index.coupons.get(user.0).is_some_and(|c| c.partition == journal.partition);
            if here && index.sent_once(user) {
                let row = index.row_of.get(&user).copied().filter(|row| row.claim_id == claim.claim_id);
                let seen = Seen { message, place, user, row };
                lines.entry((user.0, message.generation)).or_default().push(seen);
            }
        }
    }
    for line in lines.values() {
        // Who was refused before stock was raised did not get it before later users.
        let is_raised = line.first().is_some_and(|seen| index.amounts.is_raised(seen.user.0));
        let passed_over = || passed_over(index, line).filter(|_| !journal.doubtful && !is_raised);
        let Some((first, second)) = out_of_order(line).or_else(passed_over) else { continue };
        let ((coupon, before), (_, after)) = (first.user, second.user);
        let summary = format!(
            "coupon {coupon:?}: user {before:?} came before {after:?} in the queue, but did not get it before"
        );
        let excerpt = [first, second].into_iter().fold(Excerpt::default(), |excerpt, seen| {
            excerpt.queued(journal.partition, seen.message, seen.place).rows(seen.row)
        });
        findings.add(Check::Order, summary, excerpt);
    }
}

/// Two winners, of whom the second in the queue has the lower position.
fn out_of_order<'s, 'a>(line: &'s [Seen<'a>]) -> Option<(&'s Seen<'a>, &'s Seen<'a>)> {
    let winners: Vec<_> = line.iter().filter_map(|seen| Some((seen, seen.row?.position))).collect();
    let pair = winners.windows(2).find(|pair| pair[0].1 > pair[1].1)?;
    Some((pair[0].0, pair[1].0))
}

/// A user without a row, and a winner behind. A user who asked before the coupon is known to have been there may
/// have been refused rightly.
fn passed_over<'s, 'a>(index: &Index<'_>, line: &'s [Seen<'a>]) -> Option<(&'s Seen<'a>, &'s Seen<'a>)> {
    let loser = line.iter().position(|seen| {
        let times = index.exists.get(seen.user.0).zip(index.asked_from_us(seen.user));
        times.is_some_and(|(exists, asked_us)| exists.end_us < asked_us)
            && !index.row_of.contains_key(&seen.user)
    })?;
    let winner = line[loser..].iter().find(|seen| seen.row.is_some())?;
    Some((&line[loser], winner))
}
