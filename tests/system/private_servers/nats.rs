//! nats-server: crashed, frozen, stopped and configured.

use std::fs;

use servers::{Error, Nats, nats};
use tokio::time::timeout;

use super::checks::{SILENCE, is_alive, messages, publish};
use crate::harness::open_folder;

#[tokio::test(flavor = "multi_thread")]
async fn nats_keeps_acknowledged_messages_through_crash_freeze_and_stop() {
    let folder = open_folder();
    let mut server = Nats::start(nats::Options::new(folder.path())).await.unwrap();
    let second = Nats::start(nats::Options::new(folder.path())).await;
    assert!(matches!(second, Err(Error::InUse(_))), "{second:?}");
    publish(&server).await;

    let (former, port) = (server.pid(), server.port());
    server.kill().await.unwrap();
    assert!(!server.is_running() && !is_alive(former));
    server.restart().await.unwrap();
    assert_eq!((messages(&server).await, server.port()), (1, port));

    assert!(server.pause().await);
    assert!(timeout(SILENCE, async_nats::connect(server.url())).await.is_err(), "answered while frozen");
    assert!(server.resume());
    assert_eq!(messages(&server).await, 1);

    server.pause().await;
    server.stop().await.unwrap();
    drop(server);
    let again = Nats::start(nats::Options::new(folder.path())).await.unwrap();
    assert_eq!(messages(&again).await, 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn nats_with_a_given_configuration_keeps_its_users_and_gets_our_addresses_and_folder() {
    let folder = open_folder();
    let config = folder.path().join("given.conf");
    let text = "listen: 0.0.0.0:4222\nhttp_port: 8222\n\
                jetstream { sync_interval: always }\n\
                authorization { users: [ { user: api, password: $API_PASSWORD } ] }\n";
    fs::write(&config, text).unwrap();
    let options = nats::Options {
        config: Some(config),
        env: vec![("API_PASSWORD".to_owned(), "secret".to_owned())],
        ..nats::Options::new(folder.path().join("store"))
    };
    let server = Nats::start(options).await.unwrap();
    assert!(async_nats::connect(server.url()).await.is_err(), "no password needed");
    let credentials =
        async_nats::ConnectOptions::with_user_and_password("api".to_owned(), "secret".to_owned());
    let client = credentials.connect(server.url()).await.unwrap();
    assert_eq!(client.server_info().host, "127.0.0.1");
    assert!(folder.path().join("store/jetstream").is_dir());
    let monitor: u16 = server.monitor_url().rsplit(':').next().unwrap().parse().unwrap();
    for port in [server.port(), monitor] {
        // Listening sockets in the kernel's table: the address in hexadecimal, 0A for "listens".
        let is_listener = |line: &str| {
            line.contains(&format!(":{port:04X} 00000000:0000 0A"))
                || line.contains(&format!(":{port:04X} 00000000000000000000000000000000:0000 0A"))
        };
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
        let listeners: Vec<&str> =
            tables.iter().flat_map(|table| table.lines()).filter(|line| is_listener(line)).collect();
        assert!(listeners.iter().all(|line| line.contains("0100007F:")), "{listeners:?}");
    }
}

#[tokio::test]
async fn nats_that_cannot_start_says_why() {
    let folder = open_folder();
    let config = folder.path().join("given.conf");
    fs::write(&config, "jetstream { no_such_setting: 1 }\n").unwrap();
    let options = nats::Options { config: Some(config), ..nats::Options::new(folder.path().join("store")) };
    let error = Nats::start(options).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}
