//! Clients that break the rules of HTTP, are slow, too many, or gone.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Client, Raw, Setup, System, eventually, json_request, queue_holds, run};

/// What is refused at once is refused within this time, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn assert_alive(client: &Client) {
    assert_eq!(client.get("/health").await.json(), json!({ "status": "ok" }));
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n{body}")
}

fn claim_request(user: &str, coupon: &str) -> String {
    let body = json!({ "user_id": user, "coupon_name": coupon }).to_string();
    json_request("POST", "/api/coupons/claim", &body)
}

#[test]
fn what_is_not_http_is_refused_and_harms_nobody() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let garbage: Vec<Vec<u8>> = vec![
            b"GARBAGE\r\n\r\n".to_vec(),
            b"GET\r\n\r\n".to_vec(),
            b"GET / HTTP/9.9\r\n\r\n".to_vec(),
            b"GET /a b c HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\na\0b: c\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            (0..=255).cycle().take(100_000).collect(),
            post("/api/coupons", "content-length: x\r\n", "{}").into(),
            post("/api/coupons", "content-length: -1\r\n", "{}").into(),
            post("/api/coupons", "content-length: 2\r\ncontent-length: 3\r\n", "{}").into(),
            post("/api/coupons", "transfer-encoding: chunked\r\n", "zz\r\n").into(),
            post("/api/coupons", "transfer-encoding: chunked\r\n", "ffffffffffffffffff\r\n").into(),
        ];
        for bytes in garbage {
            let mut raw = Raw::connect(client.address).await;
            raw.send(&bytes).await;
            raw.finish().await;
            let rest = raw.rest().await;
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            assert!(
                rest.is_empty() || rest.starts_with("HTTP/1.1 400 ") || rest.starts_with("HTTP/1.0 400 "),
                "{text}: {rest}"
            );
        }
        assert_alive(client).await;
        system.stop().await;
    });
}

#[test]
fn a_request_names_its_host_once() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 10).await;
        let body = r#"{"user_id":"ann","coupon_name":"PROMO"}"#;
        let claim = |version: &str, hosts: &str| {
            format!(
                "POST /api/coupons/claim HTTP/{version}\r\n{hosts}content-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        for (version, hosts) in [
            ("1.1", ""),
            ("1.1", "host: x\r\nhost: x\r\n"),
            ("1.1", "Host: x\r\nx-other: y\r\nHOST: y\r\n"),
            ("1.0", "host: x\r\nhost: y\r\n"),
        ] {
            let mut raw = Raw::connect(client.address).await;
            raw.send(claim(version, hosts)).await;
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.status, 400, "{version} {hosts}: {reply:?}");
            assert!(reply.body.contains(r#""code":"invalid_request""#), "{reply:?}");
            assert!(reply.body.contains("Host"), "{reply:?}");
            assert!(reply.head.contains("\r\nx-request-id: "), "{reply:?}");
        }
        assert_eq!(client.view("PROMO").await["remaining_amount"], 10);
        // HTTP/1.0 needs none, and an empty one is one.
        for (version, hosts, status) in [("1.0", "", 200), ("1.1", "host:\r\n", 409)] {
            let mut raw = Raw::connect(client.address).await;
            raw.send(claim(version, hosts)).await;
            assert_eq!(raw.reply().await.unwrap().status, status, "{version} {hosts}");
        }
        system.stop().await;
    });
}

#[test]
fn huge_heads_are_refused() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let many: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
        let long = format!("x: {}\r\n", "y".repeat(2_000_000));
        let longer_than_the_limit = format!("x: {}\r\n", "y".repeat(65_536));
        for headers in [many, long, longer_than_the_limit] {
            let mut raw = Raw::connect(client.address).await;
            raw.send(format!("GET /health HTTP/1.1\r\nhost: x\r\n{headers}\r\n")).await;
            let rest = raw.rest().await;
            // A reset may overtake the answer.
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 431 "), "{rest}");
        }
        let mut raw = Raw::connect(client.address).await;
        raw.send(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(2_000_000))).await;
        let rest = raw.rest().await;
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 431 ") || rest.starts_with("HTTP/1.1 414 "),
            "{rest}"
        );
        let below = "y".repeat(32_000);
        let mut raw = Raw::connect(client.address).await;
        raw.send(format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {below}\r\n\r\n")).await;
        assert_eq!(raw.reply().await.unwrap().status, 200);
        assert_alive(client).await;
        system.stop().await;
    });
}

#[test]
fn slow_heads_and_idle_connections_are_closed() {
    run(async {
        let system = Setup::new().apis(1).env("HEADER_TIMEOUT_MS", 300).start().await;
        let address = system.client().address;
        let (mut silent, mut slow, mut idle) =
            (Raw::connect(address).await, Raw::connect(address).await, Raw::connect(address).await);
        slow.send("GET /health HTTP/1.1\r\nhost: x\r\n").await;
        idle.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(idle.reply().await.unwrap().status, 200);
        let started = Instant::now();
        for raw in [&mut silent, &mut slow, &mut idle] {
            let rest = raw.rest().await;
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408 "), "{rest}");
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        // One byte now and then does not help.
        let mut drip = Raw::connect(address).await;
        let closed = async {
            let (started, head) = (Instant::now(), "GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
            for byte in head.as_bytes() {
                drip.send([*byte]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (started.elapsed(), drip.rest().await)
        };
        let (took, rest) = closed.await;
        assert!(took > Duration::from_millis(300) && !rest.starts_with("HTTP/1.1 200"), "{took:?} {rest}");
        system.stop().await;
    });
}

#[test]
fn slow_bodies_are_given_up() {
    run(async {
        let system = Setup::new().apis(1).workers(1).env("BODY_TIMEOUT_MS", 300).start().await;
        let client = system.client();
        for headers in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
            let mut raw = Raw::connect(client.address).await;
            let start = if headers.starts_with('t') { "9\r\n{\"name\":\"" } else { "{\"name\":\"" };
            raw.send(post("/api/coupons", headers, start)).await;
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.status, 408, "{reply:?}");
            assert!(reply.body.contains(r#""code":"body_timeout""#), "{reply:?}");
            assert!(reply.head.contains("\r\nconnection: close\r\n"), "{reply:?}");
            // What comes after it cannot be told from the rest of the body.
            raw.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
            assert_eq!(raw.rest().await, "");
        }
        assert_alive(client).await;
        system.stop().await;
    });
}

#[test]
fn a_body_that_breaks_off_is_refused() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        let whole = r#"{"name":"c","amount":1}"#;
        for request in [
            post("/api/coupons", "content-length: 100\r\n", whole),
            post("/api/coupons", "transfer-encoding: chunked\r\n", &format!("17\r\n{whole}\r\n")),
        ] {
            let mut raw = Raw::connect(client.address).await;
            raw.send(request).await;
            raw.finish().await;
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.status, 400, "{reply:?}");
        }
        client.get("/api/coupons/c").await.assert_problem(404, "coupon_not_found");
        // The same bytes, all of them.
        let mut raw = Raw::connect(client.address).await;
        raw.send(post(
            "/api/coupons",
            "transfer-encoding: chunked\r\n",
            &format!("17\r\n{whole}\r\n0\r\n\r\n"),
        ))
        .await;
        assert_eq!(raw.reply().await.unwrap().status, 201);
        system.stop().await;
    });
}

#[test]
fn a_body_of_unknown_length_has_a_limit_too() {
    run(async {
        let system = System::start().await;
        let mut raw = Raw::connect(system.client().address).await;
        let chunk = format!("1000\r\n{}\r\n", " ".repeat(4_096));
        raw.send(post("/api/coupons", "transfer-encoding: chunked\r\n", &chunk.repeat(17))).await;
        let reply = raw.reply().await.unwrap();
        assert_eq!(reply.status, 413, "{reply:?}");
        assert!(reply.body.contains(r#""code":"body_too_large""#), "{reply:?}");
        system.stop().await;
    });
}

#[test]
fn requests_may_come_in_one_packet() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 2).await;
        let mut raw = Raw::connect(client.address).await;
        let both =
            claim_request("ann", "PROMO") + &claim_request("ann", "PROMO") + &claim_request("bob", "PROMO");
        raw.send(both).await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(raw.reply().await.unwrap().status);
        }
        assert_eq!(statuses, [200, 409, 200]);
        system.stop().await;
    });
}

#[test]
fn connections_have_a_limit() {
    run(async {
        let system = Setup::new().apis(1).env("CONNECTIONS_MAX", 4).start().await;
        let address = system.client().address;
        let request = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut open = Vec::new();
        for _ in 0..4 {
            let mut raw = Raw::connect(address).await;
            raw.send(request).await;
            assert_eq!(raw.reply().await.unwrap().status, 200);
            open.push(raw);
        }
        for _ in 0..3 {
            let mut raw = Raw::connect(address).await;
            raw.send("GET /api/coupons/x HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let started = Instant::now();
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.status, 503, "{reply:?}");
            assert!(started.elapsed() < AT_ONCE);
            assert!(reply.head.contains("\r\nretry-after: 1\r\n"), "{reply:?}");
            assert!(reply.head.contains("\r\nconnection: close\r\n"), "{reply:?}");
            assert!(reply.head.contains("\r\ncontent-type: application/problem+json\r\n"), "{reply:?}");
            assert!(reply.body.contains(r#""code":"overloaded""#), "{reply:?}");
            assert_eq!(raw.rest().await, "");
        }
        // A crowd is no reason to start the process anew.
        let mut raw = Raw::connect(address).await;
        raw.send(request).await;
        let reply = raw.reply().await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.head.contains("\r\nconnection: close\r\n"), "{reply:?}");
        // Those who are in stay in, and whoever leaves makes room.
        for raw in &mut open {
            raw.send(request).await;
            assert_eq!(raw.reply().await.unwrap().status, 200);
        }
        drop(open.pop());
        eventually("room for another connection", async || {
            let mut raw = Raw::connect(address).await;
            raw.send(request).await;
            (raw.reply().await?.status == 200).then_some(())
        })
        .await;
        system.stop().await;
    });
}

#[test]
fn claims_in_flight_have_a_limit() {
    run(async {
        let setup = Setup::new().apis(1).env("IN_FLIGHT_CLAIMS_MAX", 5).env("CLAIM_TIMEOUT_MS", 2_000);
        let mut system = setup.start().await;
        let client = system.client().clone();
        client.create("PROMO", 100).await;
        let waiting: Vec<_> = (0..5)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move { client.claim(&format!("user-{number}"), "PROMO").await })
            })
            .collect();
        queue_holds(&system, "PROMO", 5).await;
        for _ in 0..3 {
            let started = Instant::now();
            client.claim("late", "PROMO").await.assert_problem(503, "overloaded");
            assert!(started.elapsed() < AT_ONCE);
        }
        // Everything else is served.
        assert_eq!(client.view("PROMO").await["remaining_amount"], 100);
        for (number, reply) in join_all(waiting).await.into_iter().enumerate() {
            reply.unwrap().assert_pending(&format!("user-{number}"), "PROMO");
        }
        // They have been answered: there is room.
        client.claim("late", "PROMO").await.assert_pending("late", "PROMO");
        system.add_worker().await;
        let late = async || {
            let reply = client.claim("late", "PROMO").await;
            (reply.status == 409).then_some(())
        };
        eventually("the claim that waited has won", late).await;
        assert_eq!(client.view("PROMO").await["remaining_amount"], 94);
        system.stop().await;
    });
}

#[test]
fn a_client_that_has_said_all_is_answered() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        for (user, status) in [("first", 200), ("second", 400)] {
            let mut raw = Raw::connect(client.address).await;
            raw.send(claim_request(user, "PROMO")).await;
            raw.finish().await;
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.status, status, "{reply:?}");
            assert_eq!(raw.rest().await, "");
        }
        system.stop().await;
    });
}

#[test]
fn a_client_that_goes_away_has_claimed_all_the_same() {
    run(async {
        let mut system = Setup::new().apis(1).start().await;
        let client = system.client().clone();
        client.create("PROMO", 10).await;
        for number in 0..5 {
            let mut raw = Raw::connect(client.address).await;
            raw.send(claim_request(&format!("gone-{number}"), "PROMO")).await;
            queue_holds(&system, "PROMO", number + 1).await;
            drop(raw);
        }
        system.add_worker().await;
        client.claim("here", "PROMO").await.assert_claimed("here", "PROMO");
        assert_eq!(
            client.view("PROMO").await["claimed_by"],
            json!(["gone-0", "gone-1", "gone-2", "gone-3", "gone-4", "here"])
        );
        client.claim("gone-0", "PROMO").await.assert_problem(409, "already_claimed");
        // Half a claim is none.
        let mut raw = Raw::connect(client.address).await;
        let request = claim_request("half", "PROMO");
        raw.send(&request[..request.len() - 3]).await;
        drop(raw);
        client.claim("half", "PROMO").await.assert_claimed("half", "PROMO");
        system.stop().await;
    });
}

/// A view of the coupon BIG.
const VIEW: &str = "GET /api/coupons/BIG HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Bytes of a page of winners, and some for the view's first and last bytes.
const CHUNK_BYTES_MAX: usize = (64 << 10) + 1_000;

#[test]
fn long_names_make_no_long_pages() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        // More than fit into a page are short at first, then as long as can be, then short again.
        let long = "\u{1f3ab}".repeat(250);
        let name = |n: u32| if (1_500..2_000).contains(&n) { format!("{long}{n}") } else { n.to_string() };
        let users: Vec<String> = (0..4_000).map(name).collect();
        system.sell_out("BIG", &users).await;
        let mut raw = Raw::connect(system.client().address).await;
        raw.send(VIEW).await;
        let answer = raw.rest().await;
        let (_, mut rest) = answer.split_once("\r\n\r\n").unwrap();
        let mut chunks = Vec::new();
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            chunks.push(&after[..size]);
            rest = &after[size + "\r\n".len()..];
        }
        assert_eq!(chunks.pop(), Some(""), "the end of the body");
        let view: Value = serde_json::from_str(&chunks.concat()).unwrap();
        assert_eq!(view["claimed_by"], json!(users));
        let sizes: Vec<_> = chunks.iter().map(|chunk| chunk.len()).collect();
        assert!(sizes.iter().all(|size| *size <= CHUNK_BYTES_MAX), "{sizes:?}");
        // Short ones are not sent a few at a time for that: pages grow again.
        assert!(sizes.len() < 20, "{sizes:?}");
        system.stop().await;
    });
}

/// Enough for megabytes.
fn many_users() -> Vec<String> {
    (0..20_000).map(|n| format!("{n:0250}")).collect()
}

/// Bytes that the kernel has taken from the API for a client, and that have not arrived there.
#[cfg(target_os = "linux")]
fn kept_by_kernel(client: std::net::SocketAddr) -> usize {
    let client = format!("0100007F:{:04X}", client.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // A number, our address, the other one's, the state, bytes to send and to read, …
    let mut sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = sockets.find(|socket| socket[2] == client).unwrap();
    usize::from_str_radix(socket[4].split_once(':').unwrap().0, 16).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_does_not_read_costs_the_kernel_little() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        system.sell_out("BIG", &many_users()).await;
        let mut raw = Raw::connect_narrow(system.client().address).await;
        raw.send(VIEW).await;
        eventually("bytes that wait", async || (kept_by_kernel(raw.address()) > 0).then_some(())).await;
        // Until nothing more is written.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let kept = kept_by_kernel(raw.address());
        assert!((1..=100_000).contains(&kept), "{kept} bytes");
        drop(raw);
        system.stop().await;
    });
}

#[test]
fn a_slow_client_that_reads_on_gets_all_and_one_that_does_not_is_cut_off() {
    run(async {
        let system = Setup::new().apis(1).env("WRITE_TIMEOUT_MS", 2_000).start().await;
        system.sell_out("BIG", &many_users()).await;
        let mut slow = Raw::connect_narrow(system.client().address).await;
        let mut stuck = Raw::connect_narrow(system.client().address).await;
        for raw in [&mut slow, &mut stuck] {
            raw.send(VIEW).await;
        }
        // In two seconds far less than the third of what the kernel would keep of its own accord.
        let mut answer = String::new();
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer += &slow.take(30_000).await;
        }
        answer += &slow.rest().await;
        assert!(answer.ends_with("]}\r\n0\r\n\r\n"), "cut off after {} bytes", answer.len());
        let answer = stuck.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.len() < 1_000_000, "{} bytes", answer.len());
        system.stop().await;
    });
}
