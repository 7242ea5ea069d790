//! Faults that strike a connection.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::Striker;
use crate::proxy::{Imposed, Matcher, OnHeal, Proxy, Rule, Way};
use crate::schedule::{Fault, Strike, Target};

/// Bytes that a connection still carries before it is cut.
const CUT_BYTES_MAX: u64 = 6_000;

/// How often it is tried to cut a connection again.
const CUT_INTERVAL: Duration = Duration::from_millis(150);

/// How often one strike loses the answer to a commit.
const COMMITS_MAX: u64 = 4;

/// How many frames one strike loses.
const FRAMES_MAX: u64 = 40;

/// How long a delivery is held.
const HOLD_MS: std::ops::RangeInclusive<u64> = 50..=900;

/// Shortest and longest delay on a link.
const DELAY_MS: (u64, u64) = (10, 500);

impl Striker {
    fn link(&self, target: Target) -> Option<&Proxy> {
        let (apis, workers) = (&self.cluster.apis, &self.cluster.workers);
        match target {
            Target::ApiNats(number) => apis.get(number as usize).map(|node| &node.links.nats),
            Target::WorkerNats(number) => workers.get(number as usize).map(|node| &node.links.nats),
            Target::ApiPostgres(number) => apis.get(number as usize).map(|node| &node.links.postgres),
            Target::WorkerPostgres(number) => workers.get(number as usize).map(|node| &node.links.postgres),
            _ => None,
        }
    }

    /// Disturbs a link for a while. Returns how often that hit something.
    pub(super) async fn disturb_link(&self, strike: &Strike, duration: Duration, rng: &mut StdRng) -> u64 {
        let Some(link) = self.link(strike.target) else { return 0 };
        if matches!(strike.fault, Fault::PostgresCut | Fault::NatsCut) {
            return cut_again_and_again(link, duration, rng).await;
        }
        let imposed: Vec<Imposed> =
            rules(strike.fault, rng).into_iter().map(|rule| link.impose(rule)).collect();
        let cut = if strike.fault == Fault::Refused { link.cut_all() } else { 0 };
        sleep(duration).await;
        imposed.iter().for_each(|rule| link.lift(rule));
        cut + imposed.iter().map(Imposed::hits).sum::<u64>()
    }
}

/// What a fault does to its link.
fn rules(fault: Fault, rng: &mut StdRng) -> Vec<Rule> {
    let way = if rng.random_bool(0.5) { Way::ToServer } else { Way::ToClient };
    let on_heal = if rng.random_bool(0.5) { OnHeal::Deliver } else { OnHeal::Cut };
    let frames = |subject: &str| Matcher { subject: Some(subject.to_owned()), payload: None };
    match fault {
        Fault::CommitAnswerLost => {
            vec![Rule::CommitAnswerLost { times: rng.random_range(1..=COMMITS_MAX) }]
        }
        // An API's inbox has one branch for acknowledgements and one for workers' replies.
        Fault::PublishAckLost => lost(frames(".a."), rng),
        Fault::ReplyLost => lost(frames(".r."), rng),
        Fault::DeliveryDelayed => {
            let hold = Duration::from_millis(rng.random_range(HOLD_MS));
            vec![Rule::FramesHeld { way: Way::ToClient, matcher: frames("claims."), hold }]
        }
        Fault::PartitionBoth => {
            vec![Rule::Hole { way: Way::ToServer, on_heal }, Rule::Hole { way: Way::ToClient, on_heal }]
        }
        Fault::PartitionOneWay => vec![Rule::Hole { way, on_heal }],
        Fault::Delays => {
            let max_ms = rng.random_range(DELAY_MS.0..=DELAY_MS.1);
            vec![Rule::Delay { min: Duration::from_millis(DELAY_MS.0), max: Duration::from_millis(max_ms) }]
        }
        Fault::Slices => vec![Rule::Slice],
        Fault::Refused => vec![Rule::Refuse],
        _ => Vec::new(),
    }
}

fn lost(matcher: Matcher, rng: &mut StdRng) -> Vec<Rule> {
    vec![Rule::FramesLost { way: Way::ToClient, matcher, times: rng.random_range(1..=FRAMES_MAX) }]
}

async fn cut_again_and_again(link: &Proxy, duration: Duration, rng: &mut StdRng) -> u64 {
    let end = Instant::now() + duration;
    let mut hits = 0;
    while Instant::now() < end {
        let way = if rng.random_bool(0.5) { Way::ToServer } else { Way::ToClient };
        let bytes = rng.random_range(0..=CUT_BYTES_MAX);
        let rule = link.impose(Rule::CutAfter { way, bytes, reset: rng.random_bool(0.5) });
        sleep(CUT_INTERVAL).await;
        link.lift(&rule);
        hits += rule.hits();
    }
    hits
}
