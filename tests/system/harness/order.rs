//! Who had to win: the first `amount` distinct users of each coupon in the order of the queue.

use std::collections::HashSet;

use async_nats::jetstream;
use common::message::{Batch, Claim};
use common::partition::PartitionId;
use common::stream;
use uuid::Uuid;

use super::system::{PARTITIONS, System, partition_of};
use super::test::eventually;

/// The streams as the operator sees them.
pub(crate) async fn jetstream(system: &System) -> jetstream::Context {
    jetstream::new(system.operator().await)
}

/// All claims that a partition's stream holds, in their order.
pub(crate) async fn queued(jetstream: &jetstream::Context, partition: PartitionId) -> Vec<Claim> {
    let stream = jetstream.get_stream(stream::name(partition)).await.unwrap();
    let state = &stream.cached_info().state;
    let mut claims = Vec::new();
    if state.messages == 0 {
        return claims;
    }
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let batch = Batch::decode(&message.payload).unwrap();
        claims.extend(batch.claims().cloned());
    }
    claims
}

/// Waits until the coupon's stream holds exactly that many claims.
pub(crate) async fn queue_holds(system: &System, coupon: &str, count: usize) {
    let jetstream = jetstream(system).await;
    eventually(&format!("{count} claims in the queue"), async || {
        (queued(&jetstream, partition_of(coupon, PARTITIONS)).await.len() == count).then_some(())
    })
    .await;
}

/// Asserts that the winners of every coupon are exactly the first users in the queue, in their order.
/// The coupons must have been there before their claims, and nothing may have been purged.
pub(crate) async fn assert_first_come_first_served(system: &System) {
    let jetstream = jetstream(system).await;
    let coupons: Vec<(String, i32)> = sqlx::query_as("SELECT name, amount FROM coupons ORDER BY name")
        .fetch_all(system.pool())
        .await
        .unwrap();
    for number in 0..PARTITIONS {
        let partition = PartitionId::new(number);
        let claims = queued(&jetstream, partition).await;
        for (coupon, amount) in coupons.iter().filter(|(name, _)| partition_of(name, PARTITIONS) == partition)
        {
            let mut seen = HashSet::new();
            let wanted: Vec<(String, Uuid, i64)> = claims
                .iter()
                .filter(|claim| claim.coupon_name.as_str() == coupon && seen.insert(claim.user_id.as_str()))
                .take(usize::try_from(*amount).unwrap())
                .zip(1..)
                .map(|(claim, position)| {
                    (claim.user_id.as_str().to_owned(), claim.claim_id.as_uuid(), position)
                })
                .collect();
            let winners: Vec<(String, Uuid, i64)> = sqlx::query_as(
                "SELECT user_id, claim_id, position FROM claims WHERE coupon_name = $1 ORDER BY position",
            )
            .bind(coupon)
            .fetch_all(system.pool())
            .await
            .unwrap();
            assert_eq!(winners, wanted, "{coupon}");
        }
    }
}
