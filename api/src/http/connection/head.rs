//! The head of a request, as far as it must be understood to tell where the request ends.

use std::ops::Range;

use httparse::{EMPTY_HEADER, Request, Status};

use super::REQUEST_ID;
use crate::http::body::is_json;
use crate::http::router::{CLAIM_PATH, IDEMPOTENCY_KEY};

/// Headers of a request that is looked at here; hyper takes what has more.
const HEADERS_MAX: usize = 32;

/// What has come of a request so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The head is not complete.
    Partial,
    /// A request whose length is known.
    Plain(Head),
    /// Anything else, be it a mistake or a rarer form of HTTP.
    Other,
}

/// A request whose length its head tells, and after which another one may follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its own length.
    pub(super) bytes: usize,
    /// Its body's.
    pub(super) body_bytes: usize,
    /// Whether the request is a claim, declared as JSON.
    pub(super) is_claim: bool,
    /// Where in the head these headers' values stand.
    pub(super) idempotency_key: Option<Range<usize>>,
    pub(super) request_id: Option<Range<usize>>,
}

impl Head {
    /// The length of the whole request.
    pub(super) fn request_bytes(&self) -> usize {
        self.bytes.saturating_add(self.body_bytes)
    }
}

/// Looks at the beginning of what has come. Whatever is not beyond doubt is [`Parsed::Other`].
pub(super) fn parse(received: &[u8]) -> Parsed {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    let bytes = match request.parse(received) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    // HTTP/1.0 closes connections unless it is told otherwise, and what follows CONNECT need not be HTTP.
    if request.version != Some(1) || request.method == Some("CONNECT") {
        return Parsed::Other;
    }
    let (mut length, mut content_type, mut key, mut id, mut waits) = (None, None, None, None, false);
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let known = match header.name.len() {
            14 if is("content-length") => &mut length,
            12 if is("content-type") => &mut content_type,
            15 if is(IDEMPOTENCY_KEY) => &mut key,
            12 if is(REQUEST_ID) => &mut id,
            10 if is("connection") => {
                if header.value.eq_ignore_ascii_case(b"keep-alive") {
                    continue;
                }
                return Parsed::Other;
            }
            17 if is("transfer-encoding") => return Parsed::Other,
            7 if is("upgrade") => return Parsed::Other,
            6 if is("expect") => {
                waits = true;
                continue;
            }
            _ => continue,
        };
        // Of two, which counts?
        if known.replace(header.value).is_some() {
            return Parsed::Other;
        }
    }
    let Some(body_bytes) = length.map_or(Some(0), number) else { return Parsed::Other };
    let is_claim = (request.method, request.path) == (Some("POST"), Some(CLAIM_PATH));
    let place = |value: &[u8]| {
        let start = value.as_ptr().addr() - received.as_ptr().addr();
        start..start + value.len()
    };
    Parsed::Plain(Head {
        bytes,
        body_bytes,
        is_claim: is_claim && !waits && is_json(content_type),
        idempotency_key: key.map(place),
        request_id: id.map(place),
    })
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<usize> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: &str = "POST /api/coupons/claim HTTP/1.1\r\n";
    const JSON: &str = "Content-Type: application/json\r\n";

    fn plain(request: &str) -> Head {
        match parse(request.as_bytes()) {
            Parsed::Plain(head) => head,
            other => panic!("{request}: {other:?}"),
        }
    }

    #[test]
    fn a_claim_is_known_by_its_head() {
        let request = format!(
            "\r\n{CLAIM}host: x\r\n{JSON}content-LENGTH: 17\r\nidempotency-key: \"k 1\" \r\n\
             X-Request-Id: 7\r\nConnection: Keep-Alive\r\n\r\n{{}}"
        );
        let head = plain(&request);
        assert!(head.is_claim);
        assert_eq!((head.bytes, head.body_bytes), (request.len() - 2, 17));
        assert_eq!(&request[head.idempotency_key.unwrap()], "\"k 1\"");
        assert_eq!(&request[head.request_id.unwrap()], "7");
        // Nothing less than all of it is a head.
        for end in 0..head.bytes {
            assert_eq!(parse(&request.as_bytes()[..end]), Parsed::Partial, "{end}");
        }
    }

    #[test]
    fn other_requests_end_somewhere_too() {
        let requests = [
            ("GET /health HTTP/1.1\r\n\r\n".to_owned(), 0),
            ("GET /api/coupons/claim HTTP/1.1\r\n\r\n".to_owned(), 0),
            (format!("POST /api/coupons HTTP/1.1\r\n{JSON}content-length: 5\r\n\r\n"), 5),
            (format!("{CLAIM}content-type: text/plain\r\ncontent-length: 5\r\n\r\n"), 5),
            (format!("{CLAIM}content-length: 5\r\n\r\n"), 5),
            (format!("{CLAIM}{JSON}content-length: 5\r\nexpect: 100-continue\r\n\r\n"), 5),
            (format!("POST /api/coupons/claim?x HTTP/1.1\r\n{JSON}content-length: 5\r\n\r\n"), 5),
        ];
        for (request, body_bytes) in requests {
            let head = plain(&request);
            assert!(!head.is_claim, "{request}");
            assert_eq!((head.bytes, head.body_bytes), (request.len(), body_bytes), "{request}");
        }
    }

    #[test]
    fn whatever_is_in_doubt_is_left_to_hyper() {
        for headers in [
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "content-length: 5\r\nconnection: close\r\n",
            "content-length: 5\r\nconnection: keep-alive, upgrade\r\n",
            "content-length: 5\r\nupgrade: h2c\r\n",
            "content-length: 5\r\nidempotency-key: a\r\nidempotency-key: b\r\n",
            "content-length : 5\r\n",
            "content-length: 5\r\n folded: 6\r\n",
            "no colon\r\n",
        ] {
            assert_eq!(parse(format!("{CLAIM}{JSON}{headers}\r\n").as_bytes()), Parsed::Other, "{headers}");
        }
        let many = "x: y\r\n".repeat(HEADERS_MAX + 1);
        for request in [
            "POST /api/coupons/claim HTTP/1.0\r\ncontent-length: 5\r\n\r\n",
            "CONNECT x:1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02",
            &format!("{CLAIM}{many}\r\n"),
        ] {
            assert_eq!(parse(request.as_bytes()), Parsed::Other, "{request}");
        }
    }
}
