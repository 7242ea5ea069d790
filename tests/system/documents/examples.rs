//! The examples run against a system, and print what they should.

use std::process::Stdio;

use tokio::process::Command;

use super::files::root;
use crate::harness::{System, run};

#[test]
fn examples_print_what_they_should() {
    run(async {
        let system = System::start().await;
        let url = format!("http://{}", system.client().address);
        let checked =
            Command::new(root().join("examples/check")).arg(url).stdin(Stdio::null()).output().await.unwrap();
        let (out, errors) =
            (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
        // Says what could not run on this machine.
        println!("{out}");
        assert!(checked.status.success(), "{out}\n{errors}");
        system.stop().await;
    });
}
