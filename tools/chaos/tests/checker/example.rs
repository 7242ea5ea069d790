//! A small valid history that holds one of everything. Tests break it in one place each.

use chaos::checker::{Check, Violation, check};
use chaos::history::{
    Answer, Claim, ClaimRow, CouponRow, CouponView, Endpoint, Event, EventKind, Failure, FinalState, Journal,
    Message, Op, OpId, PartitionEnd, Queue, Response, Round,
};

pub(crate) const HEALED_US: u64 = 1_000;

/// A request with its times and answer; the rest is added by [`with`].
pub(crate) fn op(id: u64, endpoint: Endpoint, coupon: &str, times: (u64, u64), answer: Answer) -> Op {
    Op {
        id: OpId(id),
        root: OpId(id),
        follows: None,
        attempt: 1,
        client: 1,
        endpoint,
        coupon: coupon.to_owned(),
        user: None,
        key: None,
        amount: None,
        settles: true,
        start_us: times.0,
        end_us: times.1,
        answer,
    }
}

pub(crate) fn with(mut op: Op, change: impl FnOnce(&mut Op)) -> Op {
    change(&mut op);
    op
}

pub(crate) fn claim(id: u64, coupon: &str, user: &str, times: (u64, u64), answer: Answer) -> Op {
    with(op(id, Endpoint::Claim, coupon, times, answer), |op| op.user = Some(user.to_owned()))
}

pub(crate) fn status(status: u16, code: &str) -> Answer {
    let code = (!code.is_empty()).then(|| code.to_owned());
    let location = [201, 202].contains(&status).then(|| "/somewhere".to_owned());
    let retry_after_s = (status == 503).then_some(1);
    Answer::Response(Response { status, code, location, retry_after_s, ..Response::default() })
}

pub(crate) fn won(claim_id: &str, position: u64) -> Answer {
    Answer::Response(Response {
        status: 200,
        code: Some("claimed".to_owned()),
        claim_id: Some(claim_id.to_owned()),
        position: Some(position),
        ..Response::default()
    })
}

pub(crate) fn shown(amount: u64, claimed_by: &[&str]) -> Answer {
    let claimed_by: Vec<String> = claimed_by.iter().map(|user| (*user).to_owned()).collect();
    let view = CouponView { amount, remaining: amount - claimed_by.len() as u64, claimed_by };
    Answer::Response(Response { status: 200, view: Some(view), ..Response::default() })
}

pub(crate) fn timed_out() -> Answer {
    Answer::Failed { how: Failure::TimedOut, detail: String::new() }
}

pub(crate) fn row(coupon: &str, user: &str, claim_id: &str, position: i64) -> ClaimRow {
    ClaimRow {
        coupon: coupon.to_owned(),
        user: user.to_owned(),
        claim_id: claim_id.to_owned(),
        position,
        created_at: String::new(),
    }
}

/// A message of one coupon's claims, given as (user, claim id).
pub(crate) fn message(generation: u64, sequence: u64, coupon: &str, claims: &[(&str, &str)]) -> Message {
    let claim = |(user, claim_id): &(&str, &str)| Claim {
        claim_id: (*claim_id).to_owned(),
        coupon: coupon.to_owned(),
        user: (*user).to_owned(),
    };
    Message {
        generation,
        sequence,
        batch_id: format!("batch {generation}.{sequence}"),
        claims: claims.iter().map(claim).collect(),
    }
}

pub(crate) fn at(at_us: u64, kind: EventKind) -> Event {
    Event { at_us, kind }
}

/// Coupon "hot" has stock for two and goes to ann and ben; "cold" goes to ann and stays with two left.
///
/// | ops | |
/// |---|---|
/// | 1, 2 | the coupons are created, "cold" by two clients |
/// | 4 | a claim of "cold" before it was there |
/// | 5 | ann wins "hot" |
/// | 6, 7, 8 | ben, with a key: timeout, then 503, then 200; again with the key: the same 200 |
/// | 10 | ann again, without a key |
/// | 11 | cid comes too late |
/// | 12, 13 | ann wins "cold", but is only told by the look-up after a 202 |
/// | 14, 15 | "hot" is shown with one claim, then with both |
/// | 16 | a look-up for someone who never claimed |
/// | 17 | a request that its client gave up |
pub(crate) fn valid() -> Round {
    let create = |id, coupon: &str, amount, times, answer| {
        with(op(id, Endpoint::Create, coupon, times, answer), |op| op.amount = Some(amount))
    };
    let keyed = |op, root, attempt| {
        with(op, |op| {
            op.key = Some("k".to_owned());
            op.root = OpId(root);
            op.attempt = attempt;
        })
    };
    let ask = |id, coupon: &str, user: &str, times, answer| {
        with(op(id, Endpoint::Lookup, coupon, times, answer), |op| op.user = Some(user.to_owned()))
    };
    let ops = vec![
        create(1, "hot", 2, (10, 20), status(201, "")),
        claim(4, "cold", "cid", (21, 24), status(404, "coupon_not_found")),
        create(2, "cold", 3, (22, 30), status(201, "")),
        create(3, "cold", 3, (25, 31), status(409, "coupon_exists")),
        claim(5, "hot", "ann", (40, 50), won("a1", 1)),
        with(op(14, Endpoint::Show, "hot", (51, 53), shown(2, &["ann"])), |_| {}),
        keyed(claim(6, "hot", "ben", (45, 60), timed_out()), 6, 1),
        keyed(claim(7, "hot", "ben", (61, 65), status(503, "")), 6, 2),
        keyed(claim(8, "hot", "ben", (66, 70), won("b1", 2)), 6, 3),
        keyed(claim(9, "hot", "ben", (71, 75), won("b1", 2)), 9, 1),
        claim(10, "hot", "ann", (71, 76), status(409, "already_claimed")),
        claim(11, "hot", "cid", (72, 77), status(400, "sold_out")),
        claim(12, "cold", "ann", (80, 90), status(202, "pending")),
        with(ask(13, "cold", "ann", (91, 95), won("a2", 1)), |op| {
            op.root = OpId(12);
            op.follows = Some(OpId(12));
        }),
        op(15, Endpoint::Show, "hot", (96, 99), shown(2, &["ann", "ben"])),
        with(ask(16, "hot", "dan", (96, 99), status(404, "claim_not_found")), |op| op.settles = false),
        with(claim(17, "cold", "dan", (100, 110), timed_out()), |op| op.settles = false),
    ];
    let coupon = |name: &str, amount, remaining, partition| CouponRow {
        name: name.to_owned(),
        amount,
        remaining,
        partition,
    };
    let journal =
        |partition, messages| Journal { partition, complete: true, doubtful: false, discarded: 0, messages };
    let hot = vec![
        message(1, 1, "hot", &[("ann", "a1"), ("ben", "b1")]),
        message(1, 2, "hot", &[("ben", "b1")]),
        message(1, 3, "hot", &[("ann", "a9"), ("cid", "c1"), ("ben", "b1")]),
    ];
    let cold = vec![message(1, 1, "cold", &[("cid", "c2")]), message(1, 2, "cold", &[("ann", "a2")])];
    let end =
        |partition, last| PartitionEnd { partition, generation: 1, cursor: last, stream_last: Some(last) };
    let queue = |partition| Queue { partition, generation_before: 1, generation_after: 1, holds_last: true };
    Round {
        number: 1,
        seed: 42,
        ops,
        events: vec![
            at(0, EventKind::RoundBegin { round: 1, seed: 42 }),
            at(HEALED_US, EventKind::RoundHealed { round: 1 }),
            at(HEALED_US + 1, EventKind::RoundEnd { round: 1 }),
        ],
        state: FinalState {
            coupons: vec![coupon("hot", 2, 0, 0), coupon("cold", 3, 2, 1)],
            claims: vec![row("hot", "ann", "a1", 1), row("hot", "ben", "b1", 2), row("cold", "ann", "a2", 1)],
            journals: vec![journal(0, hot), journal(1, cold)],
            partitions: vec![end(0, 3), end(1, 2)],
            queues: [0, 1].map(queue).into(),
            ..FinalState::default()
        },
    }
}

/// The example after a change.
pub(crate) fn broken(change: impl FnOnce(&mut Round)) -> Vec<Violation> {
    let mut round = valid();
    change(&mut round);
    check(&round)
}

/// The request with this number.
pub(crate) fn op_mut(round: &mut Round, id: u64) -> &mut Op {
    round.ops.iter_mut().find(|op| op.id == OpId(id)).expect("the example has no such request")
}

/// Asserts that this check, and no other, found something, and shows it.
#[track_caller]
pub(crate) fn assert_only(violations: &[Violation], check: Check) {
    assert!(!violations.is_empty(), "nothing was found");
    let found: Vec<Check> = violations.iter().map(|violation| violation.check).collect();
    assert!(found.iter().all(|found| *found == check), "expected {check:?}: {violations:#?}");
}

/// Asserts that this check found something, whatever others found.
#[track_caller]
pub(crate) fn assert_found(violations: &[Violation], check: Check) {
    assert!(violations.iter().any(|violation| violation.check == check), "{check:?}: {violations:#?}");
}
