//! Why a partition is read anew.

/// Why reading has to begin anew, or to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Another worker owns the partition.
    #[error("another worker owns the partition")]
    Lost,
    /// The partition's messages are newer than this program.
    #[error("the messages are of a newer version than this program understands")]
    TooNew,
    /// NATS has to be asked again.
    #[error("NATS: {0}")]
    Queue(String),
    /// Postgres has to be asked again. After a write, whether it was committed is unknown.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The stream or the cursor was changed meanwhile; read again.
    #[error("{0}")]
    Moved(&'static str),
    /// Postgres does not take what was decided: rows were changed meanwhile, or it refuses a claim. Read again, and
    /// look closer.
    #[error("{0}")]
    Refused(String),
}

/// An error of NATS.
pub(crate) fn queue_error(error: impl std::fmt::Display) -> SourceError {
    SourceError::Queue(error.to_string())
}
