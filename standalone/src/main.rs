//! The whole coupon system on this machine: `cargo run --release`.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::config::Env;
use common::{exit, runtime, shutdown, telemetry};
use servers::stack::{self, NatsUser, Servers};
use servers::system;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where the commands with passwords are written that are not shown, in the data folder.
const COMMANDS_FILE: &str = "commands.txt";

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
    let ready = |address: SocketAddr| {
        if let Err(error) = announce(&servers, &folder, address.port()) {
            tracing::error!(%error, "cannot say how to reach the servers");
        }
    };
    let result = system::run(&servers, arguments.workers, &stop, ready).await;
    servers.stop().await?;
    result
}

/// Says where everything is. Passwords go to a terminal; otherwise, as whatever takes the output may keep it for others
/// to read, to a file in `folder`, which it names.
fn announce(servers: &Servers, folder: &Path, port: u16) -> io::Result<()> {
    let mut commands = String::new();
    if let Some(postgres) = servers.postgres() {
        // In quotes, because shells take a question mark for a pattern.
        commands += &format!("  Postgres  psql '{}'\n", postgres.url(stack::DATABASE));
    }
    if let Some((nats, passwords)) = servers.nats() {
        let (password, port) = (passwords.of(NatsUser::Operator), nats.port());
        commands +=
            &format!("  NATS      nats -s nats://operator:{password}@127.0.0.1:{port} stream report\n");
    }
    if !commands.is_empty() && !io::stdout().is_terminal() {
        let file = folder.join(COMMANDS_FILE);
        write_for_us(&file, &commands)?;
        commands = format!("  Postgres and NATS are reached with the commands in {}\n", file.display());
    }
    println!("\nReady: http://localhost:{port}\n");
    println!("{commands}  Stop with Ctrl-C; the coupons are kept for the next start.\n");
    Ok(())
}

/// Writes a file that nobody else can read, also if it was there.
fn write_for_us(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}
