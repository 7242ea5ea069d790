//! One HTTP/1.1 connection that says exactly how a request ended.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::history::{Answer, CouponView, Failure, Response};

/// The largest body that is read.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Option<serde_json::Value>,
}

/// A connection that is made when it is needed, and dropped after anything but a whole response.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    address: Option<SocketAddr>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Everything that any body of the API may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    code: Option<String>,
    status: serde_json::Value,
    claim_id: Option<String>,
    position: Option<u64>,
    amount: Option<u64>,
    remaining_amount: Option<u64>,
    claimed_by: Option<Vec<String>>,
}

impl Connection {
    /// Whether a connection to some address is open.
    pub(crate) fn is_open(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Talks to this address from now on.
    pub(crate) fn switch(&mut self, address: SocketAddr) {
        if self.address != Some(address) {
            (self.address, self.sender) = (Some(address), None);
        }
    }

    /// Sends a request and waits for the whole response.
    pub(crate) async fn send(&mut self, request: &Request, limit: Duration) -> Answer {
        let failed = |how, detail: String| Answer::Failed { how, detail };
        // Taken out, so that a connection is not used again when this is cut short.
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => match self.connect().await {
                Ok(sender) => sender,
                Err(error) => return failed(Failure::NotConnected, error),
            },
        };
        let answer = async {
            sender.ready().await.map_err(|error| failed(Failure::Broken, words(&error)))?;
            let response = sender.send_request(into_hyper(request).map_err(|e| failed(Failure::Garbled, e))?);
            let response = response.await.map_err(|error| failed(Failure::Broken, words(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| failed(Failure::Broken, error.to_string()))?.to_bytes();
            read(&head, &body).map_err(|error| failed(Failure::Garbled, error))
        };
        match timeout(limit, answer).await {
            Ok(Ok(response)) => {
                self.sender = Some(sender);
                Answer::Response(response)
            }
            Ok(Err(failed)) => failed,
            Err(_) => failed(Failure::TimedOut, format!("after {limit:?}")),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = self.address.ok_or("no address")?;
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no connection after {CONNECT_TIMEOUT:?}")),
        };
        let _ = stream.set_nodelay(true);
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        // Ends when the sender is dropped; its errors reach the sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn words(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn into_hyper(request: &Request) -> Result<hyper::Request<Full<Bytes>>, String> {
    let mut builder =
        hyper::Request::builder().method(request.method).uri(&request.path).header(HOST, "localhost");
    if let Some(key) = &request.key {
        builder = builder.header("idempotency-key", key);
    }
    let body = match &request.body {
        Some(body) => {
            builder = builder.header(CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    builder.body(Full::new(body)).map_err(|error| error.to_string())
}

fn read(head: &hyper::http::response::Parts, body: &Bytes) -> Result<Response, String> {
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body: Body = if body.is_empty() {
        Body::default()
    } else {
        serde_json::from_slice(body).map_err(|error| format!("status {}: {error}", head.status))?
    };
    let view = body.amount.zip(body.remaining_amount).zip(body.claimed_by);
    Ok(Response {
        status: head.status.as_u16(),
        // A problem's own `status` is a number; a claim's is a word.
        code: body.code.or_else(|| body.status.as_str().map(str::to_owned)),
        claim_id: body.claim_id,
        position: body.position,
        location: header(LOCATION),
        retry_after_s: header(RETRY_AFTER).and_then(|text| text.parse().ok()),
        view: view.map(|((amount, remaining), claimed_by)| CouponView { amount, remaining, claimed_by }),
    })
}
