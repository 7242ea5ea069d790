//! Order when the queue lost its tail, and when the journal has gaps.

use chaos::checker::{Check, check};
use chaos::history::{ClaimRow, CouponRow, EventKind, FinalState, Journal, Message, PartitionEnd, Round};

use crate::example::{assert_only, at, claim, message, row, status, timed_out, with};

/// One coupon of the given stock, and users a to f who each asked once and got no answer.
fn round(amount: i64, messages: Vec<Message>, winners: &[(&str, &str)]) -> Round {
    let (generation, last) = messages.last().map_or((1, 0), |last| (last.generation, last.sequence));
    let rows: Vec<ClaimRow> =
        winners.iter().zip(1..).map(|((user, id), position)| row("c", user, id, position)).collect();
    let create = crate::example::op(1, chaos::history::Endpoint::Create, "c", (1, 2), status(201, ""));
    let mut ops = vec![with(create, |op| op.amount = Some(amount as u64))];
    for (id, user) in (2..).zip(["a", "b", "c", "d", "e", "f"]) {
        ops.push(with(claim(id, "c", user, (3, 9), timed_out()), |op| op.settles = false));
    }
    let coupon = CouponRow { name: "c".into(), amount, remaining: amount - rows.len() as i64, partition: 0 };
    Round {
        number: 1,
        seed: 1,
        ops,
        events: vec![at(0, EventKind::RoundBegin { round: 1, seed: 1 })],
        state: FinalState {
            coupons: vec![coupon],
            claims: rows,
            journals: vec![Journal { partition: 0, complete: true, doubtful: false, discarded: 0, messages }],
            partitions: vec![PartitionEnd {
                partition: 0,
                generation,
                cursor: last,
                stream_last: Some(last),
            }],
            ..FinalState::default()
        },
    }
}

/// Sequences 1 to 3 hold a, b and c; the stream is set back to 1, and then d and b come.
fn set_back() -> Vec<Message> {
    vec![
        message(1, 1, "c", &[("a", "a1")]),
        message(1, 2, "c", &[("b", "b1")]),
        message(1, 3, "c", &[("c", "c1")]),
        message(2, 1, "c", &[("a", "a1")]),
        message(2, 2, "c", &[("d", "d1")]),
        message(2, 3, "c", &[("b", "b1")]),
    ]
}

#[test]
fn a_lost_tail_may_have_been_applied_in_part_from_its_beginning() {
    let allowed: [&[(&str, &str)]; 4] = [
        &[("a", "a1"), ("d", "d1"), ("b", "b1")],
        &[("a", "a1"), ("b", "b1"), ("d", "d1")],
        &[("a", "a1"), ("b", "b1"), ("c", "c1"), ("d", "d1")],
        // Nothing of the first generation had been applied.
        &[("a", "a1"), ("d", "d1"), ("b", "b1")],
    ];
    for winners in allowed {
        assert_eq!(check(&round(10, set_back(), winners)), [], "{winners:?}");
    }
    let forbidden: [&[(&str, &str)]; 4] = [
        // c was applied, and so b was before it.
        &[("a", "a1"), ("c", "c1"), ("d", "d1"), ("b", "b1")],
        // d's message was never lost.
        &[("a", "a1"), ("b", "b1"), ("c", "c1")],
        &[("d", "d1"), ("a", "a1"), ("b", "b1")],
        &[("a", "a1"), ("d", "d1"), ("b", "b1"), ("c", "c1")],
    ];
    for winners in forbidden {
        assert_only(&check(&round(10, set_back(), winners)), Check::Order);
    }
}

/// What a worker does that does not notice that sequence 2 was not delivered to it.
#[test]
fn a_message_that_was_passed_over_is_noticed() {
    let passed_over = |winners| {
        let messages = set_back().into_iter().take(3).collect();
        let mut round = round(10, messages, winners);
        round.state.journals[0].discarded = 1;
        check(&round)
    };
    assert_eq!(passed_over(&[("a", "a1"), ("b", "b1"), ("c", "c1")]), []);
    assert_only(&passed_over(&[("a", "a1"), ("c", "c1")]), Check::Order);
    // B repeated the claim, since nobody knew what had become of it.
    assert_only(&passed_over(&[("a", "a1"), ("c", "c1"), ("b", "b1")]), Check::Order);
}

#[test]
fn a_lost_tail_counts_against_the_stock_as_far_as_it_was_applied() {
    assert_eq!(check(&round(2, set_back(), &[("a", "a1"), ("b", "b1")])), []);
    assert_eq!(check(&round(2, set_back(), &[("a", "a1"), ("d", "d1")])), []);
    assert_only(&check(&round(2, set_back(), &[("a", "a1"), ("c", "c1")])), Check::Order);
}

#[test]
fn a_stream_may_be_empty_after_it_was_wiped() {
    let mut wiped = round(10, set_back(), &[("a", "a1"), ("d", "d1")]);
    assert_only(&check(&wiped), Check::Order);
    wiped.state.partitions[0] = PartitionEnd { partition: 0, generation: 3, cursor: 0, stream_last: Some(0) };
    assert_eq!(check(&wiped), []);
}

#[test]
fn what_the_cursor_has_not_passed_may_have_been_applied_before_the_stream_was_set_back() {
    let end = PartitionEnd { partition: 0, generation: 1, cursor: 1, stream_last: Some(1) };
    for winners in [&[("a", "a1")][..], &[("a", "a1"), ("b", "b1")], &[("a", "a1"), ("b", "b1"), ("c", "c1")]]
    {
        let mut cut = round(10, set_back().into_iter().take(3).collect(), winners);
        cut.state.partitions[0] = end.clone();
        assert_eq!(check(&cut), [], "{winners:?}");
    }
    let mut cut = round(10, set_back().into_iter().take(3).collect(), &[("a", "a1"), ("c", "c1")]);
    cut.state.partitions[0] = end;
    assert_only(&check(&cut), Check::Order);
}

#[test]
fn a_message_is_applied_as_a_whole_or_not_at_all() {
    let messages =
        || vec![message(1, 1, "c", &[("a", "a1"), ("b", "b1")]), message(2, 1, "c", &[("d", "d1")])];
    assert_eq!(check(&round(10, messages(), &[("a", "a1"), ("b", "b1"), ("d", "d1")])), []);
    assert_eq!(check(&round(10, messages(), &[("d", "d1")])), []);
    assert_only(&check(&round(10, messages(), &[("a", "a1"), ("d", "d1")])), Check::Order);
}

#[test]
fn undecodable_and_repeated_messages_change_nothing() {
    let messages = vec![
        message(1, 1, "c", &[("a", "a1")]),
        message(1, 2, "c", &[]),
        message(1, 3, "c", &[("a", "a1")]),
        message(1, 4, "c", &[("b", "b1")]),
    ];
    assert_eq!(check(&round(2, messages, &[("a", "a1"), ("b", "b1")])), []);
}

#[test]
fn claims_in_a_foreign_partition_lead_to_nothing() {
    let mut foreign = round(2, vec![message(1, 1, "c", &[("a", "a1")])], &[("a", "a1")]);
    foreign.state.coupons[0].partition = 1;
    // Its own partition is known to have been empty.
    foreign.state.journals.push(Journal {
        partition: 1,
        complete: true,
        doubtful: false,
        discarded: 0,
        messages: Vec::new(),
    });
    assert_only(&check(&foreign), Check::Order);
}

fn with_gaps(mut round: Round) -> Round {
    round.state.journals[0].complete = false;
    round
}

#[test]
fn a_journal_with_gaps_proves_what_it_knows() {
    let known = || vec![message(1, 1, "c", &[("a", "a1")]), message(1, 4, "c", &[("b", "b1")])];
    // d and e were in messages that nobody saw.
    let fine = round(10, known(), &[("d", "d1"), ("a", "a1"), ("e", "e1"), ("b", "b1")]);
    assert_eq!(check(&with_gaps(fine)), []);
    let swapped = round(10, known(), &[("b", "b1"), ("a", "a1")]);
    assert_only(&check(&with_gaps(swapped)), Check::Order);
    let passed_over = round(10, known(), &[("d", "d1"), ("b", "b1")]);
    assert_only(&check(&with_gaps(passed_over)), Check::Order);
}

#[test]
fn a_purge_without_an_answer_may_have_taken_who_was_passed_over() {
    let known = || vec![message(1, 1, "c", &[("a", "a1")]), message(1, 4, "c", &[("b", "b1")])];
    let doubtful = |winners| {
        let mut round = with_gaps(round(10, known(), winners));
        round.state.journals[0].doubtful = true;
        check(&round)
    };
    assert_eq!(doubtful(&[("d", "d1"), ("b", "b1")]), []);
    // Two who have it were still not applied in this order.
    assert_only(&doubtful(&[("b", "b1"), ("a", "a1")]), Check::Order);
}

#[test]
fn a_journal_with_gaps_does_not_accuse_who_asked_twice() {
    let known = vec![message(1, 1, "c", &[("a", "a1")]), message(1, 4, "c", &[("b", "b1")])];
    let mut round = round(10, known, &[("b", "b1"), ("a", "a1")]);
    // Another copy of b's claim may have come first.
    round.ops.push(with(claim(20, "c", "b", (3, 9), timed_out()), |op| op.settles = false));
    assert_eq!(check(&with_gaps(round)), []);
}
