//! Takes connections, within limits.
//!
//! `axum::serve` has no time-out for a request's head and no limit of connections; this loop has.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Bodies;
use super::connection::{self, ConnectionLimits};
use super::router::Handlers;
use super::stack::{overload_stack, stack};
use super::state::State;
use crate::config::Limits;

/// Connections beyond `CONNECTIONS_MAX` that get an answer at the same time; the others are closed.
const OVERLOAD_ANSWERS_MAX: usize = 256;

/// How long such a connection has to send its request, and to take each part of the answer.
const OVERLOAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of an answer that the kernel takes before it can send them (`TCP_NOTSENT_LOWAT`). Left to itself, Linux
/// takes almost 3 MB for each client that does not read, until there is no memory left for TCP; and only when
/// a third of that has gone it wants more, which a client on a slow line may not manage within
/// `WRITE_TIMEOUT_MS`. It slows nobody down: what is on its way to the client is not counted.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 16 << 10;

/// Listens on `address`, with room for `backlog` connections that are made but not taken yet. The
/// kernel may allow less (`net.core.somaxconn`).
///
/// The standard library's room for 128 is full at the start of a sale, when a thousand connections
/// come before this process runs again. Linux drops what those beyond it send, their handshakes first, until
/// they have repeated it, a second later or three.
///
/// # Errors
/// When the port is taken, or the address is not this machine's.
pub fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started again takes the port of its predecessor's last connections.
    socket.set_reuseaddr(true)?;
    // Connections inherit it. Some sandboxes that emulate Linux do not know it.
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        tracing::warn!(%error, "the kernel may keep megabytes for each client that does not read");
    }
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Serves until `stop`, then lets the requests in flight finish within `SHUTDOWN_TIMEOUT_MS`.
pub async fn serve(listener: TcpListener, state: State, limits: &Limits, stop: CancellationToken) {
    let handlers = Handlers::new(state, Bodies::new(limits));
    let connection_limits = ConnectionLimits {
        header_timeout: limits.header_timeout,
        write_timeout: limits.write_timeout,
        keep_alive: true,
    };
    let overload = overload_stack();
    let overload_limits = ConnectionLimits {
        header_timeout: OVERLOAD_TIMEOUT,
        write_timeout: OVERLOAD_TIMEOUT,
        keep_alive: false,
    };
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let overload_permits = Arc::new(Semaphore::new(OVERLOAD_ANSWERS_MAX));
    let tasks = TaskTracker::new();
    let mut backoff = Backoff::for_server();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: some will be closed.
                tracing::warn!(%error, "connection not accepted");
                backoff.wait().await;
                continue;
            }
        };
        backoff.reset();
        let stop = stop.clone();
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            let stack = stack(handlers.for_connection());
            tasks.spawn(async move {
                connection::serve(stream, stack, connection_limits, &stop).await;
                drop(permit);
            });
        } else if let Ok(permit) = overload_permits.clone().try_acquire_owned() {
            let overload = overload.clone();
            tasks.spawn(async move {
                connection::serve(stream, overload, overload_limits, &stop).await;
                drop(permit);
            });
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.shutdown_timeout, tasks.wait()).await.is_err() {
        tracing::warn!("requests in flight were not finished in time");
    }
}
