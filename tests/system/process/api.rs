//! The `coupon-api` process: what it says to a wrong configuration, and how it stops.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Process, free_port, wait, without_postgres};

const API: Process = Process {
    package: "api",
    program: "coupon-api",
    variables: &[("HOST", "127.0.0.1"), ("PORT", "0"), ("OPS_PORT", "0")],
    number: "CLAIM_TIMEOUT_MS",
};

#[test]
fn a_wrong_value_of_any_variable_is_named() {
    API.names_a_wrong_value_of_any_variable(&[
        ("PORT", "web"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("HOST", "nowhere"),
        ("CLAIM_TIMEOUT_MS", "0"),
        ("CLAIM_TIMEOUT_MS", "5s"),
        ("IN_FLIGHT_CLAIMS_MAX", "0"),
        ("BATCH_CLAIMS_MAX", "0"),
        ("BATCHES_IN_FLIGHT", "0"),
        ("BATCH_BYTES_MAX", "1"),
        ("SOLD_OUT_WINNERS_MAX", "-1"),
        ("DB_POOL_MAX", "0"),
        ("CONNECTIONS_MAX", "0"),
        ("LISTEN_BACKLOG", "0"),
        ("BODY_BYTES_MAX", "0"),
        ("HEADER_TIMEOUT_MS", "0"),
        ("BODY_TIMEOUT_MS", "0"),
        ("RUST_LOG", "api=loud"),
    ]);
}

#[test]
fn it_takes_no_arguments() {
    API.takes_no_arguments();
}

#[test]
fn credentials_come_in_pairs() {
    API.wants_credentials_in_pairs();
}

#[test]
fn a_value_that_is_no_text_is_named() {
    API.names_a_value_that_is_no_text("PORT");
}

#[test]
fn a_password_is_not_repeated() {
    API.repeats_no_password();
}

#[test]
fn a_file_of_variables_is_read_but_never_overrides_the_environment() {
    API.reads_a_file_of_variables_but_never_overrides_the_environment();
}

#[test]
fn a_file_of_variables_further_up_is_none_of_ours() {
    API.reads_no_file_of_variables_further_up();
}

#[test]
fn it_stops_promptly_while_it_waits_for_its_servers() {
    API.stops_promptly_while_it_waits_for_its_servers();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = wait(API.command(folder.path()).env("PORT", &port).spawn().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.starts_with("Error: PORT: ") && said.contains(&port), "{said}");
}

// Other systems allow fewer unless they are told otherwise.
#[cfg(target_os = "linux")]
#[test]
fn a_crowd_that_comes_before_it_serves_is_let_in() {
    /// More than the 128 that the standard library has room for, and fewer than any limit of files.
    const CROWD: usize = 400;
    /// Below the second after which a connection that found no room tries again.
    const AT_ONCE: Duration = Duration::from_millis(900);
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = API.command(folder.path());
    command.env("PORT", port.to_string());
    // It listens, and takes nobody in until Postgres is there.
    let mut child = without_postgres(command);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut crowd = Vec::new();
    for place in 0..CROWD {
        let connected = TcpStream::connect_timeout(&address, AT_ONCE);
        crowd.push(connected.unwrap_or_else(|error| panic!("connection {place}: {error}")));
    }
    child.kill().unwrap();
    wait(child);
}
