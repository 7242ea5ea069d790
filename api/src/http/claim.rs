//! `POST /api/coupons/claim`, and what became of it.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderMap, StatusCode};
use common::ids::{ClaimId, CouponName, IdempotencyKey, UserId};
use common::message::{Claim, Outcome};
use common::partition::PartitionId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::json::{self, Type, invalid};
use super::problem::Problem;
use super::reply::HttpReply;
use super::state::{SharedState, State};
use crate::claims::answer::{Answer, Unavailable};
use crate::claims::receipt::{ClaimReceipt, Verdict, judge};
use crate::store;

/// Names a claim, so that the request can be repeated.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(Deserialize)]
struct ClaimBody<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    coupon_name: Cow<'a, str>,
}

/// A claim, as clients see it.
#[derive(Serialize)]
struct ClaimView<'a> {
    status: &'a str,
    claim_id: Uuid,
    coupon_name: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<i64>,
}

/// Room for a [`ClaimView`] beside its names, if none of their characters needs an escape.
const VIEW_BYTES: usize = 140;

/// [`answer`] as a route: requests reach `answer` before the router, which only needs to know the path's methods.
pub(super) async fn claim(state: SharedState, headers: HeaderMap, body: Bytes) -> Result<HttpReply, Problem> {
    answer(&state, headers, body).await
}

/// `POST /api/coupons/claim`
pub(super) async fn answer(state: &State, headers: HeaderMap, body: Bytes) -> Result<HttpReply, Problem> {
    json::check(&headers)?;
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = keys.next().map(|key| idempotency_key(key.as_bytes())).transpose()?;
    if keys.next().is_some() {
        // A server on the way may have looked at the other one.
        return Err(invalid("Idempotency-Key", "must stand only once"));
    }
    let claim = Arc::new(parse(&body, key)?);
    // Freed before the wait, which may be long, and by the thread that made them, which is cheap.
    drop((headers, body));
    match state.dispatcher.claim(&claim).await {
        Answer::Outcome(outcome) => decided(&claim, outcome),
        Answer::Pending(receipt) => Ok(pending(&claim, &ClaimReceipt::new(claim.claim_id, receipt))),
        Answer::Unavailable(reason) => Err(reason.into()),
    }
}

fn idempotency_key(header: &[u8]) -> Result<IdempotencyKey<'_>, Problem> {
    let text = std::str::from_utf8(header).map_err(|_| invalid("Idempotency-Key", "must be UTF-8"))?;
    IdempotencyKey::new(text).map_err(|rule| invalid("Idempotency-Key", rule))
}

fn parse(body: &[u8], key: Option<IdempotencyKey<'_>>) -> Result<Claim, Problem> {
    let fields = [("user_id", Type::Text), ("coupon_name", Type::Text)];
    let body: ClaimBody<'_> = json::parse(body, &fields)?;
    let user_id = UserId::new(&body.user_id).map_err(|rule| invalid("user_id", rule))?;
    let coupon_name = CouponName::new(&body.coupon_name).map_err(|rule| invalid("coupon_name", rule))?;
    let claim_id = match key {
        Some(key) => ClaimId::from_key(key, &user_id, &coupon_name),
        None => ClaimId::random(),
    };
    Ok(Claim { claim_id, user_id, coupon_name })
}

fn decided(claim: &Claim, outcome: Outcome) -> Result<HttpReply, Problem> {
    match outcome {
        Outcome::Claimed { position } => Ok(claimed(claim, position)),
        Outcome::AlreadyClaimed => Err(Problem::AlreadyClaimed),
        Outcome::SoldOut => Err(Problem::SoldOut),
        Outcome::CouponNotFound => Err(Problem::CouponNotFound),
        Outcome::Unsupported => Err(Unavailable::VersionMismatch.into()),
        // The worker has logged why.
        Outcome::Rejected => Err(Problem::Internal),
    }
}

fn claimed(claim: &Claim, position: i64) -> HttpReply {
    HttpReply::json(StatusCode::OK, view_of(claim, "claimed", Some(position)))
}

fn pending(claim: &Claim, receipt: &ClaimReceipt) -> HttpReply {
    let location = receipt.location(&claim.coupon_name, &claim.user_id);
    let body = view_of(claim, "pending", None);
    HttpReply { location: Some(location), retry: true, ..HttpReply::json(StatusCode::ACCEPTED, body) }
}

fn view_of(claim: &Claim, status: &str, position: Option<i64>) -> Vec<u8> {
    let (coupon_name, user_id) = (claim.coupon_name.as_str(), claim.user_id.as_str());
    let view = ClaimView { status, claim_id: claim.claim_id.as_uuid(), coupon_name, user_id, position };
    let mut body = Vec::with_capacity(VIEW_BYTES + coupon_name.len() + user_id.len());
    serde_json::to_writer(&mut body, &view).expect("a claim is plain JSON");
    body
}

/// `GET /api/coupons/{name}/claims/{user_id}`: a user's claim or, with the query of a 202's
/// `Location`, what became of that claim.
pub(super) async fn view(
    state: SharedState,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<HttpReply, Problem> {
    let Path((name, user_id)) = path.map_err(|_| Problem::InvalidRequest("the path is not UTF-8".into()))?;
    let coupon_name = CouponName::new(&name).map_err(|rule| invalid("name", rule))?;
    let user_id = UserId::new(&user_id).map_err(|rule| invalid("user_id", rule))?;
    let receipt = receipt(&request)?;
    let partition = PartitionId::of(&coupon_name, state.partitions);
    if receipt.is_some_and(|receipt| receipt.partition != partition.number()) {
        return Err(invalid("partition", "is not the partition of this coupon"));
    }
    let pair = [(&coupon_name, &user_id)];
    let states =
        state.ask(async |connection| store::claim_states(connection, partition, &pair).await).await?;
    let found = *states.first().ok_or(Problem::Internal)?;
    let Some(receipt) = receipt else {
        return match (found.claim, found.remaining_amount) {
            (Some((claim_id, position)), _) => {
                let claim = Claim { claim_id: claim_id.into(), user_id, coupon_name };
                Ok(claimed(&claim, position))
            }
            (None, None) => Err(Problem::CouponNotFound),
            (None, Some(_)) => Err(Problem::ClaimNotFound),
        };
    };
    let claim = Claim { claim_id: receipt.claim_id.into(), user_id, coupon_name };
    match judge(claim.claim_id, Some(receipt.receipt()), &found) {
        Verdict::Known(outcome) => decided(&claim, outcome),
        Verdict::Queued => Ok(pending(&claim, &receipt)),
        Verdict::Unproven => Err(Unavailable::OutcomeUnknown.into()),
    }
}

fn receipt(request: &Request) -> Result<Option<ClaimReceipt>, Problem> {
    // Other queries, of whatever stands between us and the client, mean nothing here.
    if request.uri().query().is_none_or(|query| !query.contains("claim_id=")) {
        return Ok(None);
    }
    let query: Result<Query<ClaimReceipt>, QueryRejection> = Query::try_from_uri(request.uri());
    match query {
        Ok(Query(receipt)) => Ok(Some(receipt)),
        Err(_) => Err(Problem::InvalidRequest(
            "the query must be that of a Location: claim_id, partition, generation and sequence".into(),
        )),
    }
}
