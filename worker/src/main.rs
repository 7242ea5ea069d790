//! The `coupon-worker` process.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use common::config::Env;
use common::version::VERSION;
use common::{exit, ops, runtime, shutdown, telemetry};
use worker::health::Health;
use worker::{Config, Migration, Worker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "coupon-worker", version = VERSION, about, after_help = common::config::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prepares Postgres, as the owner of the tables, and ends: tables, partitions, and the programs' roles
    Migrate,
}

fn main() -> ExitCode {
    exit::code(run(Arguments::parse()))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let env = Env::load()?;
    telemetry::init(&env)?;
    match arguments.command {
        Some(Command::Migrate) => {
            let migration = Migration::from_env(&env)?;
            runtime::block_on(migrate(migration))
        }
        None => {
            let config = Config::from_env(&env)?;
            runtime::block_on(work(config, env))
        }
    }
}

async fn migrate(migration: Migration) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let done = stop.run_until_cancelled(migration.run()).await;
    println!("coupon-worker migrate: {}", done.context("stopped before it was done")??);
    Ok(())
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
