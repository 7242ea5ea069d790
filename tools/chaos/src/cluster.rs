//! The whole system as real processes on this machine, every connection through a fault proxy of its own.
//!
//! Postgres and nats-server (with the project's own configuration), APIs and workers. Whoever checks or
//! disturbs the system connects to the servers directly.

mod binaries;
mod disk;
mod inspect;
mod journal;
mod lives;
mod node;
mod places;

use std::net::{Ipv4Addr, SocketAddr};
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

pub use binaries::Binaries;
pub use disk::copy_folder;
pub use disk::{Disk, Disks};
pub use inspect::memory_kib;
pub use journal::wall_clock_ns;
pub use lives::Loss;
pub use node::{Links, Manner, Node};

use crate::proxy::Tap;
use crate::schedule::Shape;
use journal::Recorder;
use places::Places;

/// How long every API may take to call itself ready after everything was healed.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How often that is asked.
const READY_POLL: Duration = Duration::from_millis(50);

/// How often processes are looked at that may have ended by themselves.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The running system.
#[derive(Debug)]
pub struct Cluster {
    /// What there is.
    pub shape: Shape,
    /// The APIs.
    pub apis: Vec<Node>,
    /// The workers.
    pub workers: Vec<Node>,
    /// The queue's server.
    pub nats: Mutex<Nats>,
    /// The database's server.
    pub postgres: Mutex<Postgres>,
    /// The queue, as its operator and past all proxies.
    pub queue: jetstream::Context,
    /// What workers were sent.
    journal: Arc<Recorder>,
    disks: Option<Disks>,
    database_url: String,
    folder: PathBuf,
    stop: CancellationToken,
}

impl Cluster {
    /// Starts everything, with its data under `folder`, and waits until it is ready. With `small_disks` each
    /// server gets a small file system of its own.
    pub async fn start(
        shape: Shape,
        binaries: &Binaries,
        folder: &Path,
        small_disks: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let disks = if small_disks { Some(Disks::mount(folder)?) } else { None };
        let postgres = Postgres::start(postgres_options(folder)).await?;
        let database_url = postgres.create_database(DATABASE).await?;
        let passwords = NatsPasswords::random();
        let nats = Nats::start(nats_options(folder, &passwords)?).await?;

        let operator = async_nats::ConnectOptions::new()
            .name("chaos")
            .user_and_password(NatsUser::Operator.name().into(), passwords.of(NatsUser::Operator).into())
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .request_timeout(Some(Duration::from_secs(2)))
            .connect(nats.url())
            .await
            .context("connecting to NATS as its operator")?;
        let (tap, tapped) = Tap::new();
        let journal = Recorder::start(tap.clone(), tapped);

        let places = Places { binaries, folder, passwords: &passwords, shape, tap: &tap };
        let (nats_addr, postgres_addr) = (loopback(nats.port()), loopback(postgres.port()));
        let mut apis = Vec::new();
        for number in 0..shape.apis {
            apis.push(places.api(number, nats_addr, postgres_addr, &database_url).await?);
        }
        let mut workers = Vec::new();
        for number in 0..shape.workers {
            workers.push(places.worker(number, nats_addr, postgres_addr, &database_url).await?);
        }
        let cluster = Arc::new(Self {
            shape,
            apis,
            workers,
            nats: Mutex::new(nats),
            postgres: Mutex::new(postgres),
            queue: jetstream::new(operator),
            journal,
            disks,
            database_url,
            folder: folder.to_owned(),
            stop: CancellationToken::new(),
        });
        for node in cluster.nodes() {
            node.release().await?;
        }
        cluster.ready().await?;
        tokio::spawn(Arc::clone(&cluster).watch());
        Ok(cluster)
    }

    /// All APIs and workers.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.apis.iter().chain(&self.workers)
    }

    /// Where the APIs listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.apis.iter().filter_map(|api| api.http).collect()
    }

    /// Where the logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells the journal that a stream has lost messages.
    pub fn lost(&self, partition: u32, loss: Loss) {
        self.journal.lost(partition, loss);
    }

    /// Tells the journal that a stream may have lost messages, nobody knows.
    pub fn doubt(&self, partition: u32) {
        self.journal.doubt(partition);
    }

    /// The servers' small disks, if they have any.
    pub fn disks(&self) -> Option<&Disks> {
        self.disks.as_ref()
    }

    /// The last sequence number of a partition that was applied.
    pub async fn cursor(&self, partition: u32) -> anyhow::Result<u64> {
        let mut connection = self.database().await?;
        let cursor: i64 = sqlx::query_scalar("SELECT last_seq FROM partitions WHERE id = $1")
            .bind(i32::try_from(partition)?)
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(cursor.unsigned_abs())
    }

    /// Who owns each partition.
    pub async fn owners(&self) -> anyhow::Result<Vec<Option<String>>> {
        let mut connection = self.database().await?;
        let owners = sqlx::query_scalar("SELECT owner::text FROM partitions ORDER BY id")
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        Ok(owners)
    }

    /// A connection to the database past all proxies.
    async fn database(&self) -> sqlx::Result<PgConnection> {
        let options: PgConnectOptions = self.database_url.parse()?;
        PgConnection::connect_with(&options.application_name("chaos")).await
    }

    /// Starts servers again that have ended, by a fault or by themselves.
    pub async fn restart_servers_that_ended(&self) -> anyhow::Result<()> {
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

    /// Forgets what workers were sent: a new round begins.
    pub fn clear_journal(&self) {
        self.journal.clear();
    }

    /// Undoes whatever a fault may have left: rules, pauses, processes that are down.
    pub async fn heal(&self) -> anyhow::Result<()> {
        if let Some(disks) = &self.disks {
            disks.postgres.free()?;
            disks.nats.free()?;
        }
        self.postgres.lock().await.resume();
        self.nats.lock().await.resume();
        self.restart_servers_that_ended().await?;
        for node in self.nodes() {
            node.links.nats.heal();
            node.links.postgres.heal();
            node.revive().await?;
        }
        Ok(())
    }

    /// Waits until every API calls itself ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
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

    /// Starts processes again that ended by themselves, as whatever runs them in production would.
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
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.stop.cancel();
        for node in self.nodes() {
            node.hold_down(Manner::Orderly).await?;
        }
        self.nats.lock().await.stop().await?;
        self.postgres.lock().await.stop().await?;
        Ok(())
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
