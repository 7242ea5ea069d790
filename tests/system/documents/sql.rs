//! The SQL of the documents runs, on the database of a running system.

use common::partition::PartitionId;
use common::stream;
use sqlx::{AssertSqlSafe, Row as _};

use super::files::pages;
use crate::harness::{PARTITIONS, System, eventually, jetstream, queued, run};

/// The user whose data the documents erase.
const USER: &str = "user_12345";

/// Makes rows that name the user: a claim of each kind of coupon, and a message that cannot be understood.
async fn prepare(system: &System) {
    let client = system.client();
    client.create("PROMO_SUPER", 100).await;
    client.create("LAST", 1).await;
    for (user, coupon) in
        [("first", "PROMO_SUPER"), (USER, "PROMO_SUPER"), (USER, "LAST"), ("later", "PROMO_SUPER")]
    {
        client.claim(user, coupon).await.assert_claimed(user, coupon);
    }
    sqlx::query("INSERT INTO dead_letters (partition, generation, sequence, reason, payload) VALUES (0, 1, 1, 'none', $1)")
        .bind(format!(r#"{{"user_id":"{USER}"}}"#).into_bytes())
        .execute(system.pool())
        .await
        .unwrap();
}

#[test]
fn every_statement_runs_and_a_user_is_erased() {
    run(async {
        let system = System::start().await;
        prepare(&system).await;
        let mut count = 0;
        let mut connection = system.pool().acquire().await.unwrap();
        for page in pages() {
            for block in page.blocks("sql") {
                let done = sqlx::raw_sql(AssertSqlSafe(block.clone())).fetch_all(&mut *connection).await;
                let rows = done.unwrap_or_else(|error| panic!("{}: {error}:\n{block}", page.path));
                if block.contains("AS dead_letters;") {
                    let left: (i64, i64) = (rows[0].get("claims"), rows[0].get("dead_letters"));
                    assert_eq!(left, (0, 0), "what is left of the user");
                }
                count += 1;
            }
        }
        assert!(count >= 12, "only {count} blocks of SQL were found");
        drop(connection);

        // The others have what they had, and the user may claim again.
        let client = system.client();
        let view = client.view("PROMO_SUPER").await;
        assert_eq!(
            (&view["remaining_amount"], view["claimed_by"].as_array().unwrap().len()),
            (&97.into(), 3)
        );
        assert_eq!((&view["claimed_by"][0], &view["claimed_by"][2]), (&"first".into(), &"later".into()));
        client.claim(USER, "LAST").await.assert_problem(400, "sold_out");
        client.claim(USER, "PROMO_SUPER").await.assert_claimed(USER, "PROMO_SUPER");
        system.stop().await;
    });
}

/// "Erase a user's data": claims for coupons that do not exist leave no claim of the user in a stream.
#[test]
fn claims_for_no_coupon_push_a_user_out_of_the_streams() {
    run(async {
        let system = System::start().await;
        prepare(&system).await;
        for number in 0..200 {
            let coupon = format!("no-such-coupon-{number}");
            system.client().claim("operator", &coupon).await.assert_problem(404, "coupon_not_found");
        }
        let jetstream = jetstream(&system).await;
        for partition in (0..PARTITIONS).map(PartitionId::new) {
            eventually("the applied messages are purged", async || {
                let stream = jetstream.get_stream(stream::name(partition)).await.unwrap();
                (stream.cached_info().state.messages <= 1).then_some(())
            })
            .await;
            let left = queued(&jetstream, partition).await;
            assert!(left.iter().all(|claim| claim.user_id.as_str() == "operator"), "{left:?}");
        }
        system.stop().await;
    });
}
