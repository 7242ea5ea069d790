//! Refusals without the queue: when nothing is left of a coupon, Postgres alone can tell most of those who ask, many
//! at a time.
//!
//! The cache holds the version of each sold-out coupon's row and who won it. A claim of anyone else waits as a
//! [`PendingRefusal`]; while one question to Postgres is under way the next claims gather, and one question serves
//! them all: is the row still that version? If it is, nothing was left after the claim arrived, and the refusal is
//! exact. If it is not, if the question fails, or if the user may be among the winners, the claim goes through the
//! queue. Nothing is concluded from memory alone, so a change made by hand is seen by the next claim.

mod sold_out;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use common::ids::{CouponName, UserId};
use common::message::Outcome;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::claims::answer::Answer;
use crate::claims::waiter::Waiter;
use crate::store::{self, CouponVersion, PAGE_WINNERS_MAX};
use sold_out::{SoldOut, SoldOutCoupons};

/// How long one question to Postgres may take; then the claims go through the queue.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Claims that one question answers at most.
const QUESTION_CLAIMS_MAX: usize = 10_000;

/// How long nothing is asked after a question that failed: a server that is away is not helped by hundreds of questions
/// a second. All claims go through the queue meanwhile.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Sold-out coupons whose winners wait to be read.
const REFRESHES_MAX: usize = 64;

/// A claim that waits for a refusal, and the version of its coupon that it waits by.
pub(crate) struct PendingRefusal {
    waiter: Waiter,
    version: CouponVersion,
}

/// Refuses claims of coupons that are sold out.
#[derive(Clone)]
pub(crate) struct RefusalCache {
    sold_out: Arc<RwLock<SoldOutCoupons>>,
    fingerprints: RandomState,
    pending: mpsc::Sender<PendingRefusal>,
    refreshes: mpsc::Sender<CouponName>,
}

/// What the cache's two tasks receive.
pub(crate) struct Receivers {
    pub(crate) pending: mpsc::Receiver<PendingRefusal>,
    pub(crate) refreshes: mpsc::Receiver<CouponName>,
}

impl RefusalCache {
    /// An empty cache with room for `pending_max` claims at a time and `winners_max` winners, and what its tasks,
    /// [`serve`](Self::serve) and [`refresh`](Self::refresh), receive.
    pub(crate) fn new(pending_max: usize, winners_max: usize) -> (Self, Receivers) {
        let (pending, pending_receiver) = mpsc::channel(pending_max);
        let (refreshes, refreshes_receiver) = mpsc::channel(REFRESHES_MAX);
        let sold_out = Arc::new(RwLock::new(SoldOutCoupons::new(winners_max)));
        let cache = Self { sold_out, fingerprints: RandomState::new(), pending, refreshes };
        (cache, Receivers { pending: pending_receiver, refreshes: refreshes_receiver })
    }

    /// Takes a claim that can be refused here.
    ///
    /// # Errors
    /// Gives back a claim that has to go through the queue.
    pub(crate) fn take(&self, waiter: Waiter) -> Result<(), Waiter> {
        let version = match self.read().get(&waiter.claim.coupon_name) {
            Some(coupon) if !coupon.winners.contains(&self.fingerprint(&waiter.claim.user_id)) => {
                coupon.version
            }
            _ => return Err(waiter),
        };
        self.pending.try_send(PendingRefusal { waiter, version }).map_err(|error| error.into_inner().waiter)
    }

    /// Learns from an outcome of the queue: the winners of a coupon that is sold out are worth reading.
    pub(crate) fn observe(&self, coupon_name: &CouponName, outcome: Outcome) {
        if outcome == Outcome::SoldOut && self.read().is_worth_reading(coupon_name) {
            // Full: the next outcome says it again.
            let _ = self.refreshes.try_send(coupon_name.clone());
        }
    }

    /// Answers pending refusals until `stop`; hands those that are not to be refused to `queue`.
    pub(crate) async fn serve(
        self,
        mut pending: mpsc::Receiver<PendingRefusal>,
        database: PgConnectOptions,
        queue: impl Fn(Waiter),
        stop: CancellationToken,
    ) {
        let mut waiting = Vec::new();
        let mut connection = None;
        let mut paused_until = None;
        while let Some(1..) =
            stop.run_until_cancelled(pending.recv_many(&mut waiting, QUESTION_CLAIMS_MAX)).await
        {
            if paused_until.is_some_and(|until| Instant::now() < until) {
                waiting.drain(..).for_each(|refusal| queue(refusal.waiter));
                continue;
            }
            let versions = self.current_versions(&database, &mut connection, &waiting).await;
            if versions.is_none() {
                paused_until = Some(Instant::now() + PAUSE_AFTER_FAILURE);
            }
            for refusal in waiting.drain(..) {
                self.refuse_or_queue(refusal, versions.as_ref(), &queue);
            }
        }
        // Claims that still wait go through the queue.
        pending.close();
        while let Ok(refusal) = pending.try_recv() {
            queue(refusal.waiter);
        }
    }

    /// Asks Postgres for the versions of the coupons of all who wait; none after a failure.
    async fn current_versions(
        &self,
        database: &PgConnectOptions,
        connection: &mut Option<PgConnection>,
        waiting: &[PendingRefusal],
    ) -> Option<HashMap<String, CouponVersion>> {
        let mut names: Vec<&CouponName> =
            waiting.iter().map(|refusal| &refusal.waiter.claim.coupon_name).collect();
        names.sort_unstable();
        names.dedup();
        match tokio::time::timeout(QUESTION_TIMEOUT, ask(database, connection, &names)).await {
            Ok(Ok(versions)) => Some(versions),
            failed => {
                tracing::warn!(?failed, "sold-out coupons not looked at; their claims are queued");
                // A connection that failed, or may still be waiting, is not used again.
                *connection = None;
                None
            }
        }
    }

    fn refuse_or_queue(
        &self,
        refusal: PendingRefusal,
        versions: Option<&HashMap<String, CouponVersion>>,
        queue: impl Fn(Waiter),
    ) {
        let PendingRefusal { waiter, version } = refusal;
        let coupon_name = &waiter.claim.coupon_name;
        if let Some(versions) = versions {
            if versions.get(coupon_name.as_str()) == Some(&version) {
                waiter.answer(Answer::Outcome(Outcome::SoldOut));
                return;
            }
            self.write().remove_version(coupon_name, version);
        }
        queue(waiter);
    }

    /// Reads the winners of sold-out coupons until `stop`.
    pub(crate) async fn refresh(
        self,
        mut refreshes: mpsc::Receiver<CouponName>,
        pool: PgPool,
        stop: CancellationToken,
    ) {
        while let Some(Some(coupon_name)) = stop.run_until_cancelled(refreshes.recv()).await {
            if !self.read().is_worth_reading(&coupon_name) {
                continue;
            }
            let read = self.read_coupon(&pool, &coupon_name).await;
            if let Err(error) = &read {
                tracing::debug!(%error, "winners of a sold-out coupon not read");
            }
            match read {
                Ok(Some(coupon)) => self.write().insert(coupon_name, coupon),
                Ok(None) | Err(_) => self.write().retry_later(coupon_name),
            }
        }
    }

    /// Reads a coupon's version and winners; none if it is not sold out, has too many winners, or changed meanwhile.
    async fn read_coupon(&self, pool: &PgPool, name: &CouponName) -> sqlx::Result<Option<SoldOut>> {
        let ask_version =
            || store::ask(pool, QUESTION_TIMEOUT, async |connection| version(connection, name).await);
        let Some(before) = ask_version().await? else { return Ok(None) };
        if usize::try_from(before.last_position).is_ok_and(|count| !self.read().has_room_for(count)) {
            return Ok(None);
        }
        let mut winners = HashSet::default();
        let mut next = Some(i64::MIN);
        while let Some(after) = next {
            let page = store::ask(pool, QUESTION_TIMEOUT, async |connection| {
                store::winners(connection, name, after, before.last_position, PAGE_WINNERS_MAX).await
            });
            let page = page.await?;
            winners.extend(page.user_ids.iter().map(|user| self.fingerprints.hash_one(user.as_str())));
            next = page.next;
        }
        // The same version afterwards: these are all the winners there are.
        let unchanged = ask_version().await? == Some(before);
        Ok(unchanged.then_some(SoldOut { version: before, read_at: Instant::now(), winners }))
    }

    fn fingerprint(&self, user_id: &UserId) -> u64 {
        self.fingerprints.hash_one(user_id.as_str())
    }

    fn read(&self) -> RwLockReadGuard<'_, SoldOutCoupons> {
        self.sold_out.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, SoldOutCoupons> {
        self.sold_out.write().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    database: &PgConnectOptions,
    connection: &mut Option<PgConnection>,
    names: &[&CouponName],
) -> sqlx::Result<HashMap<String, CouponVersion>> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(database.connect().await?),
    };
    store::versions(connection, names).await
}

async fn version(connection: &mut PgConnection, name: &CouponName) -> sqlx::Result<Option<CouponVersion>> {
    Ok(store::versions(connection, &[name]).await?.remove(name.as_str()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use common::ids::ClaimId;
    use common::message::Claim;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    fn name(name: &str) -> CouponName {
        CouponName::new(name).unwrap()
    }

    #[test]
    fn only_a_sold_out_coupon_is_read_and_not_when_nothing_may_be_remembered() {
        let (cache, mut receivers) = RefusalCache::new(1, 200);
        cache.observe(&name("a"), Outcome::AlreadyClaimed);
        assert!(receivers.refreshes.try_recv().is_err());
        cache.observe(&name("a"), Outcome::SoldOut);
        assert_eq!(receivers.refreshes.try_recv(), Ok(name("a")));
        let (cache, mut receivers) = RefusalCache::new(1, 0);
        cache.observe(&name("a"), Outcome::SoldOut);
        assert!(receivers.refreshes.try_recv().is_err());
    }

    #[tokio::test]
    async fn after_a_question_that_failed_none_is_asked_for_a_while() {
        const CLAIMS: usize = 20;
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let database = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port);
        let (cache, receivers) = RefusalCache::new(CLAIMS, 200);
        let version = CouponVersion { transaction: 1, last_position: 10 };
        let coupon = SoldOut { version, read_at: Instant::now(), winners: (0..10).collect() };
        cache.write().insert(name("a"), coupon);
        let (queued, mut claims) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let queue = move |waiter: Waiter| queued.send(waiter).unwrap();
        let serving = tokio::spawn(cache.clone().serve(receivers.pending, database, queue, stop.clone()));
        let questions = Arc::new(AtomicUsize::new(0));
        let counted = questions.clone();
        // It takes the connection and closes it.
        let refusing = tokio::spawn(async move {
            while server.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });

        let started = Instant::now();
        let permits = Arc::new(Semaphore::new(1));
        for number in 0..CLAIMS {
            let claim = Claim {
                claim_id: ClaimId::random(),
                user_id: UserId::new(&format!("u{number}")).unwrap(),
                coupon_name: name("a"),
            };
            let permit = permits.clone().acquire_owned().await.unwrap();
            let (waiter, _answer) = Waiter::new(Arc::new(claim), started, permit);
            assert!(cache.take(waiter).is_ok());
            assert!(claims.recv().await.is_some(), "the claim goes through the queue");
        }
        let pauses = started.elapsed().as_secs_f64() / PAUSE_AFTER_FAILURE.as_secs_f64();
        let questions = questions.load(Ordering::Relaxed);
        assert!((1..=1 + pauses as usize).contains(&questions), "{questions} within {pauses} pauses");
        stop.cancel();
        serving.await.unwrap();
        refusing.abort();
    }
}
