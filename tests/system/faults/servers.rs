//! Postgres or NATS killed and started again, under load.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::postgres::PgListener;

use crate::harness::{Answer, Client, Load, Setup, System, assert_first_come_first_served, eventually, run};

/// How long a refusal may take that need not wait for anything.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Two coupons that will be sold out and two that will not.
const COUPONS: [(&str, i32); 4] = [("few", 30), ("many", 1_000_000), ("some", 60), ("most", 1_000_000)];

fn setup() -> Setup {
    let setup = Setup::new().apis(2).workers(2).env("PURGE_INTERVAL_MS", 0);
    setup.env("CLAIM_TIMEOUT_MS", 2_000).env("LEASE_MS", 1_000)
}

async fn load(system: &System) -> Load {
    for (name, amount) in COUPONS {
        system.client().create(name, amount).await;
    }
    let load = Load::start(&system.clients(), &COUPONS.map(|(name, _)| name.to_owned()), 6);
    load.goes_on(100).await;
    load
}

/// Waits until `GET /health/ready` says this.
async fn ready_says(client: &Client, status: u16, body: &Value) {
    eventually(&format!("ready: {body}"), async || {
        let reply = client.get("/health/ready").await;
        (reply.status == status && reply.json() == *body).then_some(())
    })
    .await;
}

async fn all_ready(system: &System) {
    for client in system.clients() {
        ready_says(&client, 200, &json!({ "status": "ready", "postgres": "ok", "nats": "ok" })).await;
    }
}

/// Lets the load go on for a while after a fault, and checks all that it was told.
async fn end(load: Load, system: System) {
    load.goes_on(200).await;
    let answers = load.finish().await;
    Answer::assert_true(&answers, &system).await;
    assert_first_come_first_served(&system).await;
    system.stop().await;
}

#[test]
fn nats_is_killed_under_load() {
    run(async {
        let mut system = setup().start().await;
        let load = load(&system).await;
        for _ in 0..2 {
            system.nats.kill().await.unwrap();
            for client in system.clients() {
                let down = json!({ "status": "unavailable", "postgres": "ok", "nats": "unavailable" });
                ready_says(&client, 503, &down).await;
                let started = Instant::now();
                client.claim("x", "many").await.assert_problem(503, "queue_unavailable");
                assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
                // What needs no queue works.
                assert_eq!(client.get("/health").await.status, 200);
                assert_eq!(client.view("few").await["amount"], 30);
            }
            system.nats.restart().await.unwrap();
            all_ready(&system).await;
            load.goes_on(200).await;
        }
        end(load, system).await;
    });
}

#[test]
fn postgres_is_killed_under_load() {
    run(async {
        let mut system = setup().own_postgres().start().await;
        let load = load(&system).await;
        for _ in 0..2 {
            system.postgres.as_ref().unwrap().kill().await.unwrap();
            for client in system.clients() {
                let down = json!({ "status": "unavailable", "postgres": "unavailable", "nats": "ok" });
                ready_says(&client, 503, &down).await;
                let started = Instant::now();
                client.claim("x", "many").await.assert_problem(503, "database_unavailable");
                client.get("/api/coupons/few").await.assert_problem(503, "database_unavailable");
                let coupon = json!({ "name": "new", "amount": 1 });
                client.post("/api/coupons", &coupon).await.assert_problem(503, "database_unavailable");
                assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
                assert_eq!(client.get("/health").await.status, 200);
            }
            system.postgres.as_mut().unwrap().restart().await.unwrap();
            all_ready(&system).await;
            load.goes_on(200).await;
        }
        end(load, system).await;
    });
}

#[test]
fn frozen_servers_are_noticed_and_wake_up_again() {
    run(async {
        let mut system = setup().own_postgres().start().await;
        let load = load(&system).await;
        assert!(system.nats.pause().await);
        let down = json!({ "status": "unavailable", "postgres": "ok", "nats": "unavailable" });
        ready_says(system.client(), 503, &down).await;
        system.client().claim("x", "many").await.assert_problem(503, "queue_unavailable");
        assert!(system.nats.resume());
        all_ready(&system).await;
        load.goes_on(100).await;

        let postgres = system.postgres.as_mut().unwrap();
        assert!(postgres.pause().await);
        let down = json!({ "status": "unavailable", "postgres": "unavailable", "nats": "ok" });
        ready_says(system.client(), 503, &down).await;
        system.client().claim("x", "many").await.assert_problem(503, "database_unavailable");
        assert!(system.postgres.as_ref().unwrap().resume());
        all_ready(&system).await;
        end(load, system).await;
    });
}

#[test]
fn workers_without_a_queue_do_not_keep_each_other_busy() {
    run(async {
        let mut system = Setup::new().apis(1).workers(2).env("LEASE_MS", 400).start().await;
        let mut listener = PgListener::connect_with(system.pool()).await.unwrap();
        listener.listen("coupon_leases").await.unwrap();
        system.nats.kill().await.unwrap();
        eventually("workers that count for nothing", async || {
            let living: i64 =
                sqlx::query_scalar("SELECT count(*) FROM workers").fetch_one(system.pool()).await.unwrap();
            (living == 0).then_some(())
        })
        .await;
        // They say good-bye and give back what they had. Then nothing is left to tell.
        let mut heard = 0;
        while tokio::time::timeout(Duration::from_secs(1), listener.recv()).await.is_ok() {
            heard += 1;
            assert!(heard < 100, "they do not fall silent");
        }
        // It has one of the pool's connections, without which the system does not stop.
        drop(listener);
        system.nats.restart().await.unwrap();
        all_ready(&system).await;
        system.client().create("later", 1).await;
        eventually("a worker", async || {
            let reply = system.client().claim_with_key("ann", "later", "key").await;
            (reply.status == 200).then_some(())
        })
        .await;
        system.stop().await;
    });
}

#[test]
fn a_question_that_nobody_waits_for_any_more_ends() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        system.client().create("some", 1).await;
        let waiting = async || -> i64 {
            sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(system.pool())
            .await
            .unwrap()
        };
        let mut lock = system.pool().begin().await.unwrap();
        sqlx::query("LOCK TABLE coupons IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
        let views = async || {
            system.client().get("/api/coupons/some").await.assert_problem(503, "database_unavailable");
        };
        let asked = async { futures::join!(views(), views(), views()) };
        let blocked = eventually("questions that wait", async || (waiting().await == 3).then_some(()));
        futures::join!(asked, blocked);
        // The lock is still held: they have to give up by themselves.
        eventually("the end of the questions", async || (waiting().await == 0).then_some(())).await;
        lock.rollback().await.unwrap();
        assert_eq!(system.client().view("some").await["amount"], 1);
        system.stop().await;
    });
}
