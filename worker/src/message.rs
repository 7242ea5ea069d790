//! A message of a partition's stream.

use async_nats::datetime::DateTime;
use async_nats::{HeaderMap, Subject, jetstream};
use common::message::{Batch, REPLY_HEADER, REPLY_PREFIX};
use uuid::Uuid;

use crate::store::DeadLetter;

/// A message as it was delivered.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its place in the stream.
    pub(crate) sequence: i64,
    /// When the server stored it, in nanoseconds since 1970.
    pub(crate) stored_ns: i64,
    /// Its batch id, or a name made from its bytes if it holds no batch.
    pub(crate) identity: Uuid,
    /// Where its outcomes go.
    pub(crate) reply_to: Option<Subject>,
    /// The batch that it holds.
    pub(crate) content: Result<Batch, Undecodable>,
}

/// What holds no batch.
#[derive(Debug, Clone)]
pub(crate) struct Undecodable {
    /// Why not.
    pub(crate) reason: String,
    /// The bytes.
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Reads a delivered message.
    ///
    /// # Errors
    /// When it does not come from a stream.
    pub(crate) fn of(message: jetstream::Message) -> Result<Self, async_nats::Error> {
        let info = message.info()?;
        let sequence = i64::try_from(info.stream_sequence)?;
        let stored_ns = nanoseconds(info.published);
        let (message, _) = message.split();
        let content = Batch::decode(&message.payload)
            .map_err(|error| Undecodable { reason: error.to_string(), payload: message.payload.to_vec() });
        Ok(Self {
            sequence,
            stored_ns,
            identity: content.as_ref().map_or_else(|_| name_of(&message.payload), |batch| batch.batch_id),
            reply_to: message.headers.as_ref().and_then(reply_subject),
            content,
        })
    }

    /// How many claims it holds. One that holds no batch counts as one.
    pub(crate) fn claims(&self) -> usize {
        self.content.as_ref().map_or(1, |batch| batch.commands.len())
    }

    /// What is kept of it if it holds no batch.
    pub(crate) fn dead_letter(&self) -> Option<DeadLetter<'_>> {
        let Undecodable { reason, payload } = self.content.as_ref().err()?;
        Some(DeadLetter { sequence: self.sequence, reason, payload })
    }
}

/// The identity of a message with this payload.
pub(crate) fn identity(payload: &[u8]) -> Uuid {
    Batch::decode(payload).map_or_else(|_| name_of(payload), |batch| batch.batch_id)
}

/// The identity of a message that holds no batch.
pub(crate) fn name_of(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, bytes)
}

/// Nanoseconds since 1970.
pub(crate) fn nanoseconds(time: DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// Whoever may publish claims writes this header. It must not make the worker publish anywhere else.
fn reply_subject(headers: &HeaderMap) -> Option<Subject> {
    let subject = headers.get(REPLY_HEADER)?.as_str();
    let tokens_are_plain = subject.split('.').all(|token| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    (subject.starts_with(REPLY_PREFIX) && tokens_are_plain).then(|| Subject::from(subject))
}
