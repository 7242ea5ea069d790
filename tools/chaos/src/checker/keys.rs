//! The same key always gets the same outcome.

use std::collections::BTreeMap;

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&Op>> = BTreeMap::new();
    for ((coupon, user), answers) in &index.answers {
        for answer in answers {
            if let Some(key) = &answer.claim.key {
                groups.entry((coupon, user, key)).or_default().push(answer.op);
            }
        }
    }
    for ((coupon, user, _), ops) in groups {
        let Some(first) = ops.iter().copied().find(|op| op.verdict() == Verdict::Won) else { continue };
        for op in ops {
            let wrong = match op.verdict() {
                Verdict::Won => claim(op) != claim(first),
                // One of the two answers must be about another claim.
                Verdict::AlreadyClaimed => true,
                // Other refusals may come before a win, and are then checked as refusals; never after it.
                Verdict::SoldOut | Verdict::NoCoupon => op.start_us > first.end_us,
                _ => false,
            };
            if wrong {
                let summary = format!("user {user:?} got two outcomes for {coupon:?} with one key");
                findings.add(Check::SameKey, summary, Excerpt::default().op(first).op(op));
            }
        }
    }
}

fn claim(op: &Op) -> Option<(&str, u64)> {
    let response = op.response()?;
    Some((response.claim_id.as_deref()?, response.position?))
}
