//! The fence: the one statement that writes. It moves a partition's cursor, takes the stocks down and inserts the
//! winners; or, if the partition is no longer ours or a row is not as expected, it changes nothing.

use std::time::Duration;

use common::partition::PartitionId;
use sqlx::Result;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// How the cursor of a partition moves, and what must hold for it to move.
#[derive(Debug, Clone, Copy)]
pub struct CursorMove {
    /// Which partition.
    pub partition: PartitionId,
    /// The worker that owns it.
    pub owner: Uuid,
    /// The epoch of the owner's lease. After a failover that lost commits, an epoch may be given to another owner again.
    pub lease_epoch: i64,
    /// The generation of the stream that the messages come from.
    pub generation: i64,
    /// The cursor before the messages.
    pub last_seq: i64,
    /// The cursor after them.
    pub new_seq: i64,
    /// Identity of the last message.
    pub new_batch_id: Uuid,
    /// When NATS stored it, in nanoseconds since 1970.
    pub new_time_ns: i64,
    /// How long the lease lasts from this commit on.
    pub lease: Duration,
}

/// What a transaction changes, as parallel lists.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// Coupons of which some were won, in the order of their names.
    pub sold_names: Vec<&'a str>,
    /// How many of each.
    pub sold_counts: Vec<i32>,
    /// The stock of each that the decision was made from.
    pub sold_from: Vec<i32>,
    /// The `xmin` of each coupon's row at that time.
    pub sold_xmins: Vec<i64>,
    /// Coupon of each winner.
    pub coupon_names: Vec<&'a str>,
    /// The winner.
    pub user_ids: Vec<&'a str>,
    /// Its claim.
    pub claim_ids: Vec<Uuid>,
    /// Its position in its coupon.
    pub positions: Vec<i64>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is on disk.
    Committed {
        /// The transaction's id: the `xmin` of all rows that it wrote.
        xmin: i64,
    },
    /// Another worker owns the partition, or its cursor is elsewhere: nothing was changed.
    Fenced,
    /// A coupon, a user's claim or a position is not as it was read: nothing was changed.
    Overtaken,
}

/// Each part selects FROM fence, which is empty unless owner, epoch, generation and cursor are as expected.
///
/// The division by zero undoes everything when a coupon was changed. Winners need no count: each is inserted, or the
/// statement fails.
///
/// `= ANY (ARRAY[one])` is an equality that an index serves and that cannot be merge-joined. For a plain `=` the
/// planner also considers reading all coupons in the order of the index, which looks cheapest while there are few.
///
/// `clock_timestamp()` is not the transaction's start: a write that waited for a lock does not shorten the lease.
const COMMIT: &str = "WITH fence AS (
        UPDATE partitions
        SET last_seq = $6, last_batch_id = $7, last_time_ns = greatest(last_time_ns, $8),
            lease_until = clock_timestamp() + $9::interval
        WHERE id = $1 AND owner = $2 AND epoch = $3 AND generation = $4 AND last_seq = $5
        RETURNING xmin::text::bigint AS xid
    ), stock AS (
        UPDATE coupons SET remaining_amount = coupons.remaining_amount - sold.count
        FROM (
            SELECT unnest($10::text[]) AS name, unnest($11::int[]) AS count,
                   unnest($12::int[]) AS expected, unnest($13::bigint[]) AS xid
            FROM fence
        ) AS sold
        WHERE coupons.name = ANY (ARRAY[sold.name])
          AND coupons.remaining_amount = sold.expected AND coupons.xmin::text::bigint = sold.xid
        RETURNING 1
    ), winner AS (
        INSERT INTO claims (coupon_name, user_id, claim_id, position)
        SELECT unnest($14::text[]), unnest($15::text[]), unnest($16::uuid[]), unnest($17::bigint[])
        FROM fence
    )
    SELECT fence.xid / ((SELECT count(*) FROM stock) = cardinality($10))::int FROM fence";

/// Passes the fence and writes all changes. It is one statement, and so one transaction, which does not wait for
/// this process.
///
/// Only a partition's owner changes its coupons and their claims, apart from people with psql. Nobody is locked out
/// between the look-up and the write. Instead the write proves each coupon by its row's `xmin`, which every update
/// of any column changes, and its stock; and users and positions by the keys of `claims`.
///
/// # Errors
/// When the database does not answer; whether it wrote is unknown then.
pub async fn commit_behind_fence(
    connection: &mut PgConnection,
    cursor: &CursorMove,
    changes: &Changes<'_>,
) -> Result<Written> {
    match write(connection, cursor, changes).await {
        Ok(written) => Ok(written),
        Err(error) if was_overtaken(&error) => Ok(Written::Overtaken),
        Err(error) => Err(error),
    }
}

/// What [`commit_behind_fence`] does, with every refusal of Postgres as an error.
pub(crate) async fn write(
    connection: &mut PgConnection,
    cursor: &CursorMove,
    changes: &Changes<'_>,
) -> Result<Written> {
    // All rows, not the first: only the end of the answer says that it was committed.
    let xmins: Vec<i64> = sqlx::query_scalar(COMMIT)
        .bind(cursor.partition.as_i32())
        .bind(cursor.owner)
        .bind(cursor.lease_epoch)
        .bind(cursor.generation)
        .bind(cursor.last_seq)
        .bind(cursor.new_seq)
        .bind(cursor.new_batch_id)
        .bind(cursor.new_time_ns)
        .bind(cursor.lease)
        .bind(&changes.sold_names)
        .bind(&changes.sold_counts)
        .bind(&changes.sold_from)
        .bind(&changes.sold_xmins)
        .bind(&changes.coupon_names)
        .bind(&changes.user_ids)
        .bind(&changes.claim_ids)
        .bind(&changes.positions)
        .fetch_all(connection)
        .await?;
    Ok(xmins.first().map_or(Written::Fenced, |&xmin| Written::Committed { xmin }))
}

/// A coupon was changed, or a user or a position has been taken (unique violation).
fn was_overtaken(error: &sqlx::Error) -> bool {
    stock_has_changed(error) || has_code(error, "23505")
}

/// The statement's own division by zero: a coupon was changed since it was read.
pub(crate) fn stock_has_changed(error: &sqlx::Error) -> bool {
    has_code(error, "22012")
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(code))
}
