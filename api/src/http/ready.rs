//! Whether the process lives, and whether it can take claims.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;

use super::router::Shared;
use crate::http::reply::Reply;

/// `GET /health`: the process lives.
pub(crate) async fn alive() -> Response<Body> {
    Reply::json(StatusCode::OK, json!({ "status": "ok" }).to_string().into()).into_response()
}

/// `GET /health/ready`: whether Postgres and NATS answer.
pub(super) async fn ready(state: Shared) -> Reply {
    let word = |answers| if answers { "ok" } else { "unavailable" };
    let (postgres, nats) = (state.health.postgres(), state.health.nats());
    let (code, status) = match postgres && nats {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let body = json!({ "status": status, "postgres": word(postgres), "nats": word(nats) });
    let retry = code == StatusCode::SERVICE_UNAVAILABLE;
    Reply { retry, ..Reply::json(code, body.to_string().into()) }
}
