//! Programs of different versions on one queue and one database.

use std::time::Duration;

use async_nats::HeaderMap;
use common::message::{BatchOutcomes, Outcome, REPLY_HEADER, ReceivedOutcomes};
use common::stream;
use futures::StreamExt as _;
use serde_json::{Value, json};
use servers::stack::NatsUser;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::harness::{PARTITIONS, Reply, Setup, System, eventually, jetstream, partition_of, run};

const COUPON: &str = "FLASH";

fn claim(user: &str) -> Value {
    json!({ "claim": { "claim_id": Uuid::new_v4(), "user_id": user, "coupon_name": COUPON } })
}

/// Publishes a batch, as an API of another version might; returns what the worker replies.
async fn ask(system: &System, version: u32, commands: &[Value]) -> ReceivedOutcomes {
    let (batch_id, subject) = (Uuid::new_v4(), format!("replies.{}.r.1", Uuid::new_v4().simple()));
    let mut replies = system.operator().await.subscribe(subject.clone()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(REPLY_HEADER, subject.as_str());
    let payload = json!({ "version": version, "batch_id": batch_id, "commands": commands }).to_string();
    let to = stream::subject(partition_of(COUPON, PARTITIONS));
    // Acknowledged after the subscription, which came before on the same server.
    jetstream(system).await.publish_with_headers(to, headers, payload.into()).await.unwrap().await.unwrap();
    let reply = BatchOutcomes::decode(&replies.next().await.unwrap().payload).unwrap();
    assert_eq!(reply.batch_id, batch_id);
    reply
}

async fn reasons(system: &System) -> Vec<String> {
    let reasons = sqlx::query_scalar("SELECT reason FROM dead_letters ORDER BY id");
    reasons.fetch_all(system.pool()).await.unwrap()
}

#[test]
fn a_command_of_another_version_does_not_spoil_its_neighbours() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create(COUPON, 100).await;
        let blank = claim(" ");
        let mut later = claim("cid");
        later["claim"]["since"] = json!("a later version");
        let commands = [claim("ann"), json!({ "grant": {} }), later, blank, claim("ann"), json!("pause")];
        let reply = ask(&system, 1, &commands).await;
        let wanted = [
            Outcome::Claimed { position: 1 },
            Outcome::Unsupported,
            Outcome::Claimed { position: 2 },
            Outcome::Unsupported,
            Outcome::AlreadyClaimed,
            Outcome::Unsupported,
        ];
        assert_eq!(reply.outcomes, wanted.map(Some));
        let reason = "3 of 6 commands not understood, the first is number 2: unknown variant `grant`";
        let found = reasons(&system).await;
        assert!(found.len() == 1 && found[0].starts_with(reason), "{found:?}");

        // Of a batch of another version nothing is applied, and nobody is told otherwise.
        let reply = ask(&system, 2, &[claim("bob"), json!({ "grant": {} })]).await;
        assert_eq!(reply.outcomes, [Some(Outcome::Unsupported); 2]);
        assert_eq!(reasons(&system).await.len(), 2);
        let (_, position) = client.claim("bob", COUPON).await.assert_claimed("bob", COUPON);
        assert_eq!(position, 3);
        system.stop().await;
    });
}

/// Claims while no worker runs; another version's worker replies with `outcome`, then ours is started.
async fn claim_with_outcome(outcome: Value) -> (System, Reply) {
    let mut system = Setup::new().apis(1).start().await;
    let client = system.client().clone();
    client.create(COUPON, 1).await;
    let claim = tokio::spawn(async move { client.claim("ann", COUPON).await });
    let streams = jetstream(&system).await;
    let message = eventually("the claim in the queue", async || {
        let stream = streams.get_stream(stream::name(partition_of(COUPON, PARTITIONS))).await.ok()?;
        stream.get_raw_message(1).await.ok()
    })
    .await;
    let batch: Value = serde_json::from_slice(&message.payload).unwrap();
    let reply = json!({ "version": 2, "batch_id": batch["batch_id"], "outcomes": [outcome] }).to_string();
    let operator = system.operator().await;
    let subject = message.headers.get(REPLY_HEADER).unwrap().as_str().to_owned();
    operator.publish(subject, reply.into()).await.unwrap();
    operator.flush().await.unwrap();
    system.add_worker().await;
    (system, claim.await.unwrap())
}

#[test]
fn an_outcome_of_another_version_is_looked_up() {
    run(async {
        let (system, reply) = claim_with_outcome(json!({ "given": { "position": 1 } })).await;
        reply.assert_claimed("ann", COUPON);
        system.stop().await;
    });
}

#[test]
fn a_claim_that_a_worker_did_not_understand_can_be_repeated() {
    run(async {
        let (system, reply) = claim_with_outcome(json!("unsupported")).await;
        reply.assert_problem(503, "version_mismatch");
        assert!(reply.header("retry-after").is_some());
        system.stop().await;
    });
}

/// Both programs start on the database as it is now, and claims are served.
async fn assert_starts_again(mut system: System) {
    system.stop_worker().await;
    system.stop_api().await;
    system.add_worker().await;
    let client = system.add_api().await;
    client.create(COUPON, 1).await;
    client.claim("ann", COUPON).await.assert_claimed("ann", COUPON);
    system.stop().await;
}

#[test]
fn tables_of_a_later_version_are_no_obstacle() {
    run(async {
        let system = System::start().await;
        let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (9999, 'a later version', true, '', 0)";
        sqlx::query(later).execute(system.pool()).await.unwrap();
        sqlx::query("ALTER TABLE coupons ADD COLUMN later text NOT NULL DEFAULT 'x'")
            .execute(system.pool())
            .await
            .unwrap();
        assert_starts_again(system).await;
    });
}

#[test]
fn tables_that_are_up_to_date_need_no_right_to_create_any() {
    run(async {
        let mut system = System::start().await;
        let role = format!("user_{}", Uuid::new_v4().simple());
        for statement in [
            format!("CREATE ROLE {role}"),
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(system.pool()).await.unwrap();
        }
        let variables = system.variables(NatsUser::Api);
        let url = &variables.iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1;
        let separator = if url.contains('?') { '&' } else { '?' };
        system.set("DATABASE_URL", format!("{url}{separator}options=-c%20role%3D{role}"));
        assert_starts_again(system).await;
    });
}

/// A partition that has been raised belongs to newer workers.
#[test]
fn a_worker_does_not_own_partitions_whose_messages_it_may_not_understand() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create(COUPON, 9).await;
        client.claim("ann", COUPON).await.assert_claimed("ann", COUPON);
        let partition = partition_of(COUPON, PARTITIONS);

        let row = async || -> (Option<Uuid>, i64) {
            let row = sqlx::query_as("SELECT owner, last_seq FROM partitions WHERE id = $1");
            row.bind(partition.as_i32()).fetch_one(system.pool()).await.unwrap()
        };
        // What whoever uses a newer message for the first time has to do.
        let raise =
            "UPDATE partitions SET protocol = 2, owner = NULL, epoch = epoch + 1, lease_until = '-infinity'";
        sqlx::query(raise).execute(system.pool()).await.unwrap();
        let payload =
            json!({ "version": 2, "batch_id": Uuid::new_v4(), "commands": [claim("bob")] }).to_string();
        let streams = jetstream(&system).await;
        streams.publish(stream::subject(partition), payload.into()).await.unwrap().await.unwrap();
        // Time enough to be taken again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((row().await, reasons(&system).await.len()), ((None, 1), 0));

        // A newer worker can have it.
        let newer = Uuid::new_v4();
        for (protocol, taken) in [(1, 0), (2, 1)] {
            let statements = [
                format!("DELETE FROM workers WHERE id = '{newer}'"),
                format!(
                    "INSERT INTO workers (id, alive_until, protocol)
                     VALUES ('{newer}', clock_timestamp() + interval '1 minute', {protocol})"
                ),
            ];
            for statement in statements {
                sqlx::query(AssertSqlSafe(statement)).execute(system.pool()).await.unwrap();
            }
            let take = sqlx::query("UPDATE partitions SET owner = $1 WHERE id = $2").bind(newer);
            let done = take.bind(partition.as_i32()).execute(system.pool()).await.unwrap();
            assert_eq!(done.rows_affected(), taken, "protocol {protocol}");
        }
        system.stop().await;
    });
}
