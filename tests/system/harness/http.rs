//! An HTTP client of one API, and what its answers have to look like.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

/// No answer takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A client of one API.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build().unwrap();
        Self { address, http }
    }

    /// A request that is sent by [`send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, body.to_string()).await
    }

    /// Sends any bytes, declared as JSON.
    pub(crate) async fn post_bytes(&self, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        send(request.body(body.into())).await
    }

    /// Creates a coupon, which must succeed.
    pub(crate) async fn create(&self, name: &str, amount: i32) {
        let reply = self.post("/api/coupons", &json!({ "name": name, "amount": amount })).await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }

    pub(crate) async fn claim(&self, user: &str, coupon: &str) -> Reply {
        self.post("/api/coupons/claim", &json!({ "user_id": user, "coupon_name": coupon })).await
    }

    pub(crate) async fn claim_with_key(&self, user: &str, coupon: &str, key: &str) -> Reply {
        let body = json!({ "user_id": user, "coupon_name": coupon }).to_string();
        let request = self.request(Method::POST, "/api/coupons/claim").body(body);
        let key = HeaderValue::from_bytes(key.as_bytes()).unwrap();
        send(request.header("content-type", "application/json").header("idempotency-key", key)).await
    }

    /// Views a coupon that must exist.
    pub(crate) async fn view(&self, name: &str) -> Value {
        let reply = self.get(&format!("/api/coupons/{}", encoded(name))).await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some("application/json")),
            "{reply:?}"
        );
        reply.json()
    }
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Reply { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

/// A path segment in which nothing but letters and digits stands as it is.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// An answer.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem, of which everything is checked that all problems share.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        let keys: Vec<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "detail", "status", "title", "type"], "{self:?}");
        assert_eq!(problem["status"], self.status, "{self:?}");
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("urn:problem:coupon:{code}"));
        assert!(["title", "detail"].iter().all(|key| !problem[key].as_str().unwrap().is_empty()), "{self:?}");
        let retry_after = self.header("retry-after").map(|seconds| seconds.parse::<u32>().unwrap());
        assert_eq!(retry_after.is_some_and(|seconds| seconds > 0), self.status == 503, "{self:?}");
        assert!(self.headers.contains_key("x-request-id"), "{self:?}");
        code.to_owned()
    }

    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "wanted {status} {code}: {self:?}");
        assert_eq!(self.code(), code, "{self:?}");
    }

    /// Asserts that the user has the coupon now; returns the claim's id and position.
    #[track_caller]
    pub(crate) fn assert_claimed(&self, user: &str, coupon: &str) -> (Uuid, i64) {
        assert_eq!((self.status, self.header("content-type")), (200, Some("application/json")), "{self:?}");
        let claim = self.json();
        let (id, position) = (claim["claim_id"].as_str().unwrap(), claim["position"].as_i64().unwrap());
        assert_eq!(
            claim,
            json!({ "status": "claimed", "claim_id": id, "coupon_name": coupon, "user_id": user,
                    "position": position })
        );
        assert!(position >= 1, "{self:?}");
        (id.parse().unwrap(), position)
    }

    /// Asserts that the claim waits; returns where to ask for it.
    #[track_caller]
    pub(crate) fn assert_pending(&self, user: &str, coupon: &str) -> String {
        assert_eq!((self.status, self.header("content-type")), (202, Some("application/json")), "{self:?}");
        let claim = self.json();
        let id = claim["claim_id"].as_str().unwrap();
        assert_eq!(
            claim,
            json!({ "status": "pending", "claim_id": id, "coupon_name": coupon, "user_id": user })
        );
        assert!(self.header("retry-after").unwrap().parse::<u32>().unwrap() > 0, "{self:?}");
        let location = self.header("location").unwrap();
        let path = format!("/api/coupons/{}/claims/{}?", encoded(coupon), encoded(user));
        // The hyphen, the dot, the underscore and the tilde may stand as they are.
        let plain =
            |text: &str| text.replace("%2D", "-").replace("%2E", ".").replace("%5F", "_").replace("%7E", "~");
        assert!(plain(location).starts_with(&plain(&path)), "{location} {path}");
        assert!(location.contains(&format!("claim_id={id}")), "{location}");
        location.to_owned()
    }
}
