//! The batches that wait for an answer, and the one subscription that brings the answers.
//!
//! The client library has requests of its own, but keeps an entry for each one that is never answered. Here one
//! wildcard subscription serves the process, and every entry has a deadline ([`overdue`](crate::claims::overdue)).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Message, StatusCode, Subject, Subscriber};
use common::message::{BatchOutcomes, REPLY_PREFIX};
use common::partition::PartitionId;
use common::queue::Connection;
use futures::StreamExt;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::claims::answer::{Answer, Unavailable};
use crate::claims::batch::{PublishResult, UnansweredBatch};
use crate::claims::cursors::Cursors;
use crate::claims::pacing::BatchPermit;
use crate::claims::waiter::{Waiter, answer_all};

/// Code of the JetStream error for a stream that has reached its bytes or messages.
const STREAM_FULL: u64 = 10_077;

/// The kinds of subject below the process's prefix: `replies.<process>.<kind>.<number>`.
const ACKNOWLEDGEMENT: &str = "a";
const REPLY: &str = "r";

/// All batches that wait for an answer.
pub(crate) struct Inbox {
    queue: Connection,
    cursors: Arc<Cursors>,
    /// `replies.<process>.`
    prefix: String,
    next_number: AtomicU64,
    unanswered: Mutex<HashMap<u64, UnansweredBatch>>,
}

impl Inbox {
    /// An inbox under a prefix of its own.
    pub(crate) fn new(queue: Connection, cursors: Arc<Cursors>) -> Arc<Self> {
        Arc::new(Self {
            queue,
            cursors,
            prefix: format!("{REPLY_PREFIX}{}.", Uuid::new_v4().simple()),
            next_number: AtomicU64::new(0),
            unanswered: Mutex::default(),
        })
    }

    /// Subscribes to this process's acknowledgements and replies.
    pub(crate) async fn subscribe(&self) -> Result<Subscriber, async_nats::SubscribeError> {
        self.queue.client.subscribe(format!("{}>", self.prefix)).await
    }

    /// Registers a batch that is about to be published. Returns its number, and where its acknowledgement arrives.
    pub(crate) fn register(
        &self,
        partition: PartitionId,
        batch_id: Uuid,
        waiters: Vec<Waiter>,
        permit: Option<BatchPermit>,
    ) -> (u64, oneshot::Receiver<PublishResult>) {
        let (acknowledgement, receiver) = oneshot::channel();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let deadline = waiters.iter().map(|waiter| waiter.deadline).min().unwrap_or_else(Instant::now);
        let batch = UnansweredBatch {
            partition,
            cursor: self.cursors.get(partition),
            batch_id,
            waiters,
            receipt: None,
            deadline,
            link_number: self.queue.link.borrow().number,
            acknowledgement: Some(acknowledgement),
            published_at: Instant::now(),
            applied_at: None,
            permit,
        };
        self.lock().insert(number, batch);
        (number, receiver)
    }

    /// Takes a batch back that was not published.
    pub(crate) fn withdraw(&self, number: u64) -> Vec<Waiter> {
        self.lock().remove(&number).map(|batch| batch.waiters).unwrap_or_default()
    }

    /// Where JetStream acknowledges a batch.
    pub(crate) fn acknowledgement_subject(&self, number: u64) -> Subject {
        format!("{}{ACKNOWLEDGEMENT}.{number}", self.prefix).into()
    }

    /// Where the worker replies to a batch.
    pub(crate) fn reply_subject(&self, number: u64) -> String {
        format!("{}{REPLY}.{number}", self.prefix)
    }

    /// Hands out what arrives, until the subscription ends.
    pub(crate) async fn receive(self: Arc<Self>, mut messages: Subscriber) {
        while let Some(message) = messages.next().await {
            match self.parse(&message.subject) {
                Some((REPLY, number)) => self.on_reply(number, &message),
                Some((ACKNOWLEDGEMENT, number)) => self.on_acknowledgement(number, &message),
                _ => {}
            }
        }
    }

    /// Takes out the batches whose reply is not waited for any longer.
    pub(crate) fn take_overdue(&self) -> Vec<UnansweredBatch> {
        let (now, link) = (Instant::now(), *self.queue.link.borrow());
        let mut unanswered = self.lock();
        let overdue = unanswered.extract_if(|_, batch| batch.is_overdue(now, link, &self.cursors));
        // Without a reply to wait for, what a batch held is free.
        overdue.map(|(_, batch)| UnansweredBatch { permit: None, ..batch }).collect()
    }

    /// Whether no batch waits for an answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn parse<'a>(&self, subject: &'a str) -> Option<(&'a str, u64)> {
        let (kind, number) = subject.strip_prefix(&self.prefix)?.split_once('.')?;
        Some((kind, number.parse().ok()?))
    }

    fn on_reply(&self, number: u64, message: &Message) {
        let Ok(reply) = BatchOutcomes::decode(&message.payload) else {
            tracing::error!(number, "a malformed reply");
            return;
        };
        let mut unanswered = self.lock();
        let fits = unanswered.get(&number).is_some_and(|batch| {
            batch.batch_id == reply.batch_id && batch.waiters.len() == reply.outcomes.len()
        });
        if !fits {
            // The deadline was faster, or the sender is not our worker.
            return;
        }
        let Some(mut batch) = unanswered.remove(&number) else { return };
        let acknowledgement = batch.acknowledgement.take();
        let claims = std::mem::take(&mut batch.waiters).into_iter().zip(reply.outcomes);
        let mut decided = Vec::with_capacity(claims.len());
        for (waiter, outcome) in claims {
            match outcome {
                Some(outcome) => decided.push((waiter, outcome)),
                // The worker is of a later version.
                None => batch.waiters.push(waiter),
            }
        }
        if !batch.waiters.is_empty() {
            tracing::warn!(number, claims = batch.waiters.len(), "unknown outcomes; they will be looked up");
            batch.applied_at = Some(Instant::now());
            unanswered.insert(number, UnansweredBatch { permit: None, ..batch });
        }
        drop(unanswered);
        if let Some(acknowledgement) = acknowledgement {
            let _ = acknowledgement.send(PublishResult::Answered);
        }
        for (waiter, outcome) in decided {
            waiter.answer(Answer::Outcome(outcome));
        }
    }

    fn on_acknowledgement(&self, number: u64, message: &Message) {
        let published = match publish_result(message) {
            Ok(published) => published,
            Err(error) => {
                tracing::error!(number, %error, "a malformed acknowledgement");
                return;
            }
        };
        let mut unanswered = self.lock();
        let Some(batch) = unanswered.get_mut(&number) else { return };
        let acknowledgement = batch.acknowledgement.take();
        let refused = match published {
            PublishResult::Stored(sequence) => {
                batch.receipt = Some(batch.receipt_of(sequence, &self.cursors));
                None
            }
            PublishResult::Refused(reason) => unanswered.remove(&number).map(|batch| (batch.waiters, reason)),
            PublishResult::Answered => None,
        };
        drop(unanswered);
        // The publisher may have gone on meanwhile.
        if let Some(acknowledgement) = acknowledgement {
            let _ = acknowledgement.send(published);
        }
        if let Some((waiters, reason)) = refused {
            answer_all(waiters, Answer::Unavailable(reason));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, UnansweredBatch>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn publish_result(message: &Message) -> Result<PublishResult, serde_json::Error> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Ok(PublishResult::Refused(Unavailable::QueueUnavailable));
    }
    Ok(match serde_json::from_slice::<Response<PublishAck>>(&message.payload)? {
        Response::Ok(ack) => PublishResult::Stored(i64::try_from(ack.sequence).unwrap_or(i64::MAX)),
        Response::Err { error } => {
            tracing::warn!(%error, "NATS refuses a batch");
            PublishResult::Refused(if error.error_code().0 == STREAM_FULL {
                Unavailable::QueueFull
            } else {
                Unavailable::QueueUnavailable
            })
        }
    })
}
