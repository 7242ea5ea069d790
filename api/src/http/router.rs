//! Which request goes where.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Request};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use tower::{ServiceExt as _, service_fn};

use super::problem::Problem;
use super::stack::Answers;
use super::state::State;
use super::{claim, coupon, health};

/// Where claims go.
const CLAIM_PATH: &str = "/api/coupons/claim";

/// All handlers. Nearly all requests of a sale are claims: they do not go through the router.
pub(super) fn handlers(state: State) -> impl Answers<Bytes> {
    let state = Arc::new(state);
    let router = router(state.clone());
    service_fn(move |request: Request<Bytes>| {
        let (state, router) = (state.clone(), router.clone());
        async move {
            if request.method() == Method::POST && request.uri().path() == CLAIM_PATH {
                let (parts, body) = request.into_parts();
                return Ok(claim::claim(axum::extract::State(state), parts.headers, body)
                    .await
                    .into_response());
            }
            router.oneshot(request.map(Body::from)).await
        }
    })
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/coupons", post(coupon::create))
        // A coupon may be called "claim".
        .route(CLAIM_PATH, post(claim::claim).get(coupon::view_one_called_claim))
        .route("/api/coupons/{name}", get(coupon::view))
        .route("/api/coupons/{name}/claims/{user_id}", get(claim::view))
        .route(health::HEALTH_PATH, get(health::alive))
        .route("/health/ready", get(health::ready))
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        // Bodies have been read by now, within limits of ours.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}
