//! What has happened on a link.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters since the proxy started.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Connections refused by a rule or because the server was away.
    pub(super) refused: Counter,
    /// Connections cut by a fault.
    pub(super) cut: Counter,
    /// Bytes held by a black hole.
    pub(super) bytes_held: Counter,
    /// Bytes written one at a time.
    pub(super) bytes_sliced: Counter,
    /// Commits whose answer was discarded.
    pub(super) commit_answers_lost: Counter,
    pub(super) frames_lost: Counter,
    pub(super) frames_held: Counter,
    /// Directions of connections whose framing could not be followed.
    pub(super) framing_lost: Counter,
}
