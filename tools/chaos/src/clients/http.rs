//! One HTTP/1.1 connection that says exactly how a request ended.

use std::net::SocketAddr;
use std::time::Duration;

use client::header::{HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use client::{Bytes, Error, Limits};
use serde::Deserialize;

use crate::history::{Answer, CouponView, Failure, Response};

const LIMITS: Limits = Limits { connect: Duration::from_secs(2), body_bytes_max: 4 << 20 };

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Option<serde_json::Value>,
}

/// A connection to an address that may change.
#[derive(Debug, Default)]
pub(crate) struct Connection(Option<(SocketAddr, client::Connection)>);

/// Everything that any body of the API may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    code: Option<String>,
    status: serde_json::Value,
    claim_id: Option<String>,
    coupon_name: Option<String>,
    user_id: Option<String>,
    position: Option<u64>,
    amount: Option<u64>,
    remaining_amount: Option<u64>,
    claimed_by: Option<Vec<String>>,
}

impl Connection {
    /// Whether a connection to some address is open.
    pub(crate) fn is_open(&self) -> bool {
        self.0.as_ref().is_some_and(|(_, connection)| connection.is_open())
    }

    /// Talks to this address from now on.
    pub(crate) fn switch(&mut self, address: SocketAddr) {
        if self.0.as_ref().is_none_or(|(other, _)| *other != address) {
            self.0 = Some((address, client::Connection::new(address, LIMITS)));
        }
    }

    /// Sends a request and waits for the whole response.
    pub(crate) async fn send(&mut self, request: &Request, limit: Duration) -> Answer {
        let failed = |how, detail: String| Answer::Failed { how, detail };
        let Some((_, connection)) = &mut self.0 else {
            return failed(Failure::NotConnected, "no address".to_owned());
        };
        let request = match prepared(request) {
            Ok(request) => request,
            Err(error) => return failed(Failure::Garbled, error),
        };
        match connection.send(request, limit).await {
            Ok(response) => match read(&response) {
                Ok(response) => Answer::Response(response),
                Err(error) => failed(Failure::Garbled, error),
            },
            Err(error) => {
                let how = match &error {
                    Error::NotConnected(_) => Failure::NotConnected,
                    Error::Broken(_) => Failure::Broken,
                    Error::TimedOut(_) => Failure::TimedOut,
                    Error::Malformed(_) => Failure::Garbled,
                };
                failed(how, error.to_string())
            }
        }
    }
}

fn prepared(request: &Request) -> Result<client::Request<Bytes>, String> {
    let method = request.method.parse().map_err(|_| format!("no method: {}", request.method))?;
    let prepared = client::request(method, &request.path, "localhost", request.body.as_ref());
    let mut prepared = prepared.map_err(|error| error.to_string())?;
    if let Some(key) = &request.key {
        let key = HeaderValue::try_from(key).map_err(|error| error.to_string())?;
        prepared.headers_mut().insert("idempotency-key", key);
    }
    Ok(prepared)
}

fn read(response: &client::Response<Bytes>) -> Result<Response, String> {
    let (status, body) = (response.status(), response.body());
    let header = |name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let body: Body = if body.is_empty() {
        Body::default()
    } else {
        serde_json::from_slice(body).map_err(|error| format!("status {status}: {error}"))?
    };
    let view = body.amount.zip(body.remaining_amount).zip(body.claimed_by);
    Ok(Response {
        status: status.as_u16(),
        // A problem's own `status` is a number; a claim's is a word.
        code: body.code.or_else(|| body.status.as_str().map(str::to_owned)),
        claim_id: body.claim_id,
        coupon: body.coupon_name,
        user: body.user_id,
        position: body.position,
        location: header(LOCATION),
        retry_after_s: header(RETRY_AFTER).and_then(|text| text.parse().ok()),
        view: view.map(|((amount, remaining), claimed_by)| CouponView { amount, remaining, claimed_by }),
    })
}
