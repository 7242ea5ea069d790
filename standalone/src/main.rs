//! The whole coupon system on this machine: `cargo run --release`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Parser;
use common::config::Env;
use common::{runtime, shutdown, telemetry};
use servers::stack::{self, NatsUser, Part, Servers};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the whole coupon system on this machine: a private Postgres, a private nats-server, an API
/// and workers.
///
/// DATABASE_URL (or DB_PG_HOST) and NATS_URL name servers to use instead of private ones; PORT is the API's port
/// (default 8080). Everything in the README's table of variables holds here too.
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

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let env = Env::load()?;
    telemetry::init(&env)?;
    if stack::needs_postgres(&env) {
        forget_options();
    }
    runtime::block_on(start(arguments, env))
}

/// Removes `PGOPTIONS` from our environment. It is meant for another server, and might make every transaction
/// on the private one read-only. sqlx takes it from there for each connection, whatever the URL says.
#[expect(unsafe_code, reason = "there is no other way to keep it from sqlx")]
fn forget_options() {
    // SAFETY: no other thread reads the environment meanwhile: the runtime starts later.
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
    let result = run(&servers, arguments.workers, &stop).await;
    servers.stop().await?;
    result
}

/// Runs the API and the workers until `stop`, or until anything ends by itself.
async fn run(servers: &Servers, workers: u8, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    let started = stop.run_until_cancelled(async {
        let (api, address) = Part::api(&servers.env(NatsUser::Api)).await?;
        parts.push(api);
        for _ in 0..workers {
            parts.push(Part::worker(&servers.env(NatsUser::Worker)).await?.0);
        }
        anyhow::Ok(address)
    });
    let result = match started.await {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(address)) => {
            announce(servers, address.port());
            watch(servers, &mut parts, stop).await
        }
    };
    // The API first: its claims in flight still need the workers.
    let mut results = vec![result];
    for part in parts {
        results.push(part.stop().await);
    }
    results.into_iter().collect()
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

/// Waits for the stop, or for the first part that ends without being asked to.
async fn watch(servers: &Servers, parts: &mut [Part], stop: &CancellationToken) -> anyhow::Result<()> {
    let mut ends: Vec<_> = parts.iter_mut().map(|part| Box::pin(part.ended())).collect();
    let any_end = std::future::poll_fn(|context| {
        for end in &mut ends {
            if let std::task::Poll::Ready(result) = end.as_mut().poll(context) {
                return std::task::Poll::Ready(result);
            }
        }
        std::task::Poll::Pending
    });
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = any_end => bail!("a part has ended: {ended:?}"),
        ended = servers.ended() => bail!("{ended}"),
    }
}
