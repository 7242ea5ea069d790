//! Claims, and the order in which they are checked.

use serde_json::json;
use uuid::Uuid;

use crate::harness::{PARTITIONS, System, partition_of, run};

#[test]
fn a_claim_is_answered_with_its_position() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 3).await;
        let mut ids = Vec::new();
        for (user, position) in [("ann", 1), ("bob", 2), ("cyd", 3)] {
            let (id, found) = client.claim(user, "PROMO").await.assert_claimed(user, "PROMO");
            assert_eq!(found, position);
            ids.push(id);
        }
        let rows: Vec<(Uuid, i64)> =
            sqlx::query_as("SELECT claim_id, position FROM claims ORDER BY position")
                .fetch_all(system.pool())
                .await
                .unwrap();
        assert_eq!(rows, ids.into_iter().zip(1..).collect::<Vec<_>>());
        assert_eq!(
            client.view("PROMO").await,
            json!({ "name": "PROMO", "amount": 3, "remaining_amount": 0, "claimed_by": ["ann", "bob", "cyd"] })
        );
        system.stop().await;
    });
}

#[test]
fn unknown_comes_before_claimed_and_claimed_before_sold_out() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.claim("ann", "PROMO").await.assert_problem(404, "coupon_not_found");
        client.create("PROMO", 2).await;
        client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
        client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO");
        // Sold out from here on; asked often, because the answers may take a short way then.
        for _ in 0..5 {
            client.claim("cyd", "PROMO").await.assert_problem(400, "sold_out");
            client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
            client.claim("bob", "PROMO").await.assert_problem(409, "already_claimed");
            client.claim("ann", "OTHER").await.assert_problem(404, "coupon_not_found");
        }
        // Case and white space make another user.
        client.claim("Ann", "PROMO").await.assert_problem(400, "sold_out");
        client.claim("ann ", "PROMO").await.assert_problem(400, "sold_out");
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["ann", "bob"]));
        system.stop().await;
    });
}

#[test]
fn a_user_may_have_one_of_each_coupon() {
    run(async {
        let system = System::start().await;
        for coupon in ["a", "b", "c"] {
            system.client().create(coupon, 1).await;
            let (_, position) = system.client().claim("ann", coupon).await.assert_claimed("ann", coupon);
            assert_eq!(position, 1);
        }
        system.stop().await;
    });
}

#[test]
fn a_claim_can_be_viewed() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.get("/api/coupons/PROMO/claims/ann").await.assert_problem(404, "coupon_not_found");
        client.create("PROMO", 1).await;
        client.get("/api/coupons/PROMO/claims/ann").await.assert_problem(404, "claim_not_found");
        let claimed = client.claim("ann", "PROMO").await;
        let (id, _) = claimed.assert_claimed("ann", "PROMO");
        let viewed = client.get("/api/coupons/PROMO/claims/ann").await;
        viewed.assert_claimed("ann", "PROMO");
        assert_eq!(viewed.json(), claimed.json());
        client.claim("bob", "PROMO").await.assert_problem(400, "sold_out");
        client.get("/api/coupons/PROMO/claims/bob").await.assert_problem(404, "claim_not_found");

        // With the query of a Location: what became of that very claim.
        let partition = partition_of("PROMO", 8);
        let (generation, last_seq): (i64, i64) =
            sqlx::query_as("SELECT generation, last_seq FROM partitions WHERE id = $1")
                .bind(partition.as_i32())
                .fetch_one(system.pool())
                .await
                .unwrap();
        let ask = async |user: &str, id: Uuid, generation: i64, sequence: i64| {
            let query =
                format!("claim_id={id}&partition={partition}&generation={generation}&sequence={sequence}");
            client.get(&format!("/api/coupons/PROMO/claims/{user}?{query}")).await
        };
        assert_eq!(ask("ann", id, generation, last_seq).await.json(), claimed.json());
        let other = Uuid::new_v4();
        ask("ann", other, generation, last_seq).await.assert_problem(409, "already_claimed");
        ask("bob", other, generation, last_seq).await.assert_problem(400, "sold_out");
        ask("bob", other, generation, last_seq + 1).await.assert_pending("bob", "PROMO");
        ask("bob", other, generation + 1, last_seq).await.assert_problem(503, "outcome_unknown");
        system.stop().await;
    });
}

#[test]
fn a_query_that_is_no_receipt_is_refused() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        let (id, partition) = (Uuid::new_v4(), partition_of("PROMO", PARTITIONS).number());
        let other = (partition + 1) % PARTITIONS;
        for query in [
            "claim_id=".to_owned(),
            format!("claim_id={id}"),
            format!("claim_id={id}&partition={partition}&generation=1"),
            format!("claim_id=1&partition={partition}&generation=1&sequence=1"),
            format!("claim_id={id}&partition={other}&generation=1&sequence=1"),
            format!("claim_id={id}&partition=-1&generation=1&sequence=1"),
            format!("claim_id={id}&partition={partition}&generation=one&sequence=1"),
            format!("claim_id={id}&partition={partition}&generation=1&sequence=99999999999999999999"),
            format!("claim_id={id}&partition={partition}&generation=1&sequence=1&sequence=2"),
        ] {
            let reply = client.get(&format!("/api/coupons/PROMO/claims/ann?{query}")).await;
            assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{query}");
        }
        // Another query is none of our business.
        let tracked = client.get("/api/coupons/PROMO/claims/ann?utm_source=mail").await;
        tracked.assert_problem(404, "claim_not_found");
        system.stop().await;
    });
}
