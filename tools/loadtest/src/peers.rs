//! Other ways to build the same API, to compare with: each a server with the same requests and answers.

mod ceiling;
mod conditional;
mod contract;
mod row_lock;
mod store;

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpSocket;

pub use ceiling::ceiling;
pub use conditional::conditional;
pub use row_lock::row_lock;
pub use store::{SESSIONS_DEFAULT, connect};

/// Connections that may wait in the kernel until they are taken: all of a generator's come at once.
const LISTEN_BACKLOG: u32 = 4096;

/// Serves `router` on this machine's loopback address until the process ends.
///
/// # Errors
/// When the port is taken.
pub async fn serve(router: Router, port: u16) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    // Answers go out at once, as those of any server tuned for latency.
    let listener = socket.listen(LISTEN_BACKLOG)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}
