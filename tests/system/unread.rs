//! Requests that are answered whatever their bodies say: the next request on the connection is answered as well, or
//! the answer says that there is none.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Raw, RawReply, Setup, System, eventually, json_request, run};

/// The end of a connection comes about a second after its last answer.
const AT_END: Duration = Duration::from_secs(4);

/// Heads of requests for which no handler wants a body, each without its last lines, and the status of the answer.
const UNWANTED: [(&str, u16); 7] = [
    ("POST /nothing HTTP/1.1\r\nhost: x\r\n", 404),
    ("GET /health HTTP/1.1\r\nhost: x\r\n", 200),
    ("PUT /api/coupons/claim HTTP/1.1\r\nhost: x\r\n", 405),
    ("POST /api/coupons/claim HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n", 415),
    ("POST /api/coupons HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n", 415),
    ("POST /api/coupons/claim HTTP/1.1\r\ncontent-type: application/json\r\n", 400),
    ("POST /api/coupons HTTP/1.1\r\nhost: x\r\nhost: y\r\ncontent-type: application/json\r\n", 400),
];

/// The rest of a request, in packets.
const BODIES: [&[&str]; 6] = [
    &["content-length: 5\r\n\r\nhello"],
    &["content-length: 5\r\n\r\n", "hello"],
    &["content-length: 5\r\n\r\nhe", "ll", "o"],
    &["transfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n", "0\r\n\r\n"],
    &["transfer-encoding: chunked\r\n\r\n5\r\nhel", "lo\r\n0\r\n", "\r\n"],
    &["content-length: 0\r\n\r\n"],
];

fn claim_of(user: &str) -> String {
    json_request(
        "POST",
        "/api/coupons/claim",
        &json!({ "user_id": user, "coupon_name": "PROMO" }).to_string(),
    )
}

fn says_close(reply: &RawReply) -> bool {
    reply.head.contains("\r\nconnection: close\r\n")
}

#[test]
fn a_claim_may_follow_a_body_that_nobody_wanted() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1_000).await;
        let mut users = 0;
        for (head, status) in UNWANTED {
            let mut raw = Raw::connect(client.address).await;
            for body in BODIES {
                for packet in [&[&*format!("{head}{}", body[0])], &body[1..]].concat() {
                    raw.send(packet).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let reply = raw.reply().await.unwrap();
                assert_eq!(reply.status, status, "{head}{body:?}: {reply:?}");
                assert!(!says_close(&reply), "{head}{body:?}: {reply:?}");
                users += 1;
                raw.send(claim_of(&format!("user-{users}"))).await;
                let reply = raw.reply().await.expect("closed without having said so");
                assert_eq!(reply.status, 200, "{head}{body:?}: {reply:?}");
            }
        }
        assert_eq!(client.view("PROMO").await["remaining_amount"], 1_000 - users);
        system.stop().await;
    });
}

#[test]
fn a_claim_may_follow_in_the_same_packet() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1_000).await;
        for (number, (head, status)) in UNWANTED.into_iter().enumerate() {
            let mut raw = Raw::connect(client.address).await;
            let unwanted: Vec<_> = BODIES.iter().map(|body| format!("{head}{}", body.concat())).collect();
            raw.send(unwanted.concat() + &claim_of(&format!("user-{number}"))).await;
            for _ in BODIES {
                assert_eq!(raw.reply().await.unwrap().status, status, "{head}");
            }
            assert_eq!(raw.reply().await.unwrap().status, 200, "{head}");
        }
        system.stop().await;
    });
}

#[test]
fn a_body_too_large_to_be_read_ends_the_connection() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 10).await;
        let large = "x".repeat(100_000);
        for (head, _) in UNWANTED {
            for body in [
                format!("content-length: {}\r\n\r\n{large}", large.len()),
                format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len()),
            ] {
                let mut raw = Raw::connect(client.address).await;
                raw.send(format!("{head}{body}") + &claim_of("late")).await;
                let reply = raw.reply().await.unwrap();
                assert_eq!(reply.status, 413, "{head}: {reply:?}");
                assert!(says_close(&reply), "{head}: {reply:?}");
                let answered = Instant::now();
                assert_eq!(raw.rest().await, "", "{head}");
                assert!(answered.elapsed() < AT_END, "{:?}", answered.elapsed());
            }
        }
        // What follows such a body is no claim.
        assert_eq!(client.view("PROMO").await["claimed_by"], json!([]));
        system.stop().await;
    });
}

#[test]
fn a_body_that_nobody_wanted_has_its_time_too() {
    run(async {
        let system = Setup::new().apis(1).env("BODY_TIMEOUT_MS", 300).start().await;
        for (head, _) in UNWANTED {
            let mut raw = Raw::connect(system.client().address).await;
            raw.send(format!("{head}content-length: 5\r\n\r\nhell")).await;
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.status, 408, "{head}: {reply:?}");
            assert!(says_close(&reply), "{head}: {reply:?}");
            raw.send("o".to_owned() + &claim_of("late")).await;
            assert_eq!(raw.rest().await, "", "{head}");
        }
        system.stop().await;
    });
}

#[test]
fn the_bytes_of_all_bodies_have_a_limit() {
    run(async {
        // One body of the largest size.
        let system = Setup::new().apis(1).workers(1).env("BODIES_BYTES_MAX", 65_536).start().await;
        let client = system.client();
        client.create("PROMO", 10).await;
        let request = json_request("POST", "/api/coupons", &" ".repeat(60_000));
        let (most, last) = request.split_at(request.len() - 1);
        let mut slow = Raw::connect(client.address).await;
        slow.send(most).await;
        eventually("no room for another one", async || {
            let mut raw = Raw::connect(client.address).await;
            raw.send(most).await;
            // The first one is read within a moment: until then it may be this one that is waited for.
            let reply = tokio::time::timeout(Duration::from_millis(500), raw.reply()).await.ok()??;
            assert_eq!(reply.status, 503, "{reply:?}");
            assert!(reply.body.contains(r#""code":"overloaded""#), "{reply:?}");
            assert!(reply.head.contains("\r\nretry-after: 1\r\n") && says_close(&reply), "{reply:?}");
            Some(())
        })
        .await;
        // Claims do not count, in whatever packets they come.
        let claim = claim_of("ann");
        let mut raw = Raw::connect(client.address).await;
        for packet in [&claim[..claim.len() - 20], &claim[claim.len() - 20..]] {
            raw.send(packet).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(raw.reply().await.unwrap().status, 200);
        slow.send(last).await;
        assert_eq!(slow.reply().await.unwrap().status, 400);
        let mut next = Raw::connect(client.address).await;
        next.send(&request).await;
        assert_eq!(next.reply().await.unwrap().status, 400);
        system.stop().await;
    });
}
