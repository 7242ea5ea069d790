//! A coupon API in memory, right or wrong in one chosen way.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use loadtest::peers;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Clears a terminal, and names its window.
const COMMAND: &str = "\u{1b}[2Jinternal\u{1b}]0;mine\u{7}\u{9b}31m";

/// What the server does to claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Everybody wins.
    Oversells,
    /// Whoever asks again wins again.
    WinsTwice,
    /// Positions count from 0.
    WrongPosition,
    /// Some are told to have won and are not written down.
    ForgetsWinners,
    /// The last one is never given out.
    SoldOutEarly,
    /// Some new users are told that they have claimed already.
    FalseConflict,
    /// Whoever has it is told so only until it is sold out.
    RefusesWinners,
    /// Some are answered with 500.
    Fails,
    /// Some are answered with a code that commands a terminal.
    Commands,
    /// The first attempt of every claim is answered with 503.
    Busy,
    /// Every claim is answered with 202; its outcome is told when asked the second time.
    Pending,
    /// Every third claim is applied, and the connection closed without an answer.
    BreaksOff,
    /// The server asks for a new connection for every request, and takes 10 ms to answer.
    Closes,
    /// Every third claim is applied, and not answered.
    Sleeps,
    /// Every claim is answered with 202, without a word on where to ask for its outcome.
    PointsNowhere,
    /// No answer before this long after the first claim.
    Stalls(Duration),
}

#[derive(Debug, Default)]
struct Coupon {
    amount: usize,
    claimed_by: Vec<String>,
    claimed: HashSet<String>,
    claims_seen: usize,
}

#[derive(Debug)]
struct Shared {
    manner: Manner,
    first_claim: OnceLock<Instant>,
    coupons: Mutex<HashMap<String, Coupon>>,
    keys: Mutex<HashMap<String, (StatusCode, Value)>>,
}

impl Shared {
    fn coupons(&self) -> MutexGuard<'_, HashMap<String, Coupon>> {
        self.coupons.lock().unwrap()
    }
}

/// A server that does everything right, but for what it answers claims with. It ends with the process.
pub(crate) fn no_http() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            let view = r#"{"name":"c","amount":50,"remaining_amount":50,"claimed_by":[]}"#;
            let answer = match &request[..read] {
                claim if claim.starts_with(b"POST /api/coupons/claim ") => "garbage\r\n\r\n".to_owned(),
                new if new.starts_with(b"POST ") => "HTTP/1.0 201 Created\r\n\r\n".to_owned(),
                _ => format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{view}", view.len()),
            };
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

/// A server that makes no coupon, and says so with commands for a terminal. It ends with the process.
pub(crate) fn commanding() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = format!("HTTP/1.0 418 Teapot\r\nContent-Length: {}\r\n\r\n", COMMAND.len());
            stream.write_all(format!("{head}{COMMAND}").as_bytes()).unwrap();
        }
    });
    address
}

/// A running server; it stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    pub(crate) fn start(manner: Manner) -> Self {
        let shared = Shared {
            manner,
            first_claim: OnceLock::new(),
            coupons: Mutex::default(),
            keys: Mutex::default(),
        };
        let api = Router::new()
            .route("/api/coupons", post(create))
            .route("/api/coupons/claim", post(claim))
            .route("/api/coupons/{name}", get(view))
            .route("/api/coupons/{name}/claims/{user}", get(outcome))
            .with_state(Arc::new(shared));
        Self::serve(api.clone().nest("/front", api))
    }

    pub(crate) fn ceiling() -> Self {
        Self::serve(peers::ceiling())
    }

    fn serve(router: Router) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn create(State(shared): State<Arc<Shared>>, Json(new): Json<Value>) -> StatusCode {
    let mut coupons = shared.coupons();
    let name = new["name"].as_str().unwrap().to_owned();
    if coupons.contains_key(&name) {
        return StatusCode::CONFLICT;
    }
    let amount = usize::try_from(new["amount"].as_u64().unwrap()).unwrap();
    coupons.insert(name, Coupon { amount, ..Coupon::default() });
    StatusCode::CREATED
}

async fn view(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.coupons().get(&name) {
        Some(coupon) => Json(json!({
            "name": name,
            "amount": coupon.amount,
            "remaining_amount": coupon.amount as i64 - coupon.claimed_by.len() as i64,
            "claimed_by": coupon.claimed_by,
        }))
        .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn claim(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(claim): Json<Value>) -> Response {
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned()).unwrap_or_default();
    let (user, name) = (claim["user_id"].as_str().unwrap(), claim["coupon_name"].as_str().unwrap());
    let first_time =
        shared.keys.lock().unwrap().insert(key.clone(), (StatusCode::ACCEPTED, json!({}))).is_none();
    match shared.manner {
        Manner::Stalls(time) => {
            let start = *shared.first_claim.get_or_init(Instant::now);
            tokio::time::sleep_until((start + time).into()).await;
        }
        Manner::Closes => tokio::time::sleep(Duration::from_millis(10)).await,
        Manner::Busy if first_time => {
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")]).into_response();
        }
        _ => {}
    }
    let decided = if first_time || matches!(shared.manner, Manner::Busy) {
        Some(decide(&shared, user, name))
    } else {
        None
    };
    let Some((outcome, silent)) = decided else {
        // The same key again: the same outcome again, if there is one.
        let outcome = shared.keys.lock().unwrap().get(&format!("outcome {key}")).cloned();
        let not_yet = || (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")]).into_response();
        return outcome.map_or_else(not_yet, |outcome| outcome.into_response_json());
    };
    shared.keys.lock().unwrap().insert(format!("outcome {key}"), outcome.clone());
    match shared.manner {
        // Closes the connection, without the message that a panic would print.
        Manner::BreaksOff if silent => std::panic::resume_unwind(Box::new(())),
        Manner::Sleeps if silent => std::future::pending().await,
        Manner::PointsNowhere => StatusCode::ACCEPTED.into_response(),
        Manner::Pending => {
            shared.keys.lock().unwrap().insert(format!("{name} {user}"), outcome);
            let location = format!("/api/coupons/{name}/claims/{user}?asked=0");
            (StatusCode::ACCEPTED, [(header::LOCATION, location)]).into_response()
        }
        Manner::Closes => ([(header::CONNECTION, "close")], outcome.into_response_json()).into_response(),
        _ => outcome.into_response_json(),
    }
}

/// The outcome of a claim, and whether it is one that some servers do not tell.
fn decide(shared: &Shared, user: &str, name: &str) -> ((StatusCode, Value), bool) {
    let manner = shared.manner;
    let problem = |status, code: &str| (status, json!({"code": code}));
    let mut coupons = shared.coupons();
    let Some(coupon) = coupons.get_mut(name) else {
        return (problem(StatusCode::NOT_FOUND, "coupon_not_found"), false);
    };
    coupon.claims_seen += 1;
    let every = |nth: usize| coupon.claims_seen.is_multiple_of(nth);
    let (seventh, third) = (every(7), every(3));
    let new = coupon.claimed.insert(user.to_owned());
    if !new && manner == Manner::RefusesWinners && coupon.claimed_by.len() >= coupon.amount {
        return (problem(StatusCode::BAD_REQUEST, "sold_out"), false);
    }
    if !new && manner != Manner::WinsTwice {
        return (problem(StatusCode::CONFLICT, "already_claimed"), false);
    }
    let amount = coupon.amount - usize::from(manner == Manner::SoldOutEarly);
    if coupon.claimed_by.len() >= amount && manner != Manner::Oversells {
        coupon.claimed.remove(user);
        return (problem(StatusCode::BAD_REQUEST, "sold_out"), false);
    }
    match manner {
        Manner::FalseConflict if seventh => {
            coupon.claimed.remove(user);
            return (problem(StatusCode::CONFLICT, "already_claimed"), false);
        }
        Manner::Commands if seventh => {
            coupon.claimed.remove(user);
            return (problem(StatusCode::INTERNAL_SERVER_ERROR, COMMAND), false);
        }
        Manner::Fails if seventh => {
            coupon.claimed.remove(user);
            return (problem(StatusCode::INTERNAL_SERVER_ERROR, "internal"), false);
        }
        _ => {}
    }
    if !(manner == Manner::ForgetsWinners && seventh) {
        coupon.claimed_by.push(user.to_owned());
    }
    let position = coupon.claimed_by.len() - usize::from(manner == Manner::WrongPosition);
    let won = json!({"status": "claimed", "coupon_name": name, "user_id": user, "position": position});
    ((StatusCode::OK, won), third)
}

/// Where a 202 points: still pending when asked for the first time.
async fn outcome(State(shared): State<Arc<Shared>>, Path((name, user)): Path<(String, String)>) -> Response {
    let mut keys = shared.keys.lock().unwrap();
    let asked = keys.insert(format!("asked {name} {user}"), (StatusCode::OK, json!({}))).is_some();
    if asked {
        keys[&format!("{name} {user}")].clone().into_response_json()
    } else {
        Json(json!({"status": "pending", "user_id": user})).into_response()
    }
}

trait IntoResponseJson {
    fn into_response_json(self) -> Response;
}

impl IntoResponseJson for (StatusCode, Value) {
    fn into_response_json(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}
