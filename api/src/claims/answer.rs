//! What the sender of a claim is told.

use common::message::Outcome;

use crate::claims::receipt::Receipt;

/// What a claim is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The claim was decided.
    Outcome(Outcome),
    /// The claim is queued; the receipt says where.
    Pending(Receipt),
    /// The claim could not be completed now.
    Unavailable(Unavailable),
}

/// Why a request could not be completed now. All of these are answered with 503: the client tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// More than `IN_FLIGHT_CLAIMS_MAX` claims, or `CONNECTIONS_MAX` connections.
    #[error("Too many requests are under way. This one was not accepted; try again.")]
    Overloaded,
    /// The claim stream has reached `STREAM_BYTES_MAX`.
    #[error("The queue is full. The claim was not accepted; try again.")]
    QueueFull,
    /// NATS is away, or does not take claims.
    #[error("The queue is not available. The claim was not accepted; try again.")]
    QueueUnavailable,
    /// Postgres is away.
    #[error("The database is not available. Try again.")]
    DatabaseUnavailable,
    /// The claim may or may not have been accepted.
    #[error(
        "It is not known whether the claim was accepted. Repeat it with the same Idempotency-Key: \
         that never takes a second coupon."
    )]
    OutcomeUnknown,
    /// The worker that read the claim is of another version.
    #[error("Another version is being installed. The claim was not accepted; try again.")]
    VersionMismatch,
    /// The process is stopping.
    #[error("The server is stopping. The request was not accepted; try again.")]
    Stopping,
}

impl Unavailable {
    /// The stable code that clients see.
    pub fn code(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue_full",
            Self::QueueUnavailable => "queue_unavailable",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::VersionMismatch => "version_mismatch",
            Self::Stopping => "stopping",
        }
    }
}
