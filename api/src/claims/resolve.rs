//! What became of claims whose answer did not come: Postgres knows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::backoff::Backoff;
use common::partition::PartitionId;
use sqlx::PgPool;
use tokio_util::task::TaskTracker;

use crate::claims::inbox::{Answer, Pending, Waiter};
use crate::claims::receipt::{self, Verdict};
use crate::health::Health;
use crate::http::problem::Unavailable;
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

/// A claim whose outcome is not known yet.
struct Open {
    waiter: Waiter,
    /// Whether Postgres, when last asked, could not even say that it is still queued.
    unproven: bool,
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
        let mut open: Vec<Open> =
            pending.waiters.drain(..).map(|waiter| Open { waiter, unproven: false }).collect();
        loop {
            if self.health.postgres() {
                self.look_up(&pending, &mut open).await;
            }
            let left = pending.deadline.saturating_duration_since(Instant::now());
            if open.is_empty() || left.is_zero() {
                break;
            }
            tokio::time::sleep(backoff.delay().min(left)).await;
        }
        let receipt = pending.receipt.filter(|receipt| receipt.generation != receipt::UNPROVEN);
        for Open { waiter, unproven } in open {
            waiter.answer(match receipt {
                Some(receipt) if !unproven => Answer::Pending(receipt),
                _ => Answer::Unavailable(Unavailable::OutcomeUnknown),
            });
        }
    }

    /// Answers the claims of which Postgres proves what became of them.
    async fn look_up(&self, pending: &Pending, open: &mut Vec<Open>) {
        let Some(first) = open.first() else { return };
        let partition = PartitionId::of(&first.waiter.claim.coupon_name, self.partitions);
        let claims = open.iter().map(|open| &open.waiter.claim);
        let pairs: Vec<_> = claims.map(|claim| (&claim.coupon_name, &claim.user_id)).collect();
        let until = pending.deadline.max(Instant::now()) + LOOKUP_TIMEOUT;
        let permit = tokio::time::timeout_at(until.into(), self.lookups.acquire()).await;
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
        for (Open { waiter, .. }, state) in std::mem::take(open).into_iter().zip(states) {
            match receipt::judge(waiter.claim.claim_id, pending.receipt, &state) {
                Verdict::Known(outcome) => waiter.answer(Answer::Outcome(outcome)),
                Verdict::Queued => open.push(Open { waiter, unproven: false }),
                Verdict::Unproven => open.push(Open { waiter, unproven: true }),
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
