//! The catalogue of faults.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use super::target::{Process, Server, Shape, Target};

/// Where a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Api,
    Worker,
    Nats,
    Postgres,
    Everything,
    Workers,
    NatsLink,
    ApiNatsLink,
    WorkerNatsLink,
    PostgresLink,
    Link,
    Partition,
}

/// What the catalogue says about a fault.
pub(crate) struct Description {
    pub(crate) does: &'static str,
    pub(crate) threatens: &'static str,
    place: Place,
    /// Shortest and longest duration.
    duration: Duration,
}

#[derive(Clone, Copy)]
enum Duration {
    Millis(u64, u64),
    /// In tenths of a worker's lease.
    LeaseTenths(u64, u64),
}

macro_rules! catalogue {
    ($($fault:ident: $place:ident, $duration:expr, $does:literal, $threatens:literal;)*) => {
        /// The kinds of faults. Their names on the command line and in a history are these in kebab case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ValueEnum)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum Fault {
            $($fault,)*
        }

        impl Fault {
            /// All of them, in the order of the catalogue.
            pub(crate) const ALL: &[Self] = &[$(Self::$fault),*];

            pub(crate) fn description(self) -> Description {
                match self {
                    $(Self::$fault => Description {
                        does: $does,
                        threatens: $threatens,
                        place: Place::$place,
                        duration: $duration,
                    },)*
                }
            }
        }
    };
}

/// For what is over as soon as it has happened.
const MOMENT: Duration = Duration::Millis(50, 300);
/// How long a process stays dead before it is started again.
const DEAD: Duration = Duration::Millis(100, 2_000);
/// How long a link is disturbed.
const DISTURBED: Duration = Duration::Millis(500, 3_000);
/// How long a process is paused: one to three leases, so that others take over from a worker.
const PAUSED: Duration = Duration::LeaseTenths(10, 30);

catalogue! {
    KillWorker: Worker, DEAD,
        "kills a worker with SIGKILL and starts it again", "claims applied but not answered; partitions without an owner";
    KillApi: Api, DEAD,
        "kills an API process with SIGKILL and starts it again", "claims published whose client gets no answer";
    KillNats: Nats, DEAD,
        "kills nats-server with SIGKILL and starts it again", "publishes stored but not acknowledged; consumers that start over";
    KillPostgres: Postgres, DEAD,
        "kills all of Postgres with SIGKILL and starts it again", "commits whose answer is lost; recovery from the write-ahead log";
    KillEverything: Everything, DEAD,
        "kills every process in a random order, and starts them again in another", "everything that is only in memory";
    PauseWorker: Worker, PAUSED,
        "stops a worker with SIGSTOP for one to three leases and lets it continue", "a former owner that continues to commit: it must be fenced";
    PauseApi: Api, PAUSED,
        "stops an API process with SIGSTOP and lets it continue", "time-outs that fire late; replies nobody reads";
    PauseNats: Nats, PAUSED,
        "stops nats-server with SIGSTOP and lets it continue", "publishes whose outcome is unknown; a queue that answers late";
    PausePostgres: Postgres, PAUSED,
        "stops every Postgres process with SIGSTOP and lets them continue", "leases that run out while nobody can renew them";
    CommitAnswerLost: PostgresLink, DISTURBED,
        "passes a commit on, discards its answer and cuts the connection", "a commit taken for a failure, and applied again";
    PostgresCut: PostgresLink, DISTURBED,
        "cuts connections to Postgres at a random byte, again and again", "statements cut in half; pools full of dead connections";
    PublishAckLost: ApiNatsLink, DISTURBED,
        "discards acknowledgements of publishes", "a claim that is in the queue, but is called not accepted";
    ReplyLost: ApiNatsLink, DISTURBED,
        "discards workers' replies to an API", "a win that the client is not told of";
    DeliveryDelayed: WorkerNatsLink, DISTURBED,
        "holds messages to a worker while others overtake them", "gaps in the sequence; messages applied by a former owner";
    DeliveryLost: WorkerNatsLink, DISTURBED,
        "discards messages to a worker now and then", "gaps that a worker does not notice: claims that are passed over";
    NatsCut: NatsLink, DISTURBED,
        "cuts connections to NATS at a random byte, again and again", "messages cut in half; publishes sent twice";
    PartitionBoth: Link, DISTURBED,
        "lets nothing through a link in either direction, then all of it or none", "owners that do not know that they no longer are";
    PartitionOneWay: Link, DISTURBED,
        "lets nothing through a link in one direction", "requests that are carried out without anyone knowing";
    Delays: Link, DISTURBED,
        "delays everything on a link by 10 to 500 ms", "time-outs that are too tight; work that piles up";
    Slices: Link, DISTURBED,
        "passes everything on one byte at a time", "readers that take a part of a message for all of it";
    Refused: Link, DISTURBED,
        "refuses new connections on a link and cuts those that are open", "reconnecting without pause; readiness that lies";
    MessagesDuplicated: Partition, MOMENT,
        "publishes copies of messages that are in a stream", "a claim that counts twice";
    UndecodableMessages: Partition, MOMENT,
        "publishes messages that cannot be decoded", "a partition that stops for ever";
    ForgedBatch: Partition, MOMENT,
        "publishes a batch from a sender that is no API, with a reply subject that nobody reads, and in half of the cases with commands that workers do not understand between good claims", "a worker that trusts what it should not, or waits for a reader";
    StreamPurged: Partition, MOMENT,
        "purges a stream, applied or not", "a cursor ahead of a stream that is empty";
    StreamDeleted: Partition, MOMENT,
        "deletes a stream", "sequence numbers that start over";
    HandChange: Postgres, Duration::Millis(500, 2_500),
        "raises stock and inserts winners by hand, as with psql", "caches that are believed: refusals while stock is left, positions that are given twice";
    QueueRestored: Nats, Duration::Millis(500, 1_500),
        "stops nats-server and starts it on an older copy of its files", "sequence numbers that are used a second time";
    WorkersComeAndGo: Workers, Duration::Millis(1_500, 4_000),
        "stops and starts workers all the time, in an orderly way", "partitions handed over in the middle of a batch";
    RollingRestart: Everything, Duration::Millis(2_000, 5_000),
        "restarts every API and worker in turn, in an orderly way", "requests that were accepted by a process that goes away";
    DiskFullNats: Nats, Duration::Millis(500, 2_500),
        "leaves no room on the file system of nats-server", "publishes acknowledged that were never stored";
    DiskFullPostgres: Postgres, Duration::Millis(500, 2_500),
        "leaves no room on the file system of Postgres", "commits that fail half-way; a database that does not come back";
}

impl Fault {
    pub(crate) fn needs_small_disk(self) -> bool {
        matches!(self, Self::DiskFullNats | Self::DiskFullPostgres)
    }

    /// Shortest and longest duration.
    pub(super) fn duration_ms(self, lease_ms: u64) -> (u64, u64) {
        match self.description().duration {
            Duration::Millis(shortest, longest) => (shortest, longest),
            Duration::LeaseTenths(shortest, longest) => (lease_ms * shortest / 10, lease_ms * longest / 10),
        }
    }

    /// Whether two different faults must not be in one round, because both would stop the same processes.
    pub(super) fn excludes(self, other: Self) -> bool {
        const STOP_NATS: &[Fault] = &[
            Fault::KillNats,
            Fault::PauseNats,
            Fault::QueueRestored,
            Fault::KillEverything,
            Fault::DiskFullNats,
        ];
        const STOP_POSTGRES: &[Fault] =
            &[Fault::KillPostgres, Fault::PausePostgres, Fault::KillEverything, Fault::DiskFullPostgres];
        const STOP_PROCESSES: &[Fault] =
            &[Fault::KillEverything, Fault::RollingRestart, Fault::WorkersComeAndGo];
        let both_in = |faults: &&[Fault]| faults.contains(&self) && faults.contains(&other);
        self != other && [STOP_NATS, STOP_POSTGRES, STOP_PROCESSES].iter().any(both_in)
    }

    /// Everything it can be injected into.
    pub(super) fn targets(self, shape: &Shape) -> Vec<Target> {
        let apis = || (0..shape.apis).map(Process::Api);
        let workers = || (0..shape.workers).map(Process::Worker);
        let to = |server| move |process| Target::Link(process, server);
        match self.description().place {
            Place::Api => apis().map(Target::Process).collect(),
            Place::Worker => workers().map(Target::Process).collect(),
            Place::Nats => vec![Target::Server(Server::Nats)],
            Place::Postgres => vec![Target::Server(Server::Postgres)],
            Place::Everything => vec![Target::Everything],
            Place::Workers => vec![Target::Workers],
            Place::ApiNatsLink => apis().map(to(Server::Nats)).collect(),
            Place::WorkerNatsLink => workers().map(to(Server::Nats)).collect(),
            Place::NatsLink => apis().chain(workers()).map(to(Server::Nats)).collect(),
            // Workers twice: they commit far more than APIs do, which only create coupons.
            Place::PostgresLink => {
                apis().chain(workers()).chain(workers()).map(to(Server::Postgres)).collect()
            }
            Place::Link => {
                let both =
                    |process| [Server::Nats, Server::Postgres].map(|server| Target::Link(process, server));
                apis().chain(workers()).flat_map(both).collect()
            }
            Place::Partition => (0..shape.partitions).map(Target::Partition).collect(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_str(&fault.to_string(), false).as_ref(), Ok(fault));
        }
        assert!(Fault::from_str("no-such-fault", false).is_err());
    }
}
