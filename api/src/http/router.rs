//! Which request goes where.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use futures::FutureExt as _;
use tower::ServiceExt as _;

use super::body::Bodies;
use super::problem::Problem;
use super::state::State;
use super::{claim, coupon, health};

/// Where claims go.
const CLAIM_PATH: &str = "/api/coupons/claim";

/// All handlers. Every request clones them, so each connection has a reference count
/// [of its own](Self::for_connection): one that all threads write to costs more than most of a claim's handler.
#[derive(Clone)]
pub(super) struct Handlers(Arc<Inner>);

struct Inner {
    state: Arc<State>,
    bodies: Arc<Bodies>,
    router: Router,
}

impl Handlers {
    pub(super) fn new(state: State, bodies: Bodies) -> Self {
        let (state, bodies) = (Arc::new(state), Arc::new(bodies));
        let router = router(state.clone());
        Self(Arc::new(Inner { state, bodies, router }))
    }

    /// The same handlers, with a reference count of their own.
    pub(super) fn for_connection(&self) -> Self {
        let Inner { state, bodies, router } = &*self.0;
        Self(Arc::new(Inner { state: state.clone(), bodies: bodies.clone(), router: router.clone() }))
    }

    pub(super) fn bodies(&self) -> &Bodies {
        &self.0.bodies
    }

    /// Answers a request. Nearly all of a sale are claims: they do not go through the router.
    pub(super) async fn answer(&self, request: Request<Bytes>) -> Response<Body> {
        let Inner { state, router, .. } = &*self.0;
        if request.method() == Method::POST && request.uri().path() == CLAIM_PATH {
            let (Parts { headers, .. }, body) = request.into_parts();
            return claim::answer(state, headers, body).await.into_response();
        }
        // Boxed: claims need no room for it.
        match router.clone().oneshot(request.map(Body::from)).boxed().await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/coupons", post(coupon::create))
        // `answer` takes claims before the router; here the route is for the Allow header. A coupon may be called
        // "claim".
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
