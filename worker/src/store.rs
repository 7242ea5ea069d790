//! Every SQL statement of the worker. Functions take the connection; every statement is a transaction
//! of its own. No statement reaches across partitions, but for those about leases.

use std::time::Duration;

use common::database::probing;
use common::partition::PartitionId;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Result};
use uuid::Uuid;

use crate::config::LEASE_MS_MAX;
use crate::rules::{Stock, Taken};

/// Channel on which workers hear of released leases and of new workers.
pub const LEASES_CHANNEL: &str = "coupon_leases";

/// Longest reason kept with a dead letter, in characters.
const REASON_CHARS_MAX: usize = 1_000;

/// Opens a connection for claims.
///
/// A worker never waits longer for somebody else's lock than its lease lasts.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub async fn connect_for_claims(
    options: &PgConnectOptions,
    lease: Duration,
    statement_timeout: Duration,
) -> Result<PgConnection> {
    let below_lease = (lease * 3 / 4).as_millis().to_string();
    let options = probing(options.clone()).options([
        ("lock_timeout", below_lease.as_str()),
        ("statement_timeout", &statement_timeout.as_millis().to_string()),
        // A claim is answered when it is on disk, whatever the server's default.
        ("synchronous_commit", "on"),
        // A connection that broke without a word, between a statement and the end of its message, keeps
        // its locks until the server notices: within half a minute, not hours.
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    options.connect().await
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

/// A coupon's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coupon {
    /// What is left of it.
    pub stock: Stock,
    /// When it was created, as Postgres keeps it: tells it from a later one of the same name.
    pub created: [u8; 8],
}

/// What one snapshot says of a batch's coupons and users.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Each coupon, `None` for one that does not exist.
    pub coupons: Vec<Option<Coupon>>,
    /// For each claim, what its user had of its coupon before.
    pub taken: Vec<Option<Taken>>,
}

#[derive(sqlx::FromRow)]
struct SnapshotRow {
    coupon: Option<i64>,
    remaining: Option<i32>,
    created: Option<Vec<u8>>,
    claim: Option<i64>,
    claim_id: Option<Uuid>,
    position: Option<i64>,
}

/// Reads the stocks of `coupon_names`, and which of the pairs (`claimed_names[n]`, `user_ids[n]`)
/// are taken already, all of one moment. It locks nothing: [`write()`] notices what has changed since.
///
/// # Errors
/// When the database does not answer.
pub async fn look_up(
    connection: &mut PgConnection,
    coupon_names: &[&str],
    claimed_names: &[&str],
    user_ids: &[&str],
) -> Result<Snapshot> {
    // Two indexes begin with coupon_name, and only one of them finds a user without reading all
    // winners of the coupon. Which one the planner takes for "coupon_name = … AND user_id = …" depends
    // on statistics that say nothing about the hot coupon. "The first row from this pair on", in the
    // order of the pairs, only the right one can tell.
    let rows: Vec<SnapshotRow> = sqlx::query_as(
        "SELECT batch.place AS coupon, coupon.remaining_amount AS remaining, coupon.created,
                NULL::bigint AS claim, NULL::uuid AS claim_id, coupon.last_position AS position
         FROM unnest($1::text[]) WITH ORDINALITY AS batch (name, place)
         CROSS JOIN LATERAL (
             SELECT remaining_amount, timestamptz_send(created_at) AS created,
                    (SELECT position FROM claims WHERE coupon_name = coupons.name
                     ORDER BY position DESC LIMIT 1) AS last_position
             FROM coupons WHERE name = batch.name LIMIT 1
         ) AS coupon
         UNION ALL
         SELECT NULL, NULL, NULL, batch.place, earlier.claim_id, earlier.position
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
        if let (Some(place), Some(remaining), Some(created)) = (row.coupon, row.remaining, row.created) {
            let created = created.try_into().map_err(|_| sqlx::Error::RowNotFound)?;
            let stock = Stock { remaining, last_position: row.position.unwrap_or(0) };
            snapshot.coupons[place_index(place)] = Some(Coupon { stock, created });
        } else if let (Some(place), Some(claim_id), Some(position)) = (row.claim, row.claim_id, row.position)
        {
            snapshot.taken[place_index(place)] = Some(Taken { claim_id: claim_id.into(), position });
        } else {
            return Err(sqlx::Error::RowNotFound);
        }
    }
    Ok(snapshot)
}

/// SQL counts from 1.
fn place_index(place: i64) -> usize {
    usize::try_from(place - 1).expect("WITH ORDINALITY counts from 1")
}

/// What a batch changes, as parallel lists.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// Coupons of which some were won, in the order of their names.
    pub sold_names: Vec<&'a str>,
    /// How many of each.
    pub sold_counts: Vec<i32>,
    /// What was left of each when it was decided.
    pub sold_from: Vec<i32>,
    /// When each was created.
    pub sold_created: Vec<[u8; 8]>,
    /// Coupon of each winner.
    pub coupon_names: Vec<&'a str>,
    /// The winner.
    pub user_ids: Vec<&'a str>,
    /// Its claim.
    pub claim_ids: Vec<Uuid>,
    /// Its position in its coupon.
    pub positions: Vec<i64>,
    /// Messages that could not be understood: sequence number,
    pub dead_sequences: Vec<i64>,
    /// why,
    pub dead_reasons: Vec<String>,
    /// and the bytes.
    pub dead_payloads: Vec<&'a [u8]>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is on disk.
    Committed,
    /// Another worker owns the partition, or its cursor is elsewhere: nothing was changed.
    Fenced,
    /// What the batch was decided from is not what the tables hold: nothing was changed.
    Overtaken,
}

// Everything names the fence, so that nothing is touched before it is passed. The division fails, and undoes all,
// when a stock was not as expected. Winners need no count: no trigger of ours leaves one out, so each is inserted or
// the statement fails.
macro_rules! behind_fence {
    ($changes:expr) => {
        concat!(
            "WITH fence AS (
                 UPDATE partitions
                 SET last_seq = $5, last_batch_id = $6, last_time_ns = greatest(last_time_ns, $7),
                     lease_until = clock_timestamp() + $8 * interval '1 millisecond'
                 WHERE id = $1 AND epoch = $2 AND generation = $3 AND last_seq = $4
                 RETURNING id, generation
             ), ",
            $changes
        )
    };
}

/// For a single coupon, as batches of a hot one are: a list of one and the join with it are a fifth of what Postgres
/// does for a claim that comes alone.
const WRITE_ONE: &str = behind_fence!(
    "stock AS (
         UPDATE coupons SET remaining_amount = coupons.remaining_amount - $10::int
         FROM fence
         WHERE coupons.name = $9::text AND coupons.remaining_amount = $11::int
           AND timestamptz_send(coupons.created_at) = $12::bytea
         RETURNING 1
     ), winner AS (
         INSERT INTO claims (coupon_name, user_id, claim_id, position)
         SELECT $9, unnest($13::text[]), unnest($14::uuid[]), unnest($15::bigint[])
         FROM fence
     )
     SELECT 1 / (SELECT count(*) FROM stock)::int FROM fence"
);

// "= ANY (ARRAY[one])" is an equality that an index can serve and that two lists cannot be merged by: so the planner
// can only look each coupon up, where for "=" it might read all of them.
macro_rules! lists {
    ($dead_letters:literal) => {
        concat!(
            "stock AS (
                 UPDATE coupons SET remaining_amount = coupons.remaining_amount - sold.count
                 FROM fence
                 CROSS JOIN unnest($9::text[], $10::int[], $11::int[], $12::bytea[])
                     AS sold (name, count, expected, created)
                 WHERE coupons.name = ANY (ARRAY[sold.name]) AND coupons.remaining_amount = sold.expected
                   AND timestamptz_send(coupons.created_at) = sold.created
                 RETURNING 1
             ), winner AS (
                 INSERT INTO claims (coupon_name, user_id, claim_id, position)
                 SELECT unnest($13::text[]), unnest($14::text[]), unnest($15::uuid[]), unnest($16::bigint[])
                 FROM fence
             )",
            $dead_letters,
            " SELECT 1 / ((SELECT count(*) FROM stock) = cardinality($9))::int FROM fence"
        )
    };
}

const WRITE: &str = behind_fence!(lists!(""));

/// Apart, as even an empty list of dead letters costs a quarter of what a small batch does in Postgres.
const WRITE_WITH_DEAD_LETTERS: &str = behind_fence!(lists!(
    ", dead AS (
         INSERT INTO dead_letters (partition, generation, sequence, reason, payload)
         SELECT fence.id, fence.generation, letter.* FROM fence
         CROSS JOIN unnest($17::bigint[], $18::text[], $19::bytea[]) AS letter
         ON CONFLICT ON CONSTRAINT dead_letters_message_key DO NOTHING
     )"
));

/// Passes the fence and writes all of a batch: cursor, lease, stocks, winners, dead letters. It is one
/// statement, and so one transaction, which does not wait for what this process thinks.
///
/// Nobody but the partition's owner changes its coupons and their claims, apart from people with psql.
/// Instead of keeping those out by locks since [`look_up`], it refuses to write when a coupon is another
/// one, its stock is not what it was, or a row is in the way.
///
/// The lease is extended by the clock's time, not the transaction's start: a batch that waited does
/// not shorten it.
///
/// # Errors
/// When the database does not answer; whether it wrote is unknown then.
pub async fn write(connection: &mut PgConnection, fence: &Fence, changes: &Changes<'_>) -> Result<Written> {
    let has_dead = !changes.dead_sequences.is_empty();
    let is_one = changes.sold_names.len() == 1 && !has_dead;
    let statement = if has_dead {
        WRITE_WITH_DEAD_LETTERS
    } else if is_one {
        WRITE_ONE
    } else {
        WRITE
    };
    let mut query = sqlx::query_scalar(statement)
        .bind(fence.partition.as_i32())
        .bind(fence.epoch)
        .bind(fence.generation)
        .bind(fence.last_seq)
        .bind(fence.new_seq)
        .bind(fence.new_batch_id)
        .bind(fence.new_time_ns)
        .bind(millis(fence.lease));
    query = if is_one {
        query
            .bind(changes.sold_names[0])
            .bind(changes.sold_counts[0])
            .bind(changes.sold_from[0])
            .bind(&changes.sold_created[0][..])
    } else {
        query
            .bind(&changes.sold_names)
            .bind(&changes.sold_counts)
            .bind(&changes.sold_from)
            .bind(&changes.sold_created)
            .bind(&changes.coupon_names)
    };
    query = query.bind(&changes.user_ids).bind(&changes.claim_ids).bind(&changes.positions);
    if has_dead {
        query = query
            .bind(&changes.dead_sequences)
            .bind(changes.dead_reasons.iter().map(|reason| storable(reason)).collect::<Vec<_>>())
            .bind(&changes.dead_payloads);
    }
    // All, not the first: only the end of the answer says that it was committed.
    let done: Result<Vec<i32>> = query.fetch_all(connection).await;
    match done {
        Ok(rows) if rows.is_empty() => Ok(Written::Fenced),
        Ok(_) => Ok(Written::Committed),
        Err(error) if was_overtaken(&error) => Ok(Written::Overtaken),
        Err(error) => Err(error),
    }
}

/// What is left of a lease is less, in milliseconds, unless the database's clock was set back. Twice the longest lease,
/// so that a clock that is set right by some seconds frees nothing.
const LEFT_MS_MAX: i64 = 2 * LEASE_MS_MAX.cast_signed();

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Division by zero: a stock was not as expected. Unique violation: a user or a position has been
/// taken.
fn was_overtaken(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "22012" || code == "23505")
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
    .bind(millis(lease))
    .execute(connection)
    .await?;
    Ok(())
}

/// Who lives, in the order in which they share the partitions, and all leases. What lasts for longer than
/// any lease was written before the database's clock was set back, and counts for nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn leases(connection: &mut PgConnection) -> Result<(Vec<Uuid>, Vec<Lease>)> {
    let workers = sqlx::query_scalar(
        "SELECT id FROM workers
         WHERE alive_until > clock_timestamp() AND alive_until <= clock_timestamp() + $1 * interval '1 millisecond'
         ORDER BY started_at, id",
    )
    .bind(LEFT_MS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let leases = sqlx::query_as(
        "SELECT id, owner, epoch,
                lease_until < clock_timestamp()
                    OR lease_until > clock_timestamp() + $1 * interval '1 millisecond' AS free
         FROM partitions ORDER BY id",
    )
    .bind(LEFT_MS_MAX)
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
             SELECT id FROM partitions
             WHERE id = ANY($2) AND (
                 lease_until < clock_timestamp()
                 OR lease_until > clock_timestamp() + $5 * interval '1 millisecond'
             )
             ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
         )
         RETURNING id, epoch",
    )
    .bind(worker)
    .bind(wanted)
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .bind(millis(lease))
    .bind(LEFT_MS_MAX)
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

/// Says good-bye: the other workers share what this one had. Only the first good-bye is announced: a
/// worker hears its own announcements, too, and would answer each with another.
///
/// # Errors
/// When the database does not answer.
pub async fn leave(connection: &mut PgConnection, worker: Uuid) -> Result<()> {
    let done =
        sqlx::query("DELETE FROM workers WHERE id = $1").bind(worker).execute(&mut *connection).await?;
    if done.rows_affected() > 0 {
        announce(connection).await?;
    }
    Ok(())
}

/// Wakes the other workers: leases or workers have changed.
///
/// # Errors
/// When the database does not answer.
pub async fn announce(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_notify($1, '')").bind(LEASES_CHANNEL).execute(connection).await?;
    Ok(())
}
