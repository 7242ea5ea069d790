//! Rows changed by hand in Postgres are seen by the next claim.

use futures::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::{Reply, Setup, System, eventually, run};

async fn by_hand(pool: &PgPool, statements: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(pool).await.unwrap();
}

async fn coupon(pool: &PgPool, name: &str, amount: i32) {
    by_hand(
        pool,
        format!("INSERT INTO coupons (name, amount, remaining_amount) VALUES ('{name}', {amount}, {amount})"),
    )
    .await;
}

#[test]
fn a_coupon_that_was_inserted_is_sold() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.claim("ann", "PROMO").await.assert_problem(404, "coupon_not_found");
        coupon(system.pool(), "PROMO", 1).await;
        assert_eq!(client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO").1, 1);
        client.claim("bob", "PROMO").await.assert_problem(400, "sold_out");
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["ann"]));
        system.stop().await;
    });
}

#[test]
fn everything_begins_anew_after_a_truncation() {
    run(async {
        let system = Setup::new().apis(2).workers(2).start().await;
        let (client, other) = (&system.clients()[0], &system.clients()[1]);
        for round in 0..20 {
            coupon(system.pool(), "PROMO", 2).await;
            assert_eq!(
                client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO").1,
                1,
                "round {round}"
            );
            assert_eq!(other.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO").1, 2);
            for api in [client, other] {
                api.claim("cyd", "PROMO").await.assert_problem(400, "sold_out");
                api.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
            }
            by_hand(system.pool(), "TRUNCATE coupons, claims").await;
            for api in [client, other] {
                api.claim("ann", "PROMO").await.assert_problem(404, "coupon_not_found");
                api.get("/api/coupons/PROMO").await.assert_problem(404, "coupon_not_found");
            }
        }
        system.stop().await;
    });
}

#[test]
fn stock_that_was_added_is_sold() {
    run(async {
        let system = Setup::new().apis(2).workers(1).start().await;
        let (client, other) = (&system.clients()[0], &system.clients()[1]);
        client.create("PROMO", 1).await;
        client.claim("first", "PROMO").await.assert_claimed("first", "PROMO");
        for round in 0..20 {
            let user = format!("user-{round}");
            client.claim(&user, "PROMO").await.assert_problem(400, "sold_out");
            other.claim(&user, "PROMO").await.assert_problem(400, "sold_out");
            by_hand(system.pool(), "UPDATE coupons SET amount = amount + 1, remaining_amount = 1").await;
            assert_eq!(other.claim(&user, "PROMO").await.assert_claimed(&user, "PROMO").1, round + 2);
            client.claim("late", "PROMO").await.assert_problem(400, "sold_out");
        }
        // And stock that was taken away is not.
        by_hand(system.pool(), "UPDATE coupons SET amount = amount + 5, remaining_amount = 5").await;
        by_hand(system.pool(), "UPDATE coupons SET amount = amount - 5, remaining_amount = 0").await;
        client.claim("late", "PROMO").await.assert_problem(400, "sold_out");
        system.stop().await;
    });
}

#[test]
fn a_claim_that_was_inserted_has_its_place() {
    run(async {
        let system = Setup::new().apis(2).workers(1).start().await;
        let (client, other) = (&system.clients()[0], &system.clients()[1]);
        client.create("PROMO", 4).await;
        client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        let insert = |user: &str| {
            format!(
                "INSERT INTO claims (user_id, coupon_name) VALUES ('{user}', 'PROMO');
                 UPDATE coupons SET remaining_amount = remaining_amount - 1;"
            )
        };
        by_hand(system.pool(), insert("bob")).await;
        client.claim("bob", "PROMO").await.assert_problem(409, "already_claimed");
        client.claim_with_key("bob", "PROMO", "key").await.assert_problem(409, "already_claimed");
        client.get("/api/coupons/PROMO/claims/bob").await.assert_claimed("bob", "PROMO");
        assert_eq!(client.claim("cyd", "PROMO").await.assert_claimed("cyd", "PROMO").1, 3);
        by_hand(system.pool(), insert("dan")).await;
        for api in [client, other] {
            api.claim("dan", "PROMO").await.assert_problem(409, "already_claimed");
            api.claim("eve", "PROMO").await.assert_problem(400, "sold_out");
            assert_eq!(api.view("PROMO").await["claimed_by"], json!(["ann", "bob", "cyd", "dan"]));
        }
        // A user who is given the coupon after it was sold out has it.
        by_hand(
            system.pool(),
            "UPDATE coupons SET amount = 5; INSERT INTO claims (user_id, coupon_name) VALUES ('eve', 'PROMO')",
        )
        .await;
        for api in [client, other] {
            api.claim("eve", "PROMO").await.assert_problem(409, "already_claimed");
        }
        system.stop().await;
    });
}

#[test]
fn a_claim_that_was_deleted_may_be_made_again() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 2).await;
        client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO");
        client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
        by_hand(
            system.pool(),
            "DELETE FROM claims WHERE user_id = 'ann'; UPDATE coupons SET remaining_amount = 1",
        )
        .await;
        // Positions are not used again.
        assert_eq!(client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO").1, 3);
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["bob", "ann"]));
        system.stop_unsound().await;
    });
}

#[test]
fn claims_inserted_while_others_claim_get_positions_of_their_own() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 200).await;
        let pool = system.pool();
        let inserted = (0..100).map(|number| async move {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query("INSERT INTO claims (user_id, coupon_name) VALUES ($1, 'PROMO')")
                .bind(format!("hand-{number}"))
                .execute(&mut *transaction)
                .await
                .unwrap();
            sqlx::query("UPDATE coupons SET remaining_amount = remaining_amount - 1")
                .execute(&mut *transaction)
                .await
                .unwrap();
            transaction.commit().await.unwrap();
        });
        let claimed = (0..100).map(|number| async move {
            let user = format!("user-{number}");
            client.claim(&user, "PROMO").await.assert_claimed(&user, "PROMO");
        });
        tokio::join!(join_all(inserted), join_all(claimed));
        assert_eq!(client.view("PROMO").await["claimed_by"].as_array().unwrap().len(), 200);
        client.claim("late", "PROMO").await.assert_problem(400, "sold_out");
        system.stop().await;
    });
}

/// Changes rows while a worker is about to write what it decided from them; it looks again.
async fn overtake(system: &System, user: &str, changes: &'static str) -> Reply {
    let mut transaction = system.pool().begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(changes)).execute(&mut *transaction).await.unwrap();
    let (client, user) = (system.client().clone(), user.to_owned());
    let claim = tokio::spawn(async move { client.claim(&user, "PROMO").await });
    eventually("the worker waits for the row", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'coupon-worker' AND wait_event_type = 'Lock'",
        )
        .fetch_one(system.pool())
        .await
        .unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    transaction.commit().await.unwrap();
    claim.await.unwrap()
}

#[test]
fn what_is_changed_between_the_decision_and_the_commit_counts() {
    run(async {
        let system = System::start().await;
        system.client().create("PROMO", 6).await;
        // The user was given the coupon.
        let given = "INSERT INTO claims (user_id, coupon_name) VALUES ('ann', 'PROMO');
                     UPDATE coupons SET remaining_amount = remaining_amount - 1";
        overtake(&system, "ann", given).await.assert_problem(409, "already_claimed");
        // Somebody else was, and has the position.
        let given = "INSERT INTO claims (user_id, coupon_name) VALUES ('bob', 'PROMO');
                     UPDATE coupons SET amount = amount + 1";
        assert_eq!(overtake(&system, "cyd", given).await.assert_claimed("cyd", "PROMO").1, 3);
        // The stock is another one.
        let less = "UPDATE coupons SET amount = 3, remaining_amount = 0";
        overtake(&system, "dan", less).await.assert_problem(400, "sold_out");
        let more = "UPDATE coupons SET amount = 5, remaining_amount = 2";
        by_hand(system.pool(), more).await;
        assert_eq!(
            overtake(&system, "dan", "UPDATE coupons SET amount = 4, remaining_amount = 1")
                .await
                .assert_claimed("dan", "PROMO")
                .1,
            4
        );
        // The coupon is gone.
        by_hand(system.pool(), "UPDATE coupons SET amount = 5, remaining_amount = 1").await;
        let gone = "DELETE FROM claims; DELETE FROM coupons";
        overtake(&system, "eve", gone).await.assert_problem(404, "coupon_not_found");
        system.stop().await;
    });
}

/// Enough claims for the worker to trust what it remembers of the coupon.
async fn warm_up(system: &System, round: &str) {
    for number in 0..12 {
        let user = format!("{round}-{number}");
        system.client().claim(&user, "PROMO").await.assert_claimed(&user, "PROMO");
    }
}

#[test]
fn what_a_worker_remembers_hides_nothing_that_was_changed() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 100).await;

        warm_up(&system, "a").await;
        client.claim("a-3", "PROMO").await.assert_problem(409, "already_claimed");
        warm_up(&system, "b").await;
        let with_key = |user: &'static str| client.claim_with_key(user, "PROMO", "key");
        let first = with_key("ann").await.assert_claimed("ann", "PROMO");
        assert_eq!(with_key("ann").await.assert_claimed("ann", "PROMO"), first);

        // A user was given the coupon,
        warm_up(&system, "c").await;
        let given = "INSERT INTO claims (user_id, coupon_name) VALUES ('bob', 'PROMO');
                     UPDATE coupons SET remaining_amount = remaining_amount - 1";
        by_hand(system.pool(), given).await;
        client.claim("bob", "PROMO").await.assert_problem(409, "already_claimed");
        // and one beside the stock, who has the position.
        warm_up(&system, "d").await;
        let given = "INSERT INTO claims (user_id, coupon_name) VALUES ('cyd', 'PROMO');
                     UPDATE coupons SET amount = amount + 1";
        by_hand(system.pool(), given).await;
        assert_eq!(client.claim("dan", "PROMO").await.assert_claimed("dan", "PROMO").1, 52);

        // The stock is another one.
        warm_up(&system, "e").await;
        by_hand(system.pool(), "UPDATE coupons SET amount = 64, remaining_amount = 0").await;
        client.claim("eve", "PROMO").await.assert_problem(400, "sold_out");
        by_hand(system.pool(), "UPDATE coupons SET amount = 164, remaining_amount = 100").await;
        warm_up(&system, "f").await;
        by_hand(system.pool(), "UPDATE coupons SET amount = 77, remaining_amount = 1").await;
        assert_eq!(client.claim("fay", "PROMO").await.assert_claimed("fay", "PROMO").1, 77);
        client.claim("gus", "PROMO").await.assert_problem(400, "sold_out");

        // The coupon is another one, with as many left as the former had.
        by_hand(system.pool(), "UPDATE coupons SET amount = 120, remaining_amount = 43").await;
        warm_up(&system, "g").await;
        by_hand(system.pool(), "DELETE FROM claims; DELETE FROM coupons").await;
        coupon(system.pool(), "PROMO", 31).await;
        assert_eq!(client.claim("hal", "PROMO").await.assert_claimed("hal", "PROMO").1, 1);
        // Or is in everything what the former one was, but has no claims.
        warm_up(&system, "h").await;
        let again = "UPDATE coupons SET amount = remaining_amount; DELETE FROM claims;
                     CREATE TABLE former AS TABLE coupons; DELETE FROM coupons; INSERT INTO coupons TABLE former";
        by_hand(system.pool(), again).await;
        assert_eq!(client.claim("hal", "PROMO").await.assert_claimed("hal", "PROMO").1, 1);
        warm_up(&system, "i").await;
        by_hand(system.pool(), "DELETE FROM claims; DELETE FROM coupons").await;
        client.claim("ida", "PROMO").await.assert_problem(404, "coupon_not_found");
        system.stop().await;
    });
}

#[test]
fn a_coupon_that_a_worker_does_not_remember_hides_nothing_either() {
    run(async {
        // One partition, and so one memory.
        let system = Setup::new().apis(1).workers(1).env("PARTITIONS", 1).start().await;
        let client = system.client();
        client.create("PROMO", 100).await;

        warm_up(&system, "a").await;
        client.claim("ann", "NONE").await.assert_problem(404, "coupon_not_found");
        coupon(system.pool(), "NEW", 1).await;
        assert_eq!(client.claim("ann", "NEW").await.assert_claimed("ann", "NEW").1, 1);
        client.claim("bob", "NEW").await.assert_problem(400, "sold_out");
        client.claim("ann", "NEW").await.assert_problem(409, "already_claimed");

        // A user has it, and the first position,
        warm_up(&system, "b").await;
        let given = "INSERT INTO coupons (name, amount, remaining_amount) VALUES ('GIVEN', 3, 2);
                     INSERT INTO claims (user_id, coupon_name) VALUES ('bob', 'GIVEN')";
        by_hand(system.pool(), given).await;
        assert_eq!(client.claim("cyd", "GIVEN").await.assert_claimed("cyd", "GIVEN").1, 2);
        client.claim("bob", "GIVEN").await.assert_problem(409, "already_claimed");
        // or there was nothing else to have.
        warm_up(&system, "c").await;
        let gone = "INSERT INTO coupons (name, amount, remaining_amount) VALUES ('GONE', 1, 0);
                    INSERT INTO claims (user_id, coupon_name) VALUES ('bob', 'GONE')";
        by_hand(system.pool(), gone).await;
        client.claim("bob", "GONE").await.assert_problem(409, "already_claimed");
        client.claim("cyd", "GONE").await.assert_problem(400, "sold_out");

        // Known and unknown ones in the same batch.
        warm_up(&system, "d").await;
        for number in 0..8 {
            coupon(system.pool(), &format!("LATE-{number}"), 2).await;
        }
        let claims = (0..32).map(|number| async move {
            let user = format!("user-{number}");
            let name = if number % 2 == 0 { "PROMO".to_owned() } else { format!("LATE-{}", number / 4) };
            client.claim(&user, &name).await.assert_claimed(&user, &name);
        });
        join_all(claims).await;
        for number in 0..8 {
            let name = format!("LATE-{number}");
            client.claim("late", &name).await.assert_problem(400, "sold_out");
            assert_eq!(client.view(&name).await["claimed_by"].as_array().unwrap().len(), 2);
        }
        system.stop().await;
    });
}
