//! Claims that Postgres refuses: they alone, and not for ever.

use std::time::Duration;

use servers::stack::NatsUser;
use servers::system::Part;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::harness::{PARTITIONS, Setup, System, partition_of, run};

const COUPON: &str = "FLASH";

async fn sql(system: &System, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(system.pool()).await.unwrap();
}

async fn dead_letters(system: &System) -> Vec<(i32, String, String)> {
    sqlx::query_as(
        "SELECT place, reason, convert_from(payload, 'UTF8')::json -> 'claim' ->> 'user_id'
         FROM dead_letters ORDER BY sequence, place",
    )
    .fetch_all(system.pool())
    .await
    .unwrap()
}

/// `refuse` makes Postgres refuse some claims, those of `rejected`; the reason has to contain `why`. They come in one
/// message with others, at its beginning, in its middle and at its end.
async fn only_the_refused_are_rejected(refuse: &str, rejected: &[&str], why: &str) {
    let mut system = Setup::new().apis(1).env("CLAIM_TIMEOUT_MS", 20_000).start().await;
    let client = system.client().clone();
    client.create(COUPON, 9).await;
    // The tables are there; the streams, too. What the worker finds is this:
    sql(&system, refuse).await;
    let users = ["evil-1", "ann", "bob", "evil-2", "evil-3", "cid", "dan", "eve", "evil-4"];
    let mut replies = Vec::new();
    for user in users {
        let client = client.clone();
        replies.push(tokio::spawn(async move { client.claim(user, COUPON).await }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    system.add_worker().await;
    let mut position = 0;
    for (user, reply) in users.iter().zip(replies) {
        let reply = reply.await.unwrap();
        if rejected.contains(user) {
            reply.assert_problem(500, "internal");
        } else {
            position += 1;
            assert_eq!(reply.assert_claimed(user, COUPON).1, position, "{user}");
        }
    }
    let letters = dead_letters(&system).await;
    let kept: Vec<&str> = letters.iter().map(|(_, _, user)| user.as_str()).collect();
    assert_eq!(kept, rejected);
    for (place, reason, user) in &letters {
        assert!(*place > 0 && reason.contains(why), "{user}: {place}, {reason}");
    }
    // Later claims are claims like any other, a refused one too: repeated, it is another message.
    client.claim("fay", COUPON).await.assert_claimed("fay", COUPON);
    client.claim("evil-4", COUPON).await.assert_problem(500, "internal");
    assert_eq!(dead_letters(&system).await.len(), rejected.len() + 1);
    client.claim("gus", COUPON).await.assert_claimed("gus", COUPON);
    system.stop().await;
}

#[test]
fn a_constraint_rejects_the_claims_that_break_it() {
    run(only_the_refused_are_rejected(
        "ALTER TABLE claims ADD CONSTRAINT no_evil CHECK (user_id NOT LIKE 'evil%')",
        &["evil-1", "evil-2", "evil-3", "evil-4"],
        "no_evil",
    ));
}

#[test]
fn a_trigger_rejects_the_claims_that_it_does_not_like() {
    run(only_the_refused_are_rejected(
        "CREATE FUNCTION no_evil() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'not you: %', NEW.user_id; END $$;
         CREATE TRIGGER no_evil BEFORE INSERT ON claims
         FOR EACH ROW WHEN (NEW.user_id LIKE 'evil%') EXECUTE FUNCTION no_evil()",
        &["evil-1", "evil-2", "evil-3", "evil-4"],
        "not you: evil",
    ));
}

/// A unique violation is also what a row by hand causes, which a second look finds. And here, what is refused depends
/// on what was accepted before.
#[test]
fn an_index_of_somebody_else_rejects_what_it_does_not_take() {
    run(only_the_refused_are_rejected(
        "CREATE UNIQUE INDEX one_evil ON claims (coupon_name) WHERE user_id LIKE 'evil%'",
        &["evil-2", "evil-3", "evil-4"],
        "one_evil",
    ));
}

#[test]
fn a_coupon_without_positions_rejects_claims_and_stops_nobody_else() {
    run(async {
        let system = System::start().await;
        let client = system.client();
        client.create(COUPON, 5).await;
        let last = "INSERT INTO claims (coupon_name, user_id, position) VALUES ('FLASH', 'last', 9223372036854775807)";
        sql(&system, last).await;
        for user in ["ann", "bob"] {
            client.claim(user, COUPON).await.assert_problem(500, "internal");
        }
        client.claim("last", COUPON).await.assert_problem(409, "already_claimed");
        let letters = dead_letters(&system).await;
        assert!(letters.len() == 2 && letters[0].1.contains("no position left"), "{letters:?}");
        // A coupon of the same partition.
        let other = (0..).map(|n| format!("other {n}"));
        let other =
            other.into_iter().find(|name| partition_of(name, PARTITIONS) == partition_of(COUPON, PARTITIONS));
        let other = other.unwrap();
        client.create(&other, 1).await;
        client.claim("ann", &other).await.assert_claimed("ann", &other);
        sql(&system, "DELETE FROM claims WHERE user_id = 'last'").await;
        assert_eq!(client.claim("ann", COUPON).await.assert_claimed("ann", COUPON).1, 1);

        let below = "INSERT INTO claims (coupon_name, user_id, position) VALUES ('FLASH', 'zero', 0)";
        let refused = sqlx::query(below).execute(system.pool()).await.unwrap_err();
        assert!(refused.to_string().contains("claims_position_positive"), "{refused}");
        system.stop().await;
    });
}

/// Any text can be a name, and only UTF-8 stores any text.
#[test]
fn a_database_of_another_encoding_is_refused_at_the_start() {
    run(async {
        let mut system = Setup::new().start().await;
        let name = format!("test_{}", Uuid::new_v4().simple());
        let create = format!("CREATE DATABASE {name} ENCODING 'WIN1252' TEMPLATE template0 LOCALE 'C'");
        sql(&system, &create).await;
        let variables = system.variables(NatsUser::Api);
        let url = &variables.iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1;
        let (server, rest) = url.rsplit_once('/').unwrap();
        let query = rest.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        system.set("DATABASE_URL", format!("{server}/{name}{query}"));
        for error in [
            Part::api(&system.env(NatsUser::Api)).await.map(drop).unwrap_err(),
            Part::worker(&system.env(NatsUser::Worker)).await.map(drop).unwrap_err(),
        ] {
            let text = format!("{error:#}");
            assert!(text.contains("WIN1252") && text.contains("UTF8") && text.lines().count() == 1, "{text}");
        }
        sql(&system, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        system.stop_unsound().await;
    });
}
