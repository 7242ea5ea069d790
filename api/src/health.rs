//! Whether Postgres and NATS answer, and how far the partitions are: asked several times a second,
//! so that a claim need not ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::partition::PartitionId;
use common::queue::Link;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::claims::inbox::Inbox;
use crate::claims::receipt::{Receipt, UNPROVEN};
use crate::http::problem::Unavailable;
use crate::store;

/// How often both are asked.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// How often a start looks whether both have answered.
const READY_POLL: Duration = Duration::from_millis(5);

/// An answer that takes longer counts as none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a partition's cursor was, and on which connection to NATS that was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) generation: i64,
    pub(crate) last_seq: i64,
    link_epoch: u64,
}

/// What is known of Postgres and NATS.
pub(crate) struct Health {
    postgres: AtomicBool,
    nats: watch::Sender<bool>,
    link: watch::Receiver<Link>,
    cursors: Mutex<Vec<Cursor>>,
}

impl Health {
    /// Both count as away until they have been asked.
    pub(crate) fn new(link: watch::Receiver<Link>) -> Arc<Self> {
        Arc::new(Self {
            postgres: AtomicBool::new(false),
            nats: watch::Sender::new(false),
            link,
            cursors: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn postgres(&self) -> bool {
        self.postgres.load(Ordering::Relaxed)
    }

    pub(crate) fn nats(&self) -> bool {
        *self.nats.borrow() && self.link.borrow().up
    }

    /// Whether a claim may be accepted: it needs the queue now and the database in a moment.
    pub(crate) fn check(&self) -> Result<(), Unavailable> {
        if !self.nats() {
            return Err(Unavailable::QueueUnavailable);
        }
        if !self.postgres() {
            return Err(Unavailable::DatabaseUnavailable);
        }
        Ok(())
    }

    /// Returns once both answer.
    pub(crate) async fn ready(&self) {
        while self.check().is_err() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Returns once every partition's cursor has been read and speaks of a stream.
    pub(crate) async fn cursors_known(&self) {
        let known = || {
            let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            !cursors.is_empty() && cursors.iter().all(|cursor| cursor.generation != UNPROVEN)
        };
        while !known() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Returns once NATS does not answer any more.
    pub(crate) async fn nats_lost(&self) {
        let (mut answers, mut link) = (self.nats.subscribe(), self.link.clone());
        tokio::select! {
            _ = answers.wait_for(|answers| !answers) => {}
            _ = link.wait_for(|link| !link.up) => {}
        }
    }

    /// The last known cursor of a partition, to be read before a message is published.
    pub(crate) fn cursor(&self, partition: PartitionId) -> Option<Cursor> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).get(partition.index()).copied()
    }

    /// Whether the message that got `sequence` belongs to the generation of `before`, which was
    /// read before it was published.
    ///
    /// It does if the cursor had not reached that number then, and the server has not been away
    /// since: a stream that was lost and written again counts from an earlier number, and cannot
    /// lose its tail without the server going away.
    pub(crate) fn proves(&self, before: Cursor, sequence: i64) -> bool {
        sequence > before.last_seq && before.link_epoch == self.link.borrow().number
    }

    /// Whether the message of `receipt` had been applied when Postgres was last asked.
    pub(crate) fn has_passed(&self, receipt: Receipt) -> bool {
        let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        cursors.get(receipt.partition as usize).is_some_and(|cursor| {
            cursor.generation != UNPROVEN
                && cursor.generation == receipt.generation
                && cursor.last_seq >= receipt.sequence
        })
    }

    /// Asks Postgres until `stop`.
    pub(crate) async fn watch_postgres(self: Arc<Self>, options: PgConnectOptions, stop: CancellationToken) {
        let mut connection = None;
        loop {
            let asked =
                tokio::time::timeout(PROBE_TIMEOUT, self.probe_postgres(&options, &mut connection)).await;
            let answers = matches!(asked, Ok(Ok(())));
            if !answers {
                connection = None;
            }
            if self.postgres.swap(answers, Ordering::Relaxed) != answers {
                report("Postgres", answers);
            }
            if stop.run_until_cancelled(tokio::time::sleep(PROBE_INTERVAL)).await.is_none() {
                break;
            }
        }
        if let Some(connection) = connection {
            // Best effort: the server notices the closed socket as well.
            let _ = tokio::time::timeout(PROBE_TIMEOUT, Connection::close(connection)).await;
        }
    }

    async fn probe_postgres(
        &self,
        options: &PgConnectOptions,
        connection: &mut Option<PgConnection>,
    ) -> sqlx::Result<()> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(options.connect().await?),
        };
        // The epoch first: what is learnt while NATS is reconnected counts for the old connection.
        let link_epoch = self.link.borrow().number;
        let cursors = store::cursors(connection).await?;
        let cursors =
            cursors.into_iter().map(|(generation, last_seq)| Cursor { generation, last_seq, link_epoch });
        *self.cursors.lock().unwrap_or_else(PoisonError::into_inner) = cursors.collect();
        Ok(())
    }

    /// Asks NATS until `stop`.
    pub(crate) async fn watch_nats(self: Arc<Self>, inbox: Arc<Inbox>, stop: CancellationToken) {
        loop {
            // The library tells of changes, but may drop the news when it is flooded: its state counts.
            let answers = inbox.is_connected()
                && tokio::time::timeout(PROBE_TIMEOUT, inbox.ping()).await.is_ok_and(|answered| answered);
            if self.nats.send_replace(answers) != answers {
                report("NATS", answers);
            }
            if stop.run_until_cancelled(tokio::time::sleep(PROBE_INTERVAL)).await.is_none() {
                return;
            }
        }
    }
}

fn report(server: &str, answers: bool) {
    if answers {
        tracing::info!(server, "answers");
    } else {
        tracing::warn!(server, "does not answer; claims are refused");
    }
}
