//! Bodies: whatever is wrong with one, the answer is a 400 and nothing happens.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Raw, System, run, send};

/// Bodies that are wrong wherever they are sent.
fn malformed() -> Vec<Vec<u8>> {
    let texts = [
        "",
        " ",
        "{",
        "}",
        "{}",
        "null",
        "true",
        "1",
        "\"a\"",
        "[]",
        "[{}]",
        "not json",
        "{\"name\"",
        "{,}",
        // A list of the values of the fields.
        r#"["c",1]"#,
        r#"["u","c"]"#,
        // JSON, and then more.
        r#"{"name":"c","amount":1,"user_id":"u","coupon_name":"c"} x"#,
        r#"{"name":"c","amount":1,"user_id":"u","coupon_name":"c"}{}"#,
        r#"{"name":"c","amount":1,"user_id":"u","coupon_name":"c",}"#,
        r#"{'name':'c','amount':1,'user_id':'u','coupon_name':'c'}"#,
        // A byte order mark.
        "\u{feff}{\"name\":\"c\",\"amount\":1,\"user_id\":\"u\",\"coupon_name\":\"c\"}",
        // Half a character, none at all.
        r#"{"name":"\ud800","amount":1,"user_id":"\ud800","coupon_name":"c"}"#,
        r#"{"name":"\udc00x","amount":1,"user_id":"u","coupon_name":"\udc00x"}"#,
        r#"{"name":"a\u0000b","amount":1,"user_id":"a\u0000b","coupon_name":"c"}"#,
        "{\"name\":\"a\nb\",\"amount\":1,\"user_id\":\"a\nb\",\"coupon_name\":\"c\"}",
        // A field that is there twice.
        r#"{"name":"c","name":"c","amount":1,"user_id":"u","user_id":"u","coupon_name":"c"}"#,
    ];
    let mut bodies: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    bodies.push(b"{\"name\":\"\xff\",\"amount\":1,\"user_id\":\"\xff\",\"coupon_name\":\"c\"}".to_vec());
    bodies.push(
        b"{\"name\":\"\xc0\xaf\",\"amount\":1,\"user_id\":\"u\",\"coupon_name\":\"\xc0\xaf\"}".to_vec(),
    );
    for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
        let deep = format!("{}1{}", open.repeat(200), close.repeat(200));
        bodies.push(deep.clone().into());
        bodies.push(format!(r#"{{"name":{deep},"amount":1,"user_id":{deep},"coupon_name":"c"}}"#).into());
        bodies.push(
            format!(r#"{{"name":"c","amount":1,"user_id":"u","coupon_name":"c","more":{deep}}}"#).into(),
        );
    }
    // As deep as the longest body can be.
    bodies.push("[".repeat(65_000).into());
    bodies
}

#[test]
fn malformed_bodies_are_refused() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        for path in ["/api/coupons", "/api/coupons/claim"] {
            for body in malformed() {
                let reply = client.post_bytes(path, body.clone()).await;
                let text = String::from_utf8_lossy(&body[..body.len().min(100)]);
                assert_eq!(reply.status, 400, "{path} {text}: {reply:?}");
                assert_eq!(reply.code(), "invalid_request");
            }
        }
        let rows: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM coupons) + (SELECT sum(last_seq) FROM partitions)::bigint",
        )
        .fetch_one(system.pool())
        .await
        .unwrap();
        assert_eq!(rows, 0, "something was created or queued");
        system.stop().await;
    });
}

#[test]
fn every_field_is_needed_and_of_its_type() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("c", 1).await;
        let wrong = [
            json!(null),
            json!(true),
            json!(1),
            json!(1.5),
            json!([]),
            json!(["a"]),
            json!({}),
            json!({"a": 1}),
        ];
        for value in &wrong {
            let bodies = [
                ("/api/coupons", json!({ "name": value, "amount": 1 }), "name"),
                ("/api/coupons/claim", json!({ "user_id": value, "coupon_name": "c" }), "user_id"),
                ("/api/coupons/claim", json!({ "user_id": "u", "coupon_name": value }), "coupon_name"),
            ];
            for (path, body, field) in bodies {
                let reply = client.post(path, &body).await;
                reply.assert_problem(400, "invalid_request");
                assert!(reply.json()["detail"].as_str().unwrap().contains(field), "{reply:?}");
            }
        }
        for (path, body, field) in [
            ("/api/coupons", json!({ "name": "d" }), "amount"),
            ("/api/coupons", json!({ "amount": 1 }), "name"),
            ("/api/coupons", json!({ "Name": "d", "amount": 1 }), "name"),
            ("/api/coupons/claim", json!({ "user_id": "u" }), "coupon_name"),
            ("/api/coupons/claim", json!({ "coupon_name": "c" }), "user_id"),
        ] {
            let reply = client.post(path, &body).await;
            reply.assert_problem(400, "invalid_request");
            assert!(reply.json()["detail"].as_str().unwrap().contains(field), "{reply:?}");
        }
        assert_eq!(client.view("c").await["remaining_amount"], 1);
        system.stop().await;
    });
}

#[test]
fn an_amount_is_an_integer_from_1_to_2147483647() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        for amount in ["1", "2", "2147483647"] {
            let body = format!(r#"{{"name":"good {amount}","amount":{amount}}}"#);
            assert_eq!(client.post_bytes("/api/coupons", body).await.status, 201, "{amount}");
            let view = client.view(&format!("good {amount}")).await;
            assert_eq!(
                (view["amount"].to_string(), view["remaining_amount"].to_string()),
                (amount.into(), amount.into())
            );
        }
        for amount in [
            "0",
            "-0",
            "-1",
            "2147483648",
            "4294967297",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551617",
            "1.5",
            "1e400",
            "1e-1",
            "-1e9",
            "01",
            "+1",
            "0x10",
            "1_000",
            "NaN",
            "Infinity",
            "\"1\"",
            "\"\"",
            "null",
            "true",
            "[1]",
            "{}",
        ] {
            let reply =
                client.post_bytes("/api/coupons", format!(r#"{{"name":"bad","amount":{amount}}}"#)).await;
            assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{amount}");
        }
        client.get("/api/coupons/bad").await.assert_problem(404, "coupon_not_found");
        system.stop().await;
    });
}

#[test]
fn unknown_fields_and_white_space_are_ignored() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let body = json!({ "x": [{ "y": [1, 2.5, null] }], "name": "c", "amount": 1, "remaining_amount": 9, "": "" });
        assert_eq!(client.post("/api/coupons", &body).await.status, 201);
        assert_eq!(client.view("c").await["remaining_amount"], 1);
        // The names of the fields and their values may be escaped.
        let body = b" \r\n\t{ \"\\u0075ser_id\" : \"\\u0061\\ud83c\\udf89\",\n\"coupon_name\":\"c\", \"amount\":[] } \n";
        let reply = client.post_bytes("/api/coupons/claim", *body).await;
        reply.assert_claimed("a🎉", "c");
        system.stop().await;
    });
}

#[test]
fn bodies_are_json_and_say_so() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let good = [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/problem+json",
        ];
        for (number, content_type) in good.into_iter().enumerate() {
            let body = json!({ "name": format!("good {number}"), "amount": 1 }).to_string();
            let request = client.request(Method::POST, "/api/coupons").header("content-type", content_type);
            assert_eq!(send(request.body(body)).await.status, 201, "{content_type}");
        }
        for path in ["/api/coupons", "/api/coupons/claim"] {
            let body =
                json!({ "name": "bad", "amount": 1, "user_id": "u", "coupon_name": "good 0" }).to_string();
            for content_type in ["text/plain", "application/x-www-form-urlencoded", "text/json", "json", ""] {
                let request = client.request(Method::POST, path).header("content-type", content_type);
                send(request.body(body.clone())).await.assert_problem(415, "unsupported_media_type");
            }
            let none = send(client.request(Method::POST, path).body(body.clone())).await;
            none.assert_problem(415, "unsupported_media_type");
            let json = |name: &str, value: &str| {
                let request = client.request(Method::POST, path).header(name, value).body(body.clone());
                if name == "content-type" {
                    request
                } else {
                    request.header("content-type", "application/json")
                }
            };
            // Other characters than those of UTF-8, or compressed ones.
            for (name, value) in [
                ("content-type", "application/json; charset=iso-8859-1"),
                ("content-type", "application/problem+json;charset=\"utf-16\""),
                ("content-encoding", "gzip"),
                ("content-encoding", "br"),
                ("content-encoding", "identity, gzip"),
            ] {
                send(json(name, value)).await.assert_problem(415, "unsupported_media_type");
            }
            let plain = send(json("content-encoding", "identity")).await;
            assert!([200, 201].contains(&plain.status), "{plain:?}");
        }
        // The last one of each was taken.
        assert_eq!(client.view("bad").await["remaining_amount"], 1);
        assert_eq!(client.view("good 0").await["claimed_by"], json!(["u"]));
        system.stop().await;
    });
}

#[test]
fn bodies_have_a_limit() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let padded = |name: &str, length: usize| {
            let body = json!({ "name": name, "amount": 1 }).to_string();
            format!("{body}{}", " ".repeat(length - body.len()))
        };
        assert_eq!(client.post_bytes("/api/coupons", padded("full", 65_536)).await.status, 201);
        // Refused before the body comes: a client that sends it all the same may find the connection
        // closed before it has read the answer.
        for path in ["/api/coupons", "/api/coupons/claim"] {
            for length in [65_537, 1_000_000, u64::MAX / 2] {
                let mut raw = Raw::connect(client.address).await;
                let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
                raw.send(format!("{head}content-length: {length}\r\n\r\n")).await;
                let reply = raw.reply().await.unwrap();
                assert_eq!(reply.status, 413, "{reply:?}");
                assert!(reply.body.contains(r#""code":"body_too_large""#), "{reply:?}");
                assert!(reply.head.contains("\r\ncontent-type: application/problem+json\r\n"), "{reply:?}");
                // Nobody is to send another request on a connection that is about to be closed.
                assert!(reply.head.contains("\r\nconnection: close\r\n"), "{reply:?}");
                assert_eq!(raw.rest().await, "");
            }
        }
        client.get("/api/coupons/over").await.assert_problem(404, "coupon_not_found");
        system.stop().await;
    });
}
