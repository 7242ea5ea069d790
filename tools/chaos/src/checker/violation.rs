//! What a check reports.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::{ClaimRow, Entry, Event, Message, Op};

/// Violations of one check that are reported with an excerpt; further ones are only counted.
const EXCERPTS_PER_CHECK_MAX: usize = 5;

/// Lines in one excerpt.
const EXCERPT_LINES_MAX: usize = 12;

/// The checks, by what they prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Stock and claims add up for every coupon, and stock is never negative.
    Conservation,
    /// At most one row for a user of a coupon.
    OncePerUser,
    /// Positions run from 1 to the number of claims.
    Positions,
    /// The winners are the first distinct users in the order of the queue.
    Order,
    /// No row without a request, and none without its coupon.
    RowWithoutRequest,
    /// Nobody has a coupon whose every request was refused: a refusal is final for the request that got it.
    WonAfterRefusal,
    /// Every 200 has its row.
    FalseAcceptance,
    /// "Already claimed" only to users who had it by another request.
    FalseAlreadyClaimed,
    /// "Sold out" only when no stock was left, and not to someone who has the coupon.
    FalseSoldOut,
    /// "No such coupon" only before there was one.
    FalseNotFound,
    /// A creation's answer agrees with the coupon.
    FalseCreation,
    /// The same key always gets the same outcome.
    SameKey,
    /// A claim's id belongs to one coupon and one user; without a key, to one request.
    ClaimId,
    /// What a client is shown of a coupon was true at some moment of its request.
    FalseView,
    /// Only answers of the contract, with the headers it promises.
    Contract,
    /// A definite answer within the promised time after healing.
    Unsettled,
    /// No claim is called pending after everything that was queued has been applied.
    FalsePending,
    /// Nothing is passed over in a queue from which no fault took messages, and no error is logged without a cause.
    Loss,
    /// Every partition is read to the end of its stream.
    Cursor,
    /// No database session is idle in an open transaction.
    IdleInTransaction,
    /// Memory and connections are back within their limits.
    Gauge,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// The check that found it.
    pub check: Check,
    /// What is wrong, in one sentence.
    pub summary: String,
    /// The lines of the history, the rows and the messages that show it.
    pub excerpt: Vec<String>,
    /// How many further violations of the same check were found and left out.
    pub more: usize,
}

/// Gathers violations, a few of each check.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<Check, (Vec<Violation>, usize)>);

impl Findings {
    pub(super) fn add(&mut self, check: Check, summary: String, excerpt: Excerpt) {
        let (kept, count) = self.0.entry(check).or_default();
        *count += 1;
        if kept.len() < EXCERPTS_PER_CHECK_MAX {
            kept.push(Violation { check, summary, excerpt: excerpt.0, more: 0 });
        }
    }

    /// All violations, in the order of their checks. The last of a check says how many were left out.
    pub(super) fn into_violations(self) -> Vec<Violation> {
        let finish = |(mut kept, count): (Vec<Violation>, usize)| {
            let more = count - kept.len();
            kept.last_mut().into_iter().for_each(|last| last.more = more);
            kept
        };
        self.0.into_values().flat_map(finish).collect()
    }
}

/// Lines that show a violation.
#[derive(Debug, Default)]
pub(super) struct Excerpt(Vec<String>);

impl Excerpt {
    pub(super) fn op(self, op: &Op) -> Self {
        self.entry(&Entry::Op(Box::new(op.clone())))
    }

    pub(super) fn ops<'a>(self, ops: impl IntoIterator<Item = &'a Op>) -> Self {
        ops.into_iter().fold(self, Self::op)
    }

    pub(super) fn event(self, event: &Event) -> Self {
        self.entry(&Entry::Event(event.clone()))
    }

    fn entry(self, entry: &Entry) -> Self {
        self.text(serde_json::to_string(entry).unwrap_or_else(|error| error.to_string()))
    }

    pub(super) fn rows<'a>(self, rows: impl IntoIterator<Item = &'a ClaimRow>) -> Self {
        rows.into_iter().fold(self, |excerpt, row| {
            excerpt.text(format!(
                "row: coupon {:?} user {:?} position {} claim_id {} created {}",
                row.coupon, row.user, row.position, row.claim_id, row.created_at
            ))
        })
    }

    /// Adds the claim at a place of a queue's message.
    pub(super) fn queued(self, partition: u32, message: &Message, place: usize) -> Self {
        let (Message { generation, sequence, batch_id, .. }, claim) = (message, &message.claims[place]);
        self.text(format!(
            "queue: partition {partition} generation {generation} sequence {sequence} place {place} \
             batch {batch_id}: user {:?} claim_id {}",
            claim.user, claim.claim_id
        ))
    }

    pub(super) fn text(mut self, line: impl Into<String>) -> Self {
        if self.0.len() < EXCERPT_LINES_MAX {
            self.0.push(line.into());
        }
        self
    }
}
