//! A connection from its first request to its last, served by hyper: how it is stopped, and how it is closed.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use futures::TryFutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::request_io::RequestIo;
use super::stack::Answers;
use super::timer::ConnectionTimer;

/// Bytes of a request's head; more are refused with 431. Also of an answer: while so many wait for the client
/// to take them, no more of it is made.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// How long, and for how many bytes, a client that is still sending is listened to after the last answer. Closed at
/// once, its connection would be reset, and the answer lost on the way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Bytes that are thrown away at once.
const LINGER_CHUNK_BYTES: usize = 4 << 10;

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// How long for a request's head, idling included.
    pub(super) header_timeout: Duration,
    /// How long until the client takes the next part of an answer.
    pub(super) write_timeout: Duration,
    /// Whether a second request may follow.
    pub(super) keep_alive: bool,
}

/// Answers requests until the client closes the connection or a limit ends it. Once `stop` is cancelled, the connection ends with the
/// request that it is at.
pub(super) async fn serve(
    stream: TcpStream,
    stack: impl Answers<Incoming>,
    limits: ConnectionLimits,
    stop: &CancellationToken,
) {
    // Answers are one small packet: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let io = RequestIo::new(stream, limits.write_timeout);
    let traffic = io.traffic();
    // A token of its own: all connections' tasks would share the lock of one.
    let token = stop.child_token();
    let mut stopping = pin!(token.cancelled());
    let service = service_fn(|request| {
        let token = &token;
        stack.clone().call(request).map_ok(move |mut response| {
            if token.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        })
    });
    let mut connection = http1::Builder::new()
        .timer(ConnectionTimer::default())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .keep_alive(limits.keep_alive)
        // A client that has said all it has to say still gets its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(io), service);
    let mut is_told = false;
    let served = poll_fn(|context| {
        let polled = Pin::new(&mut connection).poll(context);
        // A request that has begun to come is answered first: told before that, hyper would drop it.
        if polled.is_ready()
            || is_told
            || traffic.awaits_answer()
            || stopping.as_mut().poll(context).is_pending()
        {
            return polled;
        }
        if !traffic.has_answered() {
            return Poll::Ready(Ok(()));
        }
        // Once only: told twice, hyper would not send the rest of an answer.
        is_told = true;
        Pin::new(&mut connection).graceful_shutdown();
        Pin::new(&mut connection).poll(context)
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection");
    }
    linger(connection.into_parts().io.into_inner(), &token).await;
}

/// Throws away what the client still sends, until it closes the connection as well, or the process stops and nothing
/// more is there.
async fn linger(mut io: RequestIo, stop: &CancellationToken) {
    if io.shutdown().await.is_err() {
        return;
    }
    let drained = async {
        // On the heap: an array would be part of each connection's task for as long as that lives.
        let (mut bytes, mut chunk) = (0, vec![0; LINGER_CHUNK_BYTES]);
        while bytes < LINGER_BYTES_MAX {
            match io.read(&mut chunk).await {
                Ok(count) if count > 0 => bytes += count,
                _ => break,
            }
        }
    };
    tokio::select! {
        biased;
        _ = tokio::time::timeout(LINGER, drained) => {}
        () = stop.cancelled() => {}
    }
}
