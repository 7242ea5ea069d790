//! Child processes: any program with its environment and log file, and the verbs of fault injection.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::log::Log;
use crate::spawner;
use crate::tree;

/// How often the end of a child is looked for while someone waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a killed process may take to disappear.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long a process may take to stand still: one that waits for the disk does so first.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// How many times a tree is walked again when processes appear in it while it is being signalled.
const WALKS_MAX: usize = 20;

/// What a program with a clean environment still gets.
const ENV_KEPT: [&str; 4] = ["PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];

/// A program to run: path, arguments, environment, log file.
///
/// Its process gets a session of its own, as a service or a container has: Ctrl-C at the terminal reaches only us,
/// who then stop it in order. Its input is empty; output and errors are appended to the log.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    clean: bool,
    folder: Option<PathBuf>,
    log: PathBuf,
    account: Option<Account>,
}

impl Program {
    /// A program without arguments that inherits our environment.
    pub fn new(path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            clean: false,
            folder: None,
            log: log.into(),
            account: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets environment variables.
    #[must_use]
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, all: impl IntoIterator<Item = (N, V)>) -> Self {
        self.environment.extend(
            all.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())),
        );
        self
    }

    /// Inherits only what a program needs to find its libraries and the time zone, so that nothing set
    /// for other purposes (such as `PGOPTIONS`) changes what it does.
    #[must_use]
    pub fn clean_env(mut self) -> Self {
        self.clean = true;
        self
    }

    /// Sets the working directory; otherwise ours is inherited.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Runs the program as another user.
    #[must_use]
    pub(super) fn account(mut self, account: Option<&Account>) -> Self {
        self.account = account.cloned();
        self
    }

    /// The file name, for messages.
    fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Starts the program.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be run.
    pub async fn spawn(&self) -> Result<Child, Error> {
        let log_error = || io_error(format!("open the log {}", self.log.display()));
        let (log, output) = Log::open(&self.log).map_err(log_error())?;
        let errors = output.try_clone().map_err(log_error())?;
        let mut command = Command::new(&self.path);
        if self.clean {
            command.env_clear();
            command.envs(ENV_KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Some(account) = &self.account {
            command.uid(account.uid()).gid(account.gid());
        }
        let doing = format!("run {}", self.path.display());
        let handle = spawner::spawn(command).await.map_err(io_error(doing))?;
        let pid = handle.id();
        tracing::debug!(program = self.name(), pid, log = %self.log.display(), "started");
        Ok(Child { name: self.name(), pid, handle: Mutex::new(handle), log })
    }

    /// Runs the program to its end and expects success.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`, after which it is killed.
    pub async fn run(&self, limit: Duration) -> Result<(), Error> {
        let child = self.spawn().await?;
        match child.wait(limit).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(child.failure(format!("failed ({status})"))),
            None => {
                child.kill().await?;
                Err(child.failure(format!("took longer than {limit:?} and was killed")))
            }
        }
    }
}

/// A running program. Dropping it kills the program and its descendants, a safety net for tests that
/// panic; use a verb to learn that it worked.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: u32,
    /// Locked for every look at the process and every signal to it: while the process is not reaped its
    /// number cannot be given to another one, and only holders of this lock reap it.
    handle: Mutex<std::process::Child>,
    log: Log,
}

impl Child {
    /// The process id, also after the end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// The last lines of the log that this run wrote.
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// True until the process has ended. A paused one runs.
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// How the process ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    /// Waits for the end, however long that takes; to be raced against something else. May be cancelled.
    pub async fn ended(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits at most `limit` for the end.
    pub async fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(limit, self.ended()).await.ok()
    }

    /// Sends a signal to the process alone. False when it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        let mut handle = self.lock();
        matches!(handle.try_wait(), Ok(None)) && tree::send(self.pid, signal)
    }

    /// Asks the process to end (SIGTERM) and waits at most `limit`; kills it when it does not.
    ///
    /// # Errors
    /// When it cannot even be killed.
    pub async fn terminate(&self, limit: Duration) -> Result<ExitStatus, Error> {
        self.stop(&[(Signal::SIGTERM, limit)]).await
    }

    /// Tries signals in turn, each with its own time, and SIGKILL at last. A paused process is resumed, or
    /// it would never hear of it.
    ///
    /// # Errors
    /// When it cannot even be killed.
    pub async fn stop(&self, signals: &[(Signal, Duration)]) -> Result<ExitStatus, Error> {
        for &(signal, limit) in signals {
            self.signal(signal);
            self.resume();
            if let Some(status) = self.wait(limit).await {
                return Ok(status);
            }
            tracing::warn!(program = self.name, pid = self.pid, %signal, "does not stop");
        }
        self.kill().await
    }

    /// Kills the process and all its descendants (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after ten seconds.
    pub async fn kill(&self) -> Result<ExitStatus, Error> {
        self.kill_tree();
        let unkillable =
            || Error::Unkillable { program: self.name.clone(), pid: self.pid, limit: KILL_LIMIT };
        self.wait(KILL_LIMIT).await.ok_or_else(unkillable)
    }

    /// Stops the clock for the process and all its descendants (SIGSTOP): it keeps its connections and
    /// locks, and answers nothing. Returns when everything stands still. False when the process has ended, or
    /// still runs after ten seconds.
    pub async fn pause(&self) -> bool {
        let mut runs = true;
        let settled = eventually(PAUSE_LIMIT, || {
            // Again each time: a process that was being started when its parent stopped is found a moment later.
            runs = self.signal_tree(Signal::SIGSTOP);
            !runs || tree::is_stopped(self.pid)
        });
        settled.await && runs
    }

    /// Undoes [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) -> bool {
        self.signal_tree(Signal::SIGCONT)
    }

    /// The root first, then everyone below it until no new process turns up.
    fn signal_tree(&self, signal: Signal) -> bool {
        let mut handle = self.lock();
        if !matches!(handle.try_wait(), Ok(None)) || !tree::send(self.pid, signal) {
            return false;
        }
        let mut signalled = Vec::new();
        for _ in 0..WALKS_MAX {
            let mut fresh = tree::descendants(self.pid);
            fresh.retain(|pid| !signalled.contains(pid));
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                tree::send(pid, signal);
                signalled.push(pid);
            }
        }
        true
    }

    /// The root is stopped first: it then can neither start more processes nor reap those that die, so
    /// that no process number is used again while the tree is taken down.
    fn kill_tree(&self) {
        if self.signal_tree(Signal::SIGSTOP) {
            let mut handle = self.lock();
            if !matches!(handle.try_wait(), Ok(None)) {
                return;
            }
            for pid in tree::descendants(self.pid) {
                tree::send(pid, Signal::SIGKILL);
            }
            tree::send(self.pid, Signal::SIGKILL);
        }
    }

    /// An error about this program, with the end of its log.
    pub(super) fn failure(&self, reason: impl Into<String>) -> Error {
        Error::Start {
            program: self.name.clone(),
            reason: reason.into(),
            log: self.log.path().to_owned(),
            tail: self.log.tail(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, std::process::Child> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_tree();
    }
}

/// Calls `done` until it says true, at most for `limit`. For conditions the system has no event for.
pub(super) async fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
}
