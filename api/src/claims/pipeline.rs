//! Starts and stops everything that a claim passes through.

use std::sync::Arc;
use std::time::Duration;

use common::queue;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::claims::cursors::Cursors;
use crate::claims::dispatcher::Dispatcher;
use crate::claims::health::{Health, NatsProbe};
use crate::claims::inbox::Inbox;
use crate::claims::overdue;
use crate::claims::publisher::Queue;
use crate::claims::refusals::RefusalCache;
use crate::claims::resolve::Resolver;
use crate::config::Limits;

/// What the claims' way is connected to.
pub(crate) struct Connections {
    /// For look-ups.
    pub(crate) pool: PgPool,
    /// How health and refusals make connections of their own.
    pub(crate) database: PgConnectOptions,
    pub(crate) queue: queue::Connection,
    /// Woken when a publish finds no stream.
    pub(crate) missing_stream: Arc<Notify>,
}

/// The tasks that answer claims.
pub(crate) struct Pipeline {
    /// End once `background` is cancelled and no claim waits any more.
    answering: JoinSet<()>,
    /// Serve the others until they are stopped.
    serving: JoinSet<()>,
    lookups: TaskTracker,
    background: CancellationToken,
}

/// Starts all tasks. New claims are refused once `stopping` is cancelled.
///
/// # Errors
/// When NATS takes no subscription.
pub(crate) async fn start(
    limits: &Limits,
    partitions: u32,
    connections: Connections,
    stopping: CancellationToken,
    background: CancellationToken,
) -> anyhow::Result<(Dispatcher, Arc<Health>, Pipeline)> {
    let Connections { pool, database, queue, missing_stream } = connections;
    let cursors = Arc::new(Cursors::new(queue.link.clone()));
    let health = Health::new(queue.link.clone(), cursors.clone());
    let inbox = Inbox::new(queue.clone(), cursors);
    let replies = inbox.subscribe().await?;
    let lookups = TaskTracker::new();
    let resolver = Resolver {
        pool: pool.clone(),
        health: health.clone(),
        partitions,
        tasks: lookups.clone(),
        // Half of the pool: look-ups do not keep other requests from Postgres.
        lookup_permits: Arc::new(Semaphore::new(limits.db_pool_max.div_ceil(2) as usize)),
    };
    let (refusals, receivers) = RefusalCache::new(limits.in_flight_claims_max, limits.sold_out_winners_max);
    let publishing =
        Queue { connection: queue.clone(), inbox: inbox.clone(), health: health.clone(), missing_stream };
    let (dispatcher, mut answering) =
        Dispatcher::start(limits, partitions, &publishing, refusals.clone(), stopping);
    // A batch has a claim at least, so this is room for all that are in flight.
    let (overdue, batches) = mpsc::channel(limits.in_flight_claims_max);
    answering.spawn(overdue::sweep(inbox.clone(), overdue, background.clone()));
    answering.spawn(resolver.run(batches));

    let mut serving = JoinSet::new();
    let senders = dispatcher.senders();
    let to_queue = move |waiter| senders.send(waiter);
    let probe = NatsProbe::subscribe(queue).await?;
    serving.spawn(inbox.receive(replies));
    serving.spawn(health.clone().watch_nats(probe, background.clone()));
    serving.spawn(health.clone().watch_postgres(database.clone(), background.clone()));
    serving.spawn(refusals.clone().serve(receivers.pending, database, to_queue, background.clone()));
    serving.spawn(refusals.refresh(receivers.refreshes, pool, background.clone()));
    Ok((dispatcher, health, Pipeline { answering, serving, lookups, background }))
}

impl Pipeline {
    /// Returns when a task has died: none of them ends before it is told to.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = self.answering.join_next() => anyhow::anyhow!("a task of the API has died: {ended:?}"),
            ended = self.serving.join_next() => anyhow::anyhow!("a task of the API has died: {ended:?}"),
        }
    }

    /// Lets the claims in flight be answered, for `limit` at most, and ends all tasks. Returns whether all were.
    pub(crate) async fn finish(mut self, limit: Duration) -> bool {
        self.background.cancel();
        self.lookups.close();
        let answered = async {
            while self.answering.join_next().await.is_some() {}
            self.lookups.wait().await;
        };
        let in_time = tokio::time::timeout(limit, answered).await.is_ok();
        self.serving.shutdown().await;
        in_time
    }
}
