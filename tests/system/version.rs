//! What `--version` says, with and without git.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::program;

const PROGRAMS: [(&str, &str); 5] = [
    ("api", "coupon-api"),
    ("worker", "coupon-worker"),
    ("standalone", "standalone"),
    ("loadtest", "loadtest"),
    ("chaos", "chaos"),
];

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn every_program_names_its_version_and_commit() {
    for (package, name) in PROGRAMS {
        let said = output(Command::new(program(package, name)).arg("--version"));
        let start = format!("{name} {} (", env!("CARGO_PKG_VERSION"));
        let commit = said.strip_prefix(&start).and_then(|rest| rest.strip_suffix(")\n"));
        let is_hash = |commit: &str| commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit());
        assert!(commit.is_some_and(|commit| commit == "unknown" || is_hash(commit)), "{said}");
    }
}

#[test]
fn the_commit_is_gits_or_the_builds_or_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("build-script");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    output(Command::new(rustc).args(["--edition", "2024", "-o"]).arg(&script).arg(source));
    // The root of the repository, with the package in it.
    let (root, package) = (folder.path().join("root"), folder.path().join("root/common"));
    fs::create_dir_all(&package).unwrap();
    let commit = |variable: &str| {
        let said = output(Command::new(&script).current_dir(&package).env("GIT_COMMIT", variable));
        said.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=COMMIT=")).unwrap().to_owned()
    };
    assert_eq!(commit(""), "unknown");
    assert_eq!(commit("abc1234"), "abc1234");

    let git = |arguments: &[&str]| {
        let names = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        output(Command::new("git").current_dir(&root).args(names).args(arguments))
    };
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("git is not installed: only builds without it were tested");
        return;
    }
    git(&["init", "--quiet"]);
    assert_eq!(commit("abc1234"), "abc1234", "a repository without a commit");
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    assert_eq!(commit("abc1234"), git(&["rev-parse", "--short", "HEAD"]).trim());
    let said = output(Command::new(&script).current_dir(&package));
    let watched = said.lines().filter(|line| line.starts_with("cargo:rerun-if-changed=../.git/"));
    assert_eq!(watched.count(), 2, "{said}");
    // A repository around an unpacked archive says nothing about it.
    fs::rename(root.join(".git"), folder.path().join(".git")).unwrap();
    assert_eq!(commit(""), "unknown");
}
