//! The channel into a partition's lane, and when the next batch of what is in it may go.
//!
//! What a batch costs is nearly the same however many claims it holds, so that few and large ones are
//! cheapest. But a batch alone leaves the processors idle whenever it waits for a disk. Hence a second one
//! may go next to the first as soon as it is as large as the lane's latest batch: then the queue stores
//! the one while Postgres writes the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

/// Batches of one partition that hold a turn: each waits for two disks, one after the other.
const UNDER_WAY_MAX: usize = 2;

/// No number of claims is enough to disturb the lane.
const NEVER: usize = usize::MAX;

/// A channel into a lane, for as many claims as `room`.
pub(crate) fn channel<T>(room: usize) -> (Entrance<T>, Arrivals<T>) {
    let (sender, receiver) = mpsc::channel(room);
    let turns = Arc::new(Turns {
        under_way: AtomicUsize::new(0),
        enough: AtomicUsize::new(NEVER),
        changed: Notify::new(),
    });
    (Entrance { sender, turns: turns.clone() }, Arrivals { receiver, turns })
}

struct Turns {
    under_way: AtomicUsize,
    /// With so many claims in the channel, the next batch may go.
    enough: AtomicUsize,
    changed: Notify,
}

/// The way into a lane.
pub(crate) struct Entrance<T> {
    sender: mpsc::Sender<T>,
    turns: Arc<Turns>,
}

impl<T> Entrance<T> {
    /// Puts a claim into the channel, and wakes the lane if that makes enough for its next batch.
    ///
    /// # Errors
    /// Gives the claim back if there is no room, or no lane any more.
    pub(crate) fn try_send(&self, claim: T) -> Result<(), TrySendError<T>> {
        self.sender.try_send(claim)?;
        let queued = self.sender.max_capacity() - self.sender.capacity();
        let enough = &self.turns.enough;
        if queued >= enough.load(Ordering::SeqCst) && enough.swap(NEVER, Ordering::SeqCst) != NEVER {
            self.turns.changed.notify_one();
        }
        Ok(())
    }
}

/// The lane's end of the channel.
pub(crate) struct Arrivals<T> {
    receiver: mpsc::Receiver<T>,
    turns: Arc<Turns>,
}

impl<T> Arrivals<T> {
    /// Waits for claims and takes up to `limit`; none once nobody can send any more.
    pub(crate) async fn recv_many(&mut self, claims: &mut Vec<T>, limit: usize) -> usize {
        self.receiver.recv_many(claims, limit).await
    }

    /// Takes a claim that is there.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Waits until the next batch may go: at once when none has a turn, and next to another one when
    /// there are `enough` claims in the channel.
    pub(crate) async fn turn(&self, enough: usize) -> Turn {
        let turns = &self.turns;
        loop {
            let enough = match turns.under_way.load(Ordering::SeqCst) {
                0 => 0,
                1..UNDER_WAY_MAX => enough,
                _ => NEVER,
            };
            // Before the channel is looked at: a claim that comes later finds it. (One that did not would
            // only not wake the lane, which the next reply does.)
            turns.enough.store(enough, Ordering::SeqCst);
            if self.receiver.len() >= enough {
                turns.enough.store(NEVER, Ordering::SeqCst);
                turns.under_way.fetch_add(1, Ordering::SeqCst);
                return Turn(turns.clone());
            }
            turns.changed.notified().await;
        }
    }
}

/// A batch's turn, until it is dropped.
pub(crate) struct Turn(Arc<Turns>);

impl Drop for Turn {
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

    #[tokio::test]
    async fn the_first_waits_for_nobody() {
        let (_entrance, arrivals) = channel::<()>(10);
        assert!(poll!(pin!(arrivals.turn(5))).is_ready());
    }

    #[tokio::test]
    async fn the_second_goes_once_enough_have_come() {
        let (entrance, arrivals) = channel(10);
        let _first = arrivals.turn(3).await;
        let mut second = pin!(arrivals.turn(3));
        assert!(poll!(&mut second).is_pending());
        for claim in 1..=2 {
            entrance.try_send(claim).unwrap();
            assert!(poll!(&mut second).is_pending());
        }
        entrance.try_send(3).unwrap();
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn whoever_completes_what_is_enough_wakes_the_lane() {
        let (entrance, arrivals) = channel(10);
        let _first = arrivals.turn(2).await;
        let second = tokio::spawn(async move { arrivals.turn(2).await });
        tokio::task::yield_now().await;
        entrance.try_send(1).unwrap();
        entrance.try_send(2).unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn the_second_goes_at_once_if_enough_are_there() {
        let (entrance, arrivals) = channel(10);
        let _first = arrivals.turn(1).await;
        entrance.try_send(1).unwrap();
        assert!(poll!(pin!(arrivals.turn(1))).is_ready());
    }

    #[tokio::test]
    async fn the_end_of_the_first_lets_the_next_go_however_few_wait() {
        let (_entrance, arrivals) = channel::<()>(10);
        let first = arrivals.turn(3).await;
        let mut second = pin!(arrivals.turn(3));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn a_third_waits_for_one_of_them_however_many_wait() {
        let (entrance, arrivals) = channel(10);
        let (first, _second) = (arrivals.turn(0).await, arrivals.turn(0).await);
        let mut third = pin!(arrivals.turn(1));
        assert!(poll!(&mut third).is_pending());
        for claim in 1..=2 {
            entrance.try_send(claim).unwrap();
            assert!(poll!(&mut third).is_pending());
        }
        drop(first);
        assert!(poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_costs_no_turn() {
        let (_entrance, arrivals) = channel::<()>(10);
        let first = arrivals.turn(1).await;
        assert!(poll!(pin!(arrivals.turn(1))).is_pending());
        let _second = arrivals.turn(0).await;
        drop(first);
        // One is under way, and the place next to it is free.
        assert!(poll!(pin!(arrivals.turn(0))).is_ready());
    }
}
