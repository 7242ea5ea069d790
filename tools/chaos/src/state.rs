//! What a round left behind: the database's rows, the queue's messages, and what must be back to normal.

use serde::{Deserialize, Serialize};

use crate::history::Claim;

/// The state after a round, when all was healed and every client had its outcome.
///
/// It holds only the coupons of the round; every round makes its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FinalState {
    /// The coupons' rows.
    pub coupons: Vec<CouponRow>,
    /// The claims' rows, in any order.
    pub claims: Vec<ClaimRow>,
    /// What the queue held, one journal a partition.
    pub journals: Vec<Journal>,
    /// How far each partition was read, and how far it goes.
    pub partitions: Vec<PartitionEnd>,
    /// Database sessions that sit in an open transaction.
    pub idle_in_transaction: Vec<Session>,
    /// Figures that must be within their limits again: memory, connections, messages waiting.
    pub gauges: Vec<Gauge>,
}

/// A coupon's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouponRow {
    /// The coupon's name.
    pub name: String,
    /// Its whole stock.
    pub amount: i64,
    /// What is left of it.
    pub remaining: i64,
    /// The partition its claims travel through.
    pub partition: u32,
}

/// A claim's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRow {
    /// The coupon.
    pub coupon: String,
    /// The user.
    pub user: String,
    /// The claim's id.
    pub claim_id: String,
    /// The claim's number in its coupon, from 1.
    pub position: i64,
    /// When the database wrote it, as text; for the reader of an excerpt.
    #[serde(default)]
    pub created_at: String,
}

/// Everything that one partition's stream was seen to hold, in the order of its sequence numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The partition.
    pub partition: u32,
    /// Whether nothing was missed. A stream can lose messages before anyone reads them a second time; an
    /// incomplete journal is only used for what it proves.
    pub complete: bool,
    /// Whether the stream may have lost messages that workers had been sent and had not applied, at a moment
    /// that is not known: a purge without an answer. Such a journal is not complete.
    #[serde(default)]
    pub doubtful: bool,
    /// The messages, by (generation, sequence).
    pub messages: Vec<Message>,
}

/// One message of a stream: a batch of claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Counts the lives of the stream: a stream that was wiped, or set back to an older copy, numbers its
    /// messages anew, and then this is one higher.
    pub generation: u64,
    /// The stream's sequence number.
    pub sequence: u64,
    /// The batch's id; empty for a message that could not be decoded.
    pub batch_id: String,
    /// The claims in their places; none for a message that could not be decoded.
    pub claims: Vec<Claim>,
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEnd {
    /// The partition.
    pub partition: u32,
    /// The generation of the stream, counted as in the journal.
    pub generation: u64,
    /// The last sequence number that the database has applied.
    pub cursor: u64,
    /// The last sequence number of the stream; nothing if there is no stream.
    pub stream_last: Option<u64>,
}

/// A database session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The server process behind it.
    pub pid: i32,
    /// What it calls itself.
    pub application: String,
    /// Its last statement.
    pub query: String,
    /// How long it has been idle in its transaction.
    pub idle_ms: u64,
}

/// A figure with a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    /// What is measured, and of which process.
    pub name: String,
    /// The figure.
    pub value: u64,
    /// The highest that is normal.
    pub limit: u64,
}
