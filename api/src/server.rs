//! Takes connections and serves HTTP/1.1 on them, within limits.
//!
//! `axum::serve` has no time-out for a request's head and no limit of connections; this loop has.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use common::backoff::Backoff;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::alarm::Alarm;
use crate::config::Limits;
use crate::problem::{Problem, Unavailable};
use crate::routes::{self, Routes};

/// Names a request in the logs; echoed in the response, made up if the client sends none.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Bytes of a request's head: whoever has sent so many without an end is refused, twice as many at the latest.
/// Also about what a connection keeps of an answer that its client does not take.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// Connections beyond `CONNECTIONS_MAX` that are told so at the same time; the others are closed.
const REFUSALS_MAX: usize = 256;

/// How long a refused connection has to send its request.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Listens on `address`, with room for `backlog` connections that are made but not taken yet. The
/// kernel may allow less (`net.core.somaxconn`).
///
/// The standard library's room for 128 is full at the start of a sale, when a thousand connections
/// come before this process runs again. Linux drops what those beyond it send, their handshakes first, until
/// they have repeated it, a second later or three.
///
/// # Errors
/// When the port is taken, or the address is not this machine's.
pub fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started again takes the port of its predecessor's last connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Serves `routes` until `stop`, then lets the requests in flight finish within
/// `SHUTDOWN_TIMEOUT_MS`.
pub async fn serve(listener: TcpListener, routes: Routes, limits: &Limits, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut backoff = Backoff::for_server();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: some will be closed.
                tracing::warn!(%error, "connection not accepted");
                backoff.wait().await;
                continue;
            }
        };
        backoff.reset();
        if let Ok(permit) = connections.clone().try_acquire_owned() {
            let times = Times { header: limits.header_timeout, write: limits.write_timeout };
            connection(stream, Some(routes.clone()), times, permit, &graceful);
        } else if let Ok(permit) = refusals.clone().try_acquire_owned() {
            let times = Times { header: REFUSAL_TIMEOUT, write: REFUSAL_TIMEOUT };
            connection(stream, None, times, permit, &graceful);
        }
    }
    drop(listener);
    if tokio::time::timeout(limits.shutdown_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests in flight were not finished in time");
    }
}

/// How long a connection may keep us waiting.
struct Times {
    header: Duration,
    write: Duration,
}

/// Serves a connection or, without `routes`, refuses its first request.
fn connection(
    stream: TcpStream,
    routes: Option<Routes>,
    times: Times,
    permit: OwnedSemaphorePermit,
    graceful: &GracefulShutdown,
) {
    // Answers are one small packet: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(times.write));
    let keep_alive = routes.is_some();
    let service = service_fn(move |request| respond(routes.clone(), request));
    let connection = http1::Builder::new()
        .timer(Alarm::default())
        .header_read_timeout(times.header)
        .max_buf_size(BUFFER_BYTES_MAX)
        .keep_alive(keep_alive)
        // A client that has said all it has to say still gets its answer. It also means that nothing is read
        // while a request is in work: the buffer would be a new one, as the request lies in the old one.
        .half_close(true)
        // Head and body are small: copied together, they are cheaper to send than as two parts.
        .writev(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection");
        }
        drop(permit);
    });
}

/// Gives every request an id, every response the same, and every fault an answer.
async fn respond(
    routes: Option<Routes>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let id = match request.headers_mut().remove(REQUEST_ID) {
        Some(id) if id.len() <= REQUEST_ID_BYTES_MAX && id.to_str().is_ok() => id,
        _ => new_request_id(),
    };
    // A span is only made when somebody listens: they cost more than most of a claim.
    let span = tracing::debug_span!("request", id = id.to_str().unwrap_or_default());
    let answer = async {
        tracing::debug!(method = %request.method(), path = request.uri().path(), "request");
        let answer = async {
            match routes {
                Some(routes) => routes.answer(request).await,
                // Whoever asks whether the process lives must not take a crowd for its death.
                None if request.uri().path() == routes::HEALTH_PATH => routes::alive().await,
                None => Problem::from(Unavailable::Overloaded).into_response(),
            }
        };
        let response = match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(id = id.to_str().unwrap_or_default(), "a handler panicked");
                Problem::Internal.into_response()
            }
        };
        tracing::debug!(status = response.status().as_u16(), "response");
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(id = id.to_str().unwrap_or_default(), "a request failed on our side");
        }
        response
    };
    let mut response = answer.instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
}

fn new_request_id() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    let id = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("-"))
}
