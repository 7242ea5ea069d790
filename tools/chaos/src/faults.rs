//! Carries out the faults of a schedule on a running system.

mod by_hand;
mod injector;
mod links;
mod processes;
mod queue;

use std::time::Duration;

use anyhow::bail;
use common::partition::PartitionId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

pub(crate) use injector::Injector;

use crate::history::EventKind;
use crate::schedule::{Fault, Injection, Server, Target};

/// What an injection did.
#[derive(Debug, Clone)]
pub(crate) struct Injected {
    pub(crate) injection: Injection,
    pub(crate) begin_us: u64,
    /// When it took effect, for processes that are killed or paused.
    pub(crate) effect_us: u64,
    /// When it was over: the process was started again, the link was whole.
    pub(crate) end_us: u64,
    /// How often it affected something under way, where that can be counted during the fault. For others the
    /// requests count that were under way.
    pub(crate) hits: Option<u64>,
}

impl Injector {
    /// Carries out an injection at its time, counted from `start`.
    pub(crate) async fn inject(self, injection: Injection, start: Instant) -> anyhow::Result<Injected> {
        sleep_until(start + Duration::from_millis(injection.start_ms)).await;
        let (fault, target) = (injection.fault.to_string(), injection.target.to_string());
        let begin_us =
            self.log.event(EventKind::FaultBegin { fault: fault.clone(), target: target.clone() })?;
        let (effect_us, hits) = self.carry_out(&injection).await?;
        let hit_count = hits.unwrap_or_default();
        let end_us = self.log.event(EventKind::FaultEnd { fault, target, hits: hit_count })?;
        Ok(Injected { injection, begin_us, effect_us: effect_us.unwrap_or(begin_us), end_us, hits })
    }

    /// Returns when the fault took effect, and how often it affected something, where these are known.
    async fn carry_out(&self, injection: &Injection) -> anyhow::Result<(Option<u64>, Option<u64>)> {
        let Injection { fault, target, seed, duration_ms, .. } = *injection;
        let (duration, mut rng) = (Duration::from_millis(duration_ms), StdRng::seed_from_u64(seed));
        let (rng, mut effect_us, mut hits) = (&mut rng, None, None);
        match (target, fault) {
            (Target::Process(process), Fault::KillApi | Fault::KillWorker) => {
                effect_us = Some(self.kill_node(self.cluster.node(process)?, duration).await?);
            }
            (Target::Process(process), Fault::PauseApi | Fault::PauseWorker) => {
                effect_us = Some(self.pause_node(self.cluster.node(process)?, duration).await);
            }
            (Target::Server(server), Fault::KillNats | Fault::KillPostgres) => {
                self.kill_server(server, duration).await?;
            }
            (Target::Server(server), Fault::PauseNats | Fault::PausePostgres) => {
                self.pause_server(server, duration).await;
            }
            (Target::Server(server), Fault::DiskFullNats | Fault::DiskFullPostgres) => {
                self.fill_disk(server, duration).await?;
            }
            (Target::Server(_), Fault::HandChange) => hits = Some(self.change_by_hand(duration, rng).await?),
            (Target::Server(Server::Nats), Fault::QueueRestored) => self.restore_queue(duration).await?,
            (Target::Everything, Fault::KillEverything) => self.kill_everything(duration, rng).await?,
            (Target::Everything, Fault::RollingRestart) => self.rolling_restart(duration, rng).await?,
            (Target::Workers, Fault::WorkersComeAndGo) => self.workers_come_and_go(duration, rng).await?,
            (Target::Link(process, server), _) => {
                hits = Some(links::disturb(self.link(process, server)?, fault, duration, rng).await);
            }
            (Target::Partition(partition), _) => {
                hits = Some(self.disturb_queue(fault, PartitionId::new(partition), rng).await?);
            }
            _ => bail!("{fault} does not affect {target}"),
        }
        Ok((effect_us, hits))
    }

    async fn disturb_queue(
        &self,
        fault: Fault,
        partition: PartitionId,
        rng: &mut StdRng,
    ) -> anyhow::Result<u64> {
        match fault {
            Fault::StreamPurged => self.purge_stream(partition).await,
            Fault::StreamDeleted => self.delete_stream(partition).await,
            Fault::MessagesDuplicated => self.duplicate_messages(partition, rng).await,
            Fault::UndecodableMessages => self.publish_undecodable(partition, rng).await,
            Fault::ForgedBatch => self.forge_batch(partition, rng).await,
            _ => bail!("{fault} does not affect a partition"),
        }
    }
}
