//! Ways to falsify a valid round. Each is a real violation whatever else the round holds, or does not apply.

use chaos::checker::{Check, SETTLE_US};
use chaos::history::{Answer, Endpoint, EventKind, Op, OpId, Response, Round, Session, Verdict};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};

use crate::example::{op, row, shown, status, timed_out, won};

/// Changes a round, and names the check that must notice. Nothing if the round offers no place for it.
pub(crate) type Falsify = fn(&mut Round, &mut StdRng) -> Option<Check>;

pub(crate) const ALL: [(&str, Falsify); 22] = [
    ("a row is lost that was told", lost_row),
    ("a row is there twice", repeated_row),
    ("two rows swap their positions", swapped_rows),
    ("stock is off by one", wrong_stock),
    ("a row nobody asked for", unasked_row),
    ("the queue forgets a winner", forgotten_winner),
    ("two winners swap their places in the queue", swapped_queue),
    ("a win is told with another claim", other_claim),
    ("a win is told with another position", other_position),
    ("a sole request is refused as a repetition", false_repetition),
    ("a winner is told that all is gone", winner_sold_out),
    ("sold out before anyone had asked", early_sold_out),
    ("sold out with stock left", left_sold_out),
    ("a coupon is not found any more", vanished_coupon),
    ("a repeated key loses its win", key_loses),
    ("a view in another order", wrong_view),
    ("a chain is never settled", unsettled),
    ("a chain is settled too late", settled_late),
    ("two users share a claim id", shared_id),
    ("a receipt is pending for ever", pending_for_ever),
    ("an internal error", internal_error),
    ("things are left behind", left_behind),
];

fn pick<'a>(
    round: &'a mut Round,
    rng: &mut StdRng,
    wanted: impl Fn(&Round, &Op) -> bool,
) -> Option<&'a mut Op> {
    let places: Vec<usize> = (0..round.ops.len()).filter(|place| wanted(round, &round.ops[*place])).collect();
    places.choose(rng).map(|place| &mut round.ops[*place])
}

/// What a raised coupon can have been asked about has more than one answer.
fn is_raised(round: &Round, coupon: &str) -> bool {
    let events = &round.events;
    events
        .iter()
        .any(|event| matches!(&event.kind, EventKind::StockRaised { coupon: raised, .. } if raised == coupon))
}

fn verdict(wanted: Verdict) -> impl Fn(&Round, &Op) -> bool {
    move |_, op| op.verdict() == wanted
}

fn told(op: &Op) -> Option<(String, u64)> {
    let response: &Response = op.response()?;
    Some((response.claim_id.clone()?, response.position?))
}

fn lost_row(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let op = pick(round, rng, verdict(Verdict::Won))?.clone();
    round.state.claims.retain(|row| row.coupon != op.coupon || Some(&row.user) != op.user.as_ref());
    Some(Check::FalseAcceptance)
}

fn repeated_row(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let row = round.state.claims.choose(rng)?.clone();
    round.state.claims.push(row);
    Some(Check::OncePerUser)
}

fn swapped_rows(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let op = pick(round, rng, verdict(Verdict::Won))?.clone();
    let mut rows: Vec<_> = round.state.claims.iter_mut().filter(|row| row.coupon == op.coupon).collect();
    let own = rows.iter().position(|row| Some(&row.user) == op.user.as_ref())?;
    let other = (own + 1) % rows.len();
    let (a, b) = (rows[own].position, rows[other].position);
    (rows[own].position, rows[other].position) = (b, a);
    (a != b).then_some(Check::FalseAcceptance)
}

fn wrong_stock(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let off = if rng.random_bool(0.5) { 1 } else { -1 };
    let coupons = &mut round.state.coupons;
    let place = (!coupons.is_empty()).then(|| rng.random_range(0..coupons.len()))?;
    coupons[place].remaining += off;
    Some(Check::Conservation)
}

fn unasked_row(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let coupon = round.state.coupons.choose(rng)?.name.clone();
    round.state.claims.push(row(&coupon, "nobody", "none", 1_000));
    Some(Check::RowWithoutRequest)
}

/// Removes a winner's claim from everywhere in the queue.
fn forgotten_winner(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let row = round.state.claims.choose(rng)?.clone();
    for message in round.state.journals.iter_mut().flat_map(|journal| &mut journal.messages) {
        message.claims.retain(|claim| claim.claim_id != row.claim_id);
    }
    Some(Check::Order)
}

/// Exchanges two winners wherever they stand in the queue, in rounds without losses.
fn swapped_queue(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let messages = || round.state.journals.iter().flat_map(|journal| &journal.messages);
    if messages().any(|message| message.generation > 1) {
        return None;
    }
    let a = round.state.claims.choose(rng)?.clone();
    let b = round.state.claims.iter().find(|row| row.coupon == a.coupon && row.user != a.user)?.clone();
    if is_raised(round, &a.coupon) {
        return None;
    }
    // A claim from before its coupon may stand anywhere before the first winner.
    let there_us = round.ops.iter().filter(|op| op.coupon == a.coupon && op.verdict() == Verdict::Created);
    let there_us = there_us.map(|op| op.end_us).min()?;
    let of_either = |op: &&Op| {
        op.coupon == a.coupon && [&a.user, &b.user].into_iter().any(|user| op.user.as_ref() == Some(user))
    };
    if round.ops.iter().filter(of_either).any(|op| op.start_us <= there_us) {
        return None;
    }
    for claim in round
        .state
        .journals
        .iter_mut()
        .flat_map(|journal| &mut journal.messages)
        .flat_map(|message| &mut message.claims)
    {
        let other = match &claim.claim_id {
            id if *id == a.claim_id => &b,
            id if *id == b.claim_id => &a,
            _ => continue,
        };
        (claim.claim_id, claim.user) = (other.claim_id.clone(), other.user.clone());
    }
    Some(Check::Order)
}

fn other_claim(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let op = pick(round, rng, verdict(Verdict::Won))?;
    let (_, position) = told(op)?;
    op.answer = won("another", position);
    Some(Check::FalseAcceptance)
}

fn other_position(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let op = pick(round, rng, verdict(Verdict::Won))?;
    let (claim_id, position) = told(op)?;
    op.answer = won(&claim_id, position + 1);
    Some(Check::FalseAcceptance)
}

fn false_repetition(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let sole = |round: &Round, op: &Op| {
        let same = |other: &&Op| {
            other.endpoint == Endpoint::Claim && other.user == op.user && other.coupon == op.coupon
        };
        op.endpoint == Endpoint::Claim
            && op.verdict() == Verdict::Won
            && round.ops.iter().filter(same).count() == 1
    };
    pick(round, rng, sole)?.answer = status(409, "already_claimed");
    Some(Check::FalseAlreadyClaimed)
}

fn winner_sold_out(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let won = |round: &Round, op: &Op| op.verdict() == Verdict::Won && !is_raised(round, &op.coupon);
    pick(round, rng, won)?.answer = status(400, "sold_out");
    Some(Check::FalseSoldOut)
}

fn early_sold_out(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let op = pick(round, rng, verdict(Verdict::SoldOut))?;
    (op.start_us, op.end_us) = (0, 1);
    Some(Check::FalseSoldOut)
}

fn left_sold_out(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let left = |round: &Round, op: &Op| {
        op.endpoint == Endpoint::Claim
            && !is_raised(round, &op.coupon)
            && round.state.coupons.iter().any(|coupon| coupon.name == op.coupon && coupon.remaining > 0)
    };
    pick(round, rng, left)?.answer = status(400, "sold_out");
    Some(Check::FalseSoldOut)
}

fn vanished_coupon(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let was_there = |round: &Round, op: &Op| {
        op.endpoint != Endpoint::Create
            && round.ops.iter().any(|other| {
                other.coupon == op.coupon
                    && matches!(other.verdict(), Verdict::Created | Verdict::Exists)
                    && other.end_us < op.start_us
            })
    };
    pick(round, rng, was_there)?.answer = status(404, "coupon_not_found");
    Some(Check::FalseNotFound)
}

fn key_loses(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let repeated = |round: &Round, op: &Op| {
        op.endpoint == Endpoint::Claim
            && op.key.is_some()
            && round.ops.iter().any(|other| {
                other.id != op.id
                    && other.endpoint == Endpoint::Claim
                    && (&other.key, &other.user, &other.coupon) == (&op.key, &op.user, &op.coupon)
                    && other.verdict() == Verdict::Won
            })
    };
    pick(round, rng, repeated)?.answer = status(409, "already_claimed");
    Some(Check::SameKey)
}

fn wrong_view(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let op = pick(round, rng, verdict(Verdict::Seen))?;
    let view = op.response()?.view.clone()?;
    let mut users: Vec<&str> = view.claimed_by.iter().map(String::as_str).collect();
    match users.len() {
        0 => users.push("nobody"),
        1 => users[0] = "nobody",
        _ => users.swap(0, 1),
    }
    op.answer = shown(view.amount, &users);
    Some(Check::FalseView)
}

fn unsettled(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let root = pick(round, rng, |_, op| op.settles)?.root;
    for op in round.ops.iter_mut().filter(|op| op.root == root) {
        op.answer = timed_out();
    }
    Some(Check::Unsettled)
}

fn settled_late(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let late_us = round.healed_us()? + SETTLE_US + 1;
    let root = pick(round, rng, |_, op| op.settles)?.root;
    for op in round.ops.iter_mut().filter(|op| op.root == root) {
        op.end_us = late_us;
    }
    Some(Check::Unsettled)
}

fn shared_id(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let [a, b] = [0; 2].map(|_| round.state.claims.choose(rng).cloned());
    let (a, b) = (a?, b?);
    if (&a.coupon, &a.user) == (&b.coupon, &b.user) {
        return None;
    }
    for row in round.state.claims.iter_mut().filter(|row| row.claim_id == a.claim_id) {
        row.claim_id.clone_from(&b.claim_id);
    }
    Some(Check::ClaimId)
}

fn pending_for_ever(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let quiet_us = round.quiet_us()?;
    let claim = pick(round, rng, |_, op| op.endpoint == Endpoint::Claim)?.clone();
    let answer = status(202, "pending");
    let (id, times) = (OpId(u64::MAX), (quiet_us, quiet_us + 1));
    round.ops.push(Op { follows: Some(claim.id), settles: false, ..look_up(id, &claim, times, answer) });
    Some(Check::FalsePending)
}

fn look_up(id: OpId, claim: &Op, times: (u64, u64), answer: Answer) -> Op {
    let lookup = op(id.0, Endpoint::Lookup, &claim.coupon, times, answer);
    Op { user: claim.user.clone(), ..lookup }
}

fn internal_error(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    let answer = Answer::Response(Response { status: 500, ..Response::default() });
    pick(round, rng, |_, _| true)?.answer = answer;
    Some(Check::Contract)
}

fn left_behind(round: &mut Round, rng: &mut StdRng) -> Option<Check> {
    if rng.random_bool(0.5) {
        let session = Session { pid: 1, application: String::new(), query: String::new(), idle_ms: 1 };
        round.state.idle_in_transaction.push(session);
        return Some(Check::IdleInTransaction);
    }
    round.state.partitions.choose_mut(rng)?.cursor += 1;
    Some(Check::Cursor)
}
