//! The JetStream streams that hold the claims: one per partition.
//!
//! One stream per partition gives each partition sequence numbers without gaps, so that a lost
//! message cannot go unnoticed, a cheap purge, and writes to disk in parallel.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, context};
use sqlx::PgPool;

use crate::partition::PartitionId;

/// How claim streams are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Copies of each stream in a NATS cluster (`NATS_REPLICAS`).
    pub replicas: usize,
    /// Bytes that one stream holds before new claims are refused (`STREAM_BYTES_MAX`).
    pub bytes_max: i64,
}

impl Settings {
    /// Default of `NATS_REPLICAS`.
    pub const REPLICAS_DEFAULT: usize = 1;
    /// Default of `STREAM_BYTES_MAX`: a quarter of a gibibyte, about two million waiting claims.
    pub const BYTES_MAX_DEFAULT: i64 = 256 << 20;
}

impl Default for Settings {
    fn default() -> Self {
        Self { replicas: Self::REPLICAS_DEFAULT, bytes_max: Self::BYTES_MAX_DEFAULT }
    }
}

/// The name of a partition's stream.
pub fn name(partition: PartitionId) -> String {
    format!("CLAIMS-{partition}")
}

/// The subject to which a partition's claims are published.
pub fn subject(partition: PartitionId) -> String {
    format!("claims.{partition}")
}

/// Why a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// NATS did not answer, or refused.
    #[error("stream: {0}")]
    Stream(String),
    /// Postgres did not answer, or refused.
    #[error("stream generation: {0}")]
    Database(#[from] sqlx::Error),
}

/// Makes sure that a partition's stream exists, and returns what NATS says of it.
///
/// Before a stream is created, the partition's generation is raised and its cursor set back: from
/// then on, a sequence number of an earlier stream proves nothing, and none of the new stream's can
/// be taken for one that has been applied. Whoever creates the stream at the same time does no harm.
///
/// # Errors
/// When NATS or Postgres do not answer; try again.
pub async fn ensure(
    jetstream: &jetstream::Context,
    pool: &PgPool,
    partition: PartitionId,
    settings: &Settings,
) -> Result<Info, EnsureError> {
    match jetstream.get_stream(name(partition)).await {
        Ok(stream) => return Ok(stream.cached_info().clone()),
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(EnsureError::Stream(error.to_string())),
    }
    let was_read: bool =
        sqlx::query_scalar("SELECT stream_created_ns IS NOT NULL FROM partitions WHERE id = $1")
            .bind(partition.as_i32())
            .fetch_one(pool)
            .await?;
    let generation: i64 = sqlx::query_scalar(
        "UPDATE partitions SET generation = generation + 1, stream_created_ns = NULL, last_seq = 0,
                last_batch_id = NULL WHERE id = $1 RETURNING generation",
    )
    .bind(partition.as_i32())
    .fetch_one(pool)
    .await?;
    let stream = jetstream
        .create_stream(config(partition, settings))
        .await
        .map_err(|error| EnsureError::Stream(error.to_string()))?;
    if was_read {
        // What it held and nobody had applied is gone.
        tracing::error!(%partition, generation, "the stream is gone: starting over with a new one");
    } else {
        tracing::info!(%partition, generation, "created the stream");
    }
    Ok(stream.cached_info().clone())
}

fn is_not_found(error: &context::GetStreamError) -> bool {
    matches!(error.kind(), context::GetStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

/// Brings an existing stream's limits to the settings, should they have changed.
///
/// # Errors
/// When NATS does not answer, or refuses.
pub async fn adjust(
    jetstream: &jetstream::Context,
    partition: PartitionId,
    info: &Info,
    settings: &Settings,
) -> Result<(), EnsureError> {
    let wanted = config(partition, settings);
    if (info.config.num_replicas, info.config.max_bytes) == (wanted.num_replicas, wanted.max_bytes) {
        return Ok(());
    }
    jetstream.update_stream(wanted).await.map_err(|error| EnsureError::Stream(error.to_string()))?;
    tracing::info!(%partition, ?settings, "changed the stream's limits");
    Ok(())
}

fn config(partition: PartitionId, settings: &Settings) -> Config {
    Config {
        name: name(partition),
        description: Some("Coupon claims in the order in which they are applied".to_owned()),
        subjects: vec![subject(partition)],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        // A full stream refuses new claims; it never forgets accepted ones.
        discard: DiscardPolicy::New,
        max_bytes: settings.bytes_max,
        num_replicas: settings.replicas,
        ..Config::default()
    }
}
