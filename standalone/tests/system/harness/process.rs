//! The real `coupon-worker`, to be killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use standalone::servers::process::{Child, Program};
use standalone::stack::NatsUser;

use super::System;

/// `cargo test --workspace` builds it beside the tests. When it is missing, they build it.
static WORKER: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().unwrap();
    // <target folder>/<profile's folder>/deps/<test>
    let folder = test.parent().and_then(Path::parent).unwrap();
    let worker = folder.join("coupon-worker");
    if !worker.is_file() {
        build(folder);
    }
    assert!(worker.is_file(), "{} is missing: build the workspace first", worker.display());
    worker
});

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "-p", "worker", "--bin", "coupon-worker", "--profile", profile, "--target-dir"])
        .arg(folder.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success(), "coupon-worker cannot be built");
}

/// Starts a worker as a process of its own.
pub(crate) async fn worker_process(system: &System) -> Child {
    let program = Program::new(&*WORKER, system.folder().join("coupon-worker.log")).clean_env();
    program.envs(system.variables(NatsUser::Worker)).folder(system.folder()).spawn().await.unwrap()
}
