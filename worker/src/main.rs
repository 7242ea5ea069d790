//! The `coupon-worker` process.

use clap::Parser;
use common::config::Env;
use common::{shutdown, telemetry};
use worker::{Config, Worker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes claims from the queue, partition by partition, and applies them to Postgres.
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
    let Some(worker) = stop.run_until_cancelled(Worker::connect(config)).await else { return Ok(()) };
    worker?.run(stop).await
}
