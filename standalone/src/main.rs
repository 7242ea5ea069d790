//! The whole coupon system on this machine: `cargo run --release`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::config::Env;
use common::{exit, runtime, shutdown, telemetry};
use servers::stack::{self, NatsUser, Servers};
use servers::system;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the whole coupon system on this machine: a private Postgres, a private nats-server, an API
/// and workers.
///
/// DATABASE_URL (or DB_PG_HOST) and NATS_URL name servers to use instead of private ones; PORT is the API's port
/// (default 8080). docs/configuration.md lists all variables.
#[derive(Debug, Parser)]
#[command(name = "standalone", version = common::version::VERSION)]
struct Arguments {
    /// Folder for the private servers' data; it survives a restart.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// Forget all data first.
    #[arg(long)]
    fresh: bool,
    /// Number of workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
}

fn main() -> ExitCode {
    exit::code(run(Arguments::parse()))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let env = Env::load()?;
    telemetry::init(&env)?;
    if stack::needs_postgres(&env) {
        forget_options();
    }
    runtime::block_on(start(arguments, env))
}

/// Removes `PGOPTIONS` from our environment. It is meant for another server, and might make every transaction
/// on the private one read-only. sqlx takes it from there for each connection, whatever the URL says.
#[expect(
    unsafe_code,
    reason = "PgConnectOptions only adds to what PGOPTIONS says, and offers no way to clear it"
)]
fn forget_options() {
    // SAFETY: there is one thread yet; the runtime starts later.
    unsafe { std::env::remove_var("PGOPTIONS") };
}

async fn start(arguments: Arguments, env: Env) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let folder = std::path::absolute(&arguments.data)?;
    if arguments.fresh {
        Servers::forget(&folder).await?;
    }
    let Some(servers) = stop.run_until_cancelled(Servers::start(env, &folder)).await else { return Ok(()) };
    let servers = servers?;
    let result =
        system::run(&servers, arguments.workers, &stop, |address| announce(&servers, address.port())).await;
    servers.stop().await?;
    result
}

fn announce(servers: &Servers, port: u16) {
    println!("\nReady: http://localhost:{port}\n");
    if let Some(postgres) = servers.postgres() {
        // In quotes, because shells take a question mark for a pattern.
        println!("  Postgres  psql '{}'", postgres.url(stack::DATABASE));
    }
    if let Some((nats, passwords)) = servers.nats() {
        let password = passwords.of(NatsUser::Operator);
        println!("  NATS      nats -s nats://operator:{password}@127.0.0.1:{} stream report", nats.port());
    }
    println!("  Stop with Ctrl-C; the coupons are kept for the next start.\n");
}
