//! Refusals without the queue: when nothing is left of a coupon, most of those who ask can be told
//! so by Postgres alone, many at a time.
//!
//! For a coupon known to be sold out the process remembers the version of its row and who won. A
//! claim of anyone else waits at the desk; while one question to Postgres is under way the next
//! claims gather, and one question serves them all: is the row still that version? If it is,
//! nothing was left after the claim arrived, and the refusal is exact. If not, or if the user may
//! be among the winners, the claim goes its usual way through the queue. Nothing is concluded from
//! memory alone, so that a change made by hand is seen by the next claim.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use common::ids::{CouponName, UserId};
use common::message::Outcome;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::claims::inbox::{Answer, Waiter};
use crate::store::{self, CouponVersion, PAGE_WINNERS_MAX};

/// How long one question to Postgres may take; then the claims go through the queue.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Claims that one question answers at most.
const QUESTION_CLAIMS_MAX: usize = 10_000;

/// Sold-out coupons whose winners wait to be read.
const LESSONS_MAX: usize = 64;

/// How long a coupon's winners are remembered at least.
const KEPT_MIN: Duration = Duration::from_secs(60);

/// How long nothing is asked after a question that failed: a server that cannot be had is not helped by asking it
/// hundreds of times a second. All claims take the usual way meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a coupon whose winners could not be remembered is not tried again. Every refusal by the queue would
/// have them looked for anew.
const PASSED_OVER: Duration = Duration::from_secs(5);

/// Coupons that are passed over at the same time; beyond that, some are tried too often.
const PASSED_OVER_MAX: usize = 10_000;

/// What a coupon costs beside its winners: about that many times a winner's bytes.
const ENTRY_WEIGHT: usize = 32;

/// A claim at the desk, and the version of its coupon that it was judged by.
pub(crate) struct Visitor {
    waiter: Waiter,
    version: CouponVersion,
}

/// A sold-out coupon.
struct SoldOut {
    version: CouponVersion,
    learnt: Instant,
    /// Fingerprints of the winners. Two users may share one; then the queue tells them apart.
    winners: HashSet<u64, BuildHasherDefault<Identity>>,
}

/// A fingerprint is a hash already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are written as u64");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

impl SoldOut {
    /// Its winners, and its own entry as if it were a few.
    fn weight(&self) -> usize {
        self.winners.len() + ENTRY_WEIGHT
    }
}

#[derive(Default)]
struct Known {
    coupons: HashMap<CouponName, Arc<SoldOut>>,
    /// In the order in which they were learnt, and when, to forget the oldest.
    order: VecDeque<(CouponName, Instant)>,
    /// Those that could not be remembered, and until when they are not tried again.
    passed_over: HashMap<CouponName, Instant>,
    /// What they weigh, all together, in winners.
    weight: usize,
}

/// The desk at which claims of sold-out coupons are refused.
#[derive(Clone)]
pub(crate) struct Desk {
    known: Arc<RwLock<Known>>,
    fingerprints: RandomState,
    visitors: mpsc::Sender<Visitor>,
    lessons: mpsc::Sender<CouponName>,
    /// Winners remembered of all coupons together.
    winners_max: usize,
}

impl Desk {
    /// A desk that knows nothing yet, and what its two tasks, [`serve`](Self::serve) and
    /// [`learn`](Self::learn), receive.
    pub(crate) fn new(
        in_flight_claims_max: usize,
        winners_max: usize,
    ) -> (Self, mpsc::Receiver<Visitor>, mpsc::Receiver<CouponName>) {
        let (visitors, visitors_receiver) = mpsc::channel(in_flight_claims_max);
        let (lessons, lessons_receiver) = mpsc::channel(LESSONS_MAX);
        let desk =
            Self { known: Arc::default(), fingerprints: RandomState::new(), visitors, lessons, winners_max };
        (desk, visitors_receiver, lessons_receiver)
    }

    /// Takes a claim that can be refused here; gives back one that has to go through the queue.
    pub(crate) fn take(&self, waiter: Waiter) -> Result<(), Waiter> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(coupon) = known.coupons.get(&waiter.claim.coupon_name) else { return Err(waiter) };
        if coupon.winners.contains(&self.fingerprint(&waiter.claim.user_id)) {
            return Err(waiter);
        }
        let version = coupon.version;
        drop(known);
        self.visitors.try_send(Visitor { waiter, version }).map_err(|error| error.into_inner().waiter)
    }

    /// Learns from an outcome: the winners of a coupon that is sold out are worth reading.
    pub(crate) fn hear(&self, coupon_name: &CouponName, outcome: Outcome) {
        if outcome != Outcome::SoldOut || self.winners_max == 0 {
            return;
        }
        if self.is_worth_learning(coupon_name) {
            // Full: the next outcome says it again.
            let _ = self.lessons.try_send(coupon_name.clone());
        }
    }

    fn is_worth_learning(&self, coupon_name: &CouponName) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_passed_over =
            || known.passed_over.get(coupon_name).is_some_and(|until| *until > Instant::now());
        !known.coupons.contains_key(coupon_name) && !is_passed_over()
    }

    fn pass_over(&self, coupon_name: CouponName) {
        let now = Instant::now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.passed_over.len() >= PASSED_OVER_MAX {
            known.passed_over.retain(|_, until| *until > now);
        }
        if known.passed_over.len() < PASSED_OVER_MAX {
            known.passed_over.insert(coupon_name, now + PASSED_OVER);
        }
    }

    fn fingerprint(&self, user_id: &UserId) -> u64 {
        self.fingerprints.hash_one(user_id.as_str())
    }

    fn forget(&self, coupon_name: &CouponName, version: CouponVersion) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.coupons.get(coupon_name).is_some_and(|coupon| coupon.version == version) {
            known.remove(coupon_name);
        }
    }

    /// Answers visitors until `stop`; hands those that are not to be refused to `queue`.
    pub(crate) async fn serve(
        self,
        mut visitors: mpsc::Receiver<Visitor>,
        database: PgConnectOptions,
        queue: impl Fn(Waiter),
        stop: CancellationToken,
    ) {
        let mut waiting = Vec::new();
        let mut connection = None;
        let mut closed_until = None;
        while let Some(1..) =
            stop.run_until_cancelled(visitors.recv_many(&mut waiting, QUESTION_CLAIMS_MAX)).await
        {
            if closed_until.is_some_and(|until| Instant::now() < until) {
                waiting.drain(..).for_each(|visitor| queue(visitor.waiter));
                continue;
            }
            let mut names: Vec<&CouponName> =
                waiting.iter().map(|visitor| &visitor.waiter.claim.coupon_name).collect();
            names.sort_unstable();
            names.dedup();
            let question = ask(&database, &mut connection, &names);
            let versions = match tokio::time::timeout(QUESTION_TIMEOUT, question).await {
                Ok(Ok(versions)) => Some(versions),
                failed => {
                    tracing::warn!(?failed, "sold-out coupons not looked at; their claims are queued");
                    // Whatever it is waiting for, it is not used again.
                    connection = None;
                    closed_until = Some(Instant::now() + PAUSE);
                    None
                }
            };
            for visitor in waiting.drain(..) {
                let coupon_name = &visitor.waiter.claim.coupon_name;
                match &versions {
                    Some(versions) if versions.get(coupon_name.as_str()) == Some(&visitor.version) => {
                        visitor.waiter.answer(Answer::Outcome(Outcome::SoldOut));
                        continue;
                    }
                    Some(_) => self.forget(coupon_name, visitor.version),
                    // Not looked at is not changed.
                    None => {}
                }
                queue(visitor.waiter);
            }
        }
        // Whoever is still here takes the usual way.
        visitors.close();
        while let Ok(visitor) = visitors.try_recv() {
            queue(visitor.waiter);
        }
    }

    /// Reads the winners of sold-out coupons until `stop`.
    pub(crate) async fn learn(
        self,
        mut lessons: mpsc::Receiver<CouponName>,
        pool: PgPool,
        stop: CancellationToken,
    ) {
        while let Some(Some(coupon_name)) = stop.run_until_cancelled(lessons.recv()).await {
            if !self.is_worth_learning(&coupon_name) {
                continue;
            }
            match self.read(&pool, &coupon_name).await {
                Ok(Some(coupon)) => self.remember(coupon_name, coupon),
                Ok(None) => self.pass_over(coupon_name),
                Err(error) => {
                    tracing::debug!(%error, "winners of a sold-out coupon not read");
                    self.pass_over(coupon_name);
                }
            }
        }
    }

    async fn read(&self, pool: &PgPool, name: &CouponName) -> sqlx::Result<Option<SoldOut>> {
        let ask_version =
            || store::ask(pool, QUESTION_TIMEOUT, async |connection| version(connection, name).await);
        let Some(before) = ask_version().await? else { return Ok(None) };
        if usize::try_from(before.last_position).is_ok_and(|count| !self.has_room_for(count)) {
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
        let same = ask_version().await? == Some(before);
        Ok(same.then_some(SoldOut { version: before, learnt: Instant::now(), winners }))
    }

    /// Whether a coupon of so many winners can be remembered, once those have been forgotten that may be. All
    /// that are claimed at the same time may be too many: then some of them go through the queue, rather than
    /// that each is read again and again in place of the others.
    fn has_room_for(&self, winners: usize) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let kept = known.coupons.values().filter(|coupon| coupon.learnt.elapsed() < KEPT_MIN);
        kept.map(|coupon| coupon.weight()).sum::<usize>() + winners + ENTRY_WEIGHT <= self.winners_max
    }

    fn remember(&self, name: CouponName, coupon: SoldOut) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(&name);
        known.passed_over.remove(&name);
        known.weight += coupon.weight();
        known.order.push_back((name.clone(), coupon.learnt));
        known.coupons.insert(name, Arc::new(coupon));
        while known.weight > self.winners_max
            && let Some((oldest, learnt)) = known.order.pop_front()
        {
            if known.is(&oldest, learnt) {
                known.remove(&oldest);
            }
        }
        // Names that were forgotten out of turn, and learnt again, stand here twice.
        if known.order.len() > 2 * known.coupons.len() + LESSONS_MAX {
            let mut order = std::mem::take(&mut known.order);
            order.retain(|(name, learnt)| known.is(name, *learnt));
            known.order = order;
        }
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

impl Known {
    /// Whether what is known of a coupon is what was learnt then.
    fn is(&self, name: &CouponName, learnt: Instant) -> bool {
        self.coupons.get(name).is_some_and(|coupon| coupon.learnt == learnt)
    }

    fn remove(&mut self, name: &CouponName) {
        if let Some(coupon) = self.coupons.remove(name) {
            self.weight -= coupon.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use common::ids::ClaimId;
    use common::message::Claim;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    fn coupon(winners: u64, learnt: Instant) -> SoldOut {
        let version = CouponVersion { transaction: 1, last_position: winners as i64 };
        SoldOut { version, learnt, winners: (0..winners).collect() }
    }

    fn name(name: &str) -> CouponName {
        CouponName::new(name).unwrap()
    }

    #[test]
    fn what_was_learnt_just_now_is_not_forgotten_for_another() {
        let (desk, _visitors, _lessons) = Desk::new(1, 200);
        assert!(desk.has_room_for(168));
        assert!(!desk.has_room_for(169), "it would be forgotten at once");
        desk.remember(name("a"), coupon(100, Instant::now()));
        assert!(desk.has_room_for(36));
        assert!(!desk.has_room_for(37));
    }

    #[test]
    fn what_was_learnt_anew_is_the_youngest() {
        let (desk, _visitors, _lessons) = Desk::new(1, 3 * (10 + ENTRY_WEIGHT));
        let now = Instant::now();
        desk.remember(name("a"), coupon(10, now - 3 * KEPT_MIN));
        desk.remember(name("b"), coupon(10, now - 2 * KEPT_MIN));
        // Its version has changed meanwhile.
        desk.forget(&name("a"), CouponVersion { transaction: 1, last_position: 10 });
        desk.remember(name("a"), coupon(10, now));
        desk.remember(name("c"), coupon(10, now));
        desk.remember(name("d"), coupon(10, now));
        let known = desk.known.read().unwrap();
        let mut names: Vec<_> = known.coupons.keys().map(CouponName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c", "d"]);
    }

    #[test]
    fn what_cannot_be_remembered_is_not_tried_again_at_once() {
        let (desk, _visitors, mut lessons) = Desk::new(1, 200);
        desk.hear(&name("a"), Outcome::SoldOut);
        assert_eq!(lessons.try_recv(), Ok(name("a")));
        desk.pass_over(name("a"));
        desk.hear(&name("a"), Outcome::SoldOut);
        assert!(lessons.try_recv().is_err());
        desk.hear(&name("b"), Outcome::SoldOut);
        assert_eq!(lessons.try_recv(), Ok(name("b")));
    }

    #[tokio::test]
    async fn after_a_question_that_failed_none_is_asked_for_a_while() {
        const CLAIMS: usize = 20;
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let database = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port);
        let (desk, visitors, _lessons) = Desk::new(CLAIMS, 200);
        desk.remember(name("a"), coupon(10, Instant::now()));
        let (queued, mut claims) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let queue = move |waiter: Waiter| queued.send(waiter).unwrap();
        let serving = tokio::spawn(desk.clone().serve(visitors, database, queue, stop.clone()));
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
            assert!(desk.take(waiter).is_ok());
            assert!(claims.recv().await.is_some(), "it takes the usual way");
        }
        let paused = started.elapsed().as_secs_f64() / PAUSE.as_secs_f64();
        let questions = questions.load(Ordering::Relaxed);
        assert!((1..=1 + paused as usize).contains(&questions), "{questions} within {paused} pauses");
        stop.cancel();
        serving.await.unwrap();
        refusing.abort();
    }

    #[test]
    fn what_was_learnt_a_while_ago_makes_room() {
        let (desk, _visitors, _lessons) = Desk::new(1, 200);
        let before = Instant::now() - KEPT_MIN;
        desk.remember(name("a"), coupon(100, before));
        assert!(desk.has_room_for(168));
        desk.remember(name("b"), coupon(168, Instant::now()));
        let known = desk.known.read().unwrap();
        assert_eq!(known.coupons.keys().collect::<Vec<_>>(), [&name("b")]);
        assert_eq!(known.weight, 200);
    }
}
