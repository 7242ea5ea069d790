//! The `coupon-worker` process.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::config::Env;
use common::version::VERSION;
use common::{exit, ops, runtime, shutdown, telemetry};
use worker::health::Health;
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
    runtime::block_on(work(config, env))
}

async fn work(config: Config, env: Env) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let health = Arc::new(Health::default());
    if let Some(listener) = ops::listen(&env, ops::WORKER_OPS_PORT_DEFAULT).await? {
        let health = health.clone();
        tokio::spawn(ops::serve(listener, vec![Arc::new(move || health.report())], stop.clone()));
    }
    let Some(worker) = stop.run_until_cancelled(Worker::connect(config, health)).await else { return Ok(()) };
    worker?.run(stop).await
}
