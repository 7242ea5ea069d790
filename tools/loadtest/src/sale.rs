//! A flash sale from beginning to end: make the coupons, drive the load, check what came of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::api::{self, Coupon};
use crate::drive::{self, Drive, Ledger, Mix, Outcome, Pace, Plan, Requests, Stretch};
use crate::target::Target;
use crate::timeline::{Sample, Timeline};
use crate::verify::{self, Check};

/// What to run.
#[derive(Debug, Clone)]
pub struct Sale {
    /// The servers, at least one; the connections take turns. Coupons are made and viewed through the first.
    pub targets: Vec<Target>,
    /// Name of the coupon, or the beginning of the names when there are several; `None` for a new one.
    pub coupon: Option<String>,
    /// How many of each coupon there are.
    pub stock: u32,
    /// Who asks for what. Its earlier users claim before the clock starts.
    pub mix: Mix,
    /// Closed or open loop.
    pub pace: Pace,
    /// How long new requests are sent; `None`: until every user has asked.
    pub length: Option<Duration>,
    /// Keep-alive connections.
    pub connections: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Time limit for one answer.
    pub timeout: Duration,
    /// How long after `length` to wait for answers, and to send what is overdue.
    pub drain: Duration,
    /// Repetitions after a 503 or a broken connection. Without any, no idempotency keys are sent.
    pub retries: u32,
    /// How many claims may stay without an outcome, and the run still pass; `None`: any number.
    pub unknown_max: Option<u64>,
    /// Whether to compare the answers with what the API shows at the end.
    pub check: bool,
}

/// How long the outcome of a pending claim is asked for.
const FOLLOW: Duration = Duration::from_secs(60);

/// What came of a sale.
#[derive(Debug)]
pub struct Report {
    /// What was run.
    pub sale: Sale,
    /// What was answered.
    pub outcome: Outcome,
    /// Rates and latencies over time.
    pub timeline: Vec<Sample>,
    /// What the answers say by themselves, and the comparison with the API if it was wanted.
    pub checks: Vec<Check>,
    /// How long the API took to show the coupons for that.
    pub viewed_in: Duration,
}

impl Report {
    /// Final answers per second.
    pub fn rate(&self) -> f64 {
        per_second(self.outcome.total.finished, self.outcome.elapsed)
    }

    /// Wins per second.
    pub fn won_rate(&self) -> f64 {
        per_second(self.outcome.total.won, self.outcome.elapsed)
    }

    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed())
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

impl Sale {
    /// Runs the sale from beginning to end. `progress` is called several times a second.
    ///
    /// # Errors
    /// When the server cannot be reached or does not let coupons be made.
    pub fn run(self, progress: impl FnMut(Option<&Stretch>)) -> anyhow::Result<Report> {
        self.prepare()?.drive(progress)?.check()
    }

    /// Makes the coupons and lets the earlier users claim.
    ///
    /// # Errors
    /// When the server cannot be reached or does not let coupons be made.
    pub fn prepare(self) -> anyhow::Result<Prepared> {
        let first = self.targets.first().context("no server was named")?;
        let tag = tag();
        let names = self.coupon_names(&tag);
        let keyed = self.retries > 0;
        let requests = self.targets.iter().map(|target| Requests::new(target, &names, &tag, keyed));
        let requests = requests.collect::<anyhow::Result<Vec<_>>>()?;
        let resolved = self.targets.iter().map(Target::resolve).collect::<std::io::Result<Vec<_>>>();
        let addresses = resolved.context("the server's address")?;
        let before = api::make_coupons(first, &names, self.stock)?;

        let earlier =
            Mix { users: Some(self.mix.earlier_users), earlier_users: 0, repeat_share: 0.0, ..self.mix };
        let drive = Drive { pace: Pace::Closed, length: None, ..self.drive(addresses.clone()) };
        let outcome = drive::drive(&drive, &Plan::new(&earlier), &requests, names.len(), |_| ())
            .context("the earlier users' claims")?;
        Ok(Prepared { sale: self, names, requests, addresses, before, earlier: outcome.ledger })
    }

    fn drive(&self, addresses: Vec<SocketAddr>) -> Drive {
        Drive {
            addresses,
            connections: self.connections,
            threads: self.threads,
            pace: self.pace,
            length: self.length,
            timeout: self.timeout,
            retries: self.retries,
            follow: FOLLOW,
            drain: self.drain,
            keeps_refused: self.mix.repeat_share > 0.0,
        }
    }

    fn coupon_names(&self, tag: &str) -> Vec<String> {
        let base = self.coupon.clone().unwrap_or_else(|| format!("flash-{tag}"));
        match self.mix.coupons {
            0 | 1 => vec![base],
            several => (0..several).map(|index| format!("{base}-{index:05}")).collect(),
        }
    }
}

/// A sale whose doors are about to open.
#[derive(Debug)]
pub struct Prepared {
    sale: Sale,
    names: Vec<String>,
    /// For each server.
    requests: Vec<Requests>,
    addresses: Vec<SocketAddr>,
    before: Vec<Coupon>,
    earlier: Ledger,
}

/// A sale that is over.
#[derive(Debug)]
pub struct Driven {
    prepared: Prepared,
    outcome: Outcome,
    timeline: Vec<Sample>,
}

impl Prepared {
    /// Drives the load. `progress` is called several times a second.
    ///
    /// # Errors
    /// When the threads cannot be set up.
    pub fn drive(self, mut progress: impl FnMut(Option<&Stretch>)) -> anyhow::Result<Driven> {
        let mut timeline = Timeline::default();
        let drive = self.sale.drive(self.addresses.clone());
        let plan = Plan::new(&self.sale.mix);
        let outcome = drive::drive(&drive, &plan, &self.requests, self.names.len(), |stretch| {
            if let Some(stretch) = &stretch {
                timeline.add(stretch);
            }
            progress(stretch.as_ref());
        })
        .context("the run")?;
        let timeline = timeline.finish(outcome.elapsed);
        Ok(Driven { prepared: self, outcome, timeline })
    }
}

impl Driven {
    /// Looks at the answers, and compares them with what the API shows if the sale asks for that.
    ///
    /// # Errors
    /// When the server does not show the coupons.
    pub fn check(self) -> anyhow::Result<Report> {
        let Self { prepared, mut outcome, timeline } = self;
        let Prepared { sale, names, requests, before, earlier, .. } = prepared;
        outcome.ledger.merge(earlier);
        let (server, requests) = sale.targets.first().zip(requests.first()).context("no server was named")?;
        let user_id = |user| requests.user_id(user);
        let mut checks = verify::answers(&outcome.ledger, sale.unknown_max, &user_id).to_vec();
        let mut viewed_in = Duration::ZERO;
        if sale.check {
            let asked = Instant::now();
            let after = api::view_coupons(server, &names, |id| requests.user_of(id))?;
            viewed_in = asked.elapsed();
            checks.extend(verify::verify(&outcome.ledger, &before, &after, &user_id));
        }
        Ok(Report { sale, outcome, timeline, checks, viewed_in })
    }
}

/// A short text that no other run has: from a random v4 UUID.
fn tag() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}
