//! Postgres: crashed, frozen, stopped, orphaned and moved.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use servers::process::Program;
use servers::{Error, Postgres, port, postgres};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use super::checks::{LIMIT, SILENCE, add_row, count, is_alive, quick};
use crate::harness::{open_folder, program};

/// How long a whole system may take to be ready. It may have to fetch its servers first.
const READY_LIMIT: Duration = Duration::from_secs(600);

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
    let owner = fs::metadata(place.join("data")).unwrap();
    let mut command = Command::new(program);
    command.current_dir("/").arg("-D").arg(place.join("data"));
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    command.args(["-p".to_owned(), port::free().unwrap().to_string()]);
    command.uid(owner.uid()).gid(owner.gid());
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
    while !system.log_tail().contains("Stop with") {
        assert!(system.is_running() && Instant::now() < deadline, "{}", system.log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // It writes to a file: passwords are in one of their own, and everything is for its owner's eyes.
    let commands = folder.path().join("data/commands.txt");
    let said = fs::read_to_string(system.log()).unwrap();
    assert!(said.contains(commands.to_str().unwrap()) && said.contains("Ready: http://"), "{said}");
    assert!(!said.contains("postgres://") && !said.contains("nats://operator"), "{said}");
    let text = fs::read_to_string(&commands).unwrap();
    let url = text.split('\'').nth(1).unwrap();
    PgConnection::connect(url).await.unwrap().close().await.unwrap();
    assert!(text.contains("nats -s nats://operator:p"), "{text}");
    let mode = |name: &str| {
        fs::metadata(folder.path().join("data").join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("commands.txt"), 0o600);
    assert_eq!(
        (mode("postgres/password"), mode("postgres/postgres.log"), mode("postgres/data")),
        (0o600, 0o600, 0o700)
    );
    // As root, Postgres runs as another user, who has to pass.
    let passed = if nix::unistd::geteuid().is_root() { 0o710 } else { 0o700 };
    assert_eq!((mode("postgres"), mode("nats"), mode("nats/nats-server.log")), (passed, 0o700, 0o600));

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
