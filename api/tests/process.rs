//! The `coupon-api` process: what it says to a wrong configuration, and how it stops.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(10);

/// How long it may take once it was told to, with nothing in its hands.
const PROMPTLY: Duration = Duration::from_secs(2);

/// The process, in a folder of its own and with nothing in its environment.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupon-api"));
    command.env_clear().current_dir(folder).env("HOST", "127.0.0.1").env("PORT", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end; kills what does not end.
fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still runs: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Asserts that the process ends with an error of one line that begins by naming the variable.
fn assert_refused(mut command: Command, variable: &str) {
    let output = wait(command.spawn().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code().is_some_and(|code| code != 0), "{variable}: {}: {said}", output.status);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 1, "{variable}: {said}");
    assert!(lines[0].starts_with(&format!("Error: {variable}: ")), "{variable}: {said}");
}

#[test]
fn a_wrong_value_of_any_variable_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (variable, value) in [
        ("PORT", "web"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("HOST", "nowhere"),
        ("DB_DEFAULT", "mysql"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("DATABASE_URL", "postgres://localhost:port/x"),
        ("DATABASE_URL", "localhost"),
        ("DATABASE_URL", "host=localhost port=x"),
        ("DATABASE_URL", "host=localhost sslmode=perhaps"),
        ("DATABASE_URL", "host=localhost color=red"),
        ("DB_PG_PORT", "0"),
        ("DB_PG_PORT", "x"),
        ("NATS_URL", "nats://["),
        ("NATS_REPLICAS", "0"),
        ("NATS_REPLICAS", "6"),
        ("STREAM_BYTES_MAX", "65535"),
        ("STREAM_BYTES_MAX", "1GB"),
        ("PARTITIONS", "0"),
        ("PARTITIONS", "257"),
        ("PARTITIONS", "eight"),
        ("CLAIM_TIMEOUT_MS", "0"),
        ("CLAIM_TIMEOUT_MS", "5s"),
        ("IN_FLIGHT_CLAIMS_MAX", "0"),
        ("BATCH_CLAIMS_MAX", "0"),
        ("BATCHES_IN_FLIGHT", "0"),
        ("BATCH_BYTES_MAX", "1"),
        ("SOLD_OUT_WINNERS_MAX", "-1"),
        ("DB_POOL_MAX", "0"),
        ("CONNECTIONS_MAX", "0"),
        ("BODY_BYTES_MAX", "0"),
        ("HEADER_TIMEOUT_MS", "0"),
        ("BODY_TIMEOUT_MS", "0"),
        ("SHUTDOWN_TIMEOUT_MS", "-1"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "api=loud"),
    ] {
        let mut command = command(folder.path());
        command.env(variable, value);
        assert_refused(command, variable);
    }
}

#[test]
fn credentials_come_in_pairs() {
    let folder = tempfile::tempdir().unwrap();
    for (set, missing) in [("NATS_USER", "NATS_PASSWORD"), ("NATS_PASSWORD", "NATS_USER")] {
        let mut command = command(folder.path());
        command.env(set, "x");
        assert_refused(command, missing);
    }
}

#[test]
fn a_value_that_is_no_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for variable in ["PORT", "DATABASE_URL", "DB_DEFAULT"] {
        let mut command = command(folder.path());
        command.env(variable, OsStr::from_bytes(b"\xff\xfe"));
        assert_refused(command, variable);
    }
}

#[test]
fn a_password_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    for (variable, value) in [
        ("DATABASE_URL", "postgres://me:geheim@localhost:port/x"),
        ("DATABASE_URL", "host=localhost password=geheim port=x"),
        ("NATS_URL", "nats://me:geheim@["),
    ] {
        let output = wait(command(folder.path()).env(variable, value).spawn().unwrap());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(variable) && !said.contains("geheim"), "{said}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = wait(command(folder.path()).env("PORT", &port).spawn().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.starts_with("Error: PORT: ") && said.contains(&port), "{said}");
}

#[test]
fn a_file_of_variables_is_read_but_never_overrides_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".env"), "# wrong\nDB_DEFAULT=mysql\nCLAIM_TIMEOUT_MS='soon'\n").unwrap();
    assert_refused(command(folder.path()), "DB_DEFAULT");
    let mut overridden = command(folder.path());
    overridden.env("DB_DEFAULT", "postgresql");
    assert_refused(overridden, "CLAIM_TIMEOUT_MS");
    // One that cannot be read is no excuse for going on without it.
    fs::write(folder.path().join(".env"), "DB_DEFAULT postgresql\n").unwrap();
    assert_refused(command(folder.path()), ".env");
}

#[test]
fn a_file_of_variables_further_up_is_none_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".env"), "DB_DEFAULT=mysql\n").unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let mut command = command(&inner);
    command.env("CLAIM_TIMEOUT_MS", "soon");
    assert_refused(command, "CLAIM_TIMEOUT_MS");
}

#[test]
fn it_stops_promptly_while_it_waits_for_its_servers() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // Bound and closed again: nobody listens there.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut child = command(folder.path())
            .env("DB_PG_HOST", "127.0.0.1")
            .env("DB_PG_PORT", port.to_string())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let waits = lines.any(|line| {
            let line = line.unwrap();
            line.contains("waiting for Postgres") && line.contains(&port.to_string())
        });
        assert!(waits, "it does not say what it waits for");
        // What it says meanwhile must not fill the pipe.
        let rest = std::thread::spawn(move || lines.map_while(Result::ok).count());
        let started = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = wait(child).status;
        assert!(started.elapsed() < PROMPTLY, "{signal}: {:?}", started.elapsed());
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        rest.join().unwrap();
    }
}
