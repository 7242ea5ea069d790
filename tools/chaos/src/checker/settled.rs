//! A definite answer for everyone, soon after healing.

use std::collections::BTreeMap;

use super::index::Index;
use super::violation::{Check, Findings};
use crate::history::{Op, OpId};

/// The longest that a client may be without a definite answer once everything works again.
pub const SETTLE_US: u64 = 30_000_000;

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let healed_us = index.round.healed_us();
    let mut chains: BTreeMap<OpId, Vec<&Op>> = BTreeMap::new();
    for op in &index.round.ops {
        chains.entry(op.root).or_default().push(op);
    }
    for chain in chains.values().filter(|chain| chain.iter().any(|op| op.settles)) {
        let settled = chain.iter().filter(|op| op.verdict().is_definite()).map(|op| op.end_us).min();
        let in_time = match (settled, healed_us) {
            (Some(settled_us), Some(healed_us)) => settled_us <= healed_us + SETTLE_US,
            (settled, _) => settled.is_some(),
        };
        if !in_time {
            let last = chain[chain.len() - 1];
            findings.add(
                Check::Unsettled,
                || match settled {
                    Some(_) => format!("a request for {:?} was settled too late after healing", last.coupon),
                    None => format!("a request for {:?} never got a definite answer", last.coupon),
                },
                |excerpt| {
                    let healed = index.round.events.iter().rev().find(|event| Some(event.at_us) == healed_us);
                    let excerpt = healed.into_iter().fold(excerpt, |excerpt, event| excerpt.event(event));
                    excerpt.op(chain[0]).ops((chain.len() > 1).then_some(last))
                },
            );
        }
    }
}
