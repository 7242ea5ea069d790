//! Stock that is raised, and winners who are inserted, by hand.

use chaos::checker::{Check, Violation};
use chaos::history::{Endpoint, EventKind, Round};

use crate::example::{
    assert_found, assert_only, at, broken, claim, message, op, op_mut, row, shown, status, timed_out, with,
    won,
};

/// "hot" is raised by one, from 2 to 3, between 100 and 110, unless an event says otherwise. Eve takes it.
fn raised(event: Option<EventKind>, change: impl FnOnce(&mut Round)) -> Vec<Violation> {
    broken(|round| {
        round.events.extend(event.map(|event| at(110, event)));
        round.state.coupons[0].amount = 3;
        round.state.claims.push(row("hot", "eve", "e1", 3));
        round.ops.push(claim(18, "hot", "eve", (120, 130), won("e1", 3)));
        round.state.journals[0].messages.push(message(1, 4, "hot", &[("eve", "e1")]));
        (round.state.partitions[0].cursor, round.state.partitions[0].stream_last) = (4, Some(4));
        change(round);
    })
}

fn event(certain: bool) -> Option<EventKind> {
    Some(EventKind::StockRaised { coupon: "hot".into(), by: 1, begin_us: 100, certain })
}

/// A user who asks once more, at this time.
fn gus(round: &mut Round, times: (u64, u64)) {
    round.ops.push(claim(19, "hot", "gus", times, status(400, "sold_out")));
}

#[test]
fn stock_that_was_raised_may_be_taken() {
    assert_eq!(raised(event(true), |_| {}), []);
    assert_eq!(raised(event(false), |_| {}), []);
    assert_found(&raised(None, |_| {}), Check::FalseCreation);
    let other = EventKind::StockRaised { coupon: "hot".into(), by: 2, begin_us: 100, certain: true };
    assert_found(&raised(Some(other), |_| {}), Check::FalseCreation);
}

#[test]
fn nobody_wins_before_the_stock_is_there() {
    let early = |certain, end_us| {
        raised(event(certain), |round| {
            let eve = op_mut(round, 18);
            (eve.start_us, eve.end_us) = (80, end_us);
        })
    };
    assert_only(&early(true, 99), Check::Conservation);
    assert_eq!(early(true, 101), []);
}

#[test]
fn sold_out_must_be_true_at_some_moment_of_the_request() {
    let refused = |certain, times| raised(event(certain), |round| gus(round, times));
    // Before the rise, while it comes, and after eve has asked.
    for times in [(85, 90), (85, 105), (105, 115), (121, 140)] {
        assert_eq!(refused(true, times), [], "{times:?}");
    }
    // After the rise, and before eve.
    assert_only(&refused(true, (111, 119)), Check::FalseSoldOut);
    // Unless it is not known when it came.
    assert_eq!(refused(false, (111, 119)), []);
    let left = raised(event(true), |round| {
        round.state.coupons[0].remaining = 1;
        round.state.claims.pop();
        round.state.journals[0].messages[3] = message(1, 4, "hot", &[]);
        round.ops.pop();
        gus(round, (111, 119));
    });
    assert_only(&left, Check::FalseSoldOut);
}

#[test]
fn a_user_who_was_refused_before_may_win_afterwards() {
    let again = |times| {
        raised(event(true), |round| {
            round.ops.push(claim(19, "hot", "eve", times, status(400, "sold_out")));
        })
    };
    assert_eq!(again((85, 90)), []);
    assert_only(&again((131, 140)), Check::FalseSoldOut);
    // The copy of a claim that was refused finds stock as well.
    let copied = |copies: bool| {
        raised(event(true), |round| {
            op_mut(round, 18).answer = status(400, "sold_out");
            (op_mut(round, 18).start_us, op_mut(round, 18).end_us) = (85, 90);
            let claims = message(1, 4, "hot", &[("eve", "e1")]).claims;
            round.events.extend(copies.then(|| at(112, EventKind::Injected { claims, copies })));
        })
    };
    assert_eq!(copied(true), []);
    assert_found(&copied(false), Check::WonAfterRefusal);
}

#[test]
fn a_claim_before_the_rise_may_be_passed_over_and_one_behind_it_may_not() {
    let queued = |place: usize, amount: i64| {
        raised(event(true), |round| {
            let ask = claim(19, "hot", "gus", (85, 200), timed_out());
            round.ops.push(with(ask, |op| op.settles = false));
            let mut messages = vec![("eve", "e1")];
            messages.insert(place, ("gus", "g1"));
            round.state.journals[0].messages[3] = message(1, 4, "hot", &messages);
            if amount > 3 {
                (round.state.coupons[0].amount, round.state.coupons[0].remaining) = (amount, amount - 3);
                op_mut(round, 1).amount = Some(amount as u64 - 1);
                for id in [14, 15] {
                    let users: &[&str] = if id == 14 { &["ann"] } else { &["ann", "ben"] };
                    op_mut(round, id).answer = shown(amount as u64 - 1, users);
                }
                op_mut(round, 11).answer = timed_out();
                op_mut(round, 11).settles = false;
                round.state.journals[0].messages[2].claims.remove(1);
            }
        })
    };
    assert_eq!(queued(0, 3), []);
    assert_eq!(queued(1, 3), []);
    // There was enough for gus, too, at any time.
    assert_only(&queued(0, 5), Check::Order);
    assert_only(&queued(1, 5), Check::Order);
}

#[test]
fn a_coupon_is_shown_with_what_there_was() {
    let seen = |times, amount, users: &[&str]| {
        raised(event(true), |round| {
            round.ops.push(op(19, Endpoint::Show, "hot", times, shown(amount, users)))
        })
    };
    assert_eq!(seen((96, 99), 2, &["ann", "ben"]), []);
    assert_eq!(seen((96, 101), 3, &["ann", "ben"]), []);
    assert_eq!(seen((96, 101), 2, &["ann", "ben"]), []);
    assert_eq!(seen((111, 113), 3, &["ann", "ben"]), []);
    assert_only(&seen((96, 99), 3, &["ann", "ben"]), Check::FalseView);
    assert_only(&seen((111, 113), 2, &["ann", "ben"]), Check::FalseView);
}

#[test]
fn a_winner_may_be_inserted() {
    let inserted = |by_hand: bool| {
        raised(event(true), |round| {
            round.ops.retain(|op| op.user.as_deref() != Some("eve"));
            round.state.journals[0].messages[3] = message(1, 4, "hot", &[("gus", "g1")]);
            gus(round, (121, 130));
            let event = EventKind::ByHand { coupon: "hot".into(), user: "eve".into() };
            round.events.extend(by_hand.then(|| at(115, event)));
            round.ops.push(claim(20, "hot", "eve", (125, 130), status(409, "already_claimed")));
        })
    };
    assert_eq!(inserted(true), []);
    assert_found(&inserted(false), Check::FalseAlreadyClaimed);
}
