//! Copies of the messages that a NATS server sends through a proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::frame::{Frame, Kind};

/// Messages that wait to be looked at. Above it copies are lost, and the tap says so.
const TAPPED_MAX: usize = 16 << 10;

/// A message on its way from the server, whether or not a fault keeps it from arriving.
#[derive(Debug, Clone)]
pub(crate) struct Tapped {
    /// Its subject.
    pub(crate) subject: Bytes,
    /// Its reply subject, in which JetStream says where the message stands in its stream.
    pub(crate) reply: Option<Bytes>,
    /// Its payload, without headers.
    pub(crate) payload: Bytes,
    /// Whether a fault discards it.
    pub(crate) is_lost: bool,
}

/// Where the copies go. Clones share one queue, so that several proxies can have the same.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    sender: mpsc::Sender<Tapped>,
    overflowed: Arc<AtomicBool>,
    /// Never reset: the connection may live for many rounds.
    unreadable: Arc<AtomicBool>,
}

impl Tap {
    /// A tap, and the receiver of its queue.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Tapped>) {
        let (sender, receiver) = mpsc::channel(TAPPED_MAX);
        (Self { sender, overflowed: Arc::default(), unreadable: Arc::default() }, receiver)
    }

    /// Whether anything may have been missed, because the queue was full or the framing was lost.
    pub(crate) fn is_lossy(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed) || self.unreadable.load(Ordering::Relaxed)
    }

    /// Forgets that the queue was full: what was missed then no longer matters.
    pub(crate) fn reset_overflow(&self) {
        self.overflowed.store(false, Ordering::Relaxed);
    }

    /// Takes a copy of a message.
    pub(super) fn take(&self, frame: &Frame, is_lost: bool) {
        if let Kind::Message { subject, reply, payload, headers, .. } = &frame.kind {
            let payload = payload.slice((*headers).min(payload.len())..);
            let (subject, reply) = (subject.clone(), reply.clone());
            let tapped = Tapped { subject, reply, payload, is_lost };
            if self.sender.try_send(tapped).is_err() {
                self.overflowed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Notes that messages pass that cannot be copied.
    pub(super) fn miss(&self) {
        self.unreadable.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_can_be_reset_and_a_stream_that_cannot_be_read_cannot() {
        let (tap, mut tapped) = Tap::new();
        let (subject, payload) = (Bytes::from_static(b"claims.0"), Bytes::new());
        let kind = Kind::Message { subject, subscription: None, reply: None, payload, headers: 0 };
        let frame = Frame { bytes: Bytes::new(), kind };
        for _ in 0..TAPPED_MAX {
            tap.take(&frame, false);
        }
        assert!(!tap.is_lossy());
        tap.take(&frame, false);
        assert!(tap.is_lossy());

        tap.reset_overflow();
        tapped.try_recv().unwrap();
        tap.take(&frame, false);
        assert!(!tap.is_lossy());

        tap.miss();
        tap.reset_overflow();
        assert!(tap.is_lossy());
    }
}
