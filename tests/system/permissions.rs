//! What each user of `nats.conf` may do, and what not; and that the server computes the same
//! partitions as we do.

use std::time::Duration;

use common::config::Env;
use common::ids::CouponName;
use common::partition::PartitionId;
use futures::StreamExt as _;
use servers::stack::{NatsPasswords, NatsUser};
use servers::system::Part;
use servers::{Nats, nats};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Client, LIMIT, Setup, System, eventually, jetstream, open_folder, run};

/// A NATS client that sends what it is told and reads what comes back, refusals included.
struct Wire(BufReader<TcpStream>);

impl Wire {
    async fn connect(nats: &Nats, user: &str, password: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap();
        let mut wire = Self(BufReader::new(stream));
        assert!(wire.line().await.unwrap().starts_with("INFO "));
        let options =
            serde_json::json!({ "verbose": false, "headers": true, "user": user, "pass": password });
        wire.0.write_all(format!("CONNECT {options}\r\n").as_bytes()).await.unwrap();
        wire
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(LIMIT, self.0.read_line(&mut line)).await.unwrap();
        read.is_ok_and(|count| count > 0).then(|| line.trim_end().to_owned())
    }

    /// Sends a command; returns the refusals that come before the answer to a ping behind it.
    async fn refusals(&mut self, command: &str) -> Vec<String> {
        self.0.write_all(format!("{command}\r\nPING\r\n").as_bytes()).await.unwrap();
        let mut refusals = Vec::new();
        loop {
            match self.line().await {
                Some(line) if line == "PONG" => return refusals,
                Some(line) if line.starts_with("-ERR") => refusals.push(line),
                Some(_) => {}
                None => {
                    refusals.push("closed".to_owned());
                    return refusals;
                }
            }
        }
    }

    async fn assert_publish(&mut self, subject: &str, allowed: bool) {
        let refusals = self.refusals(&format!("PUB {subject} 0\r\n")).await;
        let denied = format!("-ERR 'Permissions Violation for Publish to \"{subject}\"'");
        assert_eq!(refusals, if allowed { vec![] } else { vec![denied] });
    }

    async fn assert_subscribe(&mut self, subject: &str, allowed: bool) {
        let refusals = self.refusals(&format!("SUB {subject} 1")).await;
        let denied = format!("-ERR 'Permissions Violation for Subscription to \"{subject}\"'");
        assert_eq!(refusals, if allowed { vec![] } else { vec![denied] });
        self.refusals("UNSUB 1").await;
    }
}

async fn wire(system: &System, user: NatsUser) -> Wire {
    Wire::connect(&system.nats, user.name(), system.passwords.of(user)).await
}

/// Requests of the JetStream API that only operators may make.
const OPERATORS: [&str; 21] = [
    "$JS.API.STREAM.DELETE.CLAIMS-0",
    "$JS.API.STREAM.MSG.DELETE.CLAIMS-0",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.SNAPSHOT.CLAIMS-0",
    "$JS.API.STREAM.RESTORE.CLAIMS-0",
    "$JS.API.STREAM.LEADER.STEPDOWN.CLAIMS-0",
    "$JS.API.STREAM.PEER.REMOVE.CLAIMS-0",
    "$JS.API.CONSUMER.DURABLE.CREATE.CLAIMS-0.x",
    "$JS.API.CONSUMER.CREATE.CLAIMS-0",
    "$JS.API.CONSUMER.NAMES.CLAIMS-0",
    "$JS.API.CONSUMER.LIST.CLAIMS-0",
    "$JS.API.CONSUMER.PAUSE.CLAIMS-0.x",
    "$JS.API.DIRECT.GET.CLAIMS-0",
    "$JS.API.ACCOUNT.PURGE.x",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.ACK.CLAIMS-0.x.1.1.1.1.1",
    "$SYS.REQ.SERVER.PING",
    "anything",
    "claims",
    "claims.0.x",
    "_INBOX.x",
];

#[test]
fn the_api_may_publish_claims_and_hear_replies_and_nothing_else() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        system.client().create("PROMO", 1).await;
        let mut api = wire(&system, NatsUser::Api).await;
        for subject in ["claims.0", "claims.7", "$JS.API.INFO", "$JS.API.STREAM.INFO.CLAIMS-0"] {
            api.assert_publish(subject, true).await;
        }
        let others = [
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.CREATE.CLAIMS-0",
            "$JS.API.STREAM.CREATE.x",
            "$JS.API.STREAM.UPDATE.CLAIMS-0",
            "$JS.API.STREAM.PURGE.CLAIMS-0",
            "$JS.API.STREAM.MSG.GET.CLAIMS-0",
            "$JS.API.CONSUMER.CREATE.CLAIMS-0.x",
            "$JS.API.CONSUMER.CREATE.CLAIMS-0.x.claims.0",
            "$JS.API.CONSUMER.DELETE.CLAIMS-0.x",
            "$JS.API.CONSUMER.INFO.CLAIMS-0.x",
            "$JS.API.CONSUMER.MSG.NEXT.CLAIMS-0.x",
            "replies.x.r.1",
            "_INBOX.api.x",
            "_INBOX.worker.x",
        ];
        for subject in OPERATORS.into_iter().chain(others) {
            api.assert_publish(subject, false).await;
        }
        for subject in ["replies.x.>", "_INBOX.api.x", "_INBOX.api.>"] {
            api.assert_subscribe(subject, true).await;
        }
        for subject in [
            ">",
            "*",
            "*.*",
            "claims.0",
            "claims.*",
            "claims.>",
            "_INBOX.>",
            "_INBOX.worker.>",
            "_INBOX.*.x",
            "$JS.>",
            "$JS.API.>",
            "$SYS.>",
        ] {
            api.assert_subscribe(subject, false).await;
        }
        system.stop().await;
    });
}

#[test]
fn a_worker_may_read_and_purge_claims_and_reply_and_nothing_else() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        system.client().create("PROMO", 1).await;
        let mut worker = wire(&system, NatsUser::Worker).await;
        for subject in [
            "replies.x.r.1",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.INFO.CLAIMS-0",
            "$JS.API.STREAM.CREATE.CLAIMS-0",
            "$JS.API.STREAM.UPDATE.CLAIMS-0",
            "$JS.API.STREAM.PURGE.CLAIMS-0",
            "$JS.API.STREAM.MSG.GET.CLAIMS-0",
            "$JS.API.CONSUMER.CREATE.CLAIMS-0.x",
            "$JS.API.CONSUMER.DELETE.CLAIMS-0.x",
            "$JS.API.CONSUMER.INFO.CLAIMS-0.x",
            "$JS.API.CONSUMER.MSG.NEXT.CLAIMS-0.x",
        ] {
            worker.assert_publish(subject, true).await;
        }
        let others = [
            "claims.0",
            "claims.7",
            "replies",
            "_INBOX.api.x",
            "_INBOX.worker.x",
            "$JS.API.CONSUMER.CREATE.CLAIMS-0.x.claims.0",
        ];
        for subject in OPERATORS.into_iter().chain(others) {
            worker.assert_publish(subject, false).await;
        }
        for subject in ["_INBOX.worker.x", "_INBOX.worker.>"] {
            worker.assert_subscribe(subject, true).await;
        }
        for subject in [
            ">",
            "*",
            "*.*",
            "claims.0",
            "claims.*",
            "claims.>",
            "replies.>",
            "replies.x.r.1",
            "_INBOX.>",
            "_INBOX.api.>",
            "_INBOX.*.x",
            "$JS.>",
            "$JS.API.>",
            "$SYS.>",
        ] {
            worker.assert_subscribe(subject, false).await;
        }
        // Whatever was asked for in vain: nothing was published, and no stream is gone.
        let jetstream = jetstream(&system).await;
        for number in 0..8 {
            let stream = jetstream.get_stream(format!("CLAIMS-{number}")).await.unwrap();
            assert_eq!(stream.cached_info().state.last_sequence, 0);
        }
        system.stop().await;
    });
}

/// The server sends answers with rights of its own, to whatever subject a request names for them.
#[test]
fn an_api_cannot_let_the_servers_answers_do_what_it_may_not() {
    run(async {
        let system = Setup::new().start().await;
        system.create_streams().await;
        let jetstream = jetstream(&system).await;
        for number in 0..2 {
            jetstream.publish(format!("claims.{number}"), "not a batch".into()).await.unwrap().await.unwrap();
        }
        let mut api = wire(&system, NatsUser::Api).await;
        for (subject, payload) in
            [("claims.0", "also not a batch"), ("$JS.API.INFO", ""), ("$JS.API.STREAM.INFO.CLAIMS-0", "")]
        {
            for request in ["STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.CREATE"] {
                let reply = format!("$JS.API.{request}.CLAIMS-1");
                let refusals =
                    api.refusals(&format!("PUB {subject} {reply} {}\r\n{payload}", payload.len())).await;
                assert!(refusals.is_empty(), "{refusals:?}");
            }
        }
        // What the server did for the last of them, it did before this is stored behind the others.
        let last = jetstream.publish("claims.0", "the last".into()).await.unwrap().await.unwrap();
        assert_eq!(last.sequence, 6);
        let stream = jetstream.get_stream("CLAIMS-1").await.unwrap();
        assert_eq!(stream.cached_info().state.messages, 1);
        system.stop().await;
    });
}

#[test]
fn operators_may_do_anything() {
    run(async {
        let system = Setup::new().apis(1).start().await;
        system.client().create("PROMO", 1).await;
        let mut operator = wire(&system, NatsUser::Operator).await;
        for subject in ["claims.0", "replies.x", "$JS.API.STREAM.LIST", "$JS.API.STREAM.DELETE.x"] {
            operator.assert_publish(subject, true).await;
        }
        operator.assert_subscribe(">", true).await;
        system.stop().await;
    });
}

/// Asserts that an API and a worker, started now, do not wait but end, and say why.
async fn assert_both_end_at_once(system: &System, what: &str, why: &str) {
    let limit = Duration::from_secs(5);
    let api = timeout(limit, Part::api(&system.env(NatsUser::Api))).await.expect("it waits");
    let worker = timeout(limit, Part::worker(&system.env(NatsUser::Worker))).await.expect("it waits");
    for error in [format!("{:#}", api.unwrap_err()), format!("{:#}", worker.unwrap_err())] {
        assert!(error.starts_with(what) && error.contains(why) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn strangers_are_refused_and_wrong_credentials_end_a_process_at_once() {
    run(async {
        let mut system = Setup::new().start().await;
        let password = system.passwords.of(NatsUser::Api).to_owned();
        for (user, password) in [
            ("", ""),
            ("api", ""),
            ("api", "wrong"),
            ("worker", password.as_str()),
            ("nobody", password.as_str()),
        ] {
            let mut stranger = Wire::connect(&system.nats, user, password).await;
            let refusals = stranger.refusals("PUB claims.0 0\r\n").await;
            assert_eq!(refusals[0], "-ERR 'Authorization Violation'", "{user}");
        }
        system.set("NATS_PASSWORD", "wrong");
        assert_both_end_at_once(&system, "NATS refuses the connection: ", "authorization violation").await;
        system.stop().await;
    });
}

#[test]
fn credentials_may_stand_in_the_url() {
    run(async {
        let mut system = Setup::new().start().await;
        let env = |user: NatsUser| {
            let variables = system.variables(user).into_iter();
            let mut env: Env = variables.filter(|(variable, _)| !variable.starts_with("NATS_")).collect();
            let (password, port) = (system.passwords.of(user), system.nats.port());
            env.set("NATS_URL", &format!("nats://{}:{password}@127.0.0.1:{port}", user.name()));
            env
        };
        let (api, address) = Part::api(&env(NatsUser::Api)).await.unwrap();
        let (worker, _) = Part::worker(&env(NatsUser::Worker)).await.unwrap();
        let client = Client::new(address);
        client.create("PROMO", 1).await;
        client.claim("ann", "PROMO").await.assert_claimed("ann", "PROMO");
        // They are used again after the connection was lost.
        system.nats.restart().await.unwrap();
        eventually("a claim is answered again", async || {
            (client.claim("ann", "PROMO").await.status == 409).then_some(())
        })
        .await;
        api.stop().await.unwrap();
        worker.stop().await.unwrap();
        system.stop().await;
    });
}

#[test]
fn a_wrong_database_password_ends_a_process_at_once() {
    run(async {
        let mut system = Setup::new().start().await;
        let variables = system.variables(NatsUser::Api);
        let (_, url) = variables.iter().find(|(variable, _)| variable == "DATABASE_URL").unwrap();
        let (start, end) = url.split_once('@').unwrap();
        let wrong = [format!("{start}x@{end}"), url.replace('?', "_of_nobody?")];
        for (url, reason) in wrong.into_iter().zip(["password authentication failed", "does not exist"]) {
            system.set("DATABASE_URL", &url);
            assert_both_end_at_once(&system, "Postgres refuses the connection: ", reason).await;
        }
        system.stop_unsound().await;
    });
}

#[test]
fn the_server_agrees_on_the_partition_of_a_name() {
    run(async {
        let folder = open_folder();
        let config = folder.path().join("mapping.conf");
        let counts = [1, 3, 8, 100, 256];
        let mapping = counts.map(|count| {
            format!("\"map{count}.*\": \"mapped{count}.{{{{partition({count},1)}}}}.{{{{wildcard(1)}}}}\"\n")
        });
        std::fs::write(&config, format!("mappings = {{\n{}}}\n", mapping.concat())).unwrap();
        let options =
            nats::Options { config: Some(config), ..nats::Options::new(folder.path().join("nats")) };
        let server = Nats::start(options).await.unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        // Subjects hold neither white space nor dots nor wildcards.
        let mut names: Vec<String> = (0..200).map(|number| format!("coupon-{number}")).collect();
        names.extend(
            ["a", "PROMO_SUPER", "日本語", "🎉", "é", "O'Brien", "100%", "\"x\"", "a/b"].map(str::to_owned),
        );
        names.push("x".repeat(255));
        for count in counts {
            let mut mapped = client.subscribe(format!("mapped{count}.>")).await.unwrap();
            for name in &names {
                client.publish(format!("map{count}.{name}"), "".into()).await.unwrap();
            }
            for name in &names {
                let message = timeout(LIMIT, mapped.next()).await.unwrap().unwrap();
                let ours = PartitionId::of(&CouponName::new(name).unwrap(), count);
                assert_eq!(message.subject.as_str(), format!("mapped{count}.{ours}.{name}"));
            }
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn passwords_differ_from_user_to_user_and_start_to_start() {
    let (one, other) = (NatsPasswords::random(), NatsPasswords::random());
    let mut all: Vec<_> = NatsUser::ALL.iter().flat_map(|user| [one.of(*user), other.of(*user)]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 6);
}
