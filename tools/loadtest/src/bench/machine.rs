//! Where the figures come from: machine, versions, commit.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::Serialize;
use servers::locate::Search;
use sqlx::{Connection, PgConnection};

/// Everything that figures depend on, apart from the program.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) memory_gib: f64,
    pub(super) kernel: String,
    pub(super) rustc: String,
    pub(super) postgres: String,
    pub(super) nats: String,
    /// Settings of Postgres that decide about durability.
    pub(super) durability: Vec<(String, String)>,
    /// Whether programs can be started with [`BATCH`].
    pub(super) batch: bool,
}

/// Starts a program whose threads displace nobody when they wake up: on a busy machine all get more done.
pub(super) const BATCH: [&str; 3] = ["chrt", "-b", "0"];

impl Machine {
    /// Looks around. `postgres_url` is the server used, `workspace` the folder of the sources.
    pub(super) async fn look(postgres_url: &str, workspace: &Path) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(postgres_url).await.context("asking Postgres")?;
        let (postgres, date): (String, String) = sqlx::query_as(
            "SELECT current_setting('server_version'), to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
        )
        .fetch_one(&mut connection)
        .await?;
        let durability = sqlx::query_as(
            "SELECT name, setting FROM pg_settings
             WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes') ORDER BY name",
        )
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            date,
            commit: commit(workspace),
            processor: line_of("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores,
            memory_gib: memory_gib().unwrap_or_default(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| std::env::consts::OS.to_owned(), |release| release.trim().to_owned()),
            rustc: output(Command::new("rustc").arg("--version")).unwrap_or_default(),
            postgres,
            nats: nats_version(&Search::from_env().nats_server().await?.path),
            durability,
            batch: output(Command::new(BATCH[0]).args(&BATCH[1..]).arg("true")).is_some(),
        })
    }

    /// All of it for a table, with `how` each figure was measured.
    pub(super) fn rows(&self, how: &str) -> [(&'static str, String); 8] {
        let durability = self.durability.iter().map(|(name, value)| format!("{name}={value}"));
        let durability = durability.collect::<Vec<_>>().join(", ");
        let Self { processor, cores, memory_gib, kernel, .. } = self;
        let scheduling = match self.batch {
            true => format!("APIs and workers, of all systems, are started with `{}`", BATCH.join(" ")),
            false => format!("as usual: there is no `{}`", BATCH[0]),
        };
        [
            ("each figure", how.to_owned()),
            ("measured", format!("{} at commit {}", self.date, self.commit)),
            (
                "machine",
                format!("{processor}, {cores} cores, {memory_gib:.0} GiB, Linux {kernel}; all on this one"),
            ),
            ("scheduling", scheduling),
            ("PostgreSQL", format!("{}, {durability}", self.postgres)),
            ("NATS", format!("{}, sync_interval: always", self.nats)),
            ("compiler", self.rustc.clone()),
            ("latency", "from when a claim was due until it was decided, in milliseconds".to_owned()),
        ]
    }
}

/// The commit of the sources, with a note if they have been changed since.
fn commit(workspace: &Path) -> String {
    let git = |arguments: &[&str]| output(Command::new("git").arg("-C").arg(workspace).args(arguments));
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "none".to_owned() };
    // The figures themselves are in the tree, and are about to change.
    let changes = git(&["status", "--porcelain", "--", ".", ":!docs"]).unwrap_or_default();
    if changes.is_empty() { hash } else { format!("{hash} and changes on top of it") }
}

/// What `nats-server --version` says, without its own name.
fn nats_version(program: &Path) -> String {
    let said = output(Command::new(program).arg("--version")).unwrap_or_default();
    said.rsplit(' ').next().unwrap_or_default().trim_start_matches('v').to_owned()
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn memory_gib() -> Option<f64> {
    let kib: f64 = line_of("/proc/meminfo", "MemTotal")?.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0 / 1024.0)
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}
