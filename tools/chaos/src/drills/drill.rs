//! What is done to the system.

use crate::schedule::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Drill {
    /// SIGKILL to a worker.
    WorkerKilled,
    /// The worker comes back, and the others hand partitions over to it.
    WorkerJoined,
    /// SIGTERM to a worker.
    WorkerStopped,
    /// SIGKILL to a server, and a restart.
    Killed(Server),
    /// SIGSTOP to a server for a while: its connections stay open and silent.
    Paused(Server),
}

/// What a repetition consists of, in this order.
pub(crate) const REPETITION: [Drill; 8] = [
    Drill::WorkerKilled,
    Drill::WorkerJoined,
    Drill::WorkerStopped,
    Drill::WorkerJoined,
    Drill::Killed(Server::Nats),
    Drill::Killed(Server::Postgres),
    Drill::Paused(Server::Nats),
    Drill::Paused(Server::Postgres),
];

impl Drill {
    /// The server that is away meanwhile.
    pub(super) fn server(self) -> Option<Server> {
        match self {
            Self::Killed(server) | Self::Paused(server) => Some(server),
            Self::WorkerKilled | Self::WorkerJoined | Self::WorkerStopped => None,
        }
    }

    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker killed",
            Self::WorkerJoined => "worker joined",
            Self::WorkerStopped => "worker stopped",
            Self::Killed(Server::Nats) => "NATS killed",
            Self::Killed(Server::Postgres) => "Postgres killed",
            Self::Paused(Server::Nats) => "NATS paused",
            Self::Paused(Server::Postgres) => "Postgres paused",
        }
    }
}
