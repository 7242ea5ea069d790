//! What a round adds to the report.

use std::collections::HashMap;

use crate::cluster::Cluster;
use crate::faults::Injected;
use crate::history::{Answer, Endpoint, Op, Round, Verdict};
use crate::report::Report;
use crate::schedule::Fault;
use crate::wins::{self, Win};

/// No other fault may be active this long before and after a recovery, or it would be measured instead.
const ALONE_BEFORE_US: u64 = 300_000;
const ALONE_AFTER_US: u64 = 1_500_000;

pub(super) fn add(report: &mut Report, round: &Round, injected: &[Injected]) {
    report.rounds += 1;
    report.claims += claims(round);
    report.won += round.state.claims.len() as u64;
    for op in &round.ops {
        *report.requests.entry(name(op)).or_default() += 1;
    }
    report.journals_with_gaps +=
        round.state.journals.iter().filter(|journal| !journal.complete).count() as u64;
    report.discarded += round.state.journals.iter().map(|journal| journal.discarded).sum::<u64>();
    for this in injected {
        let hits = this.hits.unwrap_or_else(|| under_way(round, this.begin_us));
        let fault = this.injection.fault;
        report.add_fault(fault.to_string(), hits);
        if matches!(fault, Fault::StreamPurged | Fault::StreamDeleted) {
            report.waiting_before_losses += hits;
        }
    }
    recoveries(report, round, injected);
    refusals(report, round);
    settling(report, round);
}

/// Claims sent over HTTP.
pub(super) fn claims(round: &Round) -> u64 {
    round.ops.iter().filter(|op| op.endpoint == Endpoint::Claim).count() as u64
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

/// Requests that were under way at that moment.
fn under_way(round: &Round, at_us: u64) -> u64 {
    round.ops.iter().filter(|op| op.start_us < at_us && at_us < op.end_us).count() as u64
}

/// How long claims took to succeed again, on the slowest partition.
fn recoveries(report: &mut Report, round: &Round, injected: &[Injected]) {
    let partitions: HashMap<&str, u32> =
        round.state.coupons.iter().map(|coupon| (coupon.name.as_str(), coupon.partition)).collect();
    let wins = || {
        let claims = round.ops.iter().filter(|op| op.endpoint == Endpoint::Claim);
        claims.filter(|op| op.verdict() == Verdict::Won).filter_map(|op| {
            let partition = *partitions.get(op.coupon.as_str())?;
            Some(Win { partition, start_us: op.start_us, end_us: op.end_us })
        })
    };
    for (place, this) in injected.iter().enumerate() {
        let fault = this.injection.fault;
        // A worker's partitions are taken over while it is away; a server has to be back.
        let (from_us, since) = match fault {
            Fault::KillWorker => (this.effect_us, "since the kill"),
            Fault::PauseWorker => (this.effect_us, "since the pause"),
            Fault::KillNats | Fault::KillPostgres | Fault::PauseNats | Fault::PausePostgres => {
                (this.end_us, "since its return")
            }
            Fault::KillEverything => (this.end_us, "since the last start"),
            Fault::WorkersComeAndGo | Fault::RollingRestart if injected.len() == 1 => {
                let during = this.begin_us..this.end_us;
                let wins = wins().filter(|win| during.contains(&win.end_us));
                if let Some(longest_us) = wins::longest_gap_us(wins, 0..u64::MAX) {
                    let name = format!("{fault}, longest gap between two wins");
                    report.recovery.entry(name).or_default().add_us(longest_us);
                }
                continue;
            }
            _ => continue,
        };
        let alone = injected.iter().enumerate().all(|(other_place, other)| {
            other_place == place
                || other.end_us + ALONE_BEFORE_US < this.begin_us
                || other.begin_us > from_us + ALONE_AFTER_US
        });
        if let Some(slowest_us) = wins::recovery_us(wins(), from_us).filter(|_| alone) {
            report.recovery.entry(format!("{fault}, {since}")).or_default().add_us(slowest_us);
        }
    }
}

/// How long clients waited to be told to try again.
fn refusals(report: &mut Report, round: &Round) {
    for op in round.ops.iter().filter(|op| op.verdict() == Verdict::TryAgain) {
        let code = op.response().and_then(|response| response.code.as_deref()).unwrap_or("no code");
        let us = op.end_us.saturating_sub(op.start_us);
        report.durations.entry(format!("503 {code}")).or_default().add_us(us);
    }
}

/// How long it took from healing until everyone had a definite answer.
fn settling(report: &mut Report, round: &Round) {
    let last_us = round.ops.iter().filter(|op| op.settles).map(|op| op.end_us).max();
    if let Some((healed_us, last_us)) = round.healed_us().zip(last_us) {
        let us = last_us.saturating_sub(healed_us);
        report.durations.entry("healed until all settled".to_owned()).or_default().add_us(us);
    }
}

/// Commits of former owners that the fence refused, from the workers' logs.
pub(super) fn fenced(cluster: &Cluster) -> u64 {
    let logs = cluster.workers.iter().flat_map(|worker| {
        ["log", "log.old"].map(|ending| cluster.folder.join(format!("{}.{ending}", worker.name)))
    });
    let texts = logs.filter_map(|log| std::fs::read(log).ok());
    texts.map(|text| String::from_utf8_lossy(&text).matches("\"fenced\":true").count() as u64).sum()
}
