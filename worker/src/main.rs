//! The `coupon-worker` process.

use std::process::ExitCode;

use clap::Parser;
use common::config::Env;
use common::version::VERSION;
use common::{exit, runtime, shutdown, telemetry};
use worker::{Config, Worker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Takes no arguments; an unknown one is an error.
#[derive(Parser)]
#[command(name = "coupon-worker", version = VERSION, about, after_help = common::config::HELP)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    exit::code(run())
}

fn run() -> anyhow::Result<()> {
    let env = Env::load()?;
    telemetry::init(&env)?;
    let config = Config::from_env(&env)?;
    runtime::block_on(work(config))
}

async fn work(config: Config) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let Some(worker) = stop.run_until_cancelled(Worker::connect(config)).await else { return Ok(()) };
    worker?.run(stop).await
}
