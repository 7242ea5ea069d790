//! Why a partition is read anew.

/// Why reading has to begin anew, or to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Another worker owns the partition.
    #[error("another worker owns the partition")]
    Lost,
    /// NATS has to be asked again.
    #[error("NATS: {0}")]
    Queue(String),
    /// Postgres has to be asked again. After a write, whether it was committed is unknown.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The stream, the cursor or a coupon was changed meanwhile; read again.
    #[error("{0}")]
    Moved(&'static str),
}

/// An error of NATS.
pub(crate) fn queue_error(error: impl std::fmt::Display) -> SourceError {
    SourceError::Queue(error.to_string())
}
