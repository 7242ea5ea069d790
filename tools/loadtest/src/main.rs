//! See `loadtest --help`.

use std::process::ExitCode;

use clap::Parser;
use common::exit;
use loadtest::command::Cli;

/// The peers answer many small requests, which is where the system's allocator is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Every connection takes a file descriptor, at both ends: as many as we may have.
    let ended = rlimit::increase_nofile_limit(u64::MAX).map_err(Into::into);
    match ended.and_then(|_| Cli::parse().execute()) {
        Ok(code) => code,
        Err(error) => exit::code(Err(error)),
    }
}
