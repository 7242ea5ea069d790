//! The programs under test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `coupon-api`.
    pub api: PathBuf,
    /// `coupon-worker`.
    pub worker: PathBuf,
}

impl Binaries {
    /// Builds both in the profile of this program, into the same folder, and finds them there: so that what is
    /// tested is always the source as it is.
    pub fn build() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let profile = own.parent().context("this program is in no folder")?;
        let target = profile.parent().context("this program is in no target folder")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        // Together with this program, so that all that they share is built once, and is there already.
        command.args(["build", "--quiet", "-p", "chaos", "-p", "api", "-p", "worker"]);
        command.env("CARGO_TARGET_DIR", target);
        if profile.ends_with("release") {
            command.arg("--release");
        }
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        command.arg("--manifest-path").arg(manifest);
        let status = command.status().context("running cargo")?;
        ensure!(status.success(), "building the API and the worker failed ({status})");
        Self::in_folder(profile)
    }

    /// Takes both from a folder.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        // The processes run in folders of their own.
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let find = |name: &str| {
            let path = folder.join(name);
            path.is_file().then_some(path).with_context(|| format!("no {name} in {}", folder.display()))
        };
        Ok(Self { api: find("coupon-api")?, worker: find("coupon-worker")? })
    }
}
