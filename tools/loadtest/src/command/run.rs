//! `loadtest run`

use std::fs;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use common::escape::escaped;

use crate::drive::{Mix, Pace, Plan, threads_default};
use crate::report::{self, Progress};
use crate::sale::Sale;
use crate::target::Target;

/// Requests per second of an open loop.
const RATES: RangeInclusive<f64> = 0.001..=1e7;

/// The longest of all lengths of time that are asked for: a week.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// New users when neither a number of them nor a time is given.
const USERS_DEFAULT: u32 = 100_000;

/// A flash sale against any server of this API.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The server; several share the connections when given more than once.
    #[arg(long, default_value = "http://localhost:8080")]
    url: Vec<Target>,
    /// Users who ask, each for one coupon [default: 100000, or as many as fit into --duration].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    users: Option<u32>,
    /// How many there are of each coupon.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    stock: u32,
    /// Keep-alive connections; in a closed loop each has one request under way.
    #[arg(long, default_value = "256")]
    connections: NonZeroUsize,
    /// Open loop: requests per second, sent whether or not earlier ones are answered; latency counts from when a
    /// request was due. Needs enough connections.
    #[arg(long)]
    rate: Option<f64>,
    /// For how long new requests are sent, such as 30s or 2m [default: until every user has asked].
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Number of coupons.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    coupons: u32,
    /// Zipf exponent of the coupons' popularity: 0 for all alike, 1 for a few that most want.
    #[arg(long, default_value_t = 0.0)]
    skew: f64,
    /// Share of the requests in which a user asks for the same coupon again.
    #[arg(long, default_value_t = 0.0)]
    repeat_share: f64,
    /// Users who have claimed before the clock starts, and may be among the repeated ones.
    #[arg(long, default_value_t = 0)]
    earlier_users: u32,
    /// Name of the coupon, or how the names begin [default: one that no other run has].
    #[arg(long)]
    coupon: Option<String>,
    /// How often a request is sent again, with the same Idempotency-Key, after a 503 or a broken connection. With 0,
    /// these are counted, and no keys are sent.
    #[arg(long, default_value_t = 5)]
    retry: u32,
    /// How long to wait for an answer.
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Threads [default: half the number of cores; if that is more, one for every 128 connections, up to the number of cores].
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Another seed makes other users repeat and want other coupons.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many claims may end without an outcome (the connection broke, or the server was too busy to the end), and
    /// the run still pass.
    #[arg(long, default_value_t = 0)]
    unknown_max: u64,
    /// Does not compare the answers with what the API shows at the end.
    #[arg(long)]
    no_check: bool,
    /// Writes everything measured into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes throughput.svg and latency.svg into this folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

impl RunArgs {
    pub(super) fn execute(self) -> anyhow::Result<ExitCode> {
        let (json, plots) = (self.json.clone(), self.plots.clone());
        let sale = self.into_sale()?;
        let mut progress = Progress::new(sale.pace.requests(&Plan::new(&sale.mix), sale.length));
        let report = sale.run(|stretch| progress.update(stretch))?;
        progress.finish();
        print!("{}", escaped(&report::table(&report)));
        if let Some(file) = json {
            let text = serde_json::to_string_pretty(&report::json(&report))?;
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        if let Some(folder) = plots {
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            report::throughput(
                &folder.join("throughput.svg"),
                "Decided claims per second",
                &report.timeline,
            )?;
            let total = &report.outcome.total;
            let mut curves =
                vec![("decided claims", &total.latency_us), ("won claims", &total.won_latency_us)];
            curves.retain(|(_, latency)| !latency.is_empty());
            report::latency(&folder.join("latency.svg"), "Latency by percentile", &curves)?;
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn into_sale(self) -> anyhow::Result<Sale> {
        let share_ok = (0.0..=1.0).contains(&self.repeat_share);
        ensure!(share_ok, "--repeat-share is a share, from 0 to 1");
        let repeats_only = self.repeat_share == 1.0;
        ensure!(!repeats_only || self.earlier_users > 0, "--repeat-share 1 needs --earlier-users");
        ensure!(!repeats_only || self.duration.is_some(), "--repeat-share 1 needs --duration");
        let rate_ok = self.rate.is_none_or(|rate| RATES.contains(&rate));
        ensure!(rate_ok, "--rate is a number from {} to {} per second", RATES.start(), RATES.end());
        ensure!(self.skew.is_finite() && self.skew >= 0.0, "--skew is 0 or a positive number");
        let connections = self.connections.get();
        let users = self.users.or(if self.duration.is_none() { Some(USERS_DEFAULT) } else { None });
        Ok(Sale {
            targets: self.url,
            coupon: self.coupon,
            stock: self.stock,
            mix: Mix {
                coupons: self.coupons,
                skew: self.skew,
                repeat_share: self.repeat_share,
                users,
                earlier_users: self.earlier_users,
                seed: self.seed,
            },
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
            length: self.duration,
            connections,
            threads: self.threads.map_or_else(|| threads_default(connections), NonZeroUsize::get),
            timeout: self.timeout,
            drain: self.timeout,
            retries: self.retry,
            unknown_max: Some(self.unknown_max),
            check: !self.no_check,
        })
    }
}

/// Reads a length of time such as `500ms`, `30s`, `2m` or plain seconds, from a millisecond to a week.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a length of time is written like 500ms, 30s or 2m".to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| "not a number")?;
    let length = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=DURATION_MAX).contains(&length) {
        Ok(length)
    } else {
        Err("a length of time is from 1ms to a week".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), duration("30"));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(duration("0").is_err() && duration("0.1ms").is_err() && duration("1e19s").is_err());
        assert!(duration("-1s").is_err() && duration("soon").is_err() && duration("3h").is_err());
    }
}
