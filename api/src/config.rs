//! What an API process can be told.

use std::net::{IpAddr, Ipv4Addr};
use std::thread::available_parallelism;
use std::time::Duration;

use common::config::{self, ConfigError, Env};
use sqlx::postgres::PgConnectOptions;

/// Default of `PORT`.
pub const PORT_DEFAULT: u16 = 8080;

/// Default of `HOST`.
pub const HOST_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Default of `CLAIM_TIMEOUT_MS`.
pub const CLAIM_TIMEOUT_MS_DEFAULT: u64 = 5_000;

/// Default of `IN_FLIGHT_CLAIMS_MAX`.
pub const IN_FLIGHT_CLAIMS_MAX_DEFAULT: usize = 20_000;

/// Default of `BATCH_CLAIMS_MAX`.
pub const BATCH_CLAIMS_MAX_DEFAULT: usize = 1_000;

/// Default of `BATCH_BYTES_MAX`.
pub const BATCH_BYTES_MAX_DEFAULT: usize = 512 << 10;

/// Default of `BATCHES_IN_FLIGHT`: one for each processor of this machine, for want of the number that
/// the workers and Postgres have; two at least, as one waits for a disk now and then.
pub fn batches_in_flight_default() -> usize {
    available_parallelism().map_or(1, usize::from).max(2)
}

/// Default of `SOLD_OUT_WINNERS_MAX`; each takes about 16 bytes.
pub const SOLD_OUT_WINNERS_MAX_DEFAULT: usize = 1_000_000;

/// Default of `DB_POOL_MAX`.
pub const DB_POOL_MAX_DEFAULT: u32 = 10;

/// Default of `CONNECTIONS_MAX`.
pub const CONNECTIONS_MAX_DEFAULT: usize = 10_000;

/// Default of `LISTEN_BACKLOG`: what Linux allows unless it is told otherwise.
pub const LISTEN_BACKLOG_DEFAULT: u32 = 4_096;

/// Default of `BODY_BYTES_MAX`.
pub const BODY_BYTES_MAX_DEFAULT: usize = 64 << 10;

/// Default of `BODIES_BYTES_MAX`.
pub const BODIES_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// Default of `HEADER_TIMEOUT_MS`.
pub const HEADER_TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// Default of `BODY_TIMEOUT_MS`.
pub const BODY_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// Default of `WRITE_TIMEOUT_MS`.
pub const WRITE_TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// Default of `SHUTDOWN_TIMEOUT_MS`.
pub const SHUTDOWN_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// What an API process can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Postgres is.
    pub database: PgConnectOptions,
    /// Where NATS is.
    pub nats: config::Nats,
    /// `PARTITIONS`, if set.
    pub partitions: Option<u32>,
    /// `HOST`: address to listen on.
    pub host: IpAddr,
    /// `PORT`: port to listen on.
    pub port: u16,
    /// Limits and times.
    pub limits: Limits,
}

/// Limits and times; past each, a clear answer at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `CLAIM_TIMEOUT_MS`: how long a claim's outcome is waited for before 202.
    pub claim_timeout: Duration,
    /// `IN_FLIGHT_CLAIMS_MAX`: claims that wait for an outcome; more get 503.
    pub in_flight_claims_max: usize,
    /// `BATCH_CLAIMS_MAX`: claims in one message.
    pub batch_claims_max: usize,
    /// `BATCH_BYTES_MAX`: bytes of one message; the server's own limit also holds.
    pub batch_bytes_max: usize,
    /// `BATCHES_IN_FLIGHT`: messages, at most two of a partition, that wait for their replies while more
    /// claims gather. A batch whose reply takes long does not count.
    pub batches_in_flight: usize,
    /// `SOLD_OUT_WINNERS_MAX`: winners of sold-out coupons, all together, that are remembered so that
    /// others need not go through the queue to be refused; 0 sends everyone through it.
    pub sold_out_winners_max: usize,
    /// `DB_POOL_MAX`: connections to Postgres.
    pub db_pool_max: u32,
    /// `CONNECTIONS_MAX`: HTTP connections; more get 503.
    pub connections_max: usize,
    /// `LISTEN_BACKLOG`: connections that are made but not taken yet. Those beyond it try again by
    /// themselves, after a second, then three.
    pub listen_backlog: u32,
    /// `BODY_BYTES_MAX`: bytes of a request's body; more get 413.
    pub body_bytes_max: usize,
    /// `BODIES_BYTES_MAX`: bytes of all bodies under way together; a body for which nothing is left gets 503.
    /// Small bodies, and those that come at once, do not count.
    pub bodies_bytes_max: usize,
    /// `HEADER_TIMEOUT_MS`: how long a connection may take to send a request's head, idling included.
    pub header_timeout: Duration,
    /// `BODY_TIMEOUT_MS`: how long a request's body may take.
    pub body_timeout: Duration,
    /// `WRITE_TIMEOUT_MS`: how long a client may take for the next part of its response.
    pub write_timeout: Duration,
    /// `SHUTDOWN_TIMEOUT_MS`: how long a stop waits for requests in flight.
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
            partitions: env.partitions()?,
            host: env.address("HOST", HOST_DEFAULT)?,
            port: env.number("PORT", PORT_DEFAULT, 0..=u16::MAX)?,
            limits: Limits::from_env(env)?,
        })
    }
}

impl Limits {
    /// Reads the limits.
    ///
    /// # Errors
    /// When a variable cannot be used; the error names it.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let body_bytes_max = env.number("BODY_BYTES_MAX", BODY_BYTES_MAX_DEFAULT, 8_192..=16_777_216)?;
        Ok(Self {
            claim_timeout: env.millis("CLAIM_TIMEOUT_MS", CLAIM_TIMEOUT_MS_DEFAULT, 50..=60_000)?,
            in_flight_claims_max: env.number(
                "IN_FLIGHT_CLAIMS_MAX",
                IN_FLIGHT_CLAIMS_MAX_DEFAULT,
                1..=1_000_000,
            )?,
            batch_claims_max: env.number("BATCH_CLAIMS_MAX", BATCH_CLAIMS_MAX_DEFAULT, 1..=10_000)?,
            batches_in_flight: env.number("BATCHES_IN_FLIGHT", batches_in_flight_default(), 1..=1_000)?,
            batch_bytes_max: env.number("BATCH_BYTES_MAX", BATCH_BYTES_MAX_DEFAULT, 16_384..=8_388_608)?,
            sold_out_winners_max: env.number(
                "SOLD_OUT_WINNERS_MAX",
                SOLD_OUT_WINNERS_MAX_DEFAULT,
                0..=100_000_000,
            )?,
            db_pool_max: env.number("DB_POOL_MAX", DB_POOL_MAX_DEFAULT, 1..=1_000)?,
            connections_max: env.number("CONNECTIONS_MAX", CONNECTIONS_MAX_DEFAULT, 1..=1_000_000)?,
            listen_backlog: env.number("LISTEN_BACKLOG", LISTEN_BACKLOG_DEFAULT, 1..=65_535)?,
            body_bytes_max,
            bodies_bytes_max: env.number(
                "BODIES_BYTES_MAX",
                BODIES_BYTES_MAX_DEFAULT,
                body_bytes_max..=17_179_869_184,
            )?,
            header_timeout: env.millis("HEADER_TIMEOUT_MS", HEADER_TIMEOUT_MS_DEFAULT, 100..=600_000)?,
            body_timeout: env.millis("BODY_TIMEOUT_MS", BODY_TIMEOUT_MS_DEFAULT, 100..=600_000)?,
            write_timeout: env.millis("WRITE_TIMEOUT_MS", WRITE_TIMEOUT_MS_DEFAULT, 100..=600_000)?,
            shutdown_timeout: env.millis("SHUTDOWN_TIMEOUT_MS", SHUTDOWN_TIMEOUT_MS_DEFAULT, 0..=600_000)?,
        })
    }
}
