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
use crate::refused;
use crate::sessions::{ROW_TIMEOUT, Session, Sessions};
use crate::source::Source;
use crate::source_error::SourceError;
use crate::stock_cache::StockCache;

/// How long opening a consumer may take, all questions together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to find the claims of one message that Postgres refuses.
const CAREFUL_TIMEOUT: Duration = Duration::from_secs(60);

/// One partition, owned under one epoch.
pub(crate) struct Partition {
    worker: Arc<Worker>,
    id: PartitionId,
    lease_epoch: i64,
    sessions: Arc<Sessions>,
    stock_cache: StockCache,
    purger: Purger,
    /// Generation and cursor at which Postgres has refused what follows. Rows may have been changed meanwhile; if it
    /// does so again, it is the claims.
    refused_at: Option<(i64, i64)>,
    /// Generation and sequence number of the last message that was refused. Up to there, messages are applied one by
    /// one, without the claims that Postgres refuses.
    careful_until: Option<(i64, i64)>,
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
        Self {
            worker,
            id,
            lease_epoch,
            sessions,
            stock_cache: StockCache::default(),
            purger,
            refused_at: None,
            careful_until: None,
        }
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
                // A worker that understands them takes it.
                SourceError::TooNew => {
                    tracing::error!(%partition, %error, "giving the partition up");
                    break End::Released;
                }
                SourceError::Moved(why) => tracing::info!(%partition, why, "reading anew"),
                ref error => tracing::warn!(%partition, %error, "reading anew"),
            }
            self.worker.health.failed(partition, error.to_string());
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                break End::Released;
            }
        };
        self.worker.health.recovered(partition);
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
        if !source.has_messages {
            self.worker.health.recovered(self.id);
        }
        loop {
            let (generation, cursor) = (source.row.generation, source.row.last_seq);
            let is_careful = self.careful_until.is_some_and(|until| (generation, cursor) < until);
            let claims_max = if is_careful { 1 } else { claims_max };
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
            if messages.iter().any(|message| message.is_too_new(source.row.protocol)) {
                return Err(SourceError::TooNew);
            }
            let (owner, lease) = (self.worker.id, self.worker.config.lease);
            let mut batch = BatchApply::new(self.id, owner, &source.row, messages, lease);
            source.expect_current()?;
            if let Err(error) = self.apply(&mut batch, is_careful).await {
                if matches!(error, SourceError::Refused(_))
                    && self.refused_at.replace((generation, cursor)) == Some((generation, cursor))
                {
                    self.careful_until = Some((generation, batch.last_sequence()));
                }
                return Err(error);
            }
            // Opening is not a success yet: the stream may be fine and its messages not.
            backoff.reset();
            self.worker.health.recovered(self.id);
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
    async fn apply(&mut self, batch: &mut BatchApply, is_careful: bool) -> Result<(), SourceError> {
        // Taken out until the commit is certain: after an error, nothing is remembered.
        let mut cache = std::mem::take(&mut self.stock_cache);
        let limit = if is_careful { CAREFUL_TIMEOUT } else { self.worker.config.statement_timeout };
        let apply = async |session: &mut Session| match is_careful {
            true => batch.apply_what_is_accepted(session, &mut cache).await,
            false => batch.apply(session, &mut cache).await,
        };
        let written =
            self.sessions.within(limit, apply).await.map_err(|error| match refused::reason(&error) {
                Some(reason) => SourceError::Refused(reason),
                None => error.into(),
            });
        match written? {
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
                Err(SourceError::Refused("rows were changed by hand meanwhile".to_owned()))
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
