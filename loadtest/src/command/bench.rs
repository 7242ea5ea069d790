//! `loadtest bench`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::bench::{self, Options};

/// Repetitions and seconds per measurement, in full and in short.
const FULL: (u32, f64) = (3, 10.0);
const QUICK: (u32, f64) = (1, 3.0);

/// Measures this system beside other designs on the same machine and servers, and writes docs/PERFORMANCE.md.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// One short repetition; writes no documents unless --docs says where.
    #[arg(long)]
    quick: bool,
    /// Only these workloads: letters or names such as a256.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Only these systems: ceiling, row-lock, conditional, queue, queue-2.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    systems: Vec<String>,
    /// How often everything is measured [default: 3].
    #[arg(long)]
    repeats: Option<u32>,
    /// Length of one measurement; the open loop takes three times that [default: 10].
    #[arg(long)]
    seconds: Option<f64>,
    /// Uses the programs that are there already instead of building them.
    #[arg(long)]
    no_build: bool,
    /// Where PERFORMANCE.md is [default: the docs folder of the sources, when everything is measured].
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
    /// Writes everything measured into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl BenchArgs {
    pub(super) fn execute(self) -> anyhow::Result<ExitCode> {
        let (repeats, seconds) = if self.quick { QUICK } else { FULL };
        let everything = !self.quick && self.only.is_empty() && self.systems.is_empty();
        let (tables, sound) = bench::bench(&Options {
            workloads: self.only,
            systems: self.systems,
            repeats: self.repeats.unwrap_or(repeats).max(1),
            seconds: self.seconds.unwrap_or(seconds).clamp(0.5, 600.0),
            build: !self.no_build,
            docs: self.docs.or_else(|| everything.then(|| bench::workspace().join("docs"))),
            json: self.json,
        })?;
        println!("\n{tables}");
        Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
