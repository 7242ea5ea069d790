//! What there is to disturb.

use std::fmt;

/// The size of the system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) apis: u32,
    pub(crate) workers: u32,
    pub(crate) partitions: u32,
    /// How long a worker's lease lasts.
    pub(crate) lease_ms: u64,
    /// How long an API waits for an outcome before it answers 202. The APIs take turns.
    pub(crate) claim_timeouts_ms: [u64; 2],
    /// How often workers purge applied messages.
    pub(crate) purge_interval_ms: u64,
}

impl Shape {
    /// All processes.
    pub(crate) fn processes(&self) -> Vec<Process> {
        (0..self.apis).map(Process::Api).chain((0..self.workers).map(Process::Worker)).collect()
    }
}

/// A process of the system, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Process {
    Api(u32),
    Worker(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Server {
    Nats,
    Postgres,
}

/// What a fault disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Process(Process),
    Server(Server),
    /// Every process and server.
    Everything,
    /// All workers.
    Workers,
    /// The link of a process to a server.
    Link(Process, Server),
    /// The stream of a partition.
    Partition(u32),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(number) => write!(f, "api {number}"),
            Self::Worker(number) => write!(f, "worker {number}"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Postgres => "postgres",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "{process}"),
            Self::Server(server) => write!(f, "{server}"),
            Self::Everything => f.write_str("everything"),
            Self::Workers => f.write_str("all workers"),
            Self::Link(process, server) => write!(f, "{process} - {server}"),
            Self::Partition(number) => write!(f, "partition {number}"),
        }
    }
}
