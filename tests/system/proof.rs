//! What a worker's write proves: that no coupon has changed since it was read, in whatever column, by whomever, and on
//! whatever server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::partition::PartitionId;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection as _};
use uuid::Uuid;
use worker::fence::{Changes, CursorMove, Written, commit_behind_fence};
use worker::store::{self, Coupon};

use crate::harness::{Database, Setup, System, a_coupon_per_partition, eventually, partition_of, run};

const PARTITION: PartitionId = PartitionId::new(0);

/// Lets a new user win one of `coupon`, decided from how it was read.
async fn sell(connection: &mut PgConnection, Coupon { stock, xmin }: Coupon) -> Written {
    let row = store::partition(connection, PARTITION).await.unwrap();
    let cursor = CursorMove {
        partition: PARTITION,
        owner: row.owner.unwrap(),
        lease_epoch: row.lease_epoch,
        generation: row.generation,
        last_seq: row.last_seq,
        new_seq: row.last_seq + 1,
        new_batch_id: Uuid::new_v4(),
        new_time_ns: 0,
        lease: Duration::from_secs(1),
    };
    let user = Uuid::new_v4().to_string();
    let changes = Changes {
        sold_names: vec!["PROMO"],
        sold_counts: vec![1],
        sold_from: vec![stock.remaining],
        sold_xmins: vec![xmin],
        coupon_names: vec!["PROMO"],
        user_ids: vec![&user],
        claim_ids: vec![Uuid::new_v4()],
        positions: vec![stock.last_position + 1],
    };
    let written = commit_behind_fence(connection, &cursor, &changes).await.unwrap();
    let moved = store::partition(connection, PARTITION).await.unwrap().last_seq > row.last_seq;
    assert_eq!(moved, matches!(written, Written::Committed { .. }));
    written
}

/// What is known of `coupon` after one was sold.
fn after(Coupon { mut stock, .. }: Coupon, written: Written) -> Coupon {
    let Written::Committed { xmin } = written else { panic!("{written:?}") };
    stock.remaining -= 1;
    stock.last_position += 1;
    Coupon { stock, xmin }
}

async fn look_up(connection: &mut PgConnection) -> Coupon {
    store::look_up(connection, &["PROMO"], &[], &[]).await.unwrap().coupons[0].unwrap()
}

#[test]
fn a_coupon_that_was_changed_in_any_column_is_not_written_before_it_is_read_again() {
    run(async {
        let database = Database::shared().await;
        let pool = common::database::connect(database.url.parse().unwrap(), 2, "test").await.unwrap();
        common::database::partitions(&pool, Some(1)).await.unwrap();
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let hand = |statements: &'static str| sqlx::raw_sql(AssertSqlSafe(statements)).execute(&pool);
        hand("UPDATE partitions SET owner = gen_random_uuid()").await.unwrap();
        hand("INSERT INTO coupons VALUES ('PROMO', 100, 100, 'epoch')").await.unwrap();

        let mut coupon = look_up(&mut connection).await;
        for change in [
            "UPDATE coupons SET created_at = now()",
            "UPDATE coupons SET amount = amount + 1",
            "UPDATE coupons SET remaining_amount = remaining_amount",
            "UPDATE coupons SET remaining_amount = remaining_amount - 1",
            "BEGIN; UPDATE coupons SET name = 'OTHER'; UPDATE coupons SET name = 'PROMO'; COMMIT",
            "UPDATE coupons SET remaining_amount = 0; UPDATE coupons SET remaining_amount = 90",
            "CREATE TABLE old AS TABLE coupons; DELETE FROM coupons; INSERT INTO coupons TABLE old; DROP TABLE old",
        ] {
            // Each write returns what proves the next one.
            for _ in 0..2 {
                coupon = after(coupon, sell(&mut connection, coupon).await);
            }
            assert_eq!(coupon, look_up(&mut connection).await, "before {change}");
            hand(change).await.unwrap();
            assert_eq!(sell(&mut connection, coupon).await, Written::Overtaken, "{change}");
            coupon = look_up(&mut connection).await;
        }

        // What changes no column is no change.
        hand("BEGIN; SELECT FROM coupons FOR UPDATE; COMMIT").await.unwrap();
        hand("VACUUM (FREEZE) coupons").await.unwrap();
        after(coupon, sell(&mut connection, coupon).await);
        pool.close().await;
        drop(connection);
        database.drop().await;
    });
}

async fn is_ready(system: &System) {
    eventually("ready", async || (system.client().get("/health/ready").await.status == 200).then_some(()))
        .await;
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// The row of `coupon`: what is left of it, and the transaction that wrote it.
async fn row(pool: &PgPool, coupon: &str) -> (i32, i64) {
    sqlx::query_as("SELECT remaining_amount, xmin::text::bigint FROM coupons WHERE name = $1")
        .bind(coupon)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Gives `coupon` the `wanted` row, with the next transaction that has this number.
async fn write_as(pool: &PgPool, coupon: &str, wanted: (i32, i64)) {
    // A worker's heartbeat would take numbers as well. (This lock itself takes none.)
    let mut locked = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE workers IN SHARE ROW EXCLUSIVE MODE").execute(&mut *locked).await.unwrap();
    loop {
        let mut transaction = pool.begin().await.unwrap();
        let number: i64 =
            sqlx::query_scalar("SELECT txid_current()").fetch_one(&mut *transaction).await.unwrap();
        assert!(number <= wanted.1, "{number} of {wanted:?}");
        if number == wanted.1 {
            sqlx::query("UPDATE coupons SET amount = $2 + 1, remaining_amount = $2 WHERE name = $1")
                .bind(coupon)
                .bind(wanted.0)
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
        if number == wanted.1 {
            break;
        }
    }
    locked.rollback().await.unwrap();
    assert_eq!(row(pool, coupon).await, wanted);
}

#[test]
fn what_is_remembered_of_another_server_proves_nothing() {
    run(async {
        // Two partitions share the sessions: one of them finds out that the server has gone, the other does not.
        let setup = Setup::new().apis(1).workers(1).own_postgres().env("PARTITIONS", 2);
        let setup = setup.env("LEASE_MS", 60_000).env("PURGE_INTERVAL_MS", 0);
        let mut system = setup.start().await;
        let coupons = a_coupon_per_partition(2);
        let (first, second) = (coupons[0].as_str(), coupons[1].as_str());
        for coupon in [first, second] {
            system.client().create(coupon, 100).await;
            system.client().claim("early", coupon).await.assert_claimed("early", coupon);
        }
        let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(system.pool()).await.unwrap();
        let (data, backup) = (Path::new(&data), system.folder().join("backup"));
        system.postgres.as_ref().unwrap().stop().await.unwrap();
        copy(data, &backup);
        system.postgres.as_mut().unwrap().restart().await.unwrap();
        is_ready(&system).await;

        // The worker trusts what it remembers of the first coupon.
        for number in 0..12 {
            let user = format!("user-{number}");
            system.client().claim_with_key(&user, first, "key").await.assert_claimed(&user, first);
        }
        let remembered = row(system.pool(), first).await;
        let id = partition_of(first, 2);
        let mut connection = PgConnection::connect_with(&system.pool().connect_options()).await.unwrap();
        let partition = store::partition(&mut connection, id).await.unwrap();

        // The backup is restored. Another transaction of the same number leaves as many, with one claim instead of 13.
        system.postgres.as_ref().unwrap().stop().await.unwrap();
        std::fs::remove_dir_all(data).unwrap();
        copy(&backup, data);
        system.postgres.as_mut().unwrap().restart().await.unwrap();
        is_ready(&system).await;
        sqlx::query(
            "UPDATE partitions SET last_seq = $2, last_batch_id = $3, last_time_ns = $4 WHERE id = $1",
        )
        .bind(id.as_i32())
        .bind(partition.last_seq)
        .bind(partition.last_batch_id)
        .bind(partition.last_time_ns)
        .execute(system.pool())
        .await
        .unwrap();
        write_as(system.pool(), first, remembered).await;

        system.client().claim("ann", second).await.assert_claimed("ann", second);
        let (_, position) = system.client().claim("ann", first).await.assert_claimed("ann", first);
        assert_eq!(position, 2);
        system.stop().await;
    });
}
