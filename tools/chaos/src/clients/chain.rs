//! An intent and all requests that it takes.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::group::ClientGroup;
use super::http::{Connection, Request};
use super::intent::{Action, Intent};
use crate::history::{Endpoint, Op, OpId, Verdict};

/// How long most requests are waited for: longer than any API takes.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Pauses between two attempts.
const RETRY_MS: RangeInclusive<u64> = 20..=300;

/// Look-ups of one receipt before the claim itself is sent again.
const LOOKUPS_MAX: u32 = 20;

/// One client that works on one intent after the other.
pub(super) struct Chain<'a> {
    group: &'a ClientGroup,
    client: u32,
    rng: &'a mut StdRng,
    connection: Connection,
    /// The intent's first and its last request so far.
    root: Option<OpId>,
    last: Option<OpId>,
    attempt: u32,
}

impl<'a> Chain<'a> {
    pub(super) fn new(group: &'a ClientGroup, client: u32, rng: &'a mut StdRng) -> Self {
        let connection = Connection::default();
        Self { group, client, rng, connection, root: None, last: None, attempt: 0 }
    }

    /// Sends requests until there is a definite answer, if the intent is one that has to be settled.
    pub(super) async fn settle(&mut self, intent: &Intent) -> anyhow::Result<()> {
        (self.root, self.last, self.attempt) = (None, None, 0);
        loop {
            let request = intent.request(&self.group.plan);
            let op = self.send(intent, intent.endpoint(), request, self.last).await?;
            let verdict = match op.verdict() {
                Verdict::Pending if intent.settles() => self.follow(intent, op).await?,
                verdict => verdict,
            };
            if !intent.settles() || verdict.is_definite() || !self.group.is_patient() {
                return Ok(());
            }
            self.pause().await;
        }
    }

    /// Asks at the `Location` of a 202 until the answer is the claim's outcome, or to send the claim again.
    async fn follow(&mut self, intent: &Intent, claim: Op) -> anyhow::Result<Verdict> {
        let mut location = claim.response().and_then(|response| response.location.clone());
        for _ in 0..LOOKUPS_MAX {
            let Some(path) = location.clone() else { break };
            self.pause().await;
            let request = Request { method: "GET", path, key: None, body: None };
            let op = self.send(intent, Endpoint::Lookup, request, Some(claim.id)).await?;
            match op.verdict() {
                Verdict::Pending => {
                    location = op.response().and_then(|response| response.location.clone()).or(location);
                }
                // No answer: the receipt is still valid.
                Verdict::Unknown => {}
                verdict => return Ok(verdict),
            }
            if !self.group.is_patient() {
                break;
            }
        }
        Ok(Verdict::Pending)
    }

    async fn send(
        &mut self,
        intent: &Intent,
        endpoint: Endpoint,
        request: Request,
        follows: Option<OpId>,
    ) -> anyhow::Result<Op> {
        let ClientGroup { log, addresses, plan, .. } = self.group;
        let timeout = match self.rng.random_range(0..10) {
            0 => Duration::from_millis(self.rng.random_range(30..600)),
            _ => TIMEOUT,
        };
        if self.rng.random_bool(0.2) || !self.connection.is_open() {
            self.connection.switch(addresses[self.rng.random_range(0..addresses.len())]);
        }
        let id = log.next_op();
        let root = *self.root.get_or_insert(id);
        self.last = Some(id);
        self.attempt += 1;
        let coupon = &plan.coupons[intent.coupon];
        let start_us = log.now_us();
        let answer = self.connection.send(&request, timeout).await;
        let op = Op {
            id,
            root,
            follows,
            attempt: self.attempt,
            client: self.client,
            endpoint,
            coupon: coupon.name.clone(),
            user: intent.user().cloned(),
            key: request.key,
            amount: matches!(intent.action, Action::Create).then(|| coupon.amount.into()),
            settles: intent.settles(),
            start_us,
            end_us: log.now_us(),
            answer,
        };
        log.op(op.clone())?;
        Ok(op)
    }

    async fn pause(&mut self) {
        sleep(Duration::from_millis(self.rng.random_range(RETRY_MS))).await;
    }
}
