//! What the connections of a proxy share, and what the two directions of one connection share.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::active_rules::ActiveRules;
use super::framer::Protocol;
use super::rule::{Direction, OnHeal};
use super::stats::Stats;
use super::tap::Tap;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) protocol: Protocol,
    pub(super) upstream: SocketAddr,
    pub(super) rules: ActiveRules,
    pub(super) stats: Stats,
    pub(super) tap: Option<Tap>,
    /// Ends the proxy.
    pub(super) stop: CancellationToken,
    /// Ends the connections that are open now.
    cut: Mutex<CancellationToken>,
}

impl Link {
    pub(super) fn new(protocol: Protocol, upstream: SocketAddr, tap: Option<Tap>) -> Self {
        let stop = CancellationToken::new();
        let (rules, stats, cut) = (ActiveRules::default(), Stats::default(), Mutex::new(stop.child_token()));
        Self { protocol, upstream, rules, stats, tap, stop, cut }
    }

    /// Cancelled when the connections that are open now are cut.
    pub(super) fn cut_token(&self) -> CancellationToken {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cuts all connections that are open now.
    pub(super) fn cut_all(&self) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *cut, self.stop.child_token()).cancel();
    }
}

/// Why a connection ended before both sides had sent everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A rule cut it, with a reset or an orderly close.
    Cut { reset: bool },
    /// One of the two sides is gone.
    Gone,
}

/// Bytes on their way from a reader to its writer.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// Not written before this moment.
    pub(super) due: Instant,
}

/// What both directions of a connection share.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    pub(super) link: &'a Link,
    /// Set once a commit was passed on whose answer is to be discarded.
    pub(super) commit_answer_lost: AtomicBool,
}

impl Connection<'_> {
    /// Waits while a black hole holds this direction.
    pub(super) async fn pass_black_holes(&self, direction: Direction, bytes: usize) -> Result<(), End> {
        let rules = &self.link.rules;
        let mut changes = rules.changes();
        let Some(mut on_heal) = rules.black_hole(direction, true) else { return Ok(()) };
        self.link.stats.bytes_held.add(bytes);
        loop {
            // The rules live as long as their connections, so this only ever reports changes.
            let _ = changes.changed().await;
            match rules.black_hole(direction, false) {
                Some(OnHeal::Cut) => on_heal = OnHeal::Cut,
                Some(OnHeal::Deliver) => {}
                None if on_heal == OnHeal::Cut => return Err(End::Cut { reset: true }),
                None => return Ok(()),
            }
        }
    }
}

/// Makes the socket end with a reset instead of an orderly close, once it is dropped.
pub(super) fn reset(stream: &TcpStream) {
    // An error means that the connection is gone already.
    let _ = stream.set_zero_linger();
}
