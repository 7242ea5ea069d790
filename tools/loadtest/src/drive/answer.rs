//! What an answer to a claim means.

use std::borrow::Cow;

use client::{Bytes, Response};
use serde::Deserialize;

/// The meaning of an answer, by the API's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
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

/// The status of an answer, and what of its body matters.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    body: Body<'a>,
}

/// A body that is not JSON has none of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body<'a> {
    /// A claim's is a word, a problem's a number.
    status: serde_json::Value,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    position: Option<u64>,
    #[serde(borrow)]
    code: Cow<'a, str>,
}

impl<'a> Answer<'a> {
    pub(super) fn read(response: &'a Response<Bytes>) -> Self {
        let body = serde_json::from_slice(response.body()).unwrap_or_default();
        Self { status: response.status().as_u16(), body }
    }

    /// The stable code in an error's body; empty when there is none.
    pub(super) fn code(&self) -> &str {
        if self.status < 400 { "" } else { &self.body.code }
    }

    /// What it means for a claim of `user_id`.
    pub(super) fn meaning(&self, user_id: &str) -> Meaning {
        match (self.status, self.code()) {
            (200 | 201, _) if self.body.status == "pending" => Meaning::Pending,
            // A win that names somebody else is none.
            (200 | 201, _) if self.body.user_id == user_id => {
                Meaning::Won { position: self.body.position.and_then(|position| position.try_into().ok()) }
            }
            (202, _) => Meaning::Pending,
            (409, "already_claimed" | "") => Meaning::AlreadyClaimed,
            (400, "sold_out" | "") => Meaning::SoldOut,
            (503 | 429, _) => Meaning::TryAgain,
            _ => Meaning::Unexpected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(status: u16, body: &'static str) -> Meaning {
        let response = Response::builder().status(status).body(Bytes::from(body)).unwrap();
        Answer::read(&response).meaning("user-7")
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
