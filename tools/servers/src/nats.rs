//! A private nats-server with JetStream.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{Error, io_error};
use crate::folder::Folder;
use crate::locate::{Binary, Search, Version};
use crate::process::{Program, eventually};
use crate::server::{self, Server};
use crate::{port, tree};

/// How long one look at a server that is starting may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The longest first line that is read; real ones have about 500 bytes.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// How long a server that a former run left behind may take to stop.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);

/// Disk that JetStream may use under the configuration written here.
const FILE_STORE_BYTES_MAX: &str = "10GB";

/// How to run a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything of this server is kept: streams, configuration, log. Created when missing.
    pub store_dir: PathBuf,
    /// The clients' port on 127.0.0.1; a free one if none is given.
    pub port: Option<u16>,
    /// The monitoring port on 127.0.0.1; a free one if none is given.
    pub monitor_port: Option<u16>,
    /// A configuration file to use instead of the built-in one. Its address and ports are overridden. It
    /// must leave out `store_dir`: nats-server takes that from the file or from us, and refuses both. And it
    /// should say `http_port`, not `http`: an address given there cannot be overridden.
    pub config: Option<PathBuf>,
    /// Environment variables that the configuration file refers to.
    pub env: Vec<(String, String)>,
}

impl Options {
    /// A server with the built-in configuration on free ports.
    pub fn new(store_dir: impl Into<PathBuf>) -> Self {
        Self { store_dir: store_dir.into(), port: None, monitor_port: None, config: None, env: Vec::new() }
    }
}

/// A running nats-server.
pub type Nats = Server<Setup>;

/// What a server runs with.
#[derive(Debug)]
pub struct Setup {
    binary: Binary,
    folder: Folder,
    config: PathBuf,
    options: Options,
    port: u16,
    monitor_port: u16,
}

impl Nats {
    /// Finds or fetches nats-server and runs it until clients can connect and JetStream is ready.
    ///
    /// # Errors
    /// When there is no nats-server, the folder is in use, or the server does not come up.
    pub async fn start(options: Options) -> Result<Self, Error> {
        Self::start_with(&Search::from_env(), options).await
    }

    /// Like [`start`](Self::start), with another way of finding the program.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_with(search: &Search, options: Options) -> Result<Self, Error> {
        let binary = search.nats_server().await?;
        let folder = Folder::open(&options.store_dir).await?;
        let config = match &options.config {
            Some(config) => config.clone(),
            None => write_config(folder.path())?,
        };
        Self::launch(Setup { binary, folder, config, options, port: 0, monitor_port: 0 }).await
    }

    /// The URL for clients, without credentials.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.setup.port)
    }

    /// The URL of the monitoring pages.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.setup.monitor_port)
    }

    /// Where the server keeps its streams and log.
    pub fn folder(&self) -> &Path {
        self.setup.folder.path()
    }

    /// Removes everything that a server kept in `store_dir`. For a fresh start.
    ///
    /// # Errors
    /// When the folder is in use or cannot be emptied.
    pub async fn remove(store_dir: &Path) -> Result<(), Error> {
        let folder = Folder::open(store_dir).await?;
        clear(folder.path()).await?;
        folder.empty()
    }
}

impl server::Setup for Setup {
    const NAME: &str = "NATS";
    const PORT_TAKEN: &str = "address already in use";
    const PASSING: &[&str] = &[];
    const STOP: &[(Signal, Duration)] = &[(Signal::SIGTERM, Duration::from_secs(15))];

    fn choose_ports(&mut self) -> io::Result<bool> {
        let choose = |given: Option<u16>| given.map_or_else(port::free, Ok);
        self.port = choose(self.options.port)?;
        self.monitor_port = choose(self.options.monitor_port)?;
        Ok(self.options.port.is_none() && self.options.monitor_port.is_none())
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn version(&self) -> Version {
        self.binary.version
    }

    fn program(&self) -> Program {
        let folder = self.folder.path();
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        Program::new(&self.binary.path, folder.join("nats-server.log"))
            // It shares the machine with everything else: with a thread for every core, its Go runtime
            // spends much of its time on handing work from one to the other.
            .env("GOMAXPROCS", std::env::var("GOMAXPROCS").unwrap_or_else(|_| threads.to_string()))
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .args(["--jetstream", "--addr", "127.0.0.1"])
            .args(["--port".to_owned(), self.port.to_string()])
            .args(["--http_port".to_owned(), self.monitor_port.to_string()])
            .arg("--store_dir")
            .arg(folder)
            .arg("--pid")
            .arg(pid_file(folder))
            .arg("--config")
            .arg(&self.config)
    }

    /// It greets clients, with a line that begins with INFO, and calls itself healthy, which includes JetStream.
    async fn is_ready(&self) -> Result<bool, &'static str> {
        let healthy = "GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n";
        let look = async {
            Ok::<_, io::Error>(
                first_line(self.port, "").await?.starts_with("INFO ")
                    && first_line(self.monitor_port, healthy).await?.split(' ').nth(1) == Some("200"),
            )
        };
        Ok(matches!(timeout(PROBE_LIMIT, look).await, Ok(Ok(true))))
    }

    async fn clear(&self) -> Result<(), Error> {
        clear(self.folder.path()).await
    }
}

/// The built-in configuration: every acknowledged message is on disk. Ports and the store folder come from
/// the command line, so that the file stays the same.
fn write_config(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("nats.conf");
    let text = format!(
        "# Written at every start; changes are lost.\n\
         jetstream {{\n    sync_interval: always\n    max_file_store: {FILE_STORE_BYTES_MAX}\n}}\n"
    );
    fs::write(&path, text).map_err(io_error(format!("write {}", path.display())))?;
    Ok(path)
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("nats-server.pid")
}

/// Stops a server that a former run left behind.
async fn clear(folder: &Path) -> Result<(), Error> {
    let file = pid_file(folder);
    let pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    // The number in a stale file may meanwhile belong to a stranger.
    let is_ours = |pid: &u32| tree::arguments(*pid).iter().any(|word| Path::new(word) == file);
    let Some(pid) = pid.filter(is_ours) else { return Ok(()) };
    tracing::warn!(pid, "stopping a nats-server that a former run left behind");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        tree::send(pid, signal);
        tree::send(pid, Signal::SIGCONT);
        if eventually(LEFTOVER_LIMIT, || !tree::is_alive(pid)).await {
            return Ok(());
        }
    }
    Err(Error::Unkillable { program: "nats-server".to_owned(), pid, limit: LEFTOVER_LIMIT })
}

/// The first line of what a server sends after `request`.
async fn first_line(port: u16, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line)
}
