//! Reads one partition's stream in order, without gaps, from the cursor on.

use std::error::Error as _;
use std::time::Duration;

use async_nats::datetime::{self, DateTime};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::RequestError;
use async_nats::jetstream::stream::{Info, RawMessageError, RawMessageErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, Subject};
use common::message::{Batch, REPLY_HEADER, REPLY_PREFIX};
use common::partition::PartitionId;
use common::queue::Link;
use common::stream;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use uuid::Uuid;

use crate::Worker;
use crate::sessions::{ROW_TIMEOUT, Sessions};
use crate::store::{self, PartitionRow};

/// The server ends a pull request after this time; the client library sends the next one.
const PULL_EXPIRES: Duration = Duration::from_secs(10);

/// The server's sign of life while nothing comes; two missing ones end the source.
const PULL_HEARTBEAT: Duration = Duration::from_secs(1);

/// A consumer that nobody reads is removed by the server after this time.
const CONSUMER_INACTIVE_MAX: Duration = Duration::from_secs(10);

/// How long the server may take to remove a consumer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its place in the stream.
    pub(crate) sequence: i64,
    /// When the server stored it, in nanoseconds since 1970.
    pub(crate) stored_ns: i64,
    /// Its batch id, or one made from its bytes when it holds none.
    pub(crate) identity: Uuid,
    /// Where its outcomes go.
    pub(crate) reply_to: Option<Subject>,
    /// What it says, or why that cannot be understood, and its bytes.
    pub(crate) content: Result<Batch, (String, Vec<u8>)>,
}

/// Why reading has to begin anew, or to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Another worker owns the partition.
    #[error("another worker owns the partition")]
    Lost,
    /// NATS has to be asked again.
    #[error("NATS: {0}")]
    Queue(String),
    /// Postgres has to be asked again.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The stream or the cursor moved while we looked; look again.
    #[error("{0}")]
    Moved(&'static str),
}

/// An open consumer on a partition's stream.
pub(crate) struct Source {
    jetstream: jetstream::Context,
    consumer: Consumer<pull::Config>,
    messages: pull::Stream,
    link: watch::Receiver<Link>,
    opened_in: u64,
    /// A message that the client library cannot take, fetched beforehand.
    unreadable: Option<Message>,
    /// What ended the source while a batch was being gathered.
    failed: Option<SourceError>,
    /// What the database said when the stream was found to agree with it.
    pub(crate) row: PartitionRow,
    next_sequence: i64,
}

impl Source {
    /// Opens a consumer at the cursor, and makes sure that the stream is the one that the cursor
    /// speaks of.
    ///
    /// The consumer comes first and the comparison second: a consumer ends with its stream, so that
    /// what was compared is what is read.
    pub(crate) async fn open(
        worker: &Worker,
        sessions: &Sessions,
        partition: PartitionId,
        epoch: i64,
    ) -> Result<Self, SourceError> {
        let link = worker.queue.link.clone();
        let opened_in = link.borrow().epoch;
        let jetstream = jetstream::new(worker.queue.client.clone());
        let settings = &worker.config.nats.streams;
        stream::ensure(&jetstream, &worker.pool, partition, settings).await.map_err(|error| match error {
            stream::EnsureError::Stream(error) => SourceError::Queue(error),
            stream::EnsureError::Database(error) => error.into(),
        })?;
        let row = sessions.partition(partition).await?;
        if row.epoch != epoch {
            return Err(SourceError::Lost);
        }
        let stream = jetstream.get_stream(stream::name(partition)).await.map_err(queue_error)?;
        if let Err(error) = stream::adjust(&jetstream, partition, stream.cached_info(), settings).await {
            tracing::error!(%partition, %error, "the stream keeps its limits");
        }
        let next = examine_next(&jetstream, &stream, partition, &row).await?;
        let unreadable = match &next {
            Next::Unreadable(message) => Some(message.clone()),
            Next::Fine | Next::Missing { .. } => None,
        };
        let next_sequence = row.last_seq + 1 + i64::from(unreadable.is_some());
        let consumer = stream.create_consumer(consumer(worker, next_sequence)).await.map_err(queue_error)?;
        let info = stream.get_info().await.map_err(queue_error)?;
        let mismatch = match compare(&jetstream, &stream, partition, &info, &row).await? {
            Some(mismatch) => Some((mismatch, unapplied_after(&stream, &info, &row).await?)),
            None => None,
        };
        let hole = match next {
            Next::Missing { resume_after } => Some((Mismatch::Purged, resume_after)),
            Next::Fine | Next::Unreadable(_) => None,
        };
        if let Some((mismatch, last_seq)) = mismatch.or(hole) {
            mismatch.start_over(sessions, partition, &info, &row, last_seq).await?;
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
        if link.borrow().epoch != opened_in {
            return Err(SourceError::Moved("NATS was reconnected meanwhile"));
        }
        let failed = None;
        Ok(Self { jetstream, consumer, messages, link, opened_in, unreadable, failed, row, next_sequence })
    }

    /// Waits for the next message, then takes all that are there already, until they hold
    /// `claims_max` claims.
    pub(crate) async fn next_batch(&mut self, claims_max: usize) -> Result<Vec<Message>, SourceError> {
        if let Some(message) = self.unreadable.take() {
            return Ok(vec![message]);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let opened_in = self.opened_in;
        let first = tokio::select! {
            // The link first: what was delivered before it broke may belong to a past that the
            // server has forgotten.
            biased;
            _ = self.link.wait_for(|link| link.epoch != opened_in) => return Err(link_lost()),
            message = self.messages.next() => message,
        };
        let mut batch = vec![self.check(first)?];
        let mut claims = claims_of(&batch[0]);
        while claims < claims_max {
            let Some(message) = self.messages.next().now_or_never() else { break };
            match self.check(message) {
                Ok(message) => {
                    claims += claims_of(&message);
                    batch.push(message);
                }
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(batch)
    }

    /// Whether the server is still the one that the stream was compared on.
    pub(crate) fn is_current(&self) -> bool {
        self.link.borrow().epoch == self.opened_in
    }

    fn check(
        &mut self,
        message: Option<Result<jetstream::Message, pull::MessagesError>>,
    ) -> Result<Message, SourceError> {
        let message = message
            .ok_or_else(|| SourceError::Queue("the consumer has ended".to_owned()))?
            .map_err(queue_error)?;
        let info = message.info().map_err(queue_error)?;
        let sequence = i64::try_from(info.stream_sequence).map_err(queue_error)?;
        let stored_ns = nanoseconds(info.published);
        if sequence != self.next_sequence {
            return Err(SourceError::Moved("messages are missing from what was delivered"));
        }
        self.next_sequence += 1;
        let (message, _) = message.split();
        let content =
            Batch::decode(&message.payload).map_err(|error| (error.to_string(), message.payload.to_vec()));
        Ok(Message {
            sequence,
            stored_ns,
            identity: identity(&content, &message.payload),
            reply_to: message.headers.as_ref().and_then(reply_subject),
            content,
        })
    }

    /// Removes the consumer from the server, without waiting for it. It would go by itself, a little
    /// later.
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

fn link_lost() -> SourceError {
    SourceError::Queue("the connection was lost".to_owned())
}

fn claims_of(message: &Message) -> usize {
    message.content.as_ref().map_or(1, |batch| batch.commands.len())
}

fn queue_error(error: impl std::fmt::Display) -> SourceError {
    SourceError::Queue(error.to_string())
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

fn reply_subject(headers: &HeaderMap) -> Option<Subject> {
    let subject = headers.get(REPLY_HEADER)?.as_str();
    // Whoever may publish claims writes this header: it must not make us publish anywhere else.
    let tokens_are_plain = subject.split('.').all(|token| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    (subject.starts_with(REPLY_PREFIX) && tokens_are_plain).then(|| Subject::from(subject))
}

/// The batch id, or for bytes that hold none, a name made from them.
fn identity<E>(content: &Result<Batch, E>, payload: &[u8]) -> Uuid {
    content.as_ref().map_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, payload), |batch| batch.batch_id)
}

/// In what way the stream is not the one that the cursor speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch {
    /// The cursor was never set to a stream.
    New,
    /// The stream was deleted and created again.
    Recreated,
    /// The stream ends before the cursor: its tail was lost.
    Shorter,
    /// Messages after the cursor were deleted, or all up to it, so that nothing can be compared.
    Purged,
    /// Another message stands where the last one applied stood: a tail was lost and written again.
    Rewritten,
}

/// The first sequence number that the stream holds or, if it is empty, will hold next.
fn first_sequence(info: &Info) -> i64 {
    let first =
        if info.state.messages == 0 { info.state.last_sequence + 1 } else { info.state.first_sequence };
    i64::try_from(first).unwrap_or(i64::MAX)
}

fn nanoseconds(time: DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// When a stream was created, in nanoseconds since 1970.
pub(crate) fn created_ns(info: &Info) -> i64 {
    nanoseconds(info.created)
}

/// Behind which sequence number the messages begin that have not been applied: all that the server
/// stored after the last one that was. An older copy of the stream, brought back, holds none of
/// them at first; what is published to it then is new, whatever its sequence numbers.
///
/// Applying a message once more would not hand out anything twice. But a claim that was refused
/// because there was no such coupon could win, and nobody would be told.
async fn unapplied_after(stream: &Stream, info: &Info, row: &PartitionRow) -> Result<i64, SourceError> {
    let Some(last_time_ns) = row.last_time_ns else { return Ok(first_sequence(info) - 1) };
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
    let consumer = stream.create_consumer(consumer).await.map_err(queue_error)?;
    i64::try_from(consumer.cached_info().delivered.stream_sequence).map_err(queue_error)
}

async fn compare(
    jetstream: &jetstream::Context,
    stream: &Stream,
    partition: PartitionId,
    info: &Info,
    row: &PartitionRow,
) -> Result<Option<Mismatch>, SourceError> {
    let last_sequence = i64::try_from(info.state.last_sequence).unwrap_or(i64::MAX);
    let mismatch = match row.stream_created_ns {
        None => Some(Mismatch::New),
        Some(created) if created != created_ns(info) => Some(Mismatch::Recreated),
        Some(_) if last_sequence < row.last_seq => Some(Mismatch::Shorter),
        Some(_) if first_sequence(info) > row.last_seq + 1 => Some(Mismatch::Purged),
        Some(_) => None,
    };
    let Some(expected) = row.last_batch_id.filter(|_| mismatch.is_none()) else { return Ok(mismatch) };
    let sequence = u64::try_from(row.last_seq).unwrap_or(0);
    Ok(match look_at(jetstream, stream, partition, sequence).await? {
        Some(kept) if kept.identity() == expected => None,
        Some(_) => Some(Mismatch::Rewritten),
        None => Some(Mismatch::Purged),
    })
}

/// A message of the stream, as the server keeps it.
enum Kept {
    /// The consumer brings it; its identity.
    Deliverable(Uuid),
    /// The client library would not bring it; all that the server says of it.
    Undeliverable(Vec<u8>),
}

impl Kept {
    fn identity(&self) -> Uuid {
        match self {
            Self::Deliverable(identity) => *identity,
            Self::Undeliverable(text) => Uuid::new_v5(&Uuid::NAMESPACE_OID, text),
        }
    }
}

/// How the server writes headers that begin with `NATS/1.0\r`. With anything between the two, they are a
/// status of the server to the client library, and the message none.
const PLAIN_HEADERS: &str = "TkFUUy8xLjAN";

/// Looks at a message without a consumer. The client library refuses headers that are none, and the
/// connection with them.
async fn look_at(
    jetstream: &jetstream::Context,
    stream: &Stream,
    partition: PartitionId,
    sequence: u64,
) -> Result<Option<Kept>, SourceError> {
    let subject = format!("STREAM.MSG.GET.{}", stream::name(partition));
    let answer: serde_json::Value =
        jetstream.request(subject, &serde_json::json!({ "seq": sequence })).await.map_err(queue_error)?;
    let Some(message) = answer.get("message") else {
        let code = answer.pointer("/error/err_code").and_then(serde_json::Value::as_u64);
        let is_missing = code == Some(ErrorCode::NO_MESSAGE_FOUND.0);
        return if is_missing { Ok(None) } else { Err(queue_error(&answer)) };
    };
    let headers = message.get("hdrs").and_then(serde_json::Value::as_str);
    if headers.is_none_or(|headers| headers.starts_with(PLAIN_HEADERS)) {
        match stream.get_raw_message(sequence).await {
            Ok(message) => {
                let content = Batch::decode(&message.payload);
                return Ok(Some(Kept::Deliverable(identity(&content, &message.payload))));
            }
            // It came, and cannot be read. Anything else went wrong on the way.
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(queue_error(error)),
        }
    }
    Ok(Some(Kept::Undeliverable(message.to_string().into_bytes())))
}

fn is_unreadable(error: &RawMessageError) -> bool {
    let is_of_the_way = error.source().is_some_and(|source| source.is::<RequestError>());
    error.kind() == RawMessageErrorKind::Other && !is_of_the_way
}

/// What stands behind the cursor.
enum Next {
    /// A message that the consumer will bring, or nothing yet.
    Fine,
    /// Nothing, though messages follow: it was deleted by hand, or lost. The next one follows on
    /// `resume_after`.
    Missing { resume_after: i64 },
    /// A message that the client library would not bring.
    Unreadable(Message),
}

/// Looks at the message behind the cursor before the consumer brings it: one that is missing or
/// cannot be delivered would be waited for in vain, again and again.
async fn examine_next(
    jetstream: &jetstream::Context,
    stream: &Stream,
    partition: PartitionId,
    row: &PartitionRow,
) -> Result<Next, SourceError> {
    let state = &stream.cached_info().state;
    let (next, last) = (row.last_seq.unsigned_abs() + 1, state.last_sequence);
    if next > last || next < state.first_sequence {
        return Ok(Next::Fine);
    }
    let Some(kept) = look_at(jetstream, stream, partition, next).await? else {
        let found = stream.get_first_raw_message_by_subject(stream::subject(partition), next).await;
        let resume_after = match found {
            Ok(message) => message.sequence - 1,
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => last,
            // It is there and cannot be read; it is examined when its turn comes.
            Err(_) => next,
        };
        return Ok(Next::Missing { resume_after: i64::try_from(resume_after).unwrap_or(i64::MAX) });
    };
    let identity = kept.identity();
    let Kept::Undeliverable(text) = kept else { return Ok(Next::Fine) };
    let reason = "its headers are not those of a message; kept as JetStream tells it";
    Ok(Next::Unreadable(Message {
        sequence: i64::try_from(next).unwrap_or(i64::MAX),
        stored_ns: row.last_time_ns.unwrap_or(0),
        identity,
        reply_to: None,
        content: Err((reason.to_owned(), text)),
    }))
}

impl Mismatch {
    /// Lets the partition start over behind `last_seq`.
    async fn start_over(
        self,
        sessions: &Sessions,
        partition: PartitionId,
        info: &Info,
        row: &PartitionRow,
        last_seq: i64,
    ) -> Result<(), SourceError> {
        // A generation is never 0: receipts use that for "proves nothing". And where messages are passed over,
        // that the cursor has passed one proves nothing.
        let raise = self != Self::New || row.generation == 0 || last_seq >= first_sequence(info);
        let created_ns = created_ns(info);
        let over = sessions
            .within(ROW_TIMEOUT, async |session| {
                store::start_over(session, partition, row, created_ns, last_seq, raise).await
            })
            .await?;
        // Nothing has been lost before the first generation.
        if over && raise && row.generation != 0 {
            tracing::error!(
                %partition,
                mismatch = ?self,
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
}
