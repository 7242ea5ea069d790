//! Only answers that the contract allows, with the headers that it promises.

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Endpoint, Op, Verdict};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for op in &index.round.ops {
        if let Some(wrong) = wrong(op) {
            findings.add(Check::Contract, format!("an answer {wrong}"), Excerpt::default().op(op));
        }
    }
}

fn wrong(op: &Op) -> Option<&'static str> {
    let response = op.response();
    let is_other =
        |named: &Option<String>, asked: Option<&String>| named.is_some() && named.as_ref() != asked;
    if response.is_some_and(|response| {
        is_other(&response.coupon, Some(&op.coupon)) || is_other(&response.user, op.user.as_ref())
    }) {
        return Some("about another coupon or another user");
    }
    match op.verdict() {
        Verdict::Unexpected => Some("that a valid request never gets"),
        Verdict::TryAgain if response?.retry_after_s.is_none() => Some("503 without Retry-After"),
        Verdict::Pending if op.endpoint == Endpoint::Claim && response?.location.is_none() => {
            Some("202 without Location")
        }
        Verdict::Created if response?.location.is_none() => Some("201 without Location"),
        Verdict::Won if response?.claim_id.is_none() || response?.position.is_none() => {
            Some("200 without claim_id or position")
        }
        _ => None,
    }
}
