//! Each promise broken once, in an otherwise valid history.

use chaos::checker::{Check, SETTLE_US, check};
use chaos::history::{Answer, Endpoint, EventKind, Failure, Gauge, Message, OpId, Round, Session};

use crate::example::{
    HEALED_US, assert_found, assert_only, at, broken, claim, message, op, op_mut, row, shown, status,
    timed_out, valid, with, won,
};

#[test]
fn a_valid_history_has_no_violations() {
    assert_eq!(check(&valid()), []);
}

#[test]
fn stock_and_claims_must_add_up() {
    assert_only(&broken(|round| round.state.coupons[1].remaining = 1), Check::Conservation);
    let oversold = broken(|round| {
        round.state.coupons[0].amount = 1;
        round.state.coupons[0].remaining = -1;
    });
    assert_found(&oversold, Check::Conservation);
}

#[test]
fn a_user_has_one_row() {
    let twice = broken(|round| {
        round.state.claims.push(row("cold", "ann", "a3", 2));
        round.state.coupons[1].remaining -= 1;
    });
    assert_found(&twice, Check::OncePerUser);
}

#[test]
fn positions_have_no_gaps_and_no_repeats() {
    for position in [1, 3] {
        assert_found(&broken(|round| round.state.claims[1].position = position), Check::Positions);
    }
    assert_found(&broken(|round| round.state.claims[2].position = 0), Check::Positions);
}

#[test]
fn whoever_came_first_must_have_won() {
    // Ben's claim was behind cid's, who got nothing.
    let passed_over = broken(|round| {
        round.state.journals[0].messages[0].claims.pop();
        round.state.journals[0].messages[1] = message(1, 2, "hot", &[("cid", "c1"), ("ben", "b1")]);
    });
    assert_only(&passed_over, Check::Order);
    // Two winners stand in the wrong order; everything else agrees with that.
    let swapped = broken(|round| round.state.journals[0].messages[0].claims.swap(0, 1));
    assert_only(&swapped, Check::Order);
    // The row is that of the user's later claim.
    let later = broken(|round| {
        round.state.journals[0].messages[0].claims[1].claim_id = "another".to_owned();
    });
    assert_only(&later, Check::Order);
}

#[test]
fn a_claim_that_was_applied_while_stock_was_left_must_have_won() {
    let skipped = broken(|round| {
        round.state.journals[1].messages[1].claims.push(claim_of("eve", "e1"));
        round.ops.push(with(claim(18, "cold", "eve", (82, 120), timed_out()), |op| op.settles = false));
    });
    assert_only(&skipped, Check::Order);
}

#[test]
fn a_claim_the_cursor_has_not_passed_proves_nothing() {
    let behind = broken(|round| {
        round.state.journals[1].messages.push(message(1, 3, "cold", &[("eve", "e1")]));
        round.state.partitions[1].stream_last = Some(3);
        round.ops.push(with(claim(18, "cold", "eve", (82, 120), timed_out()), |op| op.settles = false));
    });
    assert_only(&behind, Check::Cursor);
}

#[test]
fn rows_must_come_from_the_queue() {
    assert_only(
        &broken(|round| {
            round.state.journals[1].messages.pop();
        }),
        Check::Order,
    );
}

#[test]
fn a_claim_before_its_coupon_may_be_refused_but_not_after_it() {
    // Cid's refused claim of "cold" stands before ann's; it had been asked for before the coupon was there.
    let later = broken(|round| {
        let cid = op_mut(round, 4);
        (cid.start_us, cid.end_us, cid.answer) = (32, 40, timed_out());
        cid.settles = false;
    });
    assert_only(&later, Check::Order);
}

#[test]
fn nobody_has_a_row_without_asking() {
    let unasked = broken(|round| {
        round.state.claims.push(row("cold", "eve", "e1", 2));
        round.state.coupons[1].remaining -= 1;
        round.state.journals[1].messages[1].claims.push(claim_of("eve", "e1"));
    });
    assert_only(&unasked, Check::RowWithoutRequest);
    let no_coupon = broken(|round| {
        round.state.claims.push(row("none", "eve", "e1", 1));
        round.ops.push(with(claim(18, "none", "eve", (82, 120), timed_out()), |op| op.settles = false));
    });
    assert_only(&no_coupon, Check::RowWithoutRequest);
}

#[test]
fn whoever_was_refused_by_every_answer_does_not_have_it() {
    let refused = broken(|round| {
        let cid = op_mut(round, 4);
        cid.endpoint = Endpoint::Claim;
        round.state.claims.push(row("cold", "cid", "c2", 1));
        round.state.claims[2].position = 2;
        round.state.coupons[1].remaining -= 1;
        op_mut(round, 13).answer = won("a2", 2);
    });
    assert_only(&refused, Check::WonAfterRefusal);
}

#[test]
fn the_copy_of_a_claim_may_find_the_coupon_that_was_not_there() {
    let copied = broken(|round| {
        round.state.claims.push(row("cold", "cid", "c2", 2));
        round.state.coupons[1].remaining -= 1;
        round.state.journals[1].messages.push(message(1, 3, "cold", &[("cid", "c2")]));
        round.state.partitions[1].cursor = 3;
        round.state.partitions[1].stream_last = Some(3);
        let claims = vec![claim_of("cid", "c2")];
        round.events.push(at(85, EventKind::Injected { claims, copies: true }));
    });
    assert_eq!(copied, []);
}

#[test]
fn what_was_applied_is_not_applied_again_when_the_queue_is_set_back() {
    let set_back = |round: &mut Round| {
        let kept = round.state.journals[1].messages.clone();
        let kept = kept.into_iter().map(|message| Message { generation: 2, ..message });
        round.state.journals[1].messages.extend(kept);
        round.state.partitions[1].generation = 2;
    };
    // The first message's claim was refused, as there was no coupon yet; now there is.
    assert_eq!(broken(set_back), []);
    let won = broken(|round| {
        set_back(round);
        round.state.claims.push(row("cold", "cid", "c2", 2));
        round.state.coupons[1].remaining -= 1;
    });
    assert_found(&won, Check::WonAfterRefusal);
}

#[test]
fn claims_past_the_api_and_by_hand_are_no_violations() {
    let valid = broken(|round| {
        round.state.claims.push(row("cold", "eve", "e1", 2));
        round.state.claims.push(row("cold", "fay", "f1", 3));
        round.state.coupons[1].remaining -= 2;
        round.state.journals[1].messages[1].claims.push(claim_of("eve", "e1"));
        round.events.push(at(85, EventKind::Injected { claims: vec![claim_of("eve", "e1")], copies: false }));
        round.events.push(at(86, EventKind::ByHand { coupon: "cold".to_owned(), user: "fay".to_owned() }));
    });
    assert_eq!(valid, []);
}

#[test]
fn whoever_was_told_to_have_won_has_the_row() {
    let gone = broken(|round| {
        round.state.claims.remove(2);
        round.state.coupons[1].remaining += 1;
        round.state.journals[1].messages.pop();
    });
    assert_only(&gone, Check::FalseAcceptance);
    assert_only(&broken(|round| op_mut(round, 5).answer = won("other", 1)), Check::FalseAcceptance);
    assert_only(&broken(|round| op_mut(round, 5).answer = won("a1", 2)), Check::FalseAcceptance);
    assert_only(&broken(|round| op_mut(round, 13).answer = won("other", 1)), Check::FalseAcceptance);
}

#[test]
fn already_claimed_needs_another_request_that_won() {
    let refused = || status(409, "already_claimed");
    // No row at all.
    assert_only(&broken(|round| op_mut(round, 11).answer = refused()), Check::FalseAlreadyClaimed);
    // The only request for that row.
    let sole = broken(|round| {
        op_mut(round, 12).answer = refused();
        round.ops.retain(|op| op.id != OpId(13));
    });
    assert_found(&sole, Check::FalseAlreadyClaimed);
    // The other request had not started by then.
    let early = broken(|round| {
        let again = op_mut(round, 10);
        (again.start_us, again.end_us) = (35, 39);
    });
    assert_only(&early, Check::FalseAlreadyClaimed);
    // The other attempts have the same key, and so they are the same claim.
    let own = broken(|round| {
        for id in [8, 9] {
            op_mut(round, id).answer = refused();
        }
    });
    assert_only(&own, Check::FalseAlreadyClaimed);
}

#[test]
fn an_attempt_without_key_may_be_refused_because_of_its_own_predecessor() {
    let valid = broken(|round| {
        for id in [6, 7, 8, 9] {
            op_mut(round, id).key = None;
        }
        for id in [8, 9] {
            op_mut(round, id).answer = status(409, "already_claimed");
        }
    });
    assert_eq!(valid, []);
}

#[test]
fn sold_out_needs_all_stock_to_be_gone() {
    let refused = || status(400, "sold_out");
    // There is stock left for ever.
    let left = broken(|round| {
        op_mut(round, 17).answer = refused();
    });
    assert_found(&left, Check::FalseSoldOut);
    // Ben's winning claim had not started by then.
    let early = broken(|round| {
        let late = op_mut(round, 11);
        (late.start_us, late.end_us) = (41, 44);
    });
    assert_only(&early, Check::FalseSoldOut);
    // Someone who has it.
    assert_only(&broken(|round| op_mut(round, 10).answer = refused()), Check::FalseSoldOut);
    // No such coupon.
    let none = broken(|round| {
        let cid = op_mut(round, 11);
        cid.coupon = "none".to_owned();
    });
    assert_found(&none, Check::FalseSoldOut);
}

#[test]
fn not_found_only_before_it_was_there() {
    let missing = || status(404, "coupon_not_found");
    assert_found(&broken(|round| op_mut(round, 11).answer = missing()), Check::FalseNotFound);
    assert_only(&broken(|round| op_mut(round, 15).answer = missing()), Check::FalseNotFound);
    // "Exists" proves as much as "created".
    // A look-up with the receipt of a claim speaks about that claim.
    let by_receipt = broken(|round| op_mut(round, 13).answer = status(409, "already_claimed"));
    assert_found(&by_receipt, Check::FalseAlreadyClaimed);
    let proven = broken(|round| {
        op_mut(round, 2).end_us = 500;
        let cid = op_mut(round, 4);
        (cid.start_us, cid.end_us) = (32, 33);
    });
    assert_found(&proven, Check::FalseNotFound);
}

#[test]
fn a_look_up_finds_who_was_told_to_have_won() {
    let lost = broken(|round| {
        let ask = op_mut(round, 16);
        ask.user = Some("ann".to_owned());
    });
    assert_only(&lost, Check::FalseNotFound);
}

#[test]
fn a_creation_is_true_and_happens_once() {
    assert_only(&broken(|round| round.ops[2].amount = Some(4)), Check::FalseCreation);
    assert_only(&broken(|round| op_mut(round, 3).answer = status(201, "")), Check::FalseCreation);
    assert_found(
        &broken(|round| op_mut(round, 1).answer = status(409, "coupon_exists")),
        Check::FalseCreation,
    );
}

#[test]
fn the_same_key_gets_the_same_answer() {
    let refused = broken(|round| op_mut(round, 9).answer = status(409, "already_claimed"));
    assert_found(&refused, Check::SameKey);
    assert_found(&broken(|round| op_mut(round, 9).answer = won("b2", 2)), Check::SameKey);
    assert_found(&broken(|round| op_mut(round, 9).answer = won("b1", 1)), Check::SameKey);
    assert_found(&broken(|round| op_mut(round, 9).answer = status(400, "sold_out")), Check::SameKey);
}

#[test]
fn a_claim_id_belongs_to_one_claim() {
    // In the queue, in the rows, and in an answer.
    let queued = broken(|round| round.state.journals[1].messages[0].claims[0].claim_id = "a1".to_owned());
    assert_only(&queued, Check::ClaimId);
    let row = broken(|round| {
        round.state.claims[2].claim_id = "a1".to_owned();
        round.state.journals[1].messages[1].claims[0].claim_id = "a1".to_owned();
        op_mut(round, 13).answer = won("a1", 1);
    });
    assert_only(&row, Check::ClaimId);
    let pending = |id: &str| {
        let mut answer = status(202, "pending");
        if let Answer::Response(response) = &mut answer {
            response.claim_id = Some(id.to_owned());
        }
        answer
    };
    assert_only(&broken(|round| op_mut(round, 12).answer = pending("b1")), Check::ClaimId);
    assert_eq!(broken(|round| op_mut(round, 12).answer = pending("a2")), []);
    // One key, two ids; and one id for two requests without a key.
    assert_only(&broken(|round| op_mut(round, 7).answer = pending("b2")), Check::ClaimId);
    assert_only(&broken(|round| op_mut(round, 10).answer = won("a1", 1)), Check::ClaimId);
}

#[test]
fn the_same_key_of_others_is_another_claim() {
    let shared = broken(|round| {
        for id in [5, 10, 11, 12] {
            op_mut(round, id).key = Some("k".to_owned());
        }
        op_mut(round, 10).answer = won("a1", 1);
    });
    assert_eq!(shared, []);
}

#[test]
fn an_answer_is_about_the_claim_that_was_asked_for() {
    let named = |coupon: &str, user: &str| {
        broken(|round| {
            if let Answer::Response(response) = &mut op_mut(round, 5).answer {
                (response.coupon, response.user) = (Some(coupon.to_owned()), Some(user.to_owned()));
            }
        })
    };
    assert_eq!(named("hot", "ann"), []);
    assert_only(&named("cold", "ann"), Check::Contract);
    assert_only(&named("hot", "ben"), Check::Contract);
}

#[test]
fn a_coupon_is_shown_as_it_was() {
    for wrong in
        [shown(3, &["ann", "ben"]), shown(2, &["ben", "ann"]), shown(2, &["ann"]), shown(2, &["ann", "cid"])]
    {
        assert_only(&broken(|round| op_mut(round, 15).answer = wrong), Check::FalseView);
    }
    let torn = broken(|round| {
        if let Answer::Response(response) = &mut op_mut(round, 15).answer {
            response.view.as_mut().unwrap().remaining = 1;
        }
    });
    assert_only(&torn, Check::FalseView);
    let foreseen = broken(|round| {
        let show = op_mut(round, 15);
        (show.start_us, show.end_us) = (41, 44);
    });
    assert_only(&foreseen, Check::FalseView);
}

#[test]
fn only_answers_of_the_contract_are_given() {
    let odd = [
        status(500, ""),
        status(400, "invalid_request"),
        status(409, "coupon_exists"),
        Answer::Failed { how: Failure::Garbled, detail: "no HTTP".to_owned() },
    ];
    for answer in odd {
        assert_found(&broken(|round| op_mut(round, 17).answer = answer), Check::Contract);
    }
    for (id, header) in [(1, "Location"), (7, "Retry-After"), (12, "Location")] {
        let bare = broken(|round| {
            if let Answer::Response(response) = &mut op_mut(round, id).answer {
                (response.location, response.retry_after_s) = (None, None);
            }
        });
        assert_only(&bare, Check::Contract);
        assert!(bare[0].summary.contains(header), "{bare:?}");
    }
}

#[test]
fn everyone_gets_a_definite_answer_in_time() {
    let never = broken(|round| round.ops.retain(|op| op.id != OpId(13)));
    assert_only(&never, Check::Unsettled);
    assert_eq!(never[0].excerpt.len(), 2, "the healing and the request: {never:?}");
    let late = broken(|round| op_mut(round, 13).end_us = HEALED_US + SETTLE_US + 1);
    assert_only(&late, Check::Unsettled);
    assert_eq!(broken(|round| op_mut(round, 13).end_us = HEALED_US + SETTLE_US), []);
}

#[test]
fn nothing_is_pending_once_the_queue_was_applied_to_its_end() {
    let asked = |start_us, answer: Answer| {
        broken(|round| {
            round.events.insert(2, at(HEALED_US + 1, EventKind::RoundQuiet { round: 1 }));
            round.ops.push(with(op(18, Endpoint::Lookup, "cold", (start_us, start_us + 2), answer), |op| {
                (op.user, op.follows, op.settles) = (Some("ann".to_owned()), Some(OpId(12)), false);
            }));
        })
    };
    assert_only(&asked(HEALED_US + 1, status(202, "pending")), Check::FalsePending);
    assert_only(&asked(HEALED_US + 1, status(200, "pending")), Check::FalsePending);
    assert_eq!(asked(HEALED_US - 5, status(202, "pending")), []);
    assert_eq!(asked(HEALED_US + 1, status(503, "outcome_unknown")), []);
    assert_eq!(asked(HEALED_US + 1, won("a2", 1)), []);
}

#[test]
fn every_partition_is_read_to_its_end() {
    assert_only(&broken(|round| round.state.partitions[0].stream_last = Some(4)), Check::Cursor);
    assert_only(&broken(|round| round.state.partitions[0].stream_last = None), Check::Cursor);
}

#[test]
fn nothing_is_left_behind() {
    let session = Session { pid: 1, application: "worker".into(), query: "BEGIN".into(), idle_ms: 900 };
    let open = broken(|round| round.state.idle_in_transaction.push(session));
    assert_only(&open, Check::IdleInTransaction);
    let gauge = |value| Gauge { name: "memory of api 1 (KiB)".into(), value, limit: 10 };
    assert_only(&broken(|round| round.state.gauges.push(gauge(11))), Check::Gauge);
    assert_eq!(broken(|round| round.state.gauges.push(gauge(10))), []);
}

#[test]
fn many_violations_of_a_kind_are_counted_and_few_are_shown() {
    let many = broken(|round| {
        for id in 100..150 {
            let ask = op(id, Endpoint::Show, "hot", (200, 201), status(500, ""));
            round.ops.push(with(ask, |op| op.settles = false));
        }
    });
    assert_only(&many, Check::Contract);
    assert_eq!(many.len() + many.iter().map(|violation| violation.more).sum::<usize>(), 50);
    assert!(many.len() < 10);
}

fn claim_of(user: &str, claim_id: &str) -> chaos::history::Claim {
    message(1, 1, "cold", &[(user, claim_id)]).claims.remove(0)
}
