//! What travels through the queue: a batch of commands there, its outcomes back.
//!
//! Both are JSON, so that `nats stream view` shows what is queued. Commands are positional: the
//! n-th outcome of a reply belongs to the n-th command of its batch.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{ClaimId, CouponName, UserId};

/// Version of both formats. A worker that meets another moves the message to the dead letters.
pub const VERSION: u32 = 1;

/// Header that names where the batch's reply goes. (JetStream takes the reply field of NATS
/// itself, for its own acknowledgement.)
pub const REPLY_HEADER: &str = "Coupon-Reply-To";

/// First token of every reply subject: a worker replies to nothing else, whatever a header says.
pub const REPLY_PREFIX: &str = "replies.";

/// One message: what one API process collected for one partition while its batch before was
/// under way. The commands are in the order in which they are to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The format, [`VERSION`].
    pub version: u32,
    /// Identity of the message: the cursor remembers the last one applied.
    pub batch_id: Uuid,
    /// At least one.
    pub commands: Vec<Command>,
}

/// What a worker can be asked to do. To be written, it may hold a reference to the claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command<C = Claim> {
    /// A user claims a coupon.
    Claim(C),
}

/// A user claims a coupon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The claim's identity: applied again, it gets the same answer.
    pub claim_id: ClaimId,
    /// Who claims.
    pub user_id: UserId,
    /// What is claimed.
    pub coupon_name: CouponName,
}

/// What became of a claim: a result of the business, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The user has the coupon, as its `position`-th winner (1 = first).
    Claimed {
        /// The claim's number in its coupon.
        position: i64,
    },
    /// The user had it before, by another claim.
    AlreadyClaimed,
    /// Nothing was left.
    SoldOut,
    /// There is no coupon of that name.
    CouponNotFound,
}

/// A worker's reply to one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOutcomes {
    /// The format, [`VERSION`].
    pub version: u32,
    /// The batch that it answers.
    pub batch_id: Uuid,
    /// One for each command of the batch, in their order.
    pub outcomes: Vec<Outcome>,
}

/// Why a message cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of this shape.
    #[error("not a batch: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of another version than [`VERSION`].
    #[error("batch of version {0}, expected {VERSION}")]
    Version(u32),
    /// No command at all.
    #[error("batch without commands")]
    Empty,
}

impl Batch {
    /// Reads a message's payload.
    ///
    /// # Errors
    /// When the payload is no batch that this version understands; names are checked too.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let batch: Self = serde_json::from_slice(payload)?;
        if batch.version != VERSION {
            return Err(DecodeError::Version(batch.version));
        }
        if batch.commands.is_empty() {
            return Err(DecodeError::Empty);
        }
        Ok(batch)
    }
}

/// Writes a batch command by command, so that its size is known before the next one is added.
#[derive(Debug)]
pub struct BatchWriter {
    payload: Vec<u8>,
    batch_id: Uuid,
    commands: usize,
}

impl BatchWriter {
    /// What [`BatchWriter::finish`] adds.
    const END: &'static [u8] = b"]}";

    /// An empty batch with a new id.
    pub fn new(capacity_bytes: usize) -> Self {
        let batch_id = Uuid::new_v4();
        let mut payload = Vec::with_capacity(capacity_bytes);
        payload.extend_from_slice(
            format!(r#"{{"version":{VERSION},"batch_id":"{batch_id}","commands":["#).as_bytes(),
        );
        Self { payload, batch_id, commands: 0 }
    }

    /// Adds a command unless the payload would then exceed `payload_bytes_max`. A batch takes its
    /// first command whatever its size. Returns whether it was added.
    pub fn push(&mut self, command: &Command<impl Serialize>, payload_bytes_max: usize) -> bool {
        let before = self.payload.len();
        if self.commands > 0 {
            self.payload.push(b',');
        }
        serde_json::to_writer(&mut self.payload, command).expect("a command is plain JSON");
        if self.commands > 0 && self.payload.len() + Self::END.len() > payload_bytes_max {
            self.payload.truncate(before);
            return false;
        }
        self.commands += 1;
        true
    }

    /// The batch's id and payload.
    pub fn finish(mut self) -> (Uuid, Vec<u8>) {
        self.payload.extend_from_slice(Self::END);
        (self.batch_id, self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(user: &str) -> Command {
        Command::Claim(Claim {
            claim_id: ClaimId::random(),
            user_id: UserId::new(user).unwrap(),
            coupon_name: CouponName::new("PROMO \"x\"").unwrap(),
        })
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let commands = vec![claim("a"), claim("🎉"), claim("\\\"")];
        let mut writer = BatchWriter::new(64);
        for command in &commands {
            assert!(writer.push(command, 10_000));
        }
        let (batch_id, payload) = writer.finish();
        let batch = Batch { version: VERSION, batch_id, commands };
        assert_eq!(Batch::decode(&payload).unwrap(), batch);
        assert_eq!(payload, serde_json::to_vec(&batch).unwrap());
    }

    #[test]
    fn a_batch_stops_at_its_size_but_takes_one() {
        let mut writer = BatchWriter::new(64);
        assert!(writer.push(&claim("a"), 10));
        assert!(!writer.push(&claim("b"), 10));
        let (_, payload) = writer.finish();
        assert_eq!(Batch::decode(&payload).unwrap().commands.len(), 1);
    }

    #[test]
    fn what_is_not_a_batch_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":1,"batch_id":"x","commands":[]}"#,
            r#"{"version":1,"batch_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a","commands":[]}"#,
            r#"{"version":2,"batch_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a","commands":[]}"#,
            r#"{"version":1,"batch_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a","commands":[{"claim":{"claim_id":"6f1d0e5c-93b4-4c3e-9b1f-52a87d40c61a","user_id":" ","coupon_name":"c"}}]}"#,
        ] {
            assert!(Batch::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn outcomes_are_short_and_readable() {
        let outcomes = [Outcome::Claimed { position: 7 }, Outcome::SoldOut];
        assert_eq!(serde_json::to_string(&outcomes).unwrap(), r#"[{"claimed":{"position":7}},"sold_out"]"#);
    }
}
