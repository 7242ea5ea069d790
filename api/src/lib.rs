//! The HTTP front: takes claims, queues them, answers.
//!
//! A claim's way, in reading order: [`server`] takes the connection, `connection` the request, [`routes`]
//! what it says, `dispatcher` makes messages of claims, `soldout` refuses what needs no queue, `inbox` waits for
//! the workers' answers, `resolve` asks Postgres when none comes, [`receipt`] says what that proves,
//! [`problem`] is everything that is not a success. `alarm` keeps a connection's deadline, `health`
//! watches the servers, `streams` creates what is missing, [`store`] holds the SQL.

pub mod claims;
pub mod config;
mod health;
pub mod http;
pub mod store;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::queue;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use claims::dispatcher::{Dispatcher, Parts};
use claims::inbox::Inbox;
use claims::refusals::Desk;
use claims::resolve::Resolver;
pub use config::Config;
use health::Health;
use http::{router, server};
use streams::Streams;

/// How long the connections to Postgres may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a start waits for Postgres, NATS and the streams before it serves all the same.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens where the configuration says.
///
/// # Errors
/// When the port is taken, or the address is not this machine's.
pub fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(config.host, config.port);
    server::listen(address, config.limits.listen_backlog)
        .with_context(|| format!("PORT: cannot listen on {address}"))
}

/// What an API runs with: its connections come from the caller.
#[derive(Debug, Clone)]
pub struct Api {
    /// Limits and times.
    pub config: Config,
    /// How many partitions the system has.
    pub partitions: u32,
    /// For coupons and look-ups.
    pub pool: PgPool,
    /// How the health check makes its own connection.
    pub database: PgConnectOptions,
    /// NATS.
    pub queue: queue::Connection,
}

impl Api {
    /// Connects to Postgres and NATS, waiting for both, and brings the tables up to date.
    ///
    /// # Errors
    /// When one of them refuses us, or the number of partitions differs from the configured one.
    pub async fn connect(config: Config) -> anyhow::Result<Self> {
        let database =
            common::database::index_probes_only(config.database.clone()).application_name("coupon-api");
        let pool =
            common::database::connect(database.clone(), config.limits.db_pool_max, "coupon-api").await?;
        let partitions = common::database::partitions(&pool, config.partitions).await?;
        let queue = queue::connect(&config.nats, "api").await?;
        let database = common::database::bounded(database);
        Ok(Self { config, partitions, pool, database, queue })
    }

    /// Serves until `stop`, then finishes the requests in flight.
    ///
    /// # Errors
    /// When a task has died: the process should be started anew.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { config, partitions, pool, database, queue } = self;
        let inbox = Inbox::new(queue.clone());
        let replies = inbox.subscribe().await?;
        let health = Health::new(queue.link.clone());
        let resolver = Resolver {
            pool: pool.clone(),
            health: health.clone(),
            partitions,
            tasks: TaskTracker::new(),
            lookups: Arc::new(Semaphore::new(config.limits.db_pool_max.div_ceil(2) as usize)),
        };
        let missing_stream = Arc::new(Notify::new());
        let streams_ready = CancellationToken::new();
        let streams = Streams {
            queue: queue.clone(),
            pool: pool.clone(),
            partitions,
            settings: config.nats.streams.clone(),
            missing: missing_stream.clone(),
            ready: streams_ready.clone(),
        };

        // Requests first, then what answers them: `served` ends before `background` is told to.
        let background = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(inbox.clone().receive(replies, health.clone()));
        tasks.spawn(inbox.clone().sweep(resolver.clone(), background.clone()));
        tasks.spawn(health.clone().watch_postgres(database.clone(), background.clone()));
        tasks.spawn(health.clone().watch_nats(inbox.clone(), background.clone()));
        tasks.spawn(streams.keep(background.clone()));
        let parts = Parts { queue, inbox, health: health.clone(), missing_stream };
        let (desk, visitors, lessons) =
            Desk::new(config.limits.in_flight_claims_max, config.limits.sold_out_winners_max);
        let (dispatcher, mut lanes) =
            Dispatcher::start(&config.limits, partitions, &parts, desk.clone(), stop.clone());
        let ways = dispatcher.lanes();
        let queue_up = move |waiter| ways.send(waiter);
        tasks.spawn(desk.clone().serve(visitors, database, queue_up, background.clone()));
        tasks.spawn(desk.learn(lessons, pool.clone(), background.clone()));
        let state = router::State {
            pool: pool.clone(),
            partitions,
            dispatcher,
            health: health.clone(),
            limits: config.limits.clone(),
        };
        let routes = router::Routes::new(state);

        // The first claims need not be refused. (The listener queues connections meanwhile.)
        let ready = async { tokio::join!(health.ready(), streams_ready.cancelled(), health.cursors_known()) };
        let ready = stop.run_until_cancelled(tokio::time::timeout(START_TIMEOUT, ready));
        if let Some(Err(_)) = ready.await {
            tracing::warn!("not ready yet; claims are refused until then");
        }
        tracing::info!(address = %listener.local_addr()?, partitions, "listening");
        let result = tokio::select! {
            () = server::serve(listener, routes, &config.limits, stop) => Ok(()),
            ended = tasks.join_next() => Err(anyhow::anyhow!("a task of the API has died: {ended:?}")),
            ended = lanes.join_next() => Err(anyhow::anyhow!("a partition's lane has died: {ended:?}")),
        };
        background.cancel();
        resolver.tasks.close();
        let finished = async {
            while lanes.join_next().await.is_some() {}
            resolver.tasks.wait().await;
        };
        if tokio::time::timeout(config.limits.claim_timeout, finished).await.is_err() {
            tracing::warn!("some claims were not answered in time");
        }
        tasks.shutdown().await;
        // Bounded: a connection that hangs is not waited for.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, pool.close()).await;
        tracing::info!("API stopped");
        result
    }
}
