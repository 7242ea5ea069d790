//! The ceiling: a handler that reads the claim and answers at once. No system that keeps its promises is faster.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use uuid::Uuid;

use super::contract::{Claimed, NewClaim, NewCoupon};

/// Answers every claim with a win, and remembers nothing.
pub fn ceiling() -> Router {
    Router::new()
        .route("/api/coupons", post(create))
        .route("/api/coupons/claim", post(claim))
        .with_state(Arc::new(AtomicI32::new(0)))
}

async fn create(Json(coupon): Json<NewCoupon>) -> StatusCode {
    let NewCoupon { name: _, amount: _ } = coupon;
    StatusCode::CREATED
}

async fn claim(State(claims): State<Arc<AtomicI32>>, Json(claim): Json<NewClaim>) -> Json<Claimed> {
    let position = claims.fetch_add(1, Ordering::Relaxed) + 1;
    Json(Claimed::new(claim, Uuid::nil(), position))
}
