//! `loadtest bench`

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use common::escape::escaped;

use crate::bench::{self, Options};

/// Repetitions and seconds per measurement, in full and in short.
const FULL: (u32, f64) = (3, 10.0);
const QUICK: (u32, f64) = (1, 3.0);
/// Seconds per measurement that may be asked for.
const SECONDS: RangeInclusive<f64> = 0.5..=600.0;

/// Measures this system beside other designs on the same machine and servers, and writes docs/benchmark.md.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// One short repetition; writes no documents unless --docs says where.
    #[arg(long)]
    quick: bool,
    /// Only these workloads: hot-1, hot-64, hot-256, hot-1024, flash-sale, coupons-64, coupons-10000, repeated,
    /// open-loop, endurance; hot for all that begin with it.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Only these systems: ceiling, row-lock, conditional, queue, queue-2.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    systems: Vec<String>,
    /// A setting of this system's APIs and workers, which inherit none, such as BATCHES_IN_FLIGHT=3.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// How often everything is measured [default: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: Option<u32>,
    /// Length of one measurement, from 0.5 to 600; the open loop takes three times that [default: 10].
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Uses the programs that are there already instead of building them.
    #[arg(long)]
    no_build: bool,
    /// Where benchmark.md and its plots are written [default: the docs folder of the sources, when everything is measured, and by a
    /// release build].
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
    /// Writes everything measured into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl BenchArgs {
    pub(super) fn execute(self) -> anyhow::Result<ExitCode> {
        let (repeats, seconds) = if self.quick { QUICK } else { FULL };
        let everything =
            !self.quick && self.only.is_empty() && self.systems.is_empty() && self.set.is_empty();
        let worth_writing = everything && !cfg!(debug_assertions);
        let (tables, sound) = bench::bench(&Options {
            workloads: self.only,
            systems: self.systems,
            settings: self.set,
            repeats: self.repeats.unwrap_or(repeats),
            seconds: self.seconds.unwrap_or(seconds),
            build: !self.no_build,
            docs: self.docs.or_else(|| worth_writing.then(|| bench::workspace().join("docs"))),
            json: self.json,
        })?;
        println!("\n{}", escaped(&tables));
        Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Reads a number of seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    if SECONDS.contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("a number from {} to {}", SECONDS.start(), SECONDS.end()))
    }
}

/// Reads a variable and its value.
fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a setting is written NAME=VALUE".to_owned()),
    }
}
