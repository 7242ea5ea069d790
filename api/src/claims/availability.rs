//! Whether Postgres and NATS answer: asked several times a second, so that a claim need not ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Subject, SubscribeError, Subscriber};
use common::queue::{Connection as Queue, Link};
use futures::{FutureExt, StreamExt};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::claims::answer::Unavailable;
use crate::claims::cursors::{Cursor, Cursors};
use crate::store;

/// How often both are asked.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// How often a start looks whether both have answered.
const READY_POLL: Duration = Duration::from_millis(5);

/// A server that takes longer to answer counts as away.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether Postgres and NATS answer.
pub(crate) struct Availability {
    postgres: AtomicBool,
    nats: watch::Sender<bool>,
    /// Whether all claim streams have been there.
    streams: AtomicBool,
    link: watch::Receiver<Link>,
    cursors: Arc<Cursors>,
}

impl Availability {
    /// Both count as away until they have been asked. `cursors` are refreshed with each answer of Postgres.
    pub(crate) fn new(link: watch::Receiver<Link>, cursors: Arc<Cursors>) -> Arc<Self> {
        Arc::new(Self {
            postgres: AtomicBool::new(false),
            nats: watch::Sender::new(false),
            streams: AtomicBool::new(false),
            link,
            cursors,
        })
    }

    /// Whether Postgres answers.
    pub(crate) fn postgres(&self) -> bool {
        self.postgres.load(Ordering::Relaxed)
    }

    /// Whether NATS answers, and has had all claim streams.
    pub(crate) fn nats(&self) -> bool {
        *self.nats.borrow() && self.link.borrow().up && self.streams.load(Ordering::Relaxed)
    }

    /// All claim streams are there. One that is missing later concerns the claims of its partition only.
    pub(crate) fn streams_found(&self) {
        self.streams.store(true, Ordering::Relaxed);
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

    /// Returns once both answer, all streams are there and all cursors are known.
    pub(crate) async fn ready(&self) {
        while self.check().is_err() || !self.cursors.are_known() {
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

    /// Asks Postgres for the cursors until `stop`.
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
        // The link's number first: what is read while NATS is reconnected counts for the old connection.
        let link_number = self.link.borrow().number;
        let cursors = store::cursors(connection).await?;
        let cursors =
            cursors.into_iter().map(|(generation, last_seq)| Cursor { generation, last_seq, link_number });
        self.cursors.refresh(cursors.collect());
        Ok(())
    }

    /// Asks JetStream until `stop`.
    pub(crate) async fn watch_nats(self: Arc<Self>, mut probe: NatsProbe, stop: CancellationToken) {
        loop {
            let answers = tokio::time::timeout(PROBE_TIMEOUT, probe.answers()).await == Ok(true);
            if self.nats.send_replace(answers) != answers {
                report("NATS", answers);
            }
            if stop.run_until_cancelled(tokio::time::sleep(PROBE_INTERVAL)).await.is_none() {
                return;
            }
        }
    }
}

/// Asks JetStream for a sign of life, over a subscription of its own. (The client's own requests would leave an entry
/// for each one that is never answered.)
pub(crate) struct NatsProbe {
    queue: Queue,
    inbox: Subject,
    answers: Subscriber,
}

impl NatsProbe {
    /// Subscribes to the answers.
    ///
    /// # Errors
    /// When the client is closed.
    pub(crate) async fn subscribe(queue: Queue) -> Result<Self, SubscribeError> {
        let inbox = Subject::from(queue.client.new_inbox());
        let answers = queue.client.subscribe(inbox.clone()).await?;
        Ok(Self { queue, inbox, answers })
    }

    async fn answers(&mut self) -> bool {
        // An answer to an earlier question that came too late says nothing about now.
        while self.answers.next().now_or_never().flatten().is_some() {}
        let client = &self.queue.client;
        // The library tells of changes, but may drop the news when it is flooded: its state counts.
        client.connection_state() == State::Connected
            && client.publish_with_reply("$JS.API.INFO", self.inbox.clone(), Default::default()).await.is_ok()
            && matches!(self.answers.next().await, Some(answer) if answer.status.is_none())
    }
}

fn report(server: &str, answers: bool) {
    if answers {
        tracing::info!(server, "answers");
    } else {
        tracing::warn!(server, "does not answer; claims are refused");
    }
}
