//! A worker that is killed at the worst moments of a transaction.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgPool;

use crate::harness::{Setup, System, eventually, run, worker_process};

/// How long a win may take to be told whose reply was lost: the commit that takes a second, and what a
/// busy machine may add.
const LOST_REPLY_MAX: Duration = Duration::from_secs(6);

/// A system with one API, one coupon and nobody to apply claims.
async fn start(claim_timeout_ms: u32) -> System {
    let setup = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", claim_timeout_ms).env("LEASE_MS", 1_000);
    let system = setup.start().await;
    system.client().create("PROMO", 2).await;
    system
}

async fn claims(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM claims").fetch_one(pool).await.unwrap()
}

/// Waits until a worker's backend of this database is found at `what`, a condition on its activity.
async fn worker_is_at(pool: &PgPool, what: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'coupon-worker' AND {what}"
    );
    eventually(what, async || {
        let found: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query.as_str())).fetch_one(pool).await.unwrap();
        (found == 1).then_some(())
    })
    .await;
}

#[test]
fn a_win_that_was_committed_is_told_though_the_worker_died_before_its_reply() {
    run(async {
        let mut system = start(20_000).await;
        let process = worker_process(&system).await;
        system.shared_as(&[8]).await;
        // A COMMIT that takes a second.
        sqlx::raw_sql(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON claims DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION dawdle();",
        )
        .execute(system.pool())
        .await
        .unwrap();
        let client = system.client().clone();
        let claim = tokio::spawn(async move { client.claim("ann", "PROMO").await });
        worker_is_at(system.pool(), "query LIKE 'WITH fence%' AND wait_event = 'PgSleep'").await;
        process.kill().await.unwrap();
        assert_eq!(claims(system.pool()).await, 0, "the commit was over before the kill");

        // Nobody is there who could reply: the API asks Postgres, and does not wait for the last moment.
        let killed = Instant::now();
        let (id, position) = claim.await.unwrap().assert_claimed("ann", "PROMO");
        assert_eq!(position, 1);
        assert!(killed.elapsed() < LOST_REPLY_MAX, "told after {:?}", killed.elapsed());
        let row: sqlx::types::Uuid =
            sqlx::query_scalar("SELECT claim_id FROM claims").fetch_one(system.pool()).await.unwrap();
        assert_eq!(row, id);

        sqlx::raw_sql("DROP TRIGGER dawdle ON claims").execute(system.pool()).await.unwrap();
        system.add_worker().await;
        let client = system.client();
        client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
        assert_eq!(client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO").1, 2);
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["ann", "bob"]));
        system.stop().await;
    });
}

#[test]
fn a_claim_whose_worker_died_before_the_commit_is_applied_by_the_next() {
    run(async {
        let mut system = start(15_000).await;
        let process = worker_process(&system).await;
        system.shared_as(&[8]).await;
        let mut lock = system.pool().begin().await.unwrap();
        sqlx::query("SELECT FROM coupons FOR UPDATE").execute(&mut *lock).await.unwrap();
        let client = system.client().clone();
        let claim = tokio::spawn(async move { client.claim("ann", "PROMO").await });
        worker_is_at(system.pool(), "wait_event_type = 'Lock'").await;
        process.kill().await.unwrap();
        // Its statement would go on by itself.
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .execute(system.pool())
        .await
        .unwrap();
        worker_is_gone(system.pool()).await;
        lock.rollback().await.unwrap();
        assert_eq!(claims(system.pool()).await, 0);
        system.add_worker().await;
        assert_eq!(claim.await.unwrap().assert_claimed("ann", "PROMO").1, 1);
        system.stop().await;
    });
}

async fn worker_is_gone(pool: &PgPool) {
    eventually("the dead worker's connections end", async || {
        let found: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'coupon-worker'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (found == 0).then_some(())
    })
    .await;
}

#[test]
fn a_refusal_is_told_though_the_worker_died() {
    run(async {
        let mut system = start(4_000).await;
        system.add_worker().await;
        let client = system.client().clone();
        // The worker applies the claim, but its reply reaches nobody: it cannot publish any more.
        client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO");
        system.stop_worker().await;
        let process = worker_process(&system).await;
        system.shared_as(&[8]).await;
        let mut lock = system.pool().begin().await.unwrap();
        sqlx::query("SELECT FROM partitions FOR UPDATE").execute(&mut *lock).await.unwrap();
        // Another API has not heard that nothing is left.
        let other = system.add_api().await;
        let claim = tokio::spawn(async move { other.claim("cyd", "PROMO").await });
        worker_is_at(system.pool(), "wait_event_type = 'Lock'").await;
        process.kill().await.unwrap();
        // Its statement goes on by itself: the claim is decided, and nobody is there to tell.
        lock.rollback().await.unwrap();
        worker_is_gone(system.pool()).await;
        system.add_worker().await;
        claim.await.unwrap().assert_problem(400, "sold_out");
        system.stop().await;
    });
}
