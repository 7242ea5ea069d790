//! Messages that no API of ours would send.

use std::time::Duration;

use async_nats::HeaderMap;
use common::message::{BatchOutcomes, REPLY_HEADER, VERSION};
use common::partition::PartitionId;
use common::stream;
use serde_json::json;
use servers::stack::NatsUser;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::harness::{PARTITIONS, Setup, System, eventually, jetstream, partition_of, run};

/// Its partition is not 0, to which forged replies point.
const COUPON: &str = "FLASH";

fn partition() -> PartitionId {
    let partition = partition_of(COUPON, PARTITIONS);
    assert_ne!(partition.number(), 0);
    partition
}

fn batch(version: u32, commands: &serde_json::Value) -> Vec<u8> {
    json!({ "version": version, "batch_id": Uuid::new_v4(), "commands": commands }).to_string().into()
}

fn claim(user: &str, coupon: &str) -> serde_json::Value {
    json!([{ "claim": { "claim_id": Uuid::new_v4(), "user_id": user, "coupon_name": coupon } }])
}

/// Publishes to the coupon's stream; returns the message's sequence.
async fn publish(system: &System, headers: HeaderMap, payload: Vec<u8>) -> i64 {
    let jetstream = jetstream(system).await;
    let published = jetstream.publish_with_headers(stream::subject(partition()), headers, payload.into());
    i64::try_from(published.await.unwrap().await.unwrap().sequence).unwrap()
}

/// Payloads that cannot be understood, and what the reason given has to contain.
fn undecodable() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"".to_vec(), "not a batch"),
        (b"garbage".to_vec(), "not a batch"),
        (b"\xff\x00\xfe".to_vec(), "not a batch"),
        (b"null".to_vec(), "not a batch"),
        (vec![b'['; 100_000], "not a batch"),
        (vec![0; 500_000], "not a batch"),
        (batch(1, &json!({ "claim": {} })), "not a batch"),
        (batch(1, &json!([])), "without commands"),
        (batch(2, &claim("evil", COUPON)), "version 2"),
        (batch(1, &json!([{ "grant": {} }])), "unknown variant `grant`"),
        // What the reason quotes may hold characters that Postgres does not store.
        (batch(1, &json!([{ "cl\0aim": {} }])), "unknown variant"),
        (batch(1, &json!([{ "x".repeat(100_000): {} }])), "unknown variant"),
        (batch(1, &claim(" ", COUPON)), "blank"),
        (batch(1, &claim("a\0b", COUPON)), "control characters"),
        (batch(1, &claim("evil", &"x".repeat(256))), "at most 255 characters"),
    ]
}

async fn assert_buried(system: &System, wanted: &[(i64, Vec<u8>, &str)]) {
    let rows: Vec<(i64, Vec<u8>, String, i32)> =
        sqlx::query_as("SELECT sequence, payload, reason, partition FROM dead_letters ORDER BY sequence")
            .fetch_all(system.pool())
            .await
            .unwrap();
    let sequences: Vec<_> = rows.iter().map(|row| row.0).collect();
    assert_eq!(sequences, wanted.iter().map(|row| row.0).collect::<Vec<_>>());
    for ((_, payload, reason, found_in), (_, wanted_payload, wanted_reason)) in rows.iter().zip(wanted) {
        assert!(payload == wanted_payload, "{reason}");
        assert!(reason.contains(wanted_reason), "{reason:.200} {wanted_reason}");
        assert_eq!(*found_in, partition().as_i32());
    }
}

#[test]
fn undecodable_messages_are_kept_aside_one_by_one() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create(COUPON, 100).await;
        let mut buried = Vec::new();
        for (number, (payload, reason)) in undecodable().into_iter().enumerate() {
            buried.push((publish(&system, HeaderMap::new(), payload.clone()).await, payload, reason));
            let user = format!("user-{number}");
            let (_, position) = client.claim(&user, COUPON).await.assert_claimed(&user, COUPON);
            assert_eq!(position, number as i64 + 1, "after a message that is {reason}");
        }
        assert_buried(&system, &buried).await;
        client.claim("evil", COUPON).await.assert_claimed("evil", COUPON);
        system.stop().await;
    });
}

#[test]
fn undecodable_messages_do_not_spoil_their_neighbours() {
    run(async {
        let mut system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 300).start().await;
        let client = system.client().clone();
        client.create(COUPON, 100).await;
        let (mut buried, mut locations) = (Vec::new(), Vec::new());
        for (number, (payload, reason)) in undecodable().into_iter().take(5).enumerate() {
            let user = format!("user-{number}");
            locations.push(client.claim(&user, COUPON).await.assert_pending(&user, COUPON));
            buried.push((publish(&system, HeaderMap::new(), payload.clone()).await, payload, reason));
        }
        // All of them in one transaction.
        system.add_worker().await;
        for (number, location) in locations.iter().enumerate() {
            let reply = eventually("an outcome", async || {
                let reply = client.get(location).await;
                (reply.status != 202).then_some(reply)
            });
            let (_, position) = reply.await.assert_claimed(&format!("user-{number}"), COUPON);
            assert_eq!(position, number as i64 + 1);
        }
        eventually("the last dead letter", async || {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
                .fetch_one(system.pool())
                .await
                .unwrap();
            (count == 5).then_some(())
        })
        .await;
        assert_buried(&system, &buried).await;
        system.stop().await;
    });
}

/// Publishes a message whose headers are none: as bytes, because no client library would.
async fn publish_without_headers(system: &System, headers: &str, payload: &str) {
    let stream = TcpStream::connect(("127.0.0.1", system.nats.port())).await.unwrap();
    let mut stream = BufReader::new(stream);
    let user = NatsUser::Operator;
    let options = json!({
        "verbose": false, "headers": true, "user": user.name(), "pass": system.passwords.of(user)
    });
    let (subject, length) = (stream::subject(partition()), headers.len());
    let all = length + payload.len();
    let commands =
        format!("CONNECT {options}\r\nHPUB {subject} {length} {all}\r\n{headers}{payload}\r\nPING\r\n");
    stream.write_all(commands.as_bytes()).await.unwrap();
    let mut said = String::new();
    while !said.ends_with("PONG\r\n") {
        assert_ne!(stream.read_line(&mut said).await.unwrap(), 0, "{said}");
        assert!(!said.contains("-ERR"), "{said}");
    }
}

#[test]
fn messages_with_broken_headers_are_kept_aside() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create(COUPON, 100).await;
        let generation_before: i64 = sqlx::query_scalar("SELECT generation FROM partitions WHERE id = $1")
            .bind(partition().as_i32())
            .fetch_one(system.pool())
            .await
            .unwrap();
        let broken = [
            "x",
            "NATS/1.0\r\nno colon\r\n\r\n",
            "NATS/9.9\r\n\r\n",
            "NATS/1.0 abc\r\n\r\n",
            "\0\0\r\n\r\n",
            // To the client library, these are the server's own.
            "NATS/1.0 100 Idle Heartbeat\r\n\r\n",
            "NATS/1.0 408 Request Timeout\r\n\r\n",
            "NATS/1.0 409 Consumer Deleted\r\n\r\n",
            "NATS/1.0 503\r\n\r\n",
        ];
        for (number, headers) in broken.into_iter().enumerate() {
            publish_without_headers(&system, headers, "{}").await;
            let user = format!("user-{number}");
            let (_, position) = client.claim(&user, COUPON).await.assert_claimed(&user, COUPON);
            assert_eq!(position, number as i64 + 1, "after {headers:?}");
        }
        // And all of them one after the other: each is what the next comparison finds at the cursor.
        for headers in broken {
            publish_without_headers(&system, headers, "{}").await;
        }
        let (_, position) = eventually("a claim behind them", async || {
            let reply = client.claim_with_key("last", COUPON, "key").await;
            (reply.status == 200).then(|| reply.assert_claimed("last", COUPON))
        })
        .await;
        assert_eq!(position, 10);
        let dead: i64 =
            sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(system.pool()).await.unwrap();
        assert_eq!(dead, 18);
        let generation: i64 = sqlx::query_scalar("SELECT generation FROM partitions WHERE id = $1")
            .bind(partition().as_i32())
            .fetch_one(system.pool())
            .await
            .unwrap();
        assert_eq!(generation, generation_before, "taken for another stream");
        system.stop().await;
    });
}

#[test]
fn a_forged_reply_header_sends_nothing_anywhere_else() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create(COUPON, 100).await;
        let operator = system.operator().await;
        let mut overheard = operator.subscribe(">").await.unwrap();
        operator.flush().await.unwrap();
        let forged = [
            "claims.0",
            "$JS.API.STREAM.DELETE.CLAIMS-0",
            "$JS.API.STREAM.PURGE.CLAIMS-0",
            "_INBOX.api.x",
            "replies.",
            "replies.>",
            "replies.*.r.1",
            "replies.a b",
            "replies..x",
            "xreplies.a",
            "REPLIES.a",
            "replies.$JS.API",
            ">",
        ];
        for (number, subject) in forged.into_iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert(REPLY_HEADER, subject);
            let user = format!("forger-{number}");
            publish(&system, headers, batch(1, &claim(&user, COUPON))).await;
            // The claim itself is a claim like any other.
            let (_, position) = client
                .claim(&format!("user-{number}"), COUPON)
                .await
                .assert_claimed(&format!("user-{number}"), COUPON);
            assert_eq!(position, 2 * (number as i64 + 1));
            client.claim(&user, COUPON).await.assert_problem(409, "already_claimed");
        }
        // Replies are the only messages with outcomes; each was one to an inbox of the API.
        let mut replies = 0;
        while replies < 2 * forged.len() {
            let message =
                tokio::time::timeout(Duration::from_secs(10), futures::StreamExt::next(&mut overheard)).await;
            let message = message.expect("a reply for each claim of the API").unwrap();
            if serde_json::from_slice::<BatchOutcomes>(&message.payload).is_ok() {
                let subject = message.subject.as_str();
                let tokens: Vec<_> = subject.split('.').collect();
                assert!(tokens.len() == 4 && (tokens[0], tokens[2]) == ("replies", "r"), "{subject}");
                assert!(Uuid::try_parse(tokens[1]).is_ok() && tokens[3].parse::<u64>().is_ok(), "{subject}");
                replies += 1;
            }
        }
        let empty = jetstream(&system).await.get_stream("CLAIMS-0").await.unwrap();
        assert_eq!(empty.cached_info().state.last_sequence, 0);
        let dead: i64 =
            sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(system.pool()).await.unwrap();
        assert_eq!(dead, 0);
        system.stop().await;
    });
}

#[test]
fn a_forged_reply_does_not_keep_the_true_one_from_its_client() {
    run(async {
        let mut system = Setup::new().apis(1).start().await;
        let client = system.client().clone();
        client.create(COUPON, 1).await;
        let claim = tokio::spawn(async move { client.claim("ann", COUPON).await });
        let jetstream = jetstream(&system).await;
        let message = eventually("the claim in the queue", async || {
            let stream = jetstream.get_stream(stream::name(partition())).await.ok()?;
            stream.get_raw_message(1).await.ok()
        })
        .await;
        let subject = message.headers.get(REPLY_HEADER).unwrap().as_str().to_owned();
        let reply = |batch_id: Uuid, outcomes: serde_json::Value| {
            json!({ "version": VERSION, "batch_id": batch_id, "outcomes": outcomes }).to_string()
        };
        let operator = system.operator().await;
        let true_id = common::message::Batch::decode(&message.payload).unwrap().batch_id;
        for forged in [
            "garbage".to_owned(),
            reply(Uuid::new_v4(), json!(["sold_out"])),
            reply(true_id, json!([])),
            reply(true_id, json!(["sold_out", "sold_out"])),
        ] {
            operator.publish(subject.clone(), forged.into()).await.unwrap();
        }
        // A round trip: the server has passed them on before anything that comes later.
        operator.request("$JS.API.INFO", "".into()).await.unwrap();
        system.add_worker().await;
        claim.await.unwrap().assert_claimed("ann", COUPON);
        system.stop().await;
    });
}
