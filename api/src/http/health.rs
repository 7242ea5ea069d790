//! Whether the process lives, and whether it can take claims.

use axum::http::StatusCode;
use serde_json::json;

use super::reply::HttpReply;
use super::state::SharedState;

/// Where one asks whether the process lives; also answered to those for whom there is no room.
pub(super) const HEALTH_PATH: &str = "/health";

/// `GET /health`: the process lives.
pub(super) async fn alive() -> HttpReply {
    HttpReply::json(StatusCode::OK, json!({ "status": "ok" }).to_string().into())
}

/// `GET /health/ready`: whether Postgres and NATS answer.
pub(super) async fn ready(state: SharedState) -> HttpReply {
    let word = |answers| if answers { "ok" } else { "unavailable" };
    let (postgres, nats) = (state.availability.postgres(), state.availability.nats());
    let (code, status) = match postgres && nats {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let body = json!({ "status": status, "postgres": word(postgres), "nats": word(nats) });
    let retry = code == StatusCode::SERVICE_UNAVAILABLE;
    HttpReply { retry, ..HttpReply::json(code, body.to_string().into()) }
}
