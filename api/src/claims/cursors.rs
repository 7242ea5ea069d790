//! How far each partition has been applied, as Postgres said when it was last asked.
//!
//! `availability` refreshes the cursors several times a second, so that a claim need not ask.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::partition::PartitionId;
use common::queue::Link;
use tokio::sync::watch;

use crate::claims::receipt::{Receipt, UNPROVEN};

/// A partition's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The generation of the partition's stream.
    pub(crate) generation: i64,
    /// Sequence number of the last message applied.
    pub(crate) last_seq: i64,
    /// The connection to NATS under which the cursor was read.
    pub(crate) link_number: u64,
}

/// The last known cursors of all partitions; empty until Postgres has been asked.
#[derive(Debug)]
pub(crate) struct Cursors {
    link: watch::Receiver<Link>,
    by_partition: Mutex<Vec<Cursor>>,
}

impl Cursors {
    /// Nothing is known yet.
    pub(crate) fn new(link: watch::Receiver<Link>) -> Self {
        Self { link, by_partition: Mutex::default() }
    }

    /// Replaces all cursors, in the order of the partitions' numbers.
    pub(crate) fn refresh(&self, cursors: Vec<Cursor>) {
        *self.lock() = cursors;
    }

    /// The last known cursor of a partition. To be read before a message is published.
    pub(crate) fn get(&self, partition: PartitionId) -> Option<Cursor> {
        self.lock().get(partition.index()).copied()
    }

    /// Whether every partition's cursor is known and belongs to a stream.
    pub(crate) fn are_known(&self) -> bool {
        let cursors = self.lock();
        !cursors.is_empty() && cursors.iter().all(|cursor| cursor.generation != UNPROVEN)
    }

    /// Whether the message that got `sequence` belongs to the generation of `before`, a cursor that was read before
    /// the message was published.
    ///
    /// It does if the cursor had not reached that number then, and the connection to NATS has not been renewed
    /// since: a stream that was lost and written again counts from an earlier number, and a stream cannot lose its
    /// tail without the server going away.
    pub(crate) fn proves(&self, before: Cursor, sequence: i64) -> bool {
        sequence > before.last_seq && before.link_number == self.link.borrow().number
    }

    /// Whether the message of `receipt` had been applied when Postgres was last asked.
    pub(crate) fn has_passed(&self, receipt: Receipt) -> bool {
        self.lock().get(receipt.partition as usize).is_some_and(|cursor| {
            cursor.generation != UNPROVEN
                && cursor.generation == receipt.generation
                && cursor.last_seq >= receipt.sequence
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Cursor>> {
        self.by_partition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { up: true, number: 3 };

    fn cursors() -> (watch::Sender<Link>, Cursors) {
        let (sender, link) = watch::channel(LINK);
        let cursors = Cursors::new(link);
        cursors.refresh(vec![Cursor { generation: 2, last_seq: 10, link_number: LINK.number }]);
        (sender, cursors)
    }

    #[test]
    fn a_number_beyond_the_cursor_belongs_to_its_generation_while_the_link_lasts() {
        let (link, cursors) = cursors();
        let before = cursors.get(PartitionId::new(0)).unwrap();
        assert!(cursors.proves(before, 11));
        assert!(!cursors.proves(before, 10), "the number was reached before");
        link.send_replace(Link { number: LINK.number + 1, ..LINK });
        assert!(!cursors.proves(before, 11), "the stream may be another one");
    }

    #[test]
    fn a_receipt_is_passed_only_in_its_own_generation() {
        let (_link, cursors) = cursors();
        let passed =
            |generation, sequence| cursors.has_passed(Receipt { partition: 0, generation, sequence });
        assert!(passed(2, 10) && !passed(2, 11));
        assert!(!passed(1, 10) && !passed(3, 10) && !passed(UNPROVEN, 10));
        assert!(!cursors.has_passed(Receipt { partition: 1, generation: 2, sequence: 1 }));
    }

    #[test]
    fn a_cursor_without_a_stream_is_not_known() {
        let (_link, cursors) = cursors();
        assert!(cursors.are_known());
        cursors.refresh(vec![Cursor { generation: UNPROVEN, last_seq: 0, link_number: LINK.number }]);
        assert!(!cursors.are_known());
        cursors.refresh(Vec::new());
        assert!(!cursors.are_known());
    }
}
