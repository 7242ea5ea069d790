//! Servers that the machine lacks.

use std::fs;

use futures::future::join_all;
use servers::locate::Search;
use servers::{Nats, Postgres, fetch, nats};

use super::checks::{add_row, count, publish, quick};
use crate::harness::open_folder;

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_fetched_once_by_any_number_of_starters_and_work() {
    let cache = open_folder();
    let folder = open_folder();
    let search = Search { cache: Some(cache.path().join("deep/er")), ..Search::default() };
    let found = join_all((0..3).map(|_| search.nats_server())).await;
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert!(found.iter().all(|binary| binary.path == found[0].path));

    let nats = Nats::start_with(&search, nats::Options::new(folder.path().join("nats"))).await.unwrap();
    publish(&nats).await;
    let mut postgres = Postgres::start_with(&search, quick(&folder.path().join("postgres"))).await.unwrap();
    add_row(&postgres.url("postgres")).await;
    postgres.kill().await.unwrap();
    postgres.restart().await.unwrap();
    assert_eq!(count(&postgres.url("postgres")).await, 1);

    // What was changed in the cache is not run.
    nats.stop().await.unwrap();
    let mut bytes = fs::read(&found[0].path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&found[0].path, bytes).unwrap();
    let error = search.nats_server().await.unwrap_err().to_string();
    assert!(error.contains("nats-server: is not as it was fetched; remove "), "{error}");

    let names = fs::read_dir(search.cache.unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["lock", "nats-server-2.15.1", "postgres-18.6.3"]);
}

#[tokio::test]
async fn what_cannot_be_fetched_comes_with_advice() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = fetch::POSTGRES.programs(&file.path().join("cache")).await.unwrap_err().to_string();
    assert!(error.contains("Install Postgres 15 or newer"), "{error}");
    let error = Search::default().nats_server().await.unwrap_err().to_string();
    assert!(error.contains("Install nats-server 2.12 or newer"), "{error}");
}
