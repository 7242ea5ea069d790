//! Faults of a connection.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::injector::Injector;
use crate::proxy::{Direction, Matcher, OnHeal, Proxy, Rule, RuleHandle};
use crate::schedule::{Fault, Process, Server};

/// Bytes that a connection still carries before it is cut.
const CUT_BYTES_MAX: u64 = 6_000;

/// How often connections are cut again.
const CUT_INTERVAL: Duration = Duration::from_millis(150);

/// How many answers to commits one injection discards.
const COMMITS_MAX: u64 = 4;

/// How many frames one injection discards.
const FRAMES_MAX: u64 = 40;

/// One in so many deliveries is discarded.
const DELIVERIES_ONE_IN: RangeInclusive<u32> = 2..=10;

/// How long a delivery is held.
const HOLD_MS: RangeInclusive<u64> = 50..=900;

/// Shortest and longest delay on a link.
const DELAY_MS: (u64, u64) = (10, 500);

impl Injector {
    pub(super) fn link(&self, process: Process, server: Server) -> anyhow::Result<&Proxy> {
        let node = self.cluster.node(process)?;
        Ok(match server {
            Server::Nats => &node.nats,
            Server::Postgres => &node.postgres,
        })
    }
}

/// Disturbs a link for a while. Returns how often that affected something.
pub(super) async fn disturb(link: &Proxy, fault: Fault, duration: Duration, rng: &mut StdRng) -> u64 {
    if matches!(fault, Fault::PostgresCut | Fault::NatsCut) {
        return cut_repeatedly(link, duration, rng).await;
    }
    let rules: Vec<RuleHandle> = rules(fault, rng).into_iter().map(|rule| link.add_rule(rule)).collect();
    let cut = if fault == Fault::Refused { link.cut_all() } else { 0 };
    sleep(duration).await;
    rules.iter().for_each(|rule| link.remove_rule(rule));
    cut + rules.iter().map(RuleHandle::hits).sum::<u64>()
}

/// What a fault does to its link.
fn rules(fault: Fault, rng: &mut StdRng) -> Vec<Rule> {
    let direction = any_direction(rng);
    let on_heal = if rng.random_bool(0.5) { OnHeal::Deliver } else { OnHeal::Cut };
    let frames = |subject: &str| Matcher { subject: Some(subject.to_owned()), payload: None };
    match fault {
        Fault::CommitAnswerLost => {
            vec![Rule::CommitAnswerLost { times: rng.random_range(1..=COMMITS_MAX) }]
        }
        // An API's inbox has one branch for acknowledgements and one for workers' replies.
        Fault::PublishAckLost => vec![lost(frames(".a."), rng)],
        Fault::ReplyLost => vec![lost(frames(".r."), rng)],
        Fault::DeliveryLost => {
            let one_in = rng.random_range(DELIVERIES_ONE_IN);
            let (direction, matcher) = (Direction::ToClient, frames("claims."));
            vec![Rule::FramesLost { direction, matcher, times: FRAMES_MAX, one_in }]
        }
        Fault::DeliveryDelayed => {
            let hold = Duration::from_millis(rng.random_range(HOLD_MS));
            vec![Rule::FramesHeld { direction: Direction::ToClient, matcher: frames("claims."), hold }]
        }
        Fault::PartitionBoth => [Direction::ToServer, Direction::ToClient]
            .map(|direction| Rule::BlackHole { direction, on_heal })
            .into(),
        Fault::PartitionOneWay => vec![Rule::BlackHole { direction, on_heal }],
        Fault::Delays => {
            let max_ms = rng.random_range(DELAY_MS.0..=DELAY_MS.1);
            vec![Rule::Delay { min: Duration::from_millis(DELAY_MS.0), max: Duration::from_millis(max_ms) }]
        }
        Fault::Slices => vec![Rule::Slice],
        Fault::Refused => vec![Rule::Refuse],
        _ => Vec::new(),
    }
}

fn any_direction(rng: &mut StdRng) -> Direction {
    if rng.random_bool(0.5) { Direction::ToServer } else { Direction::ToClient }
}

fn lost(matcher: Matcher, rng: &mut StdRng) -> Rule {
    let times = rng.random_range(1..=FRAMES_MAX);
    Rule::FramesLost { direction: Direction::ToClient, matcher, times, one_in: 1 }
}

async fn cut_repeatedly(link: &Proxy, duration: Duration, rng: &mut StdRng) -> u64 {
    let end = Instant::now() + duration;
    let mut hits = 0;
    while Instant::now() < end {
        let direction = any_direction(rng);
        let bytes = rng.random_range(0..=CUT_BYTES_MAX);
        let rule = link.add_rule(Rule::CutAfter { direction, bytes, reset: rng.random_bool(0.5) });
        sleep(CUT_INTERVAL).await;
        link.remove_rule(&rule);
        hits += rule.hits();
    }
    hits
}
