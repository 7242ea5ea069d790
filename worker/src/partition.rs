//! The loop of one owned partition: read a batch, apply it, reply; begin anew after any failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use common::backoff::Backoff;
use common::partition::PartitionId;
use common::queue::Link;
use common::stream;
use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::apply::Transaction;
use crate::memory::Memory;
use crate::sessions::{ROW_TIMEOUT, Sessions};
use crate::source::{self, Source, SourceError};
use crate::store::{self, Written};

/// How long opening a consumer may take, all questions together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// One partition, owned under one epoch.
pub(crate) struct Partition {
    worker: Arc<Worker>,
    id: PartitionId,
    epoch: i64,
    sessions: Arc<Sessions>,
    memory: Memory,
    purge: Purge,
}

/// Why a loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to, and the partition is released.
    Released,
    /// Another worker owns the partition.
    Lost,
}

impl Partition {
    pub(crate) fn new(worker: Arc<Worker>, sessions: Arc<Sessions>, id: PartitionId, epoch: i64) -> Self {
        let interval = worker.config.purge_interval;
        let purge = Purge { interval, last: Instant::now(), purged: Arc::default(), task: None };
        Self { worker, id, epoch, sessions, memory: Memory::default(), purge }
    }

    /// Runs until `stop`, between two batches, or until another worker owns the partition.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> End {
        tracing::info!(partition = %self.id, epoch = self.epoch, "took the partition");
        let mut backoff = Backoff::for_server();
        let end = loop {
            let Some(opened) = stop.run_until_cancelled(self.open()).await else { break End::Released };
            let error = match opened {
                Ok(mut source) => {
                    self.purge.forget();
                    let ended = self.consume(&mut source, &stop, &mut backoff).await;
                    source.close();
                    match ended {
                        Ok(()) => break End::Released,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            match error {
                SourceError::Lost => break End::Lost,
                SourceError::Moved(why) => tracing::info!(partition = %self.id, why, "reading anew"),
                error => tracing::warn!(partition = %self.id, %error, "reading anew"),
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                break End::Released;
            }
        };
        match end {
            End::Released => self.release().await,
            End::Lost => tracing::warn!(partition = %self.id, epoch = self.epoch, "lost the partition"),
        }
        self.sessions.close_one().await;
        end
    }

    async fn open(&self) -> Result<Source, SourceError> {
        let (worker, id, epoch) = (self.worker.clone(), self.id, self.epoch);
        let mut link = worker.queue.link.clone();
        let up = link.wait_for(|link| link.up).await.map(|link| link.epoch);
        let epoch_of_link = up.map_err(|_| SourceError::Queue("the connection is gone".to_owned()))?;
        let opened = Source::open(&worker, &self.sessions, id, epoch);
        // Requests do not survive the connection: rather than wait for their time-outs, begin anew.
        let opened = tokio::select! {
            opened = tokio::time::timeout(OPEN_TIMEOUT, opened) => opened.ok(),
            _ = link.wait_for(|link| link.epoch != epoch_of_link || !link.up) => None,
        };
        opened.unwrap_or_else(|| Err(SourceError::Queue("no answer, or the connection was lost".to_owned())))
    }

    async fn consume(
        &mut self,
        source: &mut Source,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), SourceError> {
        let claims_max = self.worker.config.transaction_claims_max;
        loop {
            let cursor = source.row.last_seq;
            let created_ns = source.row.stream_created_ns;
            let messages = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                messages = source.next_batch(claims_max) => messages,
                // Also while nothing comes: a full stream takes nothing before it is purged.
                () = self.purge.due(cursor) => {
                    self.purge.up_to(&self.worker, self.id, cursor, created_ns);
                    continue;
                }
            };
            let mut transaction = Transaction::new(self.id, &source.row, messages?, self.worker.config.lease);
            if !source.is_current() {
                return Err(SourceError::Queue("the connection was lost".to_owned()));
            }
            self.apply(&mut transaction, stop).await?;
            // Opening is not yet a success: a stream can be fine and what it brings be not.
            backoff.reset();
            transaction.reply(&self.worker.queue).await;
            transaction.moves(&mut source.row);
            let cursor = source.row.last_seq;
            if self.purge.is_due(cursor) && source.is_current() {
                self.purge.up_to(&self.worker, self.id, cursor, created_ns);
            }
        }
    }

    /// Applies a transaction, in other sessions if need be, until it is certain that it has been
    /// committed, exactly once.
    async fn apply(
        &mut self,
        transaction: &mut Transaction,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        let timeout = self.worker.config.statement_timeout;
        let mut backoff = Backoff::for_server();
        loop {
            // Taken out until the outcome is known: whatever else happens, nothing is remembered.
            let mut memory = std::mem::take(&mut self.memory);
            let applied = self
                .sessions
                .within(timeout, async |session| transaction.apply(session, &mut memory).await)
                .await;
            let error = match applied {
                Ok(Written::Committed) => {
                    self.memory = memory;
                    return Ok(());
                }
                Ok(Written::Fenced) => {
                    tracing::warn!(partition = %self.id, epoch = self.epoch, fenced = true, "commit refused");
                    return self.after_fence().await;
                }
                Ok(Written::Overtaken) => "rows were changed by hand meanwhile".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(partition = %self.id, error, "batch not confirmed; asking Postgres what became of it");
            let row = loop {
                if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                    return Err(SourceError::Moved("stopped before Postgres answered"));
                }
                if let Ok(row) = self.sessions.partition(self.id).await {
                    break row;
                }
            };
            if transaction.is_in(&row) {
                return Ok(());
            }
            if row.epoch != self.epoch {
                return Err(SourceError::Lost);
            }
            if !transaction.follows(&row) {
                return Err(SourceError::Moved("the cursor was moved"));
            }
        }
    }

    /// Finds out whether the fence held because of another owner or of another cursor.
    async fn after_fence(&self) -> Result<(), SourceError> {
        let row = self.sessions.partition(self.id).await?;
        Err(if row.epoch == self.epoch {
            SourceError::Moved("the cursor was moved")
        } else {
            SourceError::Lost
        })
    }

    async fn release(&self) {
        let (id, epoch, worker) = (self.id, self.epoch, self.worker.id);
        let release = async |session: &mut PgConnection| store::release(session, id, worker, epoch).await;
        // Connecting included: whoever stops has not much time.
        match tokio::time::timeout(ROW_TIMEOUT, self.sessions.within(ROW_TIMEOUT, release)).await {
            Ok(Ok(())) => tracing::info!(partition = %id, epoch, "released the partition"),
            Ok(Err(error)) => tracing::warn!(partition = %id, %error, "not released; the lease will run out"),
            Err(_) => tracing::warn!(partition = %id, "not released in time; the lease will run out"),
        }
    }
}

/// Deletes applied messages from the stream, now and then, beside the loop.
struct Purge {
    interval: Duration,
    last: Instant,
    /// The cursor at the last purge that succeeded, of the stream that is read now.
    purged: Arc<AtomicI64>,
    task: Option<JoinHandle<()>>,
}

impl Purge {
    /// What was purged was of a stream that may be gone.
    fn forget(&mut self) {
        self.purged = Arc::default();
    }

    fn is_due(&self, cursor: i64) -> bool {
        self.is_wanted(cursor) && self.last.elapsed() >= self.interval
    }

    /// Returns when it is time; never, if there is nothing to purge.
    async fn due(&self, cursor: i64) {
        if !self.is_wanted(cursor) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until((self.last + self.interval).into()).await;
    }

    /// Nothing lies before the first message; and to the server, "before number 0" means all there is.
    fn is_wanted(&self, cursor: i64) -> bool {
        !self.interval.is_zero() && cursor > 1 && cursor != self.purged.load(Ordering::Relaxed)
    }

    /// Purges what lies before the cursor. The last applied message stays: the next owner compares
    /// it with what Postgres remembers. What fails is tried again when an interval has passed.
    fn up_to(&mut self, worker: &Worker, partition: PartitionId, cursor: i64, created_ns: Option<i64>) {
        self.last = Instant::now();
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let Ok(sequence @ 1..) = u64::try_from(cursor) else { return };
        let jetstream = jetstream::new(worker.queue.client.clone());
        let link = worker.queue.link.clone();
        let epoch = link.borrow().epoch;
        let done = self.purged.clone();
        self.task = Some(tokio::spawn(async move {
            // Nothing is to be sent late, to a server that may have come back with another stream.
            let is_current = || *link.borrow() == (Link { up: true, epoch });
            let purged = async {
                if !is_current() {
                    return Ok(());
                }
                let stream = jetstream.get_stream(stream::name(partition)).await?;
                // Made anew meanwhile: what lies before the cursor there has not been applied.
                if Some(source::created_ns(stream.cached_info())) != created_ns || !is_current() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge() -> Purge {
        Purge { interval: Duration::from_secs(1), last: Instant::now(), purged: Arc::default(), task: None }
    }

    #[test]
    fn nothing_is_purged_before_the_first_message() {
        let mut purge = purge();
        assert!(!purge.is_wanted(0) && !purge.is_wanted(1) && purge.is_wanted(2));
        // The stream was made anew after something had been purged.
        purge.purged.store(10, Ordering::Relaxed);
        purge.forget();
        assert!(!purge.is_wanted(0) && purge.is_wanted(10));
    }

    #[test]
    fn only_what_was_purged_is_not_purged_again() {
        let purge = purge();
        purge.purged.store(10, Ordering::Relaxed);
        assert!(!purge.is_wanted(10) && purge.is_wanted(11));
    }
}
