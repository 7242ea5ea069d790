//! The command line.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, value_parser};

use crate::run::Options;
use crate::schedule::{FAULTS_MAX, Fault, Shape, Theme, Themes};
use crate::skew;

/// How long an API waits for an outcome before it answers 202. Shorter than the default, so that pauses of a second
/// or two lead there.
pub(crate) const CLAIM_TIMEOUT_MS: u64 = 1_500;

/// The same of every other API of a run, so that there are many receipts.
const CLAIM_TIMEOUT_SHORT_MS: u64 = 200;

/// How often workers purge in a run. More often than by default, so that applied messages are purged while partitions
/// change hands.
const PURGE_INTERVAL_MS: u64 = 200;

/// The workers' lease in a run. Shorter than their default, so that more happens in a round.
const LEASE_MS: u64 = 1_000;

/// Faults of a round at most while versions are mixed.
const SKEW_FAULTS_MAX: usize = 3;

/// The highest number of a round to begin with, and the most rounds: any such two still add up.
const ROUNDS_MAX: i64 = 1_000_000_000;

/// Injects faults into a whole coupon system on this machine, and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "chaos", version = common::version::VERSION, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do instead of a run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks a recorded history again: a file, or a folder of them.
    Check {
        /// The file or folder.
        history: PathBuf,
    },
    /// Measures how long recovery takes, one fault at a time under a steady load.
    Drills(DrillArgs),
    /// Runs rounds in which processes of an older version work beside those of this one, with crashes in between.
    Skew(SkewArgs),
}

/// Arguments of `chaos drills`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// How often each is repeated.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) repeats: u32,
    /// The workers' lease time; their own default.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u64).range(200..=60_000))]
    pub(crate) lease_ms: u64,
    /// Takes the API and the worker from this folder instead of building them.
    #[arg(long)]
    pub(crate) bin_dir: Option<PathBuf>,
}

/// Arguments of `chaos skew`.
#[derive(Debug, Args)]
pub struct SkewArgs {
    /// Takes `coupon-api` and `coupon-worker` of the older version from this folder.
    #[arg(long)]
    pub(crate) old_bin_dir: PathBuf,
    /// Rounds to run. Five have all mixes: upgrade, roll-back, old APIs, old workers, side by side.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=ROUNDS_MAX))]
    pub(crate) rounds: u32,
    /// The source of all randomness: the same seed has the same schedule.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// How long each round is.
    #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u64).range(500..=600_000))]
    pub(crate) length_ms: u64,
    /// Concurrent clients.
    #[arg(long, default_value_t = 48, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) clients: u32,
    /// Keeps every history, the logs and the report in this folder.
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Takes the API and the worker of the newer version from this folder instead of building them.
    #[arg(long)]
    pub(crate) bin_dir: Option<PathBuf>,
}

impl SkewArgs {
    /// How to run, with all data under `folder`.
    pub(crate) fn options(&self, folder: &Path) -> Options {
        Options {
            first_round: 1,
            rounds: self.rounds,
            seed: self.seed,
            faults: skew::FAULTS.to_vec(),
            themes: Themes::None,
            length_ms: self.length_ms,
            faults_max: SKEW_FAULTS_MAX,
            clients: self.clients,
            shape: shape(LEASE_MS),
            small_disks: false,
            folder: folder.to_owned(),
            histories: self.keep.clone().unwrap_or_else(|| folder.join("histories")),
            keep_all: self.keep.is_some(),
        }
    }
}

/// The system of a run.
fn shape(lease_ms: u64) -> Shape {
    let claim_timeouts_ms = [CLAIM_TIMEOUT_MS, CLAIM_TIMEOUT_SHORT_MS];
    Shape {
        apis: 2,
        workers: 3,
        partitions: 4,
        lease_ms,
        claim_timeouts_ms,
        purge_interval_ms: PURGE_INTERVAL_MS,
    }
}

/// Arguments of a run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Shows the faults, what each does and what it threatens.
    #[arg(long)]
    pub list: bool,
    /// Rounds to run.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=ROUNDS_MAX))]
    pub(crate) rounds: u32,
    /// The round to begin with; repeats a part of a longer run.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=ROUNDS_MAX))]
    pub(crate) first_round: u32,
    /// The source of all randomness: the same seed has the same schedule.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Only these faults, by name.
    #[arg(long, value_delimiter = ',', hide_possible_values = true)]
    pub(crate) faults: Vec<Fault>,
    /// Not these faults, by name.
    #[arg(long, value_delimiter = ',', hide_possible_values = true)]
    pub(crate) without: Vec<Fault>,
    /// Only faults of one kind, in every round. Without it, and if no faults are named, every third round has a theme.
    #[arg(long, conflicts_with = "faults")]
    pub(crate) theme: Option<Theme>,
    /// Faults of a round at most. With one at a time recovery times are measured undisturbed.
    #[arg(long, alias = "strikes-max", default_value_t = FAULTS_MAX)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) faults_max: usize,
    /// How long faults are injected in each round.
    #[arg(long, default_value_t = 4_000, value_parser = value_parser!(u64).range(500..=600_000))]
    pub(crate) length_ms: u64,
    /// Concurrent clients.
    #[arg(long, default_value_t = 48, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) clients: u32,
    /// The workers' lease time. Shorter than their default, so that more happens in a round.
    #[arg(long, default_value_t = LEASE_MS, value_parser = value_parser!(u64).range(200..=60_000))]
    pub(crate) lease_ms: u64,
    /// A short run: 10 rounds of two seconds.
    #[arg(long, conflicts_with_all = ["rounds", "length_ms"])]
    pub(crate) quick: bool,
    /// Keeps every history, the logs and the report in this folder.
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Gives each server a small file system in memory, so that disks can be full. Needs the right to mount.
    #[arg(long)]
    pub(crate) small_disks: bool,
    /// Takes the API and the worker from this folder instead of building them.
    #[arg(long)]
    pub(crate) bin_dir: Option<PathBuf>,
}

impl RunArgs {
    /// How to run, with all data under `folder`.
    pub(crate) fn options(&self, folder: &Path) -> anyhow::Result<Options> {
        let (rounds, length_ms) = if self.quick { (10, 2_000) } else { (self.rounds, self.length_ms) };
        Ok(Options {
            first_round: self.first_round,
            rounds,
            seed: self.seed,
            faults: self.enabled_faults()?,
            themes: match self.theme {
                Some(theme) => Themes::Only(theme),
                None if self.faults.is_empty() => Themes::InTurn,
                None => Themes::None,
            },
            length_ms,
            faults_max: self.faults_max,
            clients: self.clients,
            shape: shape(self.lease_ms),
            small_disks: self.small_disks,
            folder: folder.to_owned(),
            histories: self.keep.clone().unwrap_or_else(|| folder.join("histories")),
            keep_all: self.keep.is_some(),
        })
    }

    /// The faults that may be injected. A run without any would find nothing, whatever is broken.
    fn enabled_faults(&self) -> anyhow::Result<Vec<Fault>> {
        let possible = |fault: &Fault| self.small_disks || !fault.needs_small_disk();
        if let Some(fault) = self.faults.iter().find(|fault| !possible(fault)) {
            anyhow::bail!("{fault} needs --small-disks");
        }
        let named = if self.faults.is_empty() { Fault::ALL } else { &self.faults };
        let mut enabled = named.to_vec();
        enabled.retain(|fault| possible(fault) && !self.without.contains(fault));
        ensure!(!enabled.is_empty(), "no fault is left to inject");
        Ok(enabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<RunArgs, clap::Error> {
        Cli::try_parse_from(["chaos"].iter().chain(args)).map(|cli| cli.run)
    }

    #[test]
    fn a_run_that_would_do_nothing_is_refused() {
        for args in [
            &["--rounds", "0"],
            &["--faults-max", "0"],
            &["--strikes-max", "0"],
            &["--first-round", "4294967295"],
            &["--quick", "--rounds=3"],
            &["--quick", "--length-ms=900"],
            &["--faults", "no-such-fault"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        let quick = parse(&["--quick", "--first-round", "1000000000"]).unwrap();
        assert_eq!(quick.enabled_faults().unwrap().len(), Fault::ALL.len() - 2);

        for args in [
            &["--faults", "disk-full-nats"][..],
            &["--faults", "delays,disk-full-nats"],
            &["--faults", "delays,slices", "--without", "slices,delays"],
        ] {
            assert!(parse(args).unwrap().enabled_faults().is_err(), "{args:?}");
        }
        let small = parse(&["--faults", "disk-full-nats", "--small-disks"]).unwrap();
        assert_eq!(small.enabled_faults().unwrap(), [Fault::DiskFullNats]);
    }
}
