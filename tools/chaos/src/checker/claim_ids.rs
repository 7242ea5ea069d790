//! A claim's id belongs to one claim: one coupon, one user, and one key or, without a key, one request.

use std::collections::BTreeMap;

use super::index::{CouponUser, Index};
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Op, OpId};

/// What makes a claim of a user one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Request<'a> {
    Key(&'a str),
    Op(OpId),
}

/// Where an id was seen.
#[derive(Debug, Clone, Copy)]
struct Sighting<'a> {
    id: &'a str,
    user: CouponUser<'a>,
    /// Unknown in a row and in the queue.
    request: Option<Request<'a>>,
    op: Option<&'a Op>,
}

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let mut users: BTreeMap<&str, Sighting<'_>> = BTreeMap::new();
    let mut requests: BTreeMap<&str, Sighting<'_>> = BTreeMap::new();
    let mut ids: BTreeMap<(CouponUser<'_>, Request<'_>), Sighting<'_>> = BTreeMap::new();
    let mut add = |first: Sighting<'_>, second: Sighting<'_>, what: &str| {
        let summary = format!("claim id {:?} {what}", first.id);
        let excerpt = [first, second].into_iter().fold(Excerpt::default(), |excerpt, seen| {
            let (coupon, user) = seen.user;
            excerpt.text(format!("{} of coupon {coupon:?} and user {user:?}", seen.id)).ops(seen.op)
        });
        findings.add(Check::ClaimId, summary, excerpt);
    };
    for seen in sightings(index) {
        let first = *users.entry(seen.id).or_insert(seen);
        if first.user != seen.user {
            add(first, seen, "belongs to two users or coupons");
            continue;
        }
        let Some(request) = seen.request else { continue };
        let first = *requests.entry(seen.id).or_insert(seen);
        if first.request != seen.request {
            add(first, seen, "belongs to two requests that are not the same claim");
        }
        let first = *ids.entry((seen.user, request)).or_insert(seen);
        if first.id != seen.id {
            add(first, seen, "is not the only one of its key");
        }
    }
}

/// Every id in the rows, in the queue and in the answers.
fn sightings<'i>(index: &'i Index<'_>) -> Vec<Sighting<'i>> {
    let state = &index.round.state;
    let rows = state.claims.iter().map(|row| (&row.claim_id, &row.coupon, &row.user));
    let messages = state.journals.iter().flat_map(|journal| &journal.messages);
    let queued = messages.flat_map(|message| &message.claims);
    let queued = queued.map(|claim| (&claim.claim_id, &claim.coupon, &claim.user));
    let stored = rows.chain(queued).map(|(id, coupon, user)| Sighting {
        id,
        user: (coupon, user),
        request: None,
        op: None,
    });
    let answered = index.round.ops.iter().filter_map(|op| {
        let id = op.response()?.claim_id.as_deref()?;
        let request = index.claim_of(op).map(|claim| match &claim.key {
            Some(key) => Request::Key(key),
            None => Request::Op(claim.id),
        });
        Some(Sighting { id, user: (&op.coupon, op.user.as_deref()?), request, op: Some(op) })
    });
    stored.chain(answered).collect()
}
