//! The framing of the PostgreSQL protocol, version 3.
//!
//! A frame is a type byte, a length that counts itself, and a body. The first frame of a client has no type
//! byte; neither has a request for encryption, which comes before it and is answered by a single byte.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf, BytesMut};

use super::frame::{FRAME_BYTES_MAX, Frame, Kind, Lost, contains};
use super::rule::Way;

/// Start-up packets over this size are refused by the server as well.
const STARTUP_BYTES_MAX: usize = 10_000;

/// Codes of the requests for encryption (TLS, GSS), in place of a protocol version.
const ENCRYPTION_CODES: [u32; 2] = [80_877_103, 80_877_104];

const LENGTH_BYTES: usize = 4;

/// What the text of a statement holds that commits something: a worker's claims, an API's coupon. Each is a
/// transaction of its own.
const WRITES: [&[u8]; 2] = [b"INSERT INTO claims", b"INSERT INTO coupons"];

#[derive(Debug)]
pub(super) struct Parser {
    way: Way,
    started: bool,
    /// Single-byte answers that the server still owes. Raised by the client's direction before the request is
    /// passed on, so that the server's direction knows in time.
    encryption_answers: Arc<AtomicU32>,
    /// Names of the prepared statements that commit something.
    writers: HashSet<Vec<u8>>,
}

impl Parser {
    pub(super) fn new(way: Way, encryption_answers: Arc<AtomicU32>) -> Self {
        Self { way, started: way == Way::ToClient, encryption_answers, writers: HashSet::new() }
    }

    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Lost> {
        if self.started { self.typed(buffer) } else { self.startup(buffer) }
    }

    fn startup(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Lost> {
        if buffer.len() < 2 * LENGTH_BYTES {
            return Ok(None);
        }
        let mut head = &buffer[..];
        let (length, code) = (head.get_u32() as usize, head.get_u32());
        // A TLS handshake looks like an enormous length.
        if !(2 * LENGTH_BYTES..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(Lost);
        }
        if buffer.len() < length {
            return Ok(None);
        }
        let kind = if ENCRYPTION_CODES.contains(&code) {
            self.encryption_answers.fetch_add(1, Ordering::AcqRel);
            Kind::Encryption
        } else {
            self.started = true;
            Kind::Other
        };
        Ok(Some(Frame { bytes: buffer.split_to(length).freeze(), kind }))
    }

    fn typed(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Lost> {
        if self.way == Way::ToClient && !buffer.is_empty() {
            let owed = &self.encryption_answers;
            let answered = owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1));
            if answered.is_ok() {
                let bytes = buffer.split_to(1).freeze();
                // Anything but "no" changes what comes next to something this parser cannot follow, or is
                // the beginning of an error from a server older than the request.
                if &bytes[..] != b"N" {
                    let mut whole = BytesMut::from(&bytes[..]);
                    whole.unsplit(buffer.split());
                    *buffer = whole;
                    return Err(Lost);
                }
                return Ok(Some(Frame { bytes, kind: Kind::Other }));
            }
        }
        if buffer.len() < 1 + LENGTH_BYTES {
            return Ok(None);
        }
        let mut head = &buffer[..];
        let (tag, length) = (head.get_u8(), head.get_u32() as usize);
        let whole = 1 + length;
        if length < LENGTH_BYTES || whole > FRAME_BYTES_MAX || !tag.is_ascii_alphanumeric() {
            return Err(Lost);
        }
        if buffer.len() < whole {
            return Ok(None);
        }
        let bytes = buffer.split_to(whole).freeze();
        let kind = self.kind(tag, &bytes[1 + LENGTH_BYTES..]);
        Ok(Some(Frame { bytes, kind }))
    }

    fn kind(&mut self, tag: u8, body: &[u8]) -> Kind {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        match (self.way, tag) {
            // Parse: the statement's name, then its text.
            (Way::ToServer, b'P') => {
                if WRITES.iter().any(|text| contains(second, text)) {
                    self.writers.insert(first.to_vec());
                } else {
                    self.writers.remove(first);
                }
                Kind::Other
            }
            // Bind: the portal's name, then the statement's. Its execution follows.
            (Way::ToServer, b'B') if self.writers.contains(second) => Kind::Commit,
            // Ready for the next query: what was asked before has been committed.
            (Way::ToClient, b'Z') => Kind::Completed,
            (Way::ToClient, b'E') => Kind::Failed,
            _ => Kind::Other,
        }
    }
}
