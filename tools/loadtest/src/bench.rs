//! The comparison: all systems, one after the other on the same servers, again and again.

mod machine;
mod page;
mod results;
mod system;
mod tables;
mod usage;
mod workload;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use common::escape::escaped;
use serde_json::json;
use servers::Postgres;
use servers::{programs, stack};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::report::{ms, rate};

use machine::Machine;
use results::{Measurement, Results, Used};
use system::{Ground, Running, System};
use usage::Watched;
use workload::Workload;

/// What to compare, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of the workloads, or what some names begin with; empty for all.
    pub workloads: Vec<String>,
    /// Names of the systems; empty for all.
    pub systems: Vec<String>,
    /// Environment variables of this system's APIs and workers, which inherit none.
    pub settings: Vec<(String, String)>,
    /// How often everything is measured.
    pub repeats: u32,
    /// Length of one measurement.
    pub seconds: f64,
    /// Builds the API and the worker first.
    pub build: bool,
    /// The folder for `benchmark.md` and its plots, if they are written at all.
    pub docs: Option<PathBuf>,
    /// Where everything measured is written, if at all.
    pub json: Option<PathBuf>,
}

/// The folder of the sources.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_owned()
}

/// Measures everything and returns the tables; false when some run broke a promise.
///
/// # Errors
/// When a system cannot be built or started, or does not answer.
pub fn bench(options: &Options) -> anyhow::Result<(String, bool)> {
    let workloads = chosen(Workload::all(), &options.workloads, |workload| workload.name)?;
    let systems = chosen(System::ALL.to_vec(), &options.systems, |system| system.name())?;
    let any = workloads.iter().any(|workload| systems.iter().any(|system| workload.suits(*system)));
    ensure!(any, "none of these systems is measured with any of these workloads");
    // Before hours of measuring, rather than after.
    let creating =
        |file: &PathBuf| File::create(file).with_context(|| format!("creating {}", file.display()));
    let json = options.json.as_ref().map(creating).transpose()?;
    let binaries = binaries(options.build)?;
    // The generator has threads of its own: the runtime only starts and stops processes.
    let runtime = Runtime::new()?;
    let folder = temporary_folder()?;
    let postgres = runtime.block_on(Postgres::start(stack::postgres_options(&folder)))?;
    let machine = runtime.block_on(Machine::look(&postgres.url("postgres"), &workspace()))?;
    let settings = options.settings.clone();
    let ground = Ground { postgres, binaries, folder, settings, batch: machine.batch };

    let mut results = Results::default();
    let outcome = measure(&runtime, &ground, &workloads, &systems, options, &mut results);
    // Also when something failed: what was measured until then.
    let all = json!({"machine": machine, "seconds": options.seconds, "measurements": results});
    let written =
        json.map_or(Ok(()), |mut json| json.write_all(serde_json::to_string_pretty(&all)?.as_bytes()));
    let Ground { postgres, folder, .. } = ground;
    runtime.block_on(postgres.stop())?;
    // It holds the lock of its folder.
    drop(postgres);
    // Kept when something failed, for the logs.
    outcome.with_context(|| format!("logs are in {}", folder.display()))?;
    runtime.block_on(Postgres::remove(&stack::postgres_options(&folder).data_dir))?;
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;

    let tables = tables::tables(&results, &workloads, &systems);
    if let Some(docs) = &options.docs {
        let mut how = format!(
            "median of {} runs of {} seconds, each from an empty database, interleaved with those of the other systems",
            options.repeats, options.seconds
        );
        for (name, value) in &options.settings {
            how.push_str(&format!("; this system has `{name}={value}`"));
        }
        page::write(docs, &machine.rows(&how), &results, &tables, &workloads, &systems)?;
    }
    written.context("writing the JSON file")?;
    let sound = results.0.iter().all(|measurement| measurement.broken.is_empty());
    Ok((tables, sound))
}

fn measure(
    runtime: &Runtime,
    ground: &Ground,
    workloads: &[Workload],
    systems: &[System],
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut run = 0;
    for repeat in 1..=options.repeats {
        for (workload, system) in schedule(workloads, systems, repeat) {
            run += 1;
            let measurement = one(runtime, ground, workload, system, (run, repeat), options.seconds)
                .with_context(|| format!("{} on {}", workload.name, system.name()))?;
            eprintln!("  {}", escaped(&line(&measurement, options.repeats)));
            results.0.push(measurement);
        }
    }
    Ok(())
}

/// The runs of one repetition. All systems have their turn with one workload, and then with the next. But this system's
/// rates with several and with many coupons are compared to that with a hot one: these three runs follow each other,
/// and their workloads, too.
fn schedule<'a>(workloads: &'a [Workload], systems: &[System], repeat: u32) -> Vec<(&'a Workload, System)> {
    // There and back, so that none always has the machine in the state that the same other one has left.
    let (before, after) = match repeat.is_multiple_of(2) {
        true => (workload::MANY, workload::SEVERAL),
        false => (workload::SEVERAL, workload::MANY),
    };
    let mut rows: Vec<_> = workloads.iter().collect();
    surround(&mut rows, workload::HOT, [before, after], |workload| Some(workload.name));
    let mut runs = Vec::new();
    for (row, workload) in rows.into_iter().enumerate() {
        let suits = |system: &System| systems.contains(system) && workload.suits(*system);
        let mut order: Vec<_> = System::BY_COMPARISON.into_iter().filter(suits).collect();
        if (repeat as usize + row).is_multiple_of(2) {
            order.reverse();
        }
        runs.extend(order.into_iter().map(|system| (workload, system)));
    }
    surround(&mut runs, workload::HOT, [before, after], |(workload, system)| {
        (*system == System::QUEUE).then_some(workload.name)
    });
    runs
}

/// Moves the items with the names `before` and `after` next to the one with the name `middle`.
fn surround<T>(
    items: &mut Vec<T>,
    middle: &str,
    [before, after]: [&str; 2],
    name: impl Fn(&T) -> Option<&'static str>,
) {
    let place = |items: &[T], wanted| items.iter().position(|item| name(item) == Some(wanted));
    for (neighbour, distance) in [(before, 0), (after, 1)] {
        let (Some(from), Some(to)) = (place(items, neighbour), place(items, middle)) else { continue };
        let moved = items.remove(from);
        // What was removed before it has moved it forward.
        items.insert(to - usize::from(from < to) + distance, moved);
    }
}

fn one(
    runtime: &Runtime,
    ground: &Ground,
    workload: &Workload,
    system: System,
    (run, repeat): (u32, u32),
    seconds: f64,
) -> anyhow::Result<Measurement> {
    let mut running = runtime.block_on(ground.start(system, run))?;
    let generator = Watched { role: "generator", pid: std::process::id(), tree: false };
    running.watched.push(generator);
    let sale = workload.sale(running.targets.clone(), system, seconds).prepare()?;

    let before = Meter::read(&running);
    let driven = sale.drive(|_| ())?;
    let after = Meter::read(&running);
    let mut memory_mib = usage::memory_mib(&running.watched);
    // It has a peak of all runs, and holds what every user was told.
    memory_mib.remove("generator");

    let report = driven.check()?;
    runtime.block_on(ground.stop(running))?;
    let used = Used { memory_mib, ..after.since(&before) };
    Ok(Measurement::new(workload.name, system.name(), repeat, report, used))
}

/// What was used of the machine up to a moment.
struct Meter {
    cpu: usage::Seconds,
    machine: Option<(f64, f64)>,
}

impl Meter {
    fn read(running: &Running) -> Self {
        Self { cpu: usage::cpu_seconds(&running.watched), machine: usage::machine_seconds() }
    }

    fn since(&self, before: &Self) -> Used {
        let cpu =
            self.cpu.iter().map(|(role, seconds)| (*role, seconds - before.cpu.get(role).unwrap_or(&0.0)));
        let cpu: usage::Seconds = cpu.collect();
        let ours: f64 = cpu.values().sum();
        let foreign_cpu = match (self.machine, before.machine) {
            (Some(after), Some(before)) if after.1 > before.1 => {
                // The kernel's own work for the disk and the network is counted as foreign, too, and what the
                // host of a virtual machine took away.
                ((after.0 - before.0 - ours) / (after.1 - before.1)).max(0.0)
            }
            _ => 0.0,
        };
        Used { cpu, memory_mib: std::collections::BTreeMap::default(), foreign_cpu }
    }
}

fn line(measurement: &Measurement, repeats: u32) -> String {
    let Measurement {
        repeat, workload, system, rate: per_second, p50_ms, p99_ms, missed, foreign_cpu, ..
    } = measurement;
    let mut line = format!(
        "{repeat}/{repeats}  {workload:<14}{system:<12}{:>9}/s  p50 {:>6}  p99 {:>6} ms  others' CPU {:>2.0}%",
        rate(*per_second),
        ms(*p50_ms),
        ms(*p99_ms),
        foreign_cpu * 100.0,
    );
    if *missed > 0 {
        line.push_str(&format!("  missed {missed}"));
    }
    if !measurement.broken.is_empty() {
        line.push_str(&format!("  BROKEN: {}", measurement.broken.join("; ")));
    }
    line
}

/// Those of `all` that one of `wanted` is the name of, or the first words of; all of them if nothing is wanted.
fn chosen<T>(
    mut all: Vec<T>,
    wanted: &[String],
    name: impl Fn(&T) -> &'static str,
) -> anyhow::Result<Vec<T>> {
    let names = all.iter().map(&name).collect::<Vec<_>>();
    let matches = |name: &str, wish: &String| {
        let begins = name.strip_prefix(wish.as_str()).is_some_and(|rest| rest.starts_with('-'));
        name == wish || begins && !names.contains(&wish.as_str())
    };
    for wish in wanted {
        let known = names.iter().any(|name| matches(name, wish));
        ensure!(known, "there is no {wish:?}, only {}", names.join(", "));
    }
    all.retain(|item| wanted.is_empty() || wanted.iter().any(|wish| matches(name(item), wish)));
    Ok(all)
}

/// The folder with this program, the API and the worker, which are built first if `build` says so.
fn binaries(build: bool) -> anyhow::Result<PathBuf> {
    if cfg!(debug_assertions) {
        eprintln!("  this is a debug build: its figures say nothing about the system (use --release)");
    }
    if build {
        programs::build(&["api", "worker"])?;
    }
    let folder = programs::folder()?;
    for name in ["coupon-api", "coupon-worker"] {
        programs::find(&folder, name)?;
    }
    Ok(folder)
}

/// A new folder for the servers' data, on the same disk as the build: other places may be kept in memory.
fn temporary_folder() -> anyhow::Result<PathBuf> {
    let programs = programs::folder()?;
    let target = programs.parent().context("where is the target folder?")?;
    let folder = target.join(format!("bench-{}", Uuid::new_v4().simple()));
    fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_is_compared_is_measured_side_by_side() {
        let workloads = Workload::all();
        for repeat in 1..=5 {
            let runs = schedule(&workloads, &System::ALL, repeat);
            let runs: Vec<_> = runs.iter().map(|(workload, system)| (workload.name, system.name())).collect();
            let hot = runs.iter().position(|run| *run == ("hot-256", "queue")).unwrap();
            let mut neighbours = [runs[hot - 1], runs[hot + 1]];
            assert_eq!(neighbours[0].0, if repeat % 2 == 0 { "coupons-10000" } else { "coupons-64" });
            neighbours.sort_unstable();
            assert_eq!(neighbours, [("coupons-10000", "queue"), ("coupons-64", "queue")]);
            // And the other systems' runs are not far.
            for name in ["coupons-64", "coupons-10000"] {
                let place = |system| runs.iter().position(|run| *run == (name, system)).unwrap();
                assert!(place("queue").abs_diff(place("row-lock")) <= 2 * System::ALL.len());
            }

            let each_once: HashSet<_> = runs.iter().collect();
            let all = workloads.iter().map(|w| System::ALL.iter().filter(|system| w.suits(**system)).count());
            assert_eq!((runs.len(), each_once.len()), (all.clone().sum(), all.sum()));
        }
        // Nothing is moved to where nothing is.
        let alone = chosen(Workload::all(), &["coupons-64".to_owned()], |workload| workload.name).unwrap();
        assert_eq!(schedule(&alone, &System::ALL, 1).len(), System::ALL.len());
    }

    #[test]
    fn items_are_chosen_by_name_or_by_how_names_begin() {
        let chosen = |wanted: &[&str]| {
            let wanted = wanted.iter().map(|&wish| wish.to_owned()).collect::<Vec<_>>();
            let all = chosen(Workload::all(), &wanted, |workload| workload.name);
            all.map(|all| all.iter().map(|workload| workload.name).collect::<Vec<_>>())
        };
        assert_eq!(
            chosen(&["hot", "repeated"]).unwrap(),
            ["hot-1", "hot-64", "hot-256", "hot-1024", "repeated"]
        );
        assert_eq!(chosen(&["hot-1"]).unwrap(), ["hot-1"]);
        assert_eq!(chosen(&[]).unwrap().len(), Workload::all().len());
        assert!(chosen(&["x"]).is_err() && chosen(&["ho"]).is_err());
        let systems = super::chosen(System::ALL.to_vec(), &["queue".to_owned()], |system| system.name());
        assert_eq!(systems.unwrap(), [System::QUEUE]);
    }
}
