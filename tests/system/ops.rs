//! The operations port: whether a process lives, and whether it can do its work.

use std::net::SocketAddr;

use reqwest::Method;
use serde_json::{Value, json};
use servers::port;
use servers::process::Child;

use crate::harness::{Client, PARTITIONS, Setup, System, eventually, partition_of, run, worker_process};

const COUPON: &str = "FLASH";

/// A worker's process with an operations port, in a system with one API.
async fn with_worker(setup: Setup) -> (System, Child, Client) {
    let mut system = setup.start().await;
    let port = port::free().unwrap();
    system.set("OPS_PORT", port);
    let worker = worker_process(&system).await;
    (system, worker, Client::new(SocketAddr::from(([127, 0, 0, 1], port))))
}

async fn becomes(ops: &Client, status: u16) -> Value {
    let what = format!("an answer with {status}");
    let reply = eventually(&what, async || {
        // Nothing listens yet while the process starts.
        let asked = ops.request(Method::GET, "/health/ready").send().await.ok()?;
        (asked.status() == status).then_some(asked)
    });
    reply.await.json().await.unwrap()
}

#[test]
fn a_worker_is_not_ready_without_its_servers() {
    run(async {
        let (mut system, worker, ops) = with_worker(Setup::new().own_postgres()).await;
        let ready = becomes(&ops, 200).await;
        assert_eq!(ready, json!({ "status": "ready", "postgres": "ok", "nats": "ok" }));
        system.postgres.take().unwrap().kill().await.unwrap();
        let without = becomes(&ops, 503).await;
        assert_eq!(without["postgres"], "unavailable", "{without}");
        assert_eq!(without["nats"], "ok", "{without}");
        assert_eq!(ops.get("/health").await.status, 200);
        assert_eq!(ops.get("/metrics").await.status, 404);
        worker.kill().await.unwrap();
        // One that has never reached them.
        let again = worker_process(&system).await;
        let waiting = becomes(&ops, 503).await;
        assert_eq!((&waiting["postgres"], &waiting["nats"]), (&json!("unavailable"), &json!("unavailable")));
        assert_eq!(ops.get("/health").await.status, 200);
        again.kill().await.unwrap();
    });
}

#[test]
fn a_partition_without_progress_makes_its_worker_not_ready() {
    run(async {
        let (system, worker, ops) = with_worker(Setup::new().apis(1)).await;
        let client = system.client().clone();
        client.create(COUPON, 5).await;
        client.claim("ann", COUPON).await.assert_claimed("ann", COUPON);
        // Somebody's psql, with a transaction left open.
        let mut open = system.pool().begin().await.unwrap();
        let lock = sqlx::query("UPDATE coupons SET amount = amount WHERE name = $1").bind(COUPON);
        lock.execute(&mut *open).await.unwrap();
        let waits = client.claim("bob", COUPON).await.assert_pending("bob", COUPON);
        let ready = becomes(&ops, 503).await;
        let name = format!("partition {}", partition_of(COUPON, PARTITIONS));
        let reason = ready[&name].as_str().unwrap_or_else(|| panic!("{name}: {ready}"));
        assert!(reason.contains("lock timeout"), "{ready}");
        assert_eq!((&ready["postgres"], &ready["nats"]), (&json!("ok"), &json!("ok")));

        let logged =
            || std::fs::read_to_string(worker.log()).unwrap().matches("no progress for 10 s").count();
        eventually("a line in the log", async || (logged() > 0).then_some(())).await;
        open.rollback().await.unwrap();
        becomes(&ops, 200).await;
        client.get(&waits).await.assert_claimed("bob", COUPON);
        assert_eq!(logged(), 1);
        worker.kill().await.unwrap();
        system.stop().await;
    });
}
