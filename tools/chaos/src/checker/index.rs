//! A round's history and final state, indexed for the checks.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::amounts::Amounts;
use crate::history::{ClaimRow, CouponRow, Endpoint, EventKind, Op, OpId, Round, Verdict};

/// A coupon and one of its users.
pub(super) type CouponUser<'a> = (&'a str, &'a str);

/// An answer, and the claim that it is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) op: &'a Op,
    pub(super) claim: &'a Op,
}

#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) round: &'a Round,
    pub(super) amounts: Amounts<'a>,
    pub(super) coupons: BTreeMap<&'a str, &'a CouponRow>,
    /// Each coupon's rows in the order of their positions.
    pub(super) rows: BTreeMap<&'a str, Vec<&'a ClaimRow>>,
    /// A user's row; the first if there are several.
    pub(super) row_of: HashMap<CouponUser<'a>, &'a ClaimRow>,
    /// Claims sent over HTTP, without look-ups.
    claims: HashMap<CouponUser<'a>, Vec<&'a Op>>,
    /// What was answered about each of these claims: directly, or to a look-up with its receipt.
    pub(super) answers: HashMap<CouponUser<'a>, Vec<Answer<'a>>>,
    ops: HashMap<OpId, &'a Op>,
    /// When a user's claim was first published again by a fault.
    copied_us: HashMap<CouponUser<'a>, u64>,
    /// When a claim of the user was first published without an API.
    injected_us: HashMap<CouponUser<'a>, u64>,
    /// When the user's claim was written into the database by hand.
    by_hand_us: HashMap<CouponUser<'a>, u64>,
    /// For each coupon the earliest answer that proves that it exists.
    pub(super) exists: HashMap<&'a str, &'a Op>,
    /// For each row's user, the earliest start of the request that took the coupon.
    won_from_us: HashMap<CouponUser<'a>, u64>,
}

impl<'a> Index<'a> {
    pub(super) fn new(round: &'a Round) -> Self {
        let mut index = Self {
            round,
            amounts: Amounts::new(round),
            coupons: round.state.coupons.iter().map(|coupon| (coupon.name.as_str(), coupon)).collect(),
            rows: BTreeMap::new(),
            row_of: HashMap::new(),
            claims: HashMap::new(),
            answers: HashMap::new(),
            ops: round.ops.iter().map(|op| (op.id, op)).collect(),
            copied_us: HashMap::new(),
            injected_us: HashMap::new(),
            by_hand_us: HashMap::new(),
            exists: HashMap::new(),
            won_from_us: HashMap::new(),
        };
        for row in &round.state.claims {
            index.rows.entry(&row.coupon).or_default().push(row);
            index.row_of.entry((&row.coupon, &row.user)).or_insert(row);
        }
        for rows in index.rows.values_mut() {
            rows.sort_by_key(|row| row.position);
        }
        index.add_events();
        index.add_ops();
        let winners = index.row_of.keys();
        index.won_from_us = winners.filter_map(|user| Some((*user, index.winner_start_us(*user)?))).collect();
        index
    }

    fn add_events(&mut self) {
        for event in &self.round.events {
            match &event.kind {
                EventKind::Injected { claims, copies } => {
                    let first_us = if *copies { &mut self.copied_us } else { &mut self.injected_us };
                    for claim in claims {
                        keep_earliest(first_us, (&claim.coupon, &claim.user), event.at_us);
                    }
                }
                EventKind::ByHand { coupon, user } => {
                    keep_earliest(&mut self.by_hand_us, (coupon, user), event.at_us);
                }
                _ => {}
            }
        }
    }

    fn add_ops(&mut self) {
        for op in &self.round.ops {
            if let Some(user) = &op.user {
                if op.endpoint == Endpoint::Claim {
                    self.claims.entry((&op.coupon, user)).or_default().push(op);
                }
                if let Some(claim) = self.claim_of(op) {
                    self.answers.entry((&op.coupon, user)).or_default().push(Answer { op, claim });
                }
            }
            if op.verdict().proves_coupon() {
                let earliest = self.exists.entry(&op.coupon).or_insert(op);
                if op.end_us < earliest.end_us {
                    *earliest = op;
                }
            }
        }
    }

    /// The earliest moment at which the request that took this user's coupon can have started.
    fn winner_start_us(&self, user: CouponUser<'a>) -> Option<u64> {
        let winner = self.known_winner(user);
        let starts = self.claims_of(user).iter().filter(|op| can_have_won(winner, op)).map(|op| op.start_us);
        let by_http = starts.min();
        let bypassing = self.bypassing_from_us(user).filter(|_| winner.is_none() || by_http.is_none());
        bypassing.into_iter().chain(by_http).min()
    }

    /// The claim that is known to have taken this user's coupon: its answer said so, or that of a look-up with
    /// its receipt.
    pub(super) fn known_winner<'u>(&'u self, user: CouponUser<'u>) -> Option<&'u Op> {
        let row = self.row_of.get(&user)?;
        let won = |answer: &&Answer<'_>| {
            let claim_id = answer.op.response().and_then(|response| response.claim_id.as_deref());
            answer.op.verdict() == Verdict::Won && claim_id == Some(&row.claim_id)
        };
        self.answers.get(&user)?.iter().find(won).map(|answer| answer.claim)
    }

    /// The claim that an answer is about: the request itself or, for a look-up with a receipt, the claim that
    /// got it. Other look-ups show the user's claim, whichever request took it.
    pub(super) fn claim_of(&self, op: &'a Op) -> Option<&'a Op> {
        let mut op = op;
        while op.endpoint == Endpoint::Lookup {
            // Each follows an earlier request, so this ends.
            op = self.ops.get(&op.follows?).copied().filter(|before| before.id < op.id)?;
        }
        (op.endpoint == Endpoint::Claim).then_some(op)
    }

    /// The claims that were sent over HTTP for this user.
    pub(super) fn claims_of<'u>(&'u self, user: CouponUser<'u>) -> &'u [&'u Op] {
        self.claims.get(&user).map(Vec::as_slice).unwrap_or_default()
    }

    /// The first claim of this user that had been answered with a win before that moment.
    pub(super) fn told_before<'u>(&'u self, user: CouponUser<'u>, at_us: u64) -> Option<&'u Op> {
        let told = |claim: &&&Op| claim.verdict() == Verdict::Won && claim.end_us < at_us;
        self.claims_of(user).iter().find(told).copied()
    }

    /// The earliest start of the request that took this user's coupon; none if nothing asked for it.
    pub(super) fn won_from_us(&self, user: CouponUser<'_>) -> Option<u64> {
        self.won_from_us.get(&user).copied()
    }

    /// The first of a coupon's rows whose claim started at that moment or later.
    pub(super) fn started_from(&self, rows: &[&'a ClaimRow], at_us: u64) -> Option<&'a ClaimRow> {
        let late = |row: &&&ClaimRow| {
            self.won_from_us((&row.coupon, &row.user)).is_some_and(|from_us| from_us >= at_us)
        };
        rows.iter().find(late).copied()
    }

    /// The earliest moment at which this user's claim can have come about without HTTP.
    ///
    /// The copy of a claim is the same claim, so publishing it asks for nothing new. But if there was no such
    /// coupon at first, or nothing left of it, the copy may find one.
    pub(super) fn bypassing_from_us(&self, user: CouponUser<'_>) -> Option<u64> {
        let is_raised = self.amounts.is_raised(user.0);
        let found_none = self.claims_of(user).iter().any(|op| match op.verdict() {
            Verdict::NoCoupon => true,
            Verdict::SoldOut => is_raised,
            _ => false,
        });
        let copied = self.copied_us.get(&user).filter(|_| found_none);
        [self.injected_us.get(&user), self.by_hand_us.get(&user), copied].into_iter().flatten().min().copied()
    }

    /// Whether this user's claim was published once, over HTTP, and never again.
    pub(super) fn sent_once(&self, user: CouponUser<'_>) -> bool {
        let bypassing = [&self.copied_us, &self.injected_us, &self.by_hand_us];
        self.claims_of(user).len() == 1 && !bypassing.iter().any(|claims| claims.contains_key(&user))
    }

    /// Whether the row of this user was written by hand.
    pub(super) fn is_by_hand(&self, user: CouponUser<'_>) -> bool {
        self.by_hand_us.contains_key(&user)
    }

    /// The earliest moment at which anything can have asked for this user's claim.
    pub(super) fn asked_from_us(&self, user: CouponUser<'_>) -> Option<u64> {
        let claims = self.claims_of(user).iter().map(|op| op.start_us);
        claims.chain(self.bypassing_from_us(user)).min()
    }

    /// Rows of a coupon, in the order of their positions.
    pub(super) fn rows_of(&self, coupon: &str) -> &[&'a ClaimRow] {
        self.rows.get(coupon).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Whether this claim can be the one that won. If the winner is known, only its attempts count: those with the
/// same key, which share one claim, or the single one without a key. Else any that was not refused.
pub(super) fn can_have_won(winner: Option<&Op>, op: &Op) -> bool {
    match winner {
        Some(winner) if winner.key.is_some() => winner.key == op.key,
        Some(winner) => winner.id == op.id,
        None => !op.verdict().is_refusal(),
    }
}

fn keep_earliest<K: Eq + Hash>(times: &mut HashMap<K, u64>, key: K, at_us: u64) {
    times.entry(key).and_modify(|first_us| *first_us = at_us.min(*first_us)).or_insert(at_us);
}
