//! What the two peers with a database share: the tables, and all that is not a claim.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::contract::{CouponView, NewCoupon, Refusal};

/// Sessions of a peer unless told otherwise.
pub const SESSIONS_DEFAULT: u32 = 20;

/// The same tables for both. `position` is written with the claim, as the answer tells it.
const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS coupons (
        name text PRIMARY KEY,
        amount integer NOT NULL CHECK (amount > 0),
        remaining_amount integer NOT NULL CHECK (remaining_amount >= 0)
    )",
    "CREATE TABLE IF NOT EXISTS claims (
        coupon_name text NOT NULL REFERENCES coupons (name),
        user_id text NOT NULL,
        claim_id uuid NOT NULL,
        position integer NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (coupon_name, user_id)
    )",
];

/// Opens a pool of `sessions` and makes the tables.
///
/// # Errors
/// When the database cannot be reached or refuses.
pub async fn connect(database_url: &str, sessions: u32) -> sqlx::Result<PgPool> {
    let pool = PgPoolOptions::new()
        .min_connections(sessions)
        .max_connections(sessions)
        // A ping before every use would cost a round trip per claim.
        .test_before_acquire(false)
        .connect(database_url)
        .await?;
    for table in TABLES {
        sqlx::query(table).execute(&pool).await?;
    }
    Ok(pool)
}

pub(super) async fn create(
    State(pool): State<PgPool>,
    Json(coupon): Json<NewCoupon>,
) -> Result<StatusCode, Refusal> {
    let made = sqlx::query(
        "INSERT INTO coupons (name, amount, remaining_amount) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING",
    )
    .bind(coupon.name)
    .bind(coupon.amount)
    .execute(&pool)
    .await?;
    if made.rows_affected() == 0 { Err(Refusal::CouponExists) } else { Ok(StatusCode::CREATED) }
}

pub(super) async fn view(
    State(pool): State<PgPool>,
    Path(name): Path<String>,
) -> Result<Json<CouponView>, Refusal> {
    // One statement, so that the stock and the claims are of the same moment.
    let (amount, remaining_amount, claimed_by) = sqlx::query_as(
        "SELECT amount, remaining_amount,
                ARRAY(SELECT user_id FROM claims WHERE coupon_name = name ORDER BY position)
         FROM coupons WHERE name = $1",
    )
    .bind(&name)
    .fetch_optional(&pool)
    .await?
    .ok_or(Refusal::CouponNotFound)?;
    Ok(Json(CouponView { name, amount, remaining_amount, claimed_by }))
}
