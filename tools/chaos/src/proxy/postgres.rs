//! The framing of the PostgreSQL protocol, version 3, without encryption.
//!
//! A frame is a type byte, a length that counts itself, and a body. The first frame of a client has no type
//! byte.

use std::collections::HashSet;

use bytes::Buf;

use super::frame::{FRAME_BYTES_MAX, Kind, LostFraming, contains};
use super::rule::Direction;

/// Start-up packets over this size are refused by the server as well.
const STARTUP_BYTES_MAX: usize = 10_000;

/// The protocol version in a client's first frame. A request for encryption has another number there.
const VERSION_MAJOR: u16 = 3;

const LENGTH_BYTES: usize = 4;

/// Texts in statements that commit something: a worker's claims, an API's coupon. Each is a transaction of its
/// own.
const WRITES: [&[u8]; 2] = [b"INSERT INTO claims", b"INSERT INTO coupons"];

#[derive(Debug)]
pub(super) struct Parser {
    direction: Direction,
    /// Whether the first frame has passed.
    started: bool,
    /// Names of the prepared statements that commit something.
    writers: HashSet<Vec<u8>>,
}

impl Parser {
    pub(super) fn new(direction: Direction) -> Self {
        Self { direction, started: false, writers: HashSet::new() }
    }

    /// The length of the frame at the beginning of the buffer, once it is complete.
    pub(super) fn frame_length(&self, buffer: &[u8]) -> Result<Option<usize>, LostFraming> {
        let startup = !self.started && self.direction == Direction::ToServer;
        let tag_bytes = usize::from(!startup);
        // A server begins with an authentication request or an error. An answer to a request for encryption is
        // a single byte, and may be all that comes.
        if let (false, false, Some(tag)) = (self.started, startup, buffer.first())
            && !b"RE".contains(tag)
        {
            return Err(LostFraming);
        }
        let Some(mut length) = buffer.get(tag_bytes..tag_bytes + LENGTH_BYTES) else { return Ok(None) };
        let length = length.get_u32() as usize;
        let (sizes, valid) = if startup {
            let version = buffer.get(LENGTH_BYTES..LENGTH_BYTES + 2).map(|mut version| version.get_u16());
            (2 * LENGTH_BYTES..=STARTUP_BYTES_MAX, version.is_none_or(|version| version == VERSION_MAJOR))
        } else {
            (LENGTH_BYTES..=FRAME_BYTES_MAX, buffer[0].is_ascii_alphanumeric())
        };
        if !valid || !sizes.contains(&length) {
            return Err(LostFraming);
        }
        let frame = tag_bytes + length;
        Ok((buffer.len() >= frame).then_some(frame))
    }

    /// What a complete frame is.
    pub(super) fn kind(&mut self, frame: &[u8]) -> Kind {
        if !std::mem::replace(&mut self.started, true) && self.direction == Direction::ToServer {
            return Kind::Other;
        }
        let mut texts = frame[1 + LENGTH_BYTES..].split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        match (self.direction, frame[0]) {
            // Parse: the statement's name, then its text.
            (Direction::ToServer, b'P') => {
                if WRITES.iter().any(|text| contains(second, text)) {
                    self.writers.insert(first.to_vec());
                } else {
                    self.writers.remove(first);
                }
                Kind::Other
            }
            // Bind: the portal's name, then the statement's. Its execution follows.
            (Direction::ToServer, b'B') if self.writers.contains(second) => Kind::Commit,
            // Ready for the next query: what was asked before has been committed.
            (Direction::ToClient, b'Z') => Kind::Completed,
            (Direction::ToClient, b'E') => Kind::Failed,
            _ => Kind::Other,
        }
    }
}
