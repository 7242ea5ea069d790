//! The `coupon-api` process.

use std::process::ExitCode;

use api::{Api, Config};
use clap::Parser;
use common::config::Env;
use common::version::VERSION;
use common::{exit, runtime, shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Takes no arguments; an unknown one is an error.
#[derive(Parser)]
#[command(name = "coupon-api", version = VERSION, about, after_help = common::config::HELP)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    exit::code(run())
}

fn run() -> anyhow::Result<()> {
    let env = Env::load()?;
    telemetry::init(&env)?;
    let config = Config::from_env(&env)?;
    runtime::block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    // A connection takes a file descriptor: as many as we may have.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let listener = api::listen(&config)?;
    let Some(api) = stop.run_until_cancelled(Api::connect(config)).await else { return Ok(()) };
    api?.run(listener, stop).await
}
