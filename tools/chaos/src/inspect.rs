//! The state at the end of a round.

use std::time::Duration;

use common::ids::CouponName;
use common::partition::PartitionId;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, memory_kib};
use crate::history::{ClaimRow, CouponRow, FinalState, Gauge, PartitionEnd, Queue, Session};

/// How long queues may take to be read to their ends, and sessions to be gone, once all clients are done.
const QUIET_LIMIT: Duration = Duration::from_secs(30);

/// How often that is looked at.
const QUIET_POLL: Duration = Duration::from_millis(50);

/// A session that has been idle in its transaction for longer is not merely between two statements.
const IDLE_MS_MAX: i64 = 1_000;

/// Memory that a process may hold once a round is over.
const MEMORY_KIB_MAX: u64 = 512 << 10;

/// Sessions that APIs and workers may have, for each process; pools, leases, listeners and partitions.
const SESSIONS_PER_PROCESS_MAX: u64 = 24;

/// Waits until queues and sessions are quiet, or for as long as that may take, and reads everything
/// about the coupons whose names begin with `prefix`.
///
/// `generations` are those of the streams at the round's beginning.
pub(crate) async fn final_state(
    cluster: &Cluster,
    prefix: &str,
    generations: &[u64],
) -> anyhow::Result<FinalState> {
    let mut connection = cluster.database().await?;
    let deadline = Instant::now() + QUIET_LIMIT;
    let (partitions, queues, idle) = loop {
        let (partitions, queues) = partition_ends(cluster, &mut connection, generations).await?;
        let idle = idle_in_transaction(&mut connection).await?;
        let quiet = idle.is_empty() && partitions.iter().all(PartitionEnd::is_quiet);
        if quiet || Instant::now() >= deadline {
            break (partitions, queues, idle);
        }
        sleep(QUIET_POLL).await;
    };
    let mut state = FinalState {
        coupons: coupons(&mut connection, prefix, cluster.shape.partitions).await?,
        claims: claims(&mut connection, prefix).await?,
        partitions,
        queues,
        errors: cluster.take_errors()?,
        idle_in_transaction: idle,
        gauges: gauges(cluster, &mut connection).await?,
        journals: Vec::new(),
    };
    for end in &mut state.partitions {
        let (journal, generation) = cluster.recorder.journal(end.partition);
        end.generation = generation;
        state.journals.push(journal);
    }
    connection.close().await?;
    Ok(state)
}

async fn partition_ends(
    cluster: &Cluster,
    connection: &mut PgConnection,
    generations: &[u64],
) -> anyhow::Result<(Vec<PartitionEnd>, Vec<Queue>)> {
    let rows: Vec<(i32, i64, i64, bool)> = sqlx::query_as(
        "SELECT id, generation, last_seq, last_batch_id IS NOT NULL FROM partitions ORDER BY id",
    )
    .fetch_all(connection)
    .await?;
    let (mut ends, mut queues) = (Vec::new(), Vec::new());
    for (partition, generation, cursor, remembers_last) in rows {
        let stream = cluster.queue.get_stream(format!("CLAIMS-{partition}")).await;
        let stream = stream.ok().map(|stream| stream.cached_info().state.clone());
        let (partition, cursor) = (partition.unsigned_abs(), cursor.unsigned_abs());
        ends.push(PartitionEnd {
            partition,
            generation: 0,
            cursor,
            stream_last: stream.as_ref().map(|stream| stream.last_sequence),
        });
        queues.push(Queue {
            partition,
            generation_before: generations.get(partition as usize).copied().unwrap_or_default(),
            generation_after: generation.unsigned_abs(),
            holds_last: !remembers_last || stream.is_some_and(|stream| stream.first_sequence <= cursor),
        });
    }
    Ok((ends, queues))
}

async fn gauges(cluster: &Cluster, connection: &mut PgConnection) -> anyhow::Result<Vec<Gauge>> {
    let mut gauges = Vec::new();
    for node in cluster.nodes() {
        if let Some(value) = node.pid().await.and_then(memory_kib) {
            gauges.push(Gauge {
                name: format!("memory of {} in KiB", node.name),
                value,
                limit: MEMORY_KIB_MAX,
            });
        }
    }
    let sessions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'coupon-%'")
            .fetch_one(connection)
            .await?;
    gauges.push(Gauge {
        name: "database sessions".into(),
        value: sessions.unsigned_abs(),
        limit: SESSIONS_PER_PROCESS_MAX * u64::from(cluster.shape.apis + cluster.shape.workers),
    });
    Ok(gauges)
}

async fn coupons(connection: &mut PgConnection, prefix: &str, count: u32) -> anyhow::Result<Vec<CouponRow>> {
    let rows: Vec<(String, i32, i32)> =
        sqlx::query_as("SELECT name, amount, remaining_amount FROM coupons WHERE starts_with(name, $1)")
            .bind(prefix)
            .fetch_all(connection)
            .await?;
    let coupon = |(name, amount, remaining): (String, i32, i32)| {
        let partition = CouponName::new(&name).map_or(0, |name| PartitionId::of(&name, count).number());
        CouponRow { name, amount: amount.into(), remaining: remaining.into(), partition }
    };
    Ok(rows.into_iter().map(coupon).collect())
}

async fn claims(connection: &mut PgConnection, prefix: &str) -> anyhow::Result<Vec<ClaimRow>> {
    let rows: Vec<(String, String, String, i64, String)> = sqlx::query_as(
        "SELECT coupon_name, user_id, claim_id::text, position, created_at::text FROM claims
         WHERE starts_with(coupon_name, $1) ORDER BY coupon_name, position",
    )
    .bind(prefix)
    .fetch_all(connection)
    .await?;
    let claim = |(coupon, user, claim_id, position, created_at)| ClaimRow {
        coupon,
        user,
        claim_id,
        position,
        created_at,
    };
    Ok(rows.into_iter().map(claim).collect())
}

async fn idle_in_transaction(connection: &mut PgConnection) -> anyhow::Result<Vec<Session>> {
    let rows: Vec<(i32, String, String, i64)> = sqlx::query_as(
        "SELECT pid, application_name, query, idle_ms FROM (
             SELECT pid, application_name, query,
                    (extract(epoch FROM clock_timestamp() - state_change) * 1000)::bigint AS idle_ms
             FROM pg_stat_activity
             WHERE state LIKE 'idle in transaction%' AND application_name LIKE 'coupon-%'
         ) AS idle WHERE idle_ms > $1",
    )
    .bind(IDLE_MS_MAX)
    .fetch_all(connection)
    .await?;
    let session = |(pid, application, query, idle_ms): (i32, String, String, i64)| Session {
        pid,
        application,
        query,
        idle_ms: idle_ms.unsigned_abs(),
    };
    Ok(rows.into_iter().map(session).collect())
}
