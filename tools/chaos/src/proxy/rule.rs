//! What a proxy can be told to do to the bytes of its link.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client (an API or a worker) to the server (NATS or Postgres).
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What becomes of the bytes that a black hole held, once it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnHeal {
    /// They arrive late.
    Deliver,
    /// Their connection is cut.
    Cut,
}

/// Selects NATS messages. All conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Matcher {
    /// Text within the subject.
    pub(crate) subject: Option<String>,
    /// Text within the first kilobytes of the payload, headers included.
    pub(crate) payload: Option<String>,
}

/// One thing to do to a link while the rule is active. Several add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// New connections are reset as soon as they come.
    Refuse,
    /// Bytes of one direction are held. For both directions, add two rules.
    BlackHole { direction: Direction, on_heal: OnHeal },
    /// Everything is delayed, by a random time for each read. Order is kept.
    Delay { min: Duration, max: Duration },
    /// Bytes are written one at a time, so that every read on the other side may end anywhere.
    Slice,
    /// Cuts the connection after `bytes` further bytes of this direction, counted over all connections of the
    /// link. A reset may take delivered bytes back; an orderly close does not. Acts once.
    CutAfter { direction: Direction, bytes: u64, reset: bool },
    /// Postgres: a statement that commits claims or a coupon reaches the server, its answer is discarded, and
    /// the connection is cut; so many times.
    CommitAnswerLost { times: u64 },
    /// NATS: so many frames that match are discarded, each with a chance of one in `one_in`.
    FramesLost { direction: Direction, matcher: Matcher, times: u64, one_in: u32 },
    /// NATS: frames that match are held for a time, while others overtake them. Frames of the same
    /// subscription keep their order, as a server would keep it.
    FramesHeld { direction: Direction, matcher: Matcher, hold: Duration },
}

impl Rule {
    /// How often the rule can act at most; a count of bytes for [`Rule::CutAfter`].
    pub(super) fn budget(&self) -> u64 {
        match self {
            Self::CommitAnswerLost { times } | Self::FramesLost { times, .. } => *times,
            Self::CutAfter { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}
