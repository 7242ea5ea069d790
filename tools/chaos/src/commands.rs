//! The subcommands. Each returns whether it passed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use common::escape::escaped;
use tempfile::TempDir;

use crate::args::{CLAIM_TIMEOUT_MS, DrillArgs, RunArgs, SkewArgs};
use crate::checker;
use crate::cluster::{Binaries, Versions};
use crate::drills::{self, Summary};
use crate::history::Reader;
use crate::report::Report;
use crate::run::{self, Options};
use crate::schedule::{Fault, Shape};

/// Lists the faults.
pub fn list() -> bool {
    for fault in Fault::ALL {
        let description = fault.description();
        println!("{fault}\n    {}\n    threatens: {}", description.does, description.threatens);
    }
    println!("\nDisks can only be full with --small-disks.");
    true
}

/// Checks the history in a file, or all in a folder.
///
/// # Errors
/// When one cannot be read, or there is no finished round.
pub fn check(path: &Path) -> anyhow::Result<bool> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = files_in(path, "jsonl")?;
    }
    let mut report = Report::default();
    for file in files {
        let mut reader = Reader::open(&file).with_context(|| format!("opening {}", file.display()))?;
        while let Some(round) = reader.next_round()? {
            report.rounds += 1;
            report.add_violations(round.number, &[], checker::check(&round));
        }
        for number in reader.unfinished() {
            println!("{}: round {number} was never finished, and is not checked", file.display());
        }
    }
    // "No violations" would be true, and would mean nothing.
    ensure!(report.rounds > 0, "there is no finished round in {}", path.display());
    println!("{} rounds checked\n\n{}", report.rounds, escaped(&report.violations_text()));
    Ok(report.passed())
}

/// Runs the drills.
///
/// # Errors
/// When the system cannot be started, or a drill does not end.
pub async fn drills(args: &DrillArgs) -> anyhow::Result<bool> {
    let temporary = temporary_folder()?;
    let versions = Binaries::find(args.bin_dir.as_deref())?.into();
    let claim_timeouts_ms = [CLAIM_TIMEOUT_MS; 2];
    // Workers purge as often as by default: what is measured is what operators get.
    let shape = Shape {
        apis: 2,
        workers: 3,
        partitions: 6,
        lease_ms: args.lease_ms,
        claim_timeouts_ms,
        purge_interval_ms: 1_000,
    };
    let drilling = drills::run(args.repeats, shape, temporary.path(), &versions);
    let metrics = until_signal(drilling).await?;
    let metrics = metrics.inspect_err(|_| eprintln!("logs are in {}", temporary.keep().display()))?;
    let summary = Summary::new(&metrics, args.repeats);
    println!("{}", escaped(&summary.to_string()));
    Ok(summary.passed())
}

/// Runs rounds with faults.
///
/// # Errors
/// When the system cannot be started, or what tests it fails.
pub async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let temporary = temporary_folder()?;
    let options = args.options(temporary.path())?;
    let versions = Binaries::find(args.bin_dir.as_deref())?.into();
    run_rounds(temporary, &options, &versions, args.keep.as_deref()).await
}

/// Runs rounds with processes of two versions.
///
/// # Errors
/// When the system cannot be started, or what tests it fails.
pub async fn skew(args: &SkewArgs) -> anyhow::Result<bool> {
    let temporary = temporary_folder()?;
    let options = args.options(temporary.path());
    let old = Some(Binaries::find(Some(&args.old_bin_dir))?);
    let versions = Versions { new: Binaries::find(args.bin_dir.as_deref())?, old };
    run_rounds(temporary, &options, &versions, args.keep.as_deref()).await
}

async fn run_rounds(
    temporary: TempDir,
    options: &Options,
    versions: &Versions,
    keep: Option<&Path>,
) -> anyhow::Result<bool> {
    fs::create_dir_all(&options.histories)?;
    eprintln!("starting Postgres, NATS, {} APIs, {} workers", options.shape.apis, options.shape.workers);
    let result = until_signal(run::run(options, versions)).await?;
    let passed = result.as_ref().is_ok_and(Report::passed);
    if let Some(keep) = keep {
        for log in files_in(&options.folder, "log")? {
            fs::copy(&log, keep.join(log.file_name().unwrap_or_default()))?;
        }
    }
    if !passed {
        let kept = temporary.keep();
        eprintln!("histories are in {}, logs in {}", options.histories.display(), kept.display());
    }
    let report = result?;
    if let Some(keep) = keep {
        fs::write(keep.join("report.json"), serde_json::to_string_pretty(&report)?)?;
    }
    println!("{}", escaped(&report.to_string()));
    Ok(passed)
}

/// Drops the work, and with it every process that it started, when a signal tells this program to stop.
async fn until_signal<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    match common::shutdown::on_signal()?.run_until_cancelled(work).await {
        Some(result) => Ok(result),
        None => bail!("stopped by a signal"),
    }
}

/// A folder that is removed in the end. Postgres may have to run as another user than this program.
fn temporary_folder() -> std::io::Result<TempDir> {
    let readable = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("chaos-").permissions(readable).tempdir()
}

/// The files with this extension in a folder, by name.
fn files_in(folder: &Path, extension: &str) -> std::io::Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_of_nothing_does_not_pass() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path()).is_err());
        let file = folder.path().join("round-00001.jsonl");
        let begin = r#"{"line":"event","at_us":0,"event":"round_begin","round":1,"seed":42}"#;
        for text in [String::new(), begin[..20].to_owned(), format!("{begin}\n")] {
            fs::write(&file, &text).unwrap();
            let error = check(&file).unwrap_err();
            assert!(error.to_string().starts_with("there is no finished round"), "{text:?}: {error}");
        }
    }
}
