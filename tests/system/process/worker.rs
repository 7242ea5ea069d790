//! The `coupon-worker` process: what it says to a wrong configuration, and how it stops.

use super::Process;

const WORKER: Process = Process {
    package: "worker",
    program: "coupon-worker",
    variables: &[("OPS_PORT", "0")],
    number: "LEASE_MS",
};

#[test]
fn a_wrong_value_of_any_variable_is_named() {
    WORKER.names_a_wrong_value_of_any_variable(&[
        ("NATS_REPLICAS", "0"),
        ("NATS_REPLICAS", "6"),
        ("STREAM_BYTES_MAX", "65535"),
        ("STREAM_BYTES_MAX", "1GB"),
        ("LEASE_MS", "0"),
        ("LEASE_MS", "2s"),
        ("TRANSACTION_CLAIMS_MAX", "0"),
        ("PREFETCH_MESSAGES_MAX", "0"),
        ("PURGE_INTERVAL_MS", "-1"),
        ("STATEMENT_TIMEOUT_MS", "0"),
        ("OPS_PORT", "65536"),
        ("OPS_HOST", "localhost"),
        ("RUST_LOG", "worker=loud"),
    ]);
}

#[test]
fn it_takes_no_arguments() {
    WORKER.takes_no_arguments();
}

#[test]
fn credentials_come_in_pairs() {
    WORKER.wants_credentials_in_pairs();
}

#[test]
fn a_value_that_is_no_text_is_named() {
    WORKER.names_a_value_that_is_no_text("LEASE_MS");
}

#[test]
fn a_password_is_not_repeated() {
    WORKER.repeats_no_password();
}

#[test]
fn a_file_of_variables_is_read_but_never_overrides_the_environment() {
    WORKER.reads_a_file_of_variables_but_never_overrides_the_environment();
}

#[test]
fn a_file_of_variables_further_up_is_none_of_ours() {
    WORKER.reads_no_file_of_variables_further_up();
}

#[test]
fn it_stops_promptly_while_it_waits_for_its_servers() {
    WORKER.stops_promptly_while_it_waits_for_its_servers();
}
