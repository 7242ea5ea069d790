//! What a proxy can be told to do to the bytes of its link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client (an API or a worker) to the server (NATS or Postgres).
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What becomes of the bytes that a hole held, once it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHeal {
    /// They arrive late.
    Deliver,
    /// Their connection is cut.
    Cut,
}

/// Picks frames of the NATS protocol. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    /// Text within the subject.
    pub subject: Option<String>,
    /// Bytes within the first kilobytes of the payload, headers included.
    pub payload: Option<String>,
}

/// One thing to do to a link while it is in force. Several add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// New connections are reset as soon as they come.
    Refuse,
    /// Bytes of one direction are held.
    Hole {
        /// The direction; impose two rules for both.
        way: Way,
        /// What becomes of them afterwards.
        on_heal: OnHeal,
    },
    /// Everything takes longer, by a random time for each piece read. Order is kept.
    Delay {
        /// The shortest delay.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// Bytes are written one at a time, so that every read on the other side may end anywhere.
    Slice,
    /// The connection is cut that carries the given byte, counted over all connections of the link in this
    /// direction from now on. Strikes once.
    CutAfter {
        /// The direction that is counted.
        way: Way,
        /// Bytes that still arrive.
        bytes: u64,
        /// Ends with a reset, which may take delivered bytes back; otherwise with an orderly close.
        reset: bool,
    },
    /// Postgres: a statement that commits claims or a coupon reaches the server, its answer is discarded, and
    /// the connection is cut.
    CommitAnswerLost {
        /// How often it strikes.
        times: u64,
    },
    /// NATS: frames that match are discarded.
    FramesLost {
        /// The direction.
        way: Way,
        /// Which frames.
        matcher: Matcher,
        /// How many.
        times: u64,
    },
    /// NATS: frames that match are held for a time, while others overtake them. Frames of the same
    /// subscription keep their order, as a server would keep it.
    FramesHeld {
        /// The direction.
        way: Way,
        /// Which frames.
        matcher: Matcher,
        /// For how long each.
        hold: Duration,
    },
}

impl Rule {
    /// How often the rule can strike at most; a count of bytes for [`Rule::CutAfter`].
    pub(super) fn budget(&self) -> u64 {
        match self {
            Self::CommitAnswerLost { times } | Self::FramesLost { times, .. } => *times,
            Self::CutAfter { bytes, .. } => *bytes,
            Self::Refuse | Self::Hole { .. } | Self::Delay { .. } | Self::Slice | Self::FramesHeld { .. } => {
                0
            }
        }
    }
}

/// A rule in force: the handle to lift it, and to see how often it hit something in flight.
#[derive(Debug, Clone)]
pub struct Imposed {
    pub(super) id: u64,
    pub(super) hits: Arc<AtomicU64>,
}

impl Imposed {
    /// How often the rule hit something: a connection, a frame, or a piece of data that was under way.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}
