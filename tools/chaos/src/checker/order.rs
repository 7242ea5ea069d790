//! First come, first served: the rows must follow from the queue's messages, in their order.
//!
//! The messages of a partition are replayed in the order (generation, sequence, place). A user who is new to a
//! coupon while stock is left must have its next row. Five things make this more than one loop:
//!
//! - A stream that was wiped or set back loses a tail. How much of it had been applied is not recorded, but
//!   since a partition is applied strictly in order, it is a number of whole messages from the beginning, and the
//!   rows show it: messages are followed while they agree with the rows, and the first that does not ends its
//!   generation. Following too far does no harm: users who have their row are skipped in later messages.
//!   Only the last generation has lost no tail, so there each deviation is a violation. Rows that no
//!   generation leads to are violations in any case.
//! - A stream that was set back holds messages that had been applied. They are not applied again: a claim that
//!   was refused for lack of a coupon must not win when nobody waits for the answer.
//! - A claim that reached the queue before its coupon was created is refused rightly. It may be refused if it
//!   was asked for before the creation is known to have ended, and nobody had the coupon by then. Even the
//!   claim that took the first position may have been refused so once, and have won when it was repeated;
//!   if the rows contradict its first copy in the queue, the next is tried.
//! - Rows written by hand took stock at an unknown moment. They are left out of the comparison.
//! - Stock that was raised by hand came at a moment that is known only roughly. While as many have won as there can
//!   have been at some time, a claim may be refused and a later one may win. If the next row's claim was queued more
//!   than once, it is not known which copy won, and nobody else's refusal in such a coupon is judged from then on.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{Claim, ClaimRow, Journal, Message};

/// Interpretations that are tried at most for one journal. Each takes one pass over the journal, and a few
/// coupons that were created late may need hundreds.
const INTERPRETATIONS_MAX: usize = 20_000;

/// How many copies of each coupon's first winner are assumed to have come before the coupon.
type Skips<'a> = BTreeMap<&'a str, usize>;

/// Tries all interpretations of what came before the coupons, until one is free of contradictions. Reports the
/// first, simplest one if none is.
pub(super) fn check(index: &Index<'_>, journal: &Journal, findings: &mut Findings) {
    let mut tried: BTreeSet<Skips<'_>> = BTreeSet::new();
    let mut waiting: VecDeque<Skips<'_>> = VecDeque::from([Skips::new()]);
    let mut first = None;
    let repeated = repeated(index, journal);
    while let Some(skips) = waiting.pop_front().filter(|_| tried.len() < INTERPRETATIONS_MAX) {
        let replay = Replay::new(index, journal, &skips, &repeated).run();
        if replay.contradictions.is_empty() {
            return;
        }
        first.get_or_insert(replay.contradictions);
        // Another interpretation exists only for coupons whose first winner was queued more than once. A coupon
        // without a contradiction may still have ended a generation too early.
        for (name, coupon) in replay.coupons {
            if coupon.may_skip && (coupon.wrong || coupon.ended_generation) {
                let mut other = skips.clone();
                *other.entry(name).or_default() += 1;
                if tried.insert(other.clone()) {
                    waiting.push_back(other);
                }
            }
        }
    }
    for (summary, excerpt) in first.into_iter().flatten() {
        findings.add(Check::Order, summary, excerpt);
    }
}

/// The claims of raised coupons that were queued more than once.
fn repeated<'a>(index: &Index<'a>, journal: &'a Journal) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    let claims = journal.messages.iter().flat_map(|message| &message.claims);
    let raised = claims.filter(|claim| index.amounts.is_raised(&claim.coupon));
    raised.filter(|claim| !seen.insert(&claim.claim_id)).map(|claim| claim.claim_id.as_str()).collect()
}

/// One coupon while its partition is replayed.
#[derive(Debug)]
struct Coupon<'a> {
    /// The rows that the queue must lead to, by position.
    rows: Vec<&'a ClaimRow>,
    /// How many of them the replay has reached.
    next: usize,
    /// Users who have the coupon by now, and those who have it by hand.
    taken: HashSet<&'a str>,
    /// All rows, also those by hand.
    row_count: i64,
    /// All that there can have been of it at any time.
    amounts: BTreeSet<i64>,
    /// When the coupon is known to exist.
    exists_us: Option<u64>,
    /// A row was taken that a later copy of its claim may have taken, when stock had been raised.
    ambiguous: bool,
    /// A contradiction was found; what follows would only repeat it.
    wrong: bool,
    /// A contradiction with its rows ended a generation.
    ended_generation: bool,
    /// Copies of the first winner's claim that are still assumed to have come before the coupon.
    skip: usize,
    /// Whether the copy that was taken as the winning one may have come before the coupon as well.
    may_skip: bool,
}

impl Coupon<'_> {
    /// Whether all that there was at some time can be taken by now: by the rows that the replay has reached, and by as
    /// many as there are by hand before the next one.
    fn may_be_sold_out(&self) -> bool {
        let reached = self.next.checked_sub(1).map_or(0, |last| self.rows[last].position);
        let next = self.rows.get(self.next).map_or(self.row_count, |row| row.position - 1);
        reached <= next && self.amounts.range(reached..=next).next().is_some()
    }
}

/// What a claim in the queue leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is the next row.
    Row,
    /// It changes nothing, rightly.
    Nothing,
    /// The rows contradict it.
    Contradicted,
}

struct Replay<'a, 'i> {
    index: &'i Index<'a>,
    journal: &'a Journal,
    /// See [`repeated`].
    repeated: &'i HashSet<&'a str>,
    coupons: BTreeMap<&'a str, Coupon<'a>>,
    /// Sequence numbers and batch ids of what was applied.
    applied: HashSet<(u64, &'a str)>,
    contradictions: Vec<(String, Excerpt)>,
}

impl<'a, 'i> Replay<'a, 'i> {
    fn new(
        index: &'i Index<'a>,
        journal: &'a Journal,
        skips: &Skips<'_>,
        repeated: &'i HashSet<&'a str>,
    ) -> Self {
        let here = index.coupons.iter().filter(|(_, coupon)| coupon.partition == journal.partition);
        let coupons = here.map(|(name, coupon)| {
            let all = index.rows_of(name);
            let (by_hand, rows): (Vec<&ClaimRow>, Vec<&ClaimRow>) =
                all.iter().partition(|row| index.is_by_hand((&row.coupon, &row.user)));
            let state = Coupon {
                rows,
                next: 0,
                taken: by_hand.iter().map(|row| row.user.as_str()).collect(),
                row_count: all.len() as i64,
                amounts: index.amounts.all(coupon),
                exists_us: index.exists.get(name).map(|op| op.end_us),
                ambiguous: false,
                wrong: false,
                ended_generation: false,
                skip: skips.get(name).copied().unwrap_or_default(),
                may_skip: false,
            };
            (*name, state)
        });
        let coupons = coupons.collect();
        Self { index, journal, repeated, coupons, applied: HashSet::new(), contradictions: Vec::new() }
    }

    fn run(mut self) -> Self {
        let messages: &'a [Message] = &self.journal.messages;
        let partition = self.journal.partition;
        let end = self.index.round.state.partitions.iter().find(|end| end.partition == partition);
        // The last generation of the stream may have no messages at all.
        let newest = messages.last().map(|message| message.generation);
        let current = newest.max(end.map(|end| end.generation));
        for generation in messages.chunk_by(|a, b| a.generation == b.generation) {
            let passed = |message: &Message| {
                Some(message.generation) == current && end.is_none_or(|end| message.sequence <= end.cursor)
            };
            let (certain, rest) = generation.split_at(generation.partition_point(passed));
            certain.iter().for_each(|message| self.must_apply(message));
            // Of a generation that was cut off, as much was applied as agrees with the rows.
            let _applied = rest.iter().take_while(|message| self.applies(message)).count();
        }
        self.leftovers();
        self
    }

    /// What this claim leads to, given all before it.
    fn step(&mut self, claim: &'a Claim) -> Step {
        // Ignored are claims of other rounds' coupons, of no coupon at all, or in the wrong partition.
        let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) else { return Step::Nothing };
        if coupon.wrong || coupon.taken.contains(claim.user.as_str()) {
            return Step::Nothing;
        }
        let asked_us = self.index.asked_from_us((&claim.coupon, &claim.user));
        let before_coupon =
            coupon.next == 0 && asked_us.zip(coupon.exists_us).is_none_or(|(asked, exists)| asked <= exists);
        match coupon.rows.get(coupon.next) {
            Some(row) if row.user == claim.user && row.claim_id == claim.claim_id => {
                if before_coupon && coupon.skip > 0 {
                    coupon.skip -= 1;
                    return Step::Nothing;
                }
                if coupon.next == 0 {
                    coupon.may_skip = before_coupon;
                }
                coupon.ambiguous |=
                    self.repeated.contains(claim.claim_id.as_str()) && coupon.may_be_sold_out();
                coupon.next += 1;
                coupon.taken.insert(&claim.user);
                Step::Row
            }
            _ if coupon.ambiguous || coupon.may_be_sold_out() => Step::Nothing,
            _ if before_coupon => Step::Nothing,
            _ => Step::Contradicted,
        }
    }

    /// Marks a message as applied. False if it had been before.
    fn is_new(&mut self, message: &'a Message) -> bool {
        self.applied.insert((message.sequence, &message.batch_id))
    }

    /// Applies a message completely, or not at all if the rows contradict it.
    fn applies(&mut self, message: &'a Message) -> bool {
        if !self.is_new(message) {
            return true;
        }
        let mut taken: Vec<&Claim> = Vec::new();
        for claim in &message.claims {
            match self.step(claim) {
                Step::Row => taken.push(claim),
                Step::Nothing => {}
                Step::Contradicted => {
                    if let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) {
                        coupon.ended_generation = true;
                    }
                    for claim in taken {
                        if let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) {
                            coupon.next -= 1;
                            coupon.taken.remove(claim.user.as_str());
                        }
                    }
                    self.applied.remove(&(message.sequence, message.batch_id.as_str()));
                    return false;
                }
            }
        }
        true
    }

    /// Applies a message that was applied for certain.
    fn must_apply(&mut self, message: &'a Message) {
        if self.is_new(message) {
            for (place, claim) in message.claims.iter().enumerate() {
                if self.step(claim) == Step::Contradicted {
                    self.contradicted(message, place, claim);
                }
            }
        }
    }

    fn contradicted(&mut self, message: &Message, place: usize, claim: &Claim) {
        let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) else { return };
        coupon.wrong = true;
        let instead = coupon.rows.get(coupon.next).copied();
        let own = self.index.row_of.get(&(claim.coupon.as_str(), claim.user.as_str())).copied();
        let (name, position, user) = (&claim.coupon, coupon.next + 1, &claim.user);
        let of = format!("coupon {name:?}: position {position} belongs to user {user:?}");
        let summary = match instead {
            Some(row) if row.user == claim.user => format!("{of} by an earlier claim than the row's"),
            Some(row) => format!("{of}, who came first, but went to {:?}", row.user),
            None => format!("{of}, but nobody has it though stock is left"),
        };
        let own = own.filter(|own| Some(*own) != instead);
        let excerpt = Excerpt::default().queued(self.journal.partition, message, place);
        self.contradictions.push((summary, excerpt.rows(instead).rows(own)));
    }

    /// Finds rows that nothing in the queue leads to.
    fn leftovers(&mut self) {
        for (name, coupon) in self.coupons.iter_mut().filter(|(_, coupon)| !coupon.wrong) {
            let left = coupon.rows.get(coupon.next..).unwrap_or_default();
            let Some(row) = left.first() else { continue };
            let seen = self.journal.messages.iter().find_map(|message| {
                let place = message.claims.iter().position(|claim| claim.claim_id == row.claim_id)?;
                Some((message, place))
            });
            let summary =
                format!("coupon {name:?}: the queue does not lead to the last {} claims", left.len());
            let excerpt = Excerpt::default().rows([*row]);
            let excerpt = match seen {
                Some((message, place)) => excerpt.queued(self.journal.partition, message, place),
                None => excerpt.text("no message of the queue holds this claim"),
            };
            coupon.wrong = true;
            self.contradictions.push((summary, excerpt));
        }
    }
}
