//! Every SQL statement of the API.

use std::collections::HashMap;
use std::time::Duration;

use common::ids::{CouponName, UserId};
use common::partition::PartitionId;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{FromRow, Result};
use uuid::Uuid;

/// Asks Postgres within `limit`, over a connection of the pool. A connection that did not answer in time is closed:
/// back in the pool, it would make its next user wait.
///
/// # Errors
/// [`sqlx::Error::PoolTimedOut`] when there is no connection or no answer in time; else what
/// Postgres said.
pub async fn ask<T>(
    pool: &PgPool,
    limit: Duration,
    question: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    let acquired = tokio::time::timeout_at(deadline, pool.acquire()).await;
    let mut connection = acquired.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    let answer = tokio::time::timeout_at(deadline, question(&mut connection)).await;
    answer.unwrap_or_else(|_| {
        connection.close_on_drop();
        Err(sqlx::Error::PoolTimedOut)
    })
}

/// Creates a coupon. Returns false if one of that name exists.
///
/// # Errors
/// When the database does not answer.
pub async fn create_coupon(connection: &mut PgConnection, name: &CouponName, amount: i32) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO coupons (name, amount, remaining_amount) VALUES ($1, $2, $2)
         ON CONFLICT ON CONSTRAINT coupons_pkey DO NOTHING",
    )
    .bind(name.as_str())
    .bind(amount)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A coupon and the position of its last winner, of one moment.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct Coupon {
    /// How many there were.
    pub amount: i32,
    /// How many are left.
    pub remaining_amount: i32,
    /// Winners up to this position belong to this moment.
    pub last_position: i64,
}

/// Reads a coupon.
///
/// # Errors
/// When the database does not answer.
pub async fn coupon(connection: &mut PgConnection, name: &CouponName) -> Result<Option<Coupon>> {
    sqlx::query_as(
        "SELECT amount, remaining_amount,
                coalesce((SELECT position FROM claims WHERE coupon_name = name
                          ORDER BY position DESC LIMIT 1), 0) AS last_position
         FROM coupons WHERE name = $1",
    )
    .bind(name.as_str())
    .fetch_optional(connection)
    .await
}

/// Winners of a coupon that are read at once at most.
pub const PAGE_WINNERS_MAX: usize = 1_000;

/// Some winners of a coupon, in their order.
#[derive(Debug, Default)]
pub struct WinnersPage {
    /// The users.
    pub user_ids: Vec<String>,
    /// The position after which the next page begins, if there may be one.
    pub next: Option<i64>,
}

/// Reads the next `count` winners of a coupon, those with positions beyond `after` up to `up_to`. One row of a
/// list is half the work of a list of rows. The list has the order of the rows below it, as Postgres does not
/// flatten a query with a limit.
///
/// # Errors
/// When the database does not answer.
pub async fn winners(
    connection: &mut PgConnection,
    name: &CouponName,
    after: i64,
    up_to: i64,
    count: usize,
) -> Result<WinnersPage> {
    let page: Option<(Vec<String>, i64)> = sqlx::query_as(
        "SELECT array_agg(user_id), max(position) FROM (
             SELECT user_id, position FROM claims
             WHERE coupon_name = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $4
         ) AS page
         HAVING count(*) > 0",
    )
    .bind(name.as_str())
    .bind(after)
    .bind(up_to)
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_optional(connection)
    .await?;
    let Some((user_ids, last_position)) = page else { return Ok(WinnersPage::default()) };
    let is_full = user_ids.len() == count;
    Ok(WinnersPage { user_ids, next: is_full.then_some(last_position) })
}

/// The version of a sold-out coupon: no claim has won, and nobody has touched its row, while it
/// stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CouponVersion {
    /// Postgres' own version of the row: the transaction that wrote it.
    pub transaction: i64,
    /// The position of the coupon's last winner.
    pub last_position: i64,
}

/// Reads the versions of those of the named coupons that are sold out.
///
/// # Errors
/// When the database does not answer.
pub async fn versions(
    connection: &mut PgConnection,
    names: &[&CouponName],
) -> Result<HashMap<String, CouponVersion>> {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT coupon.name, coupon.transaction, coalesce(coupon.last_position, 0)
         FROM unnest($1::text[]) AS asked (name)
         CROSS JOIN LATERAL (
             SELECT name, xmin::text::bigint AS transaction,
                    (SELECT position FROM claims WHERE coupon_name = coupons.name
                     ORDER BY position DESC LIMIT 1) AS last_position
             FROM coupons WHERE coupons.name = asked.name AND remaining_amount = 0 LIMIT 1
         ) AS coupon",
    )
    .bind(&names)
    .fetch_all(connection)
    .await?;
    let version = |(name, transaction, last_position)| (name, CouponVersion { transaction, last_position });
    Ok(rows.into_iter().map(version).collect())
}

/// What one snapshot says of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimState {
    /// The user's claim on the coupon, whoever made it: its id and position.
    pub claim: Option<(Uuid, i64)>,
    /// What is left of the coupon, if it exists.
    pub remaining_amount: Option<i32>,
    /// The generation of the partition's stream.
    pub generation: i64,
    /// How far its messages have been applied.
    pub last_seq: i64,
}

#[derive(FromRow)]
struct ClaimStateRow {
    place: i64,
    claim_id: Option<Uuid>,
    position: Option<i64>,
    remaining_amount: Option<i32>,
    generation: i64,
    last_seq: i64,
}

/// Reads the state of claims of one partition, all of one snapshot, in the order of `pairs`.
///
/// # Errors
/// When the database does not answer.
pub async fn claim_states(
    connection: &mut PgConnection,
    partition: PartitionId,
    pairs: &[(&CouponName, &UserId)],
) -> Result<Vec<ClaimState>> {
    let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    let users: Vec<&str> = pairs.iter().map(|(_, user)| user.as_str()).collect();
    // "The first row from this pair on": only the index that finds a user at once can tell.
    let rows: Vec<ClaimStateRow> = sqlx::query_as(
        "SELECT pair.place, claim.claim_id, claim.position, coupon.remaining_amount,
                partitions.generation, partitions.last_seq
         FROM partitions
         CROSS JOIN unnest($2::text[], $3::text[]) WITH ORDINALITY AS pair (coupon_name, user_id, place)
         LEFT JOIN LATERAL (
             SELECT remaining_amount FROM coupons WHERE coupons.name = pair.coupon_name LIMIT 1
         ) AS coupon ON true
         LEFT JOIN LATERAL (
             SELECT next.claim_id, next.position FROM (
                 SELECT coupon_name, user_id, claim_id, position FROM claims
                 WHERE (claims.coupon_name, claims.user_id) >= (pair.coupon_name, pair.user_id)
                 ORDER BY claims.coupon_name, claims.user_id LIMIT 1
             ) AS next WHERE next.coupon_name = pair.coupon_name AND next.user_id = pair.user_id
         ) AS claim ON true
         WHERE partitions.id = $1
         ORDER BY pair.place",
    )
    .bind(partition.as_i32())
    .bind(&names)
    .bind(&users)
    .fetch_all(connection)
    .await?;
    debug_assert!(rows.iter().zip(1_i64..).all(|(row, place)| row.place == place));
    if rows.len() != pairs.len() {
        return Err(sqlx::Error::RowNotFound);
    }
    Ok(rows
        .into_iter()
        .map(|row| ClaimState {
            claim: row.claim_id.zip(row.position),
            remaining_amount: row.remaining_amount,
            generation: row.generation,
            last_seq: row.last_seq,
        })
        .collect())
}

/// Reads every partition's generation and cursor, in the order of their numbers.
///
/// # Errors
/// When the database does not answer.
pub async fn cursors(connection: &mut PgConnection) -> Result<Vec<(i64, i64)>> {
    sqlx::query_as("SELECT generation, last_seq FROM partitions ORDER BY id").fetch_all(connection).await
}
