//! Real servers: started, crashed, frozen, restarted and fetched.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::future::join_all;
use servers::locate::Search;
use servers::process::Program;
use servers::{Error, Nats, Postgres, fetch, nats, port, postgres};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use crate::harness::{open_folder, program};

/// What must not answer is given this long to do so.
const SILENCE: Duration = Duration::from_millis(300);

/// No wait in these tests is longer, but for the one for a whole system.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a whole system may take to be ready. It may have to fetch its servers first.
const READY_LIMIT: Duration = Duration::from_secs(600);

fn quick(folder: &Path) -> postgres::Options {
    postgres::Options { fsync: false, ..postgres::Options::new(folder) }
}

async fn count(url: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap()
}

async fn add_row(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS kept (x int); INSERT INTO kept VALUES (1)")
        .execute(&mut connection)
        .await
        .unwrap();
}

/// True while the process exists; one that nobody has waited for yet counts as gone.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(pid: u32) -> bool {
    let deadline = Instant::now() + LIMIT;
    while is_alive(pid) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !is_alive(pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_committed_rows_through_crash_freeze_and_stop() {
    let folder = open_folder();
    let mut server = Postgres::start(quick(folder.path())).await.unwrap();
    let url = server.create_database("odd \"name").await.unwrap().replace(" \"", "%20%22");
    server.create_database("odd \"name").await.unwrap();
    add_row(&url).await;

    // A backend at work notices the loss of its postmaster late: it must not keep the next one from starting.
    let mut busy = PgConnection::connect(&url).await.unwrap();
    let busy = tokio::spawn(async move { sqlx::raw_sql("SELECT pg_sleep(60)").execute(&mut busy).await });
    let (former, port) = (server.pid(), server.port());
    server.kill().await.unwrap();
    assert!(!server.is_running() && !is_alive(former));
    assert!(busy.await.unwrap().is_err());
    assert!(PgConnection::connect(&url).await.is_err());
    server.restart().await.unwrap();
    assert_eq!((count(&url).await, server.port()), (1, port));
    assert_ne!(server.pid(), former);

    assert!(server.pause().await);
    assert!(timeout(SILENCE, PgConnection::connect(&url)).await.is_err(), "answered while frozen");
    assert!(server.resume());
    assert_eq!(count(&url).await, 1);

    server.pause().await;
    server.stop().await.unwrap();
    drop(server);
    let again = Postgres::start(quick(folder.path())).await.unwrap();
    let url = again.create_database("odd \"name").await.unwrap().replace(" \"", "%20%22");
    assert_eq!(count(&url).await, 1);
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_of_a_crashed_owner_is_stopped_first_and_a_live_owner_is_respected() {
    let folder = open_folder();
    let server = Postgres::start(quick(folder.path())).await.unwrap();
    let second = Postgres::start(quick(folder.path())).await;
    assert!(matches!(second, Err(Error::InUse(_))), "{second:?}");
    add_row(&server.url("postgres")).await;
    let program = server.bin_dir().join("postgres");
    let place = server.folder().to_owned();
    server.stop().await.unwrap();
    drop(server);

    // What a crash leaves behind where children are not tied to their parents: a server without an owner.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(place.join("data")).unwrap());
    let mut command = Command::new(program);
    command.current_dir("/").arg("-D").arg(place.join("data"));
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    command.args(["-p".to_owned(), port::free().unwrap().to_string()]);
    std::os::unix::process::CommandExt::uid(&mut command, owner);
    let mut orphan = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(orphan.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("ready to accept connections")));

    let server = Postgres::start(quick(folder.path())).await.unwrap();
    assert!(orphan.try_wait().unwrap().is_some(), "the orphan still runs");
    assert_eq!(count(&server.url("postgres")).await, 1);
    drop(server);
    Postgres::remove(folder.path()).await.unwrap();
    assert!(!place.join("data").exists());
}

/// The whole system, because its parts connect by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_postgres_is_not_what_libpqs_variables_are_about() {
    let folder = open_folder();
    // Where there is no `.env`, and no server is named: an empty value counts as not set.
    let system =
        Program::new(program("standalone", "standalone"), folder.path().join("log")).folder(folder.path());
    let system = system.envs(["DATABASE_URL", "DB_PG_HOST", "NATS_URL"].map(|name| (name, "")));
    let system = system.envs([("HOST", "127.0.0.1"), ("PORT", "0")]).envs([
        ("PGHOST", "192.0.2.1"),
        ("PGPASSWORD", "wrong"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/no/such/file"),
        ("PGOPTIONS", "-c default_transaction_read_only=on"),
    ]);
    let system = system.spawn().await.unwrap();
    let deadline = Instant::now() + READY_LIMIT;
    while !system.log_tail().contains("Ready:") {
        assert!(system.is_running() && Instant::now() < deadline, "{}", system.log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = system.terminate(LIMIT).await.unwrap();
    assert!(status.success(), "{}", system.log_tail());
}

#[tokio::test]
async fn postgres_that_cannot_start_says_why() {
    let folder = open_folder();
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = Postgres::start(postgres::Options { settings, ..quick(folder.path()) }).await.unwrap_err();
    assert!(
        error.to_string().contains("unrecognized configuration parameter \"no_such_setting\""),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_moves_when_its_user_cannot_reach_the_folder() {
    let folder = open_folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let wanted = folder.path().join("postgres");
    let server = Postgres::start(quick(&wanted)).await.unwrap();
    let place = server.folder().to_owned();
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&wanted).unwrap()) == 0;
    assert_eq!(place.starts_with("/var/tmp"), is_root, "{}", place.display());
    add_row(&server.url("postgres")).await;
    server.stop().await.unwrap();
    drop(server);
    let server = Postgres::start(quick(&wanted)).await.unwrap();
    assert_eq!((count(&server.url("postgres")).await, server.folder()), (1, &*place));
    drop(server);
    Postgres::remove(&wanted).await.unwrap();
    if is_root {
        fs::remove_dir_all(place).unwrap();
    }
}

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

async fn publish(server: &Nats) {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("kept", "x".into()).await.unwrap().await.unwrap();
}

async fn messages(server: &Nats) -> u64 {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    jetstream.get_stream("KEPT").await.unwrap().info().await.unwrap().state.messages
}

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

#[tokio::test]
async fn any_program_can_be_run_frozen_and_ended_with_its_descendants() {
    let folder = open_folder();
    let log = folder.path().join("log");
    let script = "echo $GREETING; sleep 60 & echo $!; wait";
    let child =
        Program::new("/bin/sh", &log).args(["-c", script]).env("GREETING", "hello").spawn().await.unwrap();
    let deadline = Instant::now() + LIMIT;
    let grandchild: u32 = loop {
        let tail = child.log_tail();
        if let Some(("hello", pid)) = tail.split_once('\n') {
            break pid.trim().parse().unwrap();
        }
        assert!(Instant::now() < deadline, "{tail}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(child.pause().await);
    assert!(fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap().contains(") T "));
    assert!(child.resume());
    assert!(child.wait(SILENCE).await.is_none());
    child.kill().await.unwrap();
    assert!(!child.is_running() && !child.pause().await);
    assert!(gone(grandchild).await);

    let polite = Program::new("/bin/sleep", &log).arg("60").spawn().await.unwrap();
    let status = polite.terminate(LIMIT).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));

    let failing = Program::new("/bin/sh", &log).args(["-c", "echo reason; exit 3"]);
    let error = failing.run(LIMIT).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("reason"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_has_a_session_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    Program::new("/bin/cat", &log).arg("/proc/self/stat").run(LIMIT).await.unwrap();
    let stat = fs::read_to_string(log).unwrap();
    let fields: Vec<&str> = stat.split(' ').collect();
    let [pid, _name, _state, parent, group, session, ..] = fields[..] else { panic!("{stat}") };
    assert_eq!(parent, std::process::id().to_string());
    assert_eq!((group, session), (pid, pid));
}

/// Set for the copy of this test program that plays the parent in the next test.
const PARENT_VARIABLE: &str = "STANDALONE_TEST_PARENT";

#[tokio::test]
async fn children_die_with_a_parent_that_is_killed() {
    if let Some(folder) = std::env::var_os(PARENT_VARIABLE) {
        return be_the_parent(Path::new(&folder)).await;
    }
    let folder = open_folder();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "children_die_with_a_parent_that_is_killed", "--nocapture"])
        .env(PARENT_VARIABLE, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pids = lines.find_map(|line| Some(line.unwrap().split_once("children: ")?.1.to_owned())).unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 3 && pids.iter().all(|&pid| is_alive(pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    for pid in pids {
        assert!(gone(pid).await);
    }
    // What the killed one left is no obstacle.
    Postgres::start(quick(folder.path())).await.unwrap().stop().await.unwrap();
}

async fn be_the_parent(folder: &Path) {
    let postgres = Postgres::start(quick(folder)).await.unwrap();
    let nats = Nats::start(nats::Options::new(folder.join("nats"))).await.unwrap();
    let sleep = Program::new("/bin/sleep", folder.join("log")).arg("60").spawn().await.unwrap();
    // Frozen ones must go as well: a frozen backend cannot notice that its postmaster died.
    let _connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    assert!(postgres.pause().await);
    println!("children: {} {} {}", postgres.pid(), nats.pid(), sleep.pid());
    tokio::time::sleep(LIMIT).await;
}
