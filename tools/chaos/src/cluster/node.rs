//! One API or worker process, and its links.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use servers::process::{Child, Program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::proxy::Proxy;

/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How long one question after readiness may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The proxies between a process and the servers.
#[derive(Debug)]
pub struct Links {
    /// To the queue.
    pub nats: Proxy,
    /// To the database.
    pub postgres: Proxy,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// SIGKILL.
    Crash,
    /// SIGTERM, and time to finish.
    Orderly,
}

/// A process that faults can hold down or freeze. Several may do so at once: it runs when none does.
#[derive(Debug)]
pub struct Node {
    /// `api-0`, `worker-2`.
    pub name: String,
    /// Its connections.
    pub links: Links,
    /// Where it listens, if it is an API.
    pub http: Option<SocketAddr>,
    program: Program,
    state: Mutex<State>,
    /// What it said last whenever it ended by itself.
    last_words: std::sync::Mutex<Vec<String>>,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    /// Faults that hold it down.
    down: u32,
    /// Faults that freeze it.
    frozen: u32,
}

impl Node {
    /// A node that is held down once, until [`Node::release`].
    pub(super) fn new(name: String, program: Program, links: Links, http: Option<SocketAddr>) -> Self {
        let state = Mutex::new(State { child: None, down: 1, frozen: 0 });
        Self { name, links, http, program, state, last_words: std::sync::Mutex::default() }
    }

    /// Ends the process and keeps it down until [`Node::release`].
    pub async fn hold_down(&self, manner: Manner) -> Result<(), servers::Error> {
        let child = {
            let mut state = self.state.lock().await;
            state.down += 1;
            state.child.take()
        };
        match (child, manner) {
            (Some(child), Manner::Crash) => child.kill().await.map(drop),
            (Some(child), Manner::Orderly) => child.terminate(STOP_LIMIT).await.map(drop),
            (None, _) => Ok(()),
        }
    }

    /// Starts the process unless something else holds it down.
    pub async fn release(&self) -> Result<(), servers::Error> {
        let mut state = self.state.lock().await;
        state.down = state.down.saturating_sub(1);
        self.start_if_due(&mut state).await
    }

    /// Stops the process' clock until [`Node::thaw`]. False if it does not run.
    pub async fn freeze(&self) -> bool {
        let mut state = self.state.lock().await;
        state.frozen += 1;
        match &state.child {
            Some(child) => child.pause().await,
            None => false,
        }
    }

    /// Lets the process go on unless something else freezes it.
    pub async fn thaw(&self) {
        let mut state = self.state.lock().await;
        state.frozen = state.frozen.saturating_sub(1);
        if let (0, Some(child)) = (state.frozen, &state.child) {
            child.resume();
        }
    }

    /// Forgets everything that holds it down or freezes it.
    pub async fn revive(&self) -> Result<(), servers::Error> {
        let mut state = self.state.lock().await;
        (state.down, state.frozen) = (0, 0);
        if let Some(child) = &state.child {
            child.resume();
        }
        self.start_if_due(&mut state).await
    }

    /// Starts the process again if it has ended although nothing holds it down.
    pub(super) async fn restart_if_ended(&self) -> Result<(), servers::Error> {
        let mut state = self.state.lock().await;
        if state.child.as_ref().is_some_and(|child| !child.is_running()) {
            if let Some(child) = state.child.take() {
                let status = child.status().map_or_else(String::new, |status| status.to_string());
                let tail = child.log_tail();
                let words = format!("{} ({status}): {}", self.name, tail.lines().last().unwrap_or_default());
                tracing::warn!(words, "has ended by itself");
                self.last_words.lock().unwrap_or_else(PoisonError::into_inner).push(words);
            }
            self.start_if_due(&mut state).await?;
        }
        Ok(())
    }

    /// What it said last whenever it ended by itself, since this was asked before.
    pub fn last_words(&self) -> Vec<String> {
        std::mem::take(&mut *self.last_words.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its process id, while it runs.
    pub async fn pid(&self) -> Option<u32> {
        self.state.lock().await.child.as_ref().map(Child::pid)
    }

    async fn start_if_due(&self, state: &mut State) -> Result<(), servers::Error> {
        if state.down == 0 && state.child.is_none() {
            let child = self.program.spawn().await?;
            if state.frozen > 0 {
                child.pause().await;
            }
            state.child = Some(child);
        }
        Ok(())
    }

    /// Whether an API calls itself ready.
    pub async fn is_ready(&self) -> bool {
        let Some(address) = self.http else { return true };
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            stream
                .write_all(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await?;
            Ok::<_, std::io::Error>(head.ends_with(b" 200"))
        };
        matches!(tokio::time::timeout(PROBE_LIMIT, asked).await, Ok(Ok(true)))
    }
}
