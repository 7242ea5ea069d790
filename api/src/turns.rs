//! When a partition's next batch may go.
//!
//! What a batch costs is nearly the same however many claims it holds, so that few and large ones are
//! cheapest. But a batch alone leaves the processors idle whenever it waits for a disk. Hence a second one
//! may go next to the first as soon as it is as large as the lane's latest: then the queue stores the one
//! while Postgres writes the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Batches of one partition that wait for their replies: each waits for two disks, one after the other.
const UNDER_WAY_MAX: usize = 2;

/// No number of claims is enough to disturb the lane.
const NEVER: usize = usize::MAX;

/// A partition's batches under way.
pub(crate) struct Turns {
    under_way: AtomicUsize,
    /// Claims in the latest batch.
    latest: AtomicUsize,
    /// With so many claims in the lane's channel, the next batch may go.
    enough: AtomicUsize,
    changed: Notify,
}

impl Turns {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            under_way: AtomicUsize::new(0),
            latest: AtomicUsize::new(0),
            enough: AtomicUsize::new(NEVER),
            changed: Notify::new(),
        })
    }

    /// Waits until the next batch may go: at once when none is under way, and next to another one when
    /// as many claims wait as the latest held. These are `waiting`, which the lane has taken out of
    /// its channel, and what `queued` says is there. Only the lane asks, one batch at a time.
    pub(crate) async fn next(self: &Arc<Self>, waiting: usize, queued: impl Fn() -> usize) -> Turn {
        let enough = self.latest.load(Ordering::SeqCst).saturating_sub(waiting);
        loop {
            let under_way = self.under_way.load(Ordering::SeqCst);
            let has_company = (1..UNDER_WAY_MAX).contains(&under_way);
            // Before the channel's length is read, as whoever lengthens it reads this after that.
            self.enough.store(if has_company { enough } else { NEVER }, Ordering::SeqCst);
            if under_way == 0 || has_company && queued() >= enough {
                self.enough.store(NEVER, Ordering::SeqCst);
                self.under_way.fetch_add(1, Ordering::SeqCst);
                return Turn(self.clone());
            }
            self.changed.notified().await;
        }
    }

    /// A claim was put into the channel, which holds `queued` now: wakes the lane if these are enough.
    pub(crate) fn arrived(&self, queued: usize) {
        if queued >= self.enough.load(Ordering::SeqCst) && self.enough.swap(NEVER, Ordering::SeqCst) != NEVER
        {
            self.changed.notify_one();
        }
    }

    /// A batch of so many `claims` is on its way.
    pub(crate) fn sent(&self, claims: usize) {
        self.latest.store(claims, Ordering::SeqCst);
    }
}

/// A batch under way, until it is dropped.
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

    /// A channel's length, as lane and senders see it.
    #[derive(Default)]
    struct Channel(AtomicUsize);

    impl Channel {
        fn queued(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }

        fn send(&self, turns: &Turns) {
            turns.arrived(self.0.fetch_add(1, Ordering::SeqCst) + 1);
        }
    }

    fn after_a_batch_of(claims: usize) -> Arc<Turns> {
        let turns = Turns::new();
        turns.sent(claims);
        turns
    }

    #[tokio::test]
    async fn the_first_waits_for_nobody() {
        let turns = after_a_batch_of(100);
        assert!(poll!(pin!(turns.next(1, || 0))).is_ready());
    }

    #[tokio::test]
    async fn the_second_goes_once_enough_claims_have_come() {
        let (turns, channel) = (after_a_batch_of(4), Channel::default());
        let _first = turns.next(1, || channel.queued()).await;
        let mut second = pin!(turns.next(1, || channel.queued()));
        assert!(poll!(&mut second).is_pending());
        channel.send(&turns);
        channel.send(&turns);
        assert!(poll!(&mut second).is_pending());
        channel.send(&turns);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn the_second_goes_at_once_if_enough_are_there() {
        let (turns, channel) = (after_a_batch_of(2), Channel::default());
        let _first = turns.next(1, || channel.queued()).await;
        channel.send(&turns);
        assert!(poll!(pin!(turns.next(1, || channel.queued()))).is_ready());
    }

    #[tokio::test]
    async fn the_end_of_the_first_lets_the_next_go_however_few_wait() {
        let turns = after_a_batch_of(3);
        let first = turns.next(1, || 0).await;
        let mut second = pin!(turns.next(1, || 0));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn a_third_waits_for_one_of_them_however_many_wait() {
        let (turns, channel) = (after_a_batch_of(1), Channel::default());
        let (first, _second) = (turns.next(1, || 0).await, turns.next(1, || 0).await);
        let mut third = pin!(turns.next(1, || channel.queued()));
        assert!(poll!(&mut third).is_pending());
        channel.send(&turns);
        channel.send(&turns);
        assert!(poll!(&mut third).is_pending());
        drop(first);
        assert!(poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_is_not_lost() {
        let turns = after_a_batch_of(3);
        let first = turns.next(1, || 0).await;
        {
            let mut given_up = pin!(turns.next(1, || 0));
            assert!(poll!(&mut given_up).is_pending());
        }
        drop(first);
        assert!(poll!(pin!(turns.next(1, || 0))).is_ready());
    }
}
