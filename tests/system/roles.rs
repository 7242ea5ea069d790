//! The programs as users of Postgres that may do what they need, and no more; and `coupon-worker migrate`, which makes
//! them.

use std::process::{Command, Output};
use std::time::Duration;

use common::partition::PartitionId;
use common::stream;
use serde_json::json;
use servers::stack::NatsUser;
use servers::system::Part;
use sqlx::{Connection as _, PgConnection};

use crate::harness::{
    Client, PARTITIONS, Setup, System, eventually, jetstream, partition_of, program, run, worker_process,
};

const COUPON: &str = "PROMO";

/// What both may do.
const BOTH_MAY: [&str; 4] = [
    "SELECT version, checksum FROM _sqlx_migrations WHERE success",
    "SELECT name, amount, remaining_amount, xmin FROM coupons",
    "SELECT coupon_name, user_id, claim_id, position FROM claims",
    "SELECT id, owner, epoch, generation, last_seq FROM partitions",
];

const API_MAY: [&str; 1] = ["INSERT INTO coupons (name, amount, remaining_amount) VALUES ('NEW', 1, 1)
     ON CONFLICT ON CONSTRAINT coupons_pkey DO NOTHING"];

const WORKER_MAY: [&str; 10] = [
    "UPDATE partitions SET owner = gen_random_uuid(), epoch = epoch + 1, lease_until = clock_timestamp()
     WHERE id IN (SELECT id FROM partitions ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)",
    "UPDATE partitions SET generation = 9, stream_created_ns = 1, last_seq = 1, last_batch_id = NULL, last_time_ns = 1",
    "SELECT id, alive_until FROM workers",
    "INSERT INTO workers (id, alive_until) VALUES (gen_random_uuid(), now())
     ON CONFLICT ON CONSTRAINT workers_pkey DO UPDATE SET alive_until = EXCLUDED.alive_until",
    "DELETE FROM workers",
    "UPDATE coupons SET remaining_amount = remaining_amount - 1",
    "INSERT INTO claims (coupon_name, user_id, claim_id, position) VALUES ('PROMO', 'x', gen_random_uuid(), 7)",
    "INSERT INTO dead_letters (partition, generation, sequence, reason, payload) VALUES (0, 1, 1, '', '')
     ON CONFLICT ON CONSTRAINT dead_letters_message_key DO NOTHING",
    "LISTEN coupon_leases",
    "SELECT pg_notify('coupon_leases', '')",
];

/// What neither may do.
const NEITHER_MAY: [&str; 28] = [
    "UPDATE coupons SET amount = amount + 1, remaining_amount = remaining_amount + 1",
    "UPDATE coupons SET name = 'OTHER'",
    "DELETE FROM coupons",
    "TRUNCATE coupons",
    "UPDATE claims SET user_id = 'thief'",
    "UPDATE claims SET position = 1",
    "DELETE FROM claims",
    "TRUNCATE claims",
    "INSERT INTO partitions (id) VALUES (99)",
    "UPDATE partitions SET id = 99 WHERE id = 0",
    "DELETE FROM partitions",
    "SELECT payload FROM dead_letters",
    "SELECT reason FROM dead_letters",
    "UPDATE dead_letters SET reason = ''",
    "DELETE FROM dead_letters",
    "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
     VALUES (9, '', true, '', 0)",
    "UPDATE _sqlx_migrations SET success = false",
    "DELETE FROM _sqlx_migrations",
    "CREATE TABLE mine (x int)",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE coupons DROP CONSTRAINT coupons_stock",
    "ALTER TABLE claims DISABLE TRIGGER number_claim",
    "CREATE INDEX mine ON claims (user_id)",
    "DROP TABLE claims",
    "ALTER TABLE coupons OWNER TO coupon_api",
    "CREATE ROLE mine",
    "SET ROLE postgres",
    "COPY coupons TO PROGRAM 'cat'",
];

const API_MAY_NOT: [&str; 11] = [
    "INSERT INTO coupons (name, amount, remaining_amount, created_at) VALUES ('OLD', 1, 1, '-infinity')",
    "UPDATE coupons SET remaining_amount = remaining_amount - 1",
    "SELECT name FROM coupons FOR UPDATE",
    "INSERT INTO claims (coupon_name, user_id, position) VALUES ('PROMO', 'x', 7)",
    "UPDATE partitions SET last_seq = 0",
    "UPDATE partitions SET owner = NULL",
    "SELECT id FROM workers",
    "INSERT INTO workers (id, alive_until) VALUES (gen_random_uuid(), now())",
    "DELETE FROM workers",
    "INSERT INTO dead_letters (partition, generation, sequence, reason, payload) VALUES (0, 1, 1, '', '')",
    "SELECT sequence FROM dead_letters",
];

const WORKER_MAY_NOT: [&str; 2] = [
    "INSERT INTO coupons (name, amount, remaining_amount) VALUES ('NEW', 1, 1)",
    "UPDATE coupons SET created_at = now()",
];

/// Does a statement and undoes it; says whether it was allowed.
async fn may(connection: &mut PgConnection, statement: &'static str) -> bool {
    let mut transaction = connection.begin().await.unwrap();
    let done = sqlx::raw_sql(statement).execute(&mut *transaction).await;
    transaction.rollback().await.unwrap();
    match done {
        Ok(_) => true,
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code());
            assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
            false
        }
    }
}

async fn connect_as(system: &System, user: NatsUser) -> PgConnection {
    PgConnection::connect(&system.database_url(user)).await.unwrap()
}

#[test]
fn each_program_may_do_what_it_needs_and_no_more() {
    run(async {
        let system = Setup::new().roles().start().await;
        sqlx::query("INSERT INTO coupons VALUES ($1, 5, 5)")
            .bind(COUPON)
            .execute(system.pool())
            .await
            .unwrap();
        for (user, allowed, denied) in [
            (NatsUser::Api, &API_MAY[..], [&API_MAY_NOT[..], &WORKER_MAY[..8]].concat()),
            (NatsUser::Worker, &WORKER_MAY[..], [&WORKER_MAY_NOT[..], &API_MAY[..]].concat()),
        ] {
            let mut connection = connect_as(&system, user).await;
            for statement in BOTH_MAY.iter().chain(allowed) {
                assert!(may(&mut connection, statement).await, "{}: {statement}", user.name());
            }
            for statement in NEITHER_MAY.into_iter().chain(denied) {
                assert!(!may(&mut connection, statement).await, "{}: {statement}", user.name());
            }
        }
        system.stop().await;
    });
}

#[test]
fn the_whole_system_works_with_these_roles() {
    run(async {
        let setup =
            Setup::new().apis(2).workers(1).roles().env("LEASE_MS", 500).env("CLAIM_TIMEOUT_MS", 1_000);
        let mut system = setup.env("PURGE_INTERVAL_MS", 100).start().await;
        let users: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT usename::text FROM pg_stat_activity WHERE application_name ~ '^coupon-' ORDER BY 1")
                .fetch_all(system.pool())
                .await
                .unwrap();
        assert_eq!(users, ["coupon_api", "coupon_worker"]);

        // Claims, refusals by worker and API, repetitions, views.
        let client = system.client().clone();
        client.create(COUPON, 4).await;
        client.claim("ann", "NONE").await.assert_problem(404, "coupon_not_found");
        let won = client.claim_with_key("ann", COUPON, "key").await.assert_claimed("ann", COUPON);
        assert_eq!(client.claim_with_key("ann", COUPON, "key").await.assert_claimed("ann", COUPON), won);
        client.claim("ann", COUPON).await.assert_problem(409, "already_claimed");
        let claimed = client.get(&format!("/api/coupons/{COUPON}/claims/ann")).await;
        assert_eq!(claimed.status, 200);

        // Another worker takes over after a crash, and after an orderly stop.
        let crashing = worker_process(&system).await;
        system.shared_as(&[PARTITIONS as usize / 2; 2]).await;
        crashing.kill().await.unwrap();
        system.shared_as(&[PARTITIONS as usize]).await;
        client.claim("bob", COUPON).await.assert_claimed("bob", COUPON);
        system.stop_worker().await;
        let location = client.claim_with_key("cid", COUPON, "key").await.assert_pending("cid", COUPON);
        system.add_worker().await;
        eventually("an outcome", async || (client.get(&location).await.status == 200).then_some(())).await;

        // What is no batch is kept, and what was applied is purged.
        let partition = partition_of(COUPON, PARTITIONS);
        let jetstream = jetstream(&system).await;
        jetstream.publish(stream::subject(partition), "nonsense".into()).await.unwrap().await.unwrap();
        eventually("a dead letter", async || {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
                .fetch_one(system.pool())
                .await
                .unwrap();
            (count == 1).then_some(())
        })
        .await;
        eventually("the applied messages are purged", async || {
            let stream = jetstream.get_stream(stream::name(partition)).await.unwrap();
            (stream.cached_info().state.messages == 1).then_some(())
        })
        .await;

        // A stream is lost, and another one begun.
        jetstream.delete_stream(stream::name(partition)).await.unwrap();
        eventually("a claim is applied again", async || {
            (client.claim_with_key("dan", COUPON, "key").await.status == 200).then_some(())
        })
        .await;
        for client in system.clients() {
            for _ in 0..3 {
                client.claim("eve", COUPON).await.assert_problem(400, "sold_out");
            }
            assert_eq!(client.view(COUPON).await["claimed_by"], json!(["ann", "bob", "cid", "dan"]));
        }
        system.stop().await;
    });
}

/// Starts an API and a worker that must end at once, with a line that says what to do.
async fn assert_sent_to_the_owner(system: &System, what: &str) {
    let limit = Duration::from_secs(5);
    let api = tokio::time::timeout(limit, Part::api(&system.env(NatsUser::Api))).await.expect("it waits");
    let worker = tokio::time::timeout(limit, Part::worker(&system.env(NatsUser::Worker))).await;
    for error in [format!("{:#}", api.unwrap_err()), format!("{:#}", worker.expect("it waits").unwrap_err())]
    {
        assert!(
            error.starts_with("the tables are missing or older than this program")
                && error.ends_with("run coupon-worker migrate as their owner")
                && error.lines().count() == 1,
            "{what}: {error}"
        );
    }
}

#[test]
fn who_may_not_migrate_says_who_may() {
    run(async {
        let mut system = Setup::new().roles().start().await;
        for (what, change, undo) in [
            (
                "tables of a version before",
                "CREATE TABLE kept AS TABLE _sqlx_migrations; DELETE FROM _sqlx_migrations",
                "INSERT INTO _sqlx_migrations TABLE kept",
            ),
            ("no partitions yet", "DELETE FROM partitions", "SELECT 1"),
        ] {
            sqlx::raw_sql(change).execute(system.pool()).await.unwrap();
            assert_sent_to_the_owner(&system, what).await;
            sqlx::raw_sql(undo).execute(system.pool()).await.unwrap();
            system.migrate().await.unwrap();
        }
        let client = system.add_api().await;
        system.add_worker().await;
        client.create(COUPON, 1).await;
        eventually("the API is ready", async || {
            (client.claim("ann", COUPON).await.status == 200).then_some(())
        })
        .await;

        // A database in which there is nothing yet.
        let postgres = system.postgres.as_ref().unwrap();
        let empty = postgres.create_database("empty").await.unwrap();
        let empty = empty.rsplit_once('/').unwrap().1;
        let of_role = |user| system.database_url(user).rsplit_once('/').unwrap().0.to_owned();
        for user in [NatsUser::Api, NatsUser::Worker] {
            let mut env = system.env(user);
            env.set("DATABASE_URL", &format!("{}/{empty}", of_role(user)));
            let error = match user {
                NatsUser::Api => format!("{:#}", Part::api(&env).await.unwrap_err()),
                _ => format!("{:#}", Part::worker(&env).await.unwrap_err()),
            };
            assert!(error.ends_with("run coupon-worker migrate as their owner"), "{error}");
        }
        system.stop().await;
    });
}

/// Runs the program with these variables and nothing else.
async fn migrate(system: &System, variables: &[(String, String)]) -> Output {
    let mut command = Command::new(program("worker", "coupon-worker"));
    command.arg("migrate").env_clear().current_dir(system.folder()).envs(variables.iter().cloned());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    (output.status.code(), out, err)
}

/// Everything in the database that a migration could make, and who may log in.
async fn made(system: &System) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT 'relation ' || relname || ' ' || relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
         UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
         UNION ALL SELECT 'partition ' || id FROM partitions
         UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolcanlogin ORDER BY 1",
    )
    .fetch_all(system.pool())
    .await
    .unwrap()
}

#[test]
fn a_migration_makes_what_a_program_would_make_and_can_be_repeated() {
    run(async {
        let mut system = Setup::new().own_postgres().start().await;
        let variables = system.migration();
        let without_roles: Vec<_> =
            variables.iter().filter(|(name, _)| !name.starts_with("POSTGRES_")).cloned().collect();
        let line = "coupon-worker migrate: the tables are up to date; 8 partitions; ";
        let first = said(&migrate(&system, &without_roles).await);
        assert_eq!(first, (Some(0), format!("{line}no role was changed\n"), String::new()));
        let alone = made(&system).await;

        for _ in 0..2 {
            let again = said(&migrate(&system, &variables).await);
            let both = "coupon_api and coupon_worker may log in\n";
            assert_eq!(again, (Some(0), format!("{line}{both}"), String::new()));
        }
        let mut with_roles = alone.clone();
        with_roles.extend(["role coupon_api".to_owned(), "role coupon_worker".to_owned()]);
        with_roles.sort();
        assert_eq!(made(&system).await, with_roles);

        // A worker that owns the tables makes the same.
        let other = Setup::new().start().await;
        let (worker, _) = Part::worker(&other.env(NatsUser::Worker)).await.unwrap();
        worker.stop().await.unwrap();
        let by_worker = made(&other).await;
        assert_eq!(by_worker, alone);
        other.stop().await;

        // Programs of one superuser go on as before, beside programs with roles.
        let client = system.add_api().await;
        system.add_worker().await;
        system.use_roles();
        let other: Client = system.add_api().await;
        client.create(COUPON, 2).await;
        eventually("it is ready", async || (client.claim("ann", COUPON).await.status == 200).then_some(()))
            .await;
        other.claim("bob", COUPON).await.assert_claimed("bob", COUPON);
        system.stop().await;
    });
}

#[test]
fn a_migration_sets_passwords_again() {
    run(async {
        let system = Setup::new().roles().start().await;
        let mut variables = system.migration();
        // As awkward as a password can be.
        let awkward = r#"it's "a" \ $1 {} %s; DROP"#;
        for (name, value) in &mut variables {
            if name == "POSTGRES_API_PASSWORD" {
                awkward.clone_into(value);
            }
        }
        assert_eq!(said(&migrate(&system, &variables).await).0, Some(0));
        let refused = PgConnection::connect(&system.database_url(NatsUser::Api)).await.unwrap_err();
        assert!(refused.to_string().contains("password authentication failed"), "{refused}");
        let options: sqlx::postgres::PgConnectOptions = system.database_url(NatsUser::Api).parse().unwrap();
        PgConnection::connect_with(&options.password(awkward)).await.unwrap();
        connect_as(&system, NatsUser::Worker).await;
        system.stop().await;
    });
}

#[test]
fn a_migration_that_fails_says_why_and_changes_no_role() {
    run(async {
        let system = Setup::new().own_postgres().start().await;
        let with = |changes: &[(&str, &str)]| {
            let mut variables = system.migration();
            for (name, value) in changes {
                variables.retain(|(other, _)| other != name);
                variables.push(((*name).to_owned(), (*value).to_owned()));
            }
            variables
        };
        // An owner who may not create roles; the tables are made.
        sqlx::raw_sql("CREATE ROLE owner LOGIN PASSWORD 'owner'; GRANT CREATE ON SCHEMA public TO owner")
            .execute(system.pool())
            .await
            .unwrap();
        let url = system.database_url(NatsUser::Worker);
        let as_owner = format!("postgres://owner:owner@{}", url.split_once('@').unwrap().1);
        let wrong = format!("postgres://owner:wrong@{}", url.split_once('@').unwrap().1);
        for (changes, start) in [
            (
                [("DATABASE_URL", as_owner.as_str()), ("RUST_LOG", "warn")],
                "Error: POSTGRES_API_PASSWORD: giving the role coupon_api",
            ),
            (
                [("DATABASE_URL", &url), ("PARTITIONS", "9")],
                "Error: PARTITIONS: this system was set up with 8 partitions",
            ),
            ([("DATABASE_URL", &wrong), ("RUST_LOG", "warn")], "Error: Postgres refuses the connection"),
            ([("PARTITIONS", "none"), ("RUST_LOG", "warn")], "Error: PARTITIONS: must be"),
        ] {
            let (code, out, err) = said(&migrate(&system, &with(&changes)).await);
            assert!(code == Some(1) && out.is_empty(), "{start}: {code:?} {out} {err}");
            assert!(err.starts_with(start) && err.lines().count() == 1, "{start}: {err}");
        }
        let made = made(&system).await;
        assert!(!made.iter().any(|made| made.starts_with("role coupon_")), "{made:?}");
        for partition in (0..PARTITIONS).map(PartitionId::new) {
            assert!(made.contains(&format!("partition {partition}")), "{made:?}");
        }
        system.stop().await;
    });
}
