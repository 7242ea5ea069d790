//! Takes claims in, sends each its way, and sees it answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::message::Claim;
use common::partition::PartitionId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::claims::answer::{Answer, Unavailable};
use crate::claims::availability::Availability;
use crate::claims::pacing;
use crate::claims::publisher::{Publisher, PublisherContext};
use crate::claims::refusals::RefusalCache;
use crate::claims::waiter::Waiter;
use crate::config::Limits;

/// Puts claims into the channels of their partitions' publishers.
#[derive(Clone)]
pub(crate) struct PartitionSenders(Arc<[pacing::Sender<Waiter>]>);

impl PartitionSenders {
    /// Queues a claim in its partition; refuses it if there is no room.
    pub(crate) fn send(&self, waiter: Waiter) {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let partition = PartitionId::of(&waiter.claim.coupon_name, count);
        match self.0[partition.index()].try_send(waiter) {
            Ok(()) => {}
            Err(TrySendError::Full(waiter)) => waiter.answer(Answer::Unavailable(Unavailable::Overloaded)),
            Err(TrySendError::Closed(waiter)) => waiter.answer(Answer::Unavailable(Unavailable::Stopping)),
        }
    }
}

/// Takes claims in and sees them answered.
pub(crate) struct Dispatcher {
    senders: PartitionSenders,
    refusals: RefusalCache,
    claim_permits: Arc<Semaphore>,
    availability: Arc<Availability>,
    claim_timeout: Duration,
    stopping: CancellationToken,
}

impl Dispatcher {
    /// Starts a publisher per partition. They end once `background` is cancelled and nothing waits to be published.
    pub(crate) fn start(
        limits: &Limits,
        partitions: u32,
        context: &PublisherContext,
        refusals: RefusalCache,
        stopping: CancellationToken,
        background: &CancellationToken,
    ) -> (Self, JoinSet<()>) {
        let mut publishers = JoinSet::new();
        let batch_permits = Arc::new(Semaphore::new(limits.batches_in_flight));
        let senders = (0..partitions)
            .map(|number| {
                // Room for all claims in flight, since `claim_permits` bounds them.
                let (sender, receiver) = pacing::channel(limits.in_flight_claims_max, batch_permits.clone());
                let publisher = Publisher {
                    partition: PartitionId::new(number),
                    context: context.clone(),
                    claims_max: limits.batch_claims_max,
                    bytes_max: limits.batch_bytes_max,
                };
                publishers.spawn(publisher.run(receiver, background.clone()));
                sender
            })
            .collect();
        let dispatcher = Self {
            senders: PartitionSenders(senders),
            refusals,
            claim_permits: Arc::new(Semaphore::new(limits.in_flight_claims_max)),
            availability: context.availability.clone(),
            claim_timeout: limits.claim_timeout,
            stopping,
        };
        (dispatcher, publishers)
    }

    /// The channels into all partitions.
    pub(crate) fn senders(&self) -> PartitionSenders {
        self.senders.clone()
    }

    /// Takes a claim and waits for its answer, for about `CLAIM_TIMEOUT_MS`.
    pub(crate) async fn claim(&self, claim: &Arc<Claim>) -> Answer {
        let answer = match self.submit(claim.clone()) {
            // A dropped sender is a task that died: then nothing is known.
            Ok(answer) => answer.await.unwrap_or(Answer::Unavailable(Unavailable::OutcomeUnknown)),
            Err(reason) => Answer::Unavailable(reason),
        };
        if let Answer::Outcome(outcome) = answer {
            self.refusals.observe(&claim.coupon_name, outcome);
        }
        answer
    }

    fn submit(&self, claim: Arc<Claim>) -> Result<oneshot::Receiver<Answer>, Unavailable> {
        self.availability.check()?;
        if self.stopping.is_cancelled() {
            return Err(Unavailable::Stopping);
        }
        let permit = self.claim_permits.clone().try_acquire_owned().map_err(|_| Unavailable::Overloaded)?;
        let (waiter, answer) = Waiter::new(claim, Instant::now() + self.claim_timeout, permit);
        if let Err(waiter) = self.refusals.take(waiter) {
            self.senders.send(waiter);
        }
        Ok(answer)
    }
}
