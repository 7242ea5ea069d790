//! A connection, from its first request to its last.
//!
//! Of all requests that come, claims are the many; and most of what an HTTP server does for a request, a claim
//! has no use for. So a claim that came in the form that nearly all have is taken from the connection's bytes
//! and answered in bytes, here. Everything else, all that is rare, doubtful or wrong included, is hyper's: it is
//! shown the bytes of that one request, and the next one may be a claim again.

mod general;
mod head;
mod received;

use std::future::poll_fn;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;
use futures::FutureExt;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::Instrument;
use uuid::Uuid;

use crate::http::alarm::Alarm;
use crate::http::problem::Problem;
use crate::http::reply::Reply;
use crate::http::router::{CLAIM_PATH, Routes};
use head::{Head, Parsed};
use received::{RECEIVED_BYTES_MAX, Received};

/// Names a request in the logs; echoed in the response, made up if the client sends none.
const REQUEST_ID: &str = "x-request-id";

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

type Stream = TimeoutStream<TcpStream>;

/// How long, and for how many bytes, a client that is still sending is listened to after the last answer. Closed at
/// once, its connection would be reset, and the answer lost on the way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// How long a connection may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For a request's head, idling included. One that turns out to be hyper's gets it once more.
    pub(crate) header: Duration,
    /// For the body of a claim.
    pub(crate) body: Duration,
    /// Until the client takes the next part of an answer.
    pub(crate) write: Duration,
}

/// A client's connection.
pub(crate) struct Connection {
    stream: Pin<Box<Stream>>,
    /// None for one too many, whose first request is refused.
    routes: Option<Routes>,
    times: Times,
    alarm: Alarm,
    stopped: Stopped,
    received: Received,
    /// The answer that is being sent.
    answer: Vec<u8>,
    calendar: Calendar,
}

/// What comes next on a connection.
enum Next {
    /// A claim, all of it there.
    Claim(Head),
    /// One whose body did not come in time.
    LateClaim(Head),
    /// Another request, of so many bytes.
    Other(usize),
    /// Something whose end hyper has to find.
    Unknown,
    /// Nothing more.
    End,
}

/// What came of waiting for more bytes.
enum Filled {
    More,
    Ended,
    Late,
    Stopped,
}

impl Connection {
    /// A connection that ends, once `stop` is cancelled, with the request it is at.
    pub(crate) fn new(
        stream: TcpStream,
        routes: Option<Routes>,
        times: Times,
        stop: &CancellationToken,
    ) -> Self {
        // Answers are one small packet: waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(times.write));
        Self {
            stream: Box::pin(stream),
            routes,
            times,
            alarm: Alarm::default(),
            stopped: Stopped::new(stop),
            received: Received::new(),
            answer: Vec::new(),
            calendar: Calendar::default(),
        }
    }

    /// Answers requests until the client or we have had enough.
    pub(crate) async fn serve(mut self) {
        loop {
            let goes_on = match self.next().await {
                Next::Claim(head) => self.claim(&head, false).await,
                Next::LateClaim(head) => self.claim(&head, true).await,
                Next::Other(bytes) => self.pass_on(Some(bytes)).await,
                Next::Unknown => self.pass_on(None).await,
                Next::End => false,
            };
            if !goes_on {
                break;
            }
        }
        if self.stream.shutdown().await.is_ok() {
            self.linger().await;
        }
    }

    /// Throws away what the client still sends, until it closes the connection as well, or the process stops.
    async fn linger(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut bytes = 0;
        self.received.consume(RECEIVED_BYTES_MAX);
        while bytes < LINGER_BYTES_MAX && matches!(self.fill(deadline).await, Filled::More) {
            bytes += self.received.bytes().len();
            self.received.consume(RECEIVED_BYTES_MAX);
        }
    }

    /// Waits for the next request.
    async fn next(&mut self) -> Next {
        let Some(routes) = &self.routes else { return Next::Unknown };
        let body_bytes_max = routes.limits().body_bytes_max;
        let deadline = Instant::now() + self.times.header;
        let head = loop {
            match head::parse(self.received.bytes()) {
                Parsed::Plain(head) => break head,
                Parsed::Partial if !self.received.is_full() => {}
                Parsed::Partial | Parsed::Other => return Next::Unknown,
            }
            match self.fill(deadline).await {
                Filled::More => {}
                // Half a head: hyper says what is wrong with it.
                Filled::Ended if !self.received.bytes().is_empty() => return Next::Unknown,
                Filled::Ended | Filled::Late | Filled::Stopped => return Next::End,
            }
        };
        let bytes = head.request_bytes();
        if !head.is_claim || bytes > RECEIVED_BYTES_MAX || head.body_bytes > body_bytes_max {
            return Next::Other(bytes);
        }
        let deadline = Instant::now() + self.times.body;
        while self.received.bytes().len() < bytes {
            match self.fill(deadline).await {
                Filled::More => {}
                Filled::Late => return Next::LateClaim(head),
                // Half a body, likewise.
                Filled::Ended | Filled::Stopped => return Next::Other(bytes),
            }
        }
        Next::Claim(head)
    }

    /// Reads what is there, or waits for it; between two requests no longer than until the process stops.
    async fn fill(&mut self, deadline: Instant) -> Filled {
        let Self { stream, received, stopped, alarm, .. } = self;
        let mut late = pin!(alarm.at(deadline));
        // Some clients send an empty line after a body.
        let is_idle = received.bytes().iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        let filled = poll_fn(|context| {
            let mut room = ReadBuf::new(received.room());
            match stream.as_mut().poll_read(context, &mut room) {
                Poll::Ready(Ok(())) => match room.filled().len() {
                    0 => Poll::Ready(Filled::Ended),
                    count => {
                        received.fill(count);
                        Poll::Ready(Filled::More)
                    }
                },
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "connection");
                    Poll::Ready(Filled::Ended)
                }
                Poll::Pending if stopped.poll(context) && is_idle => Poll::Ready(Filled::Stopped),
                Poll::Pending => late.as_mut().poll(context).map(|()| Filled::Late),
            }
        });
        filled.await
    }

    /// Answers a claim, unless its body was `late`. Says whether another request may follow.
    async fn claim(&mut self, head: &Head, late: bool) -> bool {
        let Self { stream, routes: Some(routes), received, answer, calendar, stopped, .. } = self else {
            return false;
        };
        let bytes = received.bytes();
        let value = |place: &Option<Range<usize>>| place.clone().map(|place| &bytes[place]);
        let mut new_id = Uuid::encode_buffer();
        let id = request_id(value(&head.request_id), &mut new_id);
        let reply = guarded(id, "POST", CLAIM_PATH, |reply: &Reply| reply.status, async {
            match bytes.get(head.bytes..head.request_bytes()) {
                Some(body) if !late => routes.claim(value(&head.idempotency_key), body).await,
                _ => Problem::BodyTimeout.into(),
            }
        });
        let mut reply = reply.await.unwrap_or_else(Reply::from);
        reply.close |= stopped.is_stopped();
        answer.clear();
        reply.write(answer, id, calendar.now());
        received.consume(head.request_bytes());
        stream.write_all(answer).await.is_ok() && !reply.close
    }
}

/// The id that a client has given to its request, if it can be used, or a new one, written to `new`.
fn request_id<'id>(given: Option<&'id [u8]>, new: &'id mut [u8]) -> &'id str {
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    let usable =
        given.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_printable));
    match usable.and_then(|id| std::str::from_utf8(id).ok()) {
        Some(id) => id,
        None => Uuid::new_v4().hyphenated().encode_lower(new),
    }
}

/// Waits for the answer to a request, and tells the log about it. A handler that panics costs the client its
/// answer, and nobody else anything.
async fn guarded<A>(
    id: &str,
    method: &str,
    path: &str,
    status: impl Fn(&A) -> StatusCode,
    answer: impl Future<Output = A>,
) -> Result<A, Problem> {
    // A span is only made when somebody listens: they cost more than most of a claim.
    let span = tracing::debug_span!("request", id);
    let answer = async {
        tracing::debug!(method, path, "request");
        let answer = AssertUnwindSafe(answer).catch_unwind().await.map_err(|_| {
            tracing::error!(id, "a handler panicked");
            Problem::Internal
        });
        let status = answer.as_ref().map_or(StatusCode::INTERNAL_SERVER_ERROR, status);
        tracing::debug!(status = status.as_u16(), "response");
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(id, "a request failed on our side");
        }
        answer
    };
    answer.instrument(span).await
}

/// Whether the process is stopping.
struct Stopped {
    token: CancellationToken,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stopped {
    fn new(stop: &CancellationToken) -> Self {
        // A token of its own: all connections' tasks would share the lock of one.
        let token = stop.child_token();
        Self { waiting: Box::pin(token.clone().cancelled_owned()), token }
    }

    fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether it is, and wakes the task once it is.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        self.is_stopped() || self.waiting.as_mut().poll(context).is_ready()
    }
}

/// The date, as HTTP writes it, written once a second.
#[derive(Default)]
struct Calendar {
    second: u64,
    text: String,
}

impl Calendar {
    fn now(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != second || self.text.is_empty() {
            (self.second, self.text) = (second, httpdate::fmt_http_date(now));
        }
        &self.text
    }
}
