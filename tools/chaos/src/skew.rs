//! Two versions of the programs side by side: which process is of which version, round by round.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use crate::cluster::{Cluster, Stop, Version};
use crate::history::EventKind;
use crate::record::Log;
use crate::schedule::{Fault, Process};
use crate::seed::generator;

/// What is injected meanwhile: crashes, lost answers, and messages that not every version has to understand.
pub(crate) const FAULTS: &[Fault] = &[
    Fault::KillWorker,
    Fault::KillApi,
    Fault::KillNats,
    Fault::KillPostgres,
    Fault::PauseWorker,
    Fault::CommitAnswerLost,
    Fault::PublishAckLost,
    Fault::ReplyLost,
    Fault::MessagesDuplicated,
    Fault::UndecodableMessages,
    Fault::ForgedBatch,
    Fault::StreamDeleted,
];

/// Sets the order of the restarts apart from all other draws.
const RESTARTS: u64 = 1 << 33;

/// The share of processes that are killed to be replaced, instead of being told to stop.
const KILLED_SHARE: f64 = 0.3;

/// The first share of a round, in percent, in which nothing is replaced.
const BEFORE_PERCENT: u64 = 15;

/// Which process is of which version in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// All processes are old, and are replaced one by one.
    Upgrade,
    /// The other way round.
    RollBack,
    OldApis,
    OldWorkers,
    /// Old and new processes of both kinds.
    SideBySide,
}

impl Mix {
    const ALL: [Self; 5] = [Self::Upgrade, Self::RollBack, Self::OldApis, Self::OldWorkers, Self::SideBySide];

    /// The mix of a round. The first is an upgrade, so that the new version finds the tables of the old one.
    pub(crate) fn of(number: u32) -> Self {
        Self::ALL[number.saturating_sub(1) as usize % Self::ALL.len()]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::RollBack => "roll-back",
            Self::OldApis => "old APIs",
            Self::OldWorkers => "old workers",
            Self::SideBySide => "side by side",
        }
    }

    /// The version of a process at the beginning of the round.
    fn at_first(self, process: Process) -> Version {
        let is_old = match (self, process) {
            (Self::Upgrade, _)
            | (Self::OldApis, Process::Api(_))
            | (Self::OldWorkers, Process::Worker(_)) => true,
            (Self::RollBack | Self::OldApis | Self::OldWorkers, _) => false,
            (Self::SideBySide, Process::Api(number) | Process::Worker(number)) => number % 2 == 0,
        };
        if is_old { Version::Old } else { Version::New }
    }

    /// The version of all processes at its end, if they change.
    fn at_last(self) -> Option<Version> {
        match self {
            Self::Upgrade => Some(Version::New),
            Self::RollBack => Some(Version::Old),
            Self::OldApis | Self::OldWorkers | Self::SideBySide => None,
        }
    }

    /// Brings every process to its version, and waits until all are ready.
    pub(crate) async fn prepare(self, cluster: &Cluster, log: &Log) -> anyhow::Result<()> {
        for process in cluster.shape.processes() {
            replace(cluster, log, process, self.at_first(process), Stop::Terminate).await?;
        }
        cluster.ready().await
    }

    /// Replaces the processes one by one within the round, in a random order.
    pub(crate) async fn change(
        self,
        cluster: Arc<Cluster>,
        log: Arc<Log>,
        seed: u64,
        number: u32,
        length: Duration,
    ) -> anyhow::Result<()> {
        let Some(version) = self.at_last() else { return Ok(()) };
        let mut rng: StdRng = generator(seed, RESTARTS | u64::from(number));
        let mut processes = cluster.shape.processes();
        processes.shuffle(&mut rng);
        let before = length * u32::try_from(BEFORE_PERCENT)? / 100;
        let pause = (length - before) / u32::try_from(processes.len())?.max(1);
        sleep(before).await;
        for process in processes {
            let how = if rng.random_bool(KILLED_SHARE) { Stop::Kill } else { Stop::Terminate };
            replace(&cluster, &log, process, version, how).await?;
            sleep(pause).await;
        }
        Ok(())
    }
}

async fn replace(
    cluster: &Cluster,
    log: &Log,
    process: Process,
    version: Version,
    how: Stop,
) -> anyhow::Result<()> {
    let node = cluster.node(process)?;
    if node.version().await != version {
        node.stop(how).await?;
        node.set_version(version).await;
        log.event(EventKind::Replaced { process: node.name.clone(), version: version.name().to_owned() })?;
        node.start().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_begins_with_old_processes_and_has_every_mix() {
        let mixes: Vec<Mix> = (1..=5).map(Mix::of).collect();
        assert_eq!(mixes, Mix::ALL);
        assert_eq!(Mix::of(6), Mix::Upgrade);
        let processes = [Process::Api(0), Process::Api(1), Process::Worker(0), Process::Worker(1)];
        let old = |mix: Mix| processes.map(|process| mix.at_first(process) == Version::Old);
        assert_eq!(old(Mix::Upgrade), [true; 4]);
        assert_eq!(old(Mix::RollBack), [false; 4]);
        assert_eq!(old(Mix::OldApis), [true, true, false, false]);
        assert_eq!(old(Mix::OldWorkers), [false, false, true, true]);
        assert_eq!(old(Mix::SideBySide), [true, false, true, false]);
        let last = Mix::ALL.map(Mix::at_last);
        assert_eq!(last, [Some(Version::New), Some(Version::Old), None, None, None]);
    }
}
