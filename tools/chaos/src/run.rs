//! A run: round after round, each with its coupons, its clients, its faults and its check.

mod figures;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::checker;
use crate::clients::{Crowd, Phase, Plan};
use crate::cluster::{Binaries, Cluster};
use crate::faults::{Striker, Struck};
use crate::history::{Happening, Round, Writer};
use crate::record::Log;
use crate::report::Report;
use crate::schedule::{self, Fault, Shape, Strike};

/// How long the sale goes on after healing, so that it shows how soon claims go through again.
const AFTER_HEALING: Duration = Duration::from_millis(700);

/// How long clients may take to end in all. Each loses patience long before.
const CLIENTS_LIMIT: Duration = Duration::from_secs(90);

/// How long strikes may take beyond their round, for processes that are slow to start.
const STRIKES_LIMIT: Duration = Duration::from_secs(120);

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// From this round on, counted from 1.
    pub first_round: u32,
    /// So many rounds.
    pub rounds: u32,
    /// Where all chance comes from.
    pub seed: u64,
    /// The faults that may strike.
    pub faults: Vec<Fault>,
    /// How long faults strike in each round.
    pub length_ms: u64,
    /// Faults of a round at most.
    pub strikes_max: usize,
    /// Concurrent clients.
    pub clients: u32,
    /// The system.
    pub shape: Shape,
    /// Whether each server gets a small file system of its own.
    pub small_disks: bool,
    /// Where servers and logs are kept during the run.
    pub folder: PathBuf,
    /// Where the histories go.
    pub histories: PathBuf,
    /// Whether histories of rounds without violations stay.
    pub keep_all: bool,
    /// The command that repeats the run.
    pub command: String,
}

/// What a round came to, for the live display.
#[derive(Debug, Clone)]
pub struct RoundResult {
    /// Its number.
    pub number: u32,
    /// What struck.
    pub strikes: Vec<Strike>,
    /// Claims sent over HTTP.
    pub claims: u64,
    /// Coupons handed out.
    pub won: u64,
    /// Broken promises.
    pub violations: usize,
    /// How long it took in all.
    pub took: Duration,
}

/// Starts a system, runs all rounds on it, and stops it.
pub async fn run(
    options: &Options,
    binaries: &Binaries,
    mut progress: impl FnMut(&RoundResult, &Report),
) -> anyhow::Result<Report> {
    let started = Instant::now();
    let cluster = Cluster::start(options.shape, binaries, &options.folder, options.small_disks).await?;
    let mut report = Report { seed: options.seed, command: options.command.clone(), ..Report::default() };
    for number in options.first_round..options.first_round + options.rounds {
        let result = round(options, &cluster, number, &mut report)
            .await
            .with_context(|| format!("round {number}: the machinery failed"))?;
        report.rounds += 1;
        report.seconds = started.elapsed().as_secs_f64();
        report.fenced = figures::fenced(&cluster);
        for words in cluster.nodes().flat_map(|node| node.last_words()) {
            report.add_end(format!("round {number}: {words}"));
        }
        progress(&result, &report);
    }
    cluster.stop().await?;
    Ok(report)
}

async fn round(
    options: &Options,
    cluster: &Arc<Cluster>,
    number: u32,
    report: &mut Report,
) -> anyhow::Result<RoundResult> {
    let started = Instant::now();
    let path = options.histories.join(format!("round-{number:05}.jsonl"));
    let writer = Writer::create(&path)?;
    let log = Arc::new(Log::new(writer.recorder()));
    cluster.clear_journal();
    log.event(Happening::RoundBegin { round: number, seed: options.seed })?;
    let plan = Plan::draw(options.seed, number, options.length_ms, options.shape.partitions);
    let strikes = schedule::round(
        options.seed,
        number,
        options.length_ms,
        &options.shape,
        &options.faults,
        options.strikes_max,
    );

    let (phase, watched) = watch::channel(Phase::Sale);
    let addresses = cluster.addresses();
    let crowd = Crowd { addresses, plan: plan.clone(), log: Arc::clone(&log), phase: watched };
    let seed = options.seed.wrapping_add(u64::from(number) << 32);
    let clients = tokio::spawn(Arc::new(crowd).run(options.clients, seed));
    let striker = Striker { cluster: Arc::clone(cluster), log: Arc::clone(&log), plan: plan.clone() };
    let struck = strike_all(&striker, &strikes, Duration::from_millis(options.length_ms)).await?;

    cluster.heal().await?;
    log.event(Happening::RoundHealed { round: number })?;
    sleep(AFTER_HEALING).await;
    phase.send_replace(Phase::Closing { since: Instant::now() });
    timeout(CLIENTS_LIMIT, clients).await.context("clients do not end")???;
    let state = cluster.inspect(&plan.prefix).await?;
    log.event(Happening::RoundEnd { round: number })?;
    let round = log.end_round(state)?;
    drop(log);
    drop(striker);
    writer.close()?;
    Ok(judge(options, &round, struck, &path, report, started.elapsed())?)
}

/// Carries out all strikes, and waits for the end of the round's length.
async fn strike_all(striker: &Striker, strikes: &[Strike], length: Duration) -> anyhow::Result<Vec<Struck>> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for strike in strikes {
        tasks.spawn(striker.clone().strike(strike.clone(), start));
    }
    let mut struck = Vec::new();
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            struck.push(ended??);
        }
        anyhow::Ok(())
    };
    timeout(length + STRIKES_LIMIT, all).await.context("the faults do not end")??;
    tokio::time::sleep_until(start + length).await;
    Ok(struck)
}

/// Checks a round, and adds it to the report.
fn judge(
    options: &Options,
    round: &Round,
    struck: Vec<Struck>,
    history: &Path,
    report: &mut Report,
    took: Duration,
) -> std::io::Result<RoundResult> {
    let violations = checker::check(round);
    let figures = figures::add(report, round, &struck);
    let names: Vec<String> =
        struck.iter().map(|struck| format!("{} on {}", struck.strike.fault, struck.strike.target)).collect();
    if violations.is_empty() && !options.keep_all {
        std::fs::remove_file(history)?;
    }
    let count = violations.iter().map(|violation| 1 + violation.more).sum();
    report.add_violations(round.number, &names, violations);
    Ok(RoundResult {
        number: round.number,
        strikes: struck.into_iter().map(|struck| struck.strike).collect(),
        claims: figures.claims,
        won: figures.won,
        violations: count,
        took,
    })
}
