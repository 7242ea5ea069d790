//! Compares a partition's stream with its row in Postgres: is it the stream that the cursor speaks of, and can what
//! follows the cursor be delivered?

use async_nats::datetime;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Info, RawMessage, Stream};
use async_nats::jetstream::{self, ErrorCode};
use common::partition::PartitionId;
use common::stream;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::message::{self, Message, Misunderstood, nanoseconds};
use crate::sessions::{ROW_TIMEOUT, Sessions};
use crate::source_error::{SourceError, queue_error};
use crate::store::{self, PartitionRow};

/// A consumer that nobody reads is removed by the server after this time.
pub(crate) const CONSUMER_INACTIVE_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// How the server writes headers that begin with `NATS/1.0\r`, in base64. With anything in between, they are a status
/// of the server to the client library, and the message is not delivered.
const PLAIN_HEADERS: &str = "TkFUUy8xLjAN";

/// When a stream was created, in nanoseconds since 1970.
pub(crate) fn created_ns(info: &Info) -> i64 {
    nanoseconds(info.created)
}

/// In what way the stream is not the one that the cursor speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// The cursor was never set to a stream.
    New,
    /// The stream was deleted and created again.
    Recreated,
    /// The stream ends before the cursor: its tail was lost.
    Shorter,
    /// Messages after the cursor were deleted, or the last one applied, so that nothing can be compared.
    MessagesMissing,
    /// Another message stands where the last one applied stood: the tail was lost and written again.
    Rewritten,
}

/// What follows the cursor.
pub(crate) enum Next {
    /// A message that the consumer will deliver, or nothing yet.
    Deliverable,
    /// Messages were deleted by hand, or lost. The next one that is there follows `resume_after`.
    Missing { resume_after: i64 },
    /// A message that the client library cannot take. It would end the connection that all partitions share, again and
    /// again.
    Undeliverable(Message),
}

/// A message as the server stores it.
struct Stored {
    sequence: i64,
    identity: Uuid,
    /// All that the server says of it, if the client library cannot take it.
    undeliverable: Option<Vec<u8>>,
}

/// A stream, and the row that it is compared with.
pub(crate) struct StreamCheck<'a> {
    pub(crate) jetstream: &'a jetstream::Context,
    pub(crate) stream: &'a Stream,
    pub(crate) partition: PartitionId,
    pub(crate) row: &'a PartitionRow,
}

impl StreamCheck<'_> {
    /// Looks at the message that follows the cursor. One that is missing or cannot be delivered would be waited for in
    /// vain.
    pub(crate) async fn next(&self) -> Result<Next, SourceError> {
        let state = &self.stream.cached_info().state;
        let (next, last) = (self.row.last_seq + 1, signed(state.last_sequence));
        if next > last || next < signed(state.first_sequence) {
            return Ok(Next::Deliverable);
        }
        Ok(match self.first_stored_from(next).await? {
            None => Next::Missing { resume_after: last },
            Some(stored) if stored.sequence > next => Next::Missing { resume_after: stored.sequence - 1 },
            Some(Stored { undeliverable: None, .. }) => Next::Deliverable,
            Some(Stored { identity, undeliverable: Some(payload), .. }) => Next::Undeliverable(Message {
                sequence: next,
                stored_ns: self.row.last_time_ns.unwrap_or(0),
                identity,
                reply_to: None,
                batch: None,
                misunderstood: Some(Misunderstood {
                    reason: "its headers are malformed; kept as JetStream tells it".to_owned(),
                    payload,
                }),
            }),
        })
    }

    /// Whether the stream, of which NATS has just said `info`, is the one that the cursor speaks of.
    pub(crate) async fn mismatch(&self, info: &Info) -> Result<Option<Mismatch>, SourceError> {
        let row = self.row;
        let mismatch = match row.stream_created_ns {
            None => Some(Mismatch::New),
            Some(created) if created != created_ns(info) => Some(Mismatch::Recreated),
            Some(_) if signed(info.state.last_sequence) < row.last_seq => Some(Mismatch::Shorter),
            Some(_) if first_sequence(info) > row.last_seq + 1 => Some(Mismatch::MessagesMissing),
            Some(_) => None,
        };
        let Some(expected) = row.last_batch_id.filter(|_| mismatch.is_none()) else { return Ok(mismatch) };
        Ok(match self.first_stored_from(row.last_seq).await? {
            Some(stored) if stored.sequence != row.last_seq => Some(Mismatch::MessagesMissing),
            Some(stored) if stored.identity != expected => Some(Mismatch::Rewritten),
            Some(_) => None,
            None => Some(Mismatch::MessagesMissing),
        })
    }

    /// The sequence number after which the messages begin that have not been applied: all that the server stored after
    /// the last one that was. An older copy of the stream, brought back, holds none of them at first; what is published
    /// to it then is new, whatever its sequence numbers.
    ///
    /// Applying a message again would not hand out anything twice. But a claim that was refused because there was no
    /// such coupon could win, and nobody would be told.
    pub(crate) async fn unapplied_after(&self, info: &Info) -> Result<i64, SourceError> {
        let Some(last_time_ns) = self.row.last_time_ns else { return Ok(first_sequence(info) - 1) };
        let start_time = datetime::from_nanos(i128::from(last_time_ns) + 1).map_err(queue_error)?;
        // The server knows: a consumer that starts at that time stands right before the message.
        let consumer = pull::Config {
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: CONSUMER_INACTIVE_MAX,
            name: Some(format!("finder-{}", Uuid::new_v4().simple())),
            ..pull::Config::default()
        };
        let consumer = self.stream.create_consumer(consumer).await.map_err(queue_error)?;
        i64::try_from(consumer.cached_info().delivered.stream_sequence).map_err(queue_error)
    }

    /// Lets the partition start over after `last_seq`.
    pub(crate) async fn start_over(
        &self,
        sessions: &Sessions,
        info: &Info,
        mismatch: Mismatch,
        last_seq: i64,
    ) -> Result<(), SourceError> {
        let Self { partition, row, .. } = *self;
        // A generation is never 0: receipts use that for "proves nothing". And where messages are skipped, a cursor
        // that has passed one of them proves nothing.
        let raise = mismatch != Mismatch::New || row.generation == 0 || last_seq >= first_sequence(info);
        let created_ns = created_ns(info);
        let over = sessions
            .within(ROW_TIMEOUT, async |session| {
                let connection = &mut session.connection;
                store::start_over(connection, partition, row, created_ns, last_seq, raise).await
            })
            .await?;
        // Nothing has been lost before the first generation.
        if over && raise && row.generation != 0 {
            tracing::error!(
                %partition,
                ?mismatch,
                generation = row.generation + 1,
                cursor = row.last_seq,
                stream_first = info.state.first_sequence,
                stream_last = info.state.last_sequence,
                resume_after = last_seq,
                "the stream is not the one that was read before, or lost messages: starting over"
            );
        }
        Ok(())
    }

    /// Asks for the first message from `sequence` on, without a consumer: the server's answer holds it as JSON, which
    /// malformed headers cannot break.
    async fn first_stored_from(&self, sequence: i64) -> Result<Option<Stored>, SourceError> {
        let api = format!("STREAM.MSG.GET.{}", stream::name(self.partition));
        let question = json!({ "seq": sequence, "next_by_subj": stream::subject(self.partition) });
        let answer: Value = self.jetstream.request(api, &question).await.map_err(queue_error)?;
        let Some(message) = answer.get("message") else {
            let code = answer.pointer("/error/err_code").and_then(Value::as_u64);
            let is_missing = code == Some(ErrorCode::NO_MESSAGE_FOUND.0);
            return if is_missing { Ok(None) } else { Err(queue_error(&answer)) };
        };
        let raw: RawMessage = serde_json::from_value(message.clone()).map_err(queue_error)?;
        let sequence = signed(raw.sequence);
        let is_plain = raw.headers.as_ref().is_none_or(|headers| headers.starts_with(PLAIN_HEADERS));
        Ok(Some(match StreamMessage::try_from(raw) {
            Ok(read) if is_plain => {
                Stored { sequence, identity: message::identity(&read.payload), undeliverable: None }
            }
            _ => {
                let text = message.to_string().into_bytes();
                Stored { sequence, identity: message::name_of(&text), undeliverable: Some(text) }
            }
        }))
    }
}

/// The first sequence number that the stream holds or, if it is empty, will hold next.
fn first_sequence(info: &Info) -> i64 {
    let state = &info.state;
    signed(if state.messages == 0 { state.last_sequence + 1 } else { state.first_sequence })
}

fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}
