//! The workspace's other programs, for those that start them as processes of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Where cargo puts the programs of the build that this one belongs to: beside it, and above a test.
///
/// # Errors
/// When the system does not say where this program is.
pub fn folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let folder = own.parent().context("this program is in no folder")?;
    let above = folder.ends_with("deps").then(|| folder.parent()).flatten();
    Ok(above.unwrap_or(folder).to_owned())
}

/// Builds the programs of `packages` in the profile of this program, into the same [`folder()`]: so that what
/// is started is always the source as it is.
///
/// # Errors
/// When cargo cannot be run, or the build fails.
pub fn build(packages: &[&str]) -> anyhow::Result<()> {
    let folder = folder()?;
    let target = folder.parent().context("this program is in no target folder")?;
    let profile = profile(&folder).context("this program is in no profile's folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--profile", profile]);
    command.args(packages.iter().flat_map(|package| ["-p", package]));
    command.arg("--target-dir").arg(target);
    command.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"));
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "building {} failed ({status})", packages.join(", "));
    Ok(())
}

/// The profile whose programs cargo puts into `folder`: of the same name, but for one.
fn profile(folder: &Path) -> Option<&str> {
    match folder.file_name()?.to_str()? {
        "debug" => Some("dev"),
        name => Some(name),
    }
}

/// The program `name` in `folder`.
///
/// # Errors
/// When it is not there.
pub fn find(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    ensure!(path.is_file(), "no {name} in {}", folder.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_finds_the_folder_of_its_programs() {
        let folder = folder().unwrap();
        assert!(std::env::current_exe().unwrap().starts_with(folder.join("deps")), "{}", folder.display());
    }

    #[test]
    fn a_folder_tells_the_profile() {
        assert_eq!(profile(Path::new("/target/debug")), Some("dev"));
        assert_eq!(profile(Path::new("/target/release")), Some("release"));
        assert_eq!(profile(Path::new("/target/ci")), Some("ci"));
        assert_eq!(profile(Path::new("/")), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(folder.path(), "coupon-api").unwrap_err().to_string();
        assert!(error.starts_with("no coupon-api in "), "{error}");
    }
}
