//! What all parts of a worker share.

use std::sync::Arc;

use common::queue;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use crate::config::{Config, SETUP_CONNECTIONS_MAX};
use crate::health::Health;

/// A worker: its identity, its configuration and its connections.
#[derive(Debug, Clone)]
pub struct Worker {
    /// This process, in the tables and the logs.
    pub id: Uuid,
    /// Limits and times.
    pub config: Config,
    /// How many partitions the system has.
    pub partitions: u32,
    /// For set-up and for notifications; leases and claims use connections of their own.
    pub pool: PgPool,
    /// How those connections are opened.
    pub database: PgConnectOptions,
    /// NATS.
    pub queue: queue::Connection,
    /// Whether this worker can do its work.
    pub health: Arc<Health>,
}

impl Worker {
    /// Connects to Postgres and NATS, waiting for both, and brings the tables up to date. `health` is told how the worker
    /// is, from then on.
    ///
    /// # Errors
    /// When one of them refuses us, or the number of partitions differs from the configured one.
    pub async fn connect(config: Config, health: Arc<Health>) -> anyhow::Result<Self> {
        let database = config.database.clone().application_name("coupon-worker");
        let pool =
            common::database::connect(database.clone(), SETUP_CONNECTIONS_MAX, "coupon-worker").await?;
        let database = common::database::bounded(database);
        let partitions = common::database::partitions(&pool, config.partitions).await?;
        let queue = queue::connect(&config.nats, "worker").await?;
        health.connected(queue.link.clone());
        Ok(Self { id: Uuid::new_v4(), config, partitions, pool, database, queue, health })
    }
}
