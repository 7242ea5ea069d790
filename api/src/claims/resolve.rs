//! Looks up in Postgres what became of claims whose reply did not come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::backoff::Backoff;
use common::partition::PartitionId;
use sqlx::PgPool;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::claims::answer::{Answer, Unavailable};
use crate::claims::availability::Availability;
use crate::claims::batch::UnansweredBatch;
use crate::claims::receipt::{self, Verdict};
use crate::claims::waiter::Waiter;
use crate::store;

/// How long one look-up may take, and by how much the last one may exceed the deadline.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Pauses between two look-ups of a batch.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Looks up batches, each in a task that is never cancelled: it ends at the batch's deadline.
#[derive(Clone)]
pub(crate) struct Resolver {
    pub(crate) pool: PgPool,
    pub(crate) availability: Arc<Availability>,
    pub(crate) partitions: u32,
    /// The tasks, so that a stop can wait for them.
    pub(crate) tasks: TaskTracker,
    /// Look-ups at the same time; the others wait, within their deadlines.
    pub(crate) lookup_permits: Arc<Semaphore>,
}

/// A claim whose outcome is not known yet.
struct OpenClaim {
    waiter: Waiter,
    /// Whether Postgres, when last asked, could not even say that the claim is still queued.
    unproven: bool,
}

impl Resolver {
    /// Looks up each batch that arrives, until nobody can send any more.
    pub(crate) async fn run(self, mut batches: mpsc::Receiver<UnansweredBatch>) {
        while let Some(batch) = batches.recv().await {
            let resolver = self.clone();
            self.tasks.spawn(async move { resolver.resolve(batch).await });
        }
    }

    /// Asks Postgres at once, and again until the deadline: the claims may be applied meanwhile, though their reply
    /// cannot come any more.
    async fn resolve(&self, mut batch: UnansweredBatch) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut open: Vec<OpenClaim> =
            batch.waiters.drain(..).map(|waiter| OpenClaim { waiter, unproven: false }).collect();
        loop {
            if self.availability.postgres() {
                self.look_up(&batch, &mut open).await;
            }
            let left = batch.deadline.saturating_duration_since(Instant::now());
            if open.is_empty() || left.is_zero() {
                break;
            }
            tokio::time::sleep(backoff.delay().min(left)).await;
        }
        let receipt = batch.receipt.filter(|receipt| receipt.generation != receipt::UNPROVEN);
        for OpenClaim { waiter, unproven } in open {
            waiter.answer(match receipt {
                Some(receipt) if !unproven => Answer::Pending(receipt),
                _ => Answer::Unavailable(Unavailable::OutcomeUnknown),
            });
        }
    }

    /// Answers the claims of which Postgres proves what became of them.
    async fn look_up(&self, batch: &UnansweredBatch, open: &mut Vec<OpenClaim>) {
        let Some(first) = open.first() else { return };
        let partition = PartitionId::of(&first.waiter.claim.coupon_name, self.partitions);
        let claims = open.iter().map(|open| &open.waiter.claim);
        let pairs: Vec<_> = claims.map(|claim| (&claim.coupon_name, &claim.user_id)).collect();
        let until = batch.deadline.max(Instant::now()) + LOOKUP_TIMEOUT;
        let permit = tokio::time::timeout_at(until.into(), self.lookup_permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return };
        let limit = LOOKUP_TIMEOUT.min(until.saturating_duration_since(Instant::now()));
        let question = store::ask(&self.pool, limit, async |connection| {
            store::claim_states(connection, partition, &pairs).await
        });
        let states = match question.await {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(%partition, %error, "claims not looked up");
                return;
            }
        };
        for (OpenClaim { waiter, .. }, state) in std::mem::take(open).into_iter().zip(states) {
            match receipt::judge(waiter.claim.claim_id, batch.receipt, &state) {
                Verdict::Known(outcome) => waiter.answer(Answer::Outcome(outcome)),
                Verdict::Queued => open.push(OpenClaim { waiter, unproven: false }),
                Verdict::Unproven => open.push(OpenClaim { waiter, unproven: true }),
            }
        }
    }
}
