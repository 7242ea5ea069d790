//! What a journal with gaps still proves about order.
//!
//! A claim can have been in the queue twice: its client repeated it, or its message was published again. The
//! copy that nobody saw may have come first. So only users are looked at who sent exactly one claim over HTTP
//! and had none put into the queue otherwise; theirs was published once.
//!
//! Such a claim keeps its sequence number for life, also in a stream that was set back to an older copy, and
//! wherever it is, everything that stood before it is there as well. So of two of them that were seen in one
//! generation, the one with the lower number was applied first, whichever generation it was applied in. Only
//! where a purge left no trace of when it happened may one be gone while others behind it were applied: then two
//! winners can still be out of order, but a loser in front of a winner proves nothing.

use std::collections::BTreeMap;

use super::index::{Holder, Index};
use super::order::describe;
use super::violation::{Check, Findings};
use crate::history::Claim;
use crate::state::{ClaimRow, Journal, Message};

/// A claim in the queue, and its row if it is the one that won.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    message: &'a Message,
    place: usize,
    claim: &'a Claim,
    row: Option<&'a ClaimRow>,
}

pub(super) fn check(index: &Index<'_>, journal: &Journal, findings: &mut Findings) {
    let mut lines: BTreeMap<(&str, u64), Vec<Seen<'_>>> = BTreeMap::new();
    for message in &journal.messages {
        for (place, claim) in message.claims.iter().enumerate() {
            let holder: Holder<'_> = (&claim.coupon, &claim.user);
            let here = index.coupons.get(holder.0).is_some_and(|c| c.partition == journal.partition);
            if here && index.sent_once(holder) {
                let row = index.row_of.get(&holder).copied().filter(|row| row.claim_id == claim.claim_id);
                let seen = Seen { message, place, claim, row };
                lines.entry((holder.0, message.generation)).or_default().push(seen);
            }
        }
    }
    for line in lines.values() {
        if let Some((before, after)) = out_of_order(line) {
            report(journal, before, after, findings);
        } else if let Some((loser, winner)) = passed_over(index, line).filter(|_| !journal.doubtful) {
            report(journal, loser, winner, findings);
        }
    }
}

/// Two winners, of whom the second in the queue has the lower position.
fn out_of_order<'s, 'a>(line: &'s [Seen<'a>]) -> Option<(&'s Seen<'a>, &'s Seen<'a>)> {
    let winners: Vec<_> = line.iter().filter_map(|seen| Some((seen, seen.row?.position))).collect();
    let pair = winners.windows(2).find(|pair| pair[0].1 > pair[1].1)?;
    Some((pair[0].0, pair[1].0))
}

/// Someone without a row, and a winner behind. Who asked before the coupon is known to have been there may
/// have been refused rightly.
fn passed_over<'s, 'a>(index: &Index<'_>, line: &'s [Seen<'a>]) -> Option<(&'s Seen<'a>, &'s Seen<'a>)> {
    let loser = line.iter().position(|seen| {
        let holder: Holder<'_> = (&seen.claim.coupon, &seen.claim.user);
        let in_time = match (index.exists.get(holder.0), index.asked_from_us(holder)) {
            (Some(exists), Some(asked_us)) => exists.end_us < asked_us,
            _ => false,
        };
        in_time && !index.row_of.contains_key(&holder)
    })?;
    let winner = line[loser..].iter().find(|seen| seen.row.is_some())?;
    Some((&line[loser], winner))
}

fn report(journal: &Journal, first: &Seen<'_>, second: &Seen<'_>, findings: &mut Findings) {
    findings.add(
        Check::Order,
        || {
            let (coupon, first, second) = (&first.claim.coupon, &first.claim.user, &second.claim.user);
            format!("coupon {coupon:?}: user {first:?} came before {second:?} in the queue, but did not get it before")
        },
        |excerpt| {
            [first, second].into_iter().fold(excerpt, |excerpt, seen| {
                let excerpt = excerpt.text(describe(journal.partition, seen.message, seen.place, seen.claim));
                seen.row.into_iter().fold(excerpt, |excerpt, row| excerpt.row(row))
            })
        },
    );
}
