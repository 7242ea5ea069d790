//! Everything that is not a success, as `application/problem+json` (RFC 9457).
//!
//! One enum, one table of statuses. Internal text never reaches a client.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;

use super::reply::HttpReply;

/// Everything that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The request cannot be understood, or breaks a rule that the text names.
    #[error("{0}")]
    InvalidRequest(Cow<'static, str>),
    /// A coupon of that name exists.
    #[error("A coupon of this name exists already.")]
    CouponExists,
    /// The user has the coupon.
    #[error("This user has claimed this coupon already.")]
    AlreadyClaimed,
    /// Nothing is left of the coupon.
    #[error("Nothing is left of this coupon.")]
    SoldOut,
    /// There is no such coupon.
    #[error("There is no coupon of this name.")]
    CouponNotFound,
    /// The user has no claim on the coupon.
    #[error("This user has no claim on this coupon.")]
    ClaimNotFound,
    /// There is nothing at this path.
    #[error("There is nothing at this path.")]
    NotFound,
    /// The path does not take this method.
    #[error("This path does not take this method; the Allow header says which it takes.")]
    MethodNotAllowed,
    /// The body is longer than `BODY_BYTES_MAX`.
    #[error("The body is too large.")]
    BodyTooLarge,
    /// The body took longer than `BODY_TIMEOUT_MS`.
    #[error("The body did not arrive in time.")]
    BodyTimeout,
    /// The body is not declared as JSON.
    #[error("The body must be JSON, sent with content-type: application/json.")]
    UnsupportedMediaType,
    /// Try again; the reason says what has become of the request.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A fault of ours; the log has it, under the request's id.
    #[error("Something went wrong on our side.")]
    Internal,
}

/// Why a request could not be completed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// More than `IN_FLIGHT_CLAIMS_MAX` claims, or `CONNECTIONS_MAX` connections.
    #[error("Too many requests are under way. This one was not accepted; try again.")]
    Overloaded,
    /// The claim stream has reached `STREAM_BYTES_MAX`.
    #[error("The queue is full. The claim was not accepted; try again.")]
    QueueFull,
    /// NATS is away, or does not take claims.
    #[error("The queue is not available. The claim was not accepted; try again.")]
    QueueUnavailable,
    /// Postgres is away.
    #[error("The database is not available. Try again.")]
    DatabaseUnavailable,
    /// The claim may or may not have been accepted.
    #[error(
        "It is not known whether the claim was accepted. Repeat it with the same Idempotency-Key: \
         that never takes a second coupon."
    )]
    OutcomeUnknown,
    /// The process is stopping.
    #[error("The server is stopping. The request was not accepted; try again.")]
    Stopping,
}

impl Problem {
    /// The status and the stable code of each problem.
    pub fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::CouponExists => (StatusCode::CONFLICT, "coupon_exists"),
            Self::AlreadyClaimed => (StatusCode::CONFLICT, "already_claimed"),
            Self::SoldOut => (StatusCode::BAD_REQUEST, "sold_out"),
            Self::CouponNotFound => (StatusCode::NOT_FOUND, "coupon_not_found"),
            Self::ClaimNotFound => (StatusCode::NOT_FOUND, "claim_not_found"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::Unavailable(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason.code()),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "Invalid request",
            Self::CouponExists => "Coupon exists",
            Self::AlreadyClaimed => "Already claimed",
            Self::SoldOut => "Sold out",
            Self::CouponNotFound => "Coupon not found",
            Self::ClaimNotFound => "Claim not found",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::BodyTooLarge => "Body too large",
            Self::BodyTimeout => "Body timeout",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::Unavailable(_) => "Try again",
            Self::Internal => "Internal error",
        }
    }
}

impl Unavailable {
    fn code(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue_full",
            Self::QueueUnavailable => "queue_unavailable",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Stopping => "stopping",
        }
    }
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

impl From<Problem> for HttpReply {
    fn from(problem: Problem) -> Self {
        let (status, code) = problem.status_and_code();
        let details = Details {
            r#type: format!("urn:problem:coupon:{code}"),
            title: problem.title(),
            status: status.as_u16(),
            detail: &problem.to_string(),
            code,
        };
        let body = serde_json::to_vec(&details).expect("a problem is plain JSON");
        Self {
            content_type: "application/problem+json",
            retry: status == StatusCode::SERVICE_UNAVAILABLE,
            ..Self::json(status, body)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        HttpReply::from(self).into_response()
    }
}

impl From<sqlx::Error> for Problem {
    /// Logs the error: the client learns only what it can do.
    fn from(error: sqlx::Error) -> Self {
        if common::database::is_passing(&error) {
            tracing::warn!(%error, "Postgres is not available");
            Unavailable::DatabaseUnavailable.into()
        } else {
            tracing::error!(%error, "Postgres");
            Self::Internal
        }
    }
}
