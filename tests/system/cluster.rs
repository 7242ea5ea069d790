//! Workers that join, stop and are killed, while the claims go on.

use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{
    Answer, Load, PARTITIONS, Setup, System, a_coupon_per_partition, assert_first_come_first_served,
    eventually, run, worker_process,
};

/// How long a planned hand-over may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// Lease time in these tests.
const LEASE: Duration = Duration::from_secs(1);

/// What a busy machine may add to the two leases that a take-over takes.
const MARGIN: Duration = Duration::from_secs(1);

async fn start(workers: usize) -> System {
    let setup = Setup::new().apis(2).workers(workers).env("PURGE_INTERVAL_MS", 0);
    setup.env("LEASE_MS", LEASE.as_millis()).env("CLAIM_TIMEOUT_MS", 15_000).start().await
}

/// Coupons in all partitions, two of which will be sold out.
async fn coupons(system: &System) -> Vec<String> {
    let coupons = a_coupon_per_partition(PARTITIONS);
    for (number, coupon) in coupons.iter().enumerate() {
        system.client().create(coupon, if number < 2 { 20 } else { 1_000_000 }).await;
    }
    coupons
}

/// Ends the load; every claim must have got its outcome at the first asking.
async fn end(load: Load, system: System) {
    let answers = load.finish().await;
    let delayed = answers.iter().find(|answer| !answer.before.is_empty());
    assert!(delayed.is_none(), "{delayed:?}");
    Answer::assert_true(&answers, &system).await;
    assert_first_come_first_served(&system).await;
    system.stop().await;
}

#[test]
fn partitions_are_evenly_shared() {
    run(async {
        let system = start(3).await;
        let mut owners = system.shared_as(&[2, 3, 3]).await;
        let mut workers = system.workers();
        owners.sort_unstable();
        workers.sort_unstable();
        assert_eq!(owners, workers);
        // It stays that way: through some heartbeats nobody takes anything from anybody.
        let epochs = async || -> Vec<(Option<Uuid>, i64)> {
            sqlx::query_as("SELECT owner, epoch FROM partitions ORDER BY id")
                .fetch_all(system.pool())
                .await
                .unwrap()
        };
        let before = epochs().await;
        let alive_until: Vec<String> = alive(&system).await;
        eventually("everyone's heartbeat", async || {
            alive(&system).await.iter().zip(&alive_until).all(|(now, then)| now > then).then_some(())
        })
        .await;
        assert_eq!(epochs().await, before);
        system.stop().await;
    });
}

async fn alive(system: &System) -> Vec<String> {
    sqlx::query_scalar("SELECT alive_until::text FROM workers ORDER BY id")
        .fetch_all(system.pool())
        .await
        .unwrap()
}

#[test]
fn a_worker_that_joins_takes_its_share() {
    run(async {
        let mut system = start(1).await;
        let coupons = coupons(&system).await;
        system.shared_as(&[8]).await;
        let load = Load::start(&system.clients(), &coupons, 4);
        for shares in [vec![4, 4], vec![2, 3, 3], vec![2, 2, 2, 2]] {
            load.goes_on(50).await;
            system.add_worker().await;
            let started = Instant::now();
            system.shared_as(&shares).await;
            assert!(started.elapsed() < 2 * LEASE, "{shares:?} took {:?}", started.elapsed());
            load.goes_on(50).await;
        }
        end(load, system).await;
    });
}

#[test]
fn a_worker_that_is_far_from_the_database_owns_its_share() {
    run(async {
        // A third of that for each answer; a first heartbeat is a dozen of them.
        let setup = Setup::new().apis(1).workers(1).env("LEASE_MS", 600).env("PURGE_INTERVAL_MS", 0);
        let mut system = setup.start().await;
        system.shared_as(&[8]).await;
        system.move_database_away(Duration::from_millis(20)).await;
        let far = system.add_worker().await;
        assert!(system.shared_as(&[4, 4]).await.contains(&far));
        let coupons = coupons(&system).await;
        let load = Load::start(&system.clients(), &coupons, 2);
        load.goes_on(100).await;
        end(load, system).await;
    });
}

#[test]
fn leases_from_before_the_clock_was_set_back_hold_nobody_up() {
    run(async {
        let mut system = Setup::new().apis(1).start().await;
        // A worker that died while the clock was a day ahead.
        let ghost = Uuid::new_v4();
        sqlx::query("INSERT INTO workers (id, alive_until) VALUES ($1, now() + interval '1 day')")
            .bind(ghost)
            .execute(system.pool())
            .await
            .unwrap();
        sqlx::query("UPDATE partitions SET owner = $1, epoch = 1, lease_until = now() + interval '1 day'")
            .bind(ghost)
            .execute(system.pool())
            .await
            .unwrap();
        let worker = system.add_worker().await;
        eventually("a worker that owns everything", async || {
            (system.shared_as(&[8]).await == [worker]).then_some(())
        })
        .await;
        system.stop().await;
    });
}

#[test]
fn a_worker_that_stops_hands_over_at_once() {
    run(async {
        let mut system = start(3).await;
        let coupons = coupons(&system).await;
        system.shared_as(&[2, 3, 3]).await;
        let load = Load::start(&system.clients(), &coupons, 4);
        for shares in [vec![4, 4], vec![8]] {
            load.goes_on(50).await;
            let started = Instant::now();
            system.stop_worker().await;
            let mut owners = system.shared_as(&shares).await;
            assert!(started.elapsed() < HAND_OVER_MAX, "{shares:?} took {:?}", started.elapsed());
            let mut workers = system.workers();
            owners.sort_unstable();
            workers.sort_unstable();
            assert_eq!(owners, workers);
            load.goes_on(50).await;
        }
        end(load, system).await;
    });
}

#[test]
fn a_worker_process_that_is_told_to_stop_hands_over_at_once() {
    run(async {
        let system = start(1).await;
        let coupons = coupons(&system).await;
        let process = worker_process(&system).await;
        system.shared_as(&[4, 4]).await;
        let load = Load::start(&system.clients(), &coupons, 4);
        load.goes_on(50).await;
        let started = Instant::now();
        let status = process.terminate(LEASE).await.unwrap();
        assert!(status.success(), "{status}: {}", process.log_tail());
        assert_eq!(system.shared_as(&[8]).await, system.workers());
        assert!(started.elapsed() < HAND_OVER_MAX, "{:?}", started.elapsed());
        load.goes_on(50).await;
        end(load, system).await;
    });
}

#[test]
fn a_worker_that_is_killed_is_replaced_within_two_leases() {
    run(async {
        let system = start(2).await;
        let coupons = coupons(&system).await;
        let process = worker_process(&system).await;
        let owners = system.shared_as(&[2, 3, 3]).await;
        let load = Load::start(&system.clients(), &coupons, 4);
        load.goes_on(100).await;
        let started = Instant::now();
        process.kill().await.unwrap();
        let left = system.shared_as(&[4, 4]).await;
        let took = started.elapsed();
        assert!(took < 2 * LEASE + MARGIN, "{took:?}");
        assert!(left.iter().all(|owner| owners.contains(owner) && system.workers().contains(owner)));
        load.goes_on(200).await;
        end(load, system).await;
    });
}

#[test]
fn a_worker_that_freezes_can_commit_nothing_when_it_wakes() {
    run(async {
        let system = start(1).await;
        let coupons = coupons(&system).await;
        let process = worker_process(&system).await;
        let both = system.shared_as(&[4, 4]).await;
        let load = Load::start(&system.clients(), &coupons, 4);
        load.goes_on(100).await;
        assert!(process.pause().await);
        assert_eq!(system.shared_as(&[8]).await, system.workers());
        load.goes_on(100).await;
        assert!(process.resume());
        assert_eq!(system.shared_as(&[4, 4]).await, both);
        load.goes_on(100).await;
        assert!(process.is_running(), "{}", process.log_tail());
        process.terminate(LEASE * 5).await.unwrap();
        end(load, system).await;
    });
}

/// A way to a server that can be cut.
async fn way_to(server: String) -> (String, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cut = CancellationToken::new();
    let stop = cut.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&server).await.unwrap();
            let copying = async move { tokio::io::copy_bidirectional(&mut near, &mut far).await };
            tokio::spawn(stop.clone().run_until_cancelled_owned(copying));
        }
    }));
    (address, cut)
}

#[test]
fn a_worker_that_is_cut_off_from_nats_alone_gives_its_partitions_away() {
    run(async {
        let mut system = start(1).await;
        let coupons = coupons(&system).await;
        let direct = system.nats.url();
        let (address, cut) = way_to(direct.trim_start_matches("nats://").to_owned()).await;
        system.set("NATS_URL", format!("nats://{address}"));
        let lonely = system.add_worker().await;
        system.shared_as(&[4, 4]).await;
        let load = Load::start(&system.clients(), &coupons, 4);
        load.goes_on(100).await;
        cut.cancel();
        // It lives, and reaches Postgres: it could keep its leases for ever.
        let owners = system.shared_as(&[8]).await;
        assert_ne!(owners, [lonely]);
        load.goes_on(100).await;
        end(load, system).await;
    });
}
