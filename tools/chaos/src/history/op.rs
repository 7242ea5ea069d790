//! One request of a client, and what its answer means.

use serde::{Deserialize, Serialize};

/// The number of a request, unique within a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// One HTTP request: what was asked, when, and what came back.
///
/// Times are microseconds of one monotonic clock since the round's recording began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// The number of this request.
    pub id: OpId,
    /// The first request of the chain of attempts that this one belongs to; its own number if it is the first.
    pub root: OpId,
    /// The request that this one repeats after a failure, or asks about by its receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<OpId>,
    /// Counts the requests of a chain from 1.
    pub attempt: u32,
    /// The client that sent it; a client has one request under way at a time.
    pub client: u32,
    /// What was asked for.
    pub endpoint: Endpoint,
    /// The coupon.
    pub coupon: String,
    /// The user, where the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The stock asked for, for a creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<u64>,
    /// Whether the client repeats the request until the outcome is definite. The checker demands a definite
    /// outcome of such chains; of others only that what was answered is true.
    pub settles: bool,
    /// When the first byte was about to be sent.
    pub start_us: u64,
    /// When the answer was complete, or the client gave up.
    pub end_us: u64,
    /// What came back.
    pub answer: Answer,
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Creates a coupon.
    Create,
    /// Claims a coupon for a user.
    Claim,
    /// Asks for the outcome of one user's claim, with or without a receipt.
    Lookup,
    /// Asks for a coupon and the users who have it.
    Show,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// A complete response came back.
    Response(Response),
    /// No response: the outcome is unknown.
    Failed {
        /// How it failed.
        how: Failure,
        /// The error text of the operating system or the HTTP client.
        detail: String,
    },
}

/// Ways to end without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// There was no connection: the request was certainly never seen.
    NotConnected,
    /// The connection broke after the request may have been sent.
    Broken,
    /// The client stopped waiting.
    TimedOut,
    /// The response is not one this API may give.
    Garbled,
}

/// The parts of a response that the checker looks at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The stable error code, or the `status` field of a body that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The claim's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<String>,
    /// The coupon that a claim's body names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coupon: Option<String>,
    /// The user that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The claim's number in its coupon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// The `Location` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The `Retry-After` header, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// The body of a coupon that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<CouponView>,
}

/// A coupon as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouponView {
    /// The whole stock.
    pub amount: u64,
    /// What was left of it.
    pub remaining: u64,
    /// The users who had it, in the order of their claims.
    pub claimed_by: Vec<String>,
}

/// What an answer means, whichever request brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// 201: the coupon was created.
    Created,
    /// 409 to a creation: there is one already.
    Exists,
    /// 200: the user has the coupon.
    Won,
    /// 409: the user has it by another request.
    AlreadyClaimed,
    /// 400: no stock is left.
    SoldOut,
    /// 404: no such coupon.
    NoCoupon,
    /// 404 to a look-up: the coupon is there, the user has no claim.
    NoClaim,
    /// 200 to a request for the coupon itself.
    Seen,
    /// 202 or a look-up's "pending": ask again.
    Pending,
    /// 503: the request may or may not have been carried out.
    TryAgain,
    /// No response at all.
    Unknown,
    /// A response outside the contract for a request that was valid.
    Unexpected,
}

impl Verdict {
    /// Whether a client that has this answer need not ask again.
    pub fn is_definite(self) -> bool {
        self.is_refusal() || matches!(self, Self::Created | Self::Exists | Self::Won | Self::Seen)
    }

    /// Whether a claim with this answer certainly did not take a coupon.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::AlreadyClaimed | Self::SoldOut | Self::NoCoupon)
    }

    /// Whether the answer proves that the coupon exists.
    pub(crate) fn proves_coupon(self) -> bool {
        self == Self::NoClaim || (self.is_definite() && self != Self::NoCoupon)
    }
}

impl Op {
    /// The response, if there was one.
    pub fn response(&self) -> Option<&Response> {
        match &self.answer {
            Answer::Response(response) => Some(response),
            Answer::Failed { .. } => None,
        }
    }

    /// What the answer means.
    pub fn verdict(&self) -> Verdict {
        use Endpoint::{Claim, Create, Lookup, Show};
        let response = match &self.answer {
            Answer::Response(response) => response,
            Answer::Failed { how: Failure::Garbled, .. } => return Verdict::Unexpected,
            Answer::Failed { .. } => return Verdict::Unknown,
        };
        match (self.endpoint, response.status, response.code.as_deref().unwrap_or_default()) {
            (_, 503, _) => Verdict::TryAgain,
            (Create, 201, _) => Verdict::Created,
            (Create, 409, "coupon_exists") => Verdict::Exists,
            (Show, 200, _) => Verdict::Seen,
            (Claim | Lookup, 202, _) | (Lookup, 200, "pending") => Verdict::Pending,
            (Claim | Lookup, 200, _) => Verdict::Won,
            (Claim | Lookup, 409, "already_claimed") => Verdict::AlreadyClaimed,
            (Claim | Lookup, 400, "sold_out") => Verdict::SoldOut,
            (Claim | Lookup | Show, 404, "coupon_not_found") => Verdict::NoCoupon,
            (Lookup, 404, "claim_not_found") => Verdict::NoClaim,
            _ => Verdict::Unexpected,
        }
    }
}
