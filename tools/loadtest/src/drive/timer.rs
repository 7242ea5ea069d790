//! Waiting until a given moment.
//!
//! Tokio's timers count whole milliseconds, which would delay every request of an open loop by half of one. A thread that
//! sleeps is precise to some 50 microseconds.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Instant;

use tokio::sync::Notify;

/// A timer for one task at a time. Its thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Timer {
    moments: Sender<Instant>,
    reached: Arc<Notify>,
}

impl Timer {
    pub(super) fn new() -> Self {
        let (moments, received) = channel::<Instant>();
        let reached = Arc::new(Notify::new());
        let notify = Arc::clone(&reached);
        thread::spawn(move || {
            for moment in received {
                thread::sleep(moment.saturating_duration_since(Instant::now()));
                notify.notify_one();
            }
        });
        Self { moments, reached }
    }

    /// Waits until `moment`.
    pub(super) async fn until(&self, moment: Instant) {
        if self.moments.send(moment).is_ok() {
            self.reached.notified().await;
        }
    }
}
