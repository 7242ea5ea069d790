//! The planner must not be able to choose a slow plan: on tables that were empty when the plan was
//! made, or whose statistics are of another day, a scan looks as good as a probe.

use std::time::Duration;

use api::store as reads;
use common::database::index_probes_only;
use common::ids::{CouponName, UserId};
use common::partition::PartitionId;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, PgPool};
use uuid::Uuid;
use worker::fence::{Changes, CursorMove, Written, commit_behind_fence};
use worker::rules::Stock;
use worker::store::{self, Coupon, DeadLetter};

use crate::harness::{Database, System, open_folder, own_postgres, run};

/// Rows of each kind: a scan reads as many, a probe a few.
const ROWS: i64 = 20_000;

/// Pairs of coupon and user that each statement looks up; as many coupons.
const PAIRS: usize = 20;

/// Rows that a statement may read for each pair.
const READS_PER_PAIR: i64 = 8;

/// Batches that make the plans, with dead letters and without. Plans are made at the first, and each leaves rows
/// behind that are read until Postgres has cleaned up.
const BATCHES: usize = 4;

const PARTITION: PartitionId = PartitionId::new(0);

#[test]
fn every_statement_of_a_claim_probes_whatever_the_planner_believes() {
    run(async {
        // A server of its own: a transaction of another test, in whatever database, would keep Postgres from cleaning up.
        let folder = open_folder();
        let postgres = own_postgres(folder.path()).await;
        let database = Database::create(&postgres).await;
        let options: PgConnectOptions = database.url.parse().unwrap();
        let pool = common::database::connect(options.clone(), 2, "test").await.unwrap();
        common::database::partitions(&pool, Some(1)).await.unwrap();
        sqlx::query("UPDATE partitions SET owner = gen_random_uuid()").execute(&pool).await.unwrap();
        let timeout = Duration::from_secs(10);
        let mut writes = store::connect_for_claims(&options, timeout, timeout).await.unwrap();
        let mut asks = index_probes_only(options).connect().await.unwrap();

        // Plans are made while there is nothing.
        for number in 0..BATCHES {
            one_batch(&mut writes, &mut asks, number % 2 == 0).await;
        }
        grow(&pool, "cold", 1).await;
        grow(&pool, "hot", ROWS).await;
        expect_probes("tables that have grown", &mut writes, &mut asks, &pool).await;

        // And while every coupon has one claim, so that a coupon seems to tell as much as a user.
        sqlx::query("TRUNCATE coupons, claims").execute(&pool).await.unwrap();
        grow(&pool, "cold", 1).await;
        sqlx::query("ANALYZE").execute(&pool).await.unwrap();
        for number in 0..BATCHES {
            one_batch(&mut writes, &mut asks, number % 2 == 0).await;
        }
        grow(&pool, "hot", ROWS).await;
        expect_probes("one hot coupon among cold ones", &mut writes, &mut asks, &pool).await;

        // When there is one coupon, reading all of them is the best plan.
        sqlx::query("TRUNCATE coupons, claims").execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO coupons (name, amount, remaining_amount) VALUES ('first', 1, 1)")
            .execute(&pool)
            .await
            .unwrap();
        sqlx::query("ANALYZE").execute(&pool).await.unwrap();
        for number in 0..BATCHES {
            one_batch(&mut writes, &mut asks, number % 2 == 0).await;
        }
        grow(&pool, "cold", 1).await;
        grow(&pool, "hot", ROWS).await;
        expect_probes("statistics of a single coupon", &mut writes, &mut asks, &pool).await;

        // Truncated, the tables are empty and the statistics are not.
        sqlx::query("TRUNCATE coupons, claims").execute(&pool).await.unwrap();
        for number in 0..BATCHES {
            one_batch(&mut writes, &mut asks, number % 2 == 0).await;
        }
        grow(&pool, "cold", 1).await;
        grow(&pool, "hot", ROWS).await;
        expect_probes("statistics of what is gone", &mut writes, &mut asks, &pool).await;
        pool.close().await;
        drop((writes, asks));
        database.drop().await;
        postgres.stop().await.unwrap();
    });
}

#[test]
fn users_of_a_sale_are_looked_up_only_until_the_stock_cache_is_trusted() {
    run(async {
        let mut system = System::start().await;
        let client = system.client().clone();
        client.create("PROMO", 100).await;
        for number in 0..60 {
            let user = format!("user-{number}");
            client.claim(&user, "PROMO").await.assert_claimed(&user, "PROMO");
        }
        // A session tells what it has read when it ends.
        system.stop_worker().await;
        let looks: i64 = sqlx::query_scalar(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'claims_pkey'",
        )
        .fetch_one(system.pool())
        .await
        .unwrap();
        assert!((1..20).contains(&looks), "{looks} of 60 users were looked up");
        system.stop().await;
    });
}

/// Adds coupons: `ROWS` cold ones, or one hot one, with `ROWS` claims in all.
async fn grow(pool: &PgPool, kind: &str, claims_each: i64) {
    let coupons = ROWS / claims_each;
    sqlx::query("INSERT INTO coupons SELECT $1 || n, 1000000, 1000000 - $3 FROM generate_series(1, $2) n")
        .bind(kind)
        .bind(coupons)
        .bind(i32::try_from(claims_each).unwrap())
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO claims (coupon_name, user_id, position)
         SELECT $1 || n, 'user' || m, m FROM generate_series(1, $2) n, generate_series(1, $3) m",
    )
    .bind(kind)
    .bind(coupons)
    .bind(claims_each)
    .execute(pool)
    .await
    .unwrap();
}

/// All that a batch of claims may ask: of the hot coupon and of cold ones, by users who have it and
/// by new ones, beside a message that is none.
async fn one_batch(writes: &mut PgConnection, asks: &mut PgConnection, dead_letter: bool) {
    let coupons: Vec<String> =
        (0..PAIRS).map(|n| if n == 0 { "hot1".to_owned() } else { format!("cold{n}") }).collect();
    let mut coupons: Vec<&str> = coupons.iter().map(String::as_str).collect();
    coupons.sort_unstable();
    let claimed: Vec<&str> = (0..PAIRS).map(|n| if n % 2 == 0 { "hot1" } else { coupons[n] }).collect();
    let users: Vec<String> = (0..PAIRS)
        .map(|n| if n % 4 == 0 { format!("user{}", 17 * n + 1) } else { Uuid::new_v4().to_string() })
        .collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();

    let snapshot = store::look_up(writes, &coupons, &claimed, &users).await.unwrap();
    let sold: Vec<(&str, Coupon)> = coupons
        .iter()
        .zip(&snapshot.coupons)
        .filter_map(|(name, coupon)| coupon.map(|coupon| (*name, coupon)))
        .collect();
    let Written::Committed { xmin } = sell(writes, &sold, users[1], dead_letter).await else { panic!() };
    // The write proves a coupon by what the write before returned; and is refused while there is no such coupon.
    let hot = sold.iter().find(|(name, _)| *name == "hot1").map(|(_, Coupon { stock, .. })| Coupon {
        stock: Stock { remaining: stock.remaining - 1, last_position: stock.last_position + 1 },
        xmin,
    });
    let none = Coupon { stock: Stock { remaining: 1, last_position: 0 }, xmin };
    let written = sell(writes, &[("hot1", hot.unwrap_or(none))], users[2], false).await;
    match hot {
        Some(_) => assert!(matches!(written, Written::Committed { .. }), "{written:?}"),
        None => assert_eq!(written, Written::Overtaken),
    }

    let coupons: Vec<CouponName> = coupons.iter().map(|name| CouponName::new(name).unwrap()).collect();
    let users: Vec<UserId> = users.iter().map(|user| UserId::new(user).unwrap()).collect();
    let pairs: Vec<_> = coupons.iter().zip(&users).collect();
    let states = reads::claim_states(asks, PARTITION, &pairs).await.unwrap();
    assert_eq!(states.len(), PAIRS);
    reads::versions(asks, &coupons.iter().collect::<Vec<_>>()).await.unwrap();
    let found = reads::coupon(asks, &CouponName::new("hot1").unwrap()).await.unwrap();
    // What was read is what stands there.
    assert_eq!(found.map(|coupon| coupon.last_position), hot.map(|coupon| coupon.stock.last_position + 1));
}

/// Lets `user` win one of each of `coupons`, beside a message that is none if there is to be a dead letter.
async fn sell(
    writes: &mut PgConnection,
    coupons: &[(&str, Coupon)],
    user: &str,
    dead_letter: bool,
) -> Written {
    let row = store::partition(writes, PARTITION).await.unwrap();
    let mut changes = Changes::default();
    for (name, Coupon { stock, xmin }) in coupons {
        changes.sold_names.push(name);
        changes.sold_counts.push(1);
        changes.sold_from.push(stock.remaining);
        changes.sold_xmins.push(*xmin);
        changes.coupon_names.push(name);
        changes.user_ids.push(user);
        changes.claim_ids.push(Uuid::new_v4());
        changes.positions.push(stock.last_position + 1);
    }
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
    if dead_letter {
        let letter =
            DeadLetter { sequence: row.last_seq + 1, place: 0, reason: "not a batch", payload: b"?" };
        store::insert_dead_letters(writes, &cursor, &[letter]).await.unwrap();
    }
    commit_behind_fence(writes, &cursor, &changes).await.unwrap()
}

async fn expect_probes(state: &str, writes: &mut PgConnection, asks: &mut PgConnection, pool: &PgPool) {
    for dead_letter in [false, true] {
        let before = rows_read(writes, asks, pool).await;
        one_batch(writes, asks, dead_letter).await;
        let read = rows_read(writes, asks, pool).await - before;
        let most = READS_PER_PAIR * PAIRS as i64;
        assert!(read <= most, "{state}: {read} rows were read, {most} at most");
    }
}

/// Entries of indexes and rows of scans that the two connections have read so far. (Those that
/// another connection reads are not told of before it says so.)
async fn rows_read(writes: &mut PgConnection, asks: &mut PgConnection, pool: &PgPool) -> i64 {
    for connection in [writes, asks] {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(connection).await.unwrap();
    }
    sqlx::query_scalar(
        "SELECT (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes)::bigint
              + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables)::bigint",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
