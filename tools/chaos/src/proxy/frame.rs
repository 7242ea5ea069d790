//! Cutting a stream of bytes into the frames of its protocol.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::{Bytes, BytesMut};

use super::rule::{Matcher, Way};
use super::{Protocol, nats, postgres};

/// The largest frame that is gathered before it is passed on. NATS refuses payloads over 8 MiB in its default
/// set-up, and no statement of this system comes near.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;

/// How far into a payload a matcher looks.
const MATCHED_PAYLOAD_BYTES: usize = 8 << 10;

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// A whole frame.
    Frame(Frame),
    /// Bytes of a stream whose framing was lost.
    Opaque(Bytes),
}

/// A whole frame, with what rules want to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) kind: Kind,
}

/// The kinds of frames that some rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A NATS message, to the server or from it.
    Message {
        subject: Bytes,
        subscription: Option<Bytes>,
        reply: Option<Bytes>,
        /// Headers, if there are any, and payload.
        payload: Bytes,
        /// How much of it is headers.
        headers: usize,
    },
    /// A request for encryption, which is answered by one byte without a frame.
    Encryption,
    /// The parameters of a statement that commits claims or a coupon.
    Commit,
    /// The end of an answer.
    Completed,
    /// An error: what was asked has not been committed.
    Failed,
    /// Anything else.
    Other,
}

impl Frame {
    pub(super) fn matches(&self, matcher: &Matcher) -> bool {
        let Kind::Message { subject, payload, .. } = &self.kind else { return false };
        let payload = &payload[..payload.len().min(MATCHED_PAYLOAD_BYTES)];
        let within = |text: &Option<String>, bytes: &[u8]| {
            text.as_ref().is_none_or(|text| contains(bytes, text.as_bytes()))
        };
        within(&matcher.subject, subject) && within(&matcher.payload, payload)
    }

    /// The subscription that a message belongs to.
    pub(super) fn subscription(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Message { subscription, .. } => subscription.as_ref(),
            _ => None,
        }
    }
}

pub(super) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// A stream that is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// Gathers the bytes of one direction of a connection and gives them back in pieces. Bytes are never lost:
/// all pieces together are the stream.
#[derive(Debug)]
pub(super) struct Framer {
    buffer: BytesMut,
    protocol: Option<Parser>,
}

#[derive(Debug)]
enum Parser {
    Nats(nats::Parser),
    Postgres(postgres::Parser),
}

impl Framer {
    /// `encryption_answers` is shared by the two directions of a Postgres connection.
    pub(super) fn new(protocol: Protocol, way: Way, encryption_answers: Arc<AtomicU32>) -> Self {
        let protocol = match protocol {
            Protocol::Nats => Parser::Nats(nats::Parser::default()),
            Protocol::Postgres => Parser::Postgres(postgres::Parser::new(way, encryption_answers)),
        };
        Self { buffer: BytesMut::new(), protocol: Some(protocol) }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the framing can still be followed.
    pub(super) fn follows(&self) -> bool {
        self.protocol.is_some()
    }

    /// The next piece that is whole.
    pub(super) fn next(&mut self) -> Option<Piece> {
        let parsed = match &mut self.protocol {
            Some(Parser::Nats(parser)) => parser.next(&mut self.buffer),
            Some(Parser::Postgres(parser)) => parser.next(&mut self.buffer),
            None => Err(Lost),
        };
        match parsed {
            Ok(frame) => frame.map(Piece::Frame),
            Err(Lost) => {
                self.protocol = None;
                self.rest().map(Piece::Opaque)
            }
        }
    }

    /// Bytes of a frame that will never be whole, as the stream has ended.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}
