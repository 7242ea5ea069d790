//! What has happened on a link.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the proxy started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections that were carried.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Connections that were refused, by a rule or because the server was away.
    pub refused: u64,
    /// Connections that a fault cut.
    pub cut: u64,
    /// Bytes that a hole held.
    pub bytes_held: u64,
    /// Bytes that were delayed.
    pub bytes_delayed: u64,
    /// Bytes that were written one at a time.
    pub bytes_sliced: u64,
    /// Commits whose answer was discarded.
    pub commit_answers_lost: u64,
    /// Frames that were discarded.
    pub frames_lost: u64,
    /// Frames that were held.
    pub frames_held: u64,
    /// Directions of connections whose framing could not be followed.
    pub framing_lost: u64,
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    accepted: AtomicU64,
    open: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    bytes_held: AtomicU64,
    bytes_delayed: AtomicU64,
    bytes_sliced: AtomicU64,
    commit_answers_lost: AtomicU64,
    frames_lost: AtomicU64,
    frames_held: AtomicU64,
    framing_lost: AtomicU64,
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub(super) struct Open<'a>(&'a Stats);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stats {
    pub(super) fn accepted(&self) -> Open<'_> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cut(&self, connections: u64) {
        self.cut.fetch_add(connections, Ordering::Relaxed);
    }

    pub(super) fn held(&self, bytes: usize) {
        self.bytes_held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn delayed(&self, bytes: usize) {
        self.bytes_delayed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sliced(&self, bytes: usize) {
        self.bytes_sliced.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn commit_answer_lost(&self) {
        self.commit_answers_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn frame_lost(&self) {
        self.frames_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn frame_held(&self) {
        self.frames_held.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn framing_lost(&self) {
        self.framing_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            accepted: read(&self.accepted),
            open: read(&self.open),
            refused: read(&self.refused),
            cut: read(&self.cut),
            bytes_held: read(&self.bytes_held),
            bytes_delayed: read(&self.bytes_delayed),
            bytes_sliced: read(&self.bytes_sliced),
            commit_answers_lost: read(&self.commit_answers_lost),
            frames_lost: read(&self.frames_lost),
            frames_held: read(&self.frames_held),
            framing_lost: read(&self.framing_lost),
        }
    }
}
