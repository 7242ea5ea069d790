//! Splits a stream of bytes into the frames of its protocol.

use bytes::{Bytes, BytesMut};

use super::frame::{Frame, LostFraming};
use super::rule::Direction;
use super::{nats, postgres};

/// What the connections of a link speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The NATS client protocol.
    Nats,
    /// The PostgreSQL frontend/backend protocol, version 3.
    Postgres,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// A complete frame.
    Frame(Frame),
    /// Bytes of a stream whose framing was lost.
    Opaque(Bytes),
}

/// Gathers the bytes of one direction of a connection and returns them in pieces. Bytes are never lost:
/// all pieces together are the stream.
#[derive(Debug)]
pub(super) struct Framer {
    buffer: BytesMut,
    /// None once the framing is lost.
    parser: Option<Parser>,
}

#[derive(Debug)]
enum Parser {
    Nats,
    Postgres(postgres::Parser),
}

impl Framer {
    pub(super) fn new(protocol: Protocol, direction: Direction) -> Self {
        let parser = match protocol {
            Protocol::Nats => Parser::Nats,
            Protocol::Postgres => Parser::Postgres(postgres::Parser::new(direction)),
        };
        Self { buffer: BytesMut::new(), parser: Some(parser) }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the framing can still be followed.
    pub(super) fn follows(&self) -> bool {
        self.parser.is_some()
    }

    /// The next complete piece.
    pub(super) fn next(&mut self) -> Option<Piece> {
        let length = match &self.parser {
            Some(Parser::Nats) => nats::frame_length(&self.buffer),
            Some(Parser::Postgres(parser)) => parser.frame_length(&self.buffer),
            None => Err(LostFraming),
        };
        let (Ok(length), Some(parser)) = (length, &mut self.parser) else {
            self.parser = None;
            return self.rest().map(Piece::Opaque);
        };
        let bytes = self.buffer.split_to(length?).freeze();
        let kind = match parser {
            Parser::Nats => nats::kind(&bytes),
            Parser::Postgres(parser) => parser.kind(&bytes),
        };
        Some(Piece::Frame(Frame { bytes, kind }))
    }

    /// The bytes that are left of an incomplete frame, after the end of the stream.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}

#[cfg(test)]
mod tests;
