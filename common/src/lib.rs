//! What the API and the workers must agree on: names and ids, the partition of a coupon, the
//! messages, the streams, the configuration, the database, and how a process starts and stops.
//!
//! In reading order: [`ids`] and [`partition`] say what is claimed and where it is queued,
//! [`message`] what travels, [`stream`] through what; [`config`], [`telemetry`], [`runtime`],
//! [`database`], [`queue`], [`shutdown`] and [`exit`] are the start and the end of every process, [`version`] says
//! which it is. [`escape`] is for what is printed.

pub mod backoff;
pub mod config;
pub mod database;
pub mod escape;
pub mod exit;
pub mod ids;
pub mod message;
pub mod ops;
pub mod partition;
pub mod queue;
pub mod runtime;
pub mod shutdown;
pub mod stream;
pub mod telemetry;
pub mod version;
