//! What Postgres and nats-server have in common: started until they are ready, crashed, frozen, stopped, restarted.

use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::error::{Error, io_error};
use crate::locate::Version;
use crate::process::{Child, Program};

/// How long a start may take, the recovery after a crash included.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Pause between two looks at a server that is starting.
const START_POLL: Duration = Duration::from_millis(25);

/// How long a start that failed for a passing reason is repeated.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Pause between two such starts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Ports tried when the choice is ours.
const PORTS_MAX: usize = 5;

/// What differs between one kind of server and the other: a server's set-up, which stays the same when it restarts.
pub trait Setup {
    /// The server's name, for messages.
    const NAME: &str;
    /// What its log says when its port is taken.
    const PORT_TAKEN: &str;
    /// What else its log says when a start is worth repeating: something of the former run has not gone yet.
    const PASSING: &[&str];
    /// How it is stopped: signals, each with the time that it may take.
    const STOP: &[(Signal, Duration)];

    /// Finds free ports for those that the caller left open. False unless all of them were.
    ///
    /// # Errors
    /// When there is none.
    fn choose_ports(&mut self) -> io::Result<bool>;

    /// The clients' port.
    fn port(&self) -> u16;

    /// The program's version.
    fn version(&self) -> Version;

    /// The program with its arguments.
    fn program(&self) -> Program;

    /// Whether it accepts clients.
    ///
    /// # Errors
    /// Why it never will.
    fn is_ready(&self) -> impl Future<Output = Result<bool, &'static str>> + Send;

    /// Stops what a former run left behind in the folder. The folder's lock tells that it has no living owner.
    ///
    /// # Errors
    /// When it cannot be stopped.
    fn clear(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A running server on 127.0.0.1. Dropping it kills it; what it acknowledged is there at the next start.
#[derive(Debug)]
pub struct Server<S> {
    pub(super) setup: S,
    child: Child,
}

impl<S: Setup> Server<S> {
    /// Runs the server until it accepts clients.
    pub(super) async fn launch(mut setup: S) -> Result<Self, Error> {
        for left in (0..PORTS_MAX).rev() {
            // Another process may take a free port before the server does: then another one is as good.
            let may_move = setup.choose_ports().map_err(io_error("find a free port"))? && left > 0;
            match start(&setup, may_move).await {
                Err(Error::Start { tail, .. }) if may_move && tail.contains(S::PORT_TAKEN) => {}
                started => return started.map(|child| Self { setup, child }),
            }
        }
        unreachable!("the last round returns")
    }

    /// The clients' port.
    pub fn port(&self) -> u16 {
        self.setup.port()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
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
        self.child.stop(S::STOP).await?;
        self.setup.clear().await
    }

    /// Crashes the server (SIGKILL), its child processes included.
    ///
    /// # Errors
    /// When some of them do not go away.
    pub async fn kill(&self) -> Result<(), Error> {
        self.child.kill().await?;
        // Processes that were being started just then.
        self.setup.clear().await
    }

    /// Freezes the server and its child processes: connections stay open, locks stay held, nothing answers.
    /// False when that does not succeed.
    pub async fn pause(&self) -> bool {
        self.child.pause().await
    }

    /// Lets them go on.
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
        self.child = start(&self.setup, false).await?;
        Ok(())
    }
}

/// Runs the server, again and again while something of a former run is in its way. A taken port is waited for too,
/// unless the server may move to another one.
async fn start<S: Setup>(setup: &S, may_move: bool) -> Result<Child, Error> {
    let deadline = Instant::now() + RETRY_LIMIT;
    let passes = |tail: &str| {
        S::PASSING.iter().any(|passing| tail.contains(passing)) || !may_move && tail.contains(S::PORT_TAKEN)
    };
    loop {
        setup.clear().await?;
        let child = setup.program().spawn().await?;
        match ready(setup, &child).await {
            Ok(()) => {
                tracing::info!(version = %setup.version(), port = setup.port(), pid = child.pid(), "{} is ready", S::NAME);
                return Ok(child);
            }
            Err(Error::Start { tail, reason, .. }) if Instant::now() < deadline && passes(&tail) => {
                tracing::warn!(reason, "{} does not start yet", S::NAME);
                sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the server accepts clients. It may first have to recover from a crash.
async fn ready<S: Setup>(setup: &S, child: &Child) -> Result<(), Error> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = child.status() {
            return Err(child.failure(format!("ended while starting ({status})")));
        }
        let is_ready = setup.is_ready().await.map_err(|reason| child.failure(reason))?;
        // The answer must come from our server, not from one that was faster to take the port.
        if is_ready && child.is_running() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(child.failure(format!("is not ready after {START_LIMIT:?}")));
        }
        sleep(START_POLL).await;
    }
}
