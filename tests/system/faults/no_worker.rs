//! No worker at all: claims are accepted and wait.

use futures::future::join_all;
use serde_json::json;

use crate::harness::{Client, PARTITIONS, Reply, Setup, System, a_coupon_per_partition, eventually, run};

async fn start() -> System {
    Setup::new().apis(2).env("CLAIM_TIMEOUT_MS", 300).start().await
}

/// Asks at a 202's `Location` until it says something else.
async fn outcome(client: &Client, location: &str) -> Reply {
    eventually("an outcome", async || {
        let reply = client.get(location).await;
        (reply.status != 202).then_some(reply)
    })
    .await
}

#[test]
fn claims_wait_for_a_worker_and_their_outcome_can_be_asked_for() {
    run(async {
        let mut system = start().await;
        let (client, other) = (system.clients()[0].clone(), system.clients()[1].clone());
        client.create("two / of it", 2).await;
        let mut claims = Vec::new();
        for (user, coupon) in [
            ("ann", "two / of it"),
            ("ann", "two / of it"),
            ("bob@example.com", "two / of it"),
            ("cyd", "two / of it"),
            ("ann", "two / of it"),
            ("dan", "none of it"),
        ] {
            let reply = client.claim(user, coupon).await;
            let location = reply.assert_pending(user, coupon);
            let id = reply.json()["claim_id"].clone();
            // Any API knows as much, as often as it is asked.
            for api in [&client, &other, &client] {
                let asked = api.get(&location).await;
                assert_eq!(asked.assert_pending(user, coupon), location);
                assert_eq!(asked.json()["claim_id"], id);
            }
            claims.push((location, id));
        }
        assert_eq!(client.view("two / of it").await["claimed_by"], json!([]));
        client
            .get("/api/coupons/two%20%2F%20of%20it/claims/ann")
            .await
            .assert_problem(404, "claim_not_found");

        system.add_worker().await;
        let mut replies = Vec::new();
        for (location, id) in &claims {
            let reply = outcome(&client, location).await;
            let again = other.get(location).await;
            assert_eq!((again.status, &again.body), (reply.status, &reply.body));
            if reply.status == 200 {
                assert_eq!(reply.json()["claim_id"], *id);
            }
            replies.push(reply);
        }
        assert_eq!(replies[0].assert_claimed("ann", "two / of it").1, 1);
        replies[1].assert_problem(409, "already_claimed");
        assert_eq!(replies[2].assert_claimed("bob@example.com", "two / of it").1, 2);
        replies[3].assert_problem(400, "sold_out");
        replies[4].assert_problem(409, "already_claimed");
        replies[5].assert_problem(404, "coupon_not_found");
        assert_eq!(client.view("two / of it").await["claimed_by"], json!(["ann", "bob@example.com"]));
        system.stop().await;
    });
}

#[test]
fn the_very_first_claims_wait_like_all_others() {
    run(async {
        let mut system = start().await;
        let client = system.client().clone();
        // At once: whatever the API has to learn about its new streams, it knows before it serves.
        let coupons = a_coupon_per_partition(PARTITIONS);
        let claims = coupons.iter().map(|coupon| client.claim("ann", coupon));
        let replies = join_all(claims).await;
        let locations: Vec<_> =
            replies.iter().zip(&coupons).map(|(reply, coupon)| reply.assert_pending("ann", coupon)).collect();
        system.add_worker().await;
        for location in locations {
            outcome(&client, &location).await.assert_problem(404, "coupon_not_found");
        }
        system.stop().await;
    });
}

#[test]
fn a_claim_that_waits_may_be_repeated_with_its_key() {
    run(async {
        let mut system = start().await;
        let client = system.client().clone();
        client.create("PROMO", 5).await;
        let (mut ids, mut locations) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let reply = client.claim_with_key("ann", "PROMO", "key").await;
            locations.push(reply.assert_pending("ann", "PROMO"));
            ids.push(reply.json()["claim_id"].clone());
        }
        assert!(ids.iter().all(|id| *id == ids[0]));
        system.add_worker().await;
        for location in locations {
            let reply = outcome(&client, &location).await;
            assert_eq!(reply.assert_claimed("ann", "PROMO").1, 1);
            assert_eq!(reply.json()["claim_id"], ids[0]);
        }
        assert_eq!(client.claim_with_key("ann", "PROMO", "key").await.assert_claimed("ann", "PROMO").1, 1);
        assert_eq!(client.view("PROMO").await["remaining_amount"], 4);
        system.stop().await;
    });
}

#[test]
fn the_wait_ends_as_soon_as_a_worker_starts() {
    run(async {
        let mut system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 20_000).start().await;
        let client = system.client().clone();
        client.create("PROMO", 1).await;
        let waiting = ["ann", "bob"].map(|user| {
            let client = client.clone();
            tokio::spawn(async move { client.claim(user, "PROMO").await })
        });
        system.add_worker().await;
        let [ann, bob] = waiting;
        let mut statuses = [ann.await.unwrap().status, bob.await.unwrap().status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400]);
        system.stop().await;
    });
}
