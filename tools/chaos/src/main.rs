//! The `chaos` program: tries to break the system, and says whether it could.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use chaos::cluster::Binaries;
use chaos::history::Reader;
use chaos::report::Report;
use chaos::run::{self, Options, RoundResult};
use chaos::schedule::{FAULTS_MAX, Fault, Shape};
use chaos::{checker, drills};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The highest number of a round to begin with, and the most rounds: any such two still add up.
const ROUNDS_MAX: i64 = 1_000_000_000;

/// Crashes, pauses, cuts and floods a whole coupon system on this machine, and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "chaos", version = common::version::VERSION, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a recorded history again: a file, or a folder of them.
    Check {
        /// The file or folder.
        history: PathBuf,
    },
    /// Measures how long recovery takes, one fault at a time under a steady load.
    Drills {
        /// How often each is repeated.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        repeats: u32,
        /// The workers' lease time; their own default.
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(200..=60_000))]
        lease_ms: u64,
        /// Takes the API and the worker from this folder instead of building them.
        #[arg(long)]
        bin_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Shows the faults, what each does and what it threatens.
    #[arg(long)]
    list: bool,
    /// Rounds to run.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=ROUNDS_MAX))]
    rounds: u32,
    /// The round to begin with; repeats a part of a longer run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=ROUNDS_MAX))]
    first_round: u32,
    /// Where all chance comes from: the same seed has the same schedule.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Only these faults, by name.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Not these faults, by name.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Fault>,
    /// Faults of a round at most. With one at a time recovery times are measured undisturbed.
    #[arg(long, default_value_t = FAULTS_MAX, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    strikes_max: usize,
    /// How long faults strike in each round.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    length_ms: u64,
    /// Concurrent clients.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    clients: u32,
    /// The workers' lease time. Shorter than their default, so that more happens in a round.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    lease_ms: u64,
    /// A short run: 10 rounds of two seconds.
    #[arg(long, conflicts_with_all = ["rounds", "length_ms"])]
    quick: bool,
    /// Keeps every history, the logs and the report in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Gives each server a small file system in memory, so that disks can be full. Needs the right to mount.
    #[arg(long)]
    small_disks: bool,
    /// Takes the API and the worker from this folder instead of building them.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let passed = match &cli.command {
        Some(Command::Check { history }) => check(history),
        Some(Command::Drills { repeats, lease_ms, bin_dir }) => {
            drill(*repeats, *lease_ms, bin_dir.as_deref()).await
        }
        None if cli.run.list => {
            list();
            Ok(true)
        }
        None => run(&cli.run).await,
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    for fault in Fault::ALL {
        println!("{fault}\n    {}\n    threatens: {}", fault.does(), fault.threatens());
    }
    println!("\nDisks can only be full with --small-disks.");
}

fn check(path: &Path) -> anyhow::Result<bool> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        files = entries.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
    }
    let mut report = Report { command: format!("chaos check {}", path.display()), ..Report::default() };
    for file in files {
        let mut reader = Reader::open(&file).with_context(|| format!("opening {}", file.display()))?;
        while let Some(round) = reader.next_round()? {
            report.rounds += 1;
            report.seed = round.seed;
            report.add_violations(round.number, &[], checker::check(&round));
        }
        for number in reader.unfinished() {
            println!("{}: round {number} was never finished, and is not checked", file.display());
        }
    }
    // No violations would be true, and would say nothing.
    anyhow::ensure!(report.rounds > 0, "there is no finished round in {}", path.display());
    println!("{} rounds checked", report.rounds);
    report.print_violations();
    Ok(report.passed())
}

async fn drill(repeats: u32, lease_ms: u64, bin_dir: Option<&Path>) -> anyhow::Result<bool> {
    let temporary = temporary_folder()?;
    let binaries = binaries(bin_dir)?;
    let shape = Shape { apis: 2, workers: 3, partitions: 6, lease_ms };
    let options = drills::Options { repeats, shape, folder: temporary.path().to_owned() };
    let stop = common::shutdown::on_signal()?;
    let drilling = drills::run(&options, &binaries, |drill, number| {
        eprintln!("{number} of {repeats}: {}", drill.name());
    });
    let Some(figures) = stop.run_until_cancelled(drilling).await else {
        anyhow::bail!("stopped by a signal");
    };
    let figures = figures.inspect_err(|_| eprintln!("logs are in {}", temporary.keep().display()))?;
    let summary = drills::Summary::new(&figures, repeats);
    println!("{summary}");
    Ok(summary.passed())
}

/// A folder that is gone in the end. Postgres may have to run as another user than this program.
fn temporary_folder() -> std::io::Result<tempfile::TempDir> {
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().prefix("chaos-").permissions(readable).tempdir()
}

fn binaries(folder: Option<&Path>) -> anyhow::Result<Binaries> {
    match folder {
        Some(folder) => Binaries::in_folder(folder),
        None => {
            eprintln!("building the API and the worker");
            Binaries::build()
        }
    }
}

async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let faults = faults(args)?;
    let temporary = temporary_folder()?;
    let histories = args.keep.clone().unwrap_or_else(|| temporary.path().join("histories"));
    std::fs::create_dir_all(&histories)?;
    let binaries = binaries(args.bin_dir.as_deref())?;
    let options = options(args, faults, temporary.path(), histories);
    eprintln!("starting Postgres, NATS, {} APIs, {} workers", options.shape.apis, options.shape.workers);
    let stop = common::shutdown::on_signal()?;
    let running = run::run(&options, &binaries, |result, report| show(&options, result, report));
    let result = match stop.run_until_cancelled(running).await {
        Some(result) => result,
        None => anyhow::bail!("stopped by a signal"),
    };
    let passed = result.as_ref().is_ok_and(Report::passed);
    if let Some(keep) = &args.keep {
        copy_logs(&options.folder, keep)?;
    }
    if !passed {
        let kept = temporary.keep();
        eprintln!("histories are in {}, logs in {}", options.histories.display(), kept.display());
    }
    let report = result?;
    if let Some(keep) = &args.keep {
        std::fs::write(keep.join("report.json"), report.to_json()?)?;
    }
    println!("{report}");
    Ok(passed)
}

/// The faults that may strike. A run without any would find nothing, whatever is broken.
fn faults(args: &RunArgs) -> anyhow::Result<Vec<Fault>> {
    let can_strike = |fault: &Fault| args.small_disks || !fault.needs_small_disk();
    if let Some(fault) = args.faults.iter().find(|fault| !can_strike(fault)) {
        anyhow::bail!("{fault} needs --small-disks");
    }
    let named = if args.faults.is_empty() { Fault::ALL.as_slice() } else { &args.faults };
    let left = named.iter().copied().filter(|fault| can_strike(fault) && !args.without.contains(fault));
    let left: Vec<Fault> = left.collect();
    anyhow::ensure!(!left.is_empty(), "no fault is left to strike");
    Ok(left)
}

fn options(args: &RunArgs, faults: Vec<Fault>, folder: &Path, histories: PathBuf) -> Options {
    let (rounds, length_ms) = if args.quick { (10, 2_000) } else { (args.rounds, args.length_ms) };
    let mut command = format!(
        "cargo run --release -p chaos -- --rounds {rounds} --first-round {} --seed {} --length-ms {length_ms} \
         --lease-ms {} --clients {}",
        args.first_round, args.seed, args.lease_ms, args.clients
    );
    for (flag, faults) in [("--faults", &args.faults), ("--without", &args.without)] {
        if !faults.is_empty() {
            let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
            command = format!("{command} {flag} {}", names.join(","));
        }
    }
    if args.strikes_max != FAULTS_MAX {
        command = format!("{command} --strikes-max {}", args.strikes_max);
    }
    if args.small_disks {
        command.push_str(" --small-disks");
    }
    Options {
        first_round: args.first_round,
        rounds,
        seed: args.seed,
        faults,
        length_ms,
        strikes_max: args.strikes_max,
        clients: args.clients,
        shape: Shape { apis: 2, workers: 3, partitions: 4, lease_ms: args.lease_ms },
        small_disks: args.small_disks,
        folder: folder.to_owned(),
        histories,
        keep_all: args.keep.is_some(),
        command,
    }
}

/// One line a round, while the run goes on.
fn show(options: &Options, result: &RoundResult, report: &Report) {
    let faults: Vec<String> =
        result.strikes.iter().map(|strike| format!("{} ({})", strike.fault, strike.target)).collect();
    let last = options.first_round + options.rounds - 1;
    eprintln!(
        "round {:>4} of {last}: {:>5} claims, {:>4} won, {:>4.1} s, {}; {} claims and {} violations so far; {}",
        result.number,
        result.claims,
        result.won,
        result.took.as_secs_f64(),
        match result.violations {
            0 => "kept".to_owned(),
            count => format!("{count} VIOLATIONS"),
        },
        report.claims,
        report.violations_total,
        faults.join(", "),
    );
}

fn copy_logs(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if let (Some(name), Some("log")) =
            (path.file_name(), path.extension().and_then(|extension| extension.to_str()))
        {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<RunArgs, clap::Error> {
        Cli::try_parse_from(["chaos"].iter().chain(args)).map(|cli| cli.run)
    }

    #[test]
    fn a_run_that_would_do_nothing_is_refused() {
        for args in [
            &["--rounds", "0"],
            &["--strikes-max", "0"],
            &["--first-round", "4294967295"],
            &["--quick", "--rounds=3"],
            &["--quick", "--length-ms=900"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        let quick = parse(&["--quick", "--first-round", "1000000000"]).unwrap();
        assert_eq!(faults(&quick).unwrap().len(), Fault::ALL.len() - 2);

        for args in [
            &["--faults", "disk-full-nats"][..],
            &["--faults", "delays,disk-full-nats"],
            &["--faults", "delays,slices", "--without", "slices,delays"],
        ] {
            assert!(faults(&parse(args).unwrap()).is_err(), "{args:?}");
        }
        let small = parse(&["--faults", "disk-full-nats", "--small-disks"]).unwrap();
        assert_eq!(faults(&small).unwrap(), [Fault::DiskFullNats]);
    }

    #[test]
    fn a_check_of_nothing_does_not_pass() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path()).is_err());
        let file = folder.path().join("round-00001.jsonl");
        let begin = r#"{"line":"event","at_us":0,"event":"round_begin","round":1,"seed":42}"#;
        for text in [String::new(), begin[..20].to_owned(), format!("{begin}\n")] {
            std::fs::write(&file, &text).unwrap();
            let error = check(&file).unwrap_err();
            assert!(error.to_string().starts_with("there is no finished round"), "{text:?}: {error}");
        }
    }
}
