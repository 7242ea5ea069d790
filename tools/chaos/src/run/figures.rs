//! What a round adds to the report's figures.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};

use crate::cluster::Cluster;
use crate::faults::Struck;
use crate::history::{Answer, Endpoint, Op, Round, Verdict};
use crate::report::Report;
use crate::schedule::Fault;

/// Around a recovery that is measured, no other fault may strike, or it would be measured instead.
const ALONE_BEFORE_US: u64 = 300_000;
const ALONE_AFTER_US: u64 = 1_500_000;

/// A round's size.
pub(super) struct Figures {
    pub(super) claims: u64,
    pub(super) won: u64,
}

pub(super) fn add(report: &mut Report, round: &Round, struck: &[Struck]) -> Figures {
    let claims = round.ops.iter().filter(|op| op.endpoint == Endpoint::Claim).count() as u64;
    let won = round.state.claims.len() as u64;
    report.claims += claims;
    report.won += won;
    for op in &round.ops {
        *report.requests.entry(name(op)).or_default() += 1;
    }
    report.journals_with_gaps +=
        round.state.journals.iter().filter(|journal| !journal.complete).count() as u64;
    for struck in struck {
        let hits = struck.hits.unwrap_or_else(|| under_way(round, struck));
        report.add_strike(struck.strike.fault.name(), hits);
        if matches!(struck.strike.fault, Fault::StreamPurged | Fault::StreamDeleted) {
            report.waiting_before_losses += hits;
        }
    }
    recoveries(report, round, struck);
    handovers(report, round, struck);
    refusals(report, round);
    settling(report, round);
    Figures { claims, won }
}

fn name(op: &Op) -> String {
    let endpoint = match op.endpoint {
        Endpoint::Create => "create",
        Endpoint::Claim => "claim",
        Endpoint::Lookup => "look-up",
        Endpoint::Show => "show",
    };
    match &op.answer {
        Answer::Response(response) => {
            let code = response.code.as_deref().unwrap_or_default();
            format!("{endpoint} {} {code}", response.status).trim_end().to_owned()
        }
        Answer::Failed { how, .. } => format!("{endpoint} {how:?}"),
    }
}

/// Requests that were under way when a fault struck.
fn under_way(round: &Round, struck: &Struck) -> u64 {
    let at_us = struck.begin_us;
    round.ops.iter().filter(|op| op.start_us < at_us && at_us < op.end_us).count() as u64
}

/// How long claims took to go through again, on the slowest partition.
fn recoveries(report: &mut Report, round: &Round, struck: &[Struck]) {
    let partitions = partitions(round);
    for (place, this) in struck.iter().enumerate() {
        // A worker's partitions are taken over while it is away; a server has to be back.
        let (from_us, since) = match this.strike.fault {
            Fault::KillWorker => (this.effect_us, "since the kill"),
            Fault::PauseWorker => (this.effect_us, "since the pause"),
            Fault::KillNats | Fault::KillPostgres | Fault::PauseNats | Fault::PausePostgres => {
                (this.end_us, "since its return")
            }
            Fault::KillEverything => (this.end_us, "since the last start"),
            _ => continue,
        };
        let alone = struck.iter().enumerate().all(|(other_place, other)| {
            other_place == place
                || other.end_us + ALONE_BEFORE_US < this.begin_us
                || other.begin_us > from_us + ALONE_AFTER_US
        });
        if !alone {
            continue;
        }
        let mut first: BTreeMap<u32, u64> = BTreeMap::new();
        for op in round.ops.iter().filter(|op| op.endpoint == Endpoint::Claim && op.start_us >= from_us) {
            // A refusal may be known without the queue; a win is not.
            let won = op.verdict() == Verdict::Won;
            if let (true, Some(partition)) = (won, partitions.get(op.coupon.as_str())) {
                let first = first.entry(*partition).or_insert(op.end_us);
                *first = op.end_us.min(*first);
            }
        }
        if let Some(slowest_us) = first.values().max() {
            let name = format!("{}, {since}", this.strike.fault);
            report.recovery.entry(name).or_default().add((slowest_us - from_us) as f64 / 1_000.0);
        }
    }
}

/// How long a partition had no winner at most while its workers stopped and started in order.
fn handovers(report: &mut Report, round: &Round, struck: &[Struck]) {
    let partitions = partitions(round);
    for this in struck {
        if !matches!(this.strike.fault, Fault::WorkersComeAndGo | Fault::RollingRestart) || struck.len() > 1 {
            continue;
        }
        let mut wins: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for op in round.ops.iter().filter(|op| op.verdict() == Verdict::Won) {
            if let (true, Some(partition)) =
                ((this.begin_us..this.end_us).contains(&op.end_us), partitions.get(op.coupon.as_str()))
            {
                wins.entry(*partition).or_default().push(op.end_us);
            }
        }
        let gaps = wins.into_values().filter_map(|mut wins| {
            wins.sort_unstable();
            wins.windows(2).map(|pair| pair[1] - pair[0]).max()
        });
        if let Some(longest_us) = gaps.max() {
            let name = format!("{}, longest gap between two wins", this.strike.fault);
            report.recovery.entry(name).or_default().add(longest_us as f64 / 1_000.0);
        }
    }
}

fn partitions(round: &Round) -> HashMap<&str, u32> {
    round.state.coupons.iter().map(|coupon| (coupon.name.as_str(), coupon.partition)).collect()
}

/// How long clients waited to be told to try again.
fn refusals(report: &mut Report, round: &Round) {
    for op in round.ops.iter().filter(|op| op.verdict() == Verdict::TryAgain) {
        let code = op.response().and_then(|response| response.code.as_deref()).unwrap_or("no code");
        let millis = op.end_us.saturating_sub(op.start_us) as f64 / 1_000.0;
        report.figures.entry(format!("503 {code}")).or_default().add(millis);
    }
}

/// How long it took from healing until everyone had a definite answer.
fn settling(report: &mut Report, round: &Round) {
    if let (Some(healed_us), Some(last_us)) =
        (round.healed_us(), round.ops.iter().filter(|op| op.settles).map(|op| op.end_us).max())
    {
        let millis = last_us.saturating_sub(healed_us) as f64 / 1_000.0;
        report.figures.entry("healed until all settled".to_owned()).or_default().add(millis);
    }
}

/// Commits of former owners that the fence refused, from the workers' logs.
pub(super) fn fenced(cluster: &Cluster) -> u64 {
    let mut count = 0;
    for worker in &cluster.workers {
        for ending in ["log", "log.old"] {
            let path = cluster.folder().join(format!("{}.{ending}", worker.name));
            let Ok(file) = std::fs::File::open(path) else { continue };
            let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
            count += lines.filter(|line| contains(line, b"\"fenced\":true")).count() as u64;
        }
    }
    count
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    line.windows(text.len()).any(|window| window == text)
}
