//! The catalogue of faults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Shape, Target};

/// A name that no fault has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no fault {0:?}; --list shows them all")]
pub struct UnknownFault(String);

/// Where a fault can strike.
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
struct Card {
    name: &'static str,
    does: &'static str,
    threatens: &'static str,
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
    ($($(#[$doc:meta])* $fault:ident: $name:literal, $place:ident, $duration:expr, $does:literal, $threatens:literal;)*) => {
        /// The kinds of faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Fault {
            $(#[doc = $does] $fault,)*
        }

        impl Fault {
            /// All of them, in the order of the catalogue.
            pub const ALL: [Self; [$(Self::$fault),*].len()] = [$(Self::$fault),*];

            fn card(self) -> Card {
                match self {
                    $(Self::$fault => Card {
                        name: $name,
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

/// How long something lasts that is over as soon as it has happened.
const MOMENT: Duration = Duration::Millis(50, 300);
/// How long a process stays dead before it is started again.
const DEAD: Duration = Duration::Millis(100, 2_000);
/// How long a link is disturbed.
const DISTURBED: Duration = Duration::Millis(500, 3_000);
/// How long a process is frozen: one to three leases, so that others take over from a worker.
const FROZEN: Duration = Duration::LeaseTenths(10, 30);

catalogue! {
    KillWorker: "kill-worker", Worker, DEAD,
        "kills a worker with SIGKILL and starts it again", "claims applied but not answered; partitions without an owner";
    KillApi: "kill-api", Api, DEAD,
        "kills an API process with SIGKILL and starts it again", "claims published whose client never hears of them";
    KillNats: "kill-nats", Nats, DEAD,
        "kills nats-server with SIGKILL and starts it again", "publishes stored but not acknowledged; consumers that start over";
    KillPostgres: "kill-postgres", Postgres, DEAD,
        "kills all of Postgres with SIGKILL and starts it again", "commits whose answer is lost; recovery from the write-ahead log";
    KillEverything: "kill-everything", Everything, DEAD,
        "kills every process in a random order, and starts them again in another", "everything that is only in memory";
    PauseWorker: "pause-worker", Worker, FROZEN,
        "stops a worker with SIGSTOP for one to three leases and lets it go on", "a former owner that goes on committing: it must be fenced";
    PauseApi: "pause-api", Api, FROZEN,
        "stops an API process with SIGSTOP and lets it go on", "time-outs that fire late; replies nobody reads";
    PauseNats: "pause-nats", Nats, FROZEN,
        "stops nats-server with SIGSTOP and lets it go on", "publishes whose outcome is unknown; a queue that answers late";
    PausePostgres: "pause-postgres", Postgres, FROZEN,
        "stops every Postgres process with SIGSTOP and lets them go on", "leases that run out while nobody can renew them";
    CommitAnswerLost: "commit-answer-lost", PostgresLink, DISTURBED,
        "passes a commit on, discards its answer and cuts the connection", "a commit taken for a failure, and applied again";
    PostgresCut: "postgres-cut", PostgresLink, DISTURBED,
        "cuts connections to Postgres at a random byte, again and again", "statements cut in half; pools full of dead connections";
    PublishAckLost: "publish-ack-lost", ApiNatsLink, DISTURBED,
        "discards acknowledgements of publishes", "a claim that is in the queue, but is called not accepted";
    ReplyLost: "reply-lost", ApiNatsLink, DISTURBED,
        "discards workers' replies to an API", "a win that the client is not told of";
    DeliveryDelayed: "delivery-delayed", WorkerNatsLink, DISTURBED,
        "holds messages to a worker while others overtake them", "gaps in the sequence; messages applied by a former owner";
    NatsCut: "nats-cut", NatsLink, DISTURBED,
        "cuts connections to NATS at a random byte, again and again", "messages cut in half; publishes sent twice";
    PartitionBoth: "partition-both", Link, DISTURBED,
        "lets nothing through a link in either direction, then all of it or none", "owners that do not know that they no longer are";
    PartitionOneWay: "partition-one-way", Link, DISTURBED,
        "lets nothing through a link in one direction", "requests that are carried out without anyone knowing";
    Delays: "delays", Link, DISTURBED,
        "delays everything on a link by 10 to 500 ms", "time-outs that are too tight; work that piles up";
    Slices: "slices", Link, DISTURBED,
        "passes everything on one byte at a time", "readers that take a piece for the whole";
    Refused: "refused", Link, DISTURBED,
        "refuses new connections on a link and cuts those that are open", "reconnecting without pause; readiness that lies";
    MessagesDuplicated: "messages-duplicated", Partition, MOMENT,
        "publishes copies of messages that are in a stream", "a claim that counts twice";
    Undecodable: "undecodable-messages", Partition, MOMENT,
        "publishes messages that cannot be decoded", "a partition that stops for ever";
    ForgedBatch: "forged-batch", Partition, MOMENT,
        "publishes a well-formed batch from a sender that is no API, with a reply subject that nobody reads", "a worker that trusts what it should not, or waits for a reader";
    StreamPurged: "stream-purged", Partition, MOMENT,
        "purges a stream, applied or not", "a cursor ahead of a stream that is empty";
    StreamDeleted: "stream-deleted", Partition, MOMENT,
        "deletes a stream", "sequence numbers that start over";
    QueueRestored: "queue-restored", Nats, Duration::Millis(500, 1_500),
        "stops nats-server and starts it on an older copy of its files", "sequence numbers that are used a second time";
    WorkersComeAndGo: "workers-come-and-go", Workers, Duration::Millis(1_500, 4_000),
        "stops and starts workers all the time, in an orderly way", "partitions handed over in the middle of a batch";
    RollingRestart: "rolling-restart", Everything, Duration::Millis(2_000, 5_000),
        "restarts every API and worker in turn, in an orderly way", "requests that were accepted by a process that goes away";
    DiskFullNats: "disk-full-nats", Nats, Duration::Millis(500, 2_500),
        "leaves no room on the file system of nats-server", "publishes acknowledged that were never stored";
    DiskFullPostgres: "disk-full-postgres", Postgres, Duration::Millis(500, 2_500),
        "leaves no room on the file system of Postgres", "commits that fail half-way; a database that does not come back";
}

impl Fault {
    /// The name for the command line.
    pub fn name(self) -> &'static str {
        self.card().name
    }

    /// What it does.
    pub fn does(self) -> &'static str {
        self.card().does
    }

    /// What it threatens.
    pub fn threatens(self) -> &'static str {
        self.card().threatens
    }

    /// Whether it needs a small file system of its own under a server.
    pub fn needs_small_disk(self) -> bool {
        matches!(self, Self::DiskFullNats | Self::DiskFullPostgres)
    }

    /// Shortest and longest duration.
    pub(super) fn duration_ms(self, lease_ms: u64) -> (u64, u64) {
        match self.card().duration {
            Duration::Millis(shortest, longest) => (shortest, longest),
            Duration::LeaseTenths(shortest, longest) => (lease_ms * shortest / 10, lease_ms * longest / 10),
        }
    }

    /// Whether both in one round would get in each other's way: the same server cannot be stopped by two
    /// hands at once.
    pub(super) fn excludes(self, other: Self) -> bool {
        let stops_nats = |fault| {
            matches!(
                fault,
                Self::KillNats
                    | Self::PauseNats
                    | Self::QueueRestored
                    | Self::KillEverything
                    | Self::DiskFullNats
            )
        };
        let stops_postgres = |fault| {
            matches!(
                fault,
                Self::KillPostgres | Self::PausePostgres | Self::KillEverything | Self::DiskFullPostgres
            )
        };
        let moves_processes =
            |fault| matches!(fault, Self::KillEverything | Self::RollingRestart | Self::WorkersComeAndGo);
        self != other
            && (stops_nats(self) && stops_nats(other)
                || stops_postgres(self) && stops_postgres(other)
                || moves_processes(self) && moves_processes(other))
    }

    /// Everything it can strike.
    pub(super) fn targets(self, shape: &Shape) -> Vec<Target> {
        let apis = || 0..shape.apis;
        let workers = || 0..shape.workers;
        match self.card().place {
            Place::Api => apis().map(Target::Api).collect(),
            Place::Worker => workers().map(Target::Worker).collect(),
            Place::Nats => vec![Target::Nats],
            Place::Postgres => vec![Target::Postgres],
            Place::Everything => vec![Target::Everything],
            Place::Workers => vec![Target::Workers],
            Place::ApiNatsLink => apis().map(Target::ApiNats).collect(),
            Place::WorkerNatsLink => workers().map(Target::WorkerNats).collect(),
            Place::NatsLink => apis().map(Target::ApiNats).chain(workers().map(Target::WorkerNats)).collect(),
            Place::PostgresLink => {
                // Workers commit far more than APIs do; those only create coupons.
                let twice = workers().chain(workers()).map(Target::WorkerPostgres);
                apis().map(Target::ApiPostgres).chain(twice).collect()
            }
            Place::Link => apis()
                .flat_map(|number| [Target::ApiNats(number), Target::ApiPostgres(number)])
                .chain(
                    workers().flat_map(|number| [Target::WorkerNats(number), Target::WorkerPostgres(number)]),
                )
                .collect(),
            Place::Partition => (0..shape.partitions).map(Target::Partition).collect(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| UnknownFault(name.to_owned()))
    }
}
