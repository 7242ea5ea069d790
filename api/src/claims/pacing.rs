//! When the next batch of a partition is published.
//!
//! A batch costs nearly the same however many claims it holds, so few large batches are cheapest: while a batch
//! waits for its reply, the next claims gather. Two limits decide when they go:
//!
//! - **Per partition**: one batch under way, and a second one as soon as as many claims wait as the latest batch
//!   held. The queue stores the second while Postgres writes the first; a batch alone would leave the processors
//!   idle whenever it waits for a disk.
//! - **Per process** (`BATCHES_IN_FLIGHT`): where many partitions are busy they take turns, in the order in which
//!   they asked, and each sends more at once.
//!
//! Neither holds a claim back for longer than [`GATHER_MAX`]: workers that are slow or away do not keep claims from
//! being stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// How long claims gather at most while earlier batches wait for their replies, and how long a batch keeps its place
/// among those of the whole process.
pub(crate) const GATHER_MAX: Duration = Duration::from_millis(20);

/// Batches of one partition that are under way at the same time: each waits for two disks, one after the other.
const PARTITION_BATCHES_MAX: usize = 2;

/// No number of claims wakes the receiver.
const NEVER: usize = usize::MAX;

/// A channel for the claims of one partition, with room for `capacity` of them. `batch_permits` are shared by all
/// partitions of the process.
pub(crate) fn channel<T>(capacity: usize, batch_permits: Arc<Semaphore>) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let pacing = Arc::new(Pacing {
        under_way: AtomicUsize::new(0),
        wake_at: AtomicUsize::new(NEVER),
        changed: Notify::new(),
    });
    (Sender { sender, pacing: pacing.clone() }, Receiver { receiver, pacing, batch_permits })
}

struct Pacing {
    /// Batches of this partition that hold a permit.
    under_way: AtomicUsize,
    /// With so many claims in the channel, the next batch may go.
    wake_at: AtomicUsize,
    changed: Notify,
}

/// Puts claims into the channel.
pub(crate) struct Sender<T> {
    sender: mpsc::Sender<T>,
    pacing: Arc<Pacing>,
}

impl<T> Sender<T> {
    /// Puts a claim into the channel, and wakes the receiver if that makes enough for its next batch.
    ///
    /// # Errors
    /// Gives the claim back if there is no room, or no receiver any more.
    pub(crate) fn try_send(&self, claim: T) -> Result<(), TrySendError<T>> {
        self.sender.try_send(claim)?;
        let queued = self.sender.max_capacity() - self.sender.capacity();
        let wake_at = &self.pacing.wake_at;
        if queued >= wake_at.load(Ordering::SeqCst) && wake_at.swap(NEVER, Ordering::SeqCst) != NEVER {
            self.pacing.changed.notify_one();
        }
        Ok(())
    }
}

/// Takes claims out of the channel, and says when they may go as a batch.
pub(crate) struct Receiver<T> {
    receiver: mpsc::Receiver<T>,
    pacing: Arc<Pacing>,
    batch_permits: Arc<Semaphore>,
}

impl<T> Receiver<T> {
    /// Waits for claims and takes up to `limit`; 0 once the channel is closed and empty.
    pub(crate) async fn recv_many(&mut self, claims: &mut Vec<T>, limit: usize) -> usize {
        self.receiver.recv_many(claims, limit).await
    }

    /// Takes no more claims than those that are in the channel already.
    pub(crate) fn close(&mut self) {
        self.receiver.close();
    }

    /// Takes a claim that is there.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Waits until the next batch may go, for [`GATHER_MAX`] at most; then it goes without a permit. `enough` claims
    /// in the channel are worth a second batch.
    ///
    /// A partition without replies keeps its own permits, and so takes none of the process's.
    pub(crate) async fn batch_permit(&self, enough: usize) -> Option<BatchPermit> {
        let permit = async {
            let partition = self.partition_permit(enough).await;
            let process = self.batch_permits.clone().acquire_owned().await.expect("never closed");
            BatchPermit { _partition: partition, process: Some(process) }
        };
        tokio::time::timeout(GATHER_MAX, permit).await.ok()
    }

    /// Waits for a place among this partition's batches: free at once when none is under way, and next to another one
    /// when there are `enough` claims in the channel.
    async fn partition_permit(&self, enough: usize) -> PartitionPermit {
        let pacing = &self.pacing;
        loop {
            let enough = match pacing.under_way.load(Ordering::SeqCst) {
                0 => 0,
                1..PARTITION_BATCHES_MAX => enough,
                _ => NEVER,
            };
            // Stored before the channel is looked at, so that a claim that comes later wakes the receiver. (Should one
            // be missed, the next reply wakes the receiver.)
            pacing.wake_at.store(enough, Ordering::SeqCst);
            if self.receiver.len() >= enough {
                pacing.wake_at.store(NEVER, Ordering::SeqCst);
                pacing.under_way.fetch_add(1, Ordering::SeqCst);
                return PartitionPermit(pacing.clone());
            }
            pacing.changed.notified().await;
        }
    }
}

/// What a batch under way holds, until its reply.
pub(crate) struct BatchPermit {
    _partition: PartitionPermit,
    process: Option<OwnedSemaphorePermit>,
}

impl BatchPermit {
    /// Gives the place in the process back: a batch whose reply takes longer than [`GATHER_MAX`] must not keep other
    /// partitions waiting.
    pub(crate) fn release_process(&mut self) {
        self.process = None;
    }
}

/// A place among a partition's batches, until it is dropped.
struct PartitionPermit(Arc<Pacing>);

impl Drop for PartitionPermit {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    fn permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(2))
    }

    #[tokio::test]
    async fn the_first_batch_goes_at_once() {
        let (_sender, receiver) = channel::<()>(10, permits());
        assert!(poll!(pin!(receiver.partition_permit(5))).is_ready());
    }

    #[tokio::test]
    async fn the_second_goes_once_enough_claims_wait() {
        let (sender, receiver) = channel(10, permits());
        let _first = receiver.partition_permit(3).await;
        let mut second = pin!(receiver.partition_permit(3));
        assert!(poll!(&mut second).is_pending());
        for claim in 1..=2 {
            sender.try_send(claim).unwrap();
            assert!(poll!(&mut second).is_pending());
        }
        sender.try_send(3).unwrap();
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn the_claim_that_makes_enough_wakes_the_receiver() {
        let (sender, receiver) = channel(10, permits());
        let _first = receiver.partition_permit(2).await;
        let second = tokio::spawn(async move { receiver.partition_permit(2).await });
        tokio::task::yield_now().await;
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn the_second_goes_at_once_if_enough_claims_wait_already() {
        let (sender, receiver) = channel(10, permits());
        let _first = receiver.partition_permit(1).await;
        sender.try_send(1).unwrap();
        assert!(poll!(pin!(receiver.partition_permit(1))).is_ready());
    }

    #[tokio::test]
    async fn the_end_of_the_first_lets_the_next_go_however_few_claims_wait() {
        let (_sender, receiver) = channel::<()>(10, permits());
        let first = receiver.partition_permit(3).await;
        let mut second = pin!(receiver.partition_permit(3));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn a_third_waits_for_one_of_them_however_many_claims_wait() {
        let (sender, receiver) = channel(10, permits());
        let (first, _second) = (receiver.partition_permit(0).await, receiver.partition_permit(0).await);
        let mut third = pin!(receiver.partition_permit(1));
        assert!(poll!(&mut third).is_pending());
        for claim in 1..=2 {
            sender.try_send(claim).unwrap();
            assert!(poll!(&mut third).is_pending());
        }
        drop(first);
        assert!(poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_costs_no_place() {
        let (_sender, receiver) = channel::<()>(10, permits());
        let first = receiver.partition_permit(1).await;
        assert!(poll!(pin!(receiver.partition_permit(1))).is_pending());
        let _second = receiver.partition_permit(0).await;
        drop(first);
        // One is under way, and the place next to it is free.
        assert!(poll!(pin!(receiver.partition_permit(0))).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn partitions_share_the_places_of_the_process_for_a_while() {
        let permits = Arc::new(Semaphore::new(1));
        let (_sender, one) = channel::<()>(10, permits.clone());
        let (_sender, other) = channel::<()>(10, permits.clone());
        let mut first = one.batch_permit(1).await.unwrap();
        // No place became free in time: the batch goes all the same.
        assert!(other.batch_permit(1).await.is_none());
        first.release_process();
        assert!(other.batch_permit(1).await.is_some());
        assert!(one.batch_permit(1).await.is_none(), "the first batch still waits for its reply");
    }
}
