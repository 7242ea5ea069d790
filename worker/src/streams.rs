//! Creates claim streams that are missing: at the start, and whenever one is gone.
//!
//! Only workers may do that. What a stream's configuration tells the server to do (`republish`, `sources`), the server
//! does with rights of its own, so whoever creates streams is trusted with the whole queue.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use common::partition::PartitionId;
use common::stream::{is_not_found, name, subject};
use futures::TryStreamExt;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::StreamSettings;
use crate::context::Worker;
use crate::source_error::{SourceError, queue_error};
use crate::store;

/// How often each worker looks whether a stream is missing, whoever owns its partition: the owner may be frozen, and
/// there may be none.
const STREAMS_INTERVAL: Duration = Duration::from_millis(500);

impl Worker {
    /// Creates the streams that are missing. One that cannot be created does not keep the others from it.
    ///
    /// # Errors
    /// When NATS or Postgres do not answer, or NATS refuses; try again.
    pub async fn create_missing_streams(&self) -> anyhow::Result<()> {
        let jetstream = jetstream::new(self.queue.client.clone());
        // One question for all of them: every worker asks it, all the time.
        let there: HashSet<String> = jetstream.stream_names().try_collect().await?;
        let mut result = Ok(());
        for partition in (0..self.partitions).map(PartitionId::new) {
            if !there.contains(&name(partition))
                && let Err(error) = ensure(self, &jetstream, partition).await
            {
                result = result.and(Err(error.into()));
            }
        }
        result
    }
}

/// Creates what is missing, until `stop`.
pub(crate) async fn keep(worker: &Worker, stop: CancellationToken) {
    let mut interval = tokio::time::interval(STREAMS_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // It repeats twice a second: only changes are logged.
    let mut failure = None;
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        if !worker.queue.link.borrow().up {
            continue;
        }
        match stop.run_until_cancelled(worker.create_missing_streams()).await {
            None => return,
            Some(Ok(())) => {
                if failure.take().is_some() {
                    tracing::info!("claim streams are ready");
                }
            }
            Some(Err(error)) => {
                let text = error.to_string();
                if failure.as_ref() != Some(&text) {
                    tracing::warn!(%error, "claim streams are not ready");
                    failure = Some(text);
                }
            }
        }
    }
}

/// Makes sure that a partition's stream exists, and returns what NATS says of it.
///
/// Before a stream is created, the partition's generation is raised and its cursor set back: from
/// then on, a sequence number of an earlier stream proves nothing, and none of the new stream's can
/// be taken for one that has been applied. Several workers may do so at once: the row is changed only if
/// it is as it was before the stream was found missing. A stream that another worker has created meanwhile stays.
///
/// # Errors
/// When NATS or Postgres do not answer, or another worker is creating it; try again.
pub(crate) async fn ensure(
    worker: &Worker,
    jetstream: &jetstream::Context,
    partition: PartitionId,
) -> Result<Info, SourceError> {
    if let Some(info) = find(jetstream, partition).await? {
        return Ok(info);
    }
    let mut connection = worker.pool.acquire().await?;
    let row = store::partition(&mut connection, partition).await?;
    // Only now is it known to be missing from what the row speaks of.
    if let Some(info) = find(jetstream, partition).await? {
        return Ok(info);
    }
    if !store::expect_new_stream(&mut connection, partition, &row).await? {
        return Err(SourceError::Moved("another worker is creating the stream"));
    }
    drop(connection);
    let stream =
        jetstream.create_stream(config(partition, &worker.config.streams)).await.map_err(queue_error)?;
    let generation = row.generation + 1;
    if row.stream_created_ns.is_some() {
        // What it held and nobody had applied is gone.
        tracing::error!(%partition, generation, "the stream is gone: starting over with a new one");
    } else {
        tracing::info!(%partition, generation, "created the stream");
    }
    Ok(stream.cached_info().clone())
}

async fn find(jetstream: &jetstream::Context, partition: PartitionId) -> Result<Option<Info>, SourceError> {
    match jetstream.get_stream(name(partition)).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(queue_error(error)),
    }
}

/// Brings an existing stream's limits to the settings, should they have changed.
///
/// # Errors
/// When NATS does not answer, or refuses.
pub(crate) async fn adjust(
    jetstream: &jetstream::Context,
    partition: PartitionId,
    info: &Info,
    settings: &StreamSettings,
) -> Result<(), SourceError> {
    let wanted = config(partition, settings);
    if (info.config.num_replicas, info.config.max_bytes) == (wanted.num_replicas, wanted.max_bytes) {
        return Ok(());
    }
    jetstream.update_stream(wanted).await.map_err(queue_error)?;
    tracing::info!(%partition, ?settings, "changed the stream's limits");
    Ok(())
}

fn config(partition: PartitionId, settings: &StreamSettings) -> Config {
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
