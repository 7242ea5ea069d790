//! The systems under comparison, each as processes of its own on the same Postgres.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use servers::process::{Child, Program};
use servers::stack::{NatsPasswords, NatsUser, nats_options};
use servers::{Nats, Postgres, port};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::api::Client;
use crate::target::Target;

use super::machine::BATCH;
use super::usage::Watched;

/// How long a system may take to answer its first claims.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks at a system that is starting.
const POLL: Duration = Duration::from_millis(50);
/// Coupons claimed once before the measurement, so that every part of a system has worked.
const PROBES: usize = 32;

/// One column of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// An empty handler.
    Ceiling,
    /// A row lock per claim.
    RowLock,
    /// A conditional update per claim.
    Conditional,
    /// The system of this workspace.
    Queue {
        /// API processes.
        apis: usize,
        /// Worker processes.
        workers: usize,
    },
}

impl System {
    /// The system of this workspace, one process of each kind.
    pub(super) const QUEUE: Self = Self::Queue { apis: 1, workers: 1 };

    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 5] =
        [Self::Ceiling, Self::RowLock, Self::Conditional, Self::QUEUE, Self::Queue { apis: 2, workers: 2 }];

    /// All of them, in the order of the runs: [`Self::QUEUE`] stands between those that it is compared to most.
    pub(super) const BY_COMPARISON: [Self; 5] =
        [Self::Queue { apis: 2, workers: 2 }, Self::Ceiling, Self::QUEUE, Self::RowLock, Self::Conditional];

    /// Its name in the table and on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::RowLock => "row-lock",
            Self::Conditional => "conditional",
            Self::Queue { apis: 1, .. } => "queue",
            Self::Queue { .. } => "queue-2",
        }
    }

    /// What it is.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ceiling => "empty handler",
            Self::RowLock => "row lock",
            Self::Conditional => "conditional update",
            Self::Queue { apis: 1, .. } => "this system, 1 API + 1 worker",
            Self::Queue { .. } => "this system, 2 APIs + 2 workers",
        }
    }

    /// Whether there is anything to check afterwards.
    pub(super) fn keeps_claims(self) -> bool {
        self != Self::Ceiling
    }
}

/// Where the programs are, and where they may write.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) postgres: Postgres,
    /// The folder with `coupon-api` and `coupon-worker`.
    pub(super) binaries: PathBuf,
    pub(super) folder: PathBuf,
    /// Environment variables of this system's processes.
    pub(super) settings: Vec<(String, String)>,
    /// Whether APIs and workers are started with [`BATCH`].
    pub(super) batch: bool,
}

/// A system that serves claims.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) targets: Vec<Target>,
    pub(super) watched: Vec<Watched>,
    database: String,
    processes: Vec<Child>,
    nats: Option<Nats>,
}

impl Ground {
    /// Starts `system` on an empty database of its own. `run` is a number that no other start has.
    pub(super) async fn start(&self, system: System, run: u32) -> anyhow::Result<Running> {
        let database = format!("bench_{run}");
        let url = self.postgres.create_database(&database).await?;
        let mut running = Running {
            targets: Vec::new(),
            watched: vec![Watched { role: "postgres", pid: self.postgres.pid(), tree: true }],
            database,
            processes: Vec::new(),
            nats: None,
        };
        let folder = self.folder.join(format!("{run}-{}", system.name()));
        std::fs::create_dir_all(&folder)?;
        match system {
            System::Queue { apis, workers } => self.queue(&mut running, &folder, &url, apis, workers).await?,
            peer => {
                let port = port::free()?;
                let program = self
                    .program(&std::env::current_exe()?, &folder, "peer.log")
                    .args(["peer", peer.name(), "--port", &port.to_string()])
                    .env("DATABASE_URL", &url);
                running.add("api", program.spawn().await?);
                running.targets.push(loopback(port)?);
            }
        }
        running.wait_until_it_works(&url, system).await?;
        // What the start wrote is not left for the measurement to flush.
        let mut connection = PgConnection::connect(&url).await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await?;
        connection.close().await?;
        Ok(running)
    }

    /// An API or a worker of any system: with nothing in its environment but what it is told.
    fn program(&self, path: &Path, folder: &Path, log: &str) -> Program {
        let program = match self.batch {
            true => Program::new(BATCH[0], folder.join(log)).args(&BATCH[1..]).arg(path),
            false => Program::new(path, folder.join(log)),
        };
        program.clean_env().folder(folder).env("OPS_PORT", "0")
    }

    async fn queue(
        &self,
        running: &mut Running,
        folder: &Path,
        database_url: &str,
        apis: usize,
        workers: usize,
    ) -> anyhow::Result<()> {
        let passwords = NatsPasswords::random();
        let nats = Nats::start(nats_options(folder, &passwords)?).await?;
        running.watched.push(Watched { role: "nats", pid: nats.pid(), tree: false });
        let program = |name: &str, user: NatsUser, log: String| {
            self.program(&self.binaries.join(name), folder, &log)
                .envs(self.settings.iter().cloned())
                .env("DATABASE_URL", database_url)
                .env("NATS_URL", nats.url())
                .env("NATS_USER", user.name())
                .env("NATS_PASSWORD", passwords.of(user))
        };
        for number in 1..=workers {
            let worker = program("coupon-worker", NatsUser::Worker, format!("worker-{number}.log"));
            running.add("worker", worker.spawn().await?);
        }
        for number in 1..=apis {
            let port = port::free()?;
            let api = program("coupon-api", NatsUser::Api, format!("api-{number}.log"))
                .env("HOST", "127.0.0.1")
                .env("PORT", port.to_string());
            running.add("api", api.spawn().await?);
            running.targets.push(loopback(port)?);
        }
        running.nats = Some(nats);
        Ok(())
    }

    /// Stops `running` and drops its database.
    pub(super) async fn stop(&self, running: Running) -> anyhow::Result<()> {
        for process in &running.processes {
            process.terminate(STOP_LIMIT).await?;
        }
        if let Some(nats) = &running.nats {
            nats.stop().await?;
        }
        let mut connection = PgConnection::connect(&self.postgres.url("postgres")).await?;
        let drop = AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", running.database));
        sqlx::query(drop).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

impl Running {
    fn add(&mut self, role: &'static str, process: Child) {
        self.watched.push(Watched { role, pid: process.pid(), tree: false });
        self.processes.push(process);
    }

    /// Claims a few coupons through every API until each is answered with a win.
    async fn wait_until_it_works(&self, database_url: &str, system: System) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for (api, target) in self.targets.iter().enumerate() {
            let mut client = Client::new(target)?;
            for probe in 0..PROBES {
                let coupon = format!("probe-{api}-{probe}");
                let made = json!({"name": coupon, "amount": 1});
                self.until(deadline, async || {
                    Ok(client.send("/api/coupons", Some(&made)).await?.status() == 201)
                })
                .await?;
                let claim = json!({"user_id": "probe", "coupon_name": coupon});
                self.until(deadline, async || {
                    // A claim that was pending before is claimed already now.
                    let status = client.send("/api/coupons/claim", Some(&claim)).await?.status().as_u16();
                    Ok(matches!(status, 200 | 409))
                })
                .await?;
            }
        }
        if let System::Queue { workers, .. } = system {
            self.wait_until_shared(database_url, workers, deadline).await?;
        }
        Ok(())
    }

    /// Waits until every worker owns some of the partitions.
    async fn wait_until_shared(
        &self,
        database_url: &str,
        workers: usize,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(database_url).await?;
        let wanted = i64::try_from(workers)?;
        loop {
            let owners: i64 = sqlx::query_scalar("SELECT count(DISTINCT owner) FROM partitions")
                .fetch_one(&mut connection)
                .await
                .context("looking at the partitions' owners")?;
            if owners == wanted {
                return Ok(connection.close().await?);
            }
            ensure!(Instant::now() < deadline, "{owners} of {workers} workers own partitions");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until(
        &self,
        deadline: Instant,
        mut works: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            let last = works().await;
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            for process in &self.processes {
                ensure!(process.is_running(), "a process has ended: {}", process.log_tail());
            }
            if Instant::now() >= deadline {
                match last {
                    Err(error) => return Err(error.context("the system does not come up")),
                    Ok(_) => bail!("the system does not answer its first claims with success"),
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn loopback(port: u16) -> anyhow::Result<Target> {
    format!("http://127.0.0.1:{port}").parse()
}
