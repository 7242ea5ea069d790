//! The SQL statements of a partition, but for the one that commits (`fence`). Functions take the connection; every
//! statement is a transaction of its own and touches one partition.

use std::time::Duration;

use common::database::index_probes_only;
use common::partition::PartitionId;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Result};
use uuid::Uuid;

use crate::fence::CursorMove;
use crate::rules::{Stock, Taken};

/// Longest reason that is kept with a dead letter, in characters.
const REASON_CHARS_MAX: usize = 1_000;

/// Opens a connection for claims. Its statements wait for somebody else's lock for less than a lease.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub async fn connect_for_claims(
    options: &PgConnectOptions,
    lease: Duration,
    statement_timeout: Duration,
) -> Result<PgConnection> {
    let below_lease = (lease * 3 / 4).as_millis().to_string();
    let options = index_probes_only(options.clone()).options([
        ("lock_timeout", below_lease.as_str()),
        ("statement_timeout", &statement_timeout.as_millis().to_string()),
        // A claim is answered when it is on disk, whatever the server's default.
        ("synchronous_commit", "on"),
        // A connection that broke silently in the middle of a statement keeps its locks until the server
        // notices. This makes that half a minute instead of hours.
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    options.connect().await
}

/// When the server of this session was started, in microseconds since 1970.
///
/// # Errors
/// When the database does not answer.
pub async fn server_started_us(connection: &mut PgConnection) -> Result<i64> {
    sqlx::query_scalar("SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint")
        .fetch_one(connection)
        .await
}

/// Waits for an answer of Postgres, for `limit` at most.
///
/// # Errors
/// Those of the answer, and one that says that there was none in time.
pub(crate) async fn in_time<T>(limit: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let answered = tokio::time::timeout(limit, answer).await;
    answered.unwrap_or_else(|_| Err(sqlx::Error::Protocol("no answer in time".to_owned())))
}

/// A partition's row: who owns it, and how far its claims have been applied.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PartitionRow {
    /// The worker that owns it.
    pub owner: Option<Uuid>,
    /// Raised with every change of owner.
    #[sqlx(rename = "epoch")]
    pub lease_epoch: i64,
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
    /// The newest version that its messages may have.
    pub protocol: i32,
}

/// Reads a partition's row.
///
/// # Errors
/// When the database does not answer.
pub async fn partition(connection: &mut PgConnection, id: PartitionId) -> Result<PartitionRow> {
    sqlx::query_as(
        "SELECT owner, epoch, generation, stream_created_ns, last_seq, last_batch_id, last_time_ns, protocol
         FROM partitions WHERE id = $1",
    )
    .bind(id.as_i32())
    .fetch_one(connection)
    .await
}

/// Sets a partition's cursor to a stream that is not the one it was reading, and raises its generation if that is
/// wanted. Returns false when owner, generation or cursor are no longer as `found`.
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
         WHERE id = $1 AND epoch = $2 AND generation = $3 AND last_seq = $4
           AND owner IS NOT DISTINCT FROM $8",
    )
    .bind(id.as_i32())
    .bind(found.lease_epoch)
    .bind(found.generation)
    .bind(found.last_seq)
    .bind(i32::from(raise_generation))
    .bind(stream_created_ns)
    .bind(last_seq)
    .bind(found.owner)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Raises a partition's generation and sets its cursor back, before its stream is created again. Returns false when
/// generation, stream or cursor are no longer as `found`.
///
/// # Errors
/// When the database does not answer.
pub async fn expect_new_stream(
    connection: &mut PgConnection,
    id: PartitionId,
    found: &PartitionRow,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE partitions SET generation = generation + 1, stream_created_ns = NULL, last_seq = 0,
                last_batch_id = NULL
         WHERE id = $1 AND generation = $2 AND last_seq = $3 AND stream_created_ns IS NOT DISTINCT FROM $4",
    )
    .bind(id.as_i32())
    .bind(found.generation)
    .bind(found.last_seq)
    .bind(found.stream_created_ns)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A coupon's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coupon {
    /// What is left of it.
    pub stock: Stock,
    /// The transaction that wrote the row: another one means that any of its columns may have changed. Only to be
    /// compared on the server, and since the start of the server, that it was read from.
    pub xmin: i64,
}

/// What one snapshot says of coupons and users.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Each coupon, `None` for one that does not exist.
    pub coupons: Vec<Option<Coupon>>,
    /// For each claim, what its user had of its coupon before.
    pub taken: Vec<Option<Taken>>,
}

/// A coupon (with what remains, and its `xmin`) or an earlier claim (with its id), and their place in the question.
type SnapshotRow = (i64, Option<i32>, Option<i64>, Option<Uuid>, Option<i64>);

/// Reads the stocks of `coupon_names`, and which of the pairs (`claimed_names[n]`, `user_ids[n]`) are taken already,
/// all of one moment. It locks nothing: the write notices what has changed since.
///
/// # Errors
/// When the database does not answer.
pub async fn look_up(
    connection: &mut PgConnection,
    coupon_names: &[&str],
    claimed_names: &[&str],
    user_ids: &[&str],
) -> Result<Snapshot> {
    // Two indexes begin with coupon_name, and only one of them finds a user without reading all winners of the coupon.
    // For "coupon_name = … AND user_id = …" the planner chooses by statistics that say nothing about the hot coupon.
    // "The first row from this pair on, in the order of the pairs" can only be read from the right one.
    let rows: Vec<SnapshotRow> = sqlx::query_as(
        "SELECT batch.place, coupon.remaining_amount, coupon.xid, NULL::uuid, coupon.last_position
         FROM unnest($1::text[]) WITH ORDINALITY AS batch (name, place)
         CROSS JOIN LATERAL (
             SELECT remaining_amount, xmin::text::bigint AS xid,
                    (SELECT position FROM claims WHERE coupon_name = coupons.name
                     ORDER BY position DESC LIMIT 1) AS last_position
             FROM coupons WHERE name = batch.name LIMIT 1
         ) AS coupon
         UNION ALL
         SELECT batch.place, NULL, NULL, earlier.claim_id, earlier.position
         FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS batch (coupon_name, user_id, place)
         CROSS JOIN LATERAL (
             SELECT coupon_name, user_id, claim_id, position FROM claims
             WHERE (claims.coupon_name, claims.user_id) >= (batch.coupon_name, batch.user_id)
             ORDER BY claims.coupon_name, claims.user_id LIMIT 1
         ) AS earlier
         WHERE earlier.coupon_name = batch.coupon_name AND earlier.user_id = batch.user_id",
    )
    .bind(coupon_names)
    .bind(claimed_names)
    .bind(user_ids)
    .fetch_all(connection)
    .await?;
    let mut snapshot =
        Snapshot { coupons: vec![None; coupon_names.len()], taken: vec![None; user_ids.len()] };
    for row in rows {
        match row {
            (place, Some(remaining), Some(xmin), None, last_position) => {
                let stock = Stock { remaining, last_position: last_position.unwrap_or(0) };
                snapshot.coupons[place_index(place)] = Some(Coupon { stock, xmin });
            }
            (place, None, None, Some(claim_id), Some(position)) => {
                snapshot.taken[place_index(place)] = Some(Taken { claim_id: claim_id.into(), position });
            }
            _ => return Err(sqlx::Error::RowNotFound),
        }
    }
    Ok(snapshot)
}

/// SQL counts from 1.
fn place_index(place: i64) -> usize {
    usize::try_from(place - 1).expect("WITH ORDINALITY counts from 1")
}

/// A message that is not wholly understood, or one of its commands that Postgres refuses.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The message's place in the stream.
    pub sequence: i64,
    /// The command's number in the message, from 1; 0 for the message itself.
    pub place: i32,
    /// Why it was not applied.
    pub reason: &'a str,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Keeps what is not applied, each once. To be called before the cursor passes them: whoever reads them again
/// after a crash in between inserts nothing twice. Nothing is kept unless the partition is still this worker's: another one
/// may understand more.
///
/// # Errors
/// When the database does not answer.
pub async fn insert_dead_letters(
    connection: &mut PgConnection,
    cursor: &CursorMove,
    letters: &[DeadLetter<'_>],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO dead_letters (partition, generation, sequence, place, reason, payload)
         SELECT $1, $2, unnest($3::bigint[]), unnest($4::int[]), unnest($5::text[]), unnest($6::bytea[])
         FROM partitions WHERE id = $1 AND owner = $7 AND epoch = $8
         ON CONFLICT ON CONSTRAINT dead_letters_message_key DO NOTHING",
    )
    .bind(cursor.partition.as_i32())
    .bind(cursor.generation)
    .bind(letters.iter().map(|letter| letter.sequence).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.place).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| storable(letter.reason)).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.payload).collect::<Vec<_>>())
    .bind(cursor.owner)
    .bind(cursor.lease_epoch)
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
