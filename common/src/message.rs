//! What travels through the queue: a batch of commands there, its outcomes back.
//!
//! Both are JSON, so that `nats stream view` shows what is queued. Commands are positional: the
//! n-th outcome of a reply belongs to the n-th command of its batch.
//!
//! Programs of different versions share a queue while they are upgraded. Commands and outcomes are therefore read one
//! by one: what a program does not understand concerns that command alone, and its neighbours are served. That holds
//! as long as the outer shape stays: `version`, `batch_id`, and the list.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::ids::{ClaimId, CouponName, UserId};

/// Version of both formats. A worker applies no command of another one: it might mean something else there.
pub const VERSION: u32 = 1;

/// The newest version of messages that this program understands, as the tables have it. A partition whose messages may
/// be newer is not given to its workers.
pub const PROTOCOL: i32 = VERSION.cast_signed();

/// Header that names where the batch's reply goes. (JetStream takes the reply field of NATS
/// itself, for its own acknowledgement.)
pub const REPLY_HEADER: &str = "Coupon-Reply-To";

/// First token of every reply subject: a worker replies to nothing else, whatever a header says.
pub const REPLY_PREFIX: &str = "replies.";

/// One message: what one API process collected for one partition while its batch before was
/// under way. The commands are in the order in which they are to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<C = Command> {
    /// The format, [`VERSION`].
    pub version: u32,
    /// Identity of the message: the cursor remembers the last one applied.
    pub batch_id: Uuid,
    /// At least one.
    pub commands: Vec<C>,
}

/// A batch as it was received. Some of its commands may not be understood.
pub type ReceivedBatch = Batch<Result<Command, UnsupportedCommand>>;

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

/// A command that this program does not understand: a newer one sent it, or nobody who should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnsupportedCommand(String);

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
    /// The worker does not understand the command. It was not applied, and will not be.
    Unsupported,
    /// Postgres refuses the claim. It was not applied, and is kept with the reason in `dead_letters`.
    Rejected,
}

/// A worker's reply to one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOutcomes<O = Outcome> {
    /// The format, [`VERSION`].
    pub version: u32,
    /// The batch that it answers.
    pub batch_id: Uuid,
    /// One for each command of the batch, in their order.
    pub outcomes: Vec<O>,
}

/// A reply as it was received. `None` stands for an outcome that this program does not know: what became of the command
/// has to be looked up.
pub type ReceivedOutcomes = BatchOutcomes<Option<Outcome>>;

/// Why a message is no batch.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of this shape.
    #[error("not a batch: {0}")]
    Malformed(#[from] serde_json::Error),
    /// No command at all.
    #[error("batch without commands")]
    Empty,
}

impl Batch {
    /// Reads a message's payload, command by command; names are checked too. Of a batch of another version than
    /// [`VERSION`], no command is understood.
    ///
    /// # Errors
    /// When the payload does not have the shape of a batch, whatever its version.
    pub fn decode(payload: &[u8]) -> Result<ReceivedBatch, DecodeError> {
        // What programs of this version send is read at once, anything else a second time, with care.
        let batch = match serde_json::from_slice::<Self>(payload) {
            Ok(Self { version: VERSION, batch_id, commands }) => {
                Batch { version: VERSION, batch_id, commands: commands.into_iter().map(Ok).collect() }
            }
            _ => {
                let Batch { version, batch_id, commands } = serde_json::from_slice::<Batch<Value>>(payload)?;
                let read = |command: Value| match version {
                    VERSION => Command::deserialize(command).map_err(|error| error.to_string()),
                    _ => Err(format!("batch of version {version}, expected {VERSION}")),
                };
                let commands = commands.into_iter().map(|command| read(command).map_err(UnsupportedCommand));
                Batch { version, batch_id, commands: commands.collect() }
            }
        };
        if batch.commands.is_empty() { Err(DecodeError::Empty) } else { Ok(batch) }
    }
}

impl ReceivedBatch {
    /// The claims among its commands, in their order.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.commands.iter().flatten().map(|Command::Claim(claim)| claim)
    }
}

impl BatchOutcomes {
    /// Reads a reply, outcome by outcome.
    ///
    /// # Errors
    /// When the payload does not have the shape of a reply.
    pub fn decode(payload: &[u8]) -> serde_json::Result<ReceivedOutcomes> {
        if let Ok(Self { version, batch_id, outcomes }) = serde_json::from_slice(payload) {
            return Ok(BatchOutcomes {
                version,
                batch_id,
                outcomes: outcomes.into_iter().map(Some).collect(),
            });
        }
        let BatchOutcomes { version, batch_id, outcomes } =
            serde_json::from_slice::<BatchOutcomes<Value>>(payload)?;
        let outcomes = outcomes.into_iter().map(|outcome| Outcome::deserialize(outcome).ok());
        Ok(BatchOutcomes { version, batch_id, outcomes: outcomes.collect() })
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
    use serde_json::json;

    use super::*;

    const ID: Uuid = Uuid::from_u128(0x6f1d_0e5c_93b4_4c3e_9b1f_52a8_7d40_c61a);

    fn claim(user: &str) -> Command {
        Command::Claim(Claim {
            claim_id: ClaimId::random(),
            user_id: UserId::new(user).unwrap(),
            coupon_name: CouponName::new("PROMO \"x\"").unwrap(),
        })
    }

    fn batch(version: u32, commands: &Value) -> Vec<u8> {
        serde_json::to_vec(&json!({ "version": version, "batch_id": ID, "commands": commands })).unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let commands = vec![claim("a"), claim("🎉"), claim("\\\"")];
        let mut writer = BatchWriter::new(64);
        for command in &commands {
            assert!(writer.push(command, 10_000));
        }
        let (batch_id, payload) = writer.finish();
        assert_eq!(
            payload,
            serde_json::to_vec(&Batch { version: VERSION, batch_id, commands: commands.clone() }).unwrap()
        );
        let read = Batch::decode(&payload).unwrap();
        assert_eq!((read.version, read.batch_id), (VERSION, batch_id));
        assert_eq!(read.commands, commands.into_iter().map(Ok).collect::<Vec<_>>());
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
            "".into(),
            "null".into(),
            "[]".into(),
            r#"{"version":1}"#.into(),
            r#"{"version":1,"batch_id":"x","commands":[]}"#.into(),
            batch(1, &json!([])),
            batch(2, &json!([])),
            batch(1, &json!({ "claim": {} })),
        ] {
            assert!(Batch::decode(&bad).is_err(), "{}", String::from_utf8_lossy(&bad));
        }
    }

    #[test]
    fn a_command_that_is_not_understood_concerns_itself_alone() {
        let good = json!({ "claim": { "claim_id": ID, "user_id": "u", "coupon_name": "c" } });
        let mut later = good.clone();
        later["claim"]["since"] = json!("a later version");
        let blank = json!({ "claim": { "claim_id": ID, "user_id": " ", "coupon_name": "c" } });
        let commands = json!([good, { "grant": {} }, later, blank, 7, null, [], {}, good]);
        let read = Batch::decode(&batch(VERSION, &commands)).unwrap();
        let understood: Vec<bool> = read.commands.iter().map(Result::is_ok).collect();
        assert_eq!(understood, [true, false, true, false, false, false, false, false, true]);
        assert_eq!(read.claims().count(), 3);
        assert!(read.commands[1].as_ref().unwrap_err().to_string().contains("grant"));
        assert!(read.commands[3].as_ref().unwrap_err().to_string().contains("blank"));

        let read = Batch::decode(&batch(VERSION + 1, &json!([good, { "grant": {} }]))).unwrap();
        assert_eq!((read.batch_id, read.claims().count(), read.commands.len()), (ID, 0, 2));
    }

    #[test]
    fn an_outcome_that_is_not_known_leaves_the_others_as_they_are() {
        let outcomes = json!(["sold_out", "given_away", { "claimed": { "position": 7, "since": 1 } }, { "claimed": {} }]);
        for version in [VERSION, VERSION + 1] {
            let payload = json!({ "version": version, "batch_id": ID, "outcomes": outcomes }).to_string();
            let read = BatchOutcomes::decode(payload.as_bytes()).unwrap();
            let wanted = [Some(Outcome::SoldOut), None, Some(Outcome::Claimed { position: 7 }), None];
            assert_eq!((read.batch_id, read.outcomes), (ID, wanted.to_vec()));
        }
        let known = BatchOutcomes { version: VERSION, batch_id: ID, outcomes: vec![Outcome::Unsupported] };
        let read = BatchOutcomes::decode(&serde_json::to_vec(&known).unwrap()).unwrap();
        assert_eq!(read.outcomes, [Some(Outcome::Unsupported)]);
        for bad in ["", "[]", r#"{"version":1,"outcomes":[]}"#] {
            assert!(BatchOutcomes::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn outcomes_are_short_and_readable() {
        let outcomes = [Outcome::Claimed { position: 7 }, Outcome::SoldOut];
        assert_eq!(serde_json::to_string(&outcomes).unwrap(), r#"[{"claimed":{"position":7}},"sold_out"]"#);
    }
}
