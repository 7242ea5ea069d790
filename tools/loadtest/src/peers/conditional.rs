//! The better usual design: the stock is taken by a conditional `UPDATE`, without a look first, and the primary key
//! turns repeated claims away.
//!
//! All of it is one statement, and so one round trip: the row lock is held only while the commit is written.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use sqlx::PgPool;
use uuid::Uuid;

use super::contract::{Claimed, NewClaim, Refusal};
use super::store;

/// The API on this database.
pub fn conditional(pool: PgPool) -> Router {
    Router::new()
        .route("/api/coupons", post(store::create))
        .route("/api/coupons/claim", post(claim))
        .route("/api/coupons/{name}", get(store::view))
        .with_state(pool)
}

/// Two claims of one user at once both pass the look-up; the second then fails on the primary key, which takes its
/// `UPDATE` back with it.
const CLAIM: &str = "
    WITH earlier AS (
        SELECT FROM claims WHERE coupon_name = $1 AND user_id = $2
    ), taken AS (
        UPDATE coupons SET remaining_amount = remaining_amount - 1
        WHERE name = $1 AND remaining_amount > 0 AND NOT EXISTS (SELECT FROM earlier)
        RETURNING amount - remaining_amount AS position
    ), won AS (
        INSERT INTO claims (coupon_name, user_id, claim_id, position)
        SELECT $1, $2, $3::uuid, position FROM taken
        RETURNING position
    )
    SELECT (SELECT position FROM won),
           EXISTS (SELECT FROM earlier),
           EXISTS (SELECT FROM coupons WHERE name = $1)";

async fn claim(State(pool): State<PgPool>, Json(claim): Json<NewClaim>) -> Result<Json<Claimed>, Refusal> {
    let claim_id = Uuid::new_v4();
    let outcome: Result<(Option<i32>, bool, bool), sqlx::Error> = sqlx::query_as(CLAIM)
        .bind(&claim.coupon_name)
        .bind(&claim.user_id)
        .bind(claim_id)
        .fetch_one(&pool)
        .await;
    match outcome {
        Ok((Some(position), ..)) => Ok(Json(Claimed::new(claim, claim_id, position))),
        Ok((None, true, _)) => Err(Refusal::AlreadyClaimed),
        Ok((None, false, true)) => Err(Refusal::SoldOut),
        Ok((None, false, false)) => Err(Refusal::CouponNotFound),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Err(Refusal::AlreadyClaimed),
        Err(error) => Err(error.into()),
    }
}
