//! What was published and is not answered yet, and the one subscription that brings the answers.
//!
//! The client library has requests of its own, but keeps an entry for each one that is never
//! answered. Here one wildcard subscription serves the process, and every entry has a deadline.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Message, StatusCode, Subject, Subscriber};
use common::message::{BatchOutcomes, Claim, Outcome, REPLY_PREFIX};
use common::partition::PartitionId;
use common::queue::{Connection, Link};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::claims::dispatcher::GATHER_MAX;
use crate::claims::pacing::Turn;
use crate::claims::receipt::{Receipt, UNPROVEN};
use crate::claims::resolve::{Resolver, answer_all};
use crate::health::{Cursor, Health};
use crate::http::problem::Unavailable;

/// How often deadlines are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(25);

/// How long a reply may take once Postgres shows that the batch has been applied; then nobody is left
/// who would send it.
const REPLY_GRACE: Duration = Duration::from_millis(250);

/// Code of the JetStream error for a stream that has reached its bytes or messages.
const STREAM_FULL: u64 = 10_077;

/// What a claim is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This became of it.
    Outcome(Outcome),
    /// It is queued; here is where.
    Pending(Receipt),
    /// Try again.
    Unavailable(Unavailable),
}

/// A claim on its way, and who waits for it.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) claim: Arc<Claim>,
    /// When the request has to be answered.
    pub(crate) deadline: Instant,
    answer: oneshot::Sender<Answer>,
    /// Held until the answer: it counts the claims in flight.
    _permit: OwnedSemaphorePermit,
}

impl Waiter {
    pub(crate) fn new(
        claim: Arc<Claim>,
        deadline: Instant,
        permit: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        (Self { claim, deadline, answer, _permit: permit }, receiver)
    }

    pub(crate) fn answer(self, answer: Answer) {
        // A client that has gone away is not told.
        let _ = self.answer.send(answer);
    }
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// Stored under this sequence number.
    Stored(i64),
    /// Applied and answered before the acknowledgement came.
    Answered,
    /// Not stored.
    Refused(Unavailable),
}

/// A published batch.
pub(crate) struct Pending {
    partition: PartitionId,
    /// Its partition's cursor before it was published.
    cursor: Option<Cursor>,
    pub(crate) batch_id: Uuid,
    pub(crate) waiters: Vec<Waiter>,
    /// Known once the publish is acknowledged.
    pub(crate) receipt: Option<Receipt>,
    /// The last moment at which all its requests can still be answered in time.
    pub(crate) deadline: Instant,
    /// The connection it was published on: answers do not survive it.
    pub(crate) link_epoch: u64,
    acknowledged: Option<oneshot::Sender<Published>>,
    published: Instant,
    /// Since when it is known to have been applied.
    applied: Option<Instant>,
    slot: Option<Slot>,
}

impl Pending {
    /// What its acknowledgement, as message `sequence`, is worth.
    fn receipt_of(&self, sequence: i64, health: &Health) -> Receipt {
        let cursor = self.cursor.filter(|cursor| health.proves(*cursor, sequence));
        let generation = cursor.map_or(UNPROVEN, |cursor| cursor.generation);
        Receipt { partition: self.partition.number(), generation, sequence }
    }

    /// Whether there is no use in waiting for a reply any longer.
    fn is_orphan(&mut self, now: Instant, link: Link, health: &Health) -> bool {
        if self.applied.is_none() && self.receipt.is_some_and(|receipt| health.has_passed(receipt)) {
            self.applied = Some(now);
        }
        self.deadline <= now
            || self.link_epoch != link.number
            || !link.up
            || self.applied.is_some_and(|since| since + REPLY_GRACE <= now)
    }
}

/// What a batch under way holds.
pub(crate) struct Slot {
    /// Its partition's turn, until the reply.
    #[expect(dead_code, reason = "held to be dropped")]
    pub(crate) turn: Turn,
    /// Room among the batches of all partitions, until the first sweep after [`GATHER_MAX`].
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// All batches that wait for an answer.
pub(crate) struct Inbox {
    queue: Connection,
    /// `replies.<process>.`
    prefix: String,
    next_number: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    ping: Mutex<Option<oneshot::Sender<()>>>,
}

impl Inbox {
    pub(crate) fn new(queue: Connection) -> Arc<Self> {
        Arc::new(Self {
            queue,
            prefix: format!("{REPLY_PREFIX}{}.", Uuid::new_v4().simple()),
            next_number: AtomicU64::new(0),
            pending: Mutex::new(HashMap::new()),
            ping: Mutex::new(None),
        })
    }

    /// Subscribes to this process's replies.
    pub(crate) async fn subscribe(&self) -> Result<Subscriber, async_nats::SubscribeError> {
        self.queue.client.subscribe(format!("{}>", self.prefix)).await
    }

    /// Registers a batch that is about to be published. Returns its number, and what tells of its
    /// acknowledgement.
    pub(crate) fn register(
        &self,
        partition: PartitionId,
        cursor: Option<Cursor>,
        batch_id: Uuid,
        waiters: Vec<Waiter>,
        slot: Option<Slot>,
    ) -> (u64, oneshot::Receiver<Published>) {
        let (acknowledged, receiver) = oneshot::channel();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let deadline = waiters.iter().map(|waiter| waiter.deadline).min().unwrap_or_else(Instant::now);
        let link_epoch = self.queue.link.borrow().number;
        let pending = Pending {
            partition,
            cursor,
            batch_id,
            waiters,
            receipt: None,
            deadline,
            link_epoch,
            acknowledged: Some(acknowledged),
            published: Instant::now(),
            applied: None,
            slot,
        };
        self.lock().insert(number, pending);
        (number, receiver)
    }

    /// Takes a batch back: it was not published.
    pub(crate) fn withdraw(&self, number: u64) -> Vec<Waiter> {
        self.lock().remove(&number).map(|pending| pending.waiters).unwrap_or_default()
    }

    pub(crate) fn ack_subject(&self, number: u64) -> Subject {
        format!("{}a.{number}", self.prefix).into()
    }

    pub(crate) fn reply_subject(&self, number: u64) -> String {
        format!("{}r.{number}", self.prefix)
    }

    /// Whether the connection is up, as the client library sees it.
    pub(crate) fn is_connected(&self) -> bool {
        self.queue.client.connection_state() == State::Connected
    }

    /// Asks JetStream for a sign of life, and waits for it.
    pub(crate) async fn ping(&self) -> bool {
        let (sender, receiver) = oneshot::channel();
        *self.ping.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let inbox = format!("{}p", self.prefix);
        let asked = self.queue.client.publish_with_reply("$JS.API.INFO", inbox, Default::default()).await;
        asked.is_ok() && receiver.await.is_ok()
    }

    /// Hands out what arrives, until the subscription ends.
    pub(crate) async fn receive(self: Arc<Self>, mut messages: Subscriber, health: Arc<Health>) {
        while let Some(message) = messages.next().await {
            let Some((kind, number)) = self.parse(&message.subject) else { continue };
            match kind {
                "r" => self.on_reply(number, &message),
                "a" => self.on_ack(number, &message, &health),
                "p" => {
                    if let Some(sender) = self.ping.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        let _ = sender.send(());
                    }
                }
                _ => {}
            }
        }
    }

    fn parse<'a>(&self, subject: &'a str) -> Option<(&'a str, u64)> {
        let rest = subject.strip_prefix(&self.prefix)?;
        match rest.split_once('.') {
            Some((kind, number)) => Some((kind, number.parse().ok()?)),
            None => Some((rest, 0)),
        }
    }

    fn on_reply(&self, number: u64, message: &Message) {
        let Ok(reply) = serde_json::from_slice::<BatchOutcomes>(&message.payload) else {
            tracing::error!(number, "a reply that is none");
            return;
        };
        let mut entries = self.lock();
        let fits = entries.get(&number).is_some_and(|pending| {
            pending.batch_id == reply.batch_id && pending.waiters.len() == reply.outcomes.len()
        });
        if !fits {
            // The deadline was faster, or the sender is not our worker.
            return;
        }
        let Some(pending) = entries.remove(&number) else { return };
        drop(entries);
        if let Some(acknowledged) = pending.acknowledged {
            let _ = acknowledged.send(Published::Answered);
        }
        for (waiter, outcome) in pending.waiters.into_iter().zip(reply.outcomes) {
            waiter.answer(Answer::Outcome(outcome));
        }
    }

    fn on_ack(&self, number: u64, message: &Message, health: &Health) {
        let published = match published(message) {
            Ok(published) => published,
            Err(error) => {
                tracing::error!(number, %error, "an acknowledgement that is none");
                return;
            }
        };
        let mut entries = self.lock();
        let Some(pending) = entries.get_mut(&number) else { return };
        let acknowledged = pending.acknowledged.take();
        let refused = match published {
            Published::Stored(sequence) => {
                pending.receipt = Some(pending.receipt_of(sequence, health));
                None
            }
            Published::Refused(reason) => entries.remove(&number).map(|pending| (pending.waiters, reason)),
            Published::Answered => None,
        };
        drop(entries);
        // The lane, which may have gone on meanwhile.
        if let Some(acknowledged) = acknowledged {
            let _ = acknowledged.send(published);
        }
        if let Some((waiters, reason)) = refused {
            answer_all(waiters, Answer::Unavailable(reason));
        }
    }

    /// Passes on to `resolver` what has waited long enough, or whose reply was lost, with the
    /// connection or with the worker, until `stop` and the last entry.
    pub(crate) async fn sweep(self: Arc<Self>, resolver: Resolver, stop: CancellationToken) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let (now, link) = (Instant::now(), *self.queue.link.borrow());
            let mut entries = self.lock();
            let late = entries.values_mut().filter(|pending| now >= pending.published + GATHER_MAX);
            for slot in late.filter_map(|pending| pending.slot.as_mut()) {
                slot.room = None;
            }
            let orphans = entries
                .extract_if(|_, pending| pending.is_orphan(now, link, &resolver.health))
                // No reply is waited for any more: what it held is free.
                .map(|(_, pending)| Pending { slot: None, ..pending });
            for pending in orphans {
                resolver.resolve(pending);
            }
            if stop.is_cancelled() && entries.is_empty() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn published(message: &Message) -> Result<Published, serde_json::Error> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Ok(Published::Refused(Unavailable::QueueUnavailable));
    }
    Ok(match serde_json::from_slice::<Response<PublishAck>>(&message.payload)? {
        Response::Ok(ack) => Published::Stored(i64::try_from(ack.sequence).unwrap_or(i64::MAX)),
        Response::Err { error } => {
            tracing::warn!(%error, "NATS refuses a batch");
            Published::Refused(if error.error_code().0 == STREAM_FULL {
                Unavailable::QueueFull
            } else {
                Unavailable::QueueUnavailable
            })
        }
    })
}
