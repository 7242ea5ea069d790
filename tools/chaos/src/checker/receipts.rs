//! A receipt tells the outcome in the end: what the queue held has been decided.

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Endpoint, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let Some(quiet_us) = index.round.quiet_us() else { return };
    let late = index.round.ops.iter().filter(|op| op.endpoint == Endpoint::Lookup && op.start_us >= quiet_us);
    for op in late.filter(|op| op.verdict() == Verdict::Pending) {
        let summary =
            format!("a claim of {:?} is called pending, but its queue was applied to its end", op.coupon);
        findings.add(Check::FalsePending, summary, Excerpt::default().ops(index.claim_of(op)).op(op));
    }
}
