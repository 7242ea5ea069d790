//! How many sessions of Postgres a worker has, and which of them apply the claims.

use futures::future::join_all;
use sqlx::PgPool;

use crate::harness::{PARTITIONS, Setup, a_coupon_per_partition, eventually, run};

/// Those of a worker beside the ones that apply claims: one for its leases, one to listen, one for set-up.
const OTHER_SESSIONS_MAX: i64 = 3;

async fn sessions_of_workers(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'coupon-worker'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[test]
fn claims_that_follow_each_other_are_applied_in_one_session() {
    run(async {
        let system = Setup::new().apis(1).workers(1).start().await;
        let (client, pool) = (system.client(), system.pool());
        let coupons = a_coupon_per_partition(PARTITIONS);
        for coupon in &coupons {
            client.create(coupon, 100).await;
            client.claim("first", coupon).await.assert_claimed("first", coupon);
        }
        let since: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
            .fetch_one(pool)
            .await
            .unwrap();
        for round in 0..3 {
            for coupon in &coupons {
                let user = format!("user-{round}");
                client.claim(&user, coupon).await.assert_claimed(&user, coupon);
            }
        }
        let writing: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'coupon-worker'
               AND query LIKE 'WITH fence AS%' AND query_start > to_timestamp($1)",
        )
        .bind(since)
        .fetch_one(pool)
        .await
        .unwrap();
        assert_eq!(writing, 1);
        system.stop().await;
    });
}

#[test]
fn sessions_go_with_their_partitions() {
    run(async {
        let mut system = Setup::new().apis(1).workers(1).start().await;
        system.shared_as(&[8]).await;
        system.add_worker().await;
        system.shared_as(&[4, 4]).await;
        // All at once, so that both workers open as many as they may.
        let (client, coupons) = (system.client(), a_coupon_per_partition(PARTITIONS));
        for coupon in &coupons {
            client.create(coupon, 100).await;
        }
        for round in 0..10 {
            let user = format!("user-{round}");
            join_all(coupons.iter().map(async |coupon| {
                client.claim(&user, coupon).await.assert_claimed(&user, coupon);
            }))
            .await;
        }
        let sessions_max = 2 * OTHER_SESSIONS_MAX + i64::from(PARTITIONS);
        eventually("no more sessions than partitions", async || {
            (sessions_of_workers(system.pool()).await <= sessions_max).then_some(())
        })
        .await;
        system.stop().await;
    });
}
