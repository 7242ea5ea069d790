//! A definite answer for everyone, soon after healing.

use std::collections::BTreeMap;

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Op, OpId};

/// The longest that a client may be without a definite answer after healing.
pub const SETTLE_US: u64 = 30_000_000;

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let healed_us = index.round.healed_us();
    let latest_us = healed_us.map_or(u64::MAX, |healed_us| healed_us + SETTLE_US);
    let mut chains: BTreeMap<OpId, Vec<&Op>> = BTreeMap::new();
    for op in &index.round.ops {
        chains.entry(op.root).or_default().push(op);
    }
    for chain in chains.values().filter(|chain| chain.iter().any(|op| op.settles)) {
        let settled_us = chain.iter().filter(|op| op.verdict().is_definite()).map(|op| op.end_us).min();
        if settled_us.is_some_and(|settled_us| settled_us <= latest_us) {
            continue;
        }
        let last = chain[chain.len() - 1];
        let summary = match settled_us {
            Some(_) => format!("a request for {:?} was settled too late after healing", last.coupon),
            None => format!("a request for {:?} never got a definite answer", last.coupon),
        };
        let healed = index.round.events.iter().rev().find(|event| Some(event.at_us) == healed_us);
        let excerpt = healed.map_or_else(Excerpt::default, |event| Excerpt::default().event(event));
        let excerpt = excerpt.op(chain[0]).ops((chain.len() > 1).then_some(last));
        findings.add(Check::Unsettled, summary, excerpt);
    }
}
