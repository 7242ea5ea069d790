//! The loop of one owned partition: read messages, apply them, reply; begin anew at the cursor after any failure.

use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::partition::PartitionId;
use sqlx::postgres::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::apply::BatchApply;
use crate::context::Worker;
use crate::fence::Written;
use crate::lease_store;
use crate::purge::Purger;
use crate::sessions::{ROW_TIMEOUT, Session, Sessions};
use crate::source::Source;
use crate::source_error::SourceError;
use crate::stock_cache::StockCache;

/// How long opening a consumer may take, all questions together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// One partition, owned under one epoch.
pub(crate) struct Partition {
    worker: Arc<Worker>,
    id: PartitionId,
    lease_epoch: i64,
    sessions: Arc<Sessions>,
    stock_cache: StockCache,
    purger: Purger,
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
    pub(crate) fn new(
        worker: Arc<Worker>,
        sessions: Arc<Sessions>,
        id: PartitionId,
        lease_epoch: i64,
    ) -> Self {
        let purger = Purger::new(worker.clone(), id);
        Self { worker, id, lease_epoch, sessions, stock_cache: StockCache::default(), purger }
    }

    /// Runs until `stop`, between two transactions, or until another worker owns the partition.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> End {
        let (partition, lease_epoch) = (self.id, self.lease_epoch);
        tracing::info!(%partition, lease_epoch, "took the partition");
        let mut backoff = Backoff::for_server();
        let end = loop {
            let Some(opened) = stop.run_until_cancelled(self.open()).await else { break End::Released };
            let error = match opened {
                Ok(mut source) => {
                    self.purger.forget();
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
                SourceError::Moved(why) => tracing::info!(%partition, why, "reading anew"),
                error => tracing::warn!(%partition, %error, "reading anew"),
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                break End::Released;
            }
        };
        match end {
            End::Released => self.release().await,
            End::Lost => tracing::warn!(%partition, lease_epoch, "lost the partition"),
        }
        self.sessions.close_one().await;
        end
    }

    async fn open(&self) -> Result<Source, SourceError> {
        let mut link = self.worker.queue.link.clone();
        let up = link.wait_for(|link| link.up).await.map(|link| link.number);
        let link_number = up.map_err(|_| SourceError::Queue("the connection is gone".to_owned()))?;
        let opened = Source::open(&self.worker, &self.sessions, self.id, self.lease_epoch);
        // Requests do not survive the connection: rather than wait for their time-outs, begin anew.
        let opened = tokio::select! {
            opened = tokio::time::timeout(OPEN_TIMEOUT, opened) => opened.ok(),
            _ = link.wait_for(|link| link.number != link_number || !link.up) => None,
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
        let stream_created_ns = source.row.stream_created_ns;
        loop {
            let cursor = source.row.last_seq;
            let messages = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                messages = source.next_messages(claims_max) => messages?,
                // Also while nothing comes: a full stream takes nothing before it is purged.
                () = self.purger.due(cursor) => {
                    self.purger.purge_before(cursor, stream_created_ns);
                    continue;
                }
            };
            let (owner, lease) = (self.worker.id, self.worker.config.lease);
            let mut batch = BatchApply::new(self.id, owner, &source.row, messages, lease);
            source.expect_current()?;
            self.apply(&mut batch).await?;
            // Opening is not a success yet: the stream may be fine and its messages not.
            backoff.reset();
            batch.reply(&self.worker.queue).await;
            batch.advance(&mut source.row);
            let cursor = source.row.last_seq;
            if self.purger.is_due(cursor) && source.expect_current().is_ok() {
                self.purger.purge_before(cursor, stream_created_ns);
            }
        }
    }

    /// Applies messages. After any error the partition is read anew from the cursor in Postgres, which says whether
    /// they were committed. If they were, they are not read again and their replies are not sent: the APIs see that the
    /// cursor has passed them, and look the claims up.
    async fn apply(&mut self, batch: &mut BatchApply) -> Result<(), SourceError> {
        // Taken out until the commit is certain: after an error, nothing is remembered.
        let mut cache = std::mem::take(&mut self.stock_cache);
        let apply = async |session: &mut Session| batch.apply(session, &mut cache).await;
        match self.sessions.within(self.worker.config.statement_timeout, apply).await? {
            Written::Committed { .. } => {
                self.stock_cache = cache;
                Ok(())
            }
            Written::Fenced => {
                let (partition, lease_epoch) = (self.id, self.lease_epoch);
                tracing::warn!(%partition, lease_epoch, fenced = true, "commit refused");
                Err(SourceError::Moved("another worker owns the partition, or the cursor was moved"))
            }
            Written::Overtaken => {
                tracing::warn!(partition = %self.id, "a coupon or a claim was changed by hand meanwhile");
                Err(SourceError::Moved("rows were changed by hand meanwhile"))
            }
        }
    }

    async fn release(&self) {
        let (partition, lease_epoch, worker) = (self.id, self.lease_epoch, self.worker.id);
        let release = async |session: &mut Session| {
            let connection: &mut PgConnection = &mut session.connection;
            lease_store::release(connection, partition, worker, lease_epoch).await
        };
        // Connecting included: whoever stops has not much time.
        match tokio::time::timeout(ROW_TIMEOUT, self.sessions.within(ROW_TIMEOUT, release)).await {
            Ok(Ok(())) => tracing::info!(%partition, lease_epoch, "released the partition"),
            Ok(Err(error)) => tracing::warn!(%partition, %error, "not released; the lease will run out"),
            Err(_) => tracing::warn!(%partition, "not released in time; the lease will run out"),
        }
    }
}
