//! Paths, methods, and the id of a request.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{System, run, send};

#[test]
fn unknown_paths_are_not_found() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        for path in [
            "/",
            "/api",
            "/api/",
            "/api/coupons/",
            "/api/coupons/PROMO/",
            "/api/coupons/PROMO/claims",
            "/api/coupons/PROMO/claims/",
            "/api/coupons/PROMO/claims/ann/",
            "/api/coupons/PROMO/ann",
            "/api/coupon/PROMO",
            "/API/coupons/PROMO",
            "/api//coupons/PROMO",
            "/health/",
            "/health/live",
            "/metrics",
        ] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let reply =
                    send(client.request(method, path).header("content-type", "application/json").body("{}"))
                        .await;
                assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}");
            }
        }
        system.stop().await;
    });
}

#[test]
fn every_path_says_which_methods_it_takes() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        for (path, taken) in [
            ("/api/coupons", "POST"),
            ("/api/coupons/claim", "GET,HEAD,POST"),
            ("/api/coupons/PROMO", "GET,HEAD"),
            ("/api/coupons/PROMO/claims/ann", "GET,HEAD"),
            ("/health", "GET,HEAD"),
            ("/health/ready", "GET,HEAD"),
        ] {
            let taken: BTreeSet<_> = taken.split(',').collect();
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
                if taken.contains(method) {
                    continue;
                }
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let reply = send(client.request(method.clone(), path)).await;
                assert_eq!(
                    (reply.status, reply.code().as_str()),
                    (405, "method_not_allowed"),
                    "{method} {path}"
                );
                let allowed: BTreeSet<_> = reply.header("allow").unwrap().split(',').map(str::trim).collect();
                assert_eq!(allowed, taken, "{method} {path}");
            }
        }
        system.stop().await;
    });
}

#[test]
fn every_answer_carries_the_id_of_its_request() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create("PROMO", 1).await;
        let claim = json!({ "user_id": "u", "coupon_name": "PROMO" }).to_string();
        let requests = || {
            [
                client.request(Method::GET, "/health"),
                client.request(Method::GET, "/nowhere"),
                client.request(Method::DELETE, "/api/coupons"),
                client.request(Method::GET, "/api/coupons/PROMO"),
                client.request(Method::POST, "/api/coupons").body("{}"),
                client
                    .request(Method::POST, "/api/coupons")
                    .header("content-type", "application/json")
                    .body("{"),
                client
                    .request(Method::POST, "/api/coupons/claim")
                    .header("content-type", "application/json")
                    .body(claim.clone()),
            ]
        };
        let mut ids = BTreeSet::new();
        for request in requests() {
            let reply = send(request).await;
            let id: Uuid = reply.header("x-request-id").unwrap().parse().unwrap();
            assert!(ids.insert(id), "the same id twice");
        }
        let longest = "i".repeat(128);
        for id in ["req-1", "a b/c:d", &longest] {
            for request in requests() {
                let reply = send(request.header("x-request-id", id)).await;
                assert_eq!(reply.header("x-request-id"), Some(id), "{reply:?}");
                assert_eq!(reply.headers.get_all("x-request-id").iter().count(), 1);
            }
        }
        // What cannot be written to a log as it is gets an id of ours.
        for id in ["i".repeat(129).as_bytes(), b"caf\xc3\xa9", b"\xff"] {
            let request = client.request(Method::GET, "/health");
            let reply = send(request.header("x-request-id", HeaderValue::from_bytes(id).unwrap())).await;
            assert!(reply.header("x-request-id").unwrap().parse::<Uuid>().is_ok(), "{reply:?}");
        }
        system.stop().await;
    });
}
