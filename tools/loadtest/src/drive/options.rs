//! How the load is driven.

use std::net::SocketAddr;
use std::time::Duration;

use super::pace::Pace;

/// How the load is driven.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The servers to connect to; the connections take turns.
    pub addresses: Vec<SocketAddr>,
    /// Keep-alive connections, over all threads.
    pub connections: usize,
    /// Threads; each has its share of the connections.
    pub threads: usize,
    /// Closed or open loop.
    pub pace: Pace,
    /// For how long new requests are sent; `None`: until the plan is done.
    pub length: Option<Duration>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// How often a request is sent again after a 503 or a broken connection.
    pub retries: u32,
    /// How long the outcome of a pending claim is asked for.
    pub follow: Duration,
    /// How long after `length` to wait for what is under way or overdue.
    pub drain: Duration,
    /// Whether to remember who was told "sold out": users who ask again might be told so though they have won.
    pub keeps_refused: bool,
}
