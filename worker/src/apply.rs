//! One transaction per batch of messages, and two statements, however many claims and coupons it
//! holds: look, decide, write. Where what the owner remembers will do, it is one: decide, write.

use std::time::Duration;

use common::message::{Claim, Command, Outcome, Reply, VERSION};
use common::partition::PartitionId;
use common::queue;
use sqlx::postgres::PgConnection;

use crate::memory::Memory;
use crate::rules::{self, Request, Stock, Taken};
use crate::source::Message;
use crate::store::{self, Changes, Coupon, Fence, PartitionRow, Written};

/// The messages of one transaction and, once decided, their outcomes.
#[derive(Debug)]
pub(crate) struct Transaction {
    fence: Fence,
    messages: Vec<Message>,
    candidates: Candidates,
}

impl Transaction {
    /// A transaction over `messages`, which directly follow the cursor of `row`.
    pub(crate) fn new(
        partition: PartitionId,
        row: &PartitionRow,
        messages: Vec<Message>,
        lease: Duration,
    ) -> Self {
        let last = messages.last().expect("a batch has a message");
        for message in &messages {
            if let Err((reason, _)) = &message.content {
                tracing::error!(%partition, sequence = message.sequence, reason, "dead letter");
            }
        }
        let fence = Fence {
            partition,
            epoch: row.epoch,
            generation: row.generation,
            last_seq: row.last_seq,
            new_seq: last.sequence,
            new_batch_id: last.identity,
            new_time_ns: last.stored_ns,
            lease,
        };
        Self { fence, messages, candidates: Candidates::default() }
    }

    /// Where the cursor stands after the transaction.
    pub(crate) fn moves(&self, row: &mut PartitionRow) {
        row.last_seq = self.fence.new_seq;
        row.last_batch_id = Some(self.fence.new_batch_id);
        row.last_time_ns = row.last_time_ns.max(Some(self.fence.new_time_ns));
    }

    /// Whether `row` shows that this transaction was committed, and its outcomes are known: under our
    /// epoch nobody else can have moved the cursor to its end.
    pub(crate) fn is_in(&self, row: &PartitionRow) -> bool {
        let fence = &self.fence;
        self.candidates.0.len() == 1
            && (row.epoch, row.generation, row.last_seq, row.last_batch_id)
                == (fence.epoch, fence.generation, fence.new_seq, Some(fence.new_batch_id))
    }

    /// Whether `row` shows that this transaction may be tried again.
    pub(crate) fn follows(&self, row: &PartitionRow) -> bool {
        let fence = &self.fence;
        (row.epoch, row.generation, row.last_seq) == (fence.epoch, fence.generation, fence.last_seq)
    }

    /// Applies all messages. After an error the connection is of no more use, and whether the
    /// transaction was committed is unknown.
    pub(crate) async fn apply(
        &mut self,
        connection: &mut PgConnection,
        memory: &mut Memory,
    ) -> sqlx::Result<Written> {
        let Self { fence, messages, candidates } = self;
        let asked = Asked::of(messages);
        if let Some(mut coupons) = memory.recall(&asked.coupon_names) {
            asked.look_at_others(connection, &mut coupons).await?;
            let plan = asked.plan(&coupons, &vec![None; asked.claims.len()]);
            // A winner's row proves itself when it is written, and with it that the coupon is as
            // remembered. Who finds nothing left may have claimed before: that only a look can tell.
            if !plan.outcomes.contains(&Outcome::SoldOut) {
                let written = candidates.write(connection, fence, plan, memory).await?;
                tracing::debug!(partition = %fence.partition, ?written, "written from memory");
                if written != Written::Overtaken {
                    return Ok(written);
                }
                memory.clear();
            }
        }
        let (names, users) = asked.pairs();
        let snapshot = store::look_up(connection, &asked.coupon_names, &names, &users).await?;
        memory.compare(&snapshot);
        candidates.write(connection, fence, asked.plan(&snapshot.coupons, &snapshot.taken), memory).await
    }

    /// Sends each message's outcomes to the inbox that it names. To be called after the commit.
    pub(crate) async fn reply(&self, queue: &queue::Connection) {
        if !queue.link.borrow().up {
            // The APIs have noticed as well and look their claims up.
            return;
        }
        let mut outcomes = self.candidates.0.first().map_or(&[][..], Vec::as_slice);
        for message in &self.messages {
            let Ok(batch) = &message.content else { continue };
            let (own, rest) = outcomes.split_at(batch.commands.len());
            outcomes = rest;
            let Some(subject) = message.reply_to.clone() else { continue };
            let reply = Reply { version: VERSION, batch_id: batch.batch_id, outcomes: own.to_vec() };
            let payload = serde_json::to_vec(&reply).expect("a reply is plain JSON");
            if let Err(error) = queue.client.publish(subject, payload.into()).await {
                tracing::warn!(partition = %self.fence.partition, %error, "reply not sent; the API will look it up");
            }
        }
    }
}

/// The outcomes of the attempt that was committed or, while that is not known, of all that may have
/// been. They are the same unless somebody changed rows by hand in between.
#[derive(Debug, Default)]
struct Candidates(Vec<Vec<Outcome>>);

impl Candidates {
    /// Writes what was decided. Notes it before, as from then on it may be committed without our hearing
    /// of it, also when this is cancelled.
    async fn write(
        &mut self,
        connection: &mut PgConnection,
        fence: &Fence,
        plan: Plan<'_>,
        memory: &mut Memory,
    ) -> sqlx::Result<Written> {
        let before = self.0.len();
        self.0.retain(|earlier| *earlier != plan.outcomes);
        let is_new = self.0.len() == before;
        self.0.push(plan.outcomes);
        let written = store::write(connection, fence, &plan.changes).await?;
        match written {
            Written::Committed => {
                // Under one fence there is one commit: it was this attempt, and no earlier one.
                self.0.drain(..self.0.len() - 1);
                memory.keep(plan.after);
            }
            // Not this one. An equal one, of which nothing was heard, may still be.
            Written::Overtaken if is_new => _ = self.0.pop(),
            Written::Overtaken | Written::Fenced => {}
        }
        Ok(written)
    }
}

/// What a batch is to do, and what it will have done.
struct Plan<'a> {
    outcomes: Vec<Outcome>,
    changes: Changes<'a>,
    /// The coupons it changes, as it leaves them.
    after: Vec<(&'a str, Coupon)>,
}

/// A batch's claims, and what they are about.
struct Asked<'a> {
    messages: &'a [Message],
    claims: Vec<&'a Claim>,
    /// Each coupon once, in the order of the names.
    coupon_names: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(messages: &'a [Message]) -> Self {
        let batches = messages.iter().filter_map(|message| message.content.as_ref().ok());
        let claims: Vec<&Claim> = batches
            .flat_map(|batch| &batch.commands)
            .map(|command| match command {
                Command::Claim(claim) => claim,
            })
            .collect();
        let mut coupon_names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
        coupon_names.sort_unstable();
        coupon_names.dedup();
        Self { messages, claims, coupon_names }
    }

    /// Looks at the coupons that are not known, and at nothing else.
    async fn look_at_others(
        &self,
        connection: &mut PgConnection,
        coupons: &mut [Option<Coupon>],
    ) -> sqlx::Result<()> {
        let (names, others): (Vec<&str>, Vec<&mut Option<Coupon>>) =
            self.coupon_names.iter().zip(coupons).filter(|(_, coupon)| coupon.is_none()).unzip();
        if names.is_empty() {
            return Ok(());
        }
        let shown = store::look_up(connection, &names, &[], &[]).await?;
        for (coupon, shown) in others.into_iter().zip(shown.coupons) {
            *coupon = shown;
        }
        Ok(())
    }

    /// Each claim's coupon, and its user.
    fn pairs(&self) -> (Vec<&'a str>, Vec<&'a str>) {
        self.claims.iter().map(|claim| (claim.coupon_name.as_str(), claim.user_id.as_str())).unzip()
    }

    /// Decides all claims, given what is known of the coupons and of what the users have.
    fn plan(&self, coupons: &[Option<Coupon>], taken: &[Option<Taken>]) -> Plan<'a> {
        let requests: Vec<_> = self
            .claims
            .iter()
            .map(|claim| Request {
                coupon: self
                    .coupon_names
                    .binary_search(&claim.coupon_name.as_str())
                    .expect("every claim's coupon is among them"),
                user: claim.user_id.as_str(),
                claim_id: claim.claim_id,
            })
            .collect();
        let stocks: Vec<Option<Stock>> = coupons.iter().map(|coupon| Some(coupon.as_ref()?.stock)).collect();
        let decision = rules::decide(&requests, &stocks, taken);

        let mut changes = Changes::default();
        let mut after = Vec::new();
        for ((name, coupon), won) in self.coupon_names.iter().copied().zip(coupons).zip(decision.won) {
            if let (Some(Coupon { stock, created }), 1..) = (*coupon, won) {
                changes.sold_names.push(name);
                changes.sold_counts.push(won);
                changes.sold_from.push(stock.remaining);
                changes.sold_created.push(created);
                let remaining = stock.remaining - won;
                let last_position = stock.last_position + i64::from(won);
                after.push((name, Coupon { stock: Stock { remaining, last_position }, created }));
            }
        }
        for (index, position) in decision.winners {
            let claim = self.claims[index];
            changes.coupon_names.push(claim.coupon_name.as_str());
            changes.user_ids.push(claim.user_id.as_str());
            changes.claim_ids.push(claim.claim_id.as_uuid());
            changes.positions.push(position);
        }
        for message in self.messages {
            if let Err((reason, payload)) = &message.content {
                changes.dead_sequences.push(message.sequence);
                changes.dead_reasons.push(reason.clone());
                changes.dead_payloads.push(payload);
            }
        }
        Plan { outcomes: decision.outcomes, changes, after }
    }
}
