//! What the tests of private servers have in common.

use std::fs;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use servers::{Nats, postgres};
use sqlx::{Connection as _, PgConnection};

/// What must not answer is given this long to do so.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

/// No wait in these tests is longer, but for the one for a whole system.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn quick(folder: &Path) -> postgres::Options {
    postgres::Options { fsync: false, ..postgres::Options::new(folder) }
}

pub(super) async fn count(url: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap()
}

pub(super) async fn add_row(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS kept (x int); INSERT INTO kept VALUES (1)")
        .execute(&mut connection)
        .await
        .unwrap();
}

/// True while the process exists; one that nobody has waited for yet counts as gone.
pub(super) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(super) async fn publish(server: &Nats) {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("kept", "x".into()).await.unwrap().await.unwrap();
}

pub(super) async fn messages(server: &Nats) -> u64 {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    jetstream.get_stream("KEPT").await.unwrap().info().await.unwrap().state.messages
}
