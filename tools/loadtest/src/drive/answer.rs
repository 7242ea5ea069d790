//! What an answer to a claim means.

use memchr::memchr;
use memchr::memmem::Finder;

use crate::http::Response;

/// The meaning of an answer, by the API's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The user has the coupon; the claim's number in it, when the answer tells.
    Won {
        /// 1 for the first claim of the coupon.
        position: Option<u32>,
    },
    /// The user has had the coupon before.
    AlreadyClaimed,
    /// The coupon is gone.
    SoldOut,
    /// The outcome is not known yet.
    Pending,
    /// The server could not take the request now.
    TryAgain,
    /// Nothing that a claim in good order is answered with.
    Unexpected,
}

/// Reads answers. The fields are found by their quoted names rather than by parsing the JSON: the bodies are small,
/// and of every field looked for here there is only one. The searches are prepared once.
#[derive(Debug)]
pub struct Reader {
    status: Finder<'static>,
    user_id: Finder<'static>,
    position: Finder<'static>,
    code: Finder<'static>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            status: Finder::new("\"status\""),
            user_id: Finder::new("\"user_id\""),
            position: Finder::new("\"position\""),
            code: Finder::new("\"code\""),
        }
    }
}

impl Reader {
    /// Tells what `response`, with the error code `code`, means for a claim of `user_id`.
    #[must_use]
    pub fn meaning(&self, response: &Response<'_>, code: &[u8], user_id: &[u8]) -> Meaning {
        let body = response.body;
        match (response.status, code) {
            (200 | 201, _) if text(&self.status, body) == Some(b"pending") => Meaning::Pending,
            // A win that names somebody else is none.
            (200 | 201, _) if text(&self.user_id, body) == Some(user_id) => {
                Meaning::Won { position: number(&self.position, body) }
            }
            (202, _) => Meaning::Pending,
            (409, b"already_claimed" | b"") => Meaning::AlreadyClaimed,
            (400, b"sold_out" | b"") => Meaning::SoldOut,
            (503 | 429, _) => Meaning::TryAgain,
            _ => Meaning::Unexpected,
        }
    }

    /// The stable code in an error's body; empty when there is none.
    #[must_use]
    pub fn code<'a>(&self, response: &Response<'a>) -> &'a [u8] {
        match response.status {
            200..400 => b"",
            _ => text(&self.code, response.body).unwrap_or_default(),
        }
    }
}

/// The value of a field with a plain string.
fn text<'a>(name: &Finder<'_>, body: &'a [u8]) -> Option<&'a [u8]> {
    let text = value(name, body)?.strip_prefix(b"\"")?;
    memchr(b'"', text).map(|end| &text[..end])
}

/// The value of a field with a whole number.
fn number(name: &Finder<'_>, body: &[u8]) -> Option<u32> {
    let digits = value(name, body)?.iter().take_while(|byte| byte.is_ascii_digit());
    let mut number = None;
    for digit in digits {
        number = Some(number.unwrap_or(0u32).checked_mul(10)?.checked_add(u32::from(digit - b'0'))?);
    }
    number
}

fn value<'a>(name: &Finder<'_>, body: &'a [u8]) -> Option<&'a [u8]> {
    let at = name.find(body)? + name.needle().len();
    Some(body[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(status: u16, body: &str) -> Meaning {
        let body = body.as_bytes();
        let response = Response { status, body, close: false, retry_after_s: None, location: None };
        let reader = Reader::default();
        reader.meaning(&response, reader.code(&response), b"user-7")
    }

    #[test]
    fn answers_are_told_apart() {
        let won =
            r#"{"status":"claimed","claim_id":"x","coupon_name":"c","user_id":"user-7","position": 12}"#;
        assert_eq!(means(200, won), Meaning::Won { position: Some(12) });
        assert_eq!(means(200, r#"{"user_id":"user-7"}"#), Meaning::Won { position: None });
        assert_eq!(means(200, r#"{"user_id":"user-8","position":1}"#), Meaning::Unexpected);
        assert_eq!(
            means(200, r#"{"user_id":"user-7","position":99999999999}"#),
            Meaning::Won { position: None }
        );
        assert_eq!(means(200, r#"{"status": "pending","user_id":"user-7"}"#), Meaning::Pending);
        assert_eq!(means(202, ""), Meaning::Pending);
        assert_eq!(means(409, r#"{"code":"already_claimed"}"#), Meaning::AlreadyClaimed);
        assert_eq!(means(409, r#"{"code":"coupon_exists"}"#), Meaning::Unexpected);
        assert_eq!(means(400, r#"{"status":400,"code" : "sold_out"}"#), Meaning::SoldOut);
        assert_eq!(means(400, r#"{"code":"invalid_request"}"#), Meaning::Unexpected);
        assert_eq!(means(400, "sold out"), Meaning::SoldOut);
        assert_eq!(means(503, ""), Meaning::TryAgain);
        assert_eq!(means(500, ""), Meaning::Unexpected);
    }
}
