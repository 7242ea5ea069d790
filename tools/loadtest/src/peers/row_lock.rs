//! The usual design: one transaction per claim, which holds the coupon's row lock from the first look to the commit.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use sqlx::PgPool;
use uuid::Uuid;

use super::contract::{Claimed, NewClaim, Refusal};
use super::store;

/// The API on this database.
pub fn row_lock(pool: PgPool) -> Router {
    Router::new()
        .route("/api/coupons", post(store::create))
        .route("/api/coupons/claim", post(claim))
        .route("/api/coupons/{name}", get(store::view))
        .with_state(pool)
}

async fn claim(State(pool): State<PgPool>, Json(claim): Json<NewClaim>) -> Result<Json<Claimed>, Refusal> {
    let mut transaction = pool.begin().await?;
    let (amount, remaining): (i32, i32) =
        sqlx::query_as("SELECT amount, remaining_amount FROM coupons WHERE name = $1 FOR UPDATE")
            .bind(&claim.coupon_name)
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or(Refusal::CouponNotFound)?;
    let claimed: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM claims WHERE coupon_name = $1 AND user_id = $2)")
            .bind(&claim.coupon_name)
            .bind(&claim.user_id)
            .fetch_one(&mut *transaction)
            .await?;
    if claimed {
        return Err(Refusal::AlreadyClaimed);
    }
    if remaining == 0 {
        return Err(Refusal::SoldOut);
    }
    // The lock makes these numbers safe to go on with.
    let (claim_id, position) = (Uuid::new_v4(), amount - remaining + 1);
    sqlx::query("UPDATE coupons SET remaining_amount = remaining_amount - 1 WHERE name = $1")
        .bind(&claim.coupon_name)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("INSERT INTO claims (coupon_name, user_id, claim_id, position) VALUES ($1, $2, $3, $4)")
        .bind(&claim.coupon_name)
        .bind(&claim.user_id)
        .bind(claim_id)
        .bind(position)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Json(Claimed::new(claim, claim_id, position)))
}
