//! A private Postgres on the loopback interface.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{self, Cluster, SUPERUSER};
use crate::error::{Error, io_error};
use crate::locate::Search;
use crate::port;
use crate::process::{Child, Program};

/// How long a start may take, the recovery after a crash included.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Pause between two looks at a server that is starting.
const START_POLL: Duration = Duration::from_millis(25);

/// How long one try to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a start that failed for a passing reason is repeated.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Pause between two such starts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// How long open transactions may take to be rolled back and buffers to be written.
const FAST_LIMIT: Duration = Duration::from_secs(20);

/// How long a stop without any of that may take.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);

/// Ports tried when the choice is ours.
const PORTS_MAX: usize = 5;

/// What a start that is worth repeating says: something of the former run has not gone yet.
const PASSING: [&str; 3] = ["pre-existing shared memory block", "lock file", PORT_TAKEN];

/// What it says when the port is taken.
const PORT_TAKEN: &str = "could not create any TCP/IP sockets";

/// How to run a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything of this server is kept: data, password, logs. Created when missing. As root it may
    /// be replaced by one that an unprivileged user can reach; [`Postgres::folder`] tells.
    pub data_dir: PathBuf,
    /// The port on 127.0.0.1; a free one if none is given.
    pub port: Option<u16>,
    /// Server settings, such as `("max_connections", "200")`.
    pub settings: Vec<(String, String)>,
    /// Whether commits wait for the disk. Without it data survives crashes of processes, including the
    /// server's own, but not a power cut.
    pub fsync: bool,
}

impl Options {
    /// A durable server on a free port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), port: None, settings: Vec::new(), fsync: true }
    }
}

/// A running server. Dropping it kills it; what it committed is there at the next start.
#[derive(Debug)]
pub struct Postgres {
    cluster: Cluster,
    settings: Vec<(String, String)>,
    port: u16,
    child: Child,
}

impl Postgres {
    /// Finds or fetches Postgres, prepares the folder at the first start, and runs the server until it
    /// accepts connections.
    ///
    /// # Errors
    /// When there is no Postgres, the folder is in use, or the server does not come up.
    pub async fn start(options: Options) -> Result<Self, Error> {
        Self::start_with(&Search::from_env(), options).await
    }

    /// Like [`start`](Self::start), with another way of finding the binaries.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_with(search: &Search, options: Options) -> Result<Self, Error> {
        let cluster = Cluster::open(search, &options.data_dir, options.fsync).await?;
        let mut settings = options.settings;
        if !options.fsync {
            let unsafe_but_fast = [("fsync", "off"), ("full_page_writes", "off")];
            settings.splice(0..0, unsafe_but_fast.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        for left in (0..PORTS_MAX).rev() {
            let port = match options.port {
                Some(port) => port,
                None => port::free().map_err(io_error("find a free port"))?,
            };
            match launch(&cluster, &settings, port).await {
                Ok(child) => return Ok(Self { cluster, settings, port, child }),
                // Someone else took the port between our looking and the server's binding it.
                Err(Error::Start { tail, .. })
                    if left > 0 && options.port.is_none() && tail.contains(PORT_TAKEN) => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last round returns")
    }

    /// The connection URL of a database, as the superuser. It leaves nothing open that `PGSSLMODE` and its like,
    /// which are about other servers, could fill in. Only `PGOPTIONS` counts all the same: sqlx adds what a URL says
    /// to it.
    pub fn url(&self, database: &str) -> String {
        let password = self.cluster.password();
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        self.cluster.password()
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where the server really keeps its data, password and logs.
    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    /// The folder with the programs in use, among them perhaps `psql`.
    pub fn bin_dir(&self) -> &Path {
        self.cluster.binaries().bin_dir()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        self.child.log()
    }

    /// True until the postmaster has ended. A paused one runs.
    pub fn is_running(&self) -> bool {
        self.child.is_running()
    }

    /// Waits for the end, whoever caused it.
    pub async fn ended(&self) -> ExitStatus {
        self.child.ended().await
    }

    /// Stops the server: open transactions are rolled back, connections closed. Escalates when that takes
    /// too long.
    ///
    /// # Errors
    /// When it cannot even be killed.
    pub async fn stop(&self) -> Result<(), Error> {
        self.child.stop(&[(Signal::SIGINT, FAST_LIMIT), (Signal::SIGQUIT, IMMEDIATE_LIMIT)]).await?;
        self.cluster.clear().await
    }

    /// Crashes the server: SIGKILL to the postmaster and all its backends.
    ///
    /// # Errors
    /// When some of them do not go away.
    pub async fn kill(&self) -> Result<(), Error> {
        self.child.kill().await?;
        // Backends that were being started just then.
        self.cluster.clear().await
    }

    /// Freezes the postmaster and all its backends: connections stay open, locks stay held, nothing answers.
    /// False when that does not succeed.
    pub async fn pause(&self) -> bool {
        self.child.pause().await
    }

    /// Lets them go on.
    pub fn resume(&self) -> bool {
        self.child.resume()
    }

    /// Starts the server again on the same port and data; stops it first if it runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<(), Error> {
        if self.is_running() {
            self.stop().await?;
        }
        self.child = launch(&self.cluster, &self.settings, self.port).await?;
        Ok(())
    }

    /// Creates a database unless it exists; returns its URL.
    ///
    /// # Errors
    /// When the server refuses or cannot be reached.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        let failed = |source| Error::Database { doing: format!("create the database {name}"), source };
        let mut connection = connect(&self.cluster, self.port).await.map_err(failed)?;
        let statement = AssertSqlSafe(format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
        match sqlx::raw_sql(statement).execute(&mut connection).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "42P04") => {}
            Err(error) => return Err(failed(error)),
        }
        connection.close().await.map_err(failed)?;
        Ok(self.url(name))
    }

    /// Removes everything that a server kept for `data_dir`, wherever that really is. For a fresh start.
    ///
    /// # Errors
    /// When the folder is in use or cannot be emptied.
    pub async fn remove(data_dir: &Path) -> Result<(), Error> {
        cluster::remove(data_dir).await
    }
}

/// Runs the server, again and again while something of a former run is in its way.
async fn launch(cluster: &Cluster, settings: &[(String, String)], port: u16) -> Result<Child, Error> {
    let deadline = Instant::now() + RETRY_LIMIT;
    loop {
        cluster.clear().await?;
        let child = command(cluster, settings, port).spawn().await?;
        match accept(cluster, port, &child).await {
            Ok(()) => {
                let version = cluster.binaries().version();
                tracing::info!(%version, port, pid = child.pid(), "Postgres is ready");
                return Ok(child);
            }
            Err(Error::Start { tail, reason, .. })
                if Instant::now() < deadline && PASSING.iter().any(|passing| tail.contains(passing)) =>
            {
                tracing::warn!(reason, "Postgres does not start yet");
                sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn command(cluster: &Cluster, settings: &[(String, String)], port: u16) -> Program {
    let ours = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", String::new()),
        ("logging_collector", "off".to_owned()),
    ];
    let ours = ours.iter().map(|(name, value)| (*name, value.as_str()));
    let theirs = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let settings = ours.chain(theirs).flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
    cluster
        .program(cluster.binaries().postgres(), "postgres.log")
        .arg("-D")
        .arg(cluster.data())
        .args(settings)
}

/// Waits until the server answers a query. It may first have to recover from a crash.
async fn accept(cluster: &Cluster, port: u16, child: &Child) -> Result<(), Error> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = child.status() {
            return Err(child.failure(format!("ended while starting ({status})")));
        }
        match connect(cluster, port).await {
            // The answer must come from our server, not from one that was faster to take the port.
            Ok(connection) if child.is_running() => {
                let _ = connection.close().await;
                return Ok(());
            }
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "28P01") => {
                let reason = "does not accept the password kept beside its data; start afresh or restore it";
                return Err(child.failure(reason));
            }
            _ if Instant::now() >= deadline => {
                return Err(child.failure(format!("does not accept connections after {START_LIMIT:?}")));
            }
            _ => sleep(START_POLL).await,
        }
    }
}

async fn connect(cluster: &Cluster, port: u16) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(SUPERUSER)
        .password(cluster.password())
        .database("postgres")
        .ssl_mode(PgSslMode::Disable);
    let connected = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        connection.ping().await?;
        Ok(connection)
    };
    timeout(CONNECT_LIMIT, connected)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}
