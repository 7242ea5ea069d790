//! Clients that behave like people in a flash sale: many at once, impatient, pressing the button again.
//!
//! Each has one request under way at a time. Most want a hot coupon. About a third of what they do, in some
//! rounds much and in some little, is a deliberate repetition: the same key again, the same user without a
//! key, a claim of a coupon that is not there yet. Whatever ends without a definite answer is followed up, as
//! the API tells its clients to: by the `Location` of a 202, or by the same request with the same key.

mod chain;
pub(crate) mod http;
mod plan;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use plan::{Coupon, Plan, name_in};

use crate::record::Log;
use chain::{Chain, Wish};

/// How long a client goes on for a definite answer after all is healed: longer than what is promised, so that
/// a broken promise shows as a late answer and not as none.
const PATIENCE_AFTER_HEALING: Duration = Duration::from_secs(40);

/// The longest pause of a client between two wishes.
const PAUSE_MS_MAX: u64 = 80;

/// Users whom a client remembers, to claim for them again.
const REMEMBERED_MAX: usize = 16;

/// What the clients of a round know of its course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Faults strike, or did a moment ago.
    Sale,
    /// All is healed; no new wishes, only definite answers to the old ones.
    Closing {
        /// Since when.
        since: Instant,
    },
}

/// What all clients of a round share.
#[derive(Debug)]
pub struct Crowd {
    /// The APIs.
    pub addresses: Vec<SocketAddr>,
    /// What there is to claim.
    pub plan: Plan,
    /// Where everything is written down.
    pub log: Arc<Log>,
    /// The course of the round.
    pub phase: watch::Receiver<Phase>,
}

impl Crowd {
    /// Runs `count` clients until each has a definite answer to its last wish, or has lost patience.
    pub async fn run(self: Arc<Self>, count: u32, seed: u64) -> anyhow::Result<()> {
        let mut clients = JoinSet::new();
        for coupon in 0..self.plan.coupons.len() {
            clients.spawn(Arc::clone(&self).create(coupon, seed));
        }
        for number in 0..count {
            clients.spawn(Arc::clone(&self).claim(number, seed));
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Creates a coupon at its time; some are created twice.
    async fn create(self: Arc<Self>, number: usize, seed: u64) -> anyhow::Result<()> {
        let client = u32::MAX - u32::try_from(number).unwrap_or_default();
        let mut rng = generator(seed, client);
        let coupon = &self.plan.coupons[number];
        sleep(Duration::from_millis(coupon.create_at_ms)).await;
        let mut chain = Chain::new(&self, client, &mut rng);
        let wish = Wish::Create { coupon: number };
        chain.settle(wish.clone()).await?;
        if coupon.created_twice {
            chain.settle(wish).await?;
        }
        Ok(())
    }

    async fn claim(self: Arc<Self>, client: u32, seed: u64) -> anyhow::Result<()> {
        let mut rng = generator(seed, client);
        let mut fresh = 0_u64;
        let mut remembered: Vec<Wish> = Vec::new();
        while *self.phase.borrow() == Phase::Sale {
            let again = !remembered.is_empty() && rng.random_bool(self.plan.repeat_share);
            let wish = if again {
                let wish = remembered[rng.random_range(0..remembered.len())].clone();
                wish.again(&mut rng)
            } else {
                fresh += 1;
                Wish::draw(&self.plan, client, fresh, &mut rng)
            };
            Chain::new(&self, client, &mut rng).settle(wish.clone()).await?;
            if remembered.len() == REMEMBERED_MAX {
                remembered.swap_remove(rng.random_range(0..REMEMBERED_MAX));
            }
            remembered.push(wish);
            sleep(Duration::from_millis(rng.random_range(0..=PAUSE_MS_MAX))).await;
        }
        Ok(())
    }

    /// Whether a client that has no definite answer goes on asking.
    fn is_patient(&self) -> bool {
        match *self.phase.borrow() {
            Phase::Sale => true,
            Phase::Closing { since } => since.elapsed() < PATIENCE_AFTER_HEALING,
        }
    }
}

fn generator(seed: u64, client: u32) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&client.to_le_bytes());
    bytes[12] = 1;
    StdRng::from_seed(bytes)
}
