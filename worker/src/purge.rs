//! Deletes applied messages from a partition's stream, now and then, beside its loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use common::partition::PartitionId;
use common::queue::Link;
use common::stream;
use tokio::task::JoinHandle;

use crate::context::Worker;
use crate::stream_check;

/// One partition's purges.
pub(crate) struct Purger {
    worker: Arc<Worker>,
    partition: PartitionId,
    /// When the last purge began.
    last_started: Instant,
    /// The cursor at the last purge that succeeded, of the stream that is read now. Written by the task.
    last_purged_cursor: Arc<AtomicI64>,
    task: Option<JoinHandle<()>>,
}

impl Purger {
    /// Has purged nothing yet.
    pub(crate) fn new(worker: Arc<Worker>, partition: PartitionId) -> Self {
        let last_started = Instant::now();
        Self { worker, partition, last_started, last_purged_cursor: Arc::default(), task: None }
    }

    /// To be called when the stream is opened: it may be another one than the one that was purged.
    pub(crate) fn forget(&mut self) {
        self.last_purged_cursor = Arc::default();
    }

    /// Whether it is time to purge.
    pub(crate) fn is_due(&self, cursor: i64) -> bool {
        self.is_wanted(cursor) && self.last_started.elapsed() >= self.interval()
    }

    /// Returns when it is time to purge; never, if there is nothing to purge.
    pub(crate) async fn due(&self, cursor: i64) {
        if !self.is_wanted(cursor) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until((self.last_started + self.interval()).into()).await;
    }

    /// Purges what lies before the cursor, in a task. The last applied message stays: the next owner compares it with
    /// what Postgres remembers. What fails is tried again when an interval has passed.
    pub(crate) fn purge_before(&mut self, cursor: i64, stream_created_ns: Option<i64>) {
        self.last_started = Instant::now();
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let Ok(sequence @ 1..) = u64::try_from(cursor) else { return };
        let partition = self.partition;
        let jetstream = jetstream::new(self.worker.queue.client.clone());
        let link = self.worker.queue.link.clone();
        let number = link.borrow().number;
        let done = self.last_purged_cursor.clone();
        self.task = Some(tokio::spawn(async move {
            // Nothing is to be sent late, to a server that may have come back with another stream.
            let is_current = || *link.borrow() == (Link { up: true, number });
            let purged = async {
                if !is_current() {
                    return Ok(());
                }
                let stream = jetstream.get_stream(stream::name(partition)).await?;
                // If it was created again meanwhile, what lies before the cursor there has not been applied.
                let created_ns = stream_check::created_ns(stream.cached_info());
                if Some(created_ns) != stream_created_ns || !is_current() {
                    return Ok(());
                }
                stream.purge().sequence(sequence).await?;
                done.store(cursor, Ordering::Relaxed);
                Ok::<_, async_nats::Error>(())
            };
            if let Err(error) = purged.await {
                tracing::warn!(%partition, %error, "applied messages not purged yet");
            }
        }));
    }

    fn interval(&self) -> Duration {
        self.worker.config.purge_interval
    }

    fn is_wanted(&self, cursor: i64) -> bool {
        !self.interval().is_zero() && has_more(cursor, self.last_purged_cursor.load(Ordering::Relaxed))
    }
}

/// Whether a purge before `cursor` deletes anything. Nothing lies before the first message; and to the server, "before
/// number 0" means everything.
fn has_more(cursor: i64, last_purged_cursor: i64) -> bool {
    cursor > 1 && cursor != last_purged_cursor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_purged_before_the_first_message_or_twice() {
        assert!(!has_more(0, 0) && !has_more(1, 0) && has_more(2, 0));
        assert!(!has_more(10, 10) && has_more(11, 10));
        // A stream that was created again counts from 1.
        assert!(has_more(9, 10));
    }
}
