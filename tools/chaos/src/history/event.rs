//! What happens to the system during a round.

use serde::{Deserialize, Serialize};

use super::state::Claim;

/// Something that happened to the system, with its time on the clock of the requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A round starts.
    RoundBegin {
        /// Its number, from 1.
        round: u32,
        /// The seed of the whole run.
        seed: u64,
    },
    /// All faults of the round are over and every process runs again.
    RoundHealed {
        /// Its number.
        round: u32,
    },
    /// Every client has its outcome, and every queue has been applied to its end. From here on nothing is pending.
    RoundQuiet {
        /// Its number.
        round: u32,
    },
    /// All receipts have been asked about; the final state follows.
    RoundEnd {
        /// Its number.
        round: u32,
    },
    /// A fault is injected.
    FaultBegin {
        /// Its name.
        fault: String,
        /// What it affects.
        target: String,
    },
    /// A fault is over.
    FaultEnd {
        /// Its name.
        fault: String,
        /// What it affected.
        target: String,
        /// How often it affected something under way.
        hits: u64,
    },
    /// Claims were published to the queue, bypassing the API.
    Injected {
        /// The claims, in their order.
        claims: Vec<Claim>,
        /// Whether they are copies of claims that clients had sent, and so ask for nothing new.
        copies: bool,
    },
    /// From here on the streams of these partitions may lose messages.
    QueueLoses {
        /// The partitions.
        partitions: Vec<u32>,
    },
    /// A message is about to be published that workers do not understand, in whole or in part.
    NotUnderstood {
        /// Its partition.
        partition: u32,
    },
    /// A process is about to be started as another version.
    Replaced {
        /// The process.
        process: String,
        /// `old` or `new`.
        version: String,
    },
    /// The stock of a coupon was raised by hand: `amount` and `remaining_amount` together.
    StockRaised {
        /// The coupon.
        coupon: String,
        /// By how much.
        by: i64,
        /// When the statement was sent; the time of the event is that of its answer.
        begin_us: u64,
        /// Whether it was answered. If not, it may have been carried out later, or never.
        certain: bool,
    },
    /// A claim is about to be written into the database by hand.
    ByHand {
        /// The coupon.
        coupon: String,
        /// The user.
        user: String,
    },
}
