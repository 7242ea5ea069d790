//! What a check reports.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::{Entry, Event, Op};
use crate::state::ClaimRow;

/// Violations of one kind that are reported with an excerpt; more of the same teach nothing new and are
/// only counted.
const EXCERPTS_PER_CHECK_MAX: usize = 5;

/// Lines in one excerpt.
const EXCERPT_LINES_MAX: usize = 12;

/// The checks, by what they prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Stock and claims add up for every coupon, and stock never falls below nothing.
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
    /// "Sold out" only when all stock had gone, and not to someone who has a coupon.
    FalseSoldOut,
    /// "No such coupon" only before there was one.
    FalseNotFound,
    /// A creation's answer agrees with the coupon.
    FalseCreation,
    /// The same key always gets the same outcome.
    SameKey,
    /// What a client is shown of a coupon was true at some moment of its request.
    FalseView,
    /// Only answers of the contract, with the headers it promises.
    Contract,
    /// A definite answer within the promised time of healing.
    Unsettled,
    /// Every partition is read to the end of its stream.
    Cursor,
    /// No database session sits in an open transaction.
    IdleInTransaction,
    /// Memory, connections and queues are back within their limits.
    Gauge,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conservation => "conservation",
            Self::OncePerUser => "once per user",
            Self::Positions => "positions",
            Self::Order => "order",
            Self::RowWithoutRequest => "row without request",
            Self::WonAfterRefusal => "won after refusal",
            Self::FalseAcceptance => "false acceptance",
            Self::FalseAlreadyClaimed => "false 'already claimed'",
            Self::FalseSoldOut => "false 'sold out'",
            Self::FalseNotFound => "false 'not found'",
            Self::FalseCreation => "false creation",
            Self::SameKey => "same key",
            Self::FalseView => "false view",
            Self::Contract => "contract",
            Self::Unsettled => "unsettled",
            Self::Cursor => "cursor",
            Self::IdleInTransaction => "idle in transaction",
            Self::Gauge => "gauge",
        })
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// The check that found it.
    pub check: Check,
    /// What is wrong, in one sentence.
    pub summary: String,
    /// The lines of the history, and the rows and messages, that show it and no more.
    pub excerpt: Vec<String>,
    /// How many further violations of the same check were found and left out.
    pub more: usize,
}

/// Gathers violations, a few of each kind.
#[derive(Debug, Default)]
pub(super) struct Findings {
    violations: Vec<Violation>,
    counts: HashMap<Check, usize>,
}

impl Findings {
    /// Adds one; the excerpt is only made if it is going to be kept.
    pub(super) fn add(
        &mut self,
        check: Check,
        summary: impl FnOnce() -> String,
        excerpt: impl FnOnce(Excerpt) -> Excerpt,
    ) {
        let count = self.counts.entry(check).or_default();
        *count += 1;
        if *count <= EXCERPTS_PER_CHECK_MAX {
            let excerpt = excerpt(Excerpt::default()).0;
            self.violations.push(Violation { check, summary: summary(), excerpt, more: 0 });
        }
    }

    /// Adds what another gathered.
    pub(super) fn append(&mut self, other: Self) {
        for (check, count) in other.counts {
            *self.counts.entry(check).or_default() += count;
        }
        for violation in other.violations {
            let kept = self.violations.iter().filter(|kept| kept.check == violation.check).count();
            if kept < EXCERPTS_PER_CHECK_MAX {
                self.violations.push(violation);
            }
        }
    }

    /// All violations, in the order of their checks.
    pub(super) fn into_violations(mut self) -> Vec<Violation> {
        self.violations.sort_by_key(|violation| violation.check);
        let mut seen: HashMap<Check, usize> = HashMap::new();
        for violation in self.violations.iter_mut().rev() {
            // The last of a kind says how many were left out.
            if *seen.entry(violation.check).or_insert(0) == 0 {
                violation.more = self.counts[&violation.check].saturating_sub(EXCERPTS_PER_CHECK_MAX);
            }
            seen.insert(violation.check, 1);
        }
        self.violations
    }
}

/// Lines that show a violation.
#[derive(Debug, Default)]
pub(super) struct Excerpt(Vec<String>);

impl Excerpt {
    /// Adds a request.
    pub(super) fn op(self, op: &Op) -> Self {
        let line = serde_json::to_string(&Entry::Op(Box::new(op.clone())));
        self.text(line.unwrap_or_else(|error| format!("request {} ({error})", op.id.0)))
    }

    /// Adds requests.
    pub(super) fn ops<'a>(self, ops: impl IntoIterator<Item = &'a Op>) -> Self {
        ops.into_iter().fold(self, Self::op)
    }

    /// Adds an event.
    pub(super) fn event(self, event: &Event) -> Self {
        let line = serde_json::to_string(&Entry::Event(event.clone()));
        self.text(line.unwrap_or_else(|error| format!("event at {} ({error})", event.at_us)))
    }

    /// Adds a claim's row.
    pub(super) fn row(self, row: &ClaimRow) -> Self {
        self.text(format!(
            "row: coupon {:?} user {:?} position {} claim_id {} created {}",
            row.coupon, row.user, row.position, row.claim_id, row.created_at
        ))
    }

    /// Adds a line of text.
    pub(super) fn text(mut self, line: impl Into<String>) -> Self {
        if self.0.len() < EXCERPT_LINES_MAX {
            self.0.push(line.into());
        }
        self
    }
}
