//! The requests of a run.

use client::header::{CONTENT_TYPE, HOST, HeaderValue};
use client::{Bytes, Method, Request, Uri};

use crate::target::Target;

/// Width of the user's number in an id, so that every request of a coupon has the same length.
const USER_DIGITS: usize = 10;
/// Width of the request's serial number in an idempotency key.
const KEY_DIGITS: usize = 16;

/// Makes the requests to one server.
#[derive(Debug)]
pub struct Requests {
    host: HeaderValue,
    claim: Uri,
    /// What stands before every path.
    base: String,
    /// The coupons' names as JSON.
    coupons: Vec<String>,
    user_prefix: String,
    /// Begins every `Idempotency-Key`, if there are any.
    key_prefix: Option<String>,
}

impl Requests {
    /// Prepares the claims of `coupons`. `tag` sets the users of this run apart from those of any other;
    /// with `keyed` every request carries an `Idempotency-Key`.
    ///
    /// # Errors
    /// When the target's host or path are not what HTTP allows.
    pub fn new(target: &Target, coupons: &[String], tag: &str, keyed: bool) -> anyhow::Result<Self> {
        Ok(Self {
            host: HeaderValue::try_from(target.authority())?,
            claim: target.path("/api/coupons/claim").parse()?,
            base: target.path(""),
            coupons: coupons.iter().map(|name| serde_json::Value::from(name.as_str()).to_string()).collect(),
            user_prefix: format!("user-{tag}-"),
            key_prefix: keyed.then(|| format!("{tag}-")),
        })
    }

    /// The claim of the coupon with index `coupon`. Another one needs another `serial`, a repeated one the same.
    pub(super) fn claim(&self, user_id: &str, coupon: u32, serial: u64) -> Request<Bytes> {
        let coupon = &self.coupons[coupon as usize];
        let body = format!("{{\"user_id\":\"{user_id}\",\"coupon_name\":{coupon}}}");
        let mut request = self.request(Method::POST, self.claim.clone(), Bytes::from(body));
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(prefix) = &self.key_prefix
            && let Ok(key) = HeaderValue::try_from(format!("{prefix}{serial:0KEY_DIGITS$}"))
        {
            headers.insert("idempotency-key", key);
        }
        request
    }

    /// Where to ask for a pending claim. `location` is the answer's `Location`: a path, or an address whose path
    /// counts.
    pub(super) fn follow_up_at(&self, location: &str) -> Option<Uri> {
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => location,
        };
        // A server behind a path prefix may or may not know of it.
        let prefix = if path.starts_with(&self.base) { "" } else { &self.base };
        format!("{prefix}{path}").parse().ok()
    }

    /// The question for a pending claim.
    pub(super) fn follow_up(&self, uri: &Uri) -> Request<Bytes> {
        self.request(Method::GET, uri.clone(), Bytes::new())
    }

    fn request(&self, method: Method, uri: Uri, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    /// The id of the user with this index.
    pub fn user_id(&self, user: u32) -> String {
        format!("{}{user:0USER_DIGITS$}", self.user_prefix)
    }

    /// The index in a user id of this run; `None` for any other id.
    pub fn user_of(&self, id: &str) -> Option<u32> {
        let digits = id.strip_prefix(&self.user_prefix)?;
        (digits.len() == USER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse().ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(url: &str, coupons: &[&str]) -> Requests {
        let coupons = coupons.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Requests::new(&url.parse().unwrap(), &coupons, "tag", true).unwrap()
    }

    #[test]
    fn a_claim_is_a_complete_request() {
        let requests = requests("http://localhost:8080", &["one", "\"two\" ☕"]);
        let claim = requests.claim(&requests.user_id(42), 1, 1234);
        assert_eq!((claim.method(), claim.uri().path()), (&Method::POST, "/api/coupons/claim"));
        assert_eq!(claim.headers()["host"], "localhost:8080");
        assert_eq!(claim.headers()["idempotency-key"], "tag-0000000000001234");
        assert_eq!(claim.headers()["content-type"], "application/json");
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(claim.body()).unwrap(),
            serde_json::json!({"user_id": "user-tag-0000000042", "coupon_name": "\"two\" ☕"})
        );
    }

    #[test]
    fn user_ids_are_read_back() {
        let requests = requests("http://localhost:8080", &[]);
        assert_eq!(requests.user_of(&requests.user_id(4_000_000_000)), Some(4_000_000_000));
        for foreign in ["alice", "user-tag-42", "user-other-0000000042", "user-tag-+000000042"] {
            assert_eq!(requests.user_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_location_may_be_a_path_or_an_address() {
        let requests = requests("http://localhost:8080/front", &[]);
        for location in ["/api/x?p=1", "/front/api/x?p=1", "http://elsewhere/front/api/x?p=1"] {
            let uri = requests.follow_up_at(location).unwrap();
            assert_eq!(requests.follow_up(&uri).uri(), "/front/api/x?p=1", "{location}");
        }
    }
}
