//! Recovery in figures: one fault at a time on a system under steady load, and nothing else.
//!
//! The rounds of a [`run`](crate::run) ask whether answers are true, whatever strikes at once. Drills ask
//! how long people notice anything: for how long a partition hands nothing out, how soon an API says that it
//! cannot, and when it can again.

mod judge;
mod load;
mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Binaries, Cluster, Manner};
use crate::report::Times;
use crate::schedule::Shape;
use judge::Drilled;
use load::Load;

pub use judge::{Figure, LIMITS};
pub use summary::Summary;

/// How long the load is steady before each drill: what is normal.
const BEFORE: Duration = Duration::from_millis(1_500);

/// How long a server is away.
const AWAY: Duration = Duration::from_secs(3);

/// How long is watched after everything goes on again.
const AFTER: Duration = Duration::from_millis(1_500);

/// How long anything may take to go on at all.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// How often that is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What is done to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drill {
    /// SIGKILL to a worker.
    WorkerKilled,
    /// The worker comes back, and the others hand partitions over to it.
    WorkerJoined,
    /// SIGTERM to a worker.
    WorkerStopped,
    /// SIGKILL to nats-server, and a restart.
    NatsKilled,
    /// SIGKILL to Postgres, and a restart.
    PostgresKilled,
    /// nats-server is frozen for a while: its connections stay open and silent.
    NatsFrozen,
    /// Postgres is.
    PostgresFrozen,
}

impl Drill {
    /// What the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker killed",
            Self::WorkerJoined => "worker joined",
            Self::WorkerStopped => "worker stopped",
            Self::NatsKilled => "NATS killed",
            Self::PostgresKilled => "Postgres killed",
            Self::NatsFrozen => "NATS frozen",
            Self::PostgresFrozen => "Postgres frozen",
        }
    }
}

/// What a repetition is made of, in this order.
const REPETITION: [Drill; 8] = [
    Drill::WorkerKilled,
    Drill::WorkerJoined,
    Drill::WorkerStopped,
    Drill::WorkerJoined,
    Drill::NatsKilled,
    Drill::PostgresKilled,
    Drill::NatsFrozen,
    Drill::PostgresFrozen,
];

/// How to drill.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each drill is repeated; workers take turns.
    pub repeats: u32,
    /// The system.
    pub shape: Shape,
    /// Where servers and logs are kept meanwhile.
    pub folder: PathBuf,
}

/// Samples of all figures.
pub type Figures = BTreeMap<(Drill, Figure), Times>;

/// Starts a system, drills it, and stops it. `progress` hears of each drill.
pub async fn run(
    options: &Options,
    binaries: &Binaries,
    mut progress: impl FnMut(Drill, u32),
) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(options.shape, binaries, &options.folder, false).await?;
    let load = Load::start(&cluster).await?;
    let mut figures = Figures::new();
    for number in 0..options.repeats {
        let worker = number as usize % cluster.workers.len();
        for drill in REPETITION {
            progress(drill, number + 1);
            let drilled = one(&cluster, &load, drill, worker)
                .await
                .with_context(|| format!("{}: the machinery failed", drill.name()))?;
            drilled.add_to(&mut figures);
        }
    }
    load.stop().await?;
    cluster.stop().await?;
    Ok(figures)
}

async fn one(cluster: &Arc<Cluster>, load: &Load, drill: Drill, worker: usize) -> anyhow::Result<Drilled> {
    // Whoever was here before may still be sharing out.
    let there = match drill {
        Drill::WorkerJoined => cluster.workers.len() - 1,
        _ => cluster.workers.len(),
    };
    shared_among(cluster, there).await?;
    load.clear();
    sleep(BEFORE).await;
    let (owners, memory_kib) = (cluster.owners().await?, load.memory_kib(cluster).await);
    let strike_us = load.now_us();
    match drill {
        Drill::WorkerKilled => cluster.workers[worker].hold_down(Manner::Crash).await?,
        Drill::WorkerStopped => cluster.workers[worker].hold_down(Manner::Orderly).await?,
        Drill::WorkerJoined => cluster.workers[worker].release().await?,
        Drill::NatsKilled => cluster.nats.lock().await.kill().await?,
        Drill::PostgresKilled => cluster.postgres.lock().await.kill().await?,
        Drill::NatsFrozen => _ = cluster.nats.lock().await.pause().await,
        Drill::PostgresFrozen => _ = cluster.postgres.lock().await.pause().await,
    }
    let mut grown_kib = None;
    let server = !matches!(drill, Drill::WorkerKilled | Drill::WorkerStopped | Drill::WorkerJoined);
    if server {
        sleep(AWAY).await;
        let now_kib = load.memory_kib(cluster).await;
        grown_kib = now_kib.iter().zip(&memory_kib).map(|(now, before)| now.saturating_sub(*before)).max();
    }
    let begin_return_us = load.now_us();
    match drill {
        Drill::NatsKilled => cluster.nats.lock().await.restart().await?,
        Drill::PostgresKilled => cluster.postgres.lock().await.restart().await?,
        Drill::NatsFrozen => _ = cluster.nats.lock().await.resume(),
        Drill::PostgresFrozen => _ = cluster.postgres.lock().await.resume(),
        Drill::WorkerKilled | Drill::WorkerStopped | Drill::WorkerJoined => {}
    }
    let back_us = load.now_us();
    let all_win = async {
        while !load.every_partition_won_since(back_us) {
            sleep(POLL).await;
        }
    };
    timeout(RECOVERY_LIMIT, all_win).await.context("some partition hands nothing out any more")?;
    if drill == Drill::WorkerJoined {
        shared_among(cluster, cluster.workers.len()).await?;
    }
    sleep(AFTER).await;
    let now = cluster.owners().await?;
    let moved = owners.iter().zip(&now).map(|(before, after)| before != after).collect();
    let (shots, readiness) = load.take();
    Ok(Drilled { drill, shots, readiness, moved, strike_us, begin_return_us, back_us, grown_kib })
}

/// Waits until so many workers have their fair shares.
async fn shared_among(cluster: &Cluster, workers: usize) -> anyhow::Result<()> {
    let shared = async {
        loop {
            let mut shares: BTreeMap<String, usize> = BTreeMap::new();
            for owner in cluster.owners().await? {
                *shares.entry(owner.unwrap_or_default()).or_default() += 1;
            }
            let (least, most) = (shares.values().min(), shares.values().max());
            if shares.len() == workers
                && !shares.contains_key("")
                && least.zip(most).is_some_and(|(least, most)| most - least <= 1)
            {
                return anyhow::Ok(());
            }
            sleep(POLL).await;
        }
    };
    timeout(RECOVERY_LIMIT, shared).await.context("the partitions are not shared out")?
}

/// When a drill began, for times within it.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now_us(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
