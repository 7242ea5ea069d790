//! The HTTP API: which request goes where.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use axum::routing::{get, post};
use hyper::body::Incoming;
use sqlx::postgres::{PgConnection, PgPool};
use tower::ServiceExt;

use super::{claim, coupon, ready};
use crate::claims::answer::Unavailable;
use crate::claims::dispatcher::Dispatcher;
use crate::claims::health::Health;
use crate::config::Limits;
use crate::http::problem::Problem;
use crate::http::reply::Reply;
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

pub(crate) use claim::IDEMPOTENCY_KEY;
pub(crate) use ready::alive;

pub(super) type Shared = axum::extract::State<Arc<State>>;

/// Asks Postgres, unless it is known to be away, within the time that a request has.
pub(super) async fn ask<T>(
    state: &State,
    question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> Result<T, Problem> {
    if !state.health.postgres() {
        return Err(Unavailable::DatabaseUnavailable.into());
    }
    Ok(store::ask(&state.pool, QUESTION_TIMEOUT, question).await?)
}

/// Where claims go.
pub(crate) const CLAIM_PATH: &str = "/api/coupons/claim";

/// Where one asks whether the process lives; also answered to those for whom there is no room.
pub(crate) const HEALTH_PATH: &str = "/health";

/// All routes.
#[derive(Clone)]
pub struct Routes {
    state: Arc<State>,
    router: Router,
}

impl Routes {
    /// All routes, over `state`.
    pub fn new(state: State) -> Self {
        let state = Arc::new(state);
        Self { router: router(state.clone()), state }
    }

    /// Limits and times.
    pub(crate) fn limits(&self) -> &Limits {
        &self.state.limits
    }

    /// Answers a claim: the body of a request, and its `Idempotency-Key`, if it has one.
    pub(crate) async fn claim(&self, key: Option<&[u8]>, body: &[u8]) -> Reply {
        claim::answer(&self.state, key, body).await.unwrap_or_else(Reply::from)
    }

    /// Answers any request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.router.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/coupons", post(coupon::create))
        // A coupon may be called "claim".
        .route(CLAIM_PATH, post(claim::claim).get(coupon::view_one_called_claim))
        .route("/api/coupons/{name}", get(coupon::view))
        .route("/api/coupons/{name}/claims/{user_id}", get(claim::view))
        .route(HEALTH_PATH, get(alive))
        .route("/health/ready", get(ready::ready))
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .with_state(state)
}
