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

use crate::config::Limits;
use crate::http::connection::{Connection, Times};
use crate::http::router::Routes;

/// Connections beyond `CONNECTIONS_MAX` that are told so at the same time; the others are closed.
const REFUSALS_MAX: usize = 256;

/// How long a refused connection has to send its request.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

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
    // Connections inherit it. What passes for Linux, in a sandbox, may not know it.
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        tracing::warn!(%error, "the kernel may keep megabytes for each client that does not read");
    }
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Serves `routes` until `stop`, then lets the requests in flight finish within
/// `SHUTDOWN_TIMEOUT_MS`.
pub async fn serve(listener: TcpListener, routes: Routes, limits: &Limits, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let times =
        Times { header: limits.header_timeout, body: limits.body_timeout, write: limits.write_timeout };
    let refusal = Times { header: REFUSAL_TIMEOUT, body: REFUSAL_TIMEOUT, write: REFUSAL_TIMEOUT };
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
        let (permit, connection) = if let Ok(permit) = connections.clone().try_acquire_owned() {
            (permit, Connection::new(stream, Some(routes.clone()), times, &stop))
        } else if let Ok(permit) = refusals.clone().try_acquire_owned() {
            (permit, Connection::new(stream, None, refusal, &stop))
        } else {
            continue;
        };
        tasks.spawn(async move {
            connection.serve().await;
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.shutdown_timeout, tasks.wait()).await.is_err() {
        tracing::warn!("requests in flight were not finished in time");
    }
}
