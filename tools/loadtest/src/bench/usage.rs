//! What processes use of the machine, as the kernel counts it. Nothing is known elsewhere than on Linux.

use std::collections::BTreeMap;
use std::fs;

/// The unit of `/proc`'s times: 1/100 s on all architectures in use, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds by role, such as `api` or `postgres`.
pub(super) type Seconds = BTreeMap<&'static str, f64>;

/// A process whose use is told, with or without its descendants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    pub(super) role: &'static str,
    pub(super) pid: u32,
    /// Postgres serves each connection with a process of its own.
    pub(super) tree: bool,
}

/// CPU seconds used so far, user and system; several processes of one role are added up.
pub(super) fn cpu_seconds(watched: &[Watched]) -> Seconds {
    let mut seconds = Seconds::new();
    for process in watched {
        let own = stat(process.pid).map_or(0.0, |stat| stat.seconds + stat.ended_children_seconds);
        let below = if process.tree { descendants(process.pid) } else { Vec::new() };
        let below = below.into_iter().filter_map(stat).map(|stat| stat.seconds).sum::<f64>();
        *seconds.entry(process.role).or_default() += own + below;
    }
    seconds
}

/// Memory in MiB by role: the peak of a single process; for a tree, the present share of all its processes with
/// shared pages divided among them. The largest process of a role counts.
pub(super) fn memory_mib(watched: &[Watched]) -> BTreeMap<&'static str, f64> {
    let mut memory = BTreeMap::<_, f64>::new();
    for process in watched {
        let kib = if process.tree {
            let all = descendants(process.pid).into_iter().chain([process.pid]);
            all.filter_map(|pid| kib_of(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum()
        } else {
            kib_of(&format!("/proc/{}/status", process.pid), "VmHWM:").unwrap_or_default()
        };
        let largest = memory.entry(process.role).or_default();
        *largest = largest.max(kib / 1024.0);
    }
    memory
}

/// CPU seconds that the whole machine was busy since it started, and those it could have been.
pub(super) fn machine_seconds() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks = text.lines().next()?.split_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal
    let ticks = ticks.take(8).map(str::parse).collect::<Result<Vec<f64>, _>>().ok()?;
    let total: f64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(((total - idle) / TICKS_PER_SECOND, total / TICKS_PER_SECOND))
}

struct Stat {
    parent: u32,
    seconds: f64,
    ended_children_seconds: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, so the fields are counted from its end.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect::<Vec<_>>();
    let seconds = |index: usize| Some(fields.get(index)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        seconds: seconds(11)? + seconds(12)?,
        ended_children_seconds: seconds(13)? + seconds(14)?,
    })
}

fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parents = pids.filter_map(|pid| Some((pid, stat(pid)?.parent))).collect::<Vec<_>>();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
    }
    found.remove(0);
    found
}

fn kib_of(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_whatever_the_name() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 500 250 100 50 20 0 5";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.parent, stat.seconds, stat.ended_children_seconds), (7, 7.5, 1.5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_cpu_and_memory() {
        let watched = [Watched { role: "test", pid: std::process::id(), tree: false }];
        assert!(memory_mib(&watched)["test"] > 1.0);
        assert!(cpu_seconds(&watched)["test"] >= 0.0);
        assert!(machine_seconds().is_some_and(|(busy, total)| busy > 0.0 && busy <= total));
    }
}
