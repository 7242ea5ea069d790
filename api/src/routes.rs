//! The HTTP API: which request goes where.

mod body;
mod claim;
mod coupon;
mod ready;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use sqlx::postgres::{PgConnection, PgPool};

use crate::config::Limits;
use crate::dispatcher::Dispatcher;
use crate::health::Health;
use crate::problem::{Problem, Unavailable};
use crate::store;

/// How long one question to Postgres may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// What handlers need.
pub struct State {
    pub(crate) pool: PgPool,
    pub(crate) partitions: u32,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) health: Arc<Health>,
    pub(crate) limits: Limits,
}

type Shared = axum::extract::State<Arc<State>>;

/// Asks Postgres, unless it is known to be away, within the time that a request has.
async fn ask<T>(
    state: &State,
    question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> Result<T, Problem> {
    if !state.health.postgres() {
        return Err(Unavailable::DatabaseUnavailable.into());
    }
    Ok(store::ask(&state.pool, QUESTION_TIMEOUT, question).await?)
}

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
