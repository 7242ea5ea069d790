//! Copies of the messages that a NATS server sends through a proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::frame::{Frame, Kind};

/// Messages that wait to be looked at. Past it copies are lost, and the tap says so.
const TAPPED_MAX: usize = 16 << 10;

/// A message on its way from the server, whether or not a fault keeps it from arriving.
#[derive(Debug, Clone)]
pub struct Tapped {
    /// Its subject.
    pub subject: Bytes,
    /// Its reply subject, in which JetStream says where the message stands in its stream.
    pub reply: Option<Bytes>,
    /// Its payload, without headers.
    pub payload: Bytes,
}

/// Where the copies go. Clones share one queue, so that several proxies can have the same.
#[derive(Debug, Clone)]
pub struct Tap {
    sender: mpsc::Sender<Tapped>,
    lossy: Arc<AtomicBool>,
}

impl Tap {
    /// A tap, and the other end of its queue.
    pub fn new() -> (Self, mpsc::Receiver<Tapped>) {
        let (sender, receiver) = mpsc::channel(TAPPED_MAX);
        (Self { sender, lossy: Arc::default() }, receiver)
    }

    /// Whether anything may have been missed, because the queue was full or the framing was lost.
    pub fn is_lossy(&self) -> bool {
        self.lossy.load(Ordering::Relaxed)
    }

    /// Takes a copy of a message.
    pub(super) fn take(&self, frame: &Frame) {
        if let Kind::Message { subject, reply, payload, headers, .. } = &frame.kind {
            let payload = payload.slice((*headers).min(payload.len())..);
            let tapped = Tapped { subject: subject.clone(), reply: reply.clone(), payload };
            if self.sender.try_send(tapped).is_err() {
                self.miss();
            }
        }
    }

    /// Notes that messages pass that cannot be copied.
    pub(super) fn miss(&self) {
        self.lossy.store(true, Ordering::Relaxed);
    }
}
