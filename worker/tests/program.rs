//! The program `coupon-worker`. Cargo builds it for `cargo test` because of this test; the system's tests (`tests/`) start it.

use std::process::Command;

#[test]
fn it_names_its_version() {
    let said = Command::new(env!("CARGO_BIN_EXE_coupon-worker")).arg("--version").output().unwrap();
    let expected = format!("coupon-worker {}\n", common::version::VERSION);
    assert_eq!((said.status.success(), String::from_utf8(said.stdout).unwrap()), (true, expected));
}
