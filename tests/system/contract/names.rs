//! Names and user ids of all kinds, in bodies, in paths and in the queue.

use serde_json::json;

use crate::harness::{Raw, System, encoded, run};

/// Names with a meaning of their own in JSON, SQL, URLs, HTML, NATS subjects or our own paths.
const NAMES: [&str; 34] = [
    "a/b",
    "/",
    "a.b",
    "*",
    ">",
    "claims.>",
    "a b",
    " a ",
    "🎉",
    "👩‍👩‍👧‍👦",
    "\"a\"",
    "O'Brien",
    "back\\slash",
    "%2F",
    "%",
    "%zz",
    "a?b=c",
    "a#b",
    "a&b=c",
    "a+b",
    "日本語",
    "u\u{308}",
    "\u{fc}",
    "null",
    "{name}",
    ":name",
    "a;b",
    "<b>&amp;",
    "'; DROP TABLE coupons; --",
    "\u{202e}abc",
    "a\u{2028}b",
    "claim",
    "claims",
    "a\u{feff}",
];

#[test]
fn any_text_is_a_name() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        for name in NAMES {
            let created = client.post("/api/coupons", &json!({ "name": name, "amount": 2 })).await;
            assert_eq!(created.status, 201, "{name:?}: {created:?}");
            let claimed = client.claim(name, name).await;
            claimed.assert_claimed(name, name);
            client.claim("x", name).await.assert_claimed("x", name);

            let wanted =
                json!({ "name": name, "amount": 2, "remaining_amount": 0, "claimed_by": [name, "x"] });
            assert_eq!(client.get(created.header("location").unwrap()).await.json(), wanted);
            assert_eq!(client.view(name).await, wanted);
            let viewed = client.get(&format!("/api/coupons/{0}/claims/{0}", encoded(name))).await;
            assert_eq!((viewed.status, viewed.json()), (200, claimed.json()), "{name:?}");
            client.claim(name, name).await.assert_problem(409, "already_claimed");
            client.claim("y", name).await.assert_problem(400, "sold_out");
        }
        let coupons: i64 =
            sqlx::query_scalar("SELECT count(*) FROM coupons").fetch_one(system.pool()).await.unwrap();
        assert_eq!(coupons, NAMES.len() as i64, "each name is another coupon");
        system.stop().await;
    });
}

/// Client libraries take such segments out of a path, whether encoded or not: asked by the byte.
#[test]
fn a_name_of_dots_is_a_name() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        for name in [".", "..", "..."] {
            client.create(name, 1).await;
            client.claim(name, name).await.assert_claimed(name, name);
            for path in [name.to_owned(), encoded(name)] {
                let mut raw = Raw::connect(client.address).await;
                raw.send(format!("GET /api/coupons/{path} HTTP/1.0\r\n\r\n")).await;
                let reply = raw.rest().await;
                assert!(reply.starts_with("HTTP/1.0 200 "), "{reply}");
                let wanted =
                    json!({ "name": name, "amount": 1, "remaining_amount": 0, "claimed_by": [name] });
                let (_, body) = reply.split_once("\r\n\r\n").unwrap();
                assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap(), wanted);
            }
        }
        system.stop().await;
    });
}

#[test]
fn names_have_1_to_255_characters_however_many_bytes() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        for letter in ["a", "é", "日", "🎉"] {
            let (long, longer) = (letter.repeat(255), letter.repeat(256));
            client.create(&long, 2).await;
            client.claim(&long, &long).await.assert_claimed(&long, &long);
            assert_eq!(client.view(&long).await["claimed_by"], json!([long]));
            let path = format!("/api/coupons/{0}/claims/{0}", encoded(&long));
            client.get(&path).await.assert_claimed(&long, &long);

            client
                .post("/api/coupons", &json!({ "name": longer, "amount": 1 }))
                .await
                .assert_problem(400, "invalid_request");
            client.claim(&longer, &long).await.assert_problem(400, "invalid_request");
            client.claim("x", &longer).await.assert_problem(400, "invalid_request");
            client
                .get(&format!("/api/coupons/{}", encoded(&longer)))
                .await
                .assert_problem(400, "invalid_request");
            let path = format!("/api/coupons/{}/claims/{}", encoded(&long), encoded(&longer));
            client.get(&path).await.assert_problem(400, "invalid_request");
        }
        system.stop().await;
    });
}

#[test]
fn blank_text_and_control_characters_are_no_name() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        for name in [
            "",
            " ",
            "   ",
            "\u{3000}",
            "\u{a0}",
            "a\0b",
            "\0",
            "a\nb",
            "\t",
            "\u{7f}",
            "\u{85}",
            "\u{1b}[31m",
        ] {
            client
                .post("/api/coupons", &json!({ "name": name, "amount": 1 }))
                .await
                .assert_problem(400, "invalid_request");
            client.claim(name, "PROMO").await.assert_problem(400, "invalid_request");
            client.claim("x", name).await.assert_problem(400, "invalid_request");
            if !name.is_empty() {
                client
                    .get(&format!("/api/coupons/{}", encoded(name)))
                    .await
                    .assert_problem(400, "invalid_request");
                let path = format!("/api/coupons/PROMO/claims/{}", encoded(name));
                client.get(&path).await.assert_problem(400, "invalid_request");
            }
        }
        // Bytes that are no text at all.
        for path in ["/api/coupons/%FF", "/api/coupons/PROMO/claims/%C3", "/api/coupons/%ED%A0%80"] {
            client.get(path).await.assert_problem(400, "invalid_request");
        }
        assert_eq!(client.view("PROMO").await["remaining_amount"], 1);
        system.stop().await;
    });
}

#[test]
fn a_coupon_may_be_called_claim() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.get("/api/coupons/claim").await.assert_problem(404, "coupon_not_found");
        let created = client.post("/api/coupons", &json!({ "name": "claim", "amount": 1 })).await;
        assert_eq!((created.status, created.header("location")), (201, Some("/api/coupons/claim")));
        client.claim("claims", "claim").await.assert_claimed("claims", "claim");
        let view = client.get("/api/coupons/claim").await;
        let wanted = json!({ "name": "claim", "amount": 1, "remaining_amount": 0, "claimed_by": ["claims"] });
        assert_eq!((view.status, view.json()), (200, wanted));
        client.get("/api/coupons/claim/claims/claims").await.assert_claimed("claims", "claim");
        system.stop().await;
    });
}
