//! A connection's bytes, as hyper reads and writes them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

/// Bytes of one read. Hyper's buffer has 8 KiB, and is doubled each time that a read fills it: one byte less keeps
/// it small, however long a body is.
const READ_BYTES_MAX: u64 = (8 << 10) - 1;

/// Bytes of an answer whose parts are joined: a copy is cheaper than what `writev` costs beyond `send`.
const JOINED_BYTES_MAX: usize = 1 << 10;

/// What has passed on a connection.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    awaits_answer: AtomicBool,
    has_answered: AtomicBool,
}

impl Traffic {
    /// Whether part of a request has come, and nothing of an answer was sent since.
    pub(super) fn awaits_answer(&self) -> bool {
        self.awaits_answer.load(Ordering::Relaxed)
    }

    /// Whether anything was ever sent.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }
}

/// A connection whose client has to take what is sent within a time.
pub(super) struct RequestIo {
    stream: Take<Pin<Box<TimeoutStream<TcpStream>>>>,
    traffic: Arc<Traffic>,
}

impl RequestIo {
    /// An error ends the connection once its client has taken nothing for `write_timeout`.
    pub(super) fn new(stream: TcpStream, write_timeout: Duration) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write_timeout));
        Self { stream: Box::pin(stream).take(READ_BYTES_MAX), traffic: Arc::default() }
    }

    pub(super) fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    fn stream(&mut self) -> Pin<&mut TimeoutStream<TcpStream>> {
        self.stream.get_mut().as_mut()
    }

    fn note_answer(&self) {
        self.traffic.awaits_answer.store(false, Ordering::Relaxed);
        self.traffic.has_answered.store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for RequestIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        self.stream.set_limit(READ_BYTES_MAX);
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        // Some clients send an empty line after a body; that is no request.
        if !into.filled()[before..].iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            self.traffic.awaits_answer.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RequestIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note_answer();
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        if bytes > JOINED_BYTES_MAX {
            self.note_answer();
            return self.stream().poll_write_vectored(context, parts);
        }
        let (mut joined, mut end) = ([0; JOINED_BYTES_MAX], 0);
        for part in parts {
            joined[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        self.poll_write(context, &joined[..bytes])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
