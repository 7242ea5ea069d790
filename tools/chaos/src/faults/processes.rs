//! Faults that strike processes.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep};

use super::Striker;
use crate::cluster::{Loss, copy_folder};
use crate::cluster::{Manner, Node, wall_clock_ns};
use crate::schedule::{Strike, Target};

/// The longest pause between two processes that are killed, or started, one after the other.
const GAP_MS_MAX: u64 = 40;

/// How long a worker stays, or stays away, while workers come and go.
const TURN_MS: std::ops::RangeInclusive<u64> = 100..=700;

impl Striker {
    fn node(&self, target: Target) -> anyhow::Result<&Node> {
        let node = match target {
            Target::Api(number) => self.cluster.apis.get(number as usize),
            Target::Worker(number) => self.cluster.workers.get(number as usize),
            _ => None,
        };
        node.with_context(|| format!("{target} is no process"))
    }

    /// Returns when the process was dead.
    pub(super) async fn kill_node(&self, strike: &Strike) -> anyhow::Result<u64> {
        let node = self.node(strike.target)?;
        node.hold_down(Manner::Crash).await?;
        let dead_us = self.log.now_us();
        sleep(Duration::from_millis(strike.duration_ms)).await;
        node.release().await?;
        Ok(dead_us)
    }

    /// Returns when the process was frozen.
    pub(super) async fn pause_node(&self, strike: &Strike) -> anyhow::Result<u64> {
        let node = self.node(strike.target)?;
        node.freeze().await;
        let frozen_us = self.log.now_us();
        sleep(Duration::from_millis(strike.duration_ms)).await;
        node.thaw().await;
        Ok(frozen_us)
    }

    pub(super) async fn kill_nats(&self, duration: Duration) -> anyhow::Result<()> {
        self.cluster.nats.lock().await.kill().await?;
        sleep(duration).await;
        Ok(self.cluster.nats.lock().await.restart().await?)
    }

    pub(super) async fn kill_postgres(&self, duration: Duration) -> anyhow::Result<()> {
        self.cluster.postgres.lock().await.kill().await?;
        sleep(duration).await;
        Ok(self.cluster.postgres.lock().await.restart().await?)
    }

    pub(super) async fn pause_nats(&self, duration: Duration) {
        self.cluster.nats.lock().await.pause().await;
        sleep(duration).await;
        self.cluster.nats.lock().await.resume();
    }

    pub(super) async fn pause_postgres(&self, duration: Duration) {
        self.cluster.postgres.lock().await.pause().await;
        sleep(duration).await;
        self.cluster.postgres.lock().await.resume();
    }

    /// Everything dies, in one random order, and comes back, in another.
    pub(super) async fn kill_everything(&self, duration: Duration, rng: &mut StdRng) -> anyhow::Result<()> {
        let cluster = &self.cluster;
        // The servers stand behind the nodes.
        let mut order: Vec<usize> = (0..cluster.nodes().count() + 2).collect();
        let (nats, postgres) = (order.len() - 2, order.len() - 1);
        order.shuffle(rng);
        for number in &order {
            match *number {
                number if number == nats => cluster.nats.lock().await.kill().await?,
                number if number == postgres => cluster.postgres.lock().await.kill().await?,
                number => {
                    if let Some(node) = cluster.nodes().nth(number) {
                        node.hold_down(Manner::Crash).await?;
                    }
                }
            }
            sleep(Duration::from_millis(rng.random_range(0..=GAP_MS_MAX))).await;
        }
        sleep(duration).await;
        order.shuffle(rng);
        let starts = order.iter().enumerate().map(|(place, number)| async move {
            sleep(Duration::from_millis(GAP_MS_MAX) * u32::try_from(place).unwrap_or_default()).await;
            match *number {
                number if number == nats => cluster.nats.lock().await.restart().await?,
                number if number == postgres => cluster.postgres.lock().await.restart().await?,
                number => {
                    if let Some(node) = cluster.nodes().nth(number) {
                        node.release().await?;
                    }
                }
            }
            Ok::<_, anyhow::Error>(())
        });
        try_join_all(starts).await.map(drop)
    }

    /// One worker after the other leaves in order and comes back.
    pub(super) async fn workers_come_and_go(
        &self,
        duration: Duration,
        rng: &mut StdRng,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let number = rng.random_range(0..self.cluster.workers.len());
            let worker = &self.cluster.workers[number];
            worker.hold_down(Manner::Orderly).await?;
            sleep(Duration::from_millis(rng.random_range(TURN_MS))).await;
            worker.release().await?;
            sleep(Duration::from_millis(rng.random_range(TURN_MS))).await;
        }
        Ok(())
    }

    /// Every process stops in order and starts again, one at a time.
    pub(super) async fn rolling_restart(&self, duration: Duration, rng: &mut StdRng) -> anyhow::Result<()> {
        let mut order: Vec<&Node> = self.cluster.nodes().collect();
        order.shuffle(rng);
        let pause = duration / u32::try_from(order.len()).unwrap_or(u32::MAX).max(1) / 2;
        for node in order {
            node.hold_down(Manner::Orderly).await?;
            node.release().await?;
            sleep(pause).await;
        }
        Ok(())
    }

    /// Kills nats-server, copies its files, lets it go on for a while, and puts the copy back.
    pub(super) async fn restore_queue(&self, duration: Duration) -> anyhow::Result<()> {
        let mut nats = self.cluster.nats.lock().await;
        let (live, copy) = (nats.folder().join("jetstream"), nats.folder().join("jetstream.copy"));
        nats.kill().await?;
        copy_folder(&live, &copy).await?;
        let copied_ns = wall_clock_ns();
        nats.restart().await?;
        sleep(duration).await;
        nats.kill().await?;
        tokio::fs::remove_dir_all(&live).await?;
        tokio::fs::rename(&copy, &live).await?;
        let at_ns = wall_clock_ns();
        for partition in 0..self.cluster.shape.partitions {
            self.cluster.lost(partition, Loss::Restored { copied_ns, at_ns });
        }
        Ok(nats.restart().await?)
    }
}
