//! Other ways to build the same API, to compare with: each a server with the same requests and answers.

mod ceiling;
mod conditional;
mod contract;
mod row_lock;
mod store;

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;

pub use ceiling::ceiling;
pub use conditional::conditional;
pub use row_lock::row_lock;
pub use store::{SESSIONS_DEFAULT, connect};

/// Serves `router` on this machine's loopback address until the process ends.
///
/// # Errors
/// When the port is taken.
pub async fn serve(router: Router, port: u16) -> std::io::Result<()> {
    use axum::serve::ListenerExt;

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = api::http::server::listen(address, api::config::LISTEN_BACKLOG_DEFAULT)?;
    // Answers go out at once, as those of any server tuned for latency.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}
