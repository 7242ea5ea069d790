//! Starts and stops everything that a claim passes through.

use std::sync::Arc;
use std::time::Duration;

use common::queue;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::claims::availability::{Availability, NatsProbe};
use crate::claims::cursors::Cursors;
use crate::claims::dispatcher::Dispatcher;
use crate::claims::inbox::Inbox;
use crate::claims::overdue;
use crate::claims::publisher::PublisherContext;
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
    /// End once `background` is cancelled and nothing waits to be published.
    publishing: JoinSet<()>,
    /// End once `published` is cancelled and no claim waits for an answer.
    answering: JoinSet<()>,
    /// Serve the others until they are stopped.
    serving: JoinSet<()>,
    lookups: TaskTracker,
    background: CancellationToken,
    published: CancellationToken,
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
) -> anyhow::Result<(Dispatcher, Arc<Availability>, Pipeline)> {
    let Connections { pool, database, queue, missing_stream } = connections;
    let cursors = Arc::new(Cursors::new(queue.link.clone()));
    let availability = Availability::new(queue.link.clone(), cursors.clone());
    let inbox = Inbox::new(queue.clone(), cursors);
    let replies = inbox.subscribe().await?;
    let lookups = TaskTracker::new();
    let resolver = Resolver {
        pool: pool.clone(),
        availability: availability.clone(),
        partitions,
        tasks: lookups.clone(),
        // Half of the pool: look-ups do not keep other requests from Postgres.
        lookup_permits: Arc::new(Semaphore::new(limits.db_pool_max.div_ceil(2) as usize)),
    };
    let (refusals, receivers) = RefusalCache::new(limits.in_flight_claims_max, limits.sold_out_winners_max);
    let context = PublisherContext {
        connection: queue.clone(),
        inbox: inbox.clone(),
        availability: availability.clone(),
        missing_stream,
    };
    let (dispatcher, publishing) =
        Dispatcher::start(limits, partitions, &context, refusals.clone(), stopping, &background);
    let (published, mut answering) = (CancellationToken::new(), JoinSet::new());
    // A batch has a claim at least, so this is room for all that are in flight.
    let (overdue, batches) = mpsc::channel(limits.in_flight_claims_max);
    answering.spawn(overdue::sweep(inbox.clone(), overdue, published.clone()));
    answering.spawn(resolver.run(batches));

    let mut serving = JoinSet::new();
    let senders = dispatcher.senders();
    let to_queue = move |waiter| senders.send(waiter);
    let probe = NatsProbe::subscribe(queue).await?;
    serving.spawn(inbox.receive(replies));
    serving.spawn(availability.clone().watch_nats(probe, background.clone()));
    serving.spawn(availability.clone().watch_postgres(database.clone(), background.clone()));
    serving.spawn(refusals.clone().serve(receivers.pending, database, to_queue, background.clone()));
    serving.spawn(refusals.refresh(receivers.refreshes, pool, background.clone()));
    Ok((
        dispatcher,
        availability,
        Pipeline { publishing, answering, serving, lookups, background, published },
    ))
}

impl Pipeline {
    /// Adds a task that serves the others until `background` is cancelled.
    pub(crate) fn serve(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.serving.spawn(task);
    }

    /// Returns when a task has ended before it was told to: it has died.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            ended = self.publishing.join_next() => ended,
            ended = self.answering.join_next() => ended,
            ended = self.serving.join_next() => ended,
        };
        anyhow::anyhow!("a task of the API has died: {ended:?}")
    }

    /// Lets the claims in flight be answered, for `limit` at most, and ends all tasks. Returns whether all were.
    pub(crate) async fn finish(mut self, limit: Duration) -> bool {
        self.background.cancel();
        self.lookups.close();
        let answered = async {
            while self.publishing.join_next().await.is_some() {}
            self.published.cancel();
            while self.answering.join_next().await.is_some() {}
            self.lookups.wait().await;
        };
        let in_time = tokio::time::timeout(limit, answered).await.is_ok();
        self.serving.shutdown().await;
        in_time
    }
}
