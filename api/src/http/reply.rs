//! An answer with a body that is known, before it is said how it is sent.

use std::io::Write as _;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

/// Seconds after which a client should try again.
pub const RETRY_AFTER_S: u32 = 1;

/// About how long the head of an answer is, to make room for it.
const HEAD_BYTES: usize = 256;

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What came of the request.
    pub status: StatusCode,
    /// What the body is.
    pub content_type: &'static str,
    /// All of it.
    pub body: Vec<u8>,
    /// Where to ask again.
    pub location: Option<String>,
    /// Whether to ask again, after [`RETRY_AFTER_S`].
    pub retry: bool,
    /// No other request can follow on this connection.
    pub close: bool,
}

impl Reply {
    /// An answer in JSON.
    pub fn json(status: StatusCode, body: Vec<u8>) -> Self {
        Self { status, content_type: "application/json", body, location: None, retry: false, close: false }
    }

    /// Appends the answer to `out` as HTTP/1.1 sends it. `request_id` and `date` must be fit for a header.
    pub(crate) fn write(&self, out: &mut Vec<u8>, request_id: &str, date: &str) {
        out.reserve(HEAD_BYTES + self.body.len());
        let status = self.status.as_u16();
        let reason = self.status.canonical_reason().unwrap_or_default();
        let written = (|| {
            let (content_type, length) = (self.content_type, self.body.len());
            write!(out, "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n")?;
            if let Some(location) = &self.location {
                write!(out, "location: {location}\r\n")?;
            }
            if self.retry {
                write!(out, "retry-after: {RETRY_AFTER_S}\r\n")?;
            }
            if self.close {
                out.extend_from_slice(b"connection: close\r\n");
            }
            write!(out, "x-request-id: {request_id}\r\ncontent-length: {length}\r\ndate: {date}\r\n\r\n")
        })();
        written.expect("memory takes what is written");
        out.extend_from_slice(&self.body);
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(location) = self.location.and_then(|location| location.try_into().ok()) {
            headers.insert(LOCATION, location);
        }
        if self.retry {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
