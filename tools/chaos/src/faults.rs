//! Carries out the faults of a schedule on a running system.

mod links;
mod processes;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, sleep_until};

use crate::clients::Plan;
use crate::cluster::Cluster;
use crate::history::Happening;
use crate::record::Log;
use crate::schedule::{Fault, Strike};

/// What a strike did.
#[derive(Debug, Clone)]
pub struct Struck {
    /// The strike.
    pub strike: Strike,
    /// When it began.
    pub begin_us: u64,
    /// When it took effect, for processes that are killed or frozen.
    pub effect_us: u64,
    /// When it was over: the process was started again, the link was whole.
    pub end_us: u64,
    /// How often it hit something in flight, where that can be counted while it strikes. For others the
    /// requests count that were under way.
    pub hits: Option<u64>,
}

/// Strikes one round's system.
#[derive(Debug, Clone)]
pub struct Striker {
    /// The system.
    pub cluster: Arc<Cluster>,
    /// Where every strike is written down.
    pub log: Arc<Log>,
    /// The round's coupons, for forged claims.
    pub plan: Plan,
}

impl Striker {
    /// Carries out a strike at its time, counted from `start`.
    pub async fn strike(self, strike: Strike, start: Instant) -> anyhow::Result<Struck> {
        sleep_until(start + Duration::from_millis(strike.start_ms)).await;
        let (fault, target) = (strike.fault.to_string(), strike.target.to_string());
        let begin_us =
            self.log.event(Happening::FaultBegin { fault: fault.clone(), target: target.clone() })?;
        let (mut effect_us, mut hits) = (begin_us, None);
        match strike.fault {
            Fault::KillWorker | Fault::KillApi => effect_us = self.kill_node(&strike).await?,
            Fault::PauseWorker | Fault::PauseApi => effect_us = self.pause_node(&strike).await?,
            _ => hits = self.carry_out(&strike).await?,
        }
        let end_us = self.log.event(Happening::FaultEnd { fault, target, hits: hits.unwrap_or_default() })?;
        Ok(Struck { strike, begin_us, effect_us, end_us, hits })
    }

    async fn carry_out(&self, strike: &Strike) -> anyhow::Result<Option<u64>> {
        let mut rng = StdRng::seed_from_u64(strike.seed);
        let rng = &mut rng;
        let duration = Duration::from_millis(strike.duration_ms);
        match strike.fault {
            Fault::KillNats => self.kill_nats(duration).await?,
            Fault::KillPostgres => self.kill_postgres(duration).await?,
            Fault::KillEverything => self.kill_everything(duration, rng).await?,
            Fault::PauseNats => self.pause_nats(duration).await,
            Fault::PausePostgres => self.pause_postgres(duration).await,
            Fault::WorkersComeAndGo => self.workers_come_and_go(duration, rng).await?,
            Fault::RollingRestart => self.rolling_restart(duration, rng).await?,
            Fault::QueueRestored => self.restore_queue(duration).await?,
            Fault::DiskFullNats | Fault::DiskFullPostgres => self.fill_disk(strike.fault, duration).await?,
            Fault::StreamPurged => return self.purge_stream(strike.target).await.map(Some),
            Fault::StreamDeleted => return self.delete_stream(strike.target).await.map(Some),
            Fault::MessagesDuplicated => return self.duplicate_messages(strike.target, rng).await.map(Some),
            Fault::Undecodable => return self.publish_nonsense(strike.target, rng).await.map(Some),
            Fault::ForgedBatch => return self.forge_batch(strike.target, rng).await.map(Some),
            Fault::CommitAnswerLost
            | Fault::PostgresCut
            | Fault::PublishAckLost
            | Fault::ReplyLost
            | Fault::DeliveryDelayed
            | Fault::NatsCut
            | Fault::PartitionBoth
            | Fault::PartitionOneWay
            | Fault::Delays
            | Fault::Slices
            | Fault::Refused => return Ok(Some(self.disturb_link(strike, duration, rng).await)),
            Fault::KillWorker | Fault::KillApi | Fault::PauseWorker | Fault::PauseApi => {}
        }
        Ok(None)
    }

    /// Leaves no room under a server, and then gives it back.
    async fn fill_disk(&self, fault: Fault, duration: Duration) -> anyhow::Result<()> {
        let Some(disks) = self.cluster.disks() else { return Ok(()) };
        let disk = if fault == Fault::DiskFullNats { &disks.nats } else { &disks.postgres };
        disk.fill().await?;
        sleep(duration).await;
        disk.free()?;
        if fault == Fault::DiskFullNats {
            // A nats-server that could not write to a stream does not write to it again, room or not, until
            // it is started anew. Whoever runs it has to do that.
            let mut nats = self.cluster.nats.lock().await;
            nats.kill().await?;
            nats.restart().await?;
        }
        // Postgres may have given up.
        self.cluster.restart_servers_that_ended().await
    }
}
