//! Every SQL statement about leases: who lives, who owns which partition.

use std::time::Duration;

use common::message::PROTOCOL;
use common::partition::PartitionId;
use sqlx::Result;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::config::LEASE_MS_MAX;

/// Channel on which workers hear of released leases and of new workers.
pub const LEASES_CHANNEL: &str = "coupon_leases";

/// A lease that has more than this left, in milliseconds, was written before the database's clock was set back. Twice
/// the longest lease, so that a clock that is set right by some seconds frees nothing.
const LEFT_MS_MAX: i64 = 2 * LEASE_MS_MAX.cast_signed();

/// A partition as the leases show it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    /// The partition's number.
    pub id: i32,
    /// Who owns it.
    pub owner: Option<Uuid>,
    /// Under which epoch.
    #[sqlx(rename = "epoch")]
    pub lease_epoch: i64,
    /// Whether anyone may take it.
    pub free: bool,
}

/// Says that a worker lives for another lease time and renews the leases of `running`, its partitions. Rows that a
/// commit has locked are skipped: the commit renews them itself.
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
             INSERT INTO workers (id, alive_until, protocol) VALUES ($1, clock_timestamp() + $3::interval, $4)
             ON CONFLICT ON CONSTRAINT workers_pkey DO UPDATE SET alive_until = EXCLUDED.alive_until
         ), gone AS (
             DELETE FROM workers WHERE alive_until < clock_timestamp() - interval '1 minute'
         )
         UPDATE partitions SET lease_until = clock_timestamp() + $3::interval
         WHERE id IN (
             SELECT id FROM partitions WHERE owner = $1 AND id = ANY($2) FOR UPDATE SKIP LOCKED
         )",
    )
    .bind(worker)
    .bind(running)
    .bind(lease)
    .bind(PROTOCOL)
    .execute(connection)
    .await?;
    Ok(())
}

/// The living workers, in the order in which they share the partitions, and all leases. A life or a lease that lasts
/// for longer than [`LEFT_MS_MAX`] has ended. A worker that does not understand the messages of every partition has no
/// share.
///
/// # Errors
/// When the database does not answer.
pub async fn leases(connection: &mut PgConnection) -> Result<(Vec<Uuid>, Vec<Lease>)> {
    let workers = sqlx::query_scalar(
        "SELECT id FROM workers
         WHERE alive_until > clock_timestamp() AND alive_until <= clock_timestamp() + $1 * interval '1 millisecond'
           AND protocol >= (SELECT max(protocol) FROM partitions)
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

/// Takes up to `count` of the partitions `wanted` whose leases have run out. Returns their numbers and new epochs. A
/// row that a former owner's transaction has locked is skipped, and so is (by a trigger) one whose messages may be newer
/// than this worker understands.
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
                lease_until = clock_timestamp() + $4::interval
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
    .bind(lease)
    .bind(LEFT_MS_MAX)
    .fetch_all(connection)
    .await
}

/// Gives a partition back, so that another worker can take it at once.
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

/// Removes a worker from the living: the others share its partitions. Announced only if it was among them, as a worker
/// that is woken by its own announcement calls this again.
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

/// Wakes all workers: leases or workers have changed.
///
/// # Errors
/// When the database does not answer.
pub async fn announce(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_notify($1, '')").bind(LEASES_CHANNEL).execute(connection).await?;
    Ok(())
}
