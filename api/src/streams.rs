//! Creates claim streams that are missing: at the start, and whenever a publish finds none.

use std::sync::Arc;

use async_nats::jetstream;
use common::backoff::Backoff;
use common::partition::PartitionId;
use common::{queue, stream};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What is needed to create a stream.
pub(crate) struct Streams {
    pub(crate) queue: queue::Connection,
    pub(crate) pool: PgPool,
    pub(crate) partitions: u32,
    pub(crate) settings: stream::Settings,
    /// Wakes the task: a stream may be missing.
    pub(crate) missing: Arc<Notify>,
    /// Cancelled once all streams have been there.
    pub(crate) ready: CancellationToken,
}

impl Streams {
    /// Creates what is missing, until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let mut backoff = Backoff::for_server();
        loop {
            match self.ensure_all().await {
                Ok(()) => {
                    self.ready.cancel();
                    backoff.reset();
                    if stop.run_until_cancelled(self.missing.notified()).await.is_none() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "claim streams are not ready"),
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return;
            }
        }
    }

    async fn ensure_all(&self) -> Result<(), stream::EnsureError> {
        let jetstream = jetstream::new(self.queue.client.clone());
        for number in 0..self.partitions {
            stream::ensure(&jetstream, &self.pool, PartitionId::new(number), &self.settings).await?;
        }
        Ok(())
    }
}
