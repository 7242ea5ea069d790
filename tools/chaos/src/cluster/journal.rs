//! What the streams held, from what workers received.
//!
//! A message can only be applied by a worker that received it, and everything that workers receive passes
//! their proxies. So the journal is complete for all that can matter, even where a stream lost messages before
//! anyone else could have read them. Each delivery says in its reply subject where the message stands: its
//! sequence number, and the time at which it was stored, which tells two messages with one number apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::message::{self, Batch};
use tokio::sync::mpsc::Receiver;

use super::generations::{Content, Loss, StoredAt, generations};
use crate::history::{Claim, Journal};
use crate::proxy::{Tap, Tapped};

/// Nanoseconds since 1970, by the clock that nats-server stamps messages with.
pub(crate) fn wall_clock_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug, Default)]
struct Seen {
    messages: BTreeMap<u32, BTreeMap<StoredAt, Content>>,
    losses: BTreeMap<u32, Vec<Loss>>,
    /// How many deliveries were discarded.
    discarded: BTreeMap<u32, u64>,
    /// Partitions with a loss at an unknown moment.
    doubtful: BTreeSet<u32>,
}

/// Records what a tap brings.
#[derive(Debug)]
pub(crate) struct StreamRecorder {
    tap: Tap,
    seen: Mutex<Seen>,
}

impl StreamRecorder {
    /// Starts a task that ends with the tap.
    pub(super) fn start(tap: Tap, mut tapped: Receiver<Tapped>) -> Arc<Self> {
        let recorder = Arc::new(Self { tap, seen: Mutex::default() });
        let recording = Arc::clone(&recorder);
        tokio::spawn(async move {
            while let Some(tapped) = tapped.recv().await {
                if let Some((partition, at)) = place(&tapped) {
                    let mut seen = recording.lock();
                    let messages = seen.messages.entry(partition).or_default();
                    let content = messages.entry(at).or_insert_with(|| content(&tapped.payload));
                    content.sent_ns = wall_clock_ns();
                    *seen.discarded.entry(partition).or_default() += u64::from(tapped.is_lost);
                }
            }
        });
        recorder
    }

    /// Records that a stream has lost messages.
    pub(crate) fn lost(&self, partition: u32, loss: Loss) {
        self.lock().losses.entry(partition).or_default().push(loss);
    }

    /// Records that a stream may have lost messages.
    pub(crate) fn may_have_lost(&self, partition: u32) {
        self.lock().doubtful.insert(partition);
    }

    /// Begins a round: what was seen before does not concern it, and what was missed is no loss.
    pub(crate) fn clear(&self) {
        *self.lock() = Seen::default();
        self.tap.reset_overflow();
    }

    /// The journal of a partition, and the generation of its stream.
    pub(crate) fn journal(&self, partition: u32) -> (Journal, u64) {
        let mut seen = self.lock();
        let doubtful = seen.doubtful.contains(&partition);
        let losses = seen.losses.entry(partition).or_default().clone();
        let (messages, generation) = generations(seen.messages.entry(partition).or_default(), losses);
        let complete = !self.tap.is_lossy() && !doubtful;
        let discarded = seen.discarded.get(&partition).copied().unwrap_or_default();
        (Journal { partition, complete, doubtful, discarded, messages }, generation)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim of a batch, as the history has it.
pub(crate) fn recorded(claim: &message::Claim) -> Claim {
    Claim {
        claim_id: claim.claim_id.as_uuid().to_string(),
        coupon: claim.coupon_name.as_str().to_owned(),
        user: claim.user_id.as_str().to_owned(),
    }
}

/// Reads `claims.P` and `$JS.ACK.….SEQUENCE.DELIVERY.TIME.PENDING`; newer servers have more words in front
/// and one behind.
fn place(tapped: &Tapped) -> Option<(u32, StoredAt)> {
    let subject = std::str::from_utf8(&tapped.subject).ok()?;
    let partition = subject.strip_prefix("claims.")?.parse().ok()?;
    let reply = std::str::from_utf8(tapped.reply.as_ref()?).ok()?;
    let words: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let from = match words.len() {
        7 => 3,
        9.. => 5,
        _ => return None,
    };
    let at = StoredAt { sequence: words[from].parse().ok()?, stored_ns: words[from + 2].parse().ok()? };
    Some((partition, at))
}

fn content(payload: &Bytes) -> Content {
    let Ok(batch) = Batch::decode(payload) else { return Content::default() };
    let claims = batch.claims().map(recorded);
    Content { sent_ns: 0, batch_id: batch.batch_id.to_string(), claims: claims.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_say_where_a_message_stands() {
        let tapped = |subject: &'static str, reply: &'static str| Tapped {
            subject: Bytes::from_static(subject.as_bytes()),
            reply: Some(Bytes::from_static(reply.as_bytes())),
            payload: Bytes::new(),
            is_lost: false,
        };
        let at = StoredAt { stored_ns: 1_700, sequence: 42 };
        let old = tapped("claims.3", "$JS.ACK.CLAIMS-3.worker-x.1.42.7.1700.0");
        assert_eq!(place(&old), Some((3, at)));
        let new = tapped("claims.3", "$JS.ACK._.hash.CLAIMS-3.worker-x.1.42.7.1700.0.abc");
        assert_eq!(place(&new), Some((3, at)));
        assert_eq!(place(&tapped("replies.x", "$JS.ACK.CLAIMS-3.worker-x.1.42.7.1700.0")), None);
    }
}
