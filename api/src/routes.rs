//! The HTTP API: which request goes where.

mod body;
mod claim;
mod coupon;
mod ready;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use sqlx::PgPool;

use crate::config::Limits;
use crate::dispatcher::Dispatcher;
use crate::health::Health;
use crate::problem::Problem;

/// What handlers need.
pub struct State {
    pub(crate) pool: PgPool,
    pub(crate) partitions: u32,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) health: Arc<Health>,
    pub(crate) limits: Limits,
}

type Shared = axum::extract::State<Arc<State>>;

/// All routes.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/api/coupons", post(coupon::create))
        // A coupon may be called "claim".
        .route("/api/coupons/claim", post(claim::claim).get(coupon::view_one_called_claim))
        .route("/api/coupons/{name}", get(coupon::view))
        .route("/api/coupons/{name}/claims/{user_id}", get(claim::view))
        .route("/health", get(ready::alive))
        .route("/health/ready", get(ready::ready))
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .with_state(Arc::new(state))
}
