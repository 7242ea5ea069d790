//! The `coupon-api` process.

use api::{Api, Config};
use clap::Parser;
use common::config::Env;
use common::{shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The HTTP front of the coupon system: takes claims, queues them and answers them.
///
/// All that can be set is set by environment variables, or in a file `.env` in the working directory: README.md
/// lists them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One that is not known is refused: whoever writes it expects something of it.
    let Arguments {} = Arguments::parse();
    let env = Env::load()?;
    telemetry::init(&env)?;
    let config = Config::from_env(&env)?;
    let stop = shutdown::on_signal()?;
    // A connection takes a file descriptor: as many as we may have.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let listener = api::listen(&config)?;
    let Some(api) = stop.run_until_cancelled(Api::connect(config)).await else { return Ok(()) };
    api?.run(listener, stop).await
}
