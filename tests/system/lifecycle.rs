//! Starts and stops: the first, the second, several at once, before the servers and after them.

use std::time::Duration;

use common::config::Env;
use common::database;
use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use servers::stack::{self, NatsUser, Servers};
use servers::system::Part;
use servers::{Nats, nats, port};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use crate::harness::{
    Client, LIMIT, PARTITIONS, Setup, eventually, jetstream, open_folder, own_postgres, partition_of, queued,
    run, send, worker_process,
};

/// What must not happen is given this long to do so.
const SILENCE: Duration = Duration::from_millis(300);

fn loopback() -> Env {
    Env::from_iter(
        [("HOST", "127.0.0.1"), ("PORT", "0")].map(|(name, value)| (name.to_owned(), value.to_owned())),
    )
}

#[test]
fn a_second_start_finds_the_coupons_of_the_first() {
    run(async {
        let folder = open_folder();
        let mut wanted =
            json!({ "name": "PROMO", "amount": 3, "remaining_amount": 2, "claimed_by": ["ann"] });
        for start in 0..2 {
            let servers = Servers::start(loopback(), folder.path()).await.unwrap();
            let (api, address) = Part::api(&servers.env(NatsUser::Api)).await.unwrap();
            let (worker, _) = Part::worker(&servers.env(NatsUser::Worker)).await.unwrap();
            let client = Client::new(address);
            if start == 0 {
                client.create("PROMO", 3).await;
                client.claim_with_key("ann", "PROMO", "key").await.assert_claimed("ann", "PROMO");
            }
            assert_eq!(client.view("PROMO").await, wanted);
            client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
            assert_eq!(
                client.claim_with_key("ann", "PROMO", "key").await.assert_claimed("ann", "PROMO").1,
                1
            );
            if start == 1 {
                assert_eq!(client.claim("bob", "PROMO").await.assert_claimed("bob", "PROMO").1, 2);
                wanted = json!({ "name": "PROMO", "amount": 3, "remaining_amount": 1, "claimed_by": ["ann", "bob"] });
                assert_eq!(client.view("PROMO").await, wanted);
            }
            api.stop().await.unwrap();
            worker.stop().await.unwrap();
            servers.stop().await.unwrap();
        }
        // A fresh start finds nothing.
        Servers::forget(folder.path()).await.unwrap();
        let servers = Servers::start(loopback(), folder.path()).await.unwrap();
        let (api, address) = Part::api(&servers.env(NatsUser::Api)).await.unwrap();
        Client::new(address).get("/api/coupons/PROMO").await.assert_problem(404, "coupon_not_found");
        api.stop().await.unwrap();
        servers.stop().await.unwrap();
    });
}

#[test]
fn the_number_of_partitions_is_that_of_the_first_start() {
    run(async {
        let mut system = Setup::new().apis(1).workers(1).env("PARTITIONS", 5).start().await;
        system.shared_as(&[5]).await;
        system.client().create("PROMO", 1).await;
        system.client().claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        system.set("PARTITIONS", 4);
        let api = Part::api(&system.env(NatsUser::Api)).await.unwrap_err();
        let worker = Part::worker(&system.env(NatsUser::Worker)).await.unwrap_err();
        for error in [api, worker] {
            let error = format!("{error:#}");
            assert!(error.contains("PARTITIONS") && error.contains("5 partitions"), "{error}");
        }
        // Whoever does not say a number, or says the same, is welcome.
        for count in ["", "5"] {
            system.set("PARTITIONS", count);
            let client = system.add_api().await;
            client.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
            system.add_worker().await;
        }
        system.shared_as(&[1, 2, 2]).await;
        system.stop().await;
    });
}

#[test]
fn several_processes_set_the_database_up_at_once() {
    run(async {
        let system = Setup::new().env("PARTITIONS", "").start().await;
        let apis = join_all((0..5).map(async |_| Part::api(&system.env(NatsUser::Api)).await.unwrap()));
        let workers =
            join_all((0..5).map(async |_| Part::worker(&system.env(NatsUser::Worker)).await.unwrap()));
        let (apis, workers) = tokio::join!(apis, workers);
        let partitions: Vec<i32> = sqlx::query_scalar("SELECT id FROM partitions ORDER BY id")
            .fetch_all(system.pool())
            .await
            .unwrap();
        assert_eq!(partitions, (0..4).collect::<Vec<_>>());
        Client::new(apis[0].1).create("PROMO", 5).await;
        for (number, (_, address)) in apis.iter().enumerate() {
            let user = format!("user-{number}");
            Client::new(*address).claim(&user, "PROMO").await.assert_claimed(&user, "PROMO");
        }
        // One worker more than partitions: it waits.
        system.shared_as(&[1, 1, 1, 1]).await;
        for part in apis.into_iter().map(|api| api.0).chain(workers.into_iter().map(|worker| worker.0)) {
            part.stop().await.unwrap();
        }
        // A stopped worker leaves nothing behind.
        let left: (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM workers), (SELECT count(owner) FROM partitions)")
                .fetch_one(system.pool())
                .await
                .unwrap();
        assert_eq!(left, (0, 0));
        system.stop().await;
    });
}

#[test]
fn servers_that_are_not_there_yet_are_waited_for() {
    run(async {
        let folder = open_folder();
        let postgres = own_postgres(folder.path()).await;
        let mut postgres = postgres;
        let url = postgres.create_database(stack::DATABASE).await.unwrap();
        postgres.stop().await.unwrap();
        let (port, passwords) = (port::free().unwrap(), stack::NatsPasswords::random());
        let env = |user: NatsUser| {
            let mut env = loopback();
            env.set("DATABASE_URL", &url);
            env.set("NATS_URL", &format!("nats://127.0.0.1:{port}"));
            env.set("NATS_USER", user.name());
            env.set("NATS_PASSWORD", passwords.of(user));
            env
        };
        let (api_env, worker_env) = (env(NatsUser::Api), env(NatsUser::Worker));
        let mut api = tokio::spawn(async move { Part::api(&api_env).await });
        let mut worker = tokio::spawn(async move { Part::worker(&worker_env).await });
        assert!(timeout(SILENCE, &mut api).await.is_err() && timeout(SILENCE, &mut worker).await.is_err());
        postgres.restart().await.unwrap();
        assert!(timeout(SILENCE, &mut api).await.is_err() && timeout(SILENCE, &mut worker).await.is_err());
        let options = stack::nats_options(folder.path(), &passwords).unwrap();
        let nats = Nats::start(nats::Options { port: Some(port), ..options }).await.unwrap();
        let (api, address) = timeout(LIMIT, api).await.unwrap().unwrap().unwrap();
        let (worker, _) = timeout(LIMIT, worker).await.unwrap().unwrap().unwrap();
        let client = Client::new(address);
        client.create("PROMO", 1).await;
        client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        api.stop().await.unwrap();
        worker.stop().await.unwrap();
        nats.stop().await.unwrap();
        postgres.stop().await.unwrap();
    });
}

#[test]
fn a_postgres_that_goes_away_during_a_migration_is_waited_for() {
    run(async {
        let folder = open_folder();
        let mut postgres = own_postgres(folder.path()).await;
        let url = postgres.create_database(stack::DATABASE).await.unwrap();
        // A table of the first migration's that is not committed: the migration waits for what becomes of it.
        let mut blocker = PgConnection::connect(&url).await.unwrap();
        let mut watcher = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("BEGIN; CREATE TABLE coupons ()").execute(&mut blocker).await.unwrap();
        let options: PgConnectOptions = url.parse().unwrap();
        let connected = tokio::spawn(async move { database::connect(options, 1, "test").await });
        eventually("the migration to wait", async || {
            let waits =
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%coupons%'";
            sqlx::query_scalar::<_, i32>(waits).fetch_optional(&mut watcher).await.unwrap()
        })
        .await;
        postgres.restart().await.unwrap();
        let pool = timeout(LIMIT, connected).await.unwrap().unwrap().unwrap();
        assert_eq!(database::partitions(&pool, Some(1)).await.unwrap(), 1);
        pool.close().await;
        postgres.stop().await.unwrap();
    });
}

#[test]
fn an_api_that_stops_answers_what_it_has_accepted() {
    run(async {
        let mut system = Setup::new().apis(2).env("CLAIM_TIMEOUT_MS", 15_000).start().await;
        let (first, second) = (system.clients()[0].clone(), system.clients()[1].clone());
        first.create("PROMO", 5).await;
        let client = first.clone();
        let claim = tokio::spawn(async move { client.claim("ann", "PROMO").await });
        let jetstream = jetstream(&system).await;
        eventually("the claim in the queue", async || {
            (queued(&jetstream, partition_of("PROMO", PARTITIONS)).await.len() == 1).then_some(())
        })
        .await;
        let stopped = tokio::spawn(system.stop_api());
        eventually("no new connections", async || {
            tokio::net::TcpStream::connect(first.address).await.is_err().then_some(())
        })
        .await;
        assert!(!stopped.is_finished() && !claim.is_finished());
        system.add_worker().await;
        let reply = claim.await.unwrap();
        reply.assert_claimed("ann", "PROMO");
        timeout(LIMIT, stopped).await.unwrap().unwrap();
        second.claim("ann", "PROMO").await.assert_problem(409, "already_claimed");
        system.stop().await;
    });
}

#[test]
fn an_api_stops_though_its_clients_stay_connected() {
    run(async {
        let mut system = Setup::new().apis(2).workers(1).start().await;
        let first = system.clients()[0].clone();
        // Its connection is kept for the next request.
        assert_eq!(send(first.request(Method::GET, "/health")).await.status, 200);
        timeout(Duration::from_secs(2), system.stop_api()).await.expect("it waits for an idle connection");
        system.stop().await;
    });
}

#[test]
fn a_worker_process_waits_for_nats_and_stops_when_it_is_told_to() {
    run(async {
        let mut system = Setup::new().apis(1).start().await;
        system.nats.stop().await.unwrap();
        let waiting = worker_process(&system).await;
        eventually("it waits for NATS", async || {
            waiting.log_tail().contains("waiting for NATS").then_some(())
        })
        .await;
        let status = waiting.terminate(Duration::from_secs(2)).await.unwrap();
        assert!(status.success(), "{status}: {}", waiting.log_tail());
        drop(waiting);

        let waiting = worker_process(&system).await;
        system.nats.restart().await.unwrap();
        system.shared_as(&[8]).await;
        system.client().create("PROMO", 1).await;
        eventually("the API is ready again", async || {
            (system.client().get("/health/ready").await.status == 200).then_some(())
        })
        .await;
        system.client().claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        let status = waiting.terminate(Duration::from_secs(2)).await.unwrap();
        assert!(status.success(), "{status}: {}", waiting.log_tail());
        assert!(system.shares().await.is_empty());
        system.stop().await;
    });
}
