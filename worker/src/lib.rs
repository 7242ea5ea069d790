//! Applies claims to Postgres, partition by partition, in the order of the queue.
//!
//! In reading order: [`rules`] decides who wins, [`store`] holds every SQL statement, `memory` is what
//! need not be asked, `apply` is the one transaction per batch, `source` reads a partition's stream,
//! `partition` is the loop that joins them, `sessions` are the connections that it borrows, and [`lease`] says which
//! partitions are this worker's.

mod apply;
pub mod config;
pub mod lease;
mod memory;
mod partition;
pub mod rules;
mod sessions;
mod share;
mod source;
pub mod store;

use common::queue;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use config::Config;

/// What a worker runs with: its connections come from the caller.
#[derive(Debug, Clone)]
pub struct Worker {
    /// This process, in the tables and the logs.
    pub id: Uuid,
    /// Limits and times.
    pub config: Config,
    /// How many partitions the system has.
    pub partitions: u32,
    /// For set-up only; claims and leases have connections of their own.
    pub pool: PgPool,
    /// How those are made.
    pub database: PgConnectOptions,
    /// NATS.
    pub queue: queue::Connection,
}

impl Worker {
    /// Connects to Postgres and NATS, waiting for both, and brings the tables up to date.
    ///
    /// # Errors
    /// When one of them refuses us, or the number of partitions differs from the configured one.
    pub async fn connect(config: Config) -> anyhow::Result<Self> {
        let database = config.database.clone().application_name("coupon-worker");
        let pool =
            common::database::connect(database.clone(), config::SETUP_CONNECTIONS_MAX, "coupon-worker")
                .await?;
        let database = common::database::bounded(database);
        let partitions = common::database::partitions(&pool, config.partitions).await?;
        let queue = queue::connect(&config.nats, "worker").await?;
        Ok(Self { id: Uuid::new_v4(), config, partitions, pool, database, queue })
    }

    /// Works until `stop`, then finishes what is in flight and hands its partitions over.
    ///
    /// # Errors
    /// When a task has died: the process should be started anew.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        lease::Manager::new(self).run(stop).await
    }
}
