//! What clients speak: HTTP, from the connection to the answer.

mod alarm;
mod body;
mod claim;
mod connection;
mod coupon;
pub mod problem;
mod ready;
pub mod reply;
pub mod router;
pub mod server;
