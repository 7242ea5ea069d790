//! One keep-alive connection and the request it is busy with.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::http::{Layout, ResponseBuffer};

use super::plan::Ask;

/// A claim is answered in a few hundred bytes; anything much larger is a fault.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The state of the TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// To be opened, not before this.
    Down(Instant),
    /// Being opened, since then.
    Connecting(Instant),
    Up,
    /// Not opened again: the server has been away for too long.
    GivenUp,
}

/// A claim on its way to a final answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) serial: u64,
    /// Latency counts from here.
    pub(super) due: Instant,
    pub(super) phase: Phase,
    pub(super) attempts: u32,
    /// Where to ask for the outcome, once the claim was answered with "pending".
    pub(super) follow: Option<String>,
}

impl Request {
    pub(super) fn new(ask: Ask, serial: u64, due: Instant) -> Self {
        Self { ask, serial, due, phase: Phase::Parked(due), attempts: 0, follow: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be sent, not before this.
    Parked(Instant),
    /// On its way, since then.
    Sent(Instant),
}

/// What reading gave.
pub(super) enum Received {
    /// A complete answer; with `ended`, the last one on this connection.
    Answer { layout: Layout, ended: bool },
    /// Nothing complete yet.
    Partial,
    /// The other side closed the connection, with nothing under way.
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Which of the servers it leads to.
    pub(super) server: usize,
    address: SocketAddr,
    stream: Option<TcpStream>,
    pub(super) link: Link,
    pub(super) request: Option<Request>,
    /// Listed as waiting for a request to be due.
    pub(super) idle: bool,
    /// The bytes of the request, and how many of them the kernel has taken.
    pub(super) out: Vec<u8>,
    written: usize,
    pub(super) answer: ResponseBuffer,
    /// The user of the request, as it stands in its body.
    pub(super) user_id: Vec<u8>,
    /// Failed attempts to connect, since the last that succeeded.
    pub(super) connect_failures: u32,
}

impl Connection {
    pub(super) fn new(server: usize, address: SocketAddr, now: Instant) -> Self {
        Self {
            server,
            address,
            stream: None,
            link: Link::Down(now),
            request: None,
            idle: false,
            out: Vec::with_capacity(512),
            written: 0,
            answer: ResponseBuffer::new(ANSWER_BYTES_MAX),
            user_id: Vec::with_capacity(64),
            connect_failures: 0,
        }
    }

    /// Begins to open the connection.
    pub(super) fn open(&mut self, registry: &Registry, token: Token, now: Instant) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        // Edge-triggered: a socket that stays writable is reported only along with other news.
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.link = Link::Connecting(now);
        Ok(())
    }

    /// Whether the connection has been established, asked when an event came while connecting.
    pub(super) fn established(&mut self) -> io::Result<bool> {
        let Some(stream) = &self.stream else { return Ok(false) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {
                stream.set_nodelay(true)?;
                self.link = Link::Up;
                self.connect_failures = 0;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops the TCP connection.
    pub(super) fn close(&mut self, retry_at: Instant) {
        self.stream = None;
        self.link = Link::Down(retry_at);
        self.written = 0;
        self.out.clear();
        self.answer.clear();
    }

    /// Begins to send what is in `out`.
    pub(super) fn send(&mut self, now: Instant) -> io::Result<()> {
        self.written = 0;
        self.answer.clear();
        if let Some(request) = &mut self.request {
            request.phase = Phase::Sent(now);
        }
        self.write()
    }

    /// Goes on sending, as far as the kernel takes it.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => self.written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until an answer is complete or nothing more is there.
    pub(super) fn read(&mut self) -> io::Result<Received> {
        let Some(stream) = &mut self.stream else { return Ok(Received::Partial) };
        loop {
            let ended = match self.answer.fill(stream) {
                Ok(read) => read == 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Partial),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let under_way = self.request.as_ref().is_some_and(|r| matches!(r.phase, Phase::Sent(_)));
            match self.answer.parse(ended) {
                // Complete, so that more bytes are not expected, and not waited for.
                Ok(Some(layout)) if under_way => return Ok(Received::Answer { layout, ended }),
                Ok(None) if !ended => {}
                Ok(None) if self.answer.is_empty() && !under_way => return Ok(Received::Closed),
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Some(_)) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}
