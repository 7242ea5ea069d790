//! A wish and all requests that it takes.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;
use uuid::Uuid;

use super::http::{Connection, Request};
use super::{Crowd, Plan};
use crate::history::{Endpoint, Op, OpId, Verdict};

/// How long most requests are waited for: longer than any API takes.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Pauses between two attempts.
const RETRY_MS: std::ops::RangeInclusive<u64> = 20..=300;

/// Look-ups of one receipt before the claim itself is sent again.
const LOOKUPS_MAX: u32 = 20;

/// What a client wants.
#[derive(Debug, Clone)]
pub(super) enum Wish {
    Create { coupon: usize },
    Claim { coupon: usize, user: String, key: Option<String>, settles: bool },
    Lookup { coupon: usize, user: String },
    Show { coupon: usize },
}

impl Wish {
    /// Something new.
    pub(super) fn draw(plan: &Plan, client: u32, fresh: u64, rng: &mut StdRng) -> Self {
        let coupon = plan.pick(rng);
        match rng.random_range(0..100) {
            0..3 => Self::Show { coupon },
            3..5 => Self::Lookup { coupon, user: format!("user {client}.{}", rng.random_range(0..=fresh)) },
            roll => {
                // Few users for some claims, so that clients meet over one user as well.
                let user = match rng.random_range(0..10) {
                    0 => format!("shared {}", rng.random_range(0..50)),
                    _ => format!("user {client}.{fresh}"),
                };
                let key = (roll < 65).then(|| Uuid::from_u128(rng.random()).to_string());
                let settles = key.is_some() || roll < 85;
                Self::Claim { coupon, user, key, settles }
            }
        }
    }

    /// The same once more, with the same key or without one.
    pub(super) fn again(self, rng: &mut StdRng) -> Self {
        match self {
            Self::Claim { coupon, user, key, .. } => {
                let key = key.filter(|_| rng.random_bool(0.6));
                Self::Claim { coupon, user, key, settles: true }
            }
            other => other,
        }
    }

    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Create { .. } => Endpoint::Create,
            Self::Claim { .. } => Endpoint::Claim,
            Self::Lookup { .. } => Endpoint::Lookup,
            Self::Show { .. } => Endpoint::Show,
        }
    }

    fn settles(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Claim { settles, .. } => *settles,
            Self::Lookup { .. } | Self::Show { .. } => false,
        }
    }
}

/// One client at work on one wish after the other.
pub(super) struct Chain<'a> {
    crowd: &'a Crowd,
    client: u32,
    rng: &'a mut StdRng,
    connection: Connection,
}

/// What is known of a wish so far.
struct Progress {
    root: Option<OpId>,
    attempt: u32,
    last: Option<OpId>,
}

impl<'a> Chain<'a> {
    pub(super) fn new(crowd: &'a Crowd, client: u32, rng: &'a mut StdRng) -> Self {
        Self { crowd, client, rng, connection: Connection::default() }
    }

    /// Sends requests until there is a definite answer, if the wish is one that has to be settled.
    pub(super) async fn settle(&mut self, wish: Wish) -> anyhow::Result<()> {
        let mut progress = Progress { root: None, attempt: 0, last: None };
        loop {
            let request = self.request(&wish);
            let op = self.send(&wish, wish.endpoint(), request, &mut progress, None).await?;
            let verdict = match op.verdict() {
                Verdict::Pending if wish.settles() => self.follow(&wish, op, &mut progress).await?,
                verdict => verdict,
            };
            if !wish.settles() || verdict.is_definite() || !self.crowd.is_patient() {
                return Ok(());
            }
            self.pause().await;
        }
    }

    /// Asks where a 202 points until that says what became of the claim, or to send it again.
    async fn follow(&mut self, wish: &Wish, claim: Op, progress: &mut Progress) -> anyhow::Result<Verdict> {
        let mut location = claim.response().and_then(|response| response.location.clone());
        for _ in 0..LOOKUPS_MAX {
            let Some(path) = location.clone() else { break };
            self.pause().await;
            let request = Request { method: "GET", path, key: None, body: None };
            let op = self.send(wish, Endpoint::Lookup, request, progress, Some(claim.id)).await?;
            match op.verdict() {
                Verdict::Pending => {
                    let fresh = op.response().and_then(|response| response.location.clone());
                    location = fresh.or(location);
                }
                // Away, or out of reach: the receipt is still good.
                Verdict::Unknown => {}
                verdict => return Ok(verdict),
            }
            if !self.crowd.is_patient() {
                break;
            }
        }
        Ok(Verdict::Pending)
    }

    async fn send(
        &mut self,
        wish: &Wish,
        endpoint: Endpoint,
        request: Request,
        progress: &mut Progress,
        receipt_of: Option<OpId>,
    ) -> anyhow::Result<Op> {
        let log = &self.crowd.log;
        let timeout = match self.rng.random_range(0..10) {
            0 => Duration::from_millis(self.rng.random_range(30..600)),
            _ => TIMEOUT,
        };
        if self.rng.random_bool(0.2) || !self.connection.is_open() {
            let address = self.rng.random_range(0..self.crowd.addresses.len());
            self.connection.switch(self.crowd.addresses[address]);
        }
        let id = log.next_op();
        let root = *progress.root.get_or_insert(id);
        progress.attempt += 1;
        let (coupon, user, amount) = match wish {
            Wish::Create { coupon } => (*coupon, None, Some(self.crowd.plan.coupons[*coupon].amount.into())),
            Wish::Claim { coupon, user, .. } | Wish::Lookup { coupon, user } => {
                (*coupon, Some(user.clone()), None)
            }
            Wish::Show { coupon } => (*coupon, None, None),
        };
        let key = request.key.clone();
        let start_us = log.now_us();
        let answer = self.connection.send(&request, timeout).await;
        let op = Op {
            id,
            root,
            // A look-up follows the claim whose receipt it carries; a repetition what came before it.
            follows: if endpoint == Endpoint::Lookup { receipt_of } else { progress.last },
            attempt: progress.attempt,
            client: self.client,
            endpoint,
            coupon: self.crowd.plan.coupons[coupon].name.clone(),
            user,
            key,
            amount,
            settles: wish.settles(),
            start_us,
            end_us: log.now_us(),
            answer,
        };
        progress.last = Some(id);
        log.op(op.clone())?;
        Ok(op)
    }

    fn request(&self, wish: &Wish) -> Request {
        let coupon = |number: &usize| &self.crowd.plan.coupons[*number];
        match wish {
            Wish::Create { coupon: number } => {
                let coupon = coupon(number);
                let body = serde_json::json!({ "name": coupon.name, "amount": coupon.amount });
                Request { method: "POST", path: "/api/coupons".into(), key: None, body: Some(body) }
            }
            Wish::Claim { coupon: number, user, key, .. } => {
                let body = serde_json::json!({ "user_id": user, "coupon_name": coupon(number).name });
                let path = "/api/coupons/claim".into();
                Request { method: "POST", path, key: key.clone(), body: Some(body) }
            }
            Wish::Lookup { coupon: number, user } => {
                let path = format!("/api/coupons/{}/claims/{}", encoded(&coupon(number).name), encoded(user));
                Request { method: "GET", path, key: None, body: None }
            }
            Wish::Show { coupon: number } => {
                let path = format!("/api/coupons/{}", encoded(&coupon(number).name));
                Request { method: "GET", path, key: None, body: None }
            }
        }
    }

    async fn pause(&mut self) {
        sleep(Duration::from_millis(self.rng.random_range(RETRY_MS))).await;
    }
}

/// Percent-encodes all but letters and digits.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
