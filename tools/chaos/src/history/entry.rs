//! One line of a history.

use serde::{Deserialize, Serialize};

use crate::state::FinalState;

/// One line of a history file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Entry {
    /// A request and how it ended.
    Op(Box<Op>),
    /// Something that happened to the system.
    Event(Event),
    /// What a round left behind, once all was healed and every client had its outcome.
    State(Box<FinalState>),
}

/// The number of a request, unique within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// One HTTP request: what was asked, when, and what came back.
///
/// Times are microseconds of one monotonic clock since the run began, so that "ended before the other
/// started" is a plain comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// The number of this request.
    pub id: OpId,
    /// The first request of the chain of attempts that this one belongs to; its own number if it is the first.
    pub root: OpId,
    /// The request that this one directly follows: repeated after a failure, or asked about by its receipt.
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
    /// The idempotency key that was sent along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The stock asked for, for a creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<u64>,
    /// Whether the client goes on asking until it has a definite outcome. The checker demands one of such
    /// chains; of others it only demands that what was said is true.
    pub settles: bool,
    /// When the first byte was about to be sent.
    pub start_us: u64,
    /// When the answer was whole, or the client gave up.
    pub end_us: u64,
    /// What came back.
    pub answer: Answer,
}

/// The kinds of requests a client makes.
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
    /// A whole response came back.
    Response(Response),
    /// None did, so that the outcome is unknown.
    Failed {
        /// The way it failed.
        how: Failure,
        /// The words of the operating system or the HTTP client.
        detail: String,
    },
}

/// Ways to end without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No connection came about: the request was certainly never seen.
    NotConnected,
    /// The connection broke after the request may have been sent.
    Broken,
    /// The client stopped waiting.
    TimedOut,
    /// A response came that is not one this API may give.
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

/// Something that happened to the system, with its time on the clock of the requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub happening: Happening,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// A round starts.
    RoundBegin {
        /// Its number, from 1.
        round: u32,
        /// The seed of the whole run.
        seed: u64,
    },
    /// All faults of the round are over and every process runs again.
    RoundHealed {
        /// Its number.
        round: u32,
    },
    /// Every client has its outcome; the final state follows.
    RoundEnd {
        /// Its number.
        round: u32,
    },
    /// A fault strikes.
    FaultBegin {
        /// Its name.
        fault: String,
        /// What it strikes.
        target: String,
    },
    /// A fault is over.
    FaultEnd {
        /// Its name.
        fault: String,
        /// What it struck.
        target: String,
        /// How often it hit something in flight.
        hits: u64,
    },
    /// Claims were put into the queue past the API.
    Injected {
        /// The claims, in their order.
        claims: Vec<Claim>,
        /// Whether they are copies of claims that clients had sent, and so ask for nothing new.
        copies: bool,
    },
    /// A claim is about to be written into the database by hand.
    ByHand {
        /// The coupon.
        coupon: String,
        /// The user.
        user: String,
    },
}

/// A claim as it stands in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Its id.
    pub claim_id: String,
    /// The coupon.
    pub coupon: String,
    /// The user.
    pub user: String,
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
    /// 400: all stock has gone.
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
        matches!(
            self,
            Self::Created
                | Self::Exists
                | Self::Won
                | Self::AlreadyClaimed
                | Self::SoldOut
                | Self::NoCoupon
                | Self::Seen
        )
    }

    /// Whether a claim with this answer certainly did not take a coupon.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::AlreadyClaimed | Self::SoldOut | Self::NoCoupon)
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
        let response = match &self.answer {
            Answer::Response(response) => response,
            Answer::Failed { how: Failure::Garbled, .. } => return Verdict::Unexpected,
            Answer::Failed { .. } => return Verdict::Unknown,
        };
        let code = response.code.as_deref().unwrap_or_default();
        match (self.endpoint, response.status, code) {
            (_, 503, _) => Verdict::TryAgain,
            (Endpoint::Create, 201, _) => Verdict::Created,
            (Endpoint::Create, 409, "coupon_exists") => Verdict::Exists,
            (Endpoint::Show, 200, _) => Verdict::Seen,
            (Endpoint::Claim | Endpoint::Lookup, 202, _) | (Endpoint::Lookup, 200, "pending") => {
                Verdict::Pending
            }
            (Endpoint::Claim | Endpoint::Lookup, 200, _) => Verdict::Won,
            (Endpoint::Claim | Endpoint::Lookup, 409, "already_claimed") => Verdict::AlreadyClaimed,
            (Endpoint::Claim | Endpoint::Lookup, 400, "sold_out") => Verdict::SoldOut,
            (Endpoint::Claim | Endpoint::Lookup | Endpoint::Show, 404, "coupon_not_found") => {
                Verdict::NoCoupon
            }
            (Endpoint::Lookup, 404, "claim_not_found") => Verdict::NoClaim,
            _ => Verdict::Unexpected,
        }
    }
}
