//! The bytes of the requests, made before the run and filled in during it.

use crate::http::Target;

use super::plan::Ask;

/// Width of the user's number in an id, so that every request of a coupon has the same length.
const USER_DIGITS: usize = 10;
/// Width of the request's serial number in an idempotency key.
const KEY_DIGITS: usize = 16;

/// Ready-made requests, one for each coupon; a claim is a copy with the digits filled in.
#[derive(Debug)]
pub struct Requests {
    templates: Vec<Template>,
    user_prefix: String,
    follow_head: String,
    host_header: String,
}

#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    user_at: usize,
    key_at: Option<usize>,
}

impl Requests {
    /// Prepares the claims of `coupons`. `tag` sets the users of this run apart from those of any other;
    /// with `keyed` every request carries an `Idempotency-Key`.
    #[must_use]
    pub fn new(target: &Target, coupons: &[String], tag: &str, keyed: bool) -> Self {
        let user_prefix = format!("user-{tag}-");
        let host_header = format!("Host: {}\r\n", target.authority());
        let key = keyed.then(|| format!("{tag}-{}", "0".repeat(KEY_DIGITS)));
        let mut head = format!("POST {} HTTP/1.1\r\n{host_header}", target.path("/api/coupons/claim"));
        if let Some(key) = &key {
            head.push_str(&format!("Idempotency-Key: {key}\r\n"));
        }
        let key_at = keyed.then(|| head.len() - 2 - KEY_DIGITS);
        head.push_str("Content-Type: application/json\r\nContent-Length: ");
        let templates = coupons.iter().map(|coupon| {
            let opening = format!("{{\"user_id\":\"{user_prefix}");
            let body = format!(
                "{opening}{}\",\"coupon_name\":{}}}",
                "0".repeat(USER_DIGITS),
                serde_json::Value::from(coupon.as_str()),
            );
            let bytes = format!("{head}{}\r\n\r\n{body}", body.len()).into_bytes();
            Template { user_at: bytes.len() - body.len() + opening.len(), bytes, key_at }
        });
        Self { templates: templates.collect(), user_prefix, follow_head: target.path(""), host_header }
    }

    /// Puts the claim `ask` into `out`. Another request needs another `serial`, a repeated one the same.
    pub fn write(&self, out: &mut Vec<u8>, ask: Ask, serial: u64) {
        let template = &self.templates[ask.coupon as usize];
        out.clear();
        out.extend_from_slice(&template.bytes);
        write_digits(&mut out[template.user_at..][..USER_DIGITS], u64::from(ask.user));
        if let Some(at) = template.key_at {
            write_digits(&mut out[at..][..KEY_DIGITS], serial);
        }
    }

    /// Puts the question for a pending claim into `out`. `location` is the answer's `Location`: a path, or
    /// an address whose path counts.
    pub fn write_follow_up(&self, out: &mut Vec<u8>, location: &str) {
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => location,
        };
        // A server behind a path prefix may or may not know of it.
        let prefix = if path.starts_with(&self.follow_head) { "" } else { &self.follow_head };
        out.clear();
        out.extend_from_slice(format!("GET {prefix}{path} HTTP/1.1\r\n{}\r\n", self.host_header).as_bytes());
    }

    /// Puts the id of the user with this index into `out`.
    pub fn write_user(&self, out: &mut Vec<u8>, user: u32) {
        out.clear();
        out.extend_from_slice(self.user_prefix.as_bytes());
        out.resize(self.user_prefix.len() + USER_DIGITS, b'0');
        write_digits(&mut out[self.user_prefix.len()..], u64::from(user));
    }

    /// The id of the user with this index.
    #[must_use]
    pub fn user_id(&self, user: u32) -> String {
        format!("{}{user:0USER_DIGITS$}", self.user_prefix)
    }

    /// The index in a user id of this run; `None` for any other id.
    #[must_use]
    pub fn user_of(&self, id: &str) -> Option<u32> {
        let digits = id.strip_prefix(&self.user_prefix)?;
        (digits.len() == USER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse().ok())
            .flatten()
    }
}

fn write_digits(field: &mut [u8], mut number: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_complete_request() {
        let target: Target = "http://localhost:8080".parse().unwrap();
        let requests = Requests::new(&target, &["one".to_owned(), "\"two\" ☕".to_owned()], "tag", true);
        let mut out = Vec::new();
        requests.write(&mut out, Ask { coupon: 1, user: 42 }, 1234);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(body).unwrap(),
            serde_json::json!({"user_id": "user-tag-0000000042", "coupon_name": "\"two\" ☕"})
        );
        let headers = head.split("\r\n").collect::<Vec<_>>();
        let length = format!("Content-Length: {}", body.len());
        assert_eq!(
            headers,
            [
                "POST /api/coupons/claim HTTP/1.1",
                "Host: localhost:8080",
                "Idempotency-Key: tag-0000000000001234",
                "Content-Type: application/json",
                &length,
            ]
        );
    }

    #[test]
    fn user_ids_are_read_back() {
        let target: Target = "http://localhost:8080".parse().unwrap();
        let requests = Requests::new(&target, &[], "tag", false);
        assert_eq!(requests.user_of(&requests.user_id(4_000_000_000)), Some(4_000_000_000));
        for foreign in ["alice", "user-tag-42", "user-other-0000000042", "user-tag-+000000042"] {
            assert_eq!(requests.user_of(foreign), None, "{foreign}");
        }
        let mut written = Vec::new();
        requests.write_user(&mut written, 17);
        assert_eq!(written, requests.user_id(17).as_bytes());
    }

    #[test]
    fn a_location_may_be_a_path_or_an_address() {
        let target: Target = "http://localhost:8080/front".parse().unwrap();
        let requests = Requests::new(&target, &[], "tag", false);
        let mut out = Vec::new();
        for location in ["/api/x?p=1", "/front/api/x?p=1", "http://elsewhere/front/api/x?p=1"] {
            requests.write_follow_up(&mut out, location);
            let expected = "GET /front/api/x?p=1 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";
            assert_eq!(String::from_utf8_lossy(&out), expected, "{location}");
        }
    }
}
