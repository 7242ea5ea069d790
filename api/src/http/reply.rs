//! An answer with a body that is known.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

/// Seconds after which a client should try again.
const RETRY_AFTER_S: u32 = 1;

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpReply {
    /// What came of the request.
    pub(super) status: StatusCode,
    /// What the body is.
    pub(super) content_type: &'static str,
    /// All of it.
    pub(super) body: Vec<u8>,
    /// Where to ask again.
    pub(super) location: Option<String>,
    /// Whether to ask again, after [`RETRY_AFTER_S`].
    pub(super) retry: bool,
    /// No other request can follow on this connection.
    pub(super) close: bool,
}

impl HttpReply {
    /// An answer in JSON.
    pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Self {
        Self { status, content_type: "application/json", body, location: None, retry: false, close: false }
    }
}

impl IntoResponse for HttpReply {
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
