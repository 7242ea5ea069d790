//! A worker's configuration.

use std::time::Duration;

use common::config::{self, ConfigError, Env};
use sqlx::postgres::PgConnectOptions;

/// The most that `LEASE_MS` may be.
pub const LEASE_MS_MAX: u64 = 60_000;

/// Default of `NATS_REPLICAS`.
pub const REPLICAS_DEFAULT: usize = 1;

/// Default of `STREAM_BYTES_MAX`: a quarter of a gibibyte, about two million waiting claims.
pub const STREAM_BYTES_MAX_DEFAULT: i64 = 256 << 20;

/// Default of `LEASE_MS`.
pub const LEASE_MS_DEFAULT: u64 = 2_000;

/// Default of `TRANSACTION_CLAIMS_MAX`.
pub const TRANSACTION_CLAIMS_MAX_DEFAULT: usize = 2_000;

/// Default of `PREFETCH_MESSAGES_MAX`.
pub const PREFETCH_MESSAGES_MAX_DEFAULT: usize = 32;

/// Default of `PURGE_INTERVAL_MS`.
pub const PURGE_INTERVAL_MS_DEFAULT: u64 = 1_000;

/// Default of `STATEMENT_TIMEOUT_MS`.
pub const STATEMENT_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// Default of `SHUTDOWN_TIMEOUT_MS`.
pub const SHUTDOWN_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// Connections of the pool: for set-up, and one of them to listen for changes of leases. A worker also has one
/// connection for its leases, and at most one per owned partition for claims.
pub const SETUP_CONNECTIONS_MAX: u32 = 2;

/// How claim streams are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// `NATS_REPLICAS`: copies of each stream in a NATS cluster.
    pub replicas: usize,
    /// `STREAM_BYTES_MAX`: bytes that one stream holds before new claims are refused.
    pub bytes_max: i64,
}

/// A worker's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Postgres is.
    pub database: PgConnectOptions,
    /// Where NATS is.
    pub nats: config::Nats,
    /// How a claim stream is created.
    pub streams: StreamSettings,
    /// `PARTITIONS`, if set.
    pub partitions: Option<u32>,
    /// `LEASE_MS`: how long a partition stays with a worker that has stopped to renew its lease.
    pub lease: Duration,
    /// `TRANSACTION_CLAIMS_MAX`: claims after which a transaction takes no further message.
    pub transaction_claims_max: usize,
    /// `PREFETCH_MESSAGES_MAX`: messages per partition that wait in the process.
    pub prefetch_messages_max: usize,
    /// `PURGE_INTERVAL_MS`: how often applied messages are deleted from the stream; 0 keeps them.
    pub purge_interval: Duration,
    /// `STATEMENT_TIMEOUT_MS`: longest time for one statement, and for all statements of one transaction together;
    /// then the partition is read anew from the cursor in Postgres.
    pub statement_timeout: Duration,
    /// `SHUTDOWN_TIMEOUT_MS`: how long a stop waits for transactions in flight.
    pub shutdown_timeout: Duration,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When a variable cannot be used; the error names it.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            database: config::database(env)?,
            nats: config::Nats::from_env(env)?,
            streams: StreamSettings {
                replicas: env.number("NATS_REPLICAS", REPLICAS_DEFAULT, 1..=5)?,
                bytes_max: env.number("STREAM_BYTES_MAX", STREAM_BYTES_MAX_DEFAULT, 65_536..=i64::MAX)?,
            },
            partitions: env.partitions()?,
            lease: env.millis("LEASE_MS", LEASE_MS_DEFAULT, 200..=LEASE_MS_MAX)?,
            transaction_claims_max: env.number(
                "TRANSACTION_CLAIMS_MAX",
                TRANSACTION_CLAIMS_MAX_DEFAULT,
                1..=20_000,
            )?,
            prefetch_messages_max: env.number(
                "PREFETCH_MESSAGES_MAX",
                PREFETCH_MESSAGES_MAX_DEFAULT,
                1..=1_000,
            )?,
            purge_interval: env.millis("PURGE_INTERVAL_MS", PURGE_INTERVAL_MS_DEFAULT, 0..=3_600_000)?,
            statement_timeout: env.millis(
                "STATEMENT_TIMEOUT_MS",
                STATEMENT_TIMEOUT_MS_DEFAULT,
                100..=600_000,
            )?,
            shutdown_timeout: env.millis("SHUTDOWN_TIMEOUT_MS", SHUTDOWN_TIMEOUT_MS_DEFAULT, 0..=600_000)?,
        })
    }
}
