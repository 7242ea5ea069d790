//! An HTTP/1.1 client for the tools: one keep-alive connection that says exactly how each request ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
pub use hyper::{Method, Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection was made, so nothing was sent.
    #[error("no connection: {0}")]
    NotConnected(String),
    /// The connection broke or was closed before the response was complete.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The response was not complete within this time.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    /// The response is not HTTP, or its body is larger than [`Limits::body_bytes_max`].
    #[error("not a valid response: {0}")]
    Malformed(String),
}

/// The limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a connection may take to open.
    pub connect: Duration,
    /// The largest body that is read.
    pub body_bytes_max: usize,
}

/// A connection that is opened when it is needed, and dropped after anything but a whole response.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    limits: Limits,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Why there is no response. A request that was not written at all comes back.
enum Failure {
    Unsent(Box<Request<Full<Bytes>>>),
    Failed(Error),
}

impl Connection {
    /// A connection to `address`, not open yet.
    #[must_use]
    pub fn new(address: SocketAddr, limits: Limits) -> Self {
        Self { address, limits, sender: None }
    }

    /// Whether the connection is open, as far as is known.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Opens the connection unless it is open.
    ///
    /// # Errors
    /// [`Error::NotConnected`]
    pub async fn open(&mut self) -> Result<(), Error> {
        if !self.is_open() {
            self.sender = Some(connect(self.address, self.limits.connect).await?);
        }
        Ok(())
    }

    /// Sends `request`, which must have a `Host`, and waits for the whole response: at most for `limit`, once the
    /// connection is open. A request that a closed connection has not written is sent on a new one.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn send(&mut self, request: Request<Bytes>, limit: Duration) -> Result<Response<Bytes>, Error> {
        let mut request = request.map(Full::new);
        loop {
            // Taken out, so that a connection is not used again when this is cut short.
            let open = self.sender.take().filter(|sender| !sender.is_closed());
            let reused = open.is_some();
            let mut sender = match open {
                Some(sender) => sender,
                None => connect(self.address, self.limits.connect).await?,
            };
            match timeout(limit, exchange(&mut sender, request, self.limits.body_bytes_max)).await {
                Ok(Ok(response)) => {
                    let header = response.headers().get(CONNECTION);
                    let closes = header.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
                    self.sender = (!closes).then_some(sender);
                    return Ok(response);
                }
                Ok(Err(Failure::Unsent(unsent))) if reused => request = *unsent,
                Ok(Err(Failure::Unsent(_))) => return Err(Error::Broken("closed at once".to_owned())),
                Ok(Err(Failure::Failed(error))) => return Err(error),
                Err(_) => return Err(Error::TimedOut(limit)),
            }
        }
    }
}

/// A request for `path` at `host`, with a JSON body or without any.
///
/// # Errors
/// When `path` or `host` hold what HTTP does not allow.
pub fn request(
    method: Method,
    path: &str,
    host: &str,
    body: Option<&serde_json::Value>,
) -> Result<Request<Bytes>, hyper::http::Error> {
    let mut builder = Request::builder().method(method).uri(path).header(HOST, host);
    if body.is_some() {
        builder = builder.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    builder.body(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())))
}

async fn connect(address: SocketAddr, limit: Duration) -> Result<SendRequest<Full<Bytes>>, Error> {
    let refused = |error: &dyn std::error::Error| Error::NotConnected(chain(error));
    let stream = match timeout(limit, TcpStream::connect(address)).await {
        Ok(stream) => stream.map_err(|error| refused(&error))?,
        Err(_) => return Err(Error::NotConnected(format!("none within {limit:?}"))),
    };
    stream.set_nodelay(true).map_err(|error| refused(&error))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| refused(&error))?;
    // Ends when the sender is dropped; its errors reach the sender.
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<Response<Bytes>, Failure> {
    if sender.ready().await.is_err() {
        return Err(Failure::Unsent(Box::new(request)));
    }
    let sent = sender.try_send_request(request).await;
    let response = sent.map_err(|mut error| match error.take_message() {
        Some(request) => Failure::Unsent(Box::new(request)),
        None => Failure::Failed(classified(error.error())),
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, body_bytes_max).collect().await.map_err(|error| {
        Failure::Failed(match error.downcast_ref::<hyper::Error>() {
            Some(error) => classified(error),
            None if error.is::<LengthLimitError>() => {
                Error::Malformed(format!("a body of more than {body_bytes_max} bytes"))
            }
            None => Error::Broken(error.to_string()),
        })
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// Tells apart what is not HTTP from a connection that broke.
fn classified(error: &hyper::Error) -> Error {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let not_http = source.is_some_and(|error| {
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
    });
    match error.is_parse() || not_http {
        true => Error::Malformed(chain(error)),
        false => Error::Broken(chain(error)),
    }
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
