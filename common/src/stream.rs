//! The JetStream streams that hold the claims: one per partition. Workers create them, APIs publish to them.
//!
//! One stream per partition gives each partition sequence numbers without gaps, so that a lost
//! message cannot go unnoticed, a cheap purge, and writes to disk in parallel.

use async_nats::jetstream::{self, context};

use crate::partition::PartitionId;

/// The name of a partition's stream.
pub fn name(partition: PartitionId) -> String {
    format!("CLAIMS-{partition}")
}

/// The subject to which a partition's claims are published.
pub fn subject(partition: PartitionId) -> String {
    format!("claims.{partition}")
}

/// Whether NATS says that there is no such stream.
pub fn is_not_found(error: &context::GetStreamError) -> bool {
    matches!(error.kind(), context::GetStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}
