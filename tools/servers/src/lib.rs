//! Private servers for one machine: finds or fetches Postgres and nats-server, and runs them as
//! child processes that never outlive this one.
//!
//! In reading order: [`locate`] says which binaries to use, [`fetch`] brings them when the machine has
//! none, [`process`] runs any program, [`postgres`] and [`nats`] know what is special about theirs.

mod account;
mod cluster;
mod error;
pub mod fetch;
mod folder;
mod install;
pub mod locate;
mod log;
pub mod nats;
pub mod port;
pub mod postgres;
pub mod process;
pub mod programs;
mod spawner;
pub mod stack;
mod tree;

pub use error::Error;
pub use nats::Nats;
pub use postgres::Postgres;
