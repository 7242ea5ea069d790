//! A private nats-server with JetStream on the loopback interface.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, io_error};
use crate::folder::Folder;
use crate::locate::{NatsBinary, Search};
use crate::process::{Child, Program, eventually};
use crate::{port, tree};

/// How long a start may take, reading the streams included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two looks at a server that is starting.
const START_POLL: Duration = Duration::from_millis(25);

/// How long one look may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The longest greeting that is read; real ones have about 500 bytes.
const GREETING_BYTES_MAX: u64 = 64 * 1024;

/// How long a start is repeated while the port is still taken.
const RETRY_LIMIT: Duration = Duration::from_secs(20);

/// Pause between two such starts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How long a server that a former run left behind may take to stop.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);

/// Ports tried when the choice is ours.
const PORTS_MAX: usize = 5;

/// What the server says when a port is taken.
const PORT_TAKEN: &str = "address already in use";

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

/// A running server. Dropping it kills it; what it acknowledged is there at the next start.
#[derive(Debug)]
pub struct Nats {
    program: NatsBinary,
    folder: Folder,
    config: PathBuf,
    env: Vec<(String, String)>,
    ports: Ports,
    child: Child,
}

/// Where it listens.
#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    monitor: u16,
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
        let program = search.nats_server().await?;
        let folder = Folder::open(&options.store_dir).await?;
        let config = match options.config {
            Some(config) => config,
            None => write_config(folder.path())?,
        };
        for left in (0..PORTS_MAX).rev() {
            let choose = |given: Option<u16>| given.map_or_else(port::free, Ok);
            let no_port = || io_error("find a free port");
            let clients = choose(options.port).map_err(no_port())?;
            let monitor = choose(options.monitor_port).map_err(no_port())?;
            let ports = Ports { clients, monitor };
            let command = command(&program, folder.path(), &config, &options.env, ports);
            // Only our own choice of ports can be replaced, and then waiting for them is pointless.
            let ours = options.port.is_none() && options.monitor_port.is_none() && left > 0;
            let retry_limit = if ours { Duration::ZERO } else { RETRY_LIMIT };
            match launch(&command, folder.path(), ports, retry_limit).await {
                Ok(child) => {
                    tracing::info!(version = %program.version, port = clients, pid = child.pid(), "NATS is ready");
                    return Ok(Self { program, folder, config, env: options.env, ports, child });
                }
                Err(Error::Start { tail, .. }) if ours && tail.contains(PORT_TAKEN) => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last round returns")
    }

    /// The URL for clients, without credentials.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports.clients)
    }

    /// The URL of the monitoring pages.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.monitor)
    }

    /// The clients' port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.ports.clients
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where the server keeps its streams and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        self.child.log()
    }

    /// True until the server has ended. A paused one runs.
    pub fn is_running(&self) -> bool {
        self.child.is_running()
    }

    /// Waits for the end, whoever caused it.
    pub async fn ended(&self) -> ExitStatus {
        self.child.ended().await
    }

    /// Stops the server in order; kills it when that takes too long.
    ///
    /// # Errors
    /// When it cannot even be killed.
    pub async fn stop(&self) -> Result<(), Error> {
        self.child.terminate(STOP_LIMIT).await.map(drop)
    }

    /// Crashes the server (SIGKILL).
    ///
    /// # Errors
    /// When it does not go away.
    pub async fn kill(&self) -> Result<(), Error> {
        self.child.kill().await.map(drop)
    }

    /// Freezes the server: connections stay open, nothing answers. False when that does not succeed.
    pub async fn pause(&self) -> bool {
        self.child.pause().await
    }

    /// Lets it go on.
    pub fn resume(&self) -> bool {
        self.child.resume()
    }

    /// Starts the server again on the same ports and data; stops it first if it runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<(), Error> {
        if self.is_running() {
            self.stop().await?;
        }
        let command = command(&self.program, self.folder.path(), &self.config, &self.env, self.ports);
        self.child = launch(&command, self.folder.path(), self.ports, RETRY_LIMIT).await?;
        Ok(())
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

fn command(
    program: &NatsBinary,
    folder: &Path,
    config: &Path,
    env: &[(String, String)],
    ports: Ports,
) -> Program {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    Program::new(&program.path, folder.join("nats-server.log"))
        // It shares the machine with everything else: with a thread for every core, its Go runtime
        // spends much of its time on handing work from one to the other.
        .env("GOMAXPROCS", std::env::var("GOMAXPROCS").unwrap_or_else(|_| threads.to_string()))
        .envs(env.iter().map(|(name, value)| (name, value)))
        .args(["--jetstream", "--addr", "127.0.0.1"])
        .args(["--port".to_owned(), ports.clients.to_string()])
        .args(["--http_port".to_owned(), ports.monitor.to_string()])
        .arg("--store_dir")
        .arg(folder)
        .arg("--pid")
        .arg(pid_file(folder))
        .arg("--config")
        .arg(config)
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("nats-server.pid")
}

/// Stops a server that a former run left behind. The folder's lock tells that it has no living owner.
async fn clear(folder: &Path) -> Result<(), Error> {
    let file = pid_file(folder);
    let pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    // The number in a stale file may meanwhile belong to a stranger.
    let is_ours = |pid: &u32| tree::command_line(*pid).contains(&*file.to_string_lossy());
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

/// Runs the server, again and again for `retry_limit` while something else has its port.
async fn launch(
    command: &Program,
    folder: &Path,
    ports: Ports,
    retry_limit: Duration,
) -> Result<Child, Error> {
    let deadline = Instant::now() + retry_limit;
    loop {
        clear(folder).await?;
        let child = command.spawn().await?;
        match accept(&child, ports).await {
            Ok(()) => return Ok(child),
            Err(Error::Start { tail, reason, .. })
                if Instant::now() < deadline && tail.contains(PORT_TAKEN) =>
            {
                tracing::warn!(reason, "NATS does not start yet");
                sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the server greets clients and calls itself healthy, which includes JetStream.
async fn accept(child: &Child, ports: Ports) -> Result<(), Error> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = child.status() {
            return Err(child.failure(format!("ended while starting ({status})")));
        }
        let ready =
            async { Ok::<_, io::Error>(greets(ports.clients).await? && is_healthy(ports.monitor).await?) };
        // The answers must come from our server, not from one that was faster to take the port.
        if matches!(timeout(PROBE_LIMIT, ready).await, Ok(Ok(true))) && child.is_running() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(child.failure(format!("is not ready after {START_LIMIT:?}")));
        }
        sleep(START_POLL).await;
    }
}

/// The first line that a server sends to a client begins with INFO, whatever it then asks for.
async fn greets(port: u16) -> io::Result<bool> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut line = String::new();
    BufReader::new(stream.take(GREETING_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line.starts_with("INFO ") && line.ends_with('\n'))
}

async fn is_healthy(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").await?;
    let mut line = String::new();
    BufReader::new(stream.take(GREETING_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line.split_whitespace().nth(1) == Some("200"))
}
