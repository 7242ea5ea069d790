//! Faults of processes and servers.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::injector::Injector;
use crate::cluster::{Loss, Node, Stop, wall_clock_ns};
use crate::history::EventKind;
use crate::schedule::Server;

/// The longest pause between two processes that are killed, or started, one after the other.
const GAP_MS_MAX: u64 = 40;

/// How long a worker stays, or stays away, while workers come and go.
const TURN_MS: RangeInclusive<u64> = 100..=700;

/// A process of the system.
#[derive(Clone, Copy)]
enum Member<'a> {
    Node(&'a Node),
    Server(Server),
}

impl Injector {
    /// Returns when the process was dead.
    pub(super) async fn kill_node(&self, node: &Node, duration: Duration) -> anyhow::Result<u64> {
        node.stop(Stop::Kill).await?;
        let dead_us = self.log.now_us();
        sleep(duration).await;
        node.start().await?;
        Ok(dead_us)
    }

    /// Returns when the process stood still.
    pub(super) async fn pause_node(&self, node: &Node, duration: Duration) -> u64 {
        node.pause().await;
        let paused_us = self.log.now_us();
        sleep(duration).await;
        node.resume().await;
        paused_us
    }

    pub(super) async fn kill_server(&self, server: Server, duration: Duration) -> anyhow::Result<()> {
        self.cluster.kill(server).await?;
        sleep(duration).await;
        Ok(self.cluster.restart(server).await?)
    }

    pub(super) async fn pause_server(&self, server: Server, duration: Duration) {
        self.cluster.pause(server).await;
        sleep(duration).await;
        self.cluster.resume(server).await;
    }

    /// Kills every process in a random order, and starts them again in another.
    pub(super) async fn kill_everything(&self, duration: Duration, rng: &mut StdRng) -> anyhow::Result<()> {
        let cluster = &self.cluster;
        let servers = [Server::Nats, Server::Postgres].map(Member::Server);
        let mut members: Vec<Member<'_>> = cluster.nodes().map(Member::Node).chain(servers).collect();
        members.shuffle(rng);
        for member in &members {
            match *member {
                Member::Node(node) => node.stop(Stop::Kill).await?,
                Member::Server(server) => cluster.kill(server).await?,
            }
            sleep(Duration::from_millis(rng.random_range(0..=GAP_MS_MAX))).await;
        }
        sleep(duration).await;
        members.shuffle(rng);
        let starts = (0..).zip(members).map(|(place, member)| async move {
            sleep(Duration::from_millis(GAP_MS_MAX) * place).await;
            match member {
                Member::Node(node) => node.start().await,
                Member::Server(server) => cluster.restart(server).await,
            }
        });
        try_join_all(starts).await?;
        Ok(())
    }

    /// Stops workers in order, one after the other, and starts them again.
    pub(super) async fn workers_come_and_go(
        &self,
        duration: Duration,
        rng: &mut StdRng,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let worker = &self.cluster.workers[rng.random_range(0..self.cluster.workers.len())];
            worker.stop(Stop::Terminate).await?;
            sleep(Duration::from_millis(rng.random_range(TURN_MS))).await;
            worker.start().await?;
            sleep(Duration::from_millis(rng.random_range(TURN_MS))).await;
        }
        Ok(())
    }

    /// Every API and worker stops in order and starts again, one at a time.
    pub(super) async fn rolling_restart(&self, duration: Duration, rng: &mut StdRng) -> anyhow::Result<()> {
        let mut order: Vec<&Node> = self.cluster.nodes().collect();
        order.shuffle(rng);
        let pause = duration / u32::try_from(order.len())?.max(1) / 2;
        for node in order {
            node.stop(Stop::Terminate).await?;
            node.start().await?;
            sleep(pause).await;
        }
        Ok(())
    }

    /// Kills nats-server, copies its files, lets it run for a while, and puts the copy back.
    pub(super) async fn restore_queue(&self, duration: Duration) -> anyhow::Result<()> {
        self.every_queue_loses()?;
        let mut nats = self.cluster.nats.lock().await;
        let (live, copy) = (nats.folder().join("jetstream"), nats.folder().join("jetstream.copy"));
        nats.kill().await?;
        let copied = Command::new("cp").arg("-a").args([&live, &copy]).status().await?;
        ensure!(copied.success(), "copying {} failed ({copied})", live.display());
        let copied_ns = wall_clock_ns();
        nats.restart().await?;
        sleep(duration).await;
        nats.kill().await?;
        tokio::fs::remove_dir_all(&live).await?;
        tokio::fs::rename(&copy, &live).await?;
        let at_ns = wall_clock_ns();
        for partition in 0..self.cluster.shape.partitions {
            self.cluster.recorder.lost(partition, Loss::Restored { copied_ns, at_ns });
        }
        Ok(nats.restart().await?)
    }

    /// Records that any message may be lost.
    fn every_queue_loses(&self) -> std::io::Result<u64> {
        let partitions = (0..self.cluster.shape.partitions).collect();
        self.log.event(EventKind::QueueLoses { partitions })
    }

    /// Leaves no room under a server, and then frees it.
    pub(super) async fn fill_disk(&self, server: Server, duration: Duration) -> anyhow::Result<()> {
        let Some(disk) = self.cluster.disk(server) else { return Ok(()) };
        if server == Server::Nats {
            self.every_queue_loses()?;
        }
        disk.fill().await?;
        sleep(duration).await;
        disk.free()?;
        if server == Server::Nats {
            // After a failed write nats-server does not write to the stream again until it is restarted. Operators
            // have to do that.
            self.cluster.kill(server).await?;
            self.cluster.restart(server).await?;
        }
        // Postgres may have given up.
        Ok(self.cluster.restart_ended_servers().await?)
    }
}
