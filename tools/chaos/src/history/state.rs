//! The state at the end of a round: database rows, queue messages, and what must be back to normal.

use serde::{Deserialize, Serialize};

/// The state after a round, when all faults are healed and every client has its outcome.
///
/// It holds only the coupons of the round; every round makes its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FinalState {
    /// The coupons' rows.
    pub coupons: Vec<CouponRow>,
    /// The claims' rows, in any order.
    pub claims: Vec<ClaimRow>,
    /// What the queue held, one journal per partition.
    pub journals: Vec<Journal>,
    /// How far each partition was read, and how far it goes.
    pub partitions: Vec<PartitionEnd>,
    /// What became of each partition's queue.
    #[serde(default)]
    pub queues: Vec<Queue>,
    /// The errors that the processes logged.
    #[serde(default)]
    pub errors: Vec<LogLine>,
    /// Database sessions in an open transaction.
    pub idle_in_transaction: Vec<Session>,
    /// Values that must be within their limits again: memory, connections.
    pub gauges: Vec<Gauge>,
}

impl FinalState {
    /// Whether every partition was applied to the end of its stream.
    pub fn is_quiet(&self) -> bool {
        self.partitions.iter().all(PartitionEnd::is_quiet)
    }
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
    /// The partition of its claims.
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
    /// Whether no message was missed. An incomplete journal is only used for what it proves.
    pub complete: bool,
    /// Whether the stream may have lost messages that workers had received and not applied, at an unknown
    /// moment: a purge without an answer. Such a journal is not complete.
    #[serde(default)]
    pub doubtful: bool,
    /// How many deliveries a fault kept from their worker. The messages are in the journal all the same.
    #[serde(default)]
    pub discarded: u64,
    /// The messages, by (generation, sequence).
    pub messages: Vec<Message>,
}

/// One message of a stream: a batch of claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// One higher each time the stream was wiped or set back to an older copy, since it then reuses sequence
    /// numbers.
    pub generation: u64,
    /// The stream's sequence number.
    pub sequence: u64,
    /// The batch's id; empty for a message that could not be decoded.
    pub batch_id: String,
    /// The claims in their order; none for a message that could not be decoded.
    pub claims: Vec<Claim>,
}

/// A claim in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Its id.
    pub claim_id: String,
    /// The coupon.
    pub coupon: String,
    /// The user.
    pub user: String,
}

/// How far a partition was applied, and how far its stream goes.
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

impl PartitionEnd {
    /// Whether it was applied to the end of its stream.
    pub fn is_quiet(&self) -> bool {
        self.stream_last == Some(self.cursor)
    }
}

/// What became of a partition's queue during the round, as the workers saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The partition.
    pub partition: u32,
    /// The generation in the table `partitions` when the round began.
    pub generation_before: u64,
    /// The same at its end.
    pub generation_after: u64,
    /// Whether the stream still holds the last message that was applied, with which the next owner compares it.
    pub holds_last: bool,
}

/// A line of a process's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The process.
    pub process: String,
    /// The line.
    pub text: String,
}

/// A database session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The server process behind it.
    pub pid: i32,
    /// Its application name.
    pub application: String,
    /// Its last statement.
    pub query: String,
    /// How long it has been idle in its transaction.
    pub idle_ms: u64,
}

/// A measured value with a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    /// What is measured, and of which process.
    pub name: String,
    /// The value.
    pub value: u64,
    /// The highest normal value.
    pub limit: u64,
}
