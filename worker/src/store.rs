//! Every SQL statement of the worker. Functions take the connection; the caller owns the
//! transaction. No statement reaches across partitions, but for those about leases.

use std::time::Duration;

use common::partition::PartitionId;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Result};
use uuid::Uuid;

use crate::rules::{Stock, Taken};

/// Channel on which workers hear of released leases and of new workers.
pub const LEASES_CHANNEL: &str = "coupon_leases";

/// Longest reason kept with a dead letter, in characters.
const REASON_CHARS_MAX: usize = 1_000;

/// Opens a connection for claims.
///
/// The planner is told to probe indexes and nothing else: on tables without statistics it would
/// scan, and keep that plan while the tables grow. A worker that freezes within a transaction loses
/// its locks before its lease ends.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub async fn connect_for_claims(
    options: &PgConnectOptions,
    lease: Duration,
    statement_timeout: Duration,
) -> Result<PgConnection> {
    let below_lease = (lease * 3 / 4).as_millis().to_string();
    let options = options.clone().options([
        ("lock_timeout", below_lease.as_str()),
        ("idle_in_transaction_session_timeout", below_lease.as_str()),
        ("statement_timeout", &statement_timeout.as_millis().to_string()),
        // A claim is answered when it is on disk, whatever the server's default.
        ("synchronous_commit", "on"),
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
    ]);
    options.connect().await
}

/// A partition's row: who owns it, and how far its claims have been applied.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PartitionRow {
    /// Raised with every change of owner.
    pub epoch: i64,
    /// Raised whenever the stream is not the one that was read before.
    pub generation: i64,
    /// When that stream was created, in nanoseconds since 1970.
    pub stream_created_ns: Option<i64>,
    /// Sequence number of the last message applied.
    pub last_seq: i64,
    /// Identity of that message.
    pub last_batch_id: Option<Uuid>,
    /// When NATS stored the latest message applied, in nanoseconds since 1970.
    pub last_time_ns: Option<i64>,
}

/// Reads a partition's row.
///
/// # Errors
/// When the database does not answer.
pub async fn partition(connection: &mut PgConnection, id: PartitionId) -> Result<PartitionRow> {
    sqlx::query_as(
        "SELECT epoch, generation, stream_created_ns, last_seq, last_batch_id, last_time_ns
         FROM partitions WHERE id = $1",
    )
    .bind(id.as_i32())
    .fetch_one(connection)
    .await
}

/// Lets a partition start over from a stream that is not the one it was reading: raises its
/// generation and sets its cursor. Returns false when the partition has moved on meanwhile.
///
/// # Errors
/// When the database does not answer.
pub async fn start_over(
    connection: &mut PgConnection,
    id: PartitionId,
    found: &PartitionRow,
    stream_created_ns: i64,
    last_seq: i64,
    raise_generation: bool,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE partitions SET generation = generation + $5::int, stream_created_ns = $6, last_seq = $7,
                last_batch_id = NULL
         WHERE id = $1 AND epoch = $2 AND generation = $3 AND last_seq = $4",
    )
    .bind(id.as_i32())
    .bind(found.epoch)
    .bind(found.generation)
    .bind(found.last_seq)
    .bind(i32::from(raise_generation))
    .bind(stream_created_ns)
    .bind(last_seq)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What a batch's transaction needs to know to be let through.
#[derive(Debug, Clone, Copy)]
pub struct Fence {
    /// Which partition.
    pub partition: PartitionId,
    /// Under which epoch its worker owns it.
    pub epoch: i64,
    /// Which generation of the stream the batch comes from.
    pub generation: i64,
    /// The cursor before the batch.
    pub last_seq: i64,
    /// The cursor after it.
    pub new_seq: i64,
    /// Identity of the batch's last message.
    pub new_batch_id: Uuid,
    /// When NATS stored it, in nanoseconds since 1970.
    pub new_time_ns: i64,
    /// The lease that the batch extends.
    pub lease: Duration,
}

/// Passes the fence, moves the cursor, and locks the coupons of the batch in the order given, which
/// must be the order of their names. Returns each coupon's stock, `None` for one that does not
/// exist; or nothing at all when another worker owns the partition.
///
/// The lease is extended by the clock's time, not the transaction's start: a batch that waited does
/// not shorten it.
///
/// # Errors
/// When the database does not answer.
pub async fn pass_fence(
    connection: &mut PgConnection,
    fence: &Fence,
    coupon_names: &[&str],
) -> Result<Option<Vec<Option<Stock>>>> {
    // The coupons' subquery names the fence, so that no coupon is locked before it is passed.
    let rows: Vec<(Option<i64>, Option<i32>, Option<i64>)> = sqlx::query_as(
        "WITH fence AS (
             UPDATE partitions
             SET last_seq = $5, last_batch_id = $6, last_time_ns = greatest(last_time_ns, $9),
                 lease_until = clock_timestamp() + $7 * interval '1 millisecond'
             WHERE id = $1 AND epoch = $2 AND generation = $3 AND last_seq = $4
             RETURNING id
         )
         SELECT batch.place, coupon.remaining_amount, coupon.last_position
         FROM fence
         LEFT JOIN unnest($8::text[]) WITH ORDINALITY AS batch (name, place) ON true
         LEFT JOIN LATERAL (
             SELECT remaining_amount,
                    (SELECT max(position) FROM claims WHERE coupon_name = coupons.name) AS last_position
             FROM coupons WHERE name = batch.name AND fence.id IS NOT NULL FOR UPDATE
         ) AS coupon ON true",
    )
    .bind(fence.partition.as_i32())
    .bind(fence.epoch)
    .bind(fence.generation)
    .bind(fence.last_seq)
    .bind(fence.new_seq)
    .bind(fence.new_batch_id)
    .bind(i64::try_from(fence.lease.as_millis()).unwrap_or(i64::MAX))
    .bind(coupon_names)
    .bind(fence.new_time_ns)
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut stocks = vec![None; coupon_names.len()];
    for (place, remaining, last_position) in rows {
        if let (Some(place), Some(remaining)) = (place, remaining) {
            stocks[place_index(place)] = Some(Stock { remaining, last_position: last_position.unwrap_or(0) });
        }
    }
    Ok(Some(stocks))
}

/// Looks up which of the pairs (`coupon_names[n]`, `user_ids[n]`) are taken already.
///
/// # Errors
/// When the database does not answer.
pub async fn taken(
    connection: &mut PgConnection,
    coupon_names: &[&str],
    user_ids: &[&str],
) -> Result<Vec<Option<Taken>>> {
    // LATERAL with LIMIT probes the primary key for each pair; a join or `= ANY` may scan all of a
    // coupon's claims.
    let rows: Vec<(i64, Uuid, i64)> = sqlx::query_as(
        "SELECT batch.place, claim.claim_id, claim.position
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS batch (coupon_name, user_id, place)
         CROSS JOIN LATERAL (
             SELECT claim_id, position FROM claims
             WHERE claims.coupon_name = batch.coupon_name AND claims.user_id = batch.user_id LIMIT 1
         ) AS claim",
    )
    .bind(coupon_names)
    .bind(user_ids)
    .fetch_all(connection)
    .await?;
    let mut taken = vec![None; user_ids.len()];
    for (place, claim_id, position) in rows {
        taken[place_index(place)] = Some(Taken { claim_id: claim_id.into(), position });
    }
    Ok(taken)
}

/// SQL counts from 1.
fn place_index(place: i64) -> usize {
    usize::try_from(place - 1).expect("WITH ORDINALITY counts from 1")
}

/// New winners, as parallel lists.
#[derive(Debug, Default)]
pub struct Winners<'a> {
    /// Coupon of each winner.
    pub coupon_names: Vec<&'a str>,
    /// The winner.
    pub user_ids: Vec<&'a str>,
    /// Its claim.
    pub claim_ids: Vec<Uuid>,
    /// Its position in its coupon.
    pub positions: Vec<i64>,
}

/// Takes what was won off the stocks and writes the winners down.
///
/// # Errors
/// When the database does not answer; [`sqlx::Error::RowNotFound`] when it did not change the rows
/// that it should have.
pub async fn write(connection: &mut PgConnection, sold: &[(&str, i32)], winners: &Winners<'_>) -> Result<()> {
    let (names, counts): (Vec<&str>, Vec<i32>) = sold.iter().copied().unzip();
    let (stocks, claims): (i64, i64) = sqlx::query_as(
        "WITH stock AS (
             UPDATE coupons SET remaining_amount = remaining_amount - sold.count
             FROM unnest($1::text[], $2::int[]) AS sold (name, count)
             WHERE coupons.name = sold.name
             RETURNING 1
         ), claim AS (
             INSERT INTO claims (coupon_name, user_id, claim_id, position)
             SELECT * FROM unnest($3::text[], $4::text[], $5::uuid[], $6::bigint[])
             RETURNING 1
         )
         SELECT (SELECT count(*) FROM stock), (SELECT count(*) FROM claim)",
    )
    .bind(&names)
    .bind(&counts)
    .bind(&winners.coupon_names)
    .bind(&winners.user_ids)
    .bind(&winners.claim_ids)
    .bind(&winners.positions)
    .fetch_one(connection)
    .await?;
    if (stocks, claims) == (names.len() as i64, winners.user_ids.len() as i64) {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}

/// Keeps a message that could not be understood.
///
/// # Errors
/// When the database does not answer.
pub async fn bury(
    connection: &mut PgConnection,
    fence: &Fence,
    sequence: i64,
    reason: &str,
    payload: &[u8],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO dead_letters (partition, generation, sequence, reason, payload) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT ON CONSTRAINT dead_letters_message_key DO NOTHING",
    )
    .bind(fence.partition.as_i32())
    .bind(fence.generation)
    .bind(sequence)
    .bind(storable(reason))
    .bind(payload)
    .execute(connection)
    .await?;
    Ok(())
}

/// A reason may quote the message: Postgres takes no U+0000, and nobody reads thousands of characters.
fn storable(reason: &str) -> String {
    reason
        .chars()
        .take(REASON_CHARS_MAX)
        .map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// A partition as the leases show it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    /// The partition's number.
    pub id: i32,
    /// Who owns it.
    pub owner: Option<Uuid>,
    /// Under which epoch.
    pub epoch: i64,
    /// Whether anyone may take it.
    pub free: bool,
}

/// Says that a worker lives for another lease time and renews the leases of `running`, its
/// partitions. Rows that a batch has locked are passed over: the batch extends them itself.
///
/// # Errors
/// When the database does not answer.
pub async fn heartbeat(
    connection: &mut PgConnection,
    worker: Uuid,
    running: &[i32],
    lease: Duration,
) -> Result<()> {
    sqlx::query(
        "WITH alive AS (
             INSERT INTO workers (id, alive_until) VALUES ($1, clock_timestamp() + $3 * interval '1 millisecond')
             ON CONFLICT ON CONSTRAINT workers_pkey DO UPDATE SET alive_until = EXCLUDED.alive_until
         ), gone AS (
             DELETE FROM workers WHERE alive_until < clock_timestamp() - interval '1 minute'
         )
         UPDATE partitions SET lease_until = clock_timestamp() + $3 * interval '1 millisecond'
         WHERE id IN (
             SELECT id FROM partitions WHERE owner = $1 AND id = ANY($2) FOR UPDATE SKIP LOCKED
         )",
    )
    .bind(worker)
    .bind(running)
    .bind(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

/// Who lives, in the order in which they share the partitions, and all leases.
///
/// # Errors
/// When the database does not answer.
pub async fn leases(connection: &mut PgConnection) -> Result<(Vec<Uuid>, Vec<Lease>)> {
    let workers = sqlx::query_scalar(
        "SELECT id FROM workers WHERE alive_until > clock_timestamp() ORDER BY started_at, id",
    )
    .fetch_all(&mut *connection)
    .await?;
    let leases = sqlx::query_as(
        "SELECT id, owner, epoch, lease_until < clock_timestamp() AS free FROM partitions ORDER BY id",
    )
    .fetch_all(connection)
    .await?;
    Ok((workers, leases))
}

/// Takes up to `count` of the partitions `wanted` whose leases have run out. Returns which, and
/// the epoch of each. A row that a former owner's transaction still holds is passed over.
///
/// # Errors
/// When the database does not answer.
pub async fn acquire(
    connection: &mut PgConnection,
    worker: Uuid,
    wanted: &[i32],
    count: usize,
    lease: Duration,
) -> Result<Vec<(i32, i64)>> {
    sqlx::query_as(
        "UPDATE partitions SET owner = $1, epoch = epoch + 1,
                lease_until = clock_timestamp() + $4 * interval '1 millisecond'
         WHERE id IN (
             SELECT id FROM partitions WHERE id = ANY($2) AND lease_until < clock_timestamp()
             ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
         )
         RETURNING id, epoch",
    )
    .bind(worker)
    .bind(wanted)
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .bind(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
}

/// Gives a partition back, so that another worker takes it at once.
///
/// # Errors
/// When the database does not answer.
pub async fn release(connection: &mut PgConnection, id: PartitionId, worker: Uuid, epoch: i64) -> Result<()> {
    sqlx::query(
        "UPDATE partitions SET owner = NULL, lease_until = '-infinity'
         WHERE id = $1 AND owner = $2 AND epoch = $3",
    )
    .bind(id.as_i32())
    .bind(worker)
    .bind(epoch)
    .execute(&mut *connection)
    .await?;
    announce(connection).await
}

/// Says good-bye: the other workers share what this one had.
///
/// # Errors
/// When the database does not answer.
pub async fn leave(connection: &mut PgConnection, worker: Uuid) -> Result<()> {
    sqlx::query("DELETE FROM workers WHERE id = $1").bind(worker).execute(&mut *connection).await?;
    announce(connection).await
}

/// Wakes the other workers: leases or workers have changed.
///
/// # Errors
/// When the database does not answer.
pub async fn announce(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_notify($1, '')").bind(LEASES_CHANNEL).execute(connection).await?;
    Ok(())
}
