//! Private servers for one machine: finds or fetches Postgres and nats-server, and runs them as
//! child processes that never outlive this one.
//!
//! In reading order: [`locate`] says which binaries to use, [`fetch`] brings them when the machine has
//! none, [`process`] runs any program, [`Server`] is one that clients connect to, [`postgres`] and [`nats`] know
//! what is special about theirs. [`stack`] is the servers of a system, [`system`] the rest of it.

mod account;
mod cluster;
mod error;
pub mod fetch;
mod files;
mod folder;
mod install;
pub mod locate;
mod log;
pub mod nats;
pub mod port;
pub mod postgres;
pub mod process;
pub mod programs;
mod server;
mod spawner;
pub mod stack;
pub mod system;
mod tree;
mod verify;

pub use error::Error;
pub use nats::Nats;
pub use postgres::Postgres;
pub use server::Server;
