//! The HTTP front: takes claims, queues them, answers.
//!
//! [`http`] is what clients speak, [`claims`] the way of a claim from its request through the queue to its answer,
//! [`store`] holds every SQL statement, `streams` waits for the streams that workers create.

pub mod claims;
pub mod config;
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
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use claims::pipeline::{self, Connections};
pub use config::Config;
use http::server;
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
        let limits = config.limits.clone();
        let stop = stop.child_token();
        let missing_stream = Arc::new(Notify::new());
        // Requests end first, then what answers them: `server::serve` returns before `background` is cancelled.
        let background = CancellationToken::new();
        let missing = missing_stream.clone();
        let connections = Connections { pool: pool.clone(), database, queue: queue.clone(), missing_stream };
        let (dispatcher, availability, mut pipeline) =
            pipeline::start(&limits, partitions, connections, stop.clone(), background.clone()).await?;
        let streams = Streams { queue, partitions, missing, availability: availability.clone() };
        pipeline.serve(streams.watch(background));
        let state =
            http::State { pool: pool.clone(), partitions, dispatcher, availability: availability.clone() };

        // The first claims need not be refused. (The listener queues connections meanwhile.)
        let ready = stop.run_until_cancelled(tokio::time::timeout(START_TIMEOUT, availability.ready()));
        if let Some(Err(_)) = ready.await {
            tracing::warn!("not ready yet; claims are refused until then");
        }
        tracing::info!(address = %listener.local_addr()?, partitions, "listening");
        let result = tokio::select! {
            () = server::serve(listener, state, &limits, stop.clone()) => Ok(()),
            ended = pipeline.ended() => Err(ended),
        };
        // After a task has died too, connections take no further requests.
        stop.cancel();
        if !pipeline.finish(limits.claim_timeout).await {
            tracing::warn!("some claims were not answered in time");
        }
        // Bounded: a connection that hangs is not waited for.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, pool.close()).await;
        tracing::info!("API stopped");
        result
    }
}
