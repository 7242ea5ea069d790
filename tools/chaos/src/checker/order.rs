//! First come, first served: the rows must be what the queue's messages lead to, in their order.
//!
//! The messages of a partition are replayed in the order (generation, sequence, place). Whoever is new to a
//! coupon while stock is left must be its next row. Four things make this more than one loop:
//!
//! - A stream that was wiped or set back loses a tail. How much of it had been applied before is not written
//!   down anywhere, but since applying goes strictly forward it is a whole number of messages from the
//!   beginning, and the rows show it: messages are followed while they lead to the rows that there are, and
//!   the first that does not ends its generation. Following as far as possible never spoils what comes after,
//!   because users who have their row already are passed over by any later message.
//!   Only the last generation has no tail to lose, so there each deviation is a violation. Rows that no
//!   generation leads to are violations in any case.
//! - A stream that was set back holds messages that had been applied. They are not applied again: a claim that
//!   was refused for want of a coupon must not win when nobody is there to hear of it.
//! - A claim that reached the queue before its coupon was created is refused rightly. It is let pass if it
//!   was asked for before the creation is known to have ended, and nobody had the coupon by then. Even the
//!   claim that took the first position may have been refused so once, and have won when it was repeated;
//!   if the rows contradict its first copy in the queue, the next is tried.
//! - Rows written by hand took stock at an unknown moment. They are left out of the comparison.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::index::Index;
use super::partial;
use super::violation::{Check, Findings};
use crate::history::Claim;
use crate::state::{ClaimRow, Journal, Message};

/// Readings that are tried at most for one journal. Each takes about as long as the journal is long, and a
/// few coupons that were created late may need hundreds.
const READINGS_MAX: usize = 20_000;

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for journal in &index.round.state.journals {
        if journal.complete {
            findings.append(follow(index, journal));
        } else {
            partial::check(index, journal, findings);
        }
    }
}

/// Follows a journal in all readings of what came before the coupons, until one is free of contradictions.
/// Reports the first, simplest one if none is.
fn follow(index: &Index<'_>, journal: &Journal) -> Findings {
    let mut tried: BTreeSet<Skips<'_>> = BTreeSet::new();
    let mut readings: VecDeque<Skips<'_>> = VecDeque::from([Skips::new()]);
    let mut first = None;
    while let Some(skips) = readings.pop_front().filter(|_| tried.len() < READINGS_MAX) {
        let mut findings = Findings::default();
        let replay = Replay::new(index, journal, &skips).run(&mut findings);
        if replay.wrong.is_empty() {
            return findings;
        }
        first.get_or_insert(findings);
        // Another reading is only there for coupons whose first winner stood in the queue more than once. One
        // that is not wrong itself may still have ended a generation too early.
        let open = replay.coupons.iter().filter(|(_, coupon)| coupon.may_skip);
        for (name, _) in open.filter(|(name, _)| replay.wrong.contains(*name) || replay.ended.contains(*name))
        {
            let mut other = skips.clone();
            *other.entry(name).or_default() += 1;
            if tried.insert(other.clone()) {
                readings.push_back(other);
            }
        }
    }
    first.unwrap_or_default()
}

/// How many copies of each coupon's first winner are taken to have come before the coupon.
type Skips<'a> = BTreeMap<&'a str, usize>;

/// One coupon while its partition is replayed.
#[derive(Debug)]
struct Coupon<'a> {
    /// The rows that the queue must lead to, by position.
    rows: Vec<&'a ClaimRow>,
    /// How many of them have been led to.
    next: usize,
    /// Users who have the coupon by now, and those who have it by hand.
    taken: HashSet<&'a str>,
    /// Whether rows and stock say that it is sold out in the end.
    sold_out: bool,
    /// When the coupon is known to exist.
    exists_us: Option<u64>,
    /// Set once a violation was found: what follows would only repeat it.
    given_up: bool,
    /// Copies of the first winner's claim that are taken to have come before the coupon.
    skip: usize,
    /// Whether the copy that was taken for the winning one may have come before the coupon as well.
    may_skip: bool,
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
    coupons: BTreeMap<&'a str, Coupon<'a>>,
    /// Coupons with a violation.
    wrong: BTreeSet<&'a str>,
    /// Coupons whose rows ended a generation.
    ended: BTreeSet<&'a str>,
    /// Sequence numbers and batch ids of what was applied.
    applied: HashSet<(u64, &'a str)>,
}

impl<'a, 'i> Replay<'a, 'i> {
    fn new(index: &'i Index<'a>, journal: &'a Journal, skips: &Skips<'_>) -> Self {
        let coupons = index
            .coupons
            .values()
            .filter(|coupon| coupon.partition == journal.partition)
            .map(|coupon| {
                let all = index.rows_of(&coupon.name);
                let by_hand = |row: &&ClaimRow| index.is_by_hand((&row.coupon, &row.user));
                let state = Coupon {
                    rows: all.iter().filter(|row| !by_hand(row)).copied().collect(),
                    next: 0,
                    taken: all.iter().filter(|row| by_hand(row)).map(|row| row.user.as_str()).collect(),
                    sold_out: all.len() as i64 >= coupon.amount,
                    exists_us: index.exists.get(coupon.name.as_str()).map(|op| op.end_us),
                    given_up: false,
                    skip: skips.get(coupon.name.as_str()).copied().unwrap_or_default(),
                    may_skip: false,
                };
                (coupon.name.as_str(), state)
            })
            .collect();
        Self {
            index,
            journal,
            coupons,
            wrong: BTreeSet::new(),
            ended: BTreeSet::new(),
            applied: HashSet::new(),
        }
    }

    fn run(mut self, findings: &mut Findings) -> Self {
        let messages: &'a [Message] = &self.journal.messages;
        let generations: Vec<&'a [Message]> =
            messages.chunk_by(|a, b| a.generation == b.generation).collect();
        let cursor =
            self.index.round.state.partitions.iter().find(|end| end.partition == self.journal.partition);
        // The last life of the stream may have had no messages at all.
        let last_generation = cursor.map_or(0, |end| end.generation);
        for (number, generation) in generations.iter().enumerate() {
            if number + 1 < generations.len() || generation[0].generation < last_generation {
                // Ends at the first message that was lost.
                let _applied = generation.iter().take_while(|message| self.applies(message)).count();
            } else {
                let passed = |message: &Message| cursor.is_none_or(|end| message.sequence <= end.cursor);
                let (passed, rest) = generation.split_at(generation.partition_point(passed));
                passed.iter().for_each(|message| self.must_apply(message, findings));
                // The stream was set back, and nothing came after that.
                let _applied = rest.iter().take_while(|message| self.applies(message)).count();
            }
        }
        self.leftovers(findings);
        self
    }

    /// What this claim leads to, given all before it.
    fn step(&mut self, claim: &Claim) -> Step {
        let before = self.came_before_its_coupon(claim);
        // Claims of other rounds' coupons, of no coupon at all, or in the wrong partition.
        let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) else { return Step::Nothing };
        if coupon.given_up || coupon.taken.contains(claim.user.as_str()) {
            return Step::Nothing;
        }
        match coupon.rows.get(coupon.next) {
            Some(row) if row.user == claim.user && row.claim_id == claim.claim_id => {
                if before && coupon.skip > 0 {
                    coupon.skip -= 1;
                    return Step::Nothing;
                }
                if coupon.next == 0 {
                    coupon.may_skip = before;
                }
                Step::Row
            }
            None if coupon.sold_out => Step::Nothing,
            _ if before => Step::Nothing,
            _ => Step::Contradicted,
        }
    }

    fn came_before_its_coupon(&self, claim: &Claim) -> bool {
        let Some(coupon) = self.coupons.get(claim.coupon.as_str()) else { return false };
        let asked_us = self.index.asked_from_us((&claim.coupon, &claim.user));
        coupon.next == 0
            && match (asked_us, coupon.exists_us) {
                (Some(asked_us), Some(exists_us)) => asked_us <= exists_us,
                _ => true,
            }
    }

    fn take(&mut self, claim: &'a Claim) {
        if let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) {
            coupon.next += 1;
            coupon.taken.insert(&claim.user);
        }
    }

    /// Notes a message as applied. False if it had been before.
    fn is_new(&mut self, message: &'a Message) -> bool {
        self.applied.insert((message.sequence, &message.batch_id))
    }

    /// Applies a message as a whole, or not at all if the rows contradict it.
    fn applies(&mut self, message: &'a Message) -> bool {
        if !self.is_new(message) {
            return true;
        }
        let mut taken = Vec::new();
        for claim in &message.claims {
            match self.step(claim) {
                Step::Row => {
                    self.take(claim);
                    taken.push(claim);
                }
                Step::Nothing => {}
                Step::Contradicted => {
                    self.ended
                        .extend(self.coupons.get_key_value(claim.coupon.as_str()).map(|(name, _)| *name));
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
    fn must_apply(&mut self, message: &'a Message, findings: &mut Findings) {
        if !self.is_new(message) {
            return;
        }
        for (place, claim) in message.claims.iter().enumerate() {
            match self.step(claim) {
                Step::Row => self.take(claim),
                Step::Nothing => {}
                Step::Contradicted => self.contradicted(message, place, claim, findings),
            }
        }
    }

    fn contradicted(&mut self, message: &Message, place: usize, claim: &Claim, findings: &mut Findings) {
        let Some(coupon) = self.coupons.get_mut(claim.coupon.as_str()) else { return };
        coupon.given_up = true;
        self.wrong.extend(self.index.coupons.get_key_value(claim.coupon.as_str()).map(|(name, _)| *name));
        let position = coupon.next + 1;
        let instead = coupon.rows.get(coupon.next).copied();
        let own = self.index.row_of.get(&(claim.coupon.as_str(), claim.user.as_str())).copied();
        findings.add(
            Check::Order,
            || {
                let of = format!(
                    "coupon {:?}: position {position} belongs to user {:?}",
                    claim.coupon, claim.user
                );
                match instead {
                    Some(row) if row.user == claim.user => format!("{of} by an earlier claim than the row's"),
                    Some(row) => format!("{of}, who came first, but went to {:?}", row.user),
                    None => format!("{of}, but nobody has it though stock is left"),
                }
            },
            |excerpt| {
                let excerpt = excerpt.text(describe(self.journal.partition, message, place, claim));
                let excerpt = instead.into_iter().fold(excerpt, |excerpt, row| excerpt.row(row));
                own.into_iter()
                    .filter(|own| Some(*own) != instead)
                    .fold(excerpt, |excerpt, row| excerpt.row(row))
            },
        );
    }

    /// Rows that nothing in the queue leads to.
    fn leftovers(&mut self, findings: &mut Findings) {
        for (name, coupon) in self.coupons.iter().filter(|(_, coupon)| !coupon.given_up) {
            let left = &coupon.rows[coupon.next.min(coupon.rows.len())..];
            if let Some(row) = left.first() {
                self.wrong.insert(name);
                let seen = self.journal.messages.iter().find_map(|message| {
                    let place = message.claims.iter().position(|claim| claim.claim_id == row.claim_id)?;
                    Some((message, place))
                });
                findings.add(
                    Check::Order,
                    || format!("coupon {name:?}: the queue does not lead to the last {} claims", left.len()),
                    |excerpt| {
                        let excerpt = excerpt.row(row);
                        match seen {
                            Some((message, place)) => excerpt.text(describe(
                                self.journal.partition,
                                message,
                                place,
                                &message.claims[place],
                            )),
                            None => excerpt.text("no message of the queue holds this claim"),
                        }
                    },
                );
            }
        }
    }
}

/// A claim in the queue, as a line of an excerpt.
pub(super) fn describe(partition: u32, message: &Message, place: usize, claim: &Claim) -> String {
    format!(
        "queue: partition {partition} generation {} sequence {} place {place} batch {}: user {:?} claim_id {}",
        message.generation, message.sequence, message.batch_id, claim.user, claim.claim_id
    )
}
