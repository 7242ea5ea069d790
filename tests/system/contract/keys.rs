//! `Idempotency-Key`: a claim that is repeated gets its first outcome again.

use serde_json::json;

use crate::harness::{Raw, Reply, Setup, System, json_request, run};

#[test]
fn a_repeated_claim_gets_the_same_answer() {
    run(async {
        let system = Setup::new().apis(2).workers(1).start().await;
        let (client, other) = (&system.clients()[0], &system.clients()[1]);
        client.create("PROMO", 2).await;
        let first = client.claim_with_key("ann", "PROMO", "k-1").await;
        let (id, position) = first.assert_claimed("ann", "PROMO");
        assert_eq!(position, 1);
        let assert_same = |again: &Reply| {
            again.assert_claimed("ann", "PROMO");
            assert_eq!(again.body, first.body);
        };
        for key in ["k-1", "\"k-1\"", " k-1 "] {
            assert_same(&client.claim_with_key("ann", "PROMO", key).await);
            assert_same(&other.claim_with_key("ann", "PROMO", key).await);
        }
        // Another key, or none, is another claim.
        client.claim_with_key("ann", "PROMO", "k-2").await.assert_problem(409, "already_claimed");
        client.claim_with_key("ann", "PROMO", "K-1").await.assert_problem(409, "already_claimed");
        client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
        // The same key of another user is another claim.
        let (bobs, position) =
            client.claim_with_key("bob", "PROMO", "k-1").await.assert_claimed("bob", "PROMO");
        assert_ne!(bobs, id);
        assert_eq!(position, 2);

        // Nothing is left now; that changes nothing for those who have it.
        for _ in 0..5 {
            assert_same(&client.claim_with_key("ann", "PROMO", "k-1").await);
            assert_same(&other.claim_with_key("ann", "PROMO", "\"k-1\"").await);
            client.claim_with_key("ann", "PROMO", "k-2").await.assert_problem(409, "already_claimed");
            client.claim_with_key("cyd", "PROMO", "k-1").await.assert_problem(400, "sold_out");
        }
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["ann", "bob"]));
        system.stop().await;
    });
}

#[test]
fn a_key_belongs_to_its_coupon() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("a", 1).await;
        client.create("b", 1).await;
        let (first, _) = client.claim_with_key("ann", "a", "key").await.assert_claimed("ann", "a");
        let (second, _) = client.claim_with_key("ann", "b", "key").await.assert_claimed("ann", "b");
        assert_ne!(first, second);
        system.stop().await;
    });
}

#[test]
fn a_claim_that_was_refused_may_be_repeated_until_it_wins() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.claim_with_key("ann", "PROMO", "key").await.assert_problem(404, "coupon_not_found");
        client.create("PROMO", 1).await;
        client.claim_with_key("ann", "PROMO", "key").await.assert_claimed("ann", "PROMO");
        system.stop().await;
    });
}

#[test]
fn keys_have_1_to_255_characters() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 100).await;
        let quoted = format!("\"{}\"", "k".repeat(255));
        for (user, key) in
            [("a", "k"), ("b", &"k".repeat(255)), ("c", &quoted), ("d", &"é".repeat(255)), ("e", "\"")]
        {
            client.claim_with_key(user, "PROMO", key).await.assert_claimed(user, "PROMO");
        }
        let quoted = format!("\"{}\"", "k".repeat(256));
        for key in ["", "\"\"", "   ", "a\tb", &"k".repeat(256), &quoted, &"é".repeat(256)] {
            client.claim_with_key("f", "PROMO", key).await.assert_problem(400, "invalid_request");
        }
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["a", "b", "c", "d", "e"]));
        system.stop().await;
    });
}

#[test]
fn a_claim_has_one_key_at_most() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        let claim = json_request("POST", "/api/coupons/claim", r#"{"user_id":"ann","coupon_name":"PROMO"}"#);
        let mut raw = Raw::connect(client.address).await;
        raw.send(claim.replacen("host: x", "host: x\r\nidempotency-key: a\r\nidempotency-key: b", 1)).await;
        let reply = raw.reply().await.unwrap();
        assert!(
            reply.status == 400 && reply.body.contains("Idempotency-Key must stand only once"),
            "{reply:?}"
        );
        // It was not queued.
        client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO");
        system.stop().await;
    });
}
