//! See `loadtest --help`.

use std::process::ExitCode;

use clap::Parser;
use loadtest::command::Cli;

/// The peers answer many small requests, which is where the system's allocator is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    // Every connection takes a file descriptor, at both ends: as many as we may have.
    rlimit::increase_nofile_limit(u64::MAX)?;
    Cli::parse().execute()
}
