//! The operations port: whether a process lives, and whether it can do its work. For operators and their tools, not for
//! clients: it has a port of its own, which need not be reachable from outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, Env};

/// Default of `OPS_HOST`: this machine only.
pub const OPS_HOST_DEFAULT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Default of `OPS_PORT` for a process with an API.
pub const API_OPS_PORT_DEFAULT: u16 = 9464;

/// Default of `OPS_PORT` for a worker.
pub const WORKER_OPS_PORT_DEFAULT: u16 = 9465;

/// The parts of a process, by name: why one cannot do its work, or `None` if it can.
pub type Report = BTreeMap<String, Option<String>>;

/// Says how the parts of a process are.
pub type Probe = Arc<dyn Fn() -> Report + Send + Sync>;

/// Listens at `OPS_HOST` and `OPS_PORT`, unless the port is 0.
///
/// # Errors
/// When a variable cannot be used, the port is taken, or the address is not this machine's.
pub async fn listen(env: &Env, port_default: u16) -> Result<Option<TcpListener>, ConfigError> {
    let host = env.address("OPS_HOST", OPS_HOST_DEFAULT)?;
    let port = env.number("OPS_PORT", port_default, 0..=u16::MAX)?;
    if port == 0 {
        return Ok(None);
    }
    let address = SocketAddr::new(host, port);
    let listener = TcpListener::bind(address).await;
    let why = |error| format!("cannot listen on {address}: {error}; 0 does without");
    listener.map(Some).map_err(|error| ConfigError::new("OPS_PORT", why(error)))
}

/// Answers `GET /health` and `GET /health/ready` until `stop`: ready if all parts of all `probes` are.
pub async fn serve(listener: TcpListener, probes: Vec<Probe>, stop: CancellationToken) {
    let router = axum::Router::new()
        .route("/health", get(async || Json(Value::from_iter([("status", "ok")]))))
        .route("/health/ready", get(ready))
        .with_state(Arc::new(probes));
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the operations port has ended");
    }
}

async fn ready(State(probes): State<Arc<Vec<Probe>>>) -> (StatusCode, Json<Map<String, Value>>) {
    let mut all = Report::new();
    for (part, trouble) in probes.iter().flat_map(|probe| probe()) {
        // Where two say something of the same part, the one that cannot use it counts.
        let known = all.entry(part).or_default();
        *known = trouble.or(known.take());
    }
    let is_ready = all.values().all(Option::is_none);
    let (code, status) = match is_ready {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let parts = all.into_iter().map(|(part, trouble)| (part, trouble.unwrap_or_else(|| "ok".to_owned())));
    let fields = parts.chain([("status".to_owned(), status.to_owned())]);
    (code, Json(fields.map(|(name, value)| (name, value.into())).collect()))
}
