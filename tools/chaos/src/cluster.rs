//! The whole system as real processes on this machine, each connection through a proxy of its own.
//!
//! Postgres and nats-server (with the project's own configuration), APIs and workers. The checks and the faults
//! connect to the servers directly.

mod binaries;
mod builder;
mod disk;
mod error_log;
mod generations;
mod journal;
mod memory;
mod node;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use servers::stack::{DATABASE, NatsPasswords, NatsUser, nats_options, postgres_options};
use servers::{Nats, Postgres};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) use binaries::{Binaries, Version, Versions};
pub(crate) use generations::Loss;
pub(crate) use journal::{StreamRecorder, recorded, wall_clock_ns};
pub(crate) use memory::memory_kib;
pub(crate) use node::{Node, Stop};

use crate::history::LogLine;
use crate::proxy::Tap;
use crate::schedule::{Process, Server, Shape};
use builder::NodeBuilder;
use disk::{Disk, Disks};

/// How long every API may take to be ready after everything was healed.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How often that is asked.
const READY_POLL: Duration = Duration::from_millis(50);

/// How often the processes are examined for unexpected ends.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The running system.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) shape: Shape,
    pub(crate) apis: Vec<Node>,
    pub(crate) workers: Vec<Node>,
    pub(crate) nats: Mutex<Nats>,
    postgres: Mutex<Postgres>,
    /// The queue, as its operator and past all proxies.
    pub(crate) queue: jetstream::Context,
    /// What workers received.
    pub(crate) recorder: Arc<StreamRecorder>,
    disks: Option<Disks>,
    database_url: String,
    /// Where the logs are.
    pub(crate) folder: PathBuf,
    stop: CancellationToken,
}

impl Cluster {
    /// Starts everything, with its data under `folder`, and waits until it is ready. If there is an old version, all
    /// processes are of that version at first. With `small_disks` each
    /// server gets a small file system of its own.
    pub(crate) async fn start(
        shape: Shape,
        versions: &Versions,
        folder: &Path,
        small_disks: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let disks = if small_disks { Some(Disks::mount(folder)?) } else { None };
        let postgres = Postgres::start(postgres_options(folder)).await?;
        let database_url = postgres.create_database(DATABASE).await?;
        let passwords = NatsPasswords::random();
        let nats = Nats::start(nats_options(folder, &passwords)?).await?;
        let queue = connect_as_operator(&nats, &passwords).await?;

        let (tap, tapped) = Tap::new();
        let recorder = StreamRecorder::start(tap.clone(), tapped);
        let builder = NodeBuilder {
            versions,
            folder,
            passwords: &passwords,
            shape,
            tap: &tap,
            nats: builder::loopback(nats.port()),
            postgres: builder::loopback(postgres.port()),
            database_url: &database_url,
        };
        let (mut apis, mut workers) = (Vec::new(), Vec::new());
        for number in 0..shape.apis {
            apis.push(builder.api(number).await?);
        }
        for number in 0..shape.workers {
            workers.push(builder.worker(number).await?);
        }
        let cluster = Arc::new(Self {
            shape,
            apis,
            workers,
            nats: Mutex::new(nats),
            postgres: Mutex::new(postgres),
            queue,
            recorder,
            disks,
            database_url,
            folder: folder.to_owned(),
            stop: CancellationToken::new(),
        });
        for node in cluster.nodes() {
            node.start().await?;
        }
        cluster.ready().await?;
        tokio::spawn(Arc::clone(&cluster).watch());
        Ok(cluster)
    }

    /// All APIs and workers.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.apis.iter().chain(&self.workers)
    }

    pub(crate) fn node(&self, process: Process) -> anyhow::Result<&Node> {
        let node = match process {
            Process::Api(number) => self.apis.get(number as usize),
            Process::Worker(number) => self.workers.get(number as usize),
        };
        node.with_context(|| format!("there is no {process}"))
    }

    /// Where the APIs listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.apis.iter().filter_map(|api| api.http).collect()
    }

    /// The small disk of a server, if it has one.
    pub(crate) fn disk(&self, server: Server) -> Option<&Disk> {
        self.disks.as_ref().map(|disks| disks.of(server))
    }

    pub(crate) async fn kill(&self, server: Server) -> Result<(), servers::Error> {
        match server {
            Server::Nats => self.nats.lock().await.kill().await,
            Server::Postgres => self.postgres.lock().await.kill().await,
        }
    }

    pub(crate) async fn restart(&self, server: Server) -> Result<(), servers::Error> {
        match server {
            Server::Nats => self.nats.lock().await.restart().await,
            Server::Postgres => self.postgres.lock().await.restart().await,
        }
    }

    pub(crate) async fn pause(&self, server: Server) -> bool {
        match server {
            Server::Nats => self.nats.lock().await.pause().await,
            Server::Postgres => self.postgres.lock().await.pause().await,
        }
    }

    pub(crate) async fn resume(&self, server: Server) -> bool {
        match server {
            Server::Nats => self.nats.lock().await.resume(),
            Server::Postgres => self.postgres.lock().await.resume(),
        }
    }

    /// Starts servers again that have ended, by a fault or unexpectedly.
    pub(crate) async fn restart_ended_servers(&self) -> Result<(), servers::Error> {
        let mut postgres = self.postgres.lock().await;
        if !postgres.is_running() {
            postgres.restart().await?;
        }
        drop(postgres);
        let mut nats = self.nats.lock().await;
        if !nats.is_running() {
            nats.restart().await?;
        }
        Ok(())
    }

    /// The last sequence number of a partition that was applied.
    pub(crate) async fn cursor(&self, partition: u32) -> anyhow::Result<u64> {
        let mut connection = self.database().await?;
        let cursor: i64 = sqlx::query_scalar("SELECT last_seq FROM partitions WHERE id = $1")
            .bind(i32::try_from(partition)?)
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(cursor.unsigned_abs())
    }

    /// The owner of each partition.
    pub(crate) async fn owners(&self) -> anyhow::Result<Vec<Option<String>>> {
        let mut connection = self.database().await?;
        let owners = sqlx::query_scalar("SELECT owner::text FROM partitions ORDER BY id")
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        Ok(owners)
    }

    /// The generation of each partition's stream.
    pub(crate) async fn generations(&self) -> anyhow::Result<Vec<u64>> {
        let mut connection = self.database().await?;
        let generations: Vec<i64> = sqlx::query_scalar("SELECT generation FROM partitions ORDER BY id")
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        Ok(generations.into_iter().map(i64::unsigned_abs).collect())
    }

    /// Takes the errors that all processes have logged since the last call.
    pub(crate) fn take_errors(&self) -> std::io::Result<Vec<LogLine>> {
        let lines = self.nodes().map(Node::take_errors).collect::<Result<Vec<_>, _>>()?;
        Ok(lines.into_iter().flatten().collect())
    }

    /// A connection to the database past all proxies.
    pub(crate) async fn database(&self) -> sqlx::Result<PgConnection> {
        let options: PgConnectOptions = self.database_url.parse()?;
        PgConnection::connect_with(&options.application_name("chaos")).await
    }

    /// Undoes what faults may have left: full disks, rules, pauses, stopped processes.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        for server in [Server::Postgres, Server::Nats] {
            self.disk(server).map_or(Ok(()), Disk::free)?;
            self.resume(server).await;
        }
        self.restart_ended_servers().await?;
        for node in self.nodes() {
            node.nats.clear_rules();
            node.postgres.clear_rules();
            node.reset().await?;
        }
        Ok(())
    }

    /// Waits until every API is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        for api in &self.apis {
            let ready = async {
                while !api.is_ready().await {
                    tokio::time::sleep(READY_POLL).await;
                }
            };
            tokio::time::timeout(READY_LIMIT, ready)
                .await
                .with_context(|| format!("{} is not ready after {READY_LIMIT:?}", api.name))?;
        }
        Ok(())
    }

    /// Starts processes again that ended unexpectedly, as a supervisor in production would.
    async fn watch(self: Arc<Self>) {
        while self.stop.run_until_cancelled(tokio::time::sleep(WATCH_INTERVAL)).await.is_some() {
            for node in self.nodes() {
                if let Err(error) = node.restart_if_ended().await {
                    tracing::error!(node = node.name, %error, "does not start again");
                }
            }
        }
    }

    /// Stops everything.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        self.stop.cancel();
        for node in self.nodes() {
            node.stop(Stop::Terminate).await?;
        }
        self.nats.lock().await.stop().await?;
        self.postgres.lock().await.stop().await?;
        Ok(())
    }
}

async fn connect_as_operator(nats: &Nats, passwords: &NatsPasswords) -> anyhow::Result<jetstream::Context> {
    let operator = async_nats::ConnectOptions::new()
        .name("chaos")
        .user_and_password(NatsUser::Operator.name().into(), passwords.of(NatsUser::Operator).into())
        .max_reconnects(None)
        .reconnect_delay_callback(|_| Duration::from_millis(50))
        .request_timeout(Some(Duration::from_secs(2)))
        .connect(nats.url())
        .await
        .context("connecting to NATS as its operator")?;
    Ok(jetstream::new(operator))
}
