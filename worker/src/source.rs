//! Reads one partition's stream in order, without gaps, from the cursor on.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use common::partition::PartitionId;
use common::queue::Link;
use common::stream;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use uuid::Uuid;

use crate::context::Worker;
use crate::message::Message;
use crate::sessions::Sessions;
use crate::source_error::{SourceError, queue_error};
use crate::store::PartitionRow;
use crate::stream_check::{CONSUMER_INACTIVE_MAX, Mismatch, Next, StreamCheck};
use crate::streams;

/// The server ends a pull request after this time; the client library sends the next one.
const PULL_EXPIRES: Duration = Duration::from_secs(10);

/// The server's sign of life while nothing comes; two missing ones end the source.
const PULL_HEARTBEAT: Duration = Duration::from_secs(1);

/// How long the server may take to remove a consumer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open consumer on a partition's stream.
pub(crate) struct Source {
    jetstream: jetstream::Context,
    consumer: Consumer<pull::Config>,
    messages: pull::Stream,
    link: watch::Receiver<Link>,
    link_number: u64,
    /// A message that the client library cannot take, fetched beforehand.
    undeliverable: Option<Message>,
    /// What ended the source while messages were being gathered.
    failed: Option<SourceError>,
    /// Whether there was a message behind the cursor when it was opened.
    pub(crate) has_messages: bool,
    /// What the database said when the stream was found to agree with it.
    pub(crate) row: PartitionRow,
    next_sequence: i64,
}

impl Source {
    /// Opens a consumer at the cursor, and makes sure that the stream is the one that the cursor speaks of.
    ///
    /// The consumer comes first and the comparison second: a consumer ends with its stream, so that what was compared
    /// is what is read.
    pub(crate) async fn open(
        worker: &Worker,
        sessions: &Sessions,
        partition: PartitionId,
        lease_epoch: i64,
    ) -> Result<Self, SourceError> {
        let link = worker.queue.link.clone();
        let link_number = link.borrow().number;
        let jetstream = jetstream::new(worker.queue.client.clone());
        streams::ensure(worker, &jetstream, partition).await?;
        let row = sessions.partition(partition).await?;
        if (row.owner, row.lease_epoch) != (Some(worker.id), lease_epoch) {
            return Err(SourceError::Lost);
        }
        let stream = jetstream.get_stream(stream::name(partition)).await.map_err(queue_error)?;
        let settings = &worker.config.streams;
        if let Err(error) = streams::adjust(&jetstream, partition, stream.cached_info(), settings).await {
            tracing::error!(%partition, %error, "the stream keeps its limits");
        }
        let check = StreamCheck { jetstream: &jetstream, stream: &stream, partition, row: &row };
        let (undeliverable, missing) = match check.next().await? {
            Next::Deliverable => (None, None),
            Next::Undeliverable(message) => (Some(message), None),
            Next::Missing { resume_after } => (None, Some((Mismatch::MessagesMissing, resume_after))),
        };
        let next_sequence = row.last_seq + 1 + i64::from(undeliverable.is_some());
        let consumer = stream.create_consumer(consumer(worker, next_sequence)).await.map_err(queue_error)?;
        let info = stream.get_info().await.map_err(queue_error)?;
        let start_over = match check.mismatch(&info).await? {
            Some(mismatch) => Some((mismatch, check.unapplied_after(&info).await?)),
            None => missing,
        };
        if let Some((mismatch, last_seq)) = start_over {
            check.start_over(sessions, &info, mismatch, last_seq).await?;
            return Err(SourceError::Moved("the cursor was set to the stream"));
        }
        let messages = consumer
            .stream()
            .max_messages_per_batch(worker.config.prefetch_messages_max)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_HEARTBEAT)
            .messages()
            .await
            .map_err(queue_error)?;
        if link.borrow().number != link_number {
            return Err(SourceError::Moved("NATS was reconnected meanwhile"));
        }
        Ok(Self {
            jetstream,
            consumer,
            messages,
            link,
            link_number,
            undeliverable,
            failed: None,
            has_messages: info.state.last_sequence > u64::try_from(row.last_seq).unwrap_or(0),
            row,
            next_sequence,
        })
    }

    /// Waits for the next message, then takes all that are there already, until they hold `claims_max` commands.
    pub(crate) async fn next_messages(&mut self, claims_max: usize) -> Result<Vec<Message>, SourceError> {
        if let Some(message) = self.undeliverable.take() {
            return Ok(vec![message]);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let link_number = self.link_number;
        let first = tokio::select! {
            // The link first: what was delivered before it broke may belong to a past that the
            // server has forgotten.
            biased;
            _ = self.link.wait_for(|link| link.number != link_number) => return Err(link_lost()),
            message = self.messages.next() => message,
        };
        let mut messages = vec![self.check(first)?];
        let mut claims = messages[0].commands();
        while claims < claims_max {
            let Some(message) = self.messages.next().now_or_never() else { break };
            match self.check(message) {
                Ok(message) => {
                    claims += message.commands();
                    messages.push(message);
                }
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(messages)
    }

    /// Whether this is still the connection on which the stream was compared.
    ///
    /// # Errors
    /// When it is not: what it has delivered is not to be applied.
    pub(crate) fn expect_current(&self) -> Result<(), SourceError> {
        if self.link.borrow().number == self.link_number { Ok(()) } else { Err(link_lost()) }
    }

    fn check(
        &mut self,
        message: Option<Result<jetstream::Message, pull::MessagesError>>,
    ) -> Result<Message, SourceError> {
        let message = message.ok_or_else(|| queue_error("the consumer has ended"))?.map_err(queue_error)?;
        let message = Message::of(message).map_err(queue_error)?;
        advance(&mut self.next_sequence, message.sequence)?;
        Ok(message)
    }

    /// Removes the consumer from the server, without waiting for it. It would expire a little later.
    pub(crate) fn close(self) {
        let Self { jetstream, consumer, messages, .. } = self;
        drop(messages);
        tokio::spawn(async move {
            let info = consumer.cached_info();
            let deleted = jetstream.delete_consumer_from_stream(&info.name, &info.stream_name);
            if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, deleted).await, Ok(Ok(_))) {
                tracing::debug!(consumer = info.name, "the consumer was left to expire");
            }
        });
    }
}

/// Moves on to the message behind this one, if it is the one that follows.
fn advance(next_sequence: &mut i64, sequence: i64) -> Result<(), SourceError> {
    if sequence != *next_sequence {
        return Err(SourceError::Moved("messages are missing from what was delivered"));
    }
    *next_sequence += 1;
    Ok(())
}

fn link_lost() -> SourceError {
    queue_error("the connection was lost")
}

fn consumer(worker: &Worker, next_sequence: i64) -> pull::Config {
    pull::Config {
        name: Some(format!("worker-{}-{}", worker.id.simple(), Uuid::new_v4().simple())),
        description: Some("Applies the claims; the cursor is in Postgres".to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: u64::try_from(next_sequence).unwrap_or(1),
        },
        // Postgres knows what has been applied, so nothing is acknowledged and nothing redelivered.
        ack_policy: AckPolicy::None,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: CONSUMER_INACTIVE_MAX,
        ..pull::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_message_that_follows_is_taken() {
        let mut next_sequence = 7;
        // Missing messages, one that came before, and one that came twice.
        for sequence in [8, 9, 6, 0, -1] {
            let refused = advance(&mut next_sequence, sequence);
            assert!(matches!(refused, Err(SourceError::Moved(_))), "{sequence}: {refused:?}");
            assert_eq!(next_sequence, 7);
        }
        advance(&mut next_sequence, 7).unwrap();
        assert!(advance(&mut next_sequence, 7).is_err());
        advance(&mut next_sequence, 8).unwrap();
        assert_eq!(next_sequence, 9);
    }
}
