//! A private Postgres.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::timeout;

use crate::cluster::{self, Cluster, SUPERUSER};
use crate::error::Error;
use crate::locate::{Search, Version};
use crate::port;
use crate::process::Program;
use crate::server::{self, Server};

/// How long one try to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

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

/// A running Postgres.
pub type Postgres = Server<Setup>;

/// What a server runs with.
#[derive(Debug)]
pub struct Setup {
    cluster: Cluster,
    options: Options,
    port: u16,
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
        Self::launch(Setup { cluster, options, port: 0 }).await
    }

    /// The connection URL of a database, as the superuser. It leaves nothing open that `PGSSLMODE` and its like,
    /// which are about other servers, could fill in. Only `PGOPTIONS` still counts: sqlx always adds it.
    pub fn url(&self, database: &str) -> String {
        let password = self.setup.cluster.password();
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.setup.port)
    }

    /// Where the server really keeps its data, password and logs.
    pub fn folder(&self) -> &Path {
        self.setup.cluster.folder()
    }

    /// The folder with the programs in use, among them perhaps `psql`.
    pub fn bin_dir(&self) -> &Path {
        self.setup.cluster.binary().folder()
    }

    /// Creates a database unless it exists; returns its URL.
    ///
    /// # Errors
    /// When the server refuses or cannot be reached.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        let failed = |source| Error::Database { doing: format!("create the database {name}"), source };
        let mut connection = self.setup.connect().await.map_err(failed)?;
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

impl server::Setup for Setup {
    const NAME: &str = "Postgres";
    const PORT_TAKEN: &str = "could not create any TCP/IP sockets";
    const PASSING: &[&str] = &["pre-existing shared memory block", "lock file"];
    // Fast: transactions are rolled back and buffers written. Immediate: neither.
    const STOP: &[(Signal, Duration)] =
        &[(Signal::SIGINT, Duration::from_secs(20)), (Signal::SIGQUIT, Duration::from_secs(10))];

    fn choose_ports(&mut self) -> io::Result<bool> {
        self.port = self.options.port.map_or_else(port::free, Ok)?;
        Ok(self.options.port.is_none())
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn version(&self) -> Version {
        self.cluster.binary().version
    }

    fn program(&self) -> Program {
        let port = self.port.to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("logging_collector", "off"),
        ];
        let unsafe_but_fast = [("fsync", "off"), ("full_page_writes", "off")];
        let unsafe_but_fast = unsafe_but_fast.into_iter().filter(|_| !self.options.fsync);
        let theirs = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings = ours.into_iter().chain(unsafe_but_fast).chain(theirs);
        self.cluster
            .program(&self.cluster.binary().path, "postgres.log")
            .arg("-D")
            .arg(self.cluster.data())
            .args(settings.flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]))
    }

    async fn is_ready(&self) -> Result<bool, &'static str> {
        match self.connect().await {
            Ok(connection) => {
                let _ = connection.close().await;
                Ok(true)
            }
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "28P01") => {
                Err("does not accept the password kept beside its data; start afresh or restore it")
            }
            Err(_) => Ok(false),
        }
    }

    async fn clear(&self) -> Result<(), Error> {
        self.cluster.clear().await
    }
}

impl Setup {
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(SUPERUSER)
            .password(self.cluster.password())
            .database("postgres")
            .ssl_mode(PgSslMode::Disable);
        let connected = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            connection.ping().await?;
            Ok(connection)
        };
        timeout(CONNECT_LIMIT, connected)
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
    }
}
