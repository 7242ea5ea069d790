//! The real `coupon-worker`, to be killed.

use std::path::PathBuf;
use std::sync::LazyLock;

use standalone::programs;
use standalone::servers::process::{Child, Program};
use standalone::stack::NatsUser;

use super::System;

/// `cargo test --workspace` builds it beside the tests. When it is missing, they build it.
static WORKER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = programs::folder().unwrap();
    programs::find(&folder, "coupon-worker").unwrap_or_else(|_| {
        programs::build(&["worker"]).unwrap();
        programs::find(&folder, "coupon-worker").unwrap()
    })
});

/// Starts a worker as a process of its own.
pub(crate) async fn worker_process(system: &System) -> Child {
    let program = Program::new(&*WORKER, system.folder().join("coupon-worker.log")).clean_env();
    program.envs(system.variables(NatsUser::Worker)).folder(system.folder()).spawn().await.unwrap()
}
