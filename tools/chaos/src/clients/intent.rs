//! What a client wants, and the request that asks for it.

use rand::RngExt;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::http::Request;
use super::plan::Plan;
use crate::history::Endpoint;

/// The share of keys that many claims have in common, and how many different ones there are.
const SHARED_KEY_SHARE: f64 = 0.3;
const SHARED_KEYS: u32 = 4;

#[derive(Debug, Clone)]
pub(super) struct Intent {
    /// The coupon's number in the plan.
    pub(super) coupon: usize,
    pub(super) action: Action,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Create,
    Claim { user: String, key: Option<String>, settles: bool },
    Lookup { user: String },
    Show,
}

impl Intent {
    /// Something new.
    pub(super) fn draw(plan: &Plan, client: u32, fresh: u64, rng: &mut StdRng) -> Self {
        let coupon = plan.pick(rng);
        let action = match rng.random_range(0..100) {
            0..3 => Action::Show,
            3..5 => Action::Lookup { user: format!("user {client}.{}", rng.random_range(0..=fresh)) },
            roll => {
                // Few users for some claims, so that clients also compete for the same user.
                let user = match rng.random_range(0..10) {
                    0 => format!("shared {}", rng.random_range(0..50)),
                    _ => format!("user {client}.{fresh}"),
                };
                let key = (roll < 65).then(|| draw_key(rng));
                let settles = key.is_some() || roll < 85;
                Action::Claim { user, key, settles }
            }
        };
        Self { coupon, action }
    }

    /// The same once more, with the same key or without one.
    pub(super) fn again(mut self, rng: &mut StdRng) -> Self {
        if let Action::Claim { key, settles, .. } = &mut self.action {
            *key = key.take().filter(|_| rng.random_bool(0.6));
            *settles = true;
        }
        self
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match self.action {
            Action::Create => Endpoint::Create,
            Action::Claim { .. } => Endpoint::Claim,
            Action::Lookup { .. } => Endpoint::Lookup,
            Action::Show => Endpoint::Show,
        }
    }

    pub(super) fn user(&self) -> Option<&String> {
        match &self.action {
            Action::Claim { user, .. } | Action::Lookup { user } => Some(user),
            Action::Create | Action::Show => None,
        }
    }

    /// Whether the client repeats the request until there is a definite answer.
    pub(super) fn settles(&self) -> bool {
        matches!(self.action, Action::Create | Action::Claim { settles: true, .. })
    }

    pub(super) fn request(&self, plan: &Plan) -> Request {
        let coupon = &plan.coupons[self.coupon];
        let name = &coupon.name;
        let get = |path| Request { method: "GET", path, key: None, body: None };
        let post = |path: &str, key: Option<String>, body| Request {
            method: "POST",
            path: path.to_owned(),
            key,
            body: Some(body),
        };
        match &self.action {
            Action::Create => {
                let body = serde_json::json!({ "name": name, "amount": coupon.amount });
                post("/api/coupons", None, body)
            }
            Action::Claim { user, key, .. } => {
                let body = serde_json::json!({ "user_id": user, "coupon_name": name });
                post("/api/coupons/claim", key.clone(), body)
            }
            Action::Lookup { user } => {
                get(format!("/api/coupons/{}/claims/{}", encoded(name), encoded(user)))
            }
            Action::Show => get(format!("/api/coupons/{}", encoded(name))),
        }
    }
}

/// Some keys are used by everybody. Together with other users and coupons they are other claims.
fn draw_key(rng: &mut StdRng) -> String {
    if rng.random_bool(SHARED_KEY_SHARE) {
        return format!("key {}", rng.random_range(0..SHARED_KEYS));
    }
    Uuid::from_u128(rng.random()).to_string()
}

/// Percent-encodes all but letters and digits.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
