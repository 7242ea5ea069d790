//! Waits for the claim streams, which workers create: at the start, and whenever a publish finds none.

use std::sync::Arc;

use async_nats::jetstream;
use common::backoff::Backoff;
use common::partition::PartitionId;
use common::{queue, stream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::claims::availability::Availability;

/// What is needed to look for streams.
pub(crate) struct Streams {
    pub(crate) queue: queue::Connection,
    pub(crate) partitions: u32,
    /// Wakes the task: a stream may be missing.
    pub(crate) missing: Arc<Notify>,
    /// Told once all streams have been there.
    pub(crate) availability: Arc<Availability>,
}

impl Streams {
    /// Looks for what is missing, until `stop`.
    ///
    /// Claims are taken once all streams have been there. One that goes missing later concerns the claims of its
    /// partition only: their publishes are refused.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut backoff = Backoff::for_server();
        let mut is_waiting = false;
        loop {
            match self.first_missing().await {
                Ok(None) => {
                    if std::mem::take(&mut is_waiting) {
                        tracing::info!("all claim streams are there");
                    }
                    self.availability.streams_found();
                    backoff.reset();
                    if stop.run_until_cancelled(self.missing.notified()).await.is_none() {
                        return;
                    }
                    continue;
                }
                Ok(Some(partition)) => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::warn!(%partition, "waiting for a worker to create the claim stream");
                    }
                }
                Err(error) => tracing::debug!(%error, "claim streams were not looked at"),
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return;
            }
        }
    }

    async fn first_missing(&self) -> Result<Option<PartitionId>, jetstream::context::GetStreamError> {
        let jetstream = jetstream::new(self.queue.client.clone());
        for partition in (0..self.partitions).map(PartitionId::new) {
            match jetstream.get_stream(stream::name(partition)).await {
                Ok(_) => {}
                Err(error) if stream::is_not_found(&error) => return Ok(Some(partition)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
