//! Requests that are not plain claims: hyper takes them from the connection, and the router answers.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uuid::Uuid;

use super::received::Received;
use super::{Connection, REQUEST_ID, Stream, guarded, request_id};
use crate::claims::answer::Unavailable;
use crate::http::problem::Problem;
use crate::http::router::{self, Routes};

/// Bytes of a request's head: whoever has sent so many without an end is refused, twice as many at the latest.
/// Also of an answer: while so many wait for the client to take them, no more of it is made.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// Bytes that are read at once of a request whose length is known.
const CHUNK_BYTES: usize = 8 << 10;

impl Connection {
    /// Lets hyper read and answer the next request, which is `bytes` long, or without `bytes` all that come.
    /// Says whether another request may follow.
    pub(super) async fn pass_on(&mut self, bytes: Option<usize>) -> bool {
        let Self { stream, received, routes, alarm, stopped, times, .. } = self;
        let mut is_last = routes.is_none() || stopped.is_stopped();
        let closing = AtomicBool::new(is_last);
        let piece = Piece { stream: stream.as_mut(), received, left: bytes };
        let service = service_fn(|request| async {
            let response = respond(routes.as_ref(), request).await;
            if response.headers().get(CONNECTION).is_some_and(|value| value == "close") {
                closing.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
        });
        let mut connection = http1::Builder::new()
            .timer(alarm.clone())
            .header_read_timeout(times.header)
            .max_buf_size(BUFFER_BYTES_MAX)
            .keep_alive(!is_last)
            // A client that has said all it has to say still gets its answer; and where a request's bytes end,
            // nothing more is to be read.
            .half_close(true)
            .serve_connection(TokioIo::new(piece), service);
        let served = std::future::poll_fn(|context| {
            let polled = Pin::new(&mut connection).poll(context);
            // Told before it has read anything, it would not answer what has come; told twice, not send all.
            if polled.is_ready() || is_last || !stopped.poll(context) {
                return polled;
            }
            is_last = true;
            closing.store(true, Ordering::Relaxed);
            Pin::new(&mut connection).graceful_shutdown();
            Pin::new(&mut connection).poll(context)
        });
        if let Err(error) = served.await {
            tracing::debug!(%error, "connection");
            return false;
        }
        let is_read = connection.into_parts().io.into_inner().left == Some(0);
        is_read && !closing.into_inner()
    }
}

/// Answers a request or, without `routes`, refuses it.
async fn respond(routes: Option<&Routes>, mut request: Request<Incoming>) -> Response<Body> {
    let (given, mut new_id) = (request.headers_mut().remove(REQUEST_ID), Uuid::encode_buffer());
    let id = request_id(given.as_ref().map(HeaderValue::as_bytes), &mut new_id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = guarded(id, method.as_str(), &path, Response::status, async {
        match routes {
            Some(routes) => routes.answer(request).await,
            // Whoever asks whether the process lives must not take a crowd for its death.
            None if path == router::HEALTH_PATH => router::alive().await,
            None => Problem::from(Unavailable::Overloaded).into_response(),
        }
    });
    let mut response = response.await.unwrap_or_else(Problem::into_response);
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The bytes of one request, or all that come: what hyper is shown of a connection.
struct Piece<'c> {
    stream: Pin<&'c mut Stream>,
    received: &'c mut Received,
    /// How many there are, if they are counted.
    left: Option<usize>,
}

impl AsyncRead for Piece<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, received, left } = &mut *self;
        let max = left.map_or(into.remaining(), |left| left.min(into.remaining()));
        let count = match received.bytes() {
            [] if left.is_none() => return stream.as_mut().poll_read(context, into),
            // Nothing beyond this request: what follows is somebody else's.
            [] => {
                let mut chunk = [0; CHUNK_BYTES];
                let mut chunk = ReadBuf::new(&mut chunk[..max.min(CHUNK_BYTES)]);
                if max > 0 {
                    ready!(stream.as_mut().poll_read(context, &mut chunk))?;
                }
                into.put_slice(chunk.filled());
                chunk.filled().len()
            }
            bytes => {
                let bytes = &bytes[..max.min(bytes.len())];
                into.put_slice(bytes);
                let count = bytes.len();
                received.consume(count);
                count
            }
        };
        if let Some(left) = left {
            *left -= count;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Piece<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper has sent everything; the connection may have more to do.
        Poll::Ready(Ok(()))
    }
}
