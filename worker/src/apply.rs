//! One transaction per batch of messages: a fixed handful of statements, however many claims and
//! coupons it holds.

use std::time::Duration;

use common::message::{Command, Outcome, Reply, VERSION};
use common::partition::PartitionId;
use common::queue;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::rules::{self, Request};
use crate::source::Message;
use crate::store::{self, Fence, PartitionRow, Winners};

/// The messages of one transaction and, once decided, their outcomes.
#[derive(Debug)]
pub(crate) struct Transaction {
    fence: Fence,
    messages: Vec<Message>,
    /// Set when all statements but COMMIT have succeeded. A later attempt that does not get so far
    /// leaves it: should an earlier one have been committed after all, these are its outcomes.
    outcomes: Option<Vec<Outcome>>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It is on disk.
    Committed,
    /// The partition is not ours any more, or its cursor is elsewhere: nothing was changed.
    Fenced,
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
        Self { fence, messages, outcomes: None }
    }

    /// Where the cursor stands after the transaction.
    pub(crate) fn moves(&self, row: &mut PartitionRow) {
        row.last_seq = self.fence.new_seq;
        row.last_batch_id = Some(self.fence.new_batch_id);
        row.last_time_ns = row.last_time_ns.max(Some(self.fence.new_time_ns));
    }

    /// Whether `row` shows that this transaction was committed: under our epoch nobody else can
    /// have moved the cursor to its end.
    pub(crate) fn is_in(&self, row: &PartitionRow) -> bool {
        let fence = &self.fence;
        self.outcomes.is_some()
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
    pub(crate) async fn apply(&mut self, connection: &mut PgConnection) -> sqlx::Result<Applied> {
        let claims: Vec<_> = claims(&self.messages).collect();
        let mut coupon_names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
        coupon_names.sort_unstable();
        coupon_names.dedup();

        let mut transaction = connection.begin().await?;
        let Some(stocks) = store::pass_fence(&mut transaction, &self.fence, &coupon_names).await? else {
            transaction.rollback().await?;
            return Ok(Applied::Fenced);
        };
        for message in &self.messages {
            if let Err((reason, payload)) = &message.content {
                tracing::error!(partition = %self.fence.partition, sequence = message.sequence, reason, "dead letter");
                store::bury(&mut transaction, &self.fence, message.sequence, reason, payload).await?;
            }
        }
        let taken = if stocks.iter().all(Option::is_none) {
            vec![None; claims.len()]
        } else {
            let names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
            let users: Vec<&str> = claims.iter().map(|claim| claim.user_id.as_str()).collect();
            store::taken(&mut transaction, &names, &users).await?
        };
        let requests: Vec<_> = claims
            .iter()
            .map(|claim| Request {
                coupon: coupon_names
                    .binary_search(&claim.coupon_name.as_str())
                    .expect("every claim's coupon is listed"),
                user: claim.user_id.as_str(),
                claim_id: claim.claim_id,
            })
            .collect();
        let decision = rules::decide(&requests, &stocks, &taken);
        if !decision.winners.is_empty() {
            let sold: Vec<_> =
                coupon_names.iter().copied().zip(decision.won).filter(|(_, count)| *count > 0).collect();
            let mut winners = Winners::default();
            for (index, position) in decision.winners {
                winners.coupon_names.push(claims[index].coupon_name.as_str());
                winners.user_ids.push(claims[index].user_id.as_str());
                winners.claim_ids.push(claims[index].claim_id.as_uuid());
                winners.positions.push(position);
            }
            store::write(&mut transaction, &sold, &winners).await?;
        }
        self.outcomes = Some(decision.outcomes);
        transaction.commit().await?;
        Ok(Applied::Committed)
    }

    /// Sends each message's outcomes to the inbox that it names. To be called after the commit.
    pub(crate) async fn reply(&self, queue: &queue::Connection) {
        if !queue.link.borrow().up {
            // The APIs have noticed as well and look their claims up.
            return;
        }
        let mut outcomes = self.outcomes.as_deref().unwrap_or_default();
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

fn claims(messages: &[Message]) -> impl Iterator<Item = &common::message::Claim> {
    messages.iter().filter_map(|message| message.content.as_ref().ok()).flat_map(|batch| &batch.commands).map(
        |command| match command {
            Command::Claim(claim) => claim,
        },
    )
}
