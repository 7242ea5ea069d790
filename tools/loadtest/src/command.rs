//! The command line.

mod bench;
mod peer;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use bench::BenchArgs;
pub use peer::PeerArgs;
pub use run::RunArgs;

/// Load generator and benchmark for the coupon API.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version = common::version::VERSION, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a flash sale against a server and checks its result.
    Run(Box<RunArgs>),
    /// Compares this system with other designs.
    Bench(BenchArgs),
    /// Serves the same API in another design, to compare with.
    #[command(hide = true)]
    Peer(PeerArgs),
}

impl Cli {
    /// Does what the arguments say. A failed check is exit code 1.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => args.execute(),
            Command::Bench(args) => args.execute(),
            Command::Peer(args) => args.execute(),
        }
    }
}
