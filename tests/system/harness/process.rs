//! The system's real programs, to be started and killed.

use std::path::PathBuf;
use std::sync::Mutex;

use servers::process::{Child, Program};
use servers::programs;
use servers::stack::NatsUser;

use super::system::System;

/// Builds of different tests wait for each other.
static BUILDING: Mutex<()> = Mutex::new(());

/// The program `name` of `package`. `cargo test --workspace` builds it beside the tests; when it is missing, this does.
pub(crate) fn program(package: &str, name: &str) -> PathBuf {
    let folder = programs::folder().unwrap();
    let _building = BUILDING.lock().unwrap();
    programs::find(&folder, name).unwrap_or_else(|_| {
        programs::build(&[package]).unwrap();
        programs::find(&folder, name).unwrap()
    })
}

/// Starts a worker as a process of its own.
pub(crate) async fn worker_process(system: &System) -> Child {
    let worker = program("worker", "coupon-worker");
    let program = Program::new(worker, system.folder().join("coupon-worker.log")).clean_env();
    program.envs(system.variables(NatsUser::Worker)).folder(system.folder()).spawn().await.unwrap()
}
