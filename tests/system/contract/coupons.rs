//! Coupons: created and viewed; health.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Setup, System, run};

#[test]
fn a_coupon_is_created_once() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let created = client.post("/api/coupons", &json!({ "name": "PROMO_SUPER", "amount": 100 })).await;
        assert_eq!((created.status, created.text().as_str()), (201, ""));
        assert_eq!(created.header("location"), Some("/api/coupons/PROMO_SUPER"));
        assert_eq!(created.header("content-type"), None);
        for amount in [100, 5] {
            let again =
                client.post("/api/coupons", &json!({ "name": "PROMO_SUPER", "amount": amount })).await;
            again.assert_problem(409, "coupon_exists");
            assert_eq!(again.header("location"), None);
        }
        let view = client.get("/api/coupons/PROMO_SUPER").await;
        assert_eq!((view.status, view.header("content-type")), (200, Some("application/json")));
        assert_eq!(
            view.json(),
            json!({ "name": "PROMO_SUPER", "amount": 100, "remaining_amount": 100, "claimed_by": [] })
        );
        client.get("/api/coupons/promo_super").await.assert_problem(404, "coupon_not_found");
        // What GET has, HEAD has, without the body.
        let head = client.request(Method::HEAD, "/api/coupons/PROMO_SUPER").send().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(head.bytes().await.unwrap().len(), 0);
        system.stop().await;
    });
}

#[test]
fn one_of_many_who_create_the_same_coupon_succeeds() {
    run(async {
        let system = Setup::new().apis(2).start().await;
        let create = |number: usize| {
            let client = system.clients()[number % 2].clone();
            async move { client.post("/api/coupons", &json!({ "name": "c", "amount": number + 1 })).await }
        };
        let replies = futures::future::join_all((0..20).map(create)).await;
        let (created, refused): (Vec<_>, Vec<_>) =
            replies.iter().enumerate().partition(|(_, r)| r.status == 201);
        assert_eq!((created.len(), refused.len()), (1, 19));
        refused.iter().for_each(|(_, reply)| reply.assert_problem(409, "coupon_exists"));
        assert_eq!(system.client().view("c").await["amount"], json!(created[0].0 + 1));
        system.stop().await;
    });
}

#[test]
fn a_view_lists_all_winners_in_the_order_of_their_claims() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        // Pages hold 1,000.
        for count in [0_i32, 1, 999, 1_000, 1_001, 4_999, 5_000, 5_001, 10_000, 12_345] {
            let name = format!("coupon-{count}");
            sqlx::query(
                "INSERT INTO coupons (name, amount, remaining_amount) VALUES ($1, 20000, 20000 - $2)",
            )
            .bind(&name)
            .bind(count)
            .execute(system.pool())
            .await
            .unwrap();
            // Neither the order of the rows nor that of the names is the order of the claims.
            sqlx::query(
                "INSERT INTO claims (coupon_name, user_id, position)
                 SELECT $1, reverse(n::text) || '\"', n FROM generate_series(1, $2) AS n ORDER BY md5(n::text)",
            )
            .bind(&name)
            .bind(count)
            .execute(system.pool())
            .await
            .unwrap();
            let users: Vec<String> =
                (1..=count).map(|n| n.to_string().chars().rev().chain(['"']).collect()).collect();
            assert_eq!(
                client.view(&name).await,
                json!({ "name": name, "amount": 20_000, "remaining_amount": 20_000 - count, "claimed_by": users }),
                "{count}"
            );
        }
        system.stop().await;
    });
}

#[test]
fn health_is_reported() {
    run(async {
        let system = System::start().await;
        let alive = system.client().get("/health").await;
        assert_eq!((alive.status, alive.header("content-type")), (200, Some("application/json")));
        assert_eq!(alive.json(), json!({ "status": "ok" }));
        let ready = system.client().get("/health/ready").await;
        assert_eq!((ready.status, ready.header("content-type")), (200, Some("application/json")));
        assert_eq!(ready.json(), json!({ "status": "ready", "postgres": "ok", "nats": "ok" }));
        system.stop().await;
    });
}
