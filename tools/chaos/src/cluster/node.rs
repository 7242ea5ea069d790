//! One API or worker process, and its links.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use servers::process::{Child, Program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::binaries::Version;
use super::error_log::ErrorLog;
use crate::history::LogLine;
use crate::proxy::Proxy;

/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How long one question for readiness may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// How a process is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and time to finish.
    Terminate,
}

/// A process that faults stop or pause. Several may do so at once: each call of [`Node::stop`] and
/// [`Node::pause`] is counted, and the process runs when all are undone.
#[derive(Debug)]
pub(crate) struct Node {
    /// `api-0`, `worker-2`.
    pub(crate) name: String,
    /// The link to the queue.
    pub(crate) nats: Proxy,
    /// The link to the database.
    pub(crate) postgres: Proxy,
    /// Where it listens, if it is an API.
    pub(crate) http: Option<SocketAddr>,
    programs: Programs,
    state: Mutex<State>,
    unexpected_ends: std::sync::Mutex<Vec<String>>,
    error_log: ErrorLog,
}

/// What a node runs.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) new: Program,
    pub(super) old: Option<Program>,
}

#[derive(Debug)]
struct State {
    version: Version,
    child: Option<Child>,
    stops: u32,
    pauses: u32,
}

impl Node {
    /// A node that is stopped once, until [`Node::start`].
    pub(super) fn new(
        name: String,
        programs: Programs,
        nats: Proxy,
        postgres: Proxy,
        http: Option<SocketAddr>,
        log: PathBuf,
    ) -> Self {
        let version = if programs.old.is_some() { Version::Old } else { Version::New };
        let state = Mutex::new(State { version, child: None, stops: 1, pauses: 0 });
        let (unexpected_ends, error_log) = (std::sync::Mutex::default(), ErrorLog::new(log));
        Self { name, nats, postgres, http, programs, state, unexpected_ends, error_log }
    }

    /// Stops the process until [`Node::start`].
    pub(crate) async fn stop(&self, how: Stop) -> Result<(), servers::Error> {
        let child = {
            let mut state = self.state.lock().await;
            state.stops += 1;
            state.child.take()
        };
        match (child, how) {
            (Some(child), Stop::Kill) => child.kill().await.map(drop),
            (Some(child), Stop::Terminate) => child.terminate(STOP_LIMIT).await.map(drop),
            (None, _) => Ok(()),
        }
    }

    /// Undoes one [`Node::stop`].
    pub(crate) async fn start(&self) -> Result<(), servers::Error> {
        let mut state = self.state.lock().await;
        state.stops = state.stops.saturating_sub(1);
        self.start_if_due(&mut state).await
    }

    /// Pauses the process (SIGSTOP) until [`Node::resume`].
    pub(crate) async fn pause(&self) {
        let mut state = self.state.lock().await;
        state.pauses += 1;
        if let Some(child) = &state.child {
            child.pause().await;
        }
    }

    /// Undoes one [`Node::pause`].
    pub(crate) async fn resume(&self) {
        let mut state = self.state.lock().await;
        state.pauses = state.pauses.saturating_sub(1);
        if let (0, Some(child)) = (state.pauses, &state.child) {
            child.resume();
        }
    }

    /// Undoes every stop and pause.
    pub(super) async fn reset(&self) -> Result<(), servers::Error> {
        let mut state = self.state.lock().await;
        (state.stops, state.pauses) = (0, 0);
        if let Some(child) = &state.child {
            child.resume();
        }
        self.start_if_due(&mut state).await
    }

    /// Starts the process again if it has ended although nothing stopped it.
    pub(super) async fn restart_if_ended(&self) -> Result<(), servers::Error> {
        let mut state = self.state.lock().await;
        if let Some(child) = state.child.take_if(|child| !child.is_running()) {
            let status = child.status().map_or_else(String::new, |status| status.to_string());
            let tail = child.log_tail();
            let end = format!("{} ({status}): {}", self.name, tail.lines().last().unwrap_or_default());
            tracing::warn!(end, "has ended unexpectedly");
            self.unexpected_ends.lock().unwrap_or_else(PoisonError::into_inner).push(end);
            self.start_if_due(&mut state).await?;
        }
        Ok(())
    }

    /// The version that it runs, or will run when it is started.
    pub(crate) async fn version(&self) -> Version {
        self.state.lock().await.version
    }

    /// Runs this version from its next start on.
    pub(crate) async fn set_version(&self, version: Version) {
        self.state.lock().await.version = version;
    }

    /// Takes the unexpected ends since the last call: status and last line of the log.
    pub(crate) fn take_unexpected_ends(&self) -> Vec<String> {
        std::mem::take(&mut *self.unexpected_ends.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the errors that it has logged since the last call.
    pub(crate) fn take_errors(&self) -> std::io::Result<Vec<LogLine>> {
        let lines = self.error_log.take()?.into_iter();
        Ok(lines.map(|text| LogLine { process: self.name.clone(), text }).collect())
    }

    /// Its process id, while it runs.
    pub(crate) async fn pid(&self) -> Option<u32> {
        self.state.lock().await.child.as_ref().map(Child::pid)
    }

    async fn start_if_due(&self, state: &mut State) -> Result<(), servers::Error> {
        if state.stops == 0 && state.child.is_none() {
            let program = match (state.version, &self.programs.old) {
                (Version::Old, Some(old)) => old,
                _ => &self.programs.new,
            };
            let child = program.spawn().await?;
            if state.pauses > 0 {
                child.pause().await;
            }
            state.child = Some(child);
        }
        Ok(())
    }

    /// Whether an API answers that it is ready. A worker always is.
    pub(super) async fn is_ready(&self) -> bool {
        let Some(address) = self.http else { return true };
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await?;
            Ok::<_, std::io::Error>(head.ends_with(b" 200"))
        };
        matches!(tokio::time::timeout(PROBE_LIMIT, asked).await, Ok(Ok(true)))
    }
}
