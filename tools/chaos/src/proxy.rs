//! A TCP proxy on loopback that injects network faults.
//!
//! Each link between two processes has a proxy of its own. What it does to the bytes is a set of [`Rule`]s
//! that can be added and removed at any moment; without rules it passes everything on.
//! Most rules know nothing of the protocol (hold, delay, slice, cut). A few aim at one message: the answer to
//! a commit, the acknowledgement of a publish. For those the proxy follows the protocol's framing; a
//! connection whose framing it cannot follow is passed on unchanged, without these faults.
//!
//! Limits: plain TCP without TLS; loopback only; [`CONNECTIONS_MAX`] connections per proxy, and a bounded number
//! of bytes held in each direction of each. A link that is held for longer than its buffers last behaves like
//! a full network: the sender blocks.

mod active_rules;
mod connection;
mod frame;
mod framer;
mod link;
mod nats;
mod postgres;
mod reader;
mod rule;
mod stats;
mod tap;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use active_rules::RuleHandle;
pub(crate) use framer::Protocol;
pub(crate) use rule::{Direction, Matcher, OnHeal, Rule};
pub(crate) use tap::{Tap, Tapped};

use link::{Link, reset};

/// Connections that one proxy carries at a time. Above it, new ones are refused.
const CONNECTIONS_MAX: usize = 1024;

/// How long the proxy waits for the server behind it to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running proxy. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    link: Arc<Link>,
    connections: TaskTracker,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes connections on to `upstream`, which may
    /// come and go. A copy of each message from a NATS server goes to the tap, if there is one.
    pub(crate) async fn start(
        protocol: Protocol,
        upstream: SocketAddr,
        tap: Option<Tap>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (link, connections) = (Arc::new(Link::new(protocol, upstream, tap)), TaskTracker::new());
        tokio::spawn(accept(listener, Arc::clone(&link), connections.clone()));
        Ok(Self { addr, link, connections })
    }

    /// Where to connect to instead of the server.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Adds a rule to those that are active.
    pub(crate) fn add_rule(&self, rule: Rule) -> RuleHandle {
        self.link.rules.add(rule)
    }

    /// Ends a rule. What it held is delivered or dropped, as the rule says.
    pub(crate) fn remove_rule(&self, handle: &RuleHandle) {
        self.link.rules.remove(handle);
    }

    /// Ends all rules.
    pub(crate) fn clear_rules(&self) {
        self.link.rules.clear();
    }

    /// Cuts all connections that are open now. Returns how many there were.
    pub(crate) fn cut_all(&self) -> u64 {
        let open = self.connections.len();
        self.link.cut_all();
        self.link.stats.cut.add(open);
        open as u64
    }

    #[cfg(test)]
    fn stats(&self) -> &stats::Stats {
        &self.link.stats
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.stop.cancel();
    }
}

async fn accept(listener: TcpListener, link: Arc<Link>, connections: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some(accepted) = link.stop.run_until_cancelled(listener.accept()).await {
        let client = match accepted {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let permit = Arc::clone(&room).try_acquire_owned();
        if link.rules.refuses() || permit.is_err() {
            link.stats.refused.add(1);
            reset(&client);
            continue;
        }
        let (link, cut) = (Arc::clone(&link), link.cut_token());
        connections.spawn(async move {
            let _permit = permit;
            carry(client, &link, cut).await;
        });
    }
}

async fn carry(client: TcpStream, link: &Link, cut: CancellationToken) {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(link.upstream));
    match cut.run_until_cancelled(connect).await {
        Some(Ok(Ok(server))) => connection::carry(link, cut, client, server).await,
        // The server is away. The client sees its connection end, as it would without a proxy.
        Some(Ok(Err(_)) | Err(_)) => {
            link.stats.refused.add(1);
            reset(&client);
        }
        None => reset(&client),
    }
}
