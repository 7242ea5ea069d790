//! A run: round after round, each with its coupons, its clients, its faults and its check.

mod metrics;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::clients::{self, ClientGroup, Phase, Plan};
use crate::cluster::{Cluster, Versions};
use crate::faults::{Injected, Injector};
use crate::history::{EventKind, Round};
use crate::record::Log;
use crate::report::Report;
use crate::schedule::{self, Fault, Injection, Shape, Theme, Themes};
use crate::skew::Mix;
use crate::{checker, inspect};

/// How long the sale goes on after healing, to show how soon claims succeed again.
const AFTER_HEALING: Duration = Duration::from_millis(700);

/// How long clients may take to end in all. Each gives up long before.
const CLIENTS_LIMIT: Duration = Duration::from_secs(90);

/// How long faults may take beyond their round, for processes that are slow to start.
const FAULTS_LIMIT: Duration = Duration::from_secs(120);

/// With little load there are so many times fewer clients, and pauses of a client are as long as this.
const LITTLE_LOAD_CLIENTS_DIVISOR: u32 = 12;
const LITTLE_LOAD_PAUSE_MS_MAX: u64 = 800;

#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// From this round on, counted from 1.
    pub(crate) first_round: u32,
    pub(crate) rounds: u32,
    pub(crate) seed: u64,
    /// The faults that may be injected.
    pub(crate) faults: Vec<Fault>,
    pub(crate) themes: Themes,
    /// How long faults are injected in each round.
    pub(crate) length_ms: u64,
    /// Faults of a round at most.
    pub(crate) faults_max: usize,
    /// Concurrent clients.
    pub(crate) clients: u32,
    pub(crate) shape: Shape,
    pub(crate) small_disks: bool,
    /// Where servers and logs are kept during the run.
    pub(crate) folder: PathBuf,
    /// Where the histories go.
    pub(crate) histories: PathBuf,
    /// Whether histories of rounds without violations are kept.
    pub(crate) keep_all: bool,
}

/// Starts a system, runs all rounds on it, and stops it. Prints one line per round.
pub(crate) async fn run(options: &Options, versions: &Versions) -> anyhow::Result<Report> {
    let started = Instant::now();
    let cluster = Cluster::start(options.shape, versions, &options.folder, options.small_disks).await?;
    let args = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let command = format!("cargo run --release -p chaos -- {args}");
    // Processes of two versions are mixed if there is an old one.
    let mixed = versions.old.is_some();
    let mut report = Report { seed: options.seed, command, ..Report::default() };
    // What was logged at the start belongs to no round.
    cluster.take_errors()?;
    let mut unnoticed = Vec::new();
    for number in options.first_round..options.first_round + options.rounds {
        let (round_started, mix) = (Instant::now(), mixed.then(|| Mix::of(number)));
        let path = options.histories.join(format!("round-{number:05}.jsonl"));
        let (round, injected) = round(options, &cluster, number, &path, unnoticed, mix)
            .await
            .with_context(|| format!("round {number}: the test system failed"))?;
        let lost = round.state.queues.iter().filter(|queue| !queue.holds_last);
        unnoticed = lost.map(|queue| queue.partition).collect();
        let (took, violations) = (round_started.elapsed(), judge(&round, &injected, &mut report));
        if violations == 0 && !options.keep_all {
            std::fs::remove_file(&path)?;
        }
        report.seconds = started.elapsed().as_secs_f64();
        report.fenced = metrics::fenced(&cluster);
        for end in cluster.nodes().flat_map(|node| node.take_unexpected_ends()) {
            report.add_unexpected_end(format!("round {number}: {end}"));
        }
        print_round(options, mix, &round, &injected, took, violations, &report);
    }
    cluster.stop().await?;
    Ok(report)
}

/// `unnoticed` are the partitions whose streams lost messages in the round before, without a worker having seen it yet.
async fn round(
    options: &Options,
    cluster: &Arc<Cluster>,
    number: u32,
    history: &Path,
    unnoticed: Vec<u32>,
    mix: Option<Mix>,
) -> anyhow::Result<(Round, Vec<Injected>)> {
    let Options { seed, length_ms, shape, themes, .. } = *options;
    let log = Arc::new(Log::create(history)?);
    cluster.recorder.clear();
    log.event(EventKind::RoundBegin { round: number, seed })?;
    log.event(EventKind::QueueLoses { partitions: unnoticed })?;
    if let Some(mix) = mix {
        mix.prepare(cluster, &log).await?;
    }
    let generations = cluster.generations().await?;
    let has_little_load = themes.of(number).0.is_some_and(Theme::has_little_load);
    let mut plan = Plan::draw(seed, number, length_ms, shape.partitions);
    let mut clients = options.clients;
    if has_little_load {
        (plan.pause_ms_max, clients) =
            (LITTLE_LOAD_PAUSE_MS_MAX, clients.div_ceil(LITTLE_LOAD_CLIENTS_DIVISOR));
    }
    let injections =
        schedule::round(seed, number, length_ms, &shape, &options.faults, options.faults_max, themes);

    let (phase, watched) = watch::channel(Phase::Sale);
    let addresses = cluster.addresses();
    let group = ClientGroup { addresses, plan: plan.clone(), log: Arc::clone(&log), phase: watched };
    let clients_seed = seed.wrapping_add(u64::from(number) << 32);
    let claiming = tokio::spawn(clients::run(Arc::new(group), clients, clients_seed));
    let injector = Injector { cluster: Arc::clone(cluster), log: Arc::clone(&log), plan: plan.clone() };
    let length = Duration::from_millis(length_ms);
    let change = async {
        match mix {
            Some(mix) => mix.change(Arc::clone(cluster), Arc::clone(&log), seed, number, length).await,
            None => Ok(()),
        }
    };
    let (injected, ()) = try_join(inject_all(&injector, injections, length), change).await?;

    cluster.heal().await?;
    if injected.iter().any(|Injected { injection, .. }| injection.fault == Fault::DeliveryLost) {
        injector.publish_everywhere().await?;
    }
    log.event(EventKind::RoundHealed { round: number })?;
    sleep(AFTER_HEALING).await;
    phase.send_replace(Phase::Closing { since: Instant::now() });
    timeout(CLIENTS_LIMIT, claiming).await.context("clients do not end")???;
    let state = inspect::final_state(cluster, &plan.prefix, &generations).await?;
    if state.is_quiet() {
        log.event(EventKind::RoundQuiet { round: number })?;
        clients::ask_receipts(&log, &cluster.addresses()).await?;
    }
    log.event(EventKind::RoundEnd { round: number })?;
    Ok((log.end_round(state)?, injected))
}

/// Carries out all injections, and waits for the end of the round's length.
async fn inject_all(
    injector: &Injector,
    injections: Vec<Injection>,
    length: Duration,
) -> anyhow::Result<Vec<Injected>> {
    let start = Instant::now();
    let tasks = injections.into_iter().map(|injection| injector.clone().inject(injection, start));
    let mut tasks: JoinSet<_> = tasks.collect();
    let mut injected = Vec::new();
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            injected.push(ended??);
        }
        anyhow::Ok(())
    };
    timeout(length + FAULTS_LIMIT, all).await.context("the faults do not end")??;
    sleep_until(start + length).await;
    Ok(injected)
}

/// Checks a round, and adds it to the report. Returns the number of violations.
fn judge(round: &Round, injected: &[Injected], report: &mut Report) -> usize {
    let violations = checker::check(round);
    let count = violations.iter().map(|violation| 1 + violation.more).sum();
    metrics::add(report, round, injected);
    let names = injected
        .iter()
        .map(|Injected { injection, .. }| format!("{} on {}", injection.fault, injection.target));
    report.add_violations(round.number, &names.collect::<Vec<_>>(), violations);
    count
}

fn print_round(
    options: &Options,
    mix: Option<Mix>,
    round: &Round,
    injected: &[Injected],
    took: Duration,
    violations: usize,
    report: &Report,
) {
    let faults: Vec<String> = injected
        .iter()
        .map(|Injected { injection, .. }| format!("{} ({})", injection.fault, injection.target))
        .collect();
    let theme = options.themes.of(round.number).0.map(|theme| theme.to_string());
    let kind = mix.map(|mix| mix.name().to_owned()).or(theme);
    eprintln!(
        "round {:>4} of {}{}: {:>5} claims, {:>4} won, {:>4.1} s, {}; {} claims and {} violations so far; {}",
        round.number,
        options.first_round + options.rounds - 1,
        kind.map_or_else(String::new, |kind| format!(" ({kind})")),
        metrics::claims(round),
        round.state.claims.len(),
        took.as_secs_f64(),
        if violations == 0 { "kept".to_owned() } else { format!("{violations} VIOLATIONS") },
        report.claims,
        report.violations_total,
        faults.join(", "),
    );
}
