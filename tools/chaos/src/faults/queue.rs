//! Faults of the queue itself.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use common::ids::{ClaimId, CouponName, UserId};
use common::message::{self, Batch, BatchWriter, Command, REPLY_HEADER};
use common::partition::PartitionId;
use common::stream;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use super::injector::Injector;
use crate::clients::name_in;
use crate::cluster::{Loss, recorded, wall_clock_ns};
use crate::history::EventKind;

/// How long one question to the queue may take. If it is away, there is nothing to disturb.
const LIMIT: Duration = Duration::from_secs(2);

/// Messages that are published again.
const COPIES_MAX: u64 = 8;

/// Claims in a forged batch.
const FORGED_MAX: u64 = 5;

/// Messages of which nothing is understood, for different reasons.
const UNDECODABLE: [&str; 6] = [
    "",
    "\u{0}\u{1}\u{2}",
    "{",
    r#"{"version":1,"batch_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a","commands":[]}"#,
    r#"{"version":99,"batch_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61b","commands":[{"claim":null}]}"#,
    r#"{"version":1,"batch_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61c","commands":[{"unclaim":{}}]}"#,
];

/// Commands that no worker understands, for different reasons: their names, their shapes, what is in them.
const UNKNOWN_COMMANDS: [&str; 5] = [
    r#"{"unclaim":{"claim_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a"}}"#,
    r#"{"claim":{"claim_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a"}}"#,
    r#"{"claim":{"claim_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a","user_id":"","coupon_name":"x"}}"#,
    "null",
    "7",
];

impl Injector {
    /// Publishes copies of the stream's last messages.
    pub(super) async fn duplicate_messages(
        &self,
        partition: PartitionId,
        rng: &mut StdRng,
    ) -> anyhow::Result<u64> {
        let Some(stream) = self.stream(partition).await else { return Ok(0) };
        let state = &stream.cached_info().state;
        let first =
            state.first_sequence.max(state.last_sequence.saturating_sub(rng.random_range(1..=COPIES_MAX)));
        let mut hits = 0;
        for sequence in first..=state.last_sequence {
            let Ok(Ok(message)) = timeout(LIMIT, stream.get_raw_message(sequence)).await else { continue };
            let batch = Batch::decode(&message.payload);
            if batch.as_ref().map_or(true, |batch| batch.commands.iter().any(Result::is_err)) {
                self.log.event(EventKind::NotUnderstood { partition: partition.number() })?;
            }
            if let Ok(batch) = batch {
                let claims = batch.claims().map(recorded).collect();
                self.log.event(EventKind::Injected { claims, copies: true })?;
            }
            hits += self.publish(partition, message.headers, message.payload.to_vec()).await;
        }
        Ok(hits)
    }

    /// Publishes what no worker understands.
    pub(super) async fn publish_undecodable(
        &self,
        partition: PartitionId,
        rng: &mut StdRng,
    ) -> anyhow::Result<u64> {
        self.log.event(EventKind::NotUnderstood { partition: partition.number() })?;
        let mut hits = 0;
        for _ in 0..rng.random_range(1..=3) {
            let payload = UNDECODABLE[rng.random_range(0..UNDECODABLE.len())];
            hits += self.publish(partition, HeaderMap::new(), payload.into()).await;
        }
        Ok(hits)
    }

    /// Publishes a batch that no API sent: strangers, one of them twice, a coupon that does not exist, and a
    /// reply subject where nobody or the wrong one listens.
    pub(super) async fn forge_batch(&self, partition: PartitionId, rng: &mut StdRng) -> anyhow::Result<u64> {
        let here = |name: &CouponName| PartitionId::of(name, self.cluster.shape.partitions) == partition;
        let coupons = self.plan.coupons.iter().filter_map(|coupon| CouponName::new(&coupon.name).ok());
        let mut names: Vec<CouponName> = coupons.filter(here).collect();
        let missing = name_in("no such coupon", partition.number(), self.cluster.shape.partitions);
        names.extend(missing.and_then(|name| CouponName::new(&name).ok()));

        let mut commands: Vec<Value> = Vec::new();
        let mut claims = Vec::new();
        // The good claims of a message are applied, whatever else is in it.
        let is_poisoned = rng.random_bool(0.5);
        for number in 0..rng.random_range(1..=FORGED_MAX) {
            if is_poisoned {
                let unknown = UNKNOWN_COMMANDS[rng.random_range(0..UNKNOWN_COMMANDS.len())];
                commands.push(serde_json::from_str(unknown)?);
            }
            let stranger = format!("stranger {}", rng.random_range(0..=number));
            let (Some(coupon_name), Ok(user_id)) =
                (names.get(rng.random_range(0..names.len().max(1))), UserId::new(&stranger))
            else {
                continue;
            };
            let claim =
                message::Claim { claim_id: ClaimId::random(), user_id, coupon_name: coupon_name.clone() };
            claims.push(recorded(&claim));
            commands.push(serde_json::to_value(Command::Claim(claim))?);
        }
        if claims.is_empty() {
            return Ok(0);
        }
        let mut headers = HeaderMap::new();
        match rng.random_range(0..3) {
            0 => {}
            1 => headers.insert(REPLY_HEADER, "replies.nobody.r.1"),
            _ => headers.insert(REPLY_HEADER, format!("claims.{partition}").as_str()),
        }
        if is_poisoned {
            self.log.event(EventKind::NotUnderstood { partition: partition.number() })?;
        }
        self.log.event(EventKind::Injected { claims, copies: false })?;
        let batch = Batch { version: message::VERSION, batch_id: Uuid::new_v4(), commands };
        Ok(self.publish(partition, headers, serde_json::to_vec(&batch)?).await)
    }

    /// Publishes a claim of no coupon to each partition. After a message that was not delivered another one has to come,
    /// so that the worker sees the gap; a server that loses none never leaves it waiting.
    pub(crate) async fn publish_everywhere(&self) -> anyhow::Result<()> {
        let partitions = self.cluster.shape.partitions;
        for partition in 0..partitions {
            let name =
                name_in("no such coupon", partition, partitions).context("no name for the partition")?;
            let (user_id, coupon_name) = (UserId::new("stranger")?, CouponName::new(&name)?);
            let claim = message::Claim { claim_id: ClaimId::random(), user_id, coupon_name };
            self.log.event(EventKind::Injected { claims: vec![recorded(&claim)], copies: false })?;
            let mut writer = BatchWriter::new(1024);
            writer.push(&Command::Claim(claim), usize::MAX);
            let (_, payload) = writer.finish();
            self.publish(PartitionId::new(partition), HeaderMap::new(), payload).await;
        }
        Ok(())
    }

    /// Purges a stream up to its last message, applied or not.
    pub(super) async fn purge_stream(&self, partition: PartitionId) -> anyhow::Result<u64> {
        let before_ns = wall_clock_ns();
        let Some(stream) = self.stream(partition).await else { return Ok(0) };
        let last = stream.cached_info().state.last_sequence;
        let waiting = self.waiting(partition, last).await;
        self.log.event(EventKind::QueueLoses { partitions: vec![partition.number()] })?;
        match timeout(LIMIT, stream.purge().sequence(last + 1)).await {
            Ok(Ok(_)) => {
                let loss = Loss::Purged { before_ns, at_ns: wall_clock_ns(), last };
                self.cluster.recorder.lost(partition.number(), loss);
            }
            // It may have been purged all the same.
            Ok(Err(_)) | Err(_) => self.cluster.recorder.may_have_lost(partition.number()),
        }
        Ok(waiting)
    }

    /// Deletes a stream.
    pub(super) async fn delete_stream(&self, partition: PartitionId) -> anyhow::Result<u64> {
        let Some(stream) = self.stream(partition).await else { return Ok(0) };
        let waiting = self.waiting(partition, stream.cached_info().state.last_sequence).await;
        self.log.event(EventKind::QueueLoses { partitions: vec![partition.number()] })?;
        // Whether it is gone shows by what comes after.
        let _ = timeout(LIMIT, self.cluster.queue.delete_stream(stream::name(partition))).await;
        Ok(waiting)
    }

    async fn stream(&self, partition: PartitionId) -> Option<Stream> {
        let stream = timeout(LIMIT, self.cluster.queue.get_stream(stream::name(partition))).await;
        stream.ok()?.ok()
    }

    /// Messages that the cursor had not passed.
    async fn waiting(&self, partition: PartitionId, last: u64) -> u64 {
        let cursor = timeout(LIMIT, self.cluster.cursor(partition.number())).await;
        cursor.ok().and_then(Result::ok).map_or(0, |cursor| last.saturating_sub(cursor))
    }

    /// Publishes a message as if it came from an API. Returns how many were stored.
    async fn publish(&self, partition: PartitionId, headers: HeaderMap, payload: Vec<u8>) -> u64 {
        let stored = async {
            let subject = stream::subject(partition);
            let sent = self.cluster.queue.publish_with_headers(subject, headers, payload.into()).await;
            sent.context("publish")?.await.context("acknowledgement")
        };
        u64::from(matches!(timeout(LIMIT, stored).await, Ok(Ok(_))))
    }
}
