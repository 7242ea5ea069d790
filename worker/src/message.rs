//! A message of a partition's stream.

use async_nats::datetime::DateTime;
use async_nats::{HeaderMap, Subject, jetstream};
use common::message::{Batch, PROTOCOL, REPLY_HEADER, REPLY_PREFIX, ReceivedBatch, UnsupportedCommand};
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
    /// The batch that it holds, if it holds one.
    pub(crate) batch: Option<ReceivedBatch>,
    /// What is kept of it, if not all of it is understood.
    pub(crate) misunderstood: Option<Misunderstood>,
}

/// A message that is not, or not wholly, understood.
#[derive(Debug, Clone)]
pub(crate) struct Misunderstood {
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
        let (batch, reason) = match Batch::decode(&message.payload) {
            Ok(batch) => {
                let reason = unsupported(&batch);
                (Some(batch), reason)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Self {
            sequence,
            stored_ns,
            identity: batch.as_ref().map_or_else(|| name_of(&message.payload), |batch| batch.batch_id),
            reply_to: message.headers.as_ref().and_then(reply_subject),
            batch,
            misunderstood: reason.map(|reason| Misunderstood { reason, payload: message.payload.to_vec() }),
        })
    }

    /// How many commands it holds. One that holds no batch counts as one.
    pub(crate) fn commands(&self) -> usize {
        self.batch.as_ref().map_or(1, |batch| batch.commands.len())
    }

    /// Whether it is of a version that this program does not understand, and `protocol` allows.
    pub(crate) fn is_too_new(&self, protocol: i32) -> bool {
        let version = self.batch.as_ref().map(|batch| i64::from(batch.version));
        version.is_some_and(|version| version > PROTOCOL.into() && version <= protocol.into())
    }

    /// What is kept of it if it is not wholly understood.
    pub(crate) fn dead_letter(&self) -> Option<DeadLetter<'_>> {
        let Misunderstood { reason, payload } = self.misunderstood.as_ref()?;
        Some(DeadLetter { sequence: self.sequence, place: 0, reason, payload })
    }
}

/// Which commands of a batch are not understood, and why the first of them is not.
fn unsupported(batch: &ReceivedBatch) -> Option<String> {
    let commands = batch.commands.iter().zip(1..);
    let unsupported: Vec<(i32, &UnsupportedCommand)> =
        commands.filter_map(|(command, place)| Some((place, command.as_ref().err()?))).collect();
    let (first, reason) = unsupported.first()?;
    let (count, all) = (unsupported.len(), batch.commands.len());
    Some(format!("{count} of {all} commands not understood, the first is number {first}: {reason}"))
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
