//! Everything that is not a success, as `application/problem+json` (RFC 9457).
//!
//! One enum, one table of statuses. Internal text never reaches a client.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;

use super::reply::HttpReply;
use crate::claims::answer::Unavailable;

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
