//! One transaction per batch of messages, and two statements, however many claims and coupons it
//! holds: look, decide, write.

use std::time::Duration;

use common::message::{Command, Outcome, Reply, VERSION};
use common::partition::PartitionId;
use common::queue;
use sqlx::postgres::PgConnection;

use crate::rules::{self, Request};
use crate::source::Message;
use crate::store::{self, Changes, Fence, PartitionRow, Written};

/// The messages of one transaction and, once decided, their outcomes.
#[derive(Debug)]
pub(crate) struct Transaction {
    fence: Fence,
    messages: Vec<Message>,
    /// The outcomes of the attempt that was committed or, while that is not known, of all that may
    /// have been. They are the same unless somebody changed rows by hand in between.
    outcomes: Vec<Vec<Outcome>>,
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
        Self { fence, messages, outcomes: Vec::new() }
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
        self.outcomes.len() == 1
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
    pub(crate) async fn apply(&mut self, connection: &mut PgConnection) -> sqlx::Result<Written> {
        let claims: Vec<_> = claims(&self.messages).collect();
        let mut coupon_names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
        coupon_names.sort_unstable();
        coupon_names.dedup();

        let names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
        let users: Vec<&str> = claims.iter().map(|claim| claim.user_id.as_str()).collect();
        let snapshot = store::look_up(connection, &coupon_names, &names, &users).await?;
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
        let decision = rules::decide(&requests, &snapshot.stocks, &snapshot.taken);

        let mut changes = Changes::default();
        for ((name, stock), won) in coupon_names.iter().copied().zip(snapshot.stocks).zip(decision.won) {
            if let (Some(stock), 1..) = (stock, won) {
                changes.sold_names.push(name);
                changes.sold_counts.push(won);
                changes.sold_from.push(stock.remaining);
            }
        }
        for (index, position) in decision.winners {
            changes.coupon_names.push(names[index]);
            changes.user_ids.push(users[index]);
            changes.claim_ids.push(claims[index].claim_id.as_uuid());
            changes.positions.push(position);
        }
        for message in &self.messages {
            if let Err((reason, payload)) = &message.content {
                tracing::error!(partition = %self.fence.partition, sequence = message.sequence, reason, "dead letter");
                changes.dead_sequences.push(message.sequence);
                changes.dead_reasons.push(reason.clone());
                changes.dead_payloads.push(payload);
            }
        }
        // From here on it may be committed without our hearing of it, also when this is cancelled.
        self.outcomes.retain(|earlier| *earlier != decision.outcomes);
        self.outcomes.push(decision.outcomes);
        let written = store::write(connection, &self.fence, &changes).await;
        if let Ok(Written::Committed) = written {
            // Under one fence there is one commit: it was this attempt, and no earlier one.
            self.outcomes.drain(..self.outcomes.len() - 1);
        }
        written
    }

    /// Sends each message's outcomes to the inbox that it names. To be called after the commit.
    pub(crate) async fn reply(&self, queue: &queue::Connection) {
        if !queue.link.borrow().up {
            // The APIs have noticed as well and look their claims up.
            return;
        }
        let mut outcomes = self.outcomes.first().map_or(&[][..], Vec::as_slice);
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
