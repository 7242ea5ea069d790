//! One connection, many forms of HTTP: whatever way a request is sent, its answer is the same, and the next
//! request on the connection is answered, too.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Raw, RawReply, Setup, System, json_request, queue_holds, run};

/// How a claim's bytes may come.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// In one packet.
    Whole,
    /// Head and body apart.
    Halves,
    /// One after the other.
    Bytes,
    /// Two lines of the head apart.
    Lines,
    Chunked,
    /// Behind the head only after a 100.
    Expecting,
    /// With a head that is longer than most.
    LongHead,
    /// With a body that is longer than most.
    LongBody,
    /// With the path as a whole URL.
    Absolute,
    /// With the connection's end.
    Closing,
    /// HTTP/1.0, which ends the connection as well.
    Old,
}

const KEPT_OPEN: [Form; 9] = [
    Form::Whole,
    Form::Halves,
    Form::Bytes,
    Form::Lines,
    Form::Chunked,
    Form::Expecting,
    Form::LongHead,
    Form::LongBody,
    Form::Absolute,
];

/// Sends a claim of `user` with an `Idempotency-Key`, and reads the answer.
async fn claim(raw: &mut Raw, form: Form, user: &str) -> RawReply {
    let path = match form {
        Form::Absolute => "http://x/api/coupons/claim",
        _ => "/api/coupons/claim",
    };
    let version = if matches!(form, Form::Old) { "1.0" } else { "1.1" };
    let padding = if matches!(form, Form::LongBody) { "y".repeat(8_000) } else { String::new() };
    let body = json!({ "user_id": user, "coupon_name": "PROMO", "padding": padding }).to_string();
    let more = match form {
        Form::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Form::Expecting => format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len()),
        Form::LongHead => format!("Content-Length: {}\r\nCookie: {}\r\n", body.len(), "z".repeat(8_000)),
        Form::Closing => format!("Content-Length: {}\r\nConnection: close\r\n", body.len()),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!(
        "POST {path} HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n\
         Idempotency-Key: key-of-{user}\r\nX-Request-Id: of-{user}\r\n{more}\r\n"
    );
    match form {
        Form::Bytes => {
            for byte in (head + &body).as_bytes() {
                raw.send([*byte]).await;
            }
        }
        Form::Lines => {
            let (first, rest) = head.split_at(60);
            raw.send(first).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            raw.send(rest.to_owned() + &body).await;
        }
        Form::Halves => {
            raw.send(head).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            raw.send(body).await;
        }
        Form::Chunked => raw.send(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await,
        Form::Expecting => {
            raw.send(head).await;
            assert_eq!(raw.reply().await.unwrap().status, 100);
            raw.send(body).await;
        }
        _ => raw.send(head + &body).await,
    }
    raw.reply().await.expect("the connection was closed")
}

/// The names of an answer's headers, but for those that speak of the connection.
fn header_names(reply: &RawReply) -> Vec<String> {
    let names = reply.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_owned()));
    let mut names: Vec<_> = names.filter(|name| name != "connection").collect();
    names.sort();
    names
}

#[test]
fn a_claim_is_answered_alike_however_it_is_sent() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        let mut raw = Raw::connect(client.address).await;
        let first = claim(&mut raw, Form::Whole, "ann").await;
        assert_eq!(first.status, 200, "{first:?}");
        let refused = claim(&mut raw, Form::Whole, "bob").await;
        assert_eq!(refused.status, 400, "{refused:?}");
        let names = ["content-length", "content-type", "date", "x-request-id"];
        for reply in [&first, &refused] {
            assert_eq!(header_names(reply), names);
        }
        // Each form behind each other, on a connection of their own.
        for (first_form, second_form) in
            KEPT_OPEN.into_iter().flat_map(|first| KEPT_OPEN.into_iter().map(move |second| (first, second)))
        {
            let mut raw = Raw::connect(client.address).await;
            for form in [first_form, second_form] {
                for (user, expected) in [("ann", &first), ("bob", &refused)] {
                    let reply = claim(&mut raw, form, user).await;
                    assert_eq!((reply.status, &reply.body), (expected.status, &expected.body), "{form:?}");
                    assert_eq!(header_names(&reply), names, "{form:?}");
                    assert!(reply.head.contains(&format!("\r\nx-request-id: of-{user}\r\n")), "{reply:?}");
                }
            }
        }
        for form in [Form::Closing, Form::Old] {
            let mut raw = Raw::connect(client.address).await;
            let reply = claim(&mut raw, form, "ann").await;
            assert_eq!((reply.status, &reply.body), (first.status, &first.body), "{form:?}");
            assert_eq!(header_names(&reply), names, "{form:?}");
            assert_eq!(raw.rest().await, "", "{form:?}");
        }
        assert_eq!(client.view("PROMO").await["claimed_by"], json!(["ann"]));
        system.stop().await;
    });
}

#[test]
fn requests_of_all_kinds_share_a_connection() {
    run(async {
        let system = System::start().await;
        let requests = [
            (json_request("POST", "/api/coupons", r#"{"name":"MIXED","amount":2}"#), 201),
            (json_request("POST", "/api/coupons/claim", r#"{"user_id":"ann","coupon_name":"MIXED"}"#), 200),
            ("GET /health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 200),
            (json_request("POST", "/api/coupons/claim", r#"{"user_id":"ann","coupon_name":"MIXED"}"#), 409),
            (json_request("POST", "/api/coupons/claim", r#"{"user_id":"ann"}"#), 400),
            ("GET /api/coupons/MIXED/claims/ann HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 200),
            (json_request("DELETE", "/api/coupons/claim", "{}"), 405),
            (json_request("POST", "/nowhere", "{}"), 404),
            (json_request("POST", "/api/coupons/claim", r#"{"user_id":"bob","coupon_name":"NONE"}"#), 404),
            (json_request("POST", "/api/coupons/claim", r#"{"user_id":"bob","coupon_name":"MIXED"}"#), 200),
            (json_request("POST", "/api/coupons/claim", r#"{"user_id":"cyd","coupon_name":"MIXED"}"#), 400),
        ];
        let address = system.client().address;
        let mut raw = Raw::connect(address).await;
        for (request, status) in &requests {
            raw.send(request).await;
            let reply = raw.reply().await.expect("the connection was closed");
            assert_eq!(reply.status, *status, "{request}: {reply:?}");
            assert!(!reply.head.contains("\r\nconnection: close\r\n"), "{request}: {reply:?}");
        }
        // All in one packet, without waiting for an answer: each gets one, in their order.
        let again = [409, 409, 200, 409, 400, 200, 405, 404, 404, 409, 400];
        let all: String = requests.iter().map(|(request, _)| request.as_str()).collect();
        let mut raw = Raw::connect(address).await;
        raw.send(all).await;
        raw.finish().await;
        for ((request, _), status) in requests.iter().zip(again) {
            let reply = raw.reply().await.expect("the connection was closed");
            assert_eq!(reply.status, status, "{request}: {reply:?}");
        }
        assert_eq!(raw.rest().await, "");
        system.stop().await;
    });
}

#[test]
fn a_claim_whose_body_does_not_come_is_given_up() {
    run(async {
        let system = Setup::new().apis(1).workers(1).env("BODY_TIMEOUT_MS", 300).start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        let request =
            json_request("POST", "/api/coupons/claim", r#"{"user_id":"ann","coupon_name":"PROMO"}"#);
        let most = &request[..request.len() - 1];
        let mut raw = Raw::connect(client.address).await;
        raw.send(most).await;
        let reply = raw.reply().await.unwrap();
        assert_eq!(reply.status, 408, "{reply:?}");
        assert!(reply.body.contains(r#""code":"body_timeout""#), "{reply:?}");
        assert!(reply.head.contains("\r\nconnection: close\r\n"), "{reply:?}");
        // The rest of it is not a claim, nor what follows.
        raw.send(request[request.len() - 1..].to_owned() + &request).await;
        assert_eq!(raw.rest().await, "");
        // One that breaks off is told so.
        let mut raw = Raw::connect(client.address).await;
        raw.send(most).await;
        raw.finish().await;
        assert_eq!(raw.reply().await.unwrap().status, 400);
        client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO");
        system.stop().await;
    });
}

#[test]
fn a_stop_ends_connections_with_the_request_they_are_at() {
    run(async {
        let system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 2_000).start().await;
        let client = system.client().clone();
        client.create("PROMO", 1).await;
        let mut idle = Raw::connect(client.address).await;
        idle.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(idle.reply().await.unwrap().status, 200);
        let mut silent = Raw::connect(client.address).await;
        // An empty line is no request.
        silent.send("\r\n").await;
        let mut asking = Raw::connect(client.address).await;
        asking.send("GET /health HTT").await;
        let request =
            json_request("POST", "/api/coupons/claim", r#"{"user_id":"ann","coupon_name":"PROMO"}"#);
        let mut begun = Raw::connect(client.address).await;
        begun.send(&request[..40]).await;
        let mut waiting = Raw::connect(client.address).await;
        waiting.send(&request).await;
        queue_holds(&system, "PROMO", 1).await;

        let stopping = tokio::spawn(system.stop());
        for raw in [&mut idle, &mut silent] {
            assert_eq!(raw.rest().await, "");
        }
        // There is no worker: it is in the queue, and stays there.
        let reply = waiting.reply().await.unwrap();
        assert_eq!(reply.status, 202, "{reply:?}");
        begun.send(&request[40..]).await;
        let refused = begun.reply().await.unwrap();
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.body.contains(r#""code":"stopping""#), "{refused:?}");
        asking.send("P/1.1\r\nhost: x\r\n\r\n").await;
        let answered = asking.reply().await.unwrap();
        assert_eq!(answered.status, 200, "{answered:?}");
        for (raw, reply) in [(&mut waiting, reply), (&mut begun, refused), (&mut asking, answered)] {
            assert!(reply.head.contains("\r\nconnection: close\r\n"), "{reply:?}");
            assert_eq!(raw.rest().await, "");
        }
        stopping.await.unwrap();
    });
}

#[test]
fn a_stop_cuts_off_no_answer() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        let address = system.client().address;
        // Answers of all lengths about what is kept for a client that does not read (a page, and 16 KiB on Linux):
        // some have no page to come any more when the process is told to stop, but the last one is not all taken.
        let sizes: Vec<_> = (60..1_000).step_by(60).collect();
        for size in &sizes {
            let users: Vec<_> = (1..=*size).map(|n| format!("user-{n:0240}")).collect();
            system.sell_out(&format!("BIG-{size}"), &users).await;
        }
        let mut asking = Vec::new();
        for size in &sizes {
            for connection in ["close", "keep-alive"] {
                let mut raw = Raw::connect_narrow(address).await;
                raw.send(format!(
                    "GET /api/coupons/BIG-{size} HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\n\r\n"
                ))
                .await;
                asking.push((raw, *size, connection));
            }
        }
        // Until nothing more is written.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stopping = tokio::spawn(system.stop());
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (mut raw, size, connection) in asking {
            let answer = raw.rest().await;
            let start = answer.get(..30).unwrap_or(&answer);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{size} {connection}: {start}");
            let is_whole =
                answer.contains(&format!("user-{size:0240}\"")) && answer.ends_with("]}\r\n0\r\n\r\n");
            assert!(is_whole, "{size} {connection}: cut off after {} bytes", answer.len());
        }
        stopping.await.unwrap();
    });
}

#[test]
fn whoever_is_still_sending_learns_that_it_is_too_much() {
    run(async {
        let system = System::start().await;
        let body = "x".repeat(3_000_000);
        for path in ["/api/coupons/claim", "/api/coupons"] {
            // Several times, as there is a second for each, and the machine may be busy.
            let mut attempts = 0;
            let reply = loop {
                attempts += 1;
                let mut raw = Raw::connect(system.client().address).await;
                // As many clients do, it looks for an answer only when it has sent everything.
                raw.send(json_request("POST", path, &body)).await;
                match raw.reply().await {
                    Some(reply) => break reply,
                    None => assert!(attempts < 3, "{path}: the connection was closed without an answer"),
                }
            };
            assert_eq!(reply.status, 413, "{path}: {reply:?}");
        }
        system.stop().await;
    });
}
