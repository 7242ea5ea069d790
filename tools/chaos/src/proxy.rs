//! A TCP proxy on loopback that misbehaves on demand.
//!
//! Each link between two processes gets a proxy of its own. What it does to the bytes is a set of [`Rule`]s
//! that can be imposed and lifted at any moment, several at once; without rules it passes everything on.
//! Most rules know nothing of the protocol (hold, delay, slice, cut). A few aim at one message: the answer to
//! a commit, the acknowledgement of a publish. For those the proxy follows the protocol's framing; a
//! connection whose framing it cannot follow is passed on byte by byte and only loses the aimed faults.
//!
//! Limits: plain TCP without TLS; loopback only; [`CONNECTIONS_MAX`] connections a proxy, and a bounded number
//! of bytes held in each direction of each. A link that is held for longer than its buffers last behaves like
//! a full network: the sender blocks.

mod board;
mod connection;
mod frame;
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

pub use rule::{Imposed, Matcher, OnHeal, Rule, Way};
pub use stats::Snapshot;
pub use tap::{Tap, Tapped};

use board::Board;
use connection::Connection;
use stats::Stats;

/// Connections that one proxy carries at a time. Past it, new ones are refused.
pub const CONNECTIONS_MAX: usize = 1024;

/// How long the proxy waits for the server behind it to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections of a link speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The NATS client protocol.
    Nats,
    /// The PostgreSQL frontend/backend protocol, version 3.
    Postgres,
}

/// A running proxy. Dropping it without [`Proxy::stop`] cuts its connections as well.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// What the accepting task and all connections of a proxy share.
#[derive(Debug)]
struct Shared {
    protocol: Protocol,
    upstream: SocketAddr,
    board: Board,
    stats: Stats,
    tap: Option<Tap>,
    /// Ends the proxy.
    stop: CancellationToken,
    /// Ends the connections that are open now; replaced by [`Proxy::cut_all`].
    cut: std::sync::Mutex<CancellationToken>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes connections on to `upstream`, which may
    /// come and go. A copy of each message that comes from a NATS server goes to the tap, if there is one.
    pub async fn start(protocol: Protocol, upstream: SocketAddr, tap: Option<Tap>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            protocol,
            upstream,
            board: Board::new(),
            stats: Stats::default(),
            tap,
            cut: std::sync::Mutex::new(stop.child_token()),
            stop,
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        tasks.close();
        Ok(Self { addr, shared, tasks })
    }

    /// Where to connect to instead of the server.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Imposes a rule, in addition to those that are in force.
    pub fn impose(&self, rule: Rule) -> Imposed {
        self.shared.board.impose(rule)
    }

    /// Ends a rule. What it held is delivered or dropped, as the rule says.
    pub fn lift(&self, imposed: &Imposed) {
        self.shared.board.lift(imposed);
    }

    /// Ends all rules.
    pub fn heal(&self) {
        self.shared.board.clear();
    }

    /// Cuts all connections that are open now, and says how many there were.
    pub fn cut_all(&self) -> u64 {
        let fresh = self.shared.stop.child_token();
        let old = {
            let mut cut = self.shared.cut.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *cut, fresh)
        };
        let open = self.shared.stats.open();
        old.cancel();
        self.shared.stats.cut(open);
        open
    }

    /// What has happened on this link so far.
    pub fn stats(&self) -> Snapshot {
        self.shared.stats.snapshot()
    }

    /// Cuts all connections, stops listening, and waits until both are done.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    fn cut_token(&self) -> CancellationToken {
        self.cut.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let client = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let permit = Arc::clone(&room).try_acquire_owned();
        if shared.board.refuses() || permit.is_err() {
            shared.stats.refused();
            reset(&client);
            continue;
        }
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let _permit = permit;
            carry(client, &shared).await;
        });
    }
}

async fn carry(client: TcpStream, shared: &Shared) {
    let cut = shared.cut_token();
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(shared.upstream));
    let server = tokio::select! {
        () = cut.cancelled() => return reset(&client),
        server = connect => server,
    };
    match server {
        Ok(Ok(server)) => Connection::new(shared, cut).run(client, server).await,
        // The server is away. The client sees its connection end, as it would without a proxy.
        Ok(Err(_)) | Err(_) => {
            shared.stats.refused();
            reset(&client);
        }
    }
}

/// Makes the socket end with a reset instead of an orderly close, once it is dropped.
fn reset(stream: &TcpStream) {
    // An error means that the connection is gone already.
    let _ = stream.set_zero_linger();
}
