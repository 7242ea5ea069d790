//! What concerns every request, whatever it asks for: one stack of layers, each an async function around the next.

use std::convert::Infallible;
use std::future::ready;
use std::panic::AssertUnwindSafe;

use axum::body::{Body, Bytes};
use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use axum::response::IntoResponse;
use futures::FutureExt as _;
use hyper::body::Incoming;
use tower::{Service, ServiceBuilder, service_fn};
use tracing::Instrument as _;
use uuid::Uuid;

use super::health;
use super::problem::Problem;
use super::reply::HttpReply;
use super::router::Handlers;
use crate::claims::answer::Unavailable;

/// Names a request in the logs; echoed in the response, made up if the client sends none.
const REQUEST_ID: &str = "x-request-id";

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A service that answers each request with bodies of type `B`, and is always ready.
pub(super) trait Answers<B>:
    Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<B, S> Answers<B> for S where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The way of a request to its `handlers`: the first layer sees it first, and its answer last.
pub(super) fn stack(handlers: Handlers) -> impl Answers<Incoming> {
    let answer = {
        let handlers = handlers.clone();
        service_fn(move |request| {
            let handlers = handlers.clone();
            async move { Ok(handlers.answer(request).await) }
        })
    };
    ServiceBuilder::new()
        .layer_fn(with_request_id)
        .layer_fn(catching_panics)
        .layer_fn(move |inner| with_body(inner, handlers.clone()))
        .layer_fn(with_one_host)
        .service(answer)
}

/// The way of a request on a connection beyond `CONNECTIONS_MAX`: 503 `overloaded`, without reading its body.
pub(super) fn overload_stack() -> impl Answers<Incoming> {
    let overloaded = service_fn(|request: Request<Incoming>| async move {
        // A health check must not take an overload for the death of the process.
        Ok(match request.uri().path() {
            health::HEALTH_PATH => health::alive().await.into_response(),
            _ => Problem::from(Unavailable::Overloaded).into_response(),
        })
    });
    ServiceBuilder::new().layer_fn(with_request_id).layer_fn(catching_panics).service(overloaded)
}

/// Gives each request and its answer an id, and tells the log about both.
fn with_request_id<B: Send + 'static>(mut inner: impl Answers<B>) -> impl Answers<B> {
    service_fn(move |mut request: Request<B>| {
        let id = request_id(request.headers_mut().remove(REQUEST_ID));
        // A span is only made when somebody listens: they cost more than most of a claim.
        let span = tracing::debug_span!("request", ?id);
        span.in_scope(|| {
            tracing::debug!(method = %request.method(), path = request.uri().path(), "request");
        });
        // Mapped, not awaited: an async block would hold the answer's future twice.
        inner.call(request).instrument(span).map(move |response| {
            let mut response = response?;
            let status = response.status();
            tracing::debug!(?id, status = status.as_u16(), "response");
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(?id, "a request failed on our side");
            }
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        })
    })
}

/// The id that a client has given to its request, if it can be used, or a new one.
fn request_id(given: Option<HeaderValue>) -> HeaderValue {
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    let usable = |id: &HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_printable)
    };
    given.filter(usable).unwrap_or_else(|| {
        let (id, mut buffer) = (Uuid::new_v4(), Uuid::encode_buffer());
        HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer))
            .expect("hexadecimal digits and hyphens")
    })
}

/// A handler that panics costs its client the answer, and nobody else anything.
fn catching_panics<B: Send + 'static>(mut inner: impl Answers<B>) -> impl Answers<B> {
    service_fn(move |request: Request<B>| {
        AssertUnwindSafe(inner.call(request)).catch_unwind().map(|answer| {
            answer.unwrap_or_else(|_| {
                tracing::error!("a handler panicked");
                Ok(Problem::Internal.into_response())
            })
        })
    })
}

/// Reads a request's body before the request is handled. A body that cannot be read (too large, too slow, no room) is
/// answered with `connection: close`, because the rest of it cannot be told from a next request.
fn with_body(inner: impl Answers<Bytes>, handlers: Handlers) -> impl Answers<Incoming> {
    service_fn(move |request: Request<Incoming>| {
        let (mut inner, handlers) = (inner.clone(), handlers.clone());
        async move {
            let (parts, body) = request.into_parts();
            match handlers.bodies().read(&parts.headers, body).await {
                Ok(body) => inner.call(Request::from_parts(parts, body)).await,
                Err(problem) => Ok(HttpReply { close: true, ..problem.into() }.into_response()),
            }
        }
    })
}

/// HTTP/1.1 wants exactly one `Host`: where there are two, the next server on the way may take the other.
fn with_one_host(mut inner: impl Answers<Bytes>) -> impl Answers<Bytes> {
    service_fn(move |request: Request<Bytes>| match check_host(request.version(), request.headers()) {
        Ok(()) => inner.call(request).left_future(),
        Err(problem) => ready(Ok(problem.into_response())).right_future(),
    })
}

fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get_all(HOST).iter().count() {
        1 => Ok(()),
        0 if version < Version::HTTP_11 => Ok(()),
        0 => Err(Problem::InvalidRequest("the Host header is missing".into())),
        _ => Err(Problem::InvalidRequest("the Host header must stand only once".into())),
    }
}
