//! Whether the process lives, and whether it can take claims.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Shared;
use crate::problem::RETRY_AFTER_S;

/// `GET /health`: the process lives.
pub(crate) async fn alive() -> Response<Body> {
    respond(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /health/ready`: whether Postgres and NATS answer.
pub(super) async fn ready(state: Shared) -> Response<Body> {
    let word = |answers| if answers { "ok" } else { "unavailable" };
    let (postgres, nats) = (state.health.postgres(), state.health.nats());
    let (code, status) = match postgres && nats {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let body = json!({ "status": status, "postgres": word(postgres), "nats": word(nats) });
    let mut response = respond(code, &body);
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}

fn respond(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
