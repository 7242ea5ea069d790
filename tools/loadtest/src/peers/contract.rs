//! The requests and answers of the API, as every peer speaks them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `POST /api/coupons`
#[derive(Debug, Deserialize)]
pub(super) struct NewCoupon {
    pub(super) name: String,
    pub(super) amount: i32,
}

/// `POST /api/coupons/claim`
#[derive(Debug, Deserialize)]
pub(super) struct NewClaim {
    pub(super) user_id: String,
    pub(super) coupon_name: String,
}

/// A claim that won.
#[derive(Debug, Serialize)]
pub(super) struct Claimed {
    status: &'static str,
    claim_id: Uuid,
    coupon_name: String,
    user_id: String,
    position: i32,
}

impl Claimed {
    pub(super) fn new(claim: NewClaim, claim_id: Uuid, position: i32) -> Self {
        let NewClaim { user_id, coupon_name } = claim;
        Self { status: "claimed", claim_id, coupon_name, user_id, position }
    }
}

/// `GET /api/coupons/{name}`
#[derive(Debug, Serialize)]
pub(super) struct CouponView {
    pub(super) name: String,
    pub(super) amount: i32,
    pub(super) remaining_amount: i32,
    pub(super) claimed_by: Vec<String>,
}

/// Every answer that is not the wished-for one.
#[derive(Debug)]
pub(super) enum Refusal {
    CouponExists,
    CouponNotFound,
    AlreadyClaimed,
    SoldOut,
    Internal(sqlx::Error),
}

/// An error's body.
#[derive(Serialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Internal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, title) = match self {
            Self::CouponExists => (StatusCode::CONFLICT, "coupon_exists", "The coupon exists already"),
            Self::CouponNotFound => (StatusCode::NOT_FOUND, "coupon_not_found", "There is no such coupon"),
            Self::AlreadyClaimed => {
                (StatusCode::CONFLICT, "already_claimed", "The user has this coupon already")
            }
            Self::SoldOut => (StatusCode::BAD_REQUEST, "sold_out", "The coupon is sold out"),
            Self::Internal(error) => {
                eprintln!("request failed: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong")
            }
        };
        let problem = Problem { kind: "about:blank", title, status: status.as_u16(), code };
        let mut response = (status, Json(problem)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
