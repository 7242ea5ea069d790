//! What all clients of a round share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::Plan;
use crate::record::Log;

/// How long a client repeats its request after healing: longer than what is promised, so that a broken promise
/// shows as a late answer and not as none.
const PATIENCE_AFTER_HEALING: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults are active, or were a moment ago.
    Sale,
    /// Everything is healed: no new intents, only definite answers to the old ones.
    Closing { since: Instant },
}

#[derive(Debug)]
pub(crate) struct ClientGroup {
    /// The APIs.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) plan: Plan,
    pub(crate) log: Arc<Log>,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl ClientGroup {
    /// Whether a client that has no definite answer repeats its request.
    pub(super) fn is_patient(&self) -> bool {
        match *self.phase.borrow() {
            Phase::Sale => true,
            Phase::Closing { since } => since.elapsed() < PATIENCE_AFTER_HEALING,
        }
    }
}
