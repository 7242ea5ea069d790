//! The `chaos` program: tries to break the system, and says whether it could.

use std::process::ExitCode;

use chaos::args::{Cli, Command};
use chaos::commands;
use clap::Parser as _;
use common::escape::escaped;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let passed = match cli.command {
        Some(Command::Check { history }) => commands::check(&history),
        Some(Command::Drills(args)) => commands::drills(&args).await,
        Some(Command::Skew(args)) => commands::skew(&args).await,
        None if cli.run.list => Ok(commands::list()),
        None => commands::run(&cli.run).await,
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {}", escaped(&format!("{error:#}")));
            ExitCode::from(2)
        }
    }
}
