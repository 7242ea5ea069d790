//! What became of claims whose answer did not come: Postgres knows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::backoff::Backoff;
use common::partition::PartitionId;
use sqlx::PgPool;
use tokio_util::task::TaskTracker;

use crate::health::Health;
use crate::inbox::{Answer, Pending, Waiter};
use crate::problem::Unavailable;
use crate::receipt::{self, Verdict};
use crate::store;

/// How long one look-up may take, and by how much the last one may exceed the deadline.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks up batches in tasks of its own, which are never cancelled: each ends at its deadline.
#[derive(Clone)]
pub(crate) struct Resolver {
    pub(crate) pool: PgPool,
    pub(crate) health: Arc<Health>,
    pub(crate) partitions: u32,
    pub(crate) tasks: TaskTracker,
    /// Look-ups under way at the same time; the others wait, within their deadlines.
    pub(crate) lookups: Arc<tokio::sync::Semaphore>,
}

impl Resolver {
    /// Starts to look a batch up.
    pub(crate) fn resolve(&self, pending: Pending) {
        let resolver = self.clone();
        self.tasks.spawn(async move { resolver.run(pending).await });
    }

    /// Asks Postgres at once, and again until the deadline: the claims may be applied meanwhile,
    /// though their reply cannot come any more.
    async fn run(&self, mut pending: Pending) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        loop {
            if self.health.postgres() {
                self.look_up(&mut pending).await;
            }
            let left = pending.deadline.saturating_duration_since(Instant::now());
            if pending.waiters.is_empty() || left.is_zero() {
                break;
            }
            tokio::time::sleep(backoff.delay().min(left)).await;
        }
        let rest = match pending.receipt {
            Some(receipt) if receipt.generation != receipt::UNPROVEN => Answer::Pending(receipt),
            _ => Answer::Unavailable(Unavailable::OutcomeUnknown),
        };
        for waiter in pending.waiters {
            waiter.answer(rest);
        }
    }

    /// Answers the claims of which Postgres proves what became of them.
    async fn look_up(&self, pending: &mut Pending) {
        let Some(first) = pending.waiters.first() else { return };
        let partition = PartitionId::of(&first.claim.coupon_name, self.partitions);
        let pairs: Vec<_> =
            pending.waiters.iter().map(|waiter| (&waiter.claim.coupon_name, &waiter.claim.user_id)).collect();
        let patience = pending.deadline.saturating_duration_since(Instant::now()) + LOOKUP_TIMEOUT;
        let Ok(Ok(_permit)) = tokio::time::timeout(patience, self.lookups.acquire()).await else { return };
        let question = store::ask(&self.pool, LOOKUP_TIMEOUT, async |connection| {
            store::claim_states(connection, partition, &pairs).await
        });
        let states = match question.await {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(%partition, %error, "claims not looked up");
                return;
            }
        };
        let waiters = std::mem::take(&mut pending.waiters);
        for (waiter, state) in waiters.into_iter().zip(states) {
            match receipt::judge(waiter.claim.claim_id, pending.receipt, &state) {
                Verdict::Known(outcome) => waiter.answer(Answer::Outcome(outcome)),
                Verdict::Queued | Verdict::Unproven => pending.waiters.push(waiter),
            }
        }
    }
}

/// Answers all with the same.
pub(crate) fn answer_all(waiters: impl IntoIterator<Item = Waiter>, answer: Answer) {
    for waiter in waiters {
        waiter.answer(answer);
    }
}
