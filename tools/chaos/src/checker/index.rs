//! A round's history and state, arranged for the questions that the checks ask.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Endpoint, Event, Happening, Op, OpId, Round, Verdict};
use crate::state::{ClaimRow, CouponRow};

/// A user of a coupon.
pub(super) type Holder<'a> = (&'a str, &'a str);

/// An answer, and the claim of which it speaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) op: &'a Op,
    pub(super) claim: &'a Op,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) round: &'a Round,
    /// Coupons by name, in the order of their names.
    pub(super) coupons: BTreeMap<&'a str, &'a CouponRow>,
    /// A coupon's rows in the order of their positions.
    pub(super) rows: BTreeMap<&'a str, Vec<&'a ClaimRow>>,
    /// The row of a user; the first, should there be several.
    pub(super) row_of: HashMap<Holder<'a>, &'a ClaimRow>,
    /// Claims sent over HTTP, without look-ups, by coupon and user.
    pub(super) claims: HashMap<Holder<'a>, Vec<&'a Op>>,
    /// What was said of each of these claims: by its own answer, or by a look-up with its receipt. By coupon
    /// and user.
    pub(super) answers: HashMap<Holder<'a>, Vec<Answer<'a>>>,
    /// Every request by its number.
    pub(super) ops: HashMap<OpId, &'a Op>,
    /// Users whose claims were published a second time, and when first.
    copied: HashMap<Holder<'a>, u64>,
    /// Claims put into the queue past the API.
    injected: HashMap<Holder<'a>, Vec<&'a Event>>,
    /// Claims written into the database by hand.
    by_hand: HashMap<Holder<'a>, &'a Event>,
    /// For each coupon the request that proves earliest that it exists: it had ended when it did.
    pub(super) exists: HashMap<&'a str, &'a Op>,
    /// For each user of a coupon, the earliest start of the request that took it.
    won_from_us: HashMap<Holder<'a>, u64>,
}

impl<'a> Index<'a> {
    pub(super) fn new(round: &'a Round) -> Self {
        let mut index = Self {
            round,
            coupons: round.state.coupons.iter().map(|coupon| (coupon.name.as_str(), coupon)).collect(),
            rows: BTreeMap::new(),
            row_of: HashMap::new(),
            claims: HashMap::new(),
            answers: HashMap::new(),
            ops: round.ops.iter().map(|op| (op.id, op)).collect(),
            copied: HashMap::new(),
            injected: HashMap::new(),
            by_hand: HashMap::new(),
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
        let holders: Vec<Holder<'a>> = index.row_of.keys().copied().collect();
        for holder in holders {
            if let Some(from_us) = index.winner_start_us(holder) {
                index.won_from_us.insert(holder, from_us);
            }
        }
        index
    }

    fn add_events(&mut self) {
        for event in &self.round.events {
            match &event.happening {
                Happening::Injected { claims, copies } => {
                    for claim in claims {
                        if *copies {
                            let first =
                                self.copied.entry((&claim.coupon, &claim.user)).or_insert(event.at_us);
                            *first = event.at_us.min(*first);
                        } else {
                            self.injected.entry((&claim.coupon, &claim.user)).or_default().push(event);
                        }
                    }
                }
                Happening::ByHand { coupon, user } => {
                    self.by_hand.insert((coupon, user), event);
                }
                _ => {}
            }
        }
    }

    fn add_ops(&mut self) {
        for op in &self.round.ops {
            if op.endpoint == Endpoint::Claim
                && let Some(user) = &op.user
            {
                self.claims.entry((&op.coupon, user)).or_default().push(op);
            }
            if let Some(user) = &op.user
                && let Some(claim) = self.claim_of(op)
            {
                self.answers.entry((&op.coupon, user)).or_default().push(Answer { op, claim });
            }
            let proves = match op.verdict() {
                Verdict::Created
                | Verdict::Exists
                | Verdict::Won
                | Verdict::AlreadyClaimed
                | Verdict::SoldOut
                | Verdict::Seen
                | Verdict::NoClaim => true,
                Verdict::NoCoupon
                | Verdict::Pending
                | Verdict::TryAgain
                | Verdict::Unknown
                | Verdict::Unexpected => false,
            };
            if proves {
                let earliest = self.exists.entry(&op.coupon).or_insert(op);
                if op.end_us < earliest.end_us {
                    *earliest = op;
                }
            }
        }
    }

    /// The earliest moment at which the request that took this user's coupon can have started.
    ///
    /// If some answer tells which request won, only that one counts: all attempts with its key, which share
    /// one claim, or the single attempt without a key. Otherwise it may be any that was not refused.
    fn winner_start_us(&self, holder: Holder<'a>) -> Option<u64> {
        let past_the_api = self.past_the_api_us(holder);
        let claims = self.claims.get(&holder).map(Vec::as_slice).unwrap_or_default();
        let known = self.known_winner(holder);
        let by_http = claims
            .iter()
            .filter(|op| match known {
                Some(winner) if winner.key.is_some() => op.key == winner.key,
                Some(winner) => op.id == winner.id,
                None => !op.verdict().is_refusal(),
            })
            .map(|op| op.start_us)
            .min();
        match known {
            Some(_) if by_http.is_some() => by_http,
            _ => past_the_api.into_iter().chain(by_http).min(),
        }
    }

    /// The claim request that is known to have taken the coupon of this user: it was told so, or a look-up
    /// with its receipt was.
    pub(super) fn known_winner(&self, holder: Holder<'a>) -> Option<&'a Op> {
        let row = self.row_of.get(&holder)?;
        let won = |answer: &&Answer<'_>| {
            let told = answer.op.response().and_then(|response| response.claim_id.as_deref());
            answer.op.verdict() == Verdict::Won && told == Some(&row.claim_id)
        };
        self.answers.get(&holder)?.iter().find(won).map(|answer| answer.claim)
    }

    /// The claim of which an answer speaks: the request itself or, for a look-up with a receipt, the claim
    /// that got it. Other look-ups show the user's claim, whichever request took it.
    pub(super) fn claim_of(&self, op: &'a Op) -> Option<&'a Op> {
        let mut op = op;
        while op.endpoint == Endpoint::Lookup {
            // Each follows an earlier request, so this ends.
            op = self.ops.get(&op.follows?).copied().filter(|before| before.id < op.id)?;
        }
        (op.endpoint == Endpoint::Claim).then_some(op)
    }

    /// The earliest start of the request that took this user's coupon; none if nothing asked for it.
    pub(super) fn won_from_us(&self, holder: Holder<'_>) -> Option<u64> {
        self.won_from_us.get(&holder).copied()
    }

    /// The earliest moment at which this user's claim can have come about without HTTP.
    ///
    /// The copy of a claim is the same claim, and whoever publishes it asks for nothing new. But if there was
    /// no such coupon at first, the copy may find one.
    pub(super) fn past_the_api_us(&self, holder: Holder<'_>) -> Option<u64> {
        let claims = self.claims.get(&holder).map(Vec::as_slice).unwrap_or_default();
        let found_none = claims.iter().any(|op| op.verdict() == Verdict::NoCoupon);
        let copied = self.copied.get(&holder).copied().filter(|_| found_none);
        let injected = self.injected.get(&holder).into_iter().flatten().map(|event| event.at_us);
        let by_hand = self.by_hand.get(&holder).map(|event| event.at_us);
        injected.chain(by_hand).chain(copied).min()
    }

    /// Whether this user's claim was published once, over HTTP, and never again.
    pub(super) fn sent_once(&self, holder: Holder<'_>) -> bool {
        self.claims.get(&holder).is_some_and(|ops| ops.len() == 1)
            && !self.copied.contains_key(&holder)
            && !self.injected.contains_key(&holder)
            && !self.by_hand.contains_key(&holder)
    }

    /// Whether the row of this user was written by hand.
    pub(super) fn is_by_hand(&self, holder: Holder<'_>) -> bool {
        self.by_hand.contains_key(&holder)
    }

    /// The earliest moment at which anything can have asked for this user's claim.
    pub(super) fn asked_from_us(&self, holder: Holder<'_>) -> Option<u64> {
        let claims = self.claims.get(&holder).into_iter().flatten().map(|op| op.start_us);
        claims.chain(self.past_the_api_us(holder)).min()
    }

    /// Rows of a coupon, in the order of their positions.
    pub(super) fn rows_of(&self, coupon: &str) -> &[&'a ClaimRow] {
        self.rows.get(coupon).map(Vec::as_slice).unwrap_or_default()
    }

    /// Users of a coupon with more than one row.
    pub(super) fn repeated(rows: &[&'a ClaimRow]) -> Vec<&'a ClaimRow> {
        let mut seen = HashSet::new();
        rows.iter().filter(|row| !seen.insert(row.user.as_str())).copied().collect()
    }
}
