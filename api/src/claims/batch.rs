//! A batch of claims that was published and has no answer yet.

use std::time::{Duration, Instant};

use common::partition::PartitionId;
use common::queue::Link;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::claims::answer::Unavailable;
use crate::claims::cursors::{Cursor, Cursors};
use crate::claims::pacing::{BatchPermit, GATHER_MAX};
use crate::claims::receipt::{Receipt, UNPROVEN};
use crate::claims::waiter::Waiter;

/// How long a reply may take once Postgres shows that the batch has been applied. After that nobody is left who would
/// send it.
const REPLY_GRACE: Duration = Duration::from_millis(250);

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishResult {
    /// Stored under this sequence number.
    Stored(i64),
    /// Applied and answered before the acknowledgement came.
    Answered,
    /// Not stored.
    Refused(Unavailable),
}

/// A published batch without an answer.
pub(crate) struct UnansweredBatch {
    pub(crate) partition: PartitionId,
    /// The partition's cursor before the batch was published.
    pub(crate) cursor: Option<Cursor>,
    pub(crate) batch_id: Uuid,
    pub(crate) waiters: Vec<Waiter>,
    /// Known once the publish is acknowledged.
    pub(crate) receipt: Option<Receipt>,
    /// The last moment at which all its requests can still be answered in time.
    pub(crate) deadline: Instant,
    /// The connection to NATS that it was published on: its reply does not survive that connection.
    pub(crate) link_number: u64,
    /// Tells the publisher of the acknowledgement.
    pub(crate) acknowledgement: Option<oneshot::Sender<PublishResult>>,
    pub(crate) published_at: Instant,
    /// Since when it is known to have been applied.
    pub(crate) applied_at: Option<Instant>,
    pub(crate) permit: Option<BatchPermit>,
}

impl UnansweredBatch {
    /// What its acknowledgement, as message `sequence`, proves.
    pub(crate) fn receipt_of(&self, sequence: i64, cursors: &Cursors) -> Receipt {
        let cursor = self.cursor.filter(|cursor| cursors.proves(*cursor, sequence));
        let generation = cursor.map_or(UNPROVEN, |cursor| cursor.generation);
        Receipt { partition: self.partition.number(), generation, sequence }
    }

    /// Whether there is no use in waiting for a reply any longer. Releases the place in the process when the batch has
    /// held it for [`GATHER_MAX`].
    pub(crate) fn is_overdue(&mut self, now: Instant, link: Link, cursors: &Cursors) -> bool {
        if now >= self.published_at + GATHER_MAX
            && let Some(permit) = &mut self.permit
        {
            permit.release_process();
        }
        if self.applied_at.is_none() && self.receipt.is_some_and(|receipt| cursors.has_passed(receipt)) {
            self.applied_at = Some(now);
        }
        self.deadline <= now
            || self.link_number != link.number
            || !link.up
            || self.applied_at.is_some_and(|since| since + REPLY_GRACE <= now)
    }
}
