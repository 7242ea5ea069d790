//! Finds the commit that is being built, for `--version`: asks git; without a `.git` folder takes the variable
//! `GIT_COMMIT`; else it is `unknown`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GIT_COMMIT");
    let root = Path::new("..");
    // Without this look, git would answer for a repository around an unpacked archive.
    let from_git = if root.join(".git").exists() { commit(root) } else { None };
    let from_variable = || std::env::var("GIT_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = from_git.or_else(from_variable).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=COMMIT={commit}");
}

/// The checked-out commit. Has cargo ask again when it changes.
fn commit(root: &Path) -> Option<String> {
    // Git writes to the log of HEAD with every commit and every check-out, wherever it keeps its branches.
    for file in ["HEAD", "logs/HEAD"] {
        let path = root.join(git(root, &["rev-parse", "--git-path", file])?);
        // Cargo would take a missing file for a changed one, every time.
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(root, &["rev-parse", "--short", "HEAD"])
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    Some(answer.trim().to_owned()).filter(|answer| output.status.success() && !answer.is_empty())
}
