//! What clients speak: HTTP, from the connection to the answer. In reading order.

pub mod server;

mod connection;
mod request_io;
mod timer;

mod body;
mod stack;

mod router;
mod state;

mod claim;
mod coupon;
mod health;

mod json;
pub mod problem;
mod reply;

pub use state::State;
