//! Carries out the faults of a schedule on a running system.

mod injector;
mod links;
mod processes;
mod queue;

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

pub(crate) use injector::Injector;

use crate::history::EventKind;
use crate::schedule::{Fault, Injection, Process, Server, Target};

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
        let duration = Duration::from_millis(injection.duration_ms);
        let (mut effect_us, mut hits) = (begin_us, None);
        let mut rng = StdRng::seed_from_u64(injection.seed);
        match injection.target {
            Target::Process(process) => {
                effect_us = self.disturb_process(injection.fault, process, duration).await?;
            }
            Target::Server(server) => self.disturb_server(injection.fault, server, duration).await?,
            Target::Link(process, server) => {
                let link = self.link(process, server)?;
                hits = Some(links::disturb(link, injection.fault, duration, &mut rng).await);
            }
            Target::Partition(partition) => {
                hits = Some(self.disturb_queue(injection.fault, partition, &mut rng).await?);
            }
            Target::Everything if injection.fault == Fault::KillEverything => {
                self.kill_everything(duration, &mut rng).await?;
            }
            Target::Everything => self.rolling_restart(duration, &mut rng).await?,
            Target::Workers => self.workers_come_and_go(duration, &mut rng).await?,
        }
        let hit_count = hits.unwrap_or_default();
        let end_us = self.log.event(EventKind::FaultEnd { fault, target, hits: hit_count })?;
        Ok(Injected { injection, begin_us, effect_us, end_us, hits })
    }

    /// Returns when the process was dead or stood still.
    async fn disturb_process(
        &self,
        fault: Fault,
        process: Process,
        duration: Duration,
    ) -> anyhow::Result<u64> {
        let node = self.cluster.node(process)?;
        match fault {
            Fault::KillApi | Fault::KillWorker => self.kill_node(node, duration).await,
            Fault::PauseApi | Fault::PauseWorker => Ok(self.pause_node(node, duration).await),
            _ => anyhow::bail!("{fault} does not affect {process}"),
        }
    }

    async fn disturb_server(&self, fault: Fault, server: Server, duration: Duration) -> anyhow::Result<()> {
        match fault {
            Fault::KillNats | Fault::KillPostgres => self.kill_server(server, duration).await,
            Fault::PauseNats | Fault::PausePostgres => {
                self.pause_server(server, duration).await;
                Ok(())
            }
            Fault::QueueRestored => self.restore_queue(duration).await,
            Fault::DiskFullNats | Fault::DiskFullPostgres => self.fill_disk(server, duration).await,
            _ => anyhow::bail!("{fault} does not affect {server}"),
        }
    }

    async fn disturb_queue(&self, fault: Fault, partition: u32, rng: &mut StdRng) -> anyhow::Result<u64> {
        match fault {
            Fault::StreamPurged => Ok(self.purge_stream(partition).await),
            Fault::StreamDeleted => Ok(self.delete_stream(partition).await),
            Fault::MessagesDuplicated => self.duplicate_messages(partition, rng).await,
            Fault::UndecodableMessages => Ok(self.publish_undecodable(partition, rng).await),
            Fault::ForgedBatch => self.forge_batch(partition, rng).await,
            _ => anyhow::bail!("{fault} does not affect partition {partition}"),
        }
    }
}
