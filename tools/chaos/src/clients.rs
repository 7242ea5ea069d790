//! Clients that behave like people in a flash sale: many at once, impatient, repeating their requests.
//!
//! Each has one request under way at a time. Most want a hot coupon. About a third of what they do, in some
//! rounds much and in some little, is a deliberate repetition: the same key again, the same user without a
//! key, a claim of a coupon that does not exist yet. Whatever ends without a definite answer is followed up as
//! the API tells its clients to: by the `Location` of a 202, or by the same request with the same key.

mod chain;
mod group;
pub(crate) mod http;
mod intent;
mod plan;
mod receipts;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub(crate) use group::{ClientGroup, Phase};
pub(crate) use plan::{Plan, name_in};
pub(crate) use receipts::ask_receipts;

use crate::seed::generator;
use chain::Chain;
use intent::{Action, Intent};

/// Intents that a client remembers for repetitions.
const REMEMBERED_MAX: usize = 16;

/// Sets the clients' random generators apart from those of the schedule.
const CLIENTS: u64 = 1 << 32;

/// Runs `count` clients until each has a definite answer to its last intent, or gives up.
pub(crate) async fn run(group: Arc<ClientGroup>, count: u32, seed: u64) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for coupon in 0..group.plan.coupons.len() {
        clients.spawn(create(Arc::clone(&group), coupon, seed));
    }
    for number in 0..count {
        clients.spawn(claim(Arc::clone(&group), number, seed));
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

/// Creates a coupon at its time; some are created twice.
async fn create(group: Arc<ClientGroup>, number: usize, seed: u64) -> anyhow::Result<()> {
    let client = u32::MAX - u32::try_from(number)?;
    let mut rng = generator(seed, CLIENTS | u64::from(client));
    let coupon = &group.plan.coupons[number];
    sleep(Duration::from_millis(coupon.create_at_ms)).await;
    let mut chain = Chain::new(&group, client, &mut rng);
    let intent = Intent { coupon: number, action: Action::Create };
    for _ in 0..if coupon.created_twice { 2 } else { 1 } {
        chain.settle(&intent).await?;
    }
    Ok(())
}

async fn claim(group: Arc<ClientGroup>, client: u32, seed: u64) -> anyhow::Result<()> {
    let mut rng = generator(seed, CLIENTS | u64::from(client));
    let mut fresh = 0_u64;
    let mut remembered: Vec<Intent> = Vec::new();
    while *group.phase.borrow() == Phase::Sale {
        let again = !remembered.is_empty() && rng.random_bool(group.plan.repeat_share);
        let intent = if again {
            let before = rng.random_range(0..remembered.len());
            remembered[before].clone().again(&mut rng)
        } else {
            fresh += 1;
            Intent::draw(&group.plan, client, fresh, &mut rng)
        };
        Chain::new(&group, client, &mut rng).settle(&intent).await?;
        if remembered.len() == REMEMBERED_MAX {
            remembered.swap_remove(rng.random_range(0..REMEMBERED_MAX));
        }
        remembered.push(intent);
        sleep(Duration::from_millis(rng.random_range(0..=group.plan.pause_ms_max))).await;
    }
    Ok(())
}
