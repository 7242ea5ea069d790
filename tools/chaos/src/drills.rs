//! Recovery in figures: one fault at a time on a system under steady load, and nothing else.
//!
//! The rounds of a [`run`](crate::run) ask whether answers are true, whatever faults coincide. Drills ask
//! what clients notice: for how long a partition hands nothing out, how soon an API says that it
//! cannot, and when it can again.

mod drill;
mod load;
mod metric;
mod observation;
mod summary;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{sleep, timeout};

pub(crate) use summary::Summary;

use crate::cluster::{Cluster, Stop, Versions, memory_kib};
use crate::schedule::Shape;
use drill::{Drill, REPETITION};
use load::Load;
use metric::Metrics;
use observation::Observation;

/// How long the load is steady before each drill: what is normal.
const BEFORE: Duration = Duration::from_millis(1_500);

/// How long a server is away.
const AWAY: Duration = Duration::from_secs(3);

/// How long the load is observed after recovery.
const AFTER: Duration = Duration::from_millis(1_500);

/// How long any recovery may take at all.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// How often that is checked.
const POLL: Duration = Duration::from_millis(20);

/// Starts a system under `folder`, runs all drills, and stops it. Workers take turns.
pub(crate) async fn run(
    repeats: u32,
    shape: Shape,
    folder: &Path,
    versions: &Versions,
) -> anyhow::Result<Metrics> {
    let cluster = Cluster::start(shape, versions, folder, false).await?;
    let load = Load::start(&cluster).await?;
    let mut metrics = Metrics::new();
    for number in 0..repeats {
        let worker = number as usize % cluster.workers.len();
        for drill in REPETITION {
            eprintln!("{} of {repeats}: {}", number + 1, drill.name());
            let observation = observe(&cluster, &load, drill, worker)
                .await
                .with_context(|| format!("{}: the test system failed", drill.name()))?;
            observation.add_to(&mut metrics);
        }
    }
    drop(load);
    cluster.stop().await?;
    Ok(metrics)
}

async fn observe(cluster: &Cluster, load: &Load, drill: Drill, worker: usize) -> anyhow::Result<Observation> {
    // Partitions may still be moving after the drill before.
    let all = cluster.workers.len();
    balanced_among(cluster, if drill == Drill::WorkerJoined { all - 1 } else { all }).await?;
    load.take();
    sleep(BEFORE).await;
    let (owners, memory_before) = (cluster.owners().await?, memory(cluster).await);
    let fault_us = load.now_us();
    match drill {
        Drill::WorkerKilled => cluster.workers[worker].stop(Stop::Kill).await?,
        Drill::WorkerStopped => cluster.workers[worker].stop(Stop::Terminate).await?,
        Drill::WorkerJoined => cluster.workers[worker].start().await?,
        Drill::Killed(server) => cluster.kill(server).await?,
        Drill::Paused(server) => _ = cluster.pause(server).await,
    }
    let mut grown_kib = None;
    if drill.server().is_some() {
        sleep(AWAY).await;
        let now = memory(cluster).await;
        grown_kib = now.iter().zip(&memory_before).map(|(now, before)| now.saturating_sub(*before)).max();
    }
    let begin_return_us = load.now_us();
    match drill {
        Drill::Killed(server) => cluster.restart(server).await?,
        Drill::Paused(server) => _ = cluster.resume(server).await,
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
        balanced_among(cluster, all).await?;
    }
    sleep(AFTER).await;
    let moved = owners.iter().zip(&cluster.owners().await?).map(|(before, after)| before != after).collect();
    let (samples, readiness) = load.take();
    Ok(Observation { drill, samples, readiness, moved, fault_us, begin_return_us, back_us, grown_kib })
}

/// What each API holds in memory, in KiB.
async fn memory(cluster: &Cluster) -> Vec<u64> {
    let mut all = Vec::new();
    for api in &cluster.apis {
        all.push(api.pid().await.and_then(memory_kib).unwrap_or_default());
    }
    all
}

/// Waits until so many workers share the partitions evenly.
async fn balanced_among(cluster: &Cluster, workers: usize) -> anyhow::Result<()> {
    let balanced = async {
        loop {
            let mut shares: BTreeMap<Option<String>, usize> = BTreeMap::new();
            for owner in cluster.owners().await? {
                *shares.entry(owner).or_default() += 1;
            }
            let even = shares.values().max() <= shares.values().min().map(|least| least + 1).as_ref();
            if even && shares.len() == workers && !shares.contains_key(&None) {
                return anyhow::Ok(());
            }
            sleep(POLL).await;
        }
    };
    timeout(RECOVERY_LIMIT, balanced).await.context("the partitions are not balanced")?
}
