//! The little of HTTP/1.1 that a load generator needs, so that the client costs less than any server.

mod client;
mod response;
mod target;

pub use client::{Client, Reply};
pub use response::{Layout, Malformed, Response, ResponseBuffer};
pub use target::Target;
