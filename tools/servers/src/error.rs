//! What goes wrong with private servers, told for a person at a terminal.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a server could not be found, started or stopped. The texts are meant for a person at a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A binary named by an environment variable is missing, broken or too old.
    #[error("{variable}={}: {reason}", path.display())]
    Named {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// This machine has no usable server and none could be fetched.
    #[error("no usable {server} on this machine, and fetching one failed: {reason}\n{advice}")]
    Fetch {
        /// The server's name.
        server: &'static str,
        /// What went wrong.
        reason: String,
        /// What to install by hand.
        advice: &'static str,
    },
    /// Another live process works with this folder.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be used with what is there.
    #[error("{}: {reason}", folder.display())]
    Folder {
        /// The server's folder.
        folder: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A program ended, or did not get ready, when it should have.
    #[error("{program} {reason}; the end of its log {}:\n{tail}", log.display())]
    Start {
        /// The program's name.
        program: String,
        /// What happened.
        reason: String,
        /// The whole log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A process is still there after SIGKILL and a wait.
    #[error("{program} (pid {pid}) still runs {limit:?} after it was killed")]
    Unkillable {
        /// The program's name.
        program: String,
        /// The process.
        pid: u32,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The operating system refused something.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Postgres refused a statement.
    #[error("cannot {doing}: {source}")]
    Database {
        /// What was tried.
        doing: String,
        /// The server's answer.
        source: sqlx::Error,
    },
}

/// Turns an [`io::Error`] into one that says what was tried.
pub(crate) fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Io { doing, source }
}
