//! Streams that are deleted, lose their tail, are wiped, or are full.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::partition::PartitionId;
use common::stream;
use serde_json::json;

use crate::harness::{
    Answer, Load, PARTITIONS, Reply, Setup, System, a_coupon_per_partition, eventually, jetstream,
    partition_of, queued, run, worker_process,
};

const COUPON: &str = "PROMO";

fn partition() -> PartitionId {
    partition_of(COUPON, PARTITIONS)
}

async fn generation(system: &System, partition: PartitionId) -> i64 {
    sqlx::query_scalar("SELECT generation FROM partitions WHERE id = $1")
        .bind(partition.as_i32())
        .fetch_one(system.pool())
        .await
        .unwrap()
}

/// Repeats a claim until its outcome is definite.
async fn insist(system: &System, user: &str) -> Reply {
    eventually(&format!("an outcome for {user}"), async || {
        let reply = system.client().claim_with_key(user, COUPON, "key").await;
        match reply.status {
            202 => {
                reply.assert_pending(user, COUPON);
                None
            }
            503 => {
                reply.code();
                None
            }
            _ => Some(reply),
        }
    })
    .await
}

/// Keeps a copy of everything that NATS has stored so far.
async fn keep_copy(system: &mut System) -> PathBuf {
    let copy = system.folder().join("copy");
    system.nats.stop().await.unwrap();
    copy_folder(&system.nats.folder().join("jetstream"), &copy);
    system.nats.restart().await.unwrap();
    copy
}

/// Stops NATS, puts `copy` in the place of everything that it stored (nothing, if there is none),
/// and starts it again.
async fn set_back(system: &mut System, copy: Option<&Path>) {
    system.nats.stop().await.unwrap();
    let store = system.nats.folder().join("jetstream");
    std::fs::remove_dir_all(&store).unwrap();
    if let Some(copy) = copy {
        copy_folder(copy, &store);
    }
    system.nats.restart().await.unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_stream_is_deleted_under_load() {
    run(async {
        let system = Setup::new().apis(2).workers(2).env("CLAIM_TIMEOUT_MS", 1_500).start().await;
        let coupons = a_coupon_per_partition(PARTITIONS);
        for (number, coupon) in coupons.iter().enumerate() {
            system.client().create(coupon, if number % 2 == 0 { 40 } else { 1_000_000 }).await;
        }
        let load = Load::start(&system.clients(), &coupons, 6);
        let jetstream = jetstream(&system).await;
        for coupon in &coupons[..3] {
            load.goes_on(100).await;
            let partition = partition_of(coupon, PARTITIONS);
            let before = generation(&system, partition).await;
            jetstream.delete_stream(stream::name(partition)).await.unwrap();
            eventually("the stream is back", async || {
                jetstream.get_stream(stream::name(partition)).await.ok()
            })
            .await;
            load.goes_on(100).await;
            assert!(generation(&system, partition).await > before);
        }
        let answers = load.finish().await;
        Answer::assert_true(&answers, &system).await;
        system.stop().await;
    });
}

#[test]
fn an_api_waits_for_the_streams_that_workers_create() {
    run(async {
        let mut system = Setup::new().start().await;
        let client = system.add_api().await;
        client.create(COUPON, 1).await;
        client.claim("ann", COUPON).await.assert_problem(503, "queue_unavailable");
        let health = client.get("/health/ready").await;
        assert_eq!(
            (health.status, &health.json()["postgres"], &health.json()["nats"]),
            (503, &json!("ok"), &json!("unavailable"))
        );
        system.add_worker().await;
        eventually("the API is ready", async || {
            (client.get("/health/ready").await.status == 200).then_some(())
        })
        .await;
        client.claim("ann", COUPON).await.assert_claimed("ann", COUPON);
        system.stop().await;
    });
}

#[test]
fn a_worker_without_partitions_creates_a_stream_that_is_gone() {
    run(async {
        // The owner of all partitions keeps its leases while it is frozen.
        let mut system =
            Setup::new().apis(1).env("LEASE_MS", 60_000).env("CLAIM_TIMEOUT_MS", 300).start().await;
        let worker = worker_process(&system).await;
        system.shared_as(&[PARTITIONS as usize]).await;
        system.client().create(COUPON, 1).await;
        insist(&system, "ann").await.assert_claimed("ann", COUPON);
        let before = generation(&system, partition()).await;
        assert!(worker.pause().await);
        system.add_worker().await;
        let jetstream = jetstream(&system).await;
        jetstream.delete_stream(stream::name(partition())).await.unwrap();
        let missing_since = Instant::now();
        eventually("the stream is back", async || jetstream.get_stream(stream::name(partition())).await.ok())
            .await;
        // It looks twice a second.
        assert!(missing_since.elapsed() < Duration::from_secs(5), "{:?}", missing_since.elapsed());
        assert_eq!(generation(&system, partition()).await, before + 1);
        assert_eq!(system.shares().await.into_values().collect::<Vec<_>>(), [PARTITIONS as usize]);
        // Until the API has read the new cursor, it cannot tell which stream a claim is in.
        eventually("a place in the queue", async || {
            (system.client().claim_with_key("bob", COUPON, "key").await.status == 202).then_some(())
        })
        .await;
        assert!(worker.resume());
        insist(&system, "bob").await.assert_problem(400, "sold_out");
        worker.terminate(Duration::from_secs(10)).await.unwrap();
        system.stop().await;
    });
}

/// Workers miss a stream at the same moment. The generation may be raised more than once, but never behind the back of
/// what was applied, and there is one stream in the end.
#[test]
fn workers_create_a_stream_together() {
    run(async {
        let system = Setup::new().apis(1).workers(3).env("CLAIM_TIMEOUT_MS", 1_000).start().await;
        system.client().create(COUPON, 100).await;
        let jetstream = jetstream(&system).await;
        for round in 0..10 {
            insist(&system, &format!("before-{round}"))
                .await
                .assert_claimed(&format!("before-{round}"), COUPON);
            let before = generation(&system, partition()).await;
            jetstream.delete_stream(stream::name(partition())).await.unwrap();
            futures::future::join_all((0..4).map(|_| system.create_streams())).await;
            assert!(generation(&system, partition()).await > before);
            let user = format!("after-{round}");
            insist(&system, &user).await.assert_claimed(&user, COUPON);
        }
        system.stop().await;
    });
}

#[test]
fn what_waits_in_a_stream_that_was_made_anew_is_not_purged() {
    run(async {
        let setup = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 300).env("BATCH_CLAIMS_MAX", 1);
        // The worker keeps its lease while it is frozen, and takes a part of what waits at a time.
        let setup = setup.env("LEASE_MS", 60_000).env("PREFETCH_MESSAGES_MAX", 4);
        let system = setup.env("PURGE_INTERVAL_MS", 100).start().await;
        let worker = worker_process(&system).await;
        let client = system.client().clone();
        client.create(COUPON, 1_000).await;
        for user in ["a", "b", "c"] {
            insist(&system, user).await.assert_claimed(user, COUPON);
        }
        let jetstream = jetstream(&system).await;
        eventually("only the last message left", async || {
            let stream = jetstream.get_stream(stream::name(partition())).await.ok()?;
            (stream.cached_info().state.messages == 1).then_some(())
        })
        .await;
        assert!(worker.pause().await);
        jetstream.delete_stream(stream::name(partition())).await.unwrap();
        system.create_streams().await;
        let users: Vec<_> = (0..60).map(|number| format!("late-{number}")).collect();
        let waiting = futures::future::join_all(users.iter().map(async |user| {
            eventually("a place in the queue", async || {
                let reply = client.claim_with_key(user, COUPON, "key").await;
                (reply.status == 202).then(|| reply.assert_pending(user, COUPON))
            })
            .await
        }))
        .await;
        assert!(worker.resume());
        for (user, location) in users.iter().zip(&waiting) {
            let reply = eventually("an outcome", async || {
                let reply = client.get(location).await;
                (reply.status != 202).then_some(reply)
            });
            reply.await.assert_claimed(user, COUPON);
        }
        worker.terminate(Duration::from_secs(10)).await.unwrap();
        system.stop().await;
    });
}

#[test]
fn a_claim_that_was_deleted_with_its_stream_can_be_made_again() {
    run(async {
        let mut system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 300).start().await;
        let client = system.client().clone();
        client.create(COUPON, 1).await;
        let location = client.claim_with_key("ann", COUPON, "key").await.assert_pending("ann", COUPON);
        let before = generation(&system, partition()).await;
        jetstream(&system).await.delete_stream(stream::name(partition())).await.unwrap();
        client.claim("bob", COUPON).await.assert_problem(503, "queue_unavailable");
        // What the API handed out is void once there is another one.
        system.create_streams().await;
        assert_eq!(generation(&system, partition()).await, before + 1);
        let reply = client.get(&location).await;
        reply.assert_problem(503, "outcome_unknown");
        sqlx::query("UPDATE coupons SET amount = 2, remaining_amount = 2")
            .execute(system.pool())
            .await
            .unwrap();
        system.add_worker().await;
        insist(&system, "bob").await;
        client.get(&location).await.assert_problem(503, "outcome_unknown");
        insist(&system, "ann").await.assert_claimed("ann", COUPON);
        // The claim of that receipt has won after all.
        client.get(&location).await.assert_claimed("ann", COUPON);
        system.stop().await;
    });
}

#[test]
fn a_claim_that_waits_while_its_stream_is_deleted_is_not_called_pending() {
    run(async {
        let system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 3_000).start().await;
        let client = system.client().clone();
        client.create(COUPON, 1).await;
        let before = generation(&system, partition()).await;
        let jetstream = jetstream(&system).await;
        let waits = tokio::spawn(async move { client.claim("ann", COUPON).await });
        eventually("a claim in the queue", async || {
            (queued(&jetstream, partition()).await.len() == 1).then_some(())
        })
        .await;
        jetstream.delete_stream(stream::name(partition())).await.unwrap();
        system.create_streams().await;
        assert_eq!(generation(&system, partition()).await, before + 1);
        waits.await.unwrap().assert_problem(503, "outcome_unknown");
        system.stop().await;
    });
}

#[test]
fn a_message_that_was_deleted_by_hand_holds_nobody_up() {
    run(async {
        let mut system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 300).start().await;
        let client = system.client().clone();
        client.create(COUPON, 10).await;
        let mut locations = Vec::new();
        for user in ["a", "b", "c", "d"] {
            let reply = client.claim_with_key(user, COUPON, "key").await;
            locations.push((user, reply.assert_pending(user, COUPON)));
        }
        let stream = jetstream(&system).await.get_stream(stream::name(partition())).await.unwrap();
        for sequence in [1, 3] {
            stream.delete_message(sequence).await.unwrap();
        }
        system.add_worker().await;
        for (user, location) in [&locations[1], &locations[3]] {
            let reply = eventually("an outcome", async || {
                let reply = client.get(location).await;
                (reply.status == 200).then_some(reply)
            });
            reply.await.assert_claimed(user, COUPON);
        }
        // Nobody is told that a claim was refused which was never looked at.
        for (_, location) in [&locations[0], &locations[2]] {
            client.get(location).await.assert_problem(503, "outcome_unknown");
        }
        for (user, position) in [("a", 3), ("c", 4), ("b", 1), ("d", 2)] {
            assert_eq!(insist(&system, user).await.assert_claimed(user, COUPON).1, position);
        }
        system.stop().await;
    });
}

#[test]
fn a_stream_loses_its_tail() {
    run(async {
        let mut system = Setup::new().apis(1).workers(1).env("CLAIM_TIMEOUT_MS", 1_000).start().await;
        let client = system.client().clone();
        client.create(COUPON, 8).await;
        client.claim_with_key("a", COUPON, "key").await.assert_claimed("a", COUPON);
        client.claim_with_key("b", COUPON, "key").await.assert_claimed("b", COUPON);
        let copy = keep_copy(&mut system).await;
        for user in ["c", "d", "e"] {
            insist(&system, user).await.assert_claimed(user, COUPON);
        }
        let before = generation(&system, partition()).await;
        set_back(&mut system, Some(&copy)).await;
        // What was won stays won, and what comes is in line behind it.
        for (user, position) in [("f", 6), ("a", 1), ("e", 5), ("g", 7), ("h", 8)] {
            assert_eq!(insist(&system, user).await.assert_claimed(user, COUPON).1, position);
        }
        insist(&system, "i").await.assert_problem(400, "sold_out");
        assert_eq!(generation(&system, partition()).await, before + 1);
        assert_eq!(client.view(COUPON).await["claimed_by"], json!(["a", "b", "c", "d", "e", "f", "g", "h"]));
        system.stop().await;
    });
}

#[test]
fn a_stream_loses_its_tail_and_grows_again_before_a_worker_looks() {
    run(async {
        let mut system = Setup::new().apis(1).workers(1).env("CLAIM_TIMEOUT_MS", 1_000).start().await;
        let client = system.client().clone();
        client.create(COUPON, 8).await;
        client.claim_with_key("a", COUPON, "key").await.assert_claimed("a", COUPON);
        let copy = keep_copy(&mut system).await;
        for user in ["b", "c"] {
            insist(&system, user).await.assert_claimed(user, COUPON);
        }
        system.stop_worker().await;
        let before = generation(&system, partition()).await;
        set_back(&mut system, Some(&copy)).await;
        eventually("the API is ready again", async || {
            (client.get("/health/ready").await.status == 200).then_some(())
        })
        .await;
        // Their messages get the numbers of those that were lost, and more: the cursor lies among them.
        let jetstream = jetstream(&system).await;
        let mut stream = jetstream.get_stream(stream::name(partition())).await.unwrap();
        let cursor: i64 = sqlx::query_scalar("SELECT last_seq FROM partitions WHERE id = $1")
            .bind(partition().as_i32())
            .fetch_one(system.pool())
            .await
            .unwrap();
        let mut late = Vec::new();
        while i64::try_from(stream.info().await.unwrap().state.last_sequence).unwrap() <= cursor + 1 {
            let user = format!("late-{}", late.len());
            let reply = client.claim_with_key(&user, COUPON, "key").await;
            assert!(matches!(reply.status, 202 | 503), "{reply:?}");
            late.push(user);
            assert!(late.len() < 20, "the stream does not grow");
        }
        system.add_worker().await;
        let mut won = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        for user in &late {
            let reply = insist(&system, user).await;
            if won.len() < 8 {
                won.push(user.clone());
                assert_eq!(reply.assert_claimed(user, COUPON).1, won.len() as i64);
            } else {
                reply.assert_problem(400, "sold_out");
            }
        }
        assert_eq!(generation(&system, partition()).await, before + 1);
        assert_eq!(client.view(COUPON).await["claimed_by"], json!(won));
        system.stop().await;
    });
}

#[test]
fn a_refusal_does_not_become_a_win_when_the_queue_is_set_back() {
    run(async {
        let setup = Setup::new().apis(1).workers(1).env("CLAIM_TIMEOUT_MS", 1_000);
        let mut system = setup.env("PURGE_INTERVAL_MS", 0).start().await;
        let client = system.client().clone();
        client.create(COUPON, 8).await;
        let later = (0..).map(|number| format!("LATER {number}"));
        let later = later.into_iter().find(|name| partition_of(name, PARTITIONS) == partition()).unwrap();
        client.claim_with_key("a", COUPON, "key").await.assert_claimed("a", COUPON);
        client.claim("early", &later).await.assert_problem(404, "coupon_not_found");
        let copy = keep_copy(&mut system).await;
        insist(&system, "b").await.assert_claimed("b", COUPON);
        client.create(&later, 8).await;
        let before = generation(&system, partition()).await;
        // The copy holds the refused claim; by now there would be something to win.
        set_back(&mut system, Some(&copy)).await;
        assert_eq!(insist(&system, "c").await.assert_claimed("c", COUPON).1, 3);
        assert_eq!(generation(&system, partition()).await, before + 1);
        assert_eq!(client.view(&later).await["claimed_by"], json!([]));
        client.claim("early", &later).await.assert_claimed("early", &later);
        system.stop().await;
    });
}

#[test]
fn the_whole_queue_is_wiped() {
    run(async {
        let mut system = Setup::new().apis(1).workers(2).env("CLAIM_TIMEOUT_MS", 1_000).start().await;
        let client = system.client().clone();
        client.create(COUPON, 3).await;
        client.claim_with_key("a", COUPON, "key").await.assert_claimed("a", COUPON);
        let before = generation(&system, partition()).await;
        set_back(&mut system, None).await;
        for (user, position) in [("b", 2), ("a", 1), ("c", 3)] {
            assert_eq!(insist(&system, user).await.assert_claimed(user, COUPON).1, position);
        }
        insist(&system, "d").await.assert_problem(400, "sold_out");
        assert!(generation(&system, partition()).await > before);
        system.stop().await;
    });
}

#[test]
fn a_full_stream_refuses_claims_until_it_is_drained() {
    run(async {
        let setup = Setup::new().apis(1).env("STREAM_BYTES_MAX", 65_536).env("BATCH_CLAIMS_MAX", 1);
        let mut system = setup.env("CLAIM_TIMEOUT_MS", 3_000).start().await;
        let client = system.client().clone();
        client.create(COUPON, 1_000).await;
        // More than a kilobyte each.
        let users: Vec<_> = (0..100).map(|number| format!("{number:03}{}", "🎉".repeat(252))).collect();
        let claims = users.iter().map(|user| client.claim_with_key(user, COUPON, "key"));
        let replies = futures::future::join_all(claims).await;
        let mut accepted = Vec::new();
        let mut refused = Vec::new();
        for (user, reply) in users.iter().zip(&replies) {
            match reply.status {
                202 => accepted.push((user, reply.assert_pending(user, COUPON))),
                _ => {
                    reply.assert_problem(503, "queue_full");
                    refused.push(user);
                }
            }
        }
        let jetstream = jetstream(&system).await;
        let stream = jetstream.get_stream(stream::name(partition())).await.unwrap();
        assert_eq!(
            stream.cached_info().state.messages,
            accepted.len() as u64,
            "those and no others are queued"
        );
        assert!(accepted.len() > 20 && refused.len() > 20, "{} and {}", accepted.len(), refused.len());
        client.claim(&"🎉".repeat(255), COUPON).await.assert_problem(503, "queue_full");
        // Another partition has room.
        let other = a_coupon_per_partition(PARTITIONS)
            .into_iter()
            .find(|name| partition_of(name, PARTITIONS) != partition());
        let other = other.unwrap();
        client.create(&other, 1).await;
        client.claim("ann", &other).await.assert_pending("ann", &other);

        system.add_worker().await;
        for (user, location) in &accepted {
            let reply = eventually("an outcome", async || {
                let reply = client.get(location).await;
                (reply.status != 202).then_some(reply)
            });
            reply.await.assert_claimed(user, COUPON);
        }
        for user in refused {
            insist(&system, user).await.assert_claimed(user, COUPON);
        }
        assert_eq!(client.view(COUPON).await["remaining_amount"], 900);
        system.stop().await;
    });
}
